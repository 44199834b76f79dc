/* The CUDA driver as the bench uses it beside libkvtier: loaded at run time, each call checked. */
#ifndef KVTIER_BENCH_CUDA_H
#define KVTIER_BENCH_CUDA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CUDA_FUNCTIONS(use)                                                                                          \
    use(cuInit, (unsigned)) use(cuDeviceGet, (int *, int)) use(cuDevicePrimaryCtxRetain, (void **, int))             \
    use(cuCtxPushCurrent_v2, (void *)) use(cuMemAlloc_v2, (uint64_t *, size_t))                                      \
    use(cuMemHostAlloc, (void **, size_t, unsigned)) use(cuMemHostRegister_v2, (void *, size_t, unsigned))          \
    use(cuMemcpyHtoD_v2, (uint64_t, const void *, size_t))          \
    use(cuMemcpyDtoH_v2, (void *, uint64_t, size_t)) use(cuMemcpyAsync, (uint64_t, uint64_t, size_t, void *))        \
    use(cuStreamCreate, (void **, unsigned)) use(cuStreamSynchronize, (void *)) use(cuEventCreate, (void **, unsigned)) \
    use(cuEventRecord, (void *, void *)) use(cuEventSynchronize, (void *)) use(cuModuleLoadData, (void **, const void *)) \
    use(cuModuleGetFunction, (void **, void *, const char *)) use(cuGetErrorName, (int, const char **))              \
    use(cuLaunchKernel, (void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **, void **))

/* Kernels that may be queued at a time. */
#define CUDA_KERNELS_QUEUED 4

#define CUDA_DECLARE(name, arguments) int (*name) arguments;
struct cuda {
    CUDA_FUNCTIONS(CUDA_DECLARE)
    void *module;
    void *functions[2];
    void *events[CUDA_KERNELS_QUEUED];
    uint64_t buffer;
};
#undef CUDA_DECLARE

/* Loads the driver, NULL the system's, and makes the device's primary context current in this thread. */
bool cuda_open(struct cuda *cuda, const char *driver, int device);
bool cuda_allocate(struct cuda *cuda, uint64_t *memory, size_t bytes);
bool cuda_pinned(struct cuda *cuda, void **memory, size_t bytes);
/* Pins memory that is there already. */
bool cuda_pin(struct cuda *cuda, void *memory, size_t bytes);
bool cuda_stream(struct cuda *cuda, void **stream);
bool cuda_write(struct cuda *cuda, uint64_t target, const void *source, size_t bytes);
bool cuda_read(struct cuda *cuda, void *target, uint64_t source, size_t bytes);
bool cuda_copy(struct cuda *cuda, uint64_t target, uint64_t source, size_t bytes, void *stream);
bool cuda_wait(struct cuda *cuda, void *stream);
/* Queues a kernel, "arithmetic" or "memory", and waits until few enough are queued; `index` counts the launches. */
bool cuda_kernel(struct cuda *cuda, const char *name, void *stream, uint64_t index);

#endif
