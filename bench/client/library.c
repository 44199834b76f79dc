/* Loads libkvtier.so as Python does, so that what is measured is the library that users get. */
#define _GNU_SOURCE
#include "client.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct library lib;

static void *symbol(void *handle, const char *name)
{
    void *found = dlsym(handle, name);
    if (found == NULL) {
        fprintf(stderr, "the library lacks %s\n", name);
        exit(2);
    }
    return found;
}

void library_load(const char *path)
{
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (handle == NULL) {
        fprintf(stderr, "could not load %s: %s\n", path, dlerror());
        exit(2);
    }
/* POSIX promises that a function's address survives the way through void *; ISO C has no cast for it. */
#define LOAD(name)                                         \
    do {                                                   \
        void *found = symbol(handle, #name);               \
        memcpy(&lib.name##_, &found, sizeof(found));       \
    } while (0);
    KVT_FUNCTIONS(LOAD)
#undef LOAD
}
