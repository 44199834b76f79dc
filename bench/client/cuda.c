/* The CUDA driver, and two kernels that are in an offload's way: one computes, one streams memory. */
#define _GNU_SOURCE
#include "cuda.h"
#include "client.h"

#include <dlfcn.h>
#include <string.h>

/* What a kernel touches. */
#define BUFFER_BYTES (256u << 20)
#define GRID 1024u
#define THREADS 256u
#define ARITHMETIC_ROUNDS 8192u

/*
 * arithmetic(buffer, n): n fused multiply-adds in a row, in every thread.
 * memory(buffer, n): adds 1 to n floats, 4 at a time, all threads striding through them together.
 */
static const char kernels[] =
    ".version 7.0\n.target sm_70\n.address_size 64\n"
    ".visible .entry arithmetic(.param .u64 buffer, .param .u32 n)\n{\n"
    " .reg .f32 %f<2>;\n .reg .b32 %r<6>;\n .reg .b64 %d<4>;\n .reg .pred %p;\n"
    " ld.param.u64 %d1, [buffer];\n ld.param.u32 %r1, [n];\n cvta.to.global.u64 %d1, %d1;\n"
    " mov.u32 %r2, %tid.x;\n mov.u32 %r3, %ctaid.x;\n mov.u32 %r4, %ntid.x;\n mad.lo.u32 %r2, %r3, %r4, %r2;\n"
    " cvt.rn.f32.u32 %f1, %r2;\n mov.u32 %r5, 0;\n"
    "again:\n fma.rn.f32 %f1, %f1, 0f3F7FFFEF, 0f3A83126F;\n add.u32 %r5, %r5, 1;\n setp.lt.u32 %p, %r5, %r1;\n"
    " @%p bra again;\n"
    " mul.wide.u32 %d2, %r2, 4;\n add.u64 %d3, %d1, %d2;\n st.global.f32 [%d3], %f1;\n ret;\n}\n"
    ".visible .entry memory(.param .u64 buffer, .param .u32 n)\n{\n"
    " .reg .f32 %f<5>;\n .reg .b32 %r<8>;\n .reg .b64 %d<4>;\n .reg .pred %p;\n"
    " ld.param.u64 %d1, [buffer];\n ld.param.u32 %r1, [n];\n cvta.to.global.u64 %d1, %d1;\n"
    " mov.u32 %r2, %tid.x;\n mov.u32 %r3, %ctaid.x;\n mov.u32 %r4, %ntid.x;\n mov.u32 %r6, %nctaid.x;\n"
    " mad.lo.u32 %r2, %r3, %r4, %r2;\n mul.lo.u32 %r7, %r4, %r6;\n shl.b32 %r2, %r2, 2;\n shl.b32 %r7, %r7, 2;\n"
    "again:\n setp.ge.u32 %p, %r2, %r1;\n @%p bra done;\n"
    " mul.wide.u32 %d2, %r2, 4;\n add.u64 %d3, %d1, %d2;\n ld.global.v4.f32 {%f1, %f2, %f3, %f4}, [%d3];\n"
    " add.f32 %f1, %f1, 0f3F800000;\n add.f32 %f2, %f2, 0f3F800000;\n add.f32 %f3, %f3, 0f3F800000;\n"
    " add.f32 %f4, %f4, 0f3F800000;\n st.global.v4.f32 [%d3], {%f1, %f2, %f3, %f4};\n"
    " add.u32 %r2, %r2, %r7;\n bra again;\ndone:\n ret;\n}\n";

static bool check(struct cuda *cuda, const char *what, int status)
{
    if (status == 0) {
        return true;
    }
    const char *name = NULL;
    cuda->cuGetErrorName(status, &name);
    return fail("%s: %s (%d)", what, name ? name : "unknown", status);
}

#define DO(call, ...) check(cuda, #call, cuda->call(__VA_ARGS__))

bool cuda_open(struct cuda *cuda, const char *driver, int number)
{
    void *handle = dlopen(driver ? driver : "libcuda.so.1", RTLD_NOW | RTLD_LOCAL), *context;
    if (handle == NULL) {
        return fail("no CUDA driver: %s", dlerror());
    }
/* As in library.c: a function's address survives the way through void *. */
#define LOAD(name, arguments)                              \
    do {                                                   \
        void *found = dlsym(handle, #name);                \
        if (found == NULL) {                               \
            return fail("the CUDA driver lacks " #name);   \
        }                                                  \
        memcpy(&cuda->name, &found, sizeof(found));        \
    } while (0);
    CUDA_FUNCTIONS(LOAD)
#undef LOAD
    int device;
    if (!DO(cuInit, 0) || !DO(cuDeviceGet, &device, number) || !DO(cuDevicePrimaryCtxRetain, &context, device) ||
        !DO(cuCtxPushCurrent_v2, context) || !DO(cuModuleLoadData, &cuda->module, kernels) ||
        !DO(cuModuleGetFunction, &cuda->functions[0], cuda->module, "arithmetic") ||
        !DO(cuModuleGetFunction, &cuda->functions[1], cuda->module, "memory")) {
        return false;
    }
    for (size_t i = 0; i < CUDA_KERNELS_QUEUED; i++) {
        if (!DO(cuEventCreate, &cuda->events[i], 2)) {
            return false;
        }
    }
    return DO(cuMemAlloc_v2, &cuda->buffer, BUFFER_BYTES);
}

bool cuda_allocate(struct cuda *cuda, uint64_t *memory, size_t bytes)
{
    return DO(cuMemAlloc_v2, memory, bytes);
}

bool cuda_pinned(struct cuda *cuda, void **memory, size_t bytes)
{
    return DO(cuMemHostAlloc, memory, bytes, 0);
}

bool cuda_pin(struct cuda *cuda, void *memory, size_t bytes)
{
    return DO(cuMemHostRegister_v2, memory, bytes, 0);
}

bool cuda_stream(struct cuda *cuda, void **stream)
{
    return DO(cuStreamCreate, stream, 1);
}

bool cuda_write(struct cuda *cuda, uint64_t target, const void *source, size_t bytes)
{
    return DO(cuMemcpyHtoD_v2, target, source, bytes);
}

bool cuda_read(struct cuda *cuda, void *target, uint64_t source, size_t bytes)
{
    return DO(cuMemcpyDtoH_v2, target, source, bytes);
}

bool cuda_copy(struct cuda *cuda, uint64_t target, uint64_t source, size_t bytes, void *stream)
{
    return DO(cuMemcpyAsync, target, source, bytes, stream);
}

bool cuda_wait(struct cuda *cuda, void *stream)
{
    return DO(cuStreamSynchronize, stream);
}

bool cuda_kernel(struct cuda *cuda, const char *name, void *stream, uint64_t index)
{
    bool memory = strcmp(name, "memory") == 0;
    unsigned count = memory ? BUFFER_BYTES / 4u : ARITHMETIC_ROUNDS;
    void *parameters[] = {&cuda->buffer, &count};
    void *event = cuda->events[index % CUDA_KERNELS_QUEUED];
    return (index < CUDA_KERNELS_QUEUED || DO(cuEventSynchronize, event)) &&
           DO(cuLaunchKernel, cuda->functions[memory], GRID, 1, 1, THREADS, 1, 1, 0, stream, parameters, NULL) &&
           DO(cuEventRecord, event, stream);
}
