/* Stores blocks that are described, as an engine does whose blocks are announced; and looks up meanwhile. */
#define _GNU_SOURCE
#include "client.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Blocks of a sequence: they are described by one run and stored by one message. */
#define SEQUENCE_BLOCKS 128u
#define LOOKUPS_MAX 65536u

/* Number of the next block to store; a multiple of SEQUENCE_BLOCKS. Far from the numbers that `fill` uses. */
static uint64_t next_block = 1ull << 40;

static bool store_sequences(struct engine *engine, uint64_t sequences)
{
    static uint8_t hashes[FILL_BATCH * HASH_BYTES];
    static uint32_t tokens[FILL_BATCH * TOKENS_PER_BLOCK];
    static kvt_slot slots[FILL_BATCH];
    static kvt_run runs[FILL_BATCH / SEQUENCE_BLOCKS];
    static struct request requests[FILL_BATCH / SEQUENCE_BLOCKS];
    _Static_assert(FILL_BATCH / SEQUENCE_BLOCKS <= REQUESTS_MAX, "each sequence is a request");
    size_t count = sequences * SEQUENCE_BLOCKS;
    for (size_t i = 0; i < count; i++) {
        hash_make(next_block + i, hashes + i * HASH_BYTES);
        for (size_t j = 0; j < TOKENS_PER_BLOCK; j++) {
            tokens[i * TOKENS_PER_BLOCK + j] = (uint32_t)((next_block + i) * TOKENS_PER_BLOCK + j) % 150000u;
        }
    }
    memset(runs, 0, sizeof runs);
    for (size_t i = 0; i < sequences; i++) {
        runs[i].blocks = SEQUENCE_BLOCKS;
        runs[i].tokens_per_block = TOKENS_PER_BLOCK;
        runs[i].tokens = tokens + i * SEQUENCE_BLOCKS * TOKENS_PER_BLOCK;
        if (!request_begin(engine, &requests[i])) {
            return false;
        }
    }
    if (!requests_announce(engine, requests, sequences, SEQUENCE_BLOCKS) ||
        !reserve_described(engine, hashes, count, runs, sequences, slots) || !seal(engine, slots, count)) {
        return false;
    }
    for (size_t i = 0; i < sequences; i++) {
        if (!request_over(engine, &requests[i], SEQUENCE_BLOCKS * TOKENS_PER_BLOCK, 0)) {
            return false;
        }
    }
    next_block += count;
    return true;
}

/* describe COUNT: makes COUNT described blocks resident, rounded up to whole sequences. */
bool command_describe(struct engine *engine, const char *arguments)
{
    const uint64_t most = FILL_BATCH / SEQUENCE_BLOCKS;
    uint64_t left = (strtoull(arguments, NULL, 10) + SEQUENCE_BLOCKS - 1) / SEQUENCE_BLOCKS;
    while (left > 0) {
        uint64_t now = left < most ? left : most;
        if (!store_sequences(engine, now)) {
            return false;
        }
        left -= now;
    }
    return true;
}

static void sleep_until(uint64_t moment_ns)
{
    struct timespec moment = {(time_t)(moment_ns / 1000000000u), (long)(moment_ns % 1000000000u)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &moment, NULL) != 0) {
    }
}

/* churn RATE MILLISECONDS: stores RATE described blocks a second, a sequence at a time. Answers how many. */
bool command_churn(struct engine *engine, const char *arguments)
{
    char *rest;
    uint64_t rate = strtoull(arguments, &rest, 10);
    uint64_t end_ns = strtoull(rest, NULL, 10) * 1000000u;
    if (rate == 0 || end_ns == 0) {
        return fail("want RATE MILLISECONDS");
    }
    uint64_t start_ns = now_ns(), stored = 0;
    for (;;) {
        uint64_t due_ns = stored * 1000000000u / rate;
        if (due_ns >= end_ns) {
            break;
        }
        sleep_until(start_ns + due_ns);
        if (!store_sequences(engine, 1)) {
            return false;
        }
        stored += SEQUENCE_BLOCKS;
    }
    answer("%llu", (unsigned long long)stored);
    return true;
}

static int by_size(const void *one, const void *other)
{
    uint64_t a = *(const uint64_t *)one, b = *(const uint64_t *)other;
    return a < b ? -1 : a > b;
}

/* probe BLOCKS MILLISECONDS: looks up prefixes of BLOCKS of the blocks that `fill` has stored, one each millisecond.
   Answers the median and the 99th percentile of their nanoseconds, and how many there were. */
bool command_probe(struct engine *engine, const char *arguments)
{
    static uint64_t nanoseconds[LOOKUPS_MAX];
    char *rest;
    uint64_t blocks = strtoull(arguments, &rest, 10);
    uint64_t milliseconds = strtoull(rest, NULL, 10);
    if (blocks == 0 || milliseconds == 0 || milliseconds > LOOKUPS_MAX) {
        return fail("want BLOCKS MILLISECONDS");
    }
    uint8_t *hashes = malloc(blocks * HASH_BYTES);
    if (hashes == NULL) {
        return fail("out of memory");
    }
    uint64_t start_ns = now_ns(), count = 0;
    bool good = true;
    while (good && now_ns() - start_ns < milliseconds * 1000000u && count < LOOKUPS_MAX) {
        take_prefix(blocks, hashes);
        kvt_completion done;
        struct request request;
        uint64_t tokens = blocks * TOKENS_PER_BLOCK, began_ns = now_ns();
        good = request_begin(engine, &request) && requests_announce(engine, &request, 1, blocks) &&
               lookup_all(engine, hashes, blocks, &done);
        lib.kvt_lookup_release_(engine->scheduler, engine->tag);
        nanoseconds[count++] = now_ns() - began_ns;
        good = good && request_over(engine, &request, tokens, tokens);
        sleep_until(began_ns + 1000000u);
    }
    free(hashes);
    qsort(nanoseconds, count, sizeof *nanoseconds, by_size);
    answer("%llu %llu %llu", (unsigned long long)nanoseconds[count / 2],
           (unsigned long long)nanoseconds[count * 99 / 100], (unsigned long long)count);
    return good;
}
