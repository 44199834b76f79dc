/*
 * Stores blocks through libkvtier, finds them again, loads them to another place and compares.
 *
 * usage: roundtrip SOCKET
 *
 * Plays a whole engine in one process: a scheduler's session and the session of its only worker. Prints
 * "roundtrip: ok" and exits 0, or says what went wrong and exits 1.
 */

#include <kvtier.h>

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    CHUNKS = 8,             /* blocks of ours */
    BLOCKS_PER_CHUNK = 2,   /* device blocks in each */
    TOKENS_PER_CHUNK = 32,  /* 16 in each device block */
    DEVICE_BLOCKS = 64,
    PAGE_BYTES = 3000,      /* of K and of V: no power of two, so that an offset that is off shows */
    STRIDE_BYTES = 3072,
    RANK_BYTES = BLOCKS_PER_CHUNK * 2 * PAGE_BYTES,
    LOADED_AT = 32          /* device blocks that are loaded into begin here */
};

#define WATCHDOG_US (30u * 1000 * 1000)

#define CHECK(condition)                                                         \
    do {                                                                         \
        if (!(condition)) {                                                      \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
            exit(1);                                                             \
        }                                                                        \
    } while (0)

#define CHECK_STATUS(call, expected)                                             \
    do {                                                                         \
        kvt_status actual_ = (call);                                             \
        if (actual_ != (expected)) {                                             \
            fprintf(stderr, "%s:%d: %s is %s, want %s\n", __FILE__, __LINE__, #call, \
                    kvt_status_name(actual_), kvt_status_name(expected));        \
            exit(1);                                                             \
        }                                                                        \
    } while (0)

/* One engine: its sessions, its device memory, and the keys of what it stores. */
struct engine {
    kvt_session *scheduler;
    kvt_session *worker;
    kvt_copier *copier;
    unsigned char *device[2];
    unsigned char hashes[CHUNKS * 32];
    uint32_t tokens[CHUNKS * TOKENS_PER_CHUNK + 3];
    struct kvt_group_keys keys;
    kvt_slot slots[CHUNKS];
};

static kvt_session *open_session(const char *socket_path, uint32_t role, const uint8_t group_id[16])
{
    /* The start of the engine is part of the namespace, so that every run begins with an empty one. */
    const struct kvt_field fields[] = {
        {"model.id", (const uint8_t *)"roundtrip", 9},
        {"engine.start", group_id, 16},
    };
    struct kvt_group_spec group = {
        .kind = KVT_ATTENTION_FULL,
        .tokens_per_block = TOKENS_PER_CHUNK,
        .rank_bytes = role == KVT_ROLE_WORKER ? RANK_BYTES : 0,
    };
    struct kvt_session_options options;
    char text[512];
    kvt_session *session = NULL;

    memset(&options, 0, sizeof options);
    options.struct_bytes = sizeof options;
    options.socket_path = socket_path;
    options.engine_name = "roundtrip 1";
    options.role = role;
    options.rank_count = 1;
    memcpy(options.engine_group, group_id, 16);
    options.fields = fields;
    options.field_count = 2;
    options.groups = &group;
    options.group_count = 1;
    if (role == KVT_ROLE_SCHEDULER) {
        options.pod = "10.0.0.1:8000";
        options.model = "roundtrip";
    } else {
        /* A program that was compiled before these fields were there. */
        options.struct_bytes = offsetof(struct kvt_session_options, pod);
    }
    kvt_status status = kvt_session_open(&options, &session, text, sizeof text);
    if (status != KVT_OK) {
        fprintf(stderr, "open: %s: %s\n", kvt_status_name(status), text);
        exit(1);
    }
    return session;
}

static struct kvt_session_info info_of(kvt_session *session)
{
    struct kvt_session_info info;

    memset(&info, 0, sizeof info);
    info.struct_bytes = sizeof info;
    CHECK_STATUS(kvt_session_info_get(session, &info), KVT_OK);
    return info;
}

static struct kvt_session_info wait_ready(kvt_session *session)
{
    struct kvt_session_info info = info_of(session);

    while (info.state == KVT_SESSION_WAITING) {
        CHECK_STATUS(kvt_session_wait(session, WATCHDOG_US), KVT_OK);
        info = info_of(session);
    }
    CHECK(info.state == KVT_SESSION_READY);
    return info;
}

/* The answer to the one operation that is under way. */
static struct kvt_completion answer(kvt_session *session, uint64_t tag, uint32_t op)
{
    struct kvt_completion completion;
    size_t count = 0;

    memset(&completion, 0, sizeof completion);
    while (count == 0) {
        CHECK_STATUS(kvt_session_wait(session, WATCHDOG_US), KVT_OK);
        CHECK_STATUS(kvt_session_poll(session, &completion, &count), KVT_OK);
        if (count == 1 && completion.op == KVT_OP_LOOKUP_PENDING) {
            CHECK(completion.tag == tag && op == KVT_OP_LOOKUP && completion.value > 0);
            count = 0; /* blocks are on their way: the answer is still to come */
        }
    }
    CHECK(completion.tag == tag);
    CHECK(completion.op == op);
    return completion;
}

static unsigned char pattern(int tensor, size_t at)
{
    return (unsigned char)(at * 31 + at / 251 + (size_t)tensor * 17 + 5);
}

static void open_engine(struct engine *engine, const char *socket_path)
{
    struct kvt_page_run runs[2];
    uint8_t group_id[16];
    size_t hash_count = 0;
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    memset(group_id, 0, sizeof group_id);
    memcpy(group_id, &now.tv_nsec, sizeof now.tv_nsec);
    engine->scheduler = open_session(socket_path, KVT_ROLE_SCHEDULER, group_id);
    CHECK(info_of(engine->scheduler).state == KVT_SESSION_WAITING);
    engine->worker = open_session(socket_path, KVT_ROLE_WORKER, group_id);
    struct kvt_session_info info = wait_ready(engine->scheduler);
    struct kvt_session_info worker_info = wait_ready(engine->worker);
    CHECK(memcmp(info.namespace_id, worker_info.namespace_id, 16) == 0);
    CHECK(memcmp(info.boot_epoch, worker_info.boot_epoch, 16) == 0);
    CHECK(info.attachment == 1 && info.group_count == 1);

    CHECK_STATUS(kvt_copier_open(KVT_BACKEND_HOST, 2, &engine->copier), KVT_OK);
    for (int tensor = 0; tensor < 2; tensor++) {
        engine->device[tensor] = calloc(DEVICE_BLOCKS, STRIDE_BYTES);
        CHECK(engine->device[tensor] != NULL);
        runs[tensor].base = engine->device[tensor];
        runs[tensor].stride_bytes = STRIDE_BYTES;
        runs[tensor].page_bytes = PAGE_BYTES;
        runs[tensor].page_count = DEVICE_BLOCKS;
        for (size_t at = 0; at < (size_t)LOADED_AT * STRIDE_BYTES; at++)
            engine->device[tensor][at] = pattern(tensor, at);
    }
    CHECK_STATUS(kvt_copier_group_set(engine->copier, 0, BLOCKS_PER_CHUNK, runs, 2), KVT_OK);

    for (uint32_t i = 0; i < sizeof engine->tokens / sizeof *engine->tokens; i++)
        engine->tokens[i] = i * 7 + 1;
    CHECK_STATUS(kvt_hash_tokens(info.namespace_id, NULL, engine->tokens,
                                 sizeof engine->tokens / sizeof *engine->tokens, TOKENS_PER_CHUNK,
                                 NULL, 0, engine->hashes, CHUNKS, &hash_count),
                 KVT_OK);
    CHECK(hash_count == CHUNKS);
    engine->keys.group = 0;
    engine->keys.reserved = 0;
    engine->keys.hashes = engine->hashes;
    engine->keys.hash_count = CHUNKS;
}

/* Copies all chunks between their slots and the device blocks from `first` on. */
static void copy_all(struct engine *engine, uint32_t direction, uint32_t first)
{
    struct kvt_transfer transfers[CHUNKS * BLOCKS_PER_CHUNK];
    struct kvt_copy_result result;
    size_t count = 0;

    for (uint32_t i = 0; i < CHUNKS * BLOCKS_PER_CHUNK; i++) {
        transfers[i].slot = engine->slots[i / BLOCKS_PER_CHUNK];
        transfers[i].device_block = first + i;
        transfers[i].block_in_chunk = i % BLOCKS_PER_CHUNK;
    }
    CHECK_STATUS(kvt_copy_submit(engine->copier, engine->worker, 11, direction, 0, transfers,
                                 CHUNKS * BLOCKS_PER_CHUNK),
                 KVT_OK);
    CHECK_STATUS(kvt_copy_wait(engine->copier, WATCHDOG_US), KVT_OK);
    CHECK_STATUS(kvt_copy_poll(engine->copier, &result, 1, &count), KVT_OK);
    CHECK(count == 1 && result.tag == 11 && result.status == KVT_OK);
    CHECK(result.bytes == (uint64_t)CHUNKS * RANK_BYTES);
}

static void store(struct engine *engine)
{
    struct kvt_completion completion;
    struct kvt_run runs[2];

    /* What the blocks are about: all but the last two, in one run. */
    memset(runs, 0, sizeof runs);
    runs[0].blocks = CHUNKS - 2;
    runs[0].tokens_per_block = TOKENS_PER_CHUNK;
    runs[0].tokens = engine->tokens;
    runs[0].lora_name = "adapter";
    runs[0].extra_keys = (const uint8_t *)"\xc0";
    runs[0].extra_bytes = 1;
    runs[1].blocks = 2;
    CHECK_STATUS(kvt_blocks_reserve_described(engine->scheduler, 1, &engine->keys, 1, runs, 1), KVT_BAD_ARGUMENT);
    CHECK_STATUS(kvt_blocks_reserve_described(engine->scheduler, 1, &engine->keys, 1, runs, 2), KVT_OK);
    completion = answer(engine->scheduler, 1, KVT_OP_RESERVE);
    CHECK(completion.slot_count == CHUNKS);
    for (int i = 0; i < CHUNKS; i++) {
        CHECK(completion.slots[i].page != KVT_SLOT_NONE);
        engine->slots[i] = completion.slots[i];
    }
    copy_all(engine, KVT_COPY_STORE, 0);

    CHECK_STATUS(kvt_lookup_submit(engine->scheduler, 2, &engine->keys, 1, UINT64_MAX), KVT_OK);
    completion = answer(engine->scheduler, 2, KVT_OP_LOOKUP);
    CHECK(completion.status == KVT_OK && completion.value == 0); /* nothing can be found before it is sealed */

    CHECK_STATUS(kvt_blocks_seal(engine->worker, 3, engine->slots, CHUNKS), KVT_OK);
    completion = answer(engine->worker, 3, KVT_OP_SEAL);
    CHECK(completion.value == CHUNKS && completion.value2 == CHUNKS && completion.value3 == 0);

    CHECK_STATUS(kvt_blocks_reserve(engine->scheduler, 4, &engine->keys, 1), KVT_OK);
    completion = answer(engine->scheduler, 4, KVT_OP_RESERVE);
    for (int i = 0; i < CHUNKS; i++) {
        CHECK(completion.slots[i].page == KVT_SLOT_NONE);
        CHECK(completion.slots[i].generation == KVT_GRANT_ALREADY_PRESENT);
    }
}

static void load(struct engine *engine)
{
    struct kvt_completion completion;
    struct kvt_span span;

    CHECK_STATUS(kvt_lookup_submit(engine->scheduler, 5, &engine->keys, 1, UINT64_MAX), KVT_OK);
    completion = answer(engine->scheduler, 5, KVT_OP_LOOKUP);
    CHECK(completion.status == KVT_OK && completion.value == CHUNKS * TOKENS_PER_CHUNK);
    CHECK(completion.span_count == 1);
    span = completion.spans[0];
    CHECK(span.group == 0 && span.first == 0 && span.count == CHUNKS);

    CHECK_STATUS(kvt_load_commit(engine->scheduler, 5, 6, &span, 1), KVT_OK);
    completion = answer(engine->scheduler, 6, KVT_OP_LOAD);
    CHECK(completion.value == 0 && completion.slot_count == CHUNKS);
    memcpy(engine->slots, completion.slots, sizeof engine->slots);
    copy_all(engine, KVT_COPY_LOAD, LOADED_AT);
    CHECK_STATUS(kvt_lease_release(engine->scheduler, 6), KVT_OK);

    for (int tensor = 0; tensor < 2; tensor++) {
        const unsigned char *device = engine->device[tensor];
        for (uint32_t block = 0; block < CHUNKS * BLOCKS_PER_CHUNK; block++) {
            size_t from = (size_t)block * STRIDE_BYTES, to = (size_t)(LOADED_AT + block) * STRIDE_BYTES;
            CHECK(memcmp(device + from, device + to, PAGE_BYTES) == 0);
            CHECK(device[from] == pattern(tensor, from));
            CHECK(device[to + PAGE_BYTES] == 0); /* the gap between pages stays as it was */
        }
    }
}

/* Whether the completion's text, which has no NUL, has this part. */
static int mentions(const struct kvt_completion *completion, const char *part)
{
    size_t bytes = strlen(part);

    for (size_t at = 0; at + bytes <= completion->byte_count; at++)
        if (memcmp(completion->bytes + at, part, bytes) == 0)
            return 1;
    return 0;
}

static void reset(struct engine *engine)
{
    struct kvt_completion completion;
    struct kvt_session_info before = info_of(engine->scheduler);

    CHECK_STATUS(kvt_counters_request(engine->scheduler, 7), KVT_OK);
    completion = answer(engine->scheduler, 7, KVT_OP_COUNTERS);
    CHECK(completion.byte_count > 2 && completion.bytes[0] == '{');
    CHECK(mentions(&completion, "\"10.0.0.1:8000\""));

    CHECK_STATUS(kvt_namespace_reset(engine->scheduler, 8), KVT_OK);
    completion = answer(engine->scheduler, 8, KVT_OP_RESET);
    CHECK(completion.value == 1 && completion.byte_count == 16);
    CHECK(memcmp(completion.bytes, before.namespace_id, 16) != 0);

    CHECK_STATUS(kvt_lookup_submit(engine->scheduler, 9, &engine->keys, 1, UINT64_MAX), KVT_OK);
    completion = answer(engine->scheduler, 9, KVT_OP_LOOKUP);
    CHECK(completion.value == 0 && completion.span_count == 0);
}

static void check_refusals(struct engine *engine)
{
    struct kvt_session_info info = {.struct_bytes = sizeof info - 1};
    struct kvt_transfer transfer = {{1, 1}, DEVICE_BLOCKS, 0};
    struct kvt_group_keys twice[2] = {engine->keys, engine->keys};
    kvt_slot far = {UINT32_MAX, 1}, none = {KVT_SLOT_NONE, KVT_GRANT_NO_SPACE};
    kvt_session *session = NULL;
    void *address = NULL;
    uint64_t bytes = 0;
    size_t count = 0;

    CHECK_STATUS(kvt_session_open(NULL, &session, NULL, 0), KVT_NULL_ARGUMENT);
    CHECK_STATUS(kvt_session_info_get(engine->worker, &info), KVT_BAD_ARGUMENT);
    CHECK(strstr(kvt_session_error(engine->worker), "struct_bytes") != NULL);
    CHECK_STATUS(kvt_session_poll(engine->worker, NULL, &count), KVT_NULL_ARGUMENT);
    CHECK_STATUS(kvt_slot_address(engine->worker, far, 0, &address, &bytes), KVT_BAD_ARGUMENT);
    CHECK_STATUS(kvt_slot_address(engine->worker, none, 0, &address, &bytes), KVT_BAD_ARGUMENT);
    CHECK_STATUS(kvt_slot_address(engine->worker, engine->slots[0], 9, &address, &bytes), KVT_BAD_ARGUMENT);
    CHECK(address == NULL && bytes == 0);
    CHECK_STATUS(kvt_blocks_seal(engine->worker, 20, &none, 1), KVT_BAD_ARGUMENT);
    CHECK_STATUS(kvt_blocks_seal(engine->scheduler, 20, engine->slots, 1), KVT_UNSUPPORTED);
    CHECK_STATUS(kvt_lookup_submit(engine->worker, 20, &engine->keys, 1, 0), KVT_UNSUPPORTED);
    CHECK_STATUS(kvt_lookup_submit(engine->scheduler, 20, twice, 2, 0), KVT_BAD_ARGUMENT);
    CHECK_STATUS(kvt_lookup_submit(engine->scheduler, 20, NULL, 1, 0), KVT_NULL_ARGUMENT);
    CHECK_STATUS(kvt_copy_submit(engine->copier, engine->worker, 20, KVT_COPY_LOAD, 0, &transfer, 1),
                 KVT_BAD_ARGUMENT);
    CHECK(strstr(kvt_copier_error(engine->copier), "device_block") != NULL);
    transfer.device_block = 0;
    transfer.slot = far;
    CHECK_STATUS(kvt_copy_submit(engine->copier, engine->worker, 20, KVT_COPY_LOAD, 0, &transfer, 1),
                 KVT_BAD_ARGUMENT);
    CHECK_STATUS(kvt_copy_submit(engine->copier, engine->worker, 20, KVT_COPY_LOAD, 1, &transfer, 1),
                 KVT_BAD_ARGUMENT);
    CHECK_STATUS(kvt_copy_submit(engine->copier, engine->worker, 20, 2, 0, &transfer, 1), KVT_BAD_ARGUMENT);
    CHECK_STATUS(kvt_session_wait(engine->worker, 1000), KVT_TIMEOUT);
    CHECK_STATUS(kvt_copy_wait(engine->copier, 1000), KVT_TIMEOUT);
}

int main(int argc, char **argv)
{
    struct engine engine;

    if (argc != 2) {
        fprintf(stderr, "usage: %s SOCKET\n", argv[0]);
        return 2;
    }
    CHECK(kvt_abi_version() == KVT_ABI_VERSION);
    memset(&engine, 0, sizeof engine);
    open_engine(&engine, argv[1]);
    store(&engine);
    load(&engine);
    check_refusals(&engine);
    reset(&engine);
    CHECK_STATUS(kvt_copier_close(engine.copier), KVT_OK);
    CHECK_STATUS(kvt_session_close(engine.worker), KVT_OK);
    CHECK_STATUS(kvt_session_close(engine.scheduler), KVT_OK);
    free(engine.device[0]);
    free(engine.device[1]);
    printf("roundtrip: ok\n");
    return 0;
}
