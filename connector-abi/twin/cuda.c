/*
 * A stand-in for the CUDA driver library: the functions that libkvtier uses, on host memory, without a GPU.
 *
 * Streams are threads that carry out their work in order and as late as they are told; events say when. The device's memory
 * is memory of this process, but the stand-in is as strict as a device: it copies only between memory that it allocated
 * and memory that is pinned, never across two pinned pieces, and only in a thread where a context is current. What a program must
 * not do although a device would not tell (pinned memory that is taken away under a copy, a call that would spoil a
 * graph's capture) is counted as a violation.
 *
 * Any call can be made to fail: twin_fail. The functions named twin_* are for tests and the bench alone. Each copy of the
 * library in a process is a driver of its own. It frees neither streams nor events, so that use after destruction is noticed.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef int status;
typedef uint64_t address;

enum {
    OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, INVALID_DEVICE = 101, INVALID_CONTEXT = 201,
    INVALID_HANDLE = 400, NOT_FOUND = 500, NOT_READY = 600, ALREADY_REGISTERED = 712, NOT_REGISTERED = 713,
    NOT_SUPPORTED = 801, CAPTURE_UNSUPPORTED = 900,
};
enum { DEVICES = 2, FAILS_MAX = 16, CALLS_MAX = 64, DEPTH_MAX = 16, MODE_GLOBAL = 0 };

struct range { struct range *next; address base; size_t bytes; int device; };
struct context { int device, retained; };
struct event { int magic; bool destroyed; uint64_t asked, reached; };
struct work {
    struct work *next;
    enum { COPY, SET, RECORD, WAIT, PAUSE } kind;
    size_t count;
    address *targets, *sources;
    size_t *sizes;
    struct event *event;
    uint64_t value;
};
struct stream { int magic; bool started, destroyed, busy, capturing; struct work *first, **last; };
struct failure { char call[40]; int after, code; };
struct count { char call[40]; uint64_t times; };

#define STREAM_MAGIC 0x5374726d
#define EVENT_MAGIC 0x45766e74

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static struct range *device_memory, *pinned, *allocated;
static struct context primary[DEVICES];
static struct stream legacy = {.magic = STREAM_MAGIC};
static struct failure failures[FAILS_MAX];
static struct count calls[CALLS_MAX];
static int version = 13000, lost, violations, initialized;
static bool global_capture, held;
static unsigned delay_us;
static char last_violation[200];
static __thread struct context *stack[DEPTH_MAX];
static __thread int depth, mode = MODE_GLOBAL;

static void violation(const char *format, ...)
{
    va_list list;
    va_start(list, format);
    vsnprintf(last_violation, sizeof last_violation, format, list);
    va_end(list);
    violations++;
}

/* What every call does first, under the lock: counts itself and finds out whether it shall fail. */
static status begin(const char *call, bool context_needed, bool unsafe_in_capture)
{
    for (int i = 0; i < CALLS_MAX; i++) {
        if (!calls[i].call[0])
            snprintf(calls[i].call, sizeof calls[i].call, "%s", call);
        if (!strcmp(calls[i].call, call)) {
            calls[i].times++;
            break;
        }
    }
    if (lost)
        return lost;
    for (int i = 0; i < FAILS_MAX; i++) {
        if (strcmp(failures[i].call, call))
            continue;
        if (failures[i].after-- == 0) {
            failures[i].call[0] = 0;
            return failures[i].code;
        }
    }
    if (!initialized && strcmp(call, "cuInit"))
        return NOT_INITIALIZED;
    if (context_needed && !depth)
        return INVALID_CONTEXT;
    if (unsafe_in_capture && global_capture && mode == MODE_GLOBAL) {
        violation("%s spoiled a capture", call);
        return CAPTURE_UNSUPPORTED;
    }
    return OK;
}

/* Runs `body` under the lock unless the call fails at once. */
#define CALL(context_needed, unsafe_in_capture, body)                                                                   \
    pthread_mutex_lock(&lock);                                                                                         \
    status answer = begin(__func__, context_needed, unsafe_in_capture);                                                \
    if (answer == OK) {                                                                                                \
        body                                                                                                           \
    }                                                                                                                  \
    pthread_mutex_unlock(&lock);                                                                                       \
    return answer

static struct range *find(struct range *list, address at, size_t bytes)
{
    for (; list; list = list->next)
        if (at >= list->base && at + bytes <= list->base + list->bytes)
            return list;
    return NULL;
}

static bool take(struct range **list, address base)
{
    for (; *list; list = &(*list)->next) {
        if ((*list)->base == base) {
            struct range *gone = *list;
            *list = gone->next;
            free(gone);
            return true;
        }
    }
    return false;
}

static void add(struct range **list, address base, size_t bytes, int device)
{
    struct range *range = malloc(sizeof *range);
    *range = (struct range){*list, base, bytes, device};
    *list = range;
}

static bool is_host(address at, size_t bytes)
{
    return find(pinned, at, bytes) || find(allocated, at, bytes);
}

static bool may_copy(address target, address source, size_t bytes)
{
    bool store = find(device_memory, source, bytes) && is_host(target, bytes);
    bool load = find(device_memory, target, bytes) && is_host(source, bytes);
    return bytes && (store || load);
}

/* Streams */

static void carry_out(struct work *work)
{
    if (delay_us && (work->kind == COPY || work->kind == SET)) {
        pthread_mutex_unlock(&lock);
        usleep(delay_us);
        pthread_mutex_lock(&lock);
    }
    switch (work->kind) {
    case COPY:
        for (size_t i = 0; i < work->count && !lost; i++) {
            if (!may_copy(work->targets[i], work->sources[i], work->sizes[i])) {
                violation("memory was taken away under a copy");
                continue;
            }
            memcpy((void *)work->targets[i], (void *)work->sources[i], work->sizes[i]);
        }
        break;
    case SET:
        if (find(device_memory, work->targets[0], work->sizes[0]))
            memset((void *)work->targets[0], (int)work->value, work->sizes[0]);
        break;
    case PAUSE:
        pthread_mutex_unlock(&lock);
        usleep((useconds_t)work->value);
        pthread_mutex_lock(&lock);
        break;
    case RECORD:
        if (work->event->reached < work->value)
            work->event->reached = work->value;
        break;
    case WAIT:
        while (work->event->reached < work->value && !lost)
            pthread_cond_wait(&changed, &lock);
        break;
    }
}

static void *run(void *argument)
{
    struct stream *stream = argument;
    pthread_mutex_lock(&lock);
    while (!stream->destroyed || stream->first) {
        struct work *work = stream->first;
        if (!work || lost) {
            pthread_cond_wait(&changed, &lock);
            continue;
        }
        stream->busy = true;
        carry_out(work);
        if (lost)
            continue;
        stream->first = work->next;
        if (!stream->first)
            stream->last = &stream->first;
        stream->busy = false;
        free(work->targets);
        free(work->sources);
        free(work->sizes);
        free(work);
        pthread_cond_broadcast(&changed);
    }
    pthread_mutex_unlock(&lock);
    return NULL;
}

static void *copied(const void *from, size_t bytes)
{
    return memcpy(malloc(bytes ? bytes : 1), from, bytes);
}

static status give(struct stream *stream, struct work work)
{
    if (stream->destroyed)
        violation("a destroyed stream was used");
    if (!stream->started) {
        pthread_t thread;
        stream->started = true;
        stream->last = &stream->first;
        if (pthread_create(&thread, NULL, run, stream))
            abort();
        pthread_detach(thread);
    }
    struct work *own = copied(&work, sizeof work);
    own->next = NULL;
    *stream->last = own;
    stream->last = &own->next;
    pthread_cond_broadcast(&changed);
    return OK;
}

static struct stream *stream_of(void *handle)
{
    struct stream *stream = handle ? handle : &legacy;
    return stream->magic == STREAM_MAGIC ? stream : NULL;
}

static struct event *event_of(void *handle)
{
    struct event *event = handle;
    if (!event || event->magic != EVENT_MAGIC)
        return NULL;
    if (event->destroyed)
        violation("a destroyed event was used");
    return event;
}

static status give_copies(struct stream *stream, const address *targets, const address *sources, const size_t *sizes,
                          size_t count)
{
    if (!stream || !count)
        return INVALID_VALUE;
    for (size_t i = 0; i < count; i++)
        if (!may_copy(targets[i], sources[i], sizes[i]))
            return INVALID_VALUE;
    return give(stream, (struct work){.kind = COPY, .count = count, .targets = copied(targets, count * sizeof *targets),
                                      .sources = copied(sources, count * sizeof *sources),
                                      .sizes = copied(sizes, count * sizeof *sizes)});
}

/* The driver's functions: start, devices, contexts */

status cuInit(unsigned flags)
{
    CALL(false, false, { initialized = 1; if (flags) answer = INVALID_VALUE; });
}

status cuDriverGetVersion(int *found)
{
    *found = version;
    return OK;
}

status cuDeviceGet(int *device, int ordinal)
{
    CALL(false, false, {
        if (ordinal < 0 || ordinal >= DEVICES)
            answer = INVALID_DEVICE;
        else
            *device = ordinal;
    });
}

status cuDeviceGetName(char *name, int bytes, int device)
{
    CALL(false, false, { snprintf(name, (size_t)bytes, "stand-in %d", device); });
}

status cuDevicePrimaryCtxRetain(void **context, int device)
{
    CALL(false, false, {
        primary[device].device = device;
        primary[device].retained++;
        *context = &primary[device];
    });
}

status cuDevicePrimaryCtxRelease_v2(int device)
{
    CALL(false, false, {
        if (primary[device].retained-- <= 0)
            violation("a context was released more often than retained");
    });
}

status cuCtxGetCurrent(void **context)
{
    CALL(false, false, { *context = depth ? stack[depth - 1] : NULL; });
}

status cuCtxGetDevice(int *device)
{
    CALL(true, false, { *device = stack[depth - 1]->device; });
}

status cuCtxPushCurrent_v2(void *context)
{
    CALL(false, false, {
        if (depth == DEPTH_MAX)
            answer = INVALID_VALUE;
        else
            stack[depth++] = context;
    });
}

status cuCtxPopCurrent_v2(void **context)
{
    pthread_mutex_lock(&lock);
    status answer = depth ? OK : INVALID_CONTEXT;
    if (depth)
        *context = stack[--depth];
    pthread_mutex_unlock(&lock);
    return answer;
}

status cuThreadExchangeStreamCaptureMode(int *exchanged)
{
    CALL(false, false, {
        int before = mode;
        mode = *exchanged;
        *exchanged = before;
    });
}

/* Streams and events */

status cuStreamCreate(void **handle, unsigned flags)
{
    (void)flags;
    CALL(true, true, {
        struct stream *stream = calloc(1, sizeof *stream);
        stream->magic = STREAM_MAGIC;
        *handle = stream;
    });
}

status cuStreamDestroy_v2(void *handle)
{
    CALL(true, true, {
        struct stream *stream = stream_of(handle);
        if (!stream || stream == &legacy) {
            answer = INVALID_HANDLE;
        } else {
            stream->destroyed = true;
            pthread_cond_broadcast(&changed);
        }
    });
}

status cuStreamWaitEvent(void *handle, void *event_handle, unsigned flags)
{
    (void)flags;
    CALL(true, false, {
        struct stream *stream = stream_of(handle);
        struct event *event = event_of(event_handle);
        answer = stream && event ? give(stream, (struct work){.kind = WAIT, .event = event, .value = event->asked})
                                 : INVALID_HANDLE;
    });
}

status cuStreamSynchronize(void *handle)
{
    CALL(true, true, {
        struct stream *stream = stream_of(handle);
        while (stream && (stream->first || stream->busy) && !lost)
            pthread_cond_wait(&changed, &lock);
        answer = stream ? lost : INVALID_HANDLE;
    });
}

status cuStreamIsCapturing(void *handle, int *state)
{
    CALL(true, false, { *state = stream_of(handle) && stream_of(handle)->capturing; });
}

status cuEventCreate(void **handle, unsigned flags)
{
    (void)flags;
    CALL(true, false, {
        struct event *event = calloc(1, sizeof *event);
        event->magic = EVENT_MAGIC;
        *handle = event;
    });
}

status cuEventDestroy_v2(void *handle)
{
    CALL(true, false, {
        struct event *event = event_of(handle);
        if (event)
            event->destroyed = true;
        else
            answer = INVALID_HANDLE;
    });
}

status cuEventRecord(void *handle, void *stream_handle)
{
    CALL(true, false, {
        struct event *event = event_of(handle);
        struct stream *stream = stream_of(stream_handle);
        if (!event || !stream) {
            answer = INVALID_HANDLE;
        } else {
            if (stream->capturing)
                violation("an event was recorded into a graph");
            give(stream, (struct work){.kind = RECORD, .event = event, .value = ++event->asked});
        }
    });
}

status cuEventQuery(void *handle)
{
    CALL(true, true, {
        struct event *event = event_of(handle);
        answer = !event ? INVALID_HANDLE : event->reached < event->asked ? NOT_READY : OK;
    });
}

status cuEventSynchronize(void *handle)
{
    CALL(true, true, {
        struct event *event = event_of(handle);
        while (event && event->reached < event->asked && !lost)
            pthread_cond_wait(&changed, &lock);
        answer = event ? lost : INVALID_HANDLE;
    });
}

#include "memory.inc"
