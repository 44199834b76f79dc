/*
 * Copies between a CUDA device's memory and slots, through libkvtier, beside plain copies by the driver and beside kernels.
 *
 * The slots are reserved for all of it and aborted at the end, so that they are ours while the device writes; nobody ever
 * finds them. The driver is loaded at run time: this program needs no CUDA to be built.
 */
#define _GNU_SOURCE
#include "client.h"
#include "cuda.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WAIT_NS 60000000000ull
#define UNDER_WAY_MAX 2

static struct {
    struct cuda cuda;
    kvt_copier *copier;
    size_t count;
    size_t pieces;
    uint64_t block_bytes;
    uint64_t *tensors;
    kvt_slot *slots;
    kvt_transfer *transfers;
    /* What a plain copy moves: the same number of bytes in one piece. */
    uint64_t plain_device;
    void *plain_host;
    void *streams[2];
    char *pattern;
} device;

static bool copier_fail(const char *what, kvt_status status)
{
    const char *error = device.copier ? lib.kvt_copier_error_(device.copier) : "";
    const char *trouble = device.copier ? lib.kvt_copier_trouble_(device.copier) : "";
    return fail("%s: %s %s %s", what, lib.kvt_status_name_(status), error, trouble);
}

static bool allocate(struct engine *engine)
{
    uint64_t piece_bytes = device.block_bytes / device.pieces, total = device.count * device.block_bytes;
    device.tensors = calloc(device.pieces, sizeof *device.tensors);
    device.slots = malloc(device.count * sizeof *device.slots);
    device.transfers = calloc(device.count, sizeof *device.transfers);
    device.pattern = malloc(total);
    uint8_t *hashes = malloc(device.count * HASH_BYTES);
    if (!device.tensors || !device.slots || !device.transfers || !device.pattern || !hashes) {
        return fail("out of memory");
    }
    for (size_t i = 0; i < total; i += sizeof(uint64_t)) {
        memcpy(device.pattern + i, &(uint64_t){i * 0x9e3779b97f4a7c15ull + 1}, sizeof(uint64_t));
    }
    for (size_t i = 0; i < device.pieces; i++) {
        if (!cuda_allocate(&device.cuda, &device.tensors[i], device.count * piece_bytes)) {
            return false;
        }
    }
    for (size_t i = 0; i < device.count; i++) {
        hash_make(~(uint64_t)i, hashes + i * HASH_BYTES);
    }
    bool good = reserve(engine, hashes, device.count, device.slots);
    free(hashes);
    return good && cuda_allocate(&device.cuda, &device.plain_device, total) &&
           cuda_pinned(&device.cuda, &device.plain_host, total) && cuda_stream(&device.cuda, &device.streams[0]) &&
           cuda_stream(&device.cuda, &device.streams[1]);
}

static bool open_copier(struct engine *engine, const char *driver, int number)
{
    kvt_copier_options options = {0};
    options.struct_bytes = sizeof options;
    options.backend = KVT_BACKEND_CUDA;
    options.device = number;
    options.driver_path = driver;
    char text[512] = "";
    kvt_status status = lib.kvt_copier_open_with_(&options, &device.copier, text, sizeof text);
    if (status != KVT_OK) {
        return fail("%s", text);
    }
    kvt_page_run *runs = calloc(device.pieces, sizeof *runs);
    uint64_t piece_bytes = device.block_bytes / device.pieces;
    for (size_t i = 0; runs && i < device.pieces; i++) {
        runs[i] = (kvt_page_run){(void *)device.tensors[i], piece_bytes, piece_bytes, device.count};
    }
    status = runs ? lib.kvt_copier_group_set_(device.copier, 0, 1, runs, device.pieces) : KVT_IO;
    free(runs);
    if (status == KVT_OK) {
        status = lib.kvt_copier_prepare_(device.copier, engine->worker);
    }
    return status == KVT_OK || copier_fail("the copier cannot be made ready", status);
}

/* device_begin DRIVER DEVICE BLOCK_BYTES COUNT PIECES: allocates and pins; answers the pinned bytes, the microseconds that took,
   whether pieces go in batches, and the device's name. DRIVER - is the system's. */
bool command_device_begin(struct engine *engine, const char *arguments)
{
    char driver[1024];
    int number;
    unsigned long long block_bytes, count, pieces;
    if (sscanf(arguments, "%1023s %d %llu %llu %llu", driver, &number, &block_bytes, &count, &pieces) != 5) {
        return fail("want DRIVER DEVICE BLOCK_BYTES COUNT PIECES");
    }
    device.block_bytes = block_bytes;
    device.count = count;
    device.pieces = pieces;
    const char *path = strcmp(driver, "-") == 0 ? NULL : driver;
    if (!cuda_open(&device.cuda, path, number) || !allocate(engine) || !open_copier(engine, path, number)) {
        return false;
    }
    kvt_copier_info info;
    do {
        memset(&info, 0, sizeof info);
        info.struct_bytes = sizeof info;
        kvt_status status = lib.kvt_copier_info_get_(device.copier, &info);
        if (status != KVT_OK) {
            return copier_fail("info", status);
        }
    } while (info.pinning == KVT_PINNING_UNDER_WAY);
    if (info.pinning != KVT_PINNING_DONE) {
        return copier_fail("the region is not pinned", KVT_DEVICE_ERROR);
    }
    answer("%llu %llu %u %s", (unsigned long long)info.pinned_bytes, (unsigned long long)info.pinning_us, info.batched,
           info.device);
    return true;
}

static bool submit(struct engine *engine, uint32_t direction, size_t first, size_t count)
{
    for (size_t i = first; i < first + count; i++) {
        device.transfers[i].slot = device.slots[i];
        device.transfers[i].device_block = (uint32_t)i;
    }
    kvt_status status = lib.kvt_copy_submit_after_(device.copier, engine->worker, ++engine->tag, direction, 0,
                                                   device.transfers + first, count, KVT_AFTER_NOTHING, 0);
    return status == KVT_OK || copier_fail("copy", status);
}

/* Takes a result; `*bytes` is 0 if there is none. */
static bool poll_once(uint64_t *bytes)
{
    kvt_copy_result result;
    size_t done = 0;
    *bytes = 0;
    kvt_status status = lib.kvt_copy_poll_(device.copier, &result, 1, &done);
    if (status != KVT_OK || (done && result.status != KVT_OK)) {
        return copier_fail("copy", status != KVT_OK ? status : result.status);
    }
    *bytes = done ? result.bytes : 0;
    return true;
}

static bool finish(size_t batches)
{
    uint64_t until = now_ns() + WAIT_NS, bytes;
    while (batches > 0) {
        if (!poll_once(&bytes)) {
            return false;
        }
        batches -= bytes > 0;
        if (now_ns() > until) {
            return fail("a copy does not end");
        }
    }
    return true;
}

enum way { STORE, LOAD, BOTH, NONE };

static bool parse_way(const char *name, enum way *way)
{
    static const char *const names[] = {"store", "load", "both", "none"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strcmp(names[i], name) == 0) {
            *way = (enum way)i;
            return true;
        }
    }
    return fail("want store, load, both or none, got %s", name);
}

/* device_copy WAY COUNT: copies the first COUNT blocks, or half of them each way at once; answers nanoseconds. */
bool command_device_copy(struct engine *engine, const char *arguments)
{
    char name[8];
    unsigned long long count;
    enum way way = NONE;
    if (sscanf(arguments, "%7s %llu", name, &count) != 2 || count > device.count) {
        return fail("want WAY COUNT");
    }
    if (!parse_way(name, &way)) {
        return false;
    }
    uint64_t start = now_ns();
    bool good = way == BOTH ? submit(engine, KVT_COPY_STORE, 0, count / 2) &&
                                  submit(engine, KVT_COPY_LOAD, count / 2, count - count / 2)
                            : submit(engine, way == STORE ? KVT_COPY_STORE : KVT_COPY_LOAD, 0, count);
    if (!good || !finish(way == BOTH ? 2 : 1)) {
        return false;
    }
    answer("%llu", (unsigned long long)(now_ns() - start));
    return true;
}

/* device_plain WAY BYTES: the same as one plain copy by the driver, or two at once; answers nanoseconds. */
bool command_device_plain(struct engine *engine, const char *arguments)
{
    (void)engine;
    char name[8];
    unsigned long long bytes;
    enum way way = NONE;
    if (sscanf(arguments, "%7s %llu", name, &bytes) != 2 || !parse_way(name, &way)) {
        return fail("want WAY BYTES");
    }
    uint64_t half = way == BOTH ? bytes / 2 : bytes, host = (uint64_t)device.plain_host;
    uint64_t start = now_ns();
    bool good = way == LOAD || cuda_copy(&device.cuda, host, device.plain_device, half, device.streams[0]);
    if (good && way == BOTH) {
        good = cuda_copy(&device.cuda, device.plain_device + half, host + half, bytes - half, device.streams[1]);
    } else if (good && way == LOAD) {
        good = cuda_copy(&device.cuda, device.plain_device, host, half, device.streams[0]);
    }
    if (!good || !cuda_wait(&device.cuda, device.streams[0]) || !cuda_wait(&device.cuda, device.streams[1])) {
        return false;
    }
    answer("%llu", (unsigned long long)(now_ns() - start));
    return true;
}

/* device_check: a pattern goes to the device, from there to slots and back into cleared memory, and is compared. */
bool command_device_check(struct engine *engine, const char *arguments)
{
    (void)arguments;
    uint64_t tensor_bytes = device.count * (device.block_bytes / device.pieces);
    char *found = calloc(1, tensor_bytes);
    bool good = found != NULL || fail("out of memory");
    for (size_t i = 0; good && i < device.pieces; i++) {
        good = cuda_write(&device.cuda, device.tensors[i], device.pattern + i * tensor_bytes, tensor_bytes);
    }
    good = good && submit(engine, KVT_COPY_STORE, 0, device.count) && finish(1);
    for (size_t i = 0; good && i < device.pieces; i++) {
        good = cuda_write(&device.cuda, device.tensors[i], found, tensor_bytes);
    }
    good = good && submit(engine, KVT_COPY_LOAD, 0, device.count) && finish(1);
    for (size_t i = 0; good && i < device.pieces; i++) {
        good = cuda_read(&device.cuda, found, device.tensors[i], tensor_bytes) &&
               (memcmp(found, device.pattern + i * tensor_bytes, tensor_bytes) == 0 ||
                fail("tensor %zu came back with other bytes", i));
    }
    free(found);
    return good;
}

/* device_compute MILLISECONDS KERNEL WAY: runs a kernel over and over while copies go on; answers kernels, nanoseconds and
   bytes copied. */
bool command_device_compute(struct engine *engine, const char *arguments)
{
    char kernel[16], name[8];
    unsigned long long milliseconds;
    enum way way = NONE;
    if (sscanf(arguments, "%llu %15s %7s", &milliseconds, kernel, name) != 3 || !parse_way(name, &way)) {
        return fail("want MILLISECONDS KERNEL WAY");
    }
    size_t under_way = 0, submitted = 0, half = device.count / 2;
    uint64_t start = now_ns(), until = start + milliseconds * 1000000u, kernels = 0, copied = 0, bytes;
    while (now_ns() < until) {
        while (way != NONE && under_way < UNDER_WAY_MAX) {
            /* Both ways at once, each has its own half of the blocks. */
            bool store = way == STORE || (way == BOTH && submitted++ % 2 == 0);
            if (!submit(engine, store ? KVT_COPY_STORE : KVT_COPY_LOAD, store ? 0 : half, half)) {
                return false;
            }
            under_way++;
        }
        if (!cuda_kernel(&device.cuda, kernel, device.streams[0], kernels) || (way != NONE && !poll_once(&bytes))) {
            return false;
        }
        kernels++;
        if (way != NONE && bytes > 0) {
            copied += bytes;
            under_way--;
        }
    }
    if (!cuda_wait(&device.cuda, device.streams[0])) {
        return false;
    }
    uint64_t end = now_ns();
    answer("%llu %llu %llu", (unsigned long long)kernels, (unsigned long long)(end - start), (unsigned long long)copied);
    return finish(under_way);
}

/* device_end: gives the slots back. The process's end gives back the rest. */
bool command_device_end(struct engine *engine, const char *arguments)
{
    (void)arguments;
    kvt_status status = lib.kvt_copier_close_(device.copier);
    device.copier = NULL;
    return (status == KVT_OK || fail("close: %s", lib.kvt_status_name_(status))) &&
           abort_slots(engine, device.slots, device.count);
}
