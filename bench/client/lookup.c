/*
 * Fills the daemon with blocks whose bytes are never written, and looks up prefixes made of them.
 *
 * Blocks are numbered along sequences. They are stored in runs, as an engine stores them: what one step has computed of
 * one sequence, then a run of another. A prefix is a range of numbers; so its blocks lie together in runs, and the runs
 * lie anywhere. The worst case, blocks drawn one by one from all that are resident, is measured beside it.
 */
#define _GNU_SOURCE
#include "client.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* 2,048 tokens: a small step of an engine's prefill. */
#define RUN_BLOCKS 128u

/* The resident blocks in an order that is drawn once. */
static uint32_t *order;
static uint64_t order_next;
static uint64_t filled_count;
static uint64_t prefixes_taken;

static uint64_t mix(uint64_t value)
{
    value += 0x9e3779b97f4a7c15ull;
    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9ull;
    value = (value ^ (value >> 27)) * 0x94d049bb133111ebull;
    return value ^ (value >> 31);
}

void hash_make(uint64_t index, uint8_t *hash)
{
    for (uint64_t word = 0; word < HASH_BYTES / 8; word++) {
        uint64_t value = mix(index * 4 + word);
        __builtin_memcpy(hash + word * 8, &value, sizeof value);
    }
}

/* Numbers 0 to count - 1 in an order that is random and the same in every run. NULL if there is no memory. */
static uint32_t *shuffled(uint64_t count)
{
    uint32_t *numbers = malloc(count * sizeof *numbers);
    if (numbers == NULL) {
        fail("out of memory");
        return NULL;
    }
    for (uint64_t i = 0; i < count; i++) {
        numbers[i] = (uint32_t)i;
    }
    for (uint64_t i = count; i > 1; i--) {
        uint64_t other = mix(i ^ 0x5eedu) % i;
        uint32_t taken = numbers[i - 1];
        numbers[i - 1] = numbers[other];
        numbers[other] = taken;
    }
    return numbers;
}

/* Stores the runs in the given order, a batch of them in one message. */
static bool fill_runs(struct engine *engine, const uint32_t *runs, uint64_t count)
{
    static uint8_t hashes[FILL_BATCH * HASH_BYTES];
    static kvt_slot slots[FILL_BATCH];
    size_t batch = 0;
    for (uint64_t stored = 0; stored < count; stored++) {
        uint64_t run = runs[stored / RUN_BLOCKS];
        hash_make(run * RUN_BLOCKS + stored % RUN_BLOCKS, hashes + batch * HASH_BYTES);
        batch++;
        if (batch == FILL_BATCH || stored + 1 == count) {
            if (!reserve(engine, hashes, batch, slots) || !seal(engine, slots, batch)) {
                return false;
            }
            batch = 0;
        }
    }
    return true;
}

/* fill COUNT: makes COUNT blocks resident, rounded up to whole runs. */
bool command_fill(struct engine *engine, const char *arguments)
{
    uint64_t runs = (strtoull(arguments, NULL, 10) + RUN_BLOCKS - 1) / RUN_BLOCKS;
    if (runs == 0 || filled_count != 0) {
        return fail("want at least one block, once");
    }
    uint32_t *run_order = shuffled(runs);
    order = shuffled(runs * RUN_BLOCKS);
    if (run_order == NULL || order == NULL) {
        return false;
    }
    bool good = fill_runs(engine, run_order, runs * RUN_BLOCKS);
    free(run_order);
    filled_count = good ? runs * RUN_BLOCKS : 0;
    return good;
}

static uint64_t divisor(uint64_t a, uint64_t b)
{
    while (b != 0) {
        uint64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* The next prefix in an order in which none comes again before all others have. */
void take_prefix(uint64_t blocks, uint8_t *hashes)
{
    uint64_t prefixes = filled_count / blocks;
    /* Steps of a golden section spread evenly; without a common divisor they visit all before any again. */
    uint64_t step = (uint64_t)((double)prefixes * 0.618) | 1;
    while (divisor(step, prefixes) != 1) {
        step++;
    }
    uint64_t first = (prefixes_taken++ * step) % prefixes * blocks;
    for (uint64_t i = 0; i < blocks; i++) {
        hash_make(first + i, hashes + i * HASH_BYTES);
    }
}

/* The next blocks of the random order, which none repeats before all others have come. */
static void take_scattered(uint64_t blocks, uint8_t *hashes)
{
    if (order_next + blocks > filled_count) {
        order_next = 0;
    }
    for (uint64_t i = 0; i < blocks; i++) {
        hash_make(order[order_next + i], hashes + i * HASH_BYTES);
    }
    order_next += blocks;
}

/* Times what follows a release: the daemon takes the holds back before it answers the next look-up. */
static bool release_time(struct engine *engine, const uint8_t *hashes, uint64_t *nanoseconds)
{
    kvt_completion done;
    uint64_t start_ns = now_ns();
    if (!lookup_all(engine, hashes, 1, &done)) {
        return false;
    }
    *nanoseconds = now_ns() - start_ns;
    lib.kvt_lookup_release_(engine->scheduler, engine->tag);
    return true;
}

/* lookup BLOCKS prefix|scattered: one look-up of BLOCKS resident blocks. Answers the nanoseconds from submit to the
   return of release, and the nanoseconds of a look-up of one block right behind it. */
bool command_lookup(struct engine *engine, const char *arguments)
{
    char *rest;
    uint64_t blocks = strtoull(arguments, &rest, 10);
    if (blocks == 0 || blocks > filled_count) {
        return fail("want 1 to %llu blocks", (unsigned long long)filled_count);
    }
    uint8_t *hashes = malloc(blocks * HASH_BYTES);
    if (hashes == NULL) {
        return fail("out of memory");
    }
    if (strcmp(rest, " scattered") == 0) {
        take_scattered(blocks, hashes);
    } else {
        take_prefix(blocks, hashes);
    }
    kvt_completion done;
    uint64_t release_ns = 0;
    uint64_t start_ns = now_ns();
    bool good = lookup_all(engine, hashes, blocks, &done);
    if (good) {
        lib.kvt_lookup_release_(engine->scheduler, engine->tag);
        uint64_t end_ns = now_ns();
        good = release_time(engine, hashes, &release_ns);
        answer("%llu %llu", (unsigned long long)(end_ns - start_ns), (unsigned long long)release_ns);
    }
    free(hashes);
    return good;
}
