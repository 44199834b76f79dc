/* Fills the daemon with blocks whose bytes are never written, and looks up random prefixes made of them. */
#define _GNU_SOURCE
#include "client.h"

#include <stdio.h>
#include <stdlib.h>

/* The resident blocks in an order that is drawn once. Look-ups take the next blocks in this order, so a prefix names
   each block once, and a block comes again only after all others have. */
static uint32_t *order;
static uint64_t order_count;
static uint64_t order_next;
static uint64_t filled_count;

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

static bool fill_batch(struct engine *engine, uint64_t first, size_t count)
{
    static uint8_t hashes[FILL_BATCH * HASH_BYTES];
    static kvt_slot slots[FILL_BATCH];
    for (size_t i = 0; i < count; i++) {
        hash_make(first + i, hashes + i * HASH_BYTES);
    }
    return reserve(engine, hashes, count, slots) && seal(engine, slots, count);
}

/* fill COUNT: makes COUNT more blocks resident. */
bool command_fill(struct engine *engine, const char *arguments)
{
    uint64_t count = strtoull(arguments, NULL, 10);
    uint64_t end = filled_count + count;
    uint64_t start_ns = now_ns();
    while (filled_count < end) {
        uint64_t left = end - filled_count;
        size_t batch = left < FILL_BATCH ? (size_t)left : FILL_BATCH;
        if (!fill_batch(engine, filled_count, batch)) {
            return false;
        }
        filled_count += batch;
    }
    answer("%llu", (unsigned long long)(now_ns() - start_ns));
    return true;
}

static bool order_draw(void)
{
    if (order_count == filled_count) {
        return true;
    }
    free(order);
    order_count = 0;
    order = malloc(filled_count * sizeof *order);
    if (order == NULL) {
        return fail("out of memory");
    }
    for (uint64_t i = 0; i < filled_count; i++) {
        order[i] = (uint32_t)i;
    }
    for (uint64_t i = filled_count; i > 1; i--) {
        uint64_t other = mix(i ^ 0x5eedu) % i;
        uint32_t taken = order[i - 1];
        order[i - 1] = order[other];
        order[other] = taken;
    }
    order_count = filled_count;
    order_next = 0;
    return true;
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

/* lookup BLOCKS: one look-up of a prefix of BLOCKS resident blocks. Answers the nanoseconds from submit to the return
   of release, and the nanoseconds of a look-up of one block right behind it. */
bool command_lookup(struct engine *engine, const char *arguments)
{
    uint64_t blocks = strtoull(arguments, NULL, 10);
    if (blocks == 0 || blocks > filled_count) {
        return fail("want 1 to %llu blocks", (unsigned long long)filled_count);
    }
    if (!order_draw()) {
        return false;
    }
    uint8_t *hashes = malloc(blocks * HASH_BYTES);
    if (hashes == NULL) {
        return fail("out of memory");
    }
    if (order_next + blocks > order_count) {
        order_next = 0;
    }
    for (uint64_t i = 0; i < blocks; i++) {
        hash_make(order[order_next + i], hashes + i * HASH_BYTES);
    }
    order_next += blocks;
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
