/* Sessions of one engine, and the four conversations that everything else is made of. */
#define _GNU_SOURCE
#include "client.h"

#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#define READY_TIMEOUT_NS 10000000000ull
#define ANSWER_TIMEOUT_NS 60000000000ull
#define WAIT_US 200000u

static bool check(kvt_session *session, const char *what, kvt_status status)
{
    if (status == KVT_OK) {
        return true;
    }
    const char *text = session == NULL ? NULL : lib.kvt_session_error_(session);
    return fail("%s: %s: %s", what, lib.kvt_status_name_(status), text == NULL ? "" : text);
}

static bool session_open(kvt_session **session, const kvt_session_options *options)
{
    char text[512] = "";
    kvt_status status = lib.kvt_session_open_(options, session, text, sizeof text);
    if (status != KVT_OK) {
        return fail("could not attach: %s: %s", lib.kvt_status_name_(status), text);
    }
    return true;
}

static bool wait_ready(kvt_session *session, kvt_session_info *info)
{
    uint64_t deadline = now_ns() + READY_TIMEOUT_NS;
    for (;;) {
        memset(info, 0, sizeof *info);
        info->struct_bytes = sizeof *info;
        if (!check(session, "session info", lib.kvt_session_info_get_(session, info))) {
            return false;
        }
        if (info->state == KVT_SESSION_READY) {
            return true;
        }
        if (now_ns() > deadline) {
            return fail("the session did not become ready; its state is %u", info->state);
        }
        kvt_completion none;
        size_t count = 0;
        lib.kvt_session_poll_(session, &none, &count);
        lib.kvt_session_wait_(session, 10000);
    }
}

bool engine_open(struct engine *engine, const char *socket, const char *namespace_name, uint64_t block_bytes)
{
    memset(engine, 0, sizeof *engine);
    kvt_field field = {"model.id", (const uint8_t *)namespace_name, strlen(namespace_name)};
    kvt_group_spec group = {0};
    group.kind = KVT_ATTENTION_FULL;
    group.tokens_per_block = TOKENS_PER_BLOCK;
    group.rank_bytes = block_bytes;

    kvt_session_options options = {0};
    options.struct_bytes = sizeof options;
    options.socket_path = socket;
    options.engine_name = "kvtier-bench";
    options.rank_count = 1;
    options.reattach = KVT_REATTACH_NEVER;
    options.fields = &field;
    options.field_count = 1;
    options.groups = &group;
    options.group_count = 1;
    options.deadline_ms = 10000;
    if (getrandom(options.engine_group, sizeof options.engine_group, 0) != (ssize_t)sizeof options.engine_group) {
        return fail("could not draw random bytes");
    }
    options.role = KVT_ROLE_SCHEDULER;
    if (!session_open(&engine->scheduler, &options)) {
        return false;
    }
    options.role = KVT_ROLE_WORKER;
    if (!session_open(&engine->worker, &options)) {
        return false;
    }
    kvt_session_info info;
    if (!wait_ready(engine->scheduler, &info) || !wait_ready(engine->worker, &info)) {
        return false;
    }
    /* Page 0 is the region's header: the first slot can lie at page 1. The slot may begin with the daemon's own bytes. */
    void *first_part;
    uint64_t bytes;
    const kvt_slot slot = {.page = 1};
    kvt_group_layout layout;
    if (!check(engine->worker, "slot address", lib.kvt_slot_address_(engine->worker, slot, 0, &first_part, &bytes)) ||
        !check(engine->worker, "layout", lib.kvt_session_group_layout_(engine->worker, 0, &layout))) {
        return false;
    }
    engine->traces.struct_bytes = sizeof engine->traces;
    if (!check(engine->scheduler, "traces", lib.kvt_traces_get_(engine->scheduler, &engine->traces))) {
        return false;
    }
    engine->region_base = (char *)first_part - layout.rank_offset - 4096;
    engine->region_bytes = info.region_bytes;
    return true;
}

void engine_close(struct engine *engine)
{
    lib.kvt_session_close_(engine->worker);
    lib.kvt_session_close_(engine->scheduler);
    memset(engine, 0, sizeof *engine);
}

bool await_completion(kvt_session *session, uint64_t tag, uint32_t op, kvt_completion *completion)
{
    uint64_t deadline = 0;
    for (;;) {
        size_t count = 0;
        if (!check(session, "poll", lib.kvt_session_poll_(session, completion, &count))) {
            return false;
        }
        if (count == 1 && completion->tag == tag && completion->op == KVT_OP_LOOKUP_PENDING && op == KVT_OP_LOOKUP) {
            continue; /* blocks are on their way from NVMe: the answer comes */
        }
        if (count == 1 && completion->tag == tag && completion->op == op) {
            return check(session, "the daemon's answer", completion->status);
        }
        if (count == 1) {
            return fail("an answer that nobody waits for: tag %llu, op %u", (unsigned long long)completion->tag,
                        completion->op);
        }
        uint64_t now = now_ns();
        deadline = deadline == 0 ? now + ANSWER_TIMEOUT_NS : deadline;
        if (now > deadline) {
            return fail("no answer to tag %llu, op %u", (unsigned long long)tag, op);
        }
        kvt_status status = lib.kvt_session_wait_(session, WAIT_US);
        if (status != KVT_TIMEOUT && !check(session, "wait", status)) {
            return false;
        }
    }
}

bool reserve(struct engine *engine, const uint8_t *hashes, size_t count, kvt_slot *slots)
{
    return reserve_described(engine, hashes, count, NULL, 0, slots);
}

bool reserve_described(struct engine *engine, const uint8_t *hashes, size_t count, const kvt_run *runs,
                       size_t run_count, kvt_slot *slots)
{
    kvt_group_keys keys = {0, 0, hashes, count};
    kvt_completion done;
    uint64_t tag = ++engine->tag;
    kvt_status status =
        run_count == 0
            ? lib.kvt_blocks_reserve_(engine->scheduler, tag, &keys, 1)
            : lib.kvt_blocks_reserve_described_(engine->scheduler, tag, &keys, 1, runs, run_count);
    if (!check(engine->scheduler, "reserve", status) ||
        !await_completion(engine->scheduler, tag, KVT_OP_RESERVE, &done)) {
        return false;
    }
    if (done.slot_count != count) {
        return fail("asked for %zu slots, got %zu answers", count, done.slot_count);
    }
    for (size_t i = 0; i < count; i++) {
        if (done.slots[i].page == KVT_SLOT_NONE) {
            return fail("block %zu of %zu was granted no slot, reason %u", i, count, done.slots[i].generation);
        }
    }
    memcpy(slots, done.slots, count * sizeof *slots);
    return true;
}

bool seal(struct engine *engine, const kvt_slot *slots, size_t count)
{
    kvt_completion done;
    uint64_t tag = ++engine->tag;
    if (!check(engine->worker, "seal", lib.kvt_blocks_seal_(engine->worker, tag, slots, count)) ||
        !await_completion(engine->worker, tag, KVT_OP_SEAL, &done)) {
        return false;
    }
    if (done.value != count) {
        return fail("sealed %zu blocks, %llu were published", count, (unsigned long long)done.value);
    }
    return true;
}

bool abort_slots(struct engine *engine, const kvt_slot *slots, size_t count)
{
    kvt_completion done;
    uint64_t tag = ++engine->tag;
    return check(engine->scheduler, "abort", lib.kvt_blocks_abort_(engine->scheduler, tag, slots, count)) &&
           await_completion(engine->scheduler, tag, KVT_OP_ABORT, &done);
}

bool lookup_all(struct engine *engine, const uint8_t *hashes, size_t count, kvt_completion *completion)
{
    kvt_group_keys keys = {0, 0, hashes, count};
    uint64_t tokens = (uint64_t)count * TOKENS_PER_BLOCK;
    uint64_t tag = ++engine->tag;
    if (!check(engine->scheduler, "look-up",
               lib.kvt_lookup_submit_(engine->scheduler, tag, &keys, 1, tokens)) ||
        !await_completion(engine->scheduler, tag, KVT_OP_LOOKUP, completion)) {
        return false;
    }
    if (completion->value != tokens) {
        return fail("looked up %llu tokens, hit %llu", (unsigned long long)tokens,
                    (unsigned long long)completion->value);
    }
    return true;
}
