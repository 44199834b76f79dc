/*
 * The bench's client: one process that uses libkvtier as an inference engine does, through the C ABI alone.
 *
 * It loads the library with dlopen, takes one command a line on its standard input and answers each with one line,
 * "ok" and numbers or "error" and a sentence. The harness (../src) decides what is run when.
 */
#ifndef KVTIER_BENCH_CLIENT_H
#define KVTIER_BENCH_CLIENT_H

#include <kvtier.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HASH_BYTES 32u
#define TOKENS_PER_BLOCK 16u
/* Blocks named by one message while filling: large enough that the round trip does not matter. */
#define FILL_BATCH 8192u

/* The functions of libkvtier that we call, typed by the header. */
#define KVT_FUNCTIONS(use)                                                                                           \
    use(kvt_status_name) use(kvt_session_open) use(kvt_session_close) use(kvt_session_info_get)                      \
    use(kvt_session_error) use(kvt_lookup_submit) use(kvt_lookup_release) use(kvt_load_commit)                       \
    use(kvt_lease_release) use(kvt_blocks_reserve) use(kvt_blocks_reserve_described) use(kvt_blocks_seal) use(kvt_blocks_abort) use(kvt_session_poll)  \
    use(kvt_session_wait) use(kvt_session_group_layout) use(kvt_slot_address) use(kvt_copier_open)                   \
    use(kvt_copier_close) use(kvt_copier_group_set) use(kvt_copy_submit) use(kvt_copy_poll) use(kvt_copy_wait)   \
    use(kvt_copier_open_with) use(kvt_copier_prepare) use(kvt_copier_info_get) use(kvt_copier_trouble)               \
    use(kvt_copier_error) use(kvt_copy_submit_after) use(kvt_traces_get) use(kvt_trace_next) use(kvt_trace_request)

#define DECLARE(name) __typeof__(name) *name##_;
struct library {
    KVT_FUNCTIONS(DECLARE)
};
#undef DECLARE
extern struct library lib;

/* Loads libkvtier; ends the process with a message if that fails. */
void library_load(const char *path);

/* One engine: a scheduler's session and one worker's, in this process. */
struct engine {
    kvt_session *scheduler;
    kvt_session *worker;
    uint64_t tag;
    /* Which requests the daemon wants followed. */
    kvt_traces traces;
    void *region_base;
    uint64_t region_bytes;
};

/* Reports a failure of the command at hand. Returns false, so that callers can `return fail(...)`. */
bool fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Adds to the answer of the command at hand. */
void answer(const char *format, ...) __attribute__((format(printf, 1, 2)));

uint64_t now_ns(void);
/* Spins until the clock shows `start_ns`, so that several clients begin together. 0: now. */
void start_at(uint64_t start_ns);

bool engine_open(struct engine *engine, const char *socket, const char *namespace_name, uint64_t block_bytes);
void engine_close(struct engine *engine);
/* Waits for the one completion that carries `tag`. Its pointers are valid until the next call on the session. */
bool await_completion(kvt_session *session, uint64_t tag, uint32_t op, kvt_completion *completion);
/* Reserves a slot for each hash. Fails unless each block is granted one. */
bool reserve(struct engine *engine, const uint8_t *hashes, size_t count, kvt_slot *slots);
/* The same, and says what the blocks are about. */
bool reserve_described(struct engine *engine, const uint8_t *hashes, size_t count, const kvt_run *runs,
                       size_t run_count, kvt_slot *slots);
/* Seals or aborts the slots and waits for the daemon's answer. */
bool seal(struct engine *engine, const kvt_slot *slots, size_t count);
bool abort_slots(struct engine *engine, const kvt_slot *slots, size_t count);
/* Looks up the whole prefix and waits for the answer, which must be a hit of all of it. The hold's tag is left in
   `engine->tag`. */
bool lookup_all(struct engine *engine, const uint8_t *hashes, size_t count, kvt_completion *completion);

/* Requests whose keys one message can name. */
#define REQUESTS_MAX 64u
/* A request of an engine, followed or not. */
struct request {
    bool followed;
    kvt_traced_request told;
};
/* Begins a request; where the daemon records no traces that is a look at a flag. */
bool request_begin(struct engine *engine, struct request *request);
/* Says whose the next message of the scheduler is, if any of the requests is followed. Each has as many keys. */
bool requests_announce(struct engine *engine, const struct request *requests, size_t count, size_t keys_each);
bool request_over(struct engine *engine, struct request *request, uint64_t tokens, uint64_t hit_tokens);

/* Writes the hash of block `index`: 32 bytes that look random and can be made again at any time. */
void hash_make(uint64_t index, uint8_t *hash);

/* The hashes of the next prefix of blocks that `fill` has stored. */
void take_prefix(uint64_t blocks, uint8_t *hashes);

/* The commands. Each parses `arguments`, acts and answers. */
bool command_fill(struct engine *engine, const char *arguments);
bool command_lookup(struct engine *engine, const char *arguments);
bool command_describe(struct engine *engine, const char *arguments);
bool command_churn(struct engine *engine, const char *arguments);
bool command_probe(struct engine *engine, const char *arguments);
bool command_host_begin(struct engine *engine, const char *arguments);
bool command_host_next(struct engine *engine, const char *arguments);
bool command_put(struct engine *engine, const char *arguments);
bool command_get(struct engine *engine, const char *arguments);
bool command_reference_begin(struct engine *engine, const char *arguments);
bool command_reference(struct engine *engine, const char *arguments);
bool command_reference_end(struct engine *engine, const char *arguments);
bool command_device_begin(struct engine *engine, const char *arguments);
bool command_device_copy(struct engine *engine, const char *arguments);
bool command_device_plain(struct engine *engine, const char *arguments);
bool command_device_check(struct engine *engine, const char *arguments);
bool command_device_compute(struct engine *engine, const char *arguments);
bool command_device_death(struct engine *engine, const char *arguments);
bool command_device_end(struct engine *engine, const char *arguments);

/* A plain loop that copies `bytes` from `source` to `target`, without knowledge of kvtier. */
struct copy_loop {
    const char *name;
    void (*copy)(void *target, const void *source, size_t bytes);
    bool (*supported)(void);
};
extern const struct copy_loop copy_loops[];
extern const size_t copy_loops_count;

#endif
