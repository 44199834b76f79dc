/* Follows requests as the connector does: the part of them that the daemon asks for, each with a trace of its own. */
#define _GNU_SOURCE
#include "client.h"

#include <string.h>
#include <sys/random.h>
#include <time.h>

static uint64_t unix_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* A trace id's last eight bytes, as a sampler reads them. */
static uint64_t sampled_by(const uint8_t *trace_id)
{
    uint64_t number = 0;
    for (size_t i = 8; i < 16; i++) {
        number = number << 8 | trace_id[i];
    }
    return number >> 1;
}

bool request_begin(struct engine *engine, struct request *request)
{
    static uint64_t drawn;
    request->followed = false;
    if (!engine->traces.recording) {
        return true;
    }
    if (drawn == 0 && getrandom(&drawn, sizeof drawn, 0) != (ssize_t)sizeof drawn) {
        return fail("could not draw random bytes");
    }
    uint8_t bytes[HASH_BYTES];
    hash_make(drawn++, bytes);
    if (sampled_by(bytes) >= engine->traces.sample_below) {
        return true;
    }
    memset(&request->told, 0, sizeof request->told);
    request->followed = true;
    request->told.struct_bytes = sizeof request->told;
    memcpy(request->told.trace_id, bytes, sizeof request->told.trace_id);
    memcpy(request->told.span_id, bytes + sizeof request->told.trace_id, sizeof request->told.span_id);
    request->told.start_unix_ns = unix_ns();
    request->told.name = "kvtier-bench";
    return true;
}

bool requests_announce(struct engine *engine, const struct request *requests, size_t count, size_t keys_each)
{
    kvt_trace_context contexts[REQUESTS_MAX];
    bool any = false;
    memset(contexts, 0, count * sizeof *contexts);
    for (size_t i = 0; i < count; i++) {
        contexts[i].key_count = (uint32_t)keys_each;
        if (requests[i].followed) {
            any = true;
            memcpy(contexts[i].trace_id, requests[i].told.trace_id, sizeof contexts[i].trace_id);
            memcpy(contexts[i].span_id, requests[i].told.span_id, sizeof contexts[i].span_id);
        }
    }
    if (!any) {
        return true;
    }
    kvt_status status = lib.kvt_trace_next_(engine->scheduler, engine->tag + 1, contexts, count);
    return status == KVT_OK || fail("trace next: %s", lib.kvt_status_name_(status));
}

bool request_over(struct engine *engine, struct request *request, uint64_t tokens, uint64_t hit_tokens)
{
    if (!request->followed) {
        return true;
    }
    request->told.end_unix_ns = unix_ns();
    request->told.prompt_tokens = tokens;
    request->told.hit_tokens = hit_tokens;
    kvt_status status = lib.kvt_trace_request_(engine->scheduler, &request->told);
    return status == KVT_OK || fail("trace request: %s", lib.kvt_status_name_(status));
}
