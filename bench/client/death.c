/*
 * Does a device still write into shared memory when the process that told it to is proven dead?
 *
 * A child pins shared memory and has the device write into it without a pause. It is killed in the middle of that; when its pidfd
 * fires, the parent fills the memory with a value that the child never wrote, and looks again a while later. The daemon gives
 * the slots of a dead engine to others on that proof, so the answer must be none, each time.
 */
#define _GNU_SOURCE
#include "client.h"
#include "cuda.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* Small, so that filling it takes no longer than a copy of it. */
#define SHARED_BYTES (1u << 20)
#define QUEUED 512u
#define QUIET_US 200000u
#define MINE 0x5a
#define THEIRS 0x11

/* The child: tells that copies are under way, and goes on until it is killed. */
static void write_for_ever(char *shared, const char *driver, int number, int told)
{
    struct cuda cuda;
    uint64_t memory = 0;
    void *stream = NULL;
    memset(shared, THEIRS, SHARED_BYTES);
    if (!cuda_open(&cuda, driver, number) || !cuda_allocate(&cuda, &memory, SHARED_BYTES) || !cuda_stream(&cuda, &stream) ||
        !cuda_write(&cuda, memory, shared, SHARED_BYTES) || !cuda_pin(&cuda, shared, SHARED_BYTES)) {
        (void)!write(told, "n", 1);
        _exit(1);
    }
    for (uint64_t round = 0;; round++) {
        for (unsigned i = 0; i < QUEUED; i++) {
            if (!cuda_copy(&cuda, (uint64_t)shared, memory, SHARED_BYTES, stream)) {
                _exit(1);
            }
        }
        if (round == 1) {
            (void)!write(told, "y", 1);
        }
        cuda_wait(&cuda, stream);
    }
}

/* One death. `*late` says how many bytes changed after it. */
static bool die_once(char *shared, const char *driver, int number, uint64_t *late)
{
    int told[2];
    if (pipe(told) != 0) {
        return fail("no pipe: %s", strerror(errno));
    }
    pid_t child = fork();
    if (child == 0) {
        write_for_ever(shared, driver, number, told[1]);
    }
    close(told[1]);
    char word = 'n';
    bool ready = child > 0 && read(told[0], &word, 1) == 1 && word == 'y';
    close(told[0]);
    int pidfd = child > 0 ? (int)syscall(SYS_pidfd_open, child, 0) : -1;
    struct pollfd proof = {.fd = pidfd, .events = POLLIN};
    bool dead = child > 0 && pidfd >= 0 && kill(child, SIGKILL) == 0 && poll(&proof, 1, 60000) == 1;
    memset(shared, MINE, SHARED_BYTES);
    usleep(QUIET_US);
    *late = 0;
    for (size_t i = 0; i < SHARED_BYTES; i++) {
        *late += shared[i] != MINE;
    }
    close(pidfd);
    if (child > 0) {
        waitpid(child, NULL, 0);
    }
    return (ready || fail("the child could not have the device write (no CUDA driver, or it refused)")) &&
           (dead || fail("the child's end was not seen: %s", strerror(errno)));
}

/* device_death DRIVER DEVICE ROUNDS: kills as many writers; answers the bytes that changed after their deaths. Before
   anything else of CUDA in this process, because its children could not use it then. */
bool command_device_death(struct engine *engine, const char *arguments)
{
    (void)engine;
    char driver[1024];
    int number;
    unsigned rounds;
    if (sscanf(arguments, "%1023s %d %u", driver, &number, &rounds) != 3) {
        return fail("want DRIVER DEVICE ROUNDS");
    }
    int file = memfd_create("kvtier-bench", MFD_CLOEXEC);
    if (file < 0 || ftruncate(file, SHARED_BYTES) != 0) {
        return fail("no shared memory: %s", strerror(errno));
    }
    char *shared = mmap(NULL, SHARED_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (shared == MAP_FAILED) {
        return fail("no shared memory: %s", strerror(errno));
    }
    uint64_t all = 0, late = 0;
    for (unsigned i = 0; i < rounds; i++) {
        if (!die_once(shared, strcmp(driver, "-") == 0 ? NULL : driver, number, &late)) {
            return false;
        }
        all += late;
    }
    munmap(shared, SHARED_BYTES);
    answer("%llu", (unsigned long long)all);
    return true;
}
