/*
 * An engine for crash tests: stores and loads blocks whose every byte follows from their number.
 *
 * usage: store SOCKET MODEL
 *
 * Plays a whole engine in one process, a scheduler's session and the session of its only worker. Reads one command a
 * line and answers each with one line:
 *
 *   store FIRST COUNT   stored N present N dropped N     blocks FIRST to FIRST+COUNT-1
 *   load FIRST COUNT    hit N wrong N lost N             the same as one prefix; bytes that differ are said on stderr
 *   follow TRACE SPAN   following N below N              from here on this is the request, in hexadecimal; zeroes: nobody's
 *   over PARENT         told N                           the request is over
 *   counters            the daemon's counters, as JSON
 *   (end of input)      closes and exits 0
 *
 * When the daemon is gone it answers "gone" and exits 0. Anything else that goes wrong exits 1.
 */

#include <kvtier.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    BLOCK_BYTES = 16384, /* of the worker's part of a block */
    TOKENS_PER_BLOCK = 16,
    COUNT_MAX = 256
};

#define WATCHDOG_US (60u * 1000 * 1000)

static kvt_session *scheduler, *worker;
static uint64_t last_tag;
/* The request behind what is stored and loaded, and whether the daemon wants to know. */
static struct kvt_traced_request request;
static int is_followed;

static void gone(void)
{
    printf("gone\n");
    exit(0);
}

static void check(kvt_status status, const char *what)
{
    if (status == KVT_OK)
        return;
    if (status == KVT_SESSION_LOST)
        gone();
    fprintf(stderr, "%s: %s\n", what, kvt_status_name(status));
    exit(1);
}

static kvt_session *open_session(const char *socket_path, const char *model, uint32_t role)
{
    const struct kvt_field field = {"model.id", (const uint8_t *)model, strlen(model)};
    struct kvt_group_spec group = {
        .kind = KVT_ATTENTION_FULL,
        .tokens_per_block = TOKENS_PER_BLOCK,
        .rank_bytes = role == KVT_ROLE_WORKER ? BLOCK_BYTES : 0,
    };
    struct kvt_session_options options;
    kvt_session *session = NULL;
    char text[512];

    memset(&options, 0, sizeof options);
    options.struct_bytes = sizeof options;
    options.socket_path = socket_path;
    options.engine_name = "store 1";
    options.role = role;
    options.rank_count = 1;
    memset(options.engine_group, 7, 16);
    options.fields = &field;
    options.field_count = 1;
    options.groups = &group;
    options.group_count = 1;
    kvt_status status = kvt_session_open(&options, &session, text, sizeof text);
    if (status != KVT_OK) {
        fprintf(stderr, "open: %s: %s\n", kvt_status_name(status), text);
        gone();
    }
    return session;
}

static void wait_ready(kvt_session *session)
{
    struct kvt_session_info info;

    do {
        memset(&info, 0, sizeof info);
        info.struct_bytes = sizeof info;
        check(kvt_session_info_get(session, &info), "info");
        if (info.state == KVT_SESSION_READY)
            return;
        if (info.state == KVT_SESSION_LOST_STATE)
            gone();
        check(kvt_session_wait(session, WATCHDOG_US), "wait until ready");
    } while (1);
}

/* The answer to the one operation that is under way; what is only on its way is waited for. */
static struct kvt_completion answer(kvt_session *session, uint64_t tag, uint32_t op)
{
    struct kvt_completion completion;
    size_t count = 0;

    memset(&completion, 0, sizeof completion);
    while (count == 0 || completion.op != op) {
        check(kvt_session_wait(session, WATCHDOG_US), "wait for an answer");
        check(kvt_session_poll(session, &completion, &count), "poll");
    }
    if (completion.tag != tag) {
        fprintf(stderr, "want the answer to %llu, got %llu\n", (unsigned long long)tag,
                (unsigned long long)completion.tag);
        exit(1);
    }
    return completion;
}

static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static void hash_of(uint64_t number, unsigned char hash[32])
{
    for (uint64_t i = 0; i < 4; i++) {
        uint64_t word = mix(number * 4 + i);
        memcpy(hash + i * 8, &word, 8);
    }
}

static uint64_t *slot_words(kvt_slot slot)
{
    void *address = NULL;
    uint64_t bytes = 0;

    check(kvt_slot_address(worker, slot, 0, &address, &bytes), "slot address");
    if (bytes != BLOCK_BYTES) {
        fprintf(stderr, "want %d bytes of a slot, got %llu\n", BLOCK_BYTES, (unsigned long long)bytes);
        exit(1);
    }
    return address;
}

static struct kvt_group_keys keys_of(uint64_t first, size_t count, unsigned char *hashes)
{
    struct kvt_group_keys keys = {.group = 0, .hashes = hashes, .hash_count = count};

    for (size_t i = 0; i < count; i++)
        hash_of(first + i, hashes + i * 32);
    return keys;
}

static uint64_t unix_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int read_hex(const char *text, unsigned char *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        unsigned value;
        if (sscanf(text + 2 * i, "%2x", &value) != 1)
            return 0;
        bytes[i] = (unsigned char)value;
    }
    return 1;
}

static void follow(const char *trace, const char *span)
{
    static const unsigned char nobody[16];
    struct kvt_traces traces = {.struct_bytes = sizeof traces};

    memset(&request, 0, sizeof request);
    request.struct_bytes = sizeof request;
    request.name = "request-1";
    request.start_unix_ns = unix_ns();
    if (!read_hex(trace, request.trace_id, 16) || !read_hex(span, request.span_id, 8)) {
        fprintf(stderr, "no ids: %s %s\n", trace, span);
        exit(1);
    }
    check(kvt_traces_get(scheduler, &traces), "traces");
    is_followed = traces.recording != 0 && memcmp(request.trace_id, nobody, 16) != 0;
    printf("following %u below %llu\n", traces.recording, (unsigned long long)traces.sample_below);
}

/* Says whose the next message is. */
static void tell_whose(uint64_t tag, size_t keys)
{
    struct kvt_trace_context context = {.key_count = (uint32_t)keys};

    if (!is_followed)
        return;
    memcpy(context.trace_id, request.trace_id, 16);
    memcpy(context.span_id, request.span_id, 8);
    check(kvt_trace_next(scheduler, tag, &context, 1), "trace next");
}

static void over(const char *parent)
{
    if (!read_hex(parent, request.parent_span_id, 8)) {
        fprintf(stderr, "no id: %s\n", parent);
        exit(1);
    }
    request.end_unix_ns = unix_ns();
    if (is_followed)
        check(kvt_trace_request(scheduler, &request), "trace request");
    printf("told %d\n", is_followed);
    is_followed = 0;
}

static void store(uint64_t first, size_t count)
{
    unsigned char hashes[COUNT_MAX * 32];
    struct kvt_group_keys keys = keys_of(first, count, hashes);
    kvt_slot slots[COUNT_MAX];
    size_t granted = 0, present = 0, dropped = 0;
    uint64_t tag = ++last_tag;

    tell_whose(tag, count);
    check(kvt_blocks_reserve(scheduler, tag, &keys, 1), "reserve");
    struct kvt_completion completion = answer(scheduler, tag, KVT_OP_RESERVE);
    for (size_t i = 0; i < count; i++) {
        kvt_slot slot = completion.slots[i];
        if (slot.page == KVT_SLOT_NONE) {
            *(slot.generation == KVT_GRANT_ALREADY_PRESENT ? &present : &dropped) += 1;
            continue;
        }
        uint64_t *words = slot_words(slot);
        for (uint64_t at = 0; at < BLOCK_BYTES / 8; at++)
            words[at] = mix((first + i) << 16 | at);
        slots[granted++] = slot;
    }
    if (granted > 0) {
        tag = ++last_tag;
        check(kvt_blocks_seal(worker, tag, slots, granted), "seal");
        completion = answer(worker, tag, KVT_OP_SEAL);
        granted = completion.value2;
    }
    printf("stored %zu present %zu dropped %zu\n", granted, present, dropped);
}

static size_t count_wrong(uint64_t number, const uint64_t *words)
{
    for (uint64_t at = 0; at < BLOCK_BYTES / 8; at++) {
        if (words[at] != mix(number << 16 | at)) {
            fprintf(stderr, "block %llu differs at byte %llu: %016llx\n", (unsigned long long)number,
                    (unsigned long long)at * 8, (unsigned long long)words[at]);
            return 1;
        }
    }
    return 0;
}

static void load(uint64_t first, size_t count)
{
    unsigned char hashes[COUNT_MAX * 32];
    struct kvt_group_keys keys = keys_of(first, count, hashes);
    size_t wrong = 0, lost = 0, hit;
    uint64_t tag = ++last_tag;

    tell_whose(tag, 0);
    request.prompt_tokens = count * TOKENS_PER_BLOCK;
    check(kvt_lookup_submit(scheduler, tag, &keys, 1, UINT64_MAX), "look up");
    struct kvt_completion completion = answer(scheduler, tag, KVT_OP_LOOKUP);
    hit = (size_t)(completion.value / TOKENS_PER_BLOCK);
    request.hit_tokens = completion.value;
    if (hit > 0) {
        struct kvt_span span = {.group = 0, .first = 0, .count = (uint32_t)hit};
        uint64_t lease = ++last_tag;
        check(kvt_load_commit(scheduler, tag, lease, &span, 1), "commit");
        completion = answer(scheduler, lease, KVT_OP_LOAD);
        for (size_t i = 0; i < hit; i++) {
            if (completion.slots[i].page == KVT_SLOT_NONE)
                lost++;
            else
                wrong += count_wrong(first + i, slot_words(completion.slots[i]));
        }
        check(kvt_lease_release(scheduler, lease), "release");
        request.loaded_tokens = completion.value == 0 ? hit * TOKENS_PER_BLOCK : 0;
    }
    printf("hit %zu wrong %zu lost %zu\n", hit, wrong, lost);
}

static void counters(void)
{
    uint64_t tag = ++last_tag;

    check(kvt_counters_request(scheduler, tag), "counters");
    struct kvt_completion completion = answer(scheduler, tag, KVT_OP_COUNTERS);
    printf("%.*s\n", (int)completion.byte_count, (const char *)completion.bytes);
}

int main(int argc, char **argv)
{
    unsigned long long first;
    size_t count;
    char line[256], trace[33], span[17];

    if (argc != 3) {
        fprintf(stderr, "usage: %s SOCKET MODEL\n", argv[0]);
        return 2;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    scheduler = open_session(argv[1], argv[2], KVT_ROLE_SCHEDULER);
    worker = open_session(argv[1], argv[2], KVT_ROLE_WORKER);
    wait_ready(scheduler);
    wait_ready(worker);
    printf("ready\n");
    while (fgets(line, sizeof line, stdin) != NULL) {
        if (sscanf(line, "store %llu %zu", &first, &count) == 2 && count <= COUNT_MAX)
            store(first, count);
        else if (sscanf(line, "load %llu %zu", &first, &count) == 2 && count <= COUNT_MAX)
            load(first, count);
        else if (sscanf(line, "follow %32s %16s", trace, span) == 2)
            follow(trace, span);
        else if (sscanf(line, "over %16s", span) == 1)
            over(span);
        else if (strcmp(line, "counters\n") == 0)
            counters();
        else {
            fprintf(stderr, "what is this: %s", line);
            return 1;
        }
    }
    check(kvt_session_close(worker), "close");
    check(kvt_session_close(scheduler), "close");
    return 0;
}
