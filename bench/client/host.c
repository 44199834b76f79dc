/*
 * Puts and gets of whole batches, and the plain copy loops on the same memory.
 *
 * The "device" is one buffer of 2n blocks: puts read the first n, gets write the last n. The loops run between the
 * same buffer and slots that are reserved for them and aborted afterwards, so that the slots are ours while we write.
 */
#define _GNU_SOURCE
#include "client.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

static struct {
    uint64_t block_bytes;
    size_t count;
    char *device;
    kvt_copier *copier;
    uint8_t *hashes;
    kvt_slot *slots;
    kvt_transfer *transfers;
    uint64_t next;
} host;

static bool copier_open(void)
{
    kvt_status status = lib.kvt_copier_open_(KVT_BACKEND_HOST, 0, &host.copier);
    if (status != KVT_OK) {
        return fail("could not open a copier: %s", lib.kvt_status_name_(status));
    }
    kvt_page_run run = {host.device, host.block_bytes, host.block_bytes, 2 * host.count};
    status = lib.kvt_copier_group_set_(host.copier, 0, 1, &run, 1);
    if (status != KVT_OK) {
        return fail("could not describe the device's pages: %s", lib.kvt_status_name_(status));
    }
    return true;
}

/* host_begin BLOCK_BYTES COUNT FIRST: prepares batches of COUNT blocks, named FIRST and up. */
bool command_host_begin(struct engine *engine, const char *arguments)
{
    unsigned long long block_bytes, count, first;
    if (sscanf(arguments, "%llu %llu %llu", &block_bytes, &count, &first) != 3) {
        return fail("want BLOCK_BYTES COUNT FIRST");
    }
    host.block_bytes = block_bytes;
    host.count = count;
    host.next = first;
    size_t device_bytes = 2 * count * block_bytes;
    host.device = mmap(NULL, device_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    host.hashes = malloc(count * HASH_BYTES);
    host.slots = malloc(count * sizeof *host.slots);
    host.transfers = calloc(count, sizeof *host.transfers);
    if (host.device == MAP_FAILED || host.hashes == NULL || host.slots == NULL || host.transfers == NULL) {
        return fail("out of memory for %zu bytes of device buffers", device_bytes);
    }
    for (size_t i = 0; i < device_bytes; i += sizeof(uint64_t)) {
        uint64_t value = i * 0x9e3779b97f4a7c15ull;
        memcpy(host.device + i, &value, sizeof value);
    }
    /* An engine pins the region when it starts, which maps all its pages; no copy then meets a page fault. */
    if (madvise(engine->region_base, engine->region_bytes, MADV_POPULATE_WRITE) != 0) {
        return fail("could not map the region's pages");
    }
    return copier_open();
}

/* host_next: names the next batch, marks its bytes and clears the gets' half of the device. */
bool command_host_next(struct engine *engine, const char *arguments)
{
    (void)engine;
    (void)arguments;
    for (size_t i = 0; i < host.count; i++) {
        hash_make(host.next + i, host.hashes + i * HASH_BYTES);
        memcpy(host.device + i * host.block_bytes, &(uint64_t){host.next + i}, sizeof(uint64_t));
        memset(host.device + (host.count + i) * host.block_bytes, 0, sizeof(uint64_t));
    }
    host.next += host.count;
    return true;
}

static bool copy_batch(struct engine *engine, uint32_t direction, uint32_t first_device_block)
{
    for (size_t i = 0; i < host.count; i++) {
        host.transfers[i].slot = host.slots[i];
        host.transfers[i].device_block = first_device_block + (uint32_t)i;
        host.transfers[i].block_in_chunk = 0;
    }
    uint64_t tag = ++engine->tag;
    kvt_status status =
        lib.kvt_copy_submit_(host.copier, engine->worker, tag, direction, 0, host.transfers, host.count);
    if (status != KVT_OK) {
        return fail("copy: %s", lib.kvt_status_name_(status));
    }
    kvt_copy_result result;
    size_t done = 0;
    while (done == 0) {
        status = lib.kvt_copy_poll_(host.copier, &result, 1, &done);
        if (status != KVT_OK) {
            return fail("copy poll: %s", lib.kvt_status_name_(status));
        }
        if (done == 0) {
            lib.kvt_copy_wait_(host.copier, 100000);
        }
    }
    if (result.status != KVT_OK || result.bytes != host.count * host.block_bytes) {
        return fail("copied %llu bytes: %s", (unsigned long long)result.bytes, lib.kvt_status_name_(result.status));
    }
    return true;
}

/* The answer of a timed command: when it began and ended, and where the time went. */
static void answer_times(uint64_t start, uint64_t before_copy, uint64_t after_copy, uint64_t end)
{
    answer("%llu %llu %llu %llu %llu", (unsigned long long)start, (unsigned long long)end,
           (unsigned long long)(before_copy - start), (unsigned long long)(after_copy - before_copy),
           (unsigned long long)(end - after_copy));
}

/* put START: reserve, copy, seal. */
bool command_put(struct engine *engine, const char *arguments)
{
    start_at(strtoull(arguments, NULL, 10));
    uint64_t start = now_ns();
    if (!reserve(engine, host.hashes, host.count, host.slots)) {
        return false;
    }
    uint64_t before_copy = now_ns();
    if (!copy_batch(engine, KVT_COPY_STORE, 0)) {
        return false;
    }
    uint64_t after_copy = now_ns();
    if (!seal(engine, host.slots, host.count)) {
        return false;
    }
    answer_times(start, before_copy, after_copy, now_ns());
    return true;
}

static bool commit(struct engine *engine, uint64_t *lease)
{
    uint64_t hold = engine->tag;
    *lease = ++engine->tag;
    kvt_span span = {0, 0, (uint32_t)host.count};
    kvt_status status = lib.kvt_load_commit_(engine->scheduler, hold, *lease, &span, 1);
    if (status != KVT_OK) {
        return fail("commit: %s", lib.kvt_status_name_(status));
    }
    kvt_completion done;
    if (!await_completion(engine->scheduler, *lease, KVT_OP_LOAD, &done)) {
        return false;
    }
    if (done.value != 0 || done.slot_count != host.count) {
        return fail("%llu of %zu blocks were lost before the load", (unsigned long long)done.value, host.count);
    }
    memcpy(host.slots, done.slots, host.count * sizeof *host.slots);
    return true;
}

/* get START CHECK: look-up, commit, copy, release; if CHECK is 1, compares every byte afterwards. */
bool command_get(struct engine *engine, const char *arguments)
{
    unsigned long long start_ns = 0, compare = 0;
    sscanf(arguments, "%llu %llu", &start_ns, &compare);
    start_at(start_ns);
    uint64_t start = now_ns(), lease;
    kvt_completion done;
    if (!lookup_all(engine, host.hashes, host.count, &done) || !commit(engine, &lease)) {
        return false;
    }
    uint64_t before_copy = now_ns();
    if (!copy_batch(engine, KVT_COPY_LOAD, (uint32_t)host.count)) {
        return false;
    }
    uint64_t after_copy = now_ns();
    kvt_status status = lib.kvt_lease_release_(engine->scheduler, lease);
    if (status != KVT_OK) {
        return fail("release: %s", lib.kvt_status_name_(status));
    }
    answer_times(start, before_copy, after_copy, now_ns());
    size_t half = host.count * host.block_bytes;
    if (compare != 0 && memcmp(host.device, host.device + half, half) != 0) {
        return fail("the bytes that came back differ from those that were put");
    }
    return true;
}

/* reference_begin: reserves slots for the plain loops; answers the loops' names. */
bool command_reference_begin(struct engine *engine, const char *arguments)
{
    (void)arguments;
    uint8_t *hashes = malloc(host.count * HASH_BYTES);
    if (hashes == NULL) {
        return fail("out of memory");
    }
    for (size_t i = 0; i < host.count; i++) {
        hash_make(~(host.next + i), hashes + i * HASH_BYTES);
    }
    bool good = reserve(engine, hashes, host.count, host.slots);
    free(hashes);
    for (size_t i = 0; good && i < copy_loops_count; i++) {
        if (copy_loops[i].supported()) {
            answer("%s", copy_loops[i].name);
        }
    }
    return good;
}

static const struct copy_loop *loop_find(const char *name)
{
    for (size_t i = 0; i < copy_loops_count; i++) {
        if (strcmp(copy_loops[i].name, name) == 0) {
            return &copy_loops[i];
        }
    }
    return NULL;
}

/* reference LOOP DIRECTION START: the same copy by a plain loop; DIRECTION is put or get. */
bool command_reference(struct engine *engine, const char *arguments)
{
    char name[32], direction[8];
    unsigned long long start_ns;
    if (sscanf(arguments, "%31s %7s %llu", name, direction, &start_ns) != 3 || loop_find(name) == NULL) {
        return fail("want LOOP DIRECTION START");
    }
    const struct copy_loop *loop = loop_find(name);
    bool put = strcmp(direction, "put") == 0;
    start_at(start_ns);
    uint64_t start = now_ns();
    for (size_t i = 0; i < host.count; i++) {
        void *slot;
        uint64_t bytes;
        if (lib.kvt_slot_address_(engine->worker, host.slots[i], 0, &slot, &bytes) != KVT_OK) {
            return fail("slot %zu has no address", i);
        }
        char *device = host.device + (put ? i : host.count + i) * host.block_bytes;
        loop->copy(put ? slot : device, put ? device : slot, host.block_bytes);
    }
    answer_times(start, start, now_ns(), now_ns());
    return true;
}

/* reference_end: gives the loops' slots back. */
bool command_reference_end(struct engine *engine, const char *arguments)
{
    (void)arguments;
    return abort_slots(engine, host.slots, host.count);
}
