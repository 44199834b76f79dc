/*
 * client serve LIBRARY                 takes commands on standard input until it ends
 * client guard PROGRAM ARGUMENT...     becomes PROGRAM, which the kernel kills when the harness dies
 */
#define _GNU_SOURCE
#include "client.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#define LINE_BYTES 4096u

static char reply[LINE_BYTES];
static char failure[LINE_BYTES];
static struct engine engine;

bool fail(const char *format, ...)
{
    va_list list;
    va_start(list, format);
    vsnprintf(failure, sizeof failure, format, list);
    va_end(list);
    return false;
}

void answer(const char *format, ...)
{
    size_t used = strlen(reply);
    if (used + 2 > sizeof reply) {
        return;
    }
    reply[used++] = ' ';
    va_list list;
    va_start(list, format);
    vsnprintf(reply + used, sizeof reply - used, format, list);
    va_end(list);
}

uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void start_at(uint64_t start_ns)
{
    while (now_ns() < start_ns) {
    }
}

/* open SOCKET NAMESPACE BLOCK_BYTES: attaches an engine. */
static bool command_open(struct engine *target, const char *arguments)
{
    char socket[1024], name[128];
    unsigned long long block_bytes;
    if (sscanf(arguments, "%1023s %127s %llu", socket, name, &block_bytes) != 3) {
        return fail("want SOCKET NAMESPACE BLOCK_BYTES");
    }
    return engine_open(target, socket, name, block_bytes);
}

/* clock: answers the clock that START refers to. */
static bool command_clock(struct engine *target, const char *arguments)
{
    (void)target;
    (void)arguments;
    answer("%llu", (unsigned long long)now_ns());
    return true;
}

static const struct {
    const char *name;
    bool (*run)(struct engine *engine, const char *arguments);
} commands[] = {
    {"open", command_open},
    {"clock", command_clock},
    {"fill", command_fill},
    {"lookup", command_lookup},
    {"describe", command_describe},
    {"churn", command_churn},
    {"probe", command_probe},
    {"host_begin", command_host_begin},
    {"host_next", command_host_next},
    {"put", command_put},
    {"get", command_get},
    {"reference_begin", command_reference_begin},
    {"reference", command_reference},
    {"reference_end", command_reference_end},
    {"device_begin", command_device_begin},
    {"device_copy", command_device_copy},
    {"device_plain", command_device_plain},
    {"device_check", command_device_check},
    {"device_compute", command_device_compute},
    {"device_death", command_device_death},
    {"device_end", command_device_end},
};

static bool obey(char *line)
{
    line[strcspn(line, "\n")] = '\0';
    char *arguments = line + strcspn(line, " ");
    if (*arguments != '\0') {
        *arguments++ = '\0';
    }
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
        if (strcmp(commands[i].name, line) == 0) {
            return commands[i].run(&engine, arguments);
        }
    }
    return fail("no such command: %s", line);
}

static int serve(const char *library)
{
    library_load(library);
    char line[LINE_BYTES];
    while (fgets(line, sizeof line, stdin) != NULL) {
        reply[0] = '\0';
        if (obey(line)) {
            printf("ok%s\n", reply);
        } else {
            printf("error %s\n", failure);
        }
        fflush(stdout);
    }
    engine_close(&engine);
    return 0;
}

static int guard(char **command)
{
    pid_t parent = getppid();
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    /* If the harness died before the line above, nobody will send the signal. */
    if (getppid() != parent) {
        return 1;
    }
    execvp(command[0], command);
    perror(command[0]);
    return 127;
}

int main(int argument_count, char **arguments)
{
    if (argument_count == 3 && strcmp(arguments[1], "serve") == 0) {
        return serve(arguments[2]);
    }
    if (argument_count >= 3 && strcmp(arguments[1], "guard") == 0) {
        return guard(arguments + 2);
    }
    fprintf(stderr, "usage: %s serve LIBRARY | guard PROGRAM ARGUMENT...\n", arguments[0]);
    return 2;
}
