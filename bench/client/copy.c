/* Plain copy loops: what the memory can do when nobody keeps books. The best of them is the reference. */
#define _GNU_SOURCE
#include "client.h"

#include <string.h>

static bool always(void)
{
    return true;
}

static void copy_memcpy(void *target, const void *source, size_t bytes)
{
    memcpy(target, source, bytes);
}

#if defined(__x86_64__)
#include <immintrin.h>

static bool has_avx2(void)
{
    return __builtin_cpu_supports("avx2");
}

static bool has_avx512(void)
{
    return __builtin_cpu_supports("avx512f");
}

static void copy_rep_movsb(void *target, const void *source, size_t bytes)
{
    __asm__ volatile("rep movsb" : "+D"(target), "+S"(source), "+c"(bytes) : : "memory");
}

/* Streams whole lines past the caches. Blocks and slots begin at a page, so alignment is given. */
__attribute__((target("avx2"))) static void copy_stream_avx2(void *target, const void *source, size_t bytes)
{
    __m256i *to = target;
    const __m256i *from = source;
    for (size_t i = 0; i < bytes / 32; i += 4) {
        __m256i a = _mm256_load_si256(from + i);
        __m256i b = _mm256_load_si256(from + i + 1);
        __m256i c = _mm256_load_si256(from + i + 2);
        __m256i d = _mm256_load_si256(from + i + 3);
        _mm256_stream_si256(to + i, a);
        _mm256_stream_si256(to + i + 1, b);
        _mm256_stream_si256(to + i + 2, c);
        _mm256_stream_si256(to + i + 3, d);
    }
    _mm_sfence();
}

__attribute__((target("avx512f"))) static void copy_stream_avx512(void *target, const void *source, size_t bytes)
{
    __m512i *to = target;
    const __m512i *from = source;
    for (size_t i = 0; i < bytes / 64; i += 4) {
        __m512i a = _mm512_load_si512(from + i);
        __m512i b = _mm512_load_si512(from + i + 1);
        __m512i c = _mm512_load_si512(from + i + 2);
        __m512i d = _mm512_load_si512(from + i + 3);
        _mm512_stream_si512(to + i, a);
        _mm512_stream_si512(to + i + 1, b);
        _mm512_stream_si512(to + i + 2, c);
        _mm512_stream_si512(to + i + 3, d);
    }
    _mm_sfence();
}

/* The same with a prefetch far ahead, past the end of the page that the hardware's own prefetcher stops at. */
__attribute__((target("avx2"))) static void copy_stream_prefetch(void *target, const void *source, size_t bytes)
{
    __m256i *to = target;
    const __m256i *from = source;
    for (size_t i = 0; i < bytes / 32; i += 4) {
        _mm_prefetch((const char *)(from + i) + 2048, _MM_HINT_T0);
        _mm_prefetch((const char *)(from + i) + 2112, _MM_HINT_T0);
        __m256i a = _mm256_load_si256(from + i);
        __m256i b = _mm256_load_si256(from + i + 1);
        __m256i c = _mm256_load_si256(from + i + 2);
        __m256i d = _mm256_load_si256(from + i + 3);
        _mm256_stream_si256(to + i, a);
        _mm256_stream_si256(to + i + 1, b);
        _mm256_stream_si256(to + i + 2, c);
        _mm256_stream_si256(to + i + 3, d);
    }
    _mm_sfence();
}

const struct copy_loop copy_loops[] = {
    {"memcpy", copy_memcpy, always},
    {"rep_movsb", copy_rep_movsb, always},
    {"stream_avx2", copy_stream_avx2, has_avx2},
    {"stream_avx512", copy_stream_avx512, has_avx512},
    {"stream_prefetch", copy_stream_prefetch, has_avx2},
};
#else
const struct copy_loop copy_loops[] = {{"memcpy", copy_memcpy, always}};
#endif

const size_t copy_loops_count = sizeof copy_loops / sizeof copy_loops[0];
