/*
 * kvtier.h: the C interface of libkvtier.
 *
 * Generated from the library's source; do not edit. Apache-2.0.
 *
 * Rules for all functions
 *   - Functions that can fail return a kvt_status; KVT_OK is 0. Outputs are written only on success.
 *   - NULL is refused where a value is needed (KVT_NULL_ARGUMENT), never followed.
 *   - An object is used by one thread at a time; different objects may be used by different threads.
 *   - Structs that begin with struct_bytes are refused (KVT_BAD_ARGUMENT) unless it is their size, or that of
 *     an earlier minor version.
 *   - No C++ exception or Rust panic passes; nothing is logged; there is no global state; no thread is started but
 *     those that were asked for (KVT_REATTACH_BACKGROUND, copier threads, those of KVT_BACKEND_CUDA), and in those all
 *     signals are blocked.
 *   - After fork() the child may use no object of its parent's, only close it.
 */

#ifndef KVTIER_H
#define KVTIER_H

#include <stddef.h>
#include <stdint.h>

/**
 * Version of the ABI; the number in the soname. Grows only when something that worked stops working.
 */
#define KVT_ABI_VERSION 1

/**
 * `page` of a grant that is not a slot; `generation` then holds a `KVT_GRANT_*`.
 */
#define KVT_SLOT_NONE 0

/**
 * In `kvt_copier_options.flags`: do not pin the region.
 */
#define KVT_COPIER_UNPINNED 1

/**
 * How a call ended. Codes are appended, never renumbered or reused.
 */
enum kvt_status
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * It worked.
   */
  KVT_OK = 0,
  /**
   * A pointer that must not be NULL is.
   */
  KVT_NULL_ARGUMENT = 1,
  /**
   * An argument is out of its range, not UTF-8, misaligned, or a struct has another size. `kvt_session_error` and
   * `kvt_copier_error` say which.
   */
  KVT_BAD_ARGUMENT = 2,
  /**
   * The daemon is gone. What was under way is void; look-ups are misses until the session is attached again.
   */
  KVT_SESSION_LOST = 3,
  /**
   * Other ranks of this engine have not attached yet.
   */
  KVT_NOT_READY = 4,
  /**
   * The daemon refused the handshake; the text says why.
   */
  KVT_REFUSED = 5,
  /**
   * There is no daemon at the socket.
   */
  KVT_UNAVAILABLE = 6,
  /**
   * The time that was given has passed.
   */
  KVT_TIMEOUT = 7,
  /**
   * A bounded queue is full. Nothing was sent; try again later, or drop the store.
   */
  KVT_RING_FULL = 8,
  /**
   * It would never fit. Nothing was sent or written.
   */
  KVT_TOO_LARGE = 9,
  /**
   * Daemon and library do not speak the same version.
   */
  KVT_VERSION_MISMATCH = 10,
  /**
   * The operating system refused something; the text says what.
   */
  KVT_IO = 11,
  /**
   * A bug in the library, caught at the boundary. The object it happened in answers this from now on; close it.
   */
  KVT_PANIC = 12,
  /**
   * This build, or this role, cannot do that.
   */
  KVT_UNSUPPORTED = 13,
  /**
   * The session holds as much as it may; nothing was looked up.
   */
  KVT_QUOTA_EXCEEDED = 14,
  /**
   * The daemon's side of the shared memory does not make sense. The session is lost.
   */
  KVT_PEER_MISBEHAVED = 15,
  /**
   * The device's driver refused something; the text says what. Nothing of it is under way.
   */
  KVT_DEVICE_ERROR = 16,
  /**
   * The device does no more work for this process. Whether it still touches the memory of copies that were under way
   * cannot be known: reserved slots among it must not be aborted, and their session not be closed; the daemon takes them
   * back when the process is dead.
   */
  KVT_DEVICE_LOST = 17,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum kvt_status kvt_status;
#else
typedef int32_t kvt_status;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * What a session does in its engine.
 */
enum kvt_role
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * Looks up, commits loads, reserves, resets. At most one in an engine group.
   */
  KVT_ROLE_SCHEDULER = 0,
  /**
   * Copies and seals its rank's part of the blocks. One for each rank.
   */
  KVT_ROLE_WORKER = 1,
  /**
   * Reads counters and nothing else.
   */
  KVT_ROLE_OBSERVER = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum kvt_role kvt_role;
#else
typedef uint32_t kvt_role;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * How the layers of a group attend to their prefix.
 */
enum kvt_attention
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * A hit needs all blocks from the start of the sequence (full attention, MLA).
   */
  KVT_ATTENTION_FULL = 0,
  /**
   * A hit needs only the blocks that the last `window_tokens - 1` tokens lie in.
   */
  KVT_ATTENTION_SLIDING_WINDOW = 1,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum kvt_attention kvt_attention;
#else
typedef uint32_t kvt_attention;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * What the library does after it has lost the daemon.
 */
enum kvt_reattach
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * Nothing: the session stays lost. Close it and open another one.
   */
  KVT_REATTACH_NEVER = 0,
  /**
   * One thread of the library sleeps on the daemon's socket for as long as the session is open. When the daemon is
   * gone it unmaps the region (unless `kvt_slot_address` was called: then the call that reports the loss does), and
   * tries to attach again, with back-off (50 ms to 2 s, jittered). `kvt_session_info_get`, and no other call, adopts
   * the result.
   */
  KVT_REATTACH_BACKGROUND = 1,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum kvt_reattach kvt_reattach;
#else
typedef uint32_t kvt_reattach;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Where a session stands.
 */
enum kvt_session_state
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * Not attached. Look-ups are misses and stores are skipped until it is attached again.
   */
  KVT_SESSION_LOST_STATE = 0,
  /**
   * Attached, but other ranks of the engine are missing, so there is no namespace yet.
   */
  KVT_SESSION_WAITING = 1,
  /**
   * Attached, and the namespace is known.
   */
  KVT_SESSION_READY = 2,
  /**
   * The daemon shuts down: loads are still served, nothing is reserved any more.
   */
  KVT_SESSION_DRAINING = 3,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum kvt_session_state kvt_session_state;
#else
typedef uint32_t kvt_session_state;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Why a reservation or a load was not given a slot.
 */
enum kvt_grant
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * Reserve: the block is in the tier already. Nothing to do.
   */
  KVT_GRANT_ALREADY_PRESENT = 1,
  /**
   * Reserve: somebody is filling this block. Nothing to do.
   */
  KVT_GRANT_FILLING = 2,
  /**
   * Reserve: no slot could be taken. The store is dropped.
   */
  KVT_GRANT_NO_SPACE = 3,
  /**
   * Reserve: the daemon shuts down. The store is dropped.
   */
  KVT_GRANT_DRAINING = 4,
  /**
   * Reserve: other ranks of this engine have not attached yet. The store is dropped.
   */
  KVT_GRANT_NOT_READY = 5,
  /**
   * Load: the hold was taken back meanwhile. Compute the block.
   */
  KVT_GRANT_LOST = 6,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum kvt_grant kvt_grant;
#else
typedef uint32_t kvt_grant;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Which operation a completion belongs to. Later versions may add some: pass over what you do not know.
 */
enum kvt_op
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * `kvt_lookup_submit`.
   */
  KVT_OP_LOOKUP = 1,
  /**
   * `kvt_load_commit`; the completion's tag is the lease's.
   */
  KVT_OP_LOAD = 2,
  /**
   * `kvt_blocks_reserve`.
   */
  KVT_OP_RESERVE = 3,
  /**
   * `kvt_blocks_seal`.
   */
  KVT_OP_SEAL = 4,
  /**
   * `kvt_blocks_abort`.
   */
  KVT_OP_ABORT = 5,
  /**
   * `kvt_namespace_reset`.
   */
  KVT_OP_RESET = 6,
  /**
   * `kvt_counters_request`.
   */
  KVT_OP_COUNTERS = 7,
  /**
   * `kvt_lookup_submit`, at most once and before its `KVT_OP_LOOKUP`: not the answer yet. Blocks of the hit are on
   * their way into host memory, and the answer comes when they are there or when the daemon's deadline has passed.
   */
  KVT_OP_LOOKUP_PENDING = 8,
  /**
   * `kvt_events_request`: one batch of block events, or that the daemon relays none.
   */
  KVT_OP_EVENTS = 9,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum kvt_op kvt_op;
#else
typedef uint32_t kvt_op;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * How device pages are reached.
 */
enum kvt_backend
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * Device pages are ordinary memory of this process.
   */
  KVT_BACKEND_HOST = 0,
  /**
   * Device pages are memory of a CUDA device.
   */
  KVT_BACKEND_CUDA = 1,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum kvt_backend kvt_backend;
#else
typedef uint32_t kvt_backend;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Which way a copy goes.
 */
enum kvt_copy_direction
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * From device pages into slots.
   */
  KVT_COPY_STORE = 0,
  /**
   * From slots into device pages.
   */
  KVT_COPY_LOAD = 1,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum kvt_copy_direction kvt_copy_direction;
#else
typedef uint32_t kvt_copy_direction;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * What a copy comes after.
 */
enum kvt_copy_after
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * Nothing: the device is done with the pages already. The handle is 0.
   */
  KVT_AFTER_NOTHING = 0,
  /**
   * What a stream was given before the call. The handle is a `CUstream`; 0 is the default stream.
   */
  KVT_AFTER_STREAM = 1,
  /**
   * An event. The handle is a `CUevent`, which must stay as it is until the batch has ended.
   */
  KVT_AFTER_EVENT = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum kvt_copy_after kvt_copy_after;
#else
typedef uint32_t kvt_copy_after;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * How far the region of the last batch is pinned.
 */
enum kvt_pinning
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * It is not wanted, or there was no batch yet.
   */
  KVT_PINNING_NONE = 0,
  /**
   * A thread of the library is at it; copies go through a buffer meanwhile.
   */
  KVT_PINNING_UNDER_WAY = 1,
  /**
   * All of it is: the device reads and writes slots by itself.
   */
  KVT_PINNING_DONE = 2,
  /**
   * It was refused, and nothing is pinned; copies go through a buffer. `kvt_copier_trouble` says why.
   */
  KVT_PINNING_FAILED = 3,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum kvt_pinning kvt_pinning;
#else
typedef uint32_t kvt_pinning;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Knows a worker's device pages and copies batches of them. Opaque; made by `kvt_copier_open`, freed by
 * `kvt_copier_close`. Used by one thread at a time; may move between threads.
 */
typedef struct kvt_copier kvt_copier;

/**
 * One client's session with the daemon. Opaque; made by `kvt_session_open`, freed by `kvt_session_close`.
 *
 * A session is used by one thread at a time and may move between threads. It belongs to the process that opened it: a
 * forked child may only close it, which frees nothing of the parent's.
 */
typedef struct kvt_session kvt_session;

/**
 * One fact that must be equal for two blocks' bytes to be interchangeable.
 */
typedef struct kvt_field {
  /**
   * What it is, dotted and lower-case (`"model.id"`), NUL-terminated UTF-8.
   */
  const char *tag;
  /**
   * Its value. May be NULL if `value_bytes` is 0.
   */
  const uint8_t *value;
  /**
   * Bytes of the value.
   */
  size_t value_bytes;
} kvt_field;

/**
 * One KV cache group of the engine, as this session knows it.
 */
typedef struct kvt_group_spec {
  /**
   * A `KVT_ATTENTION_*`.
   */
  uint32_t kind;
  /**
   * Tokens covered by one block of ours: the engine's block size times its blocks per chunk. At least 1.
   */
  uint32_t tokens_per_block;
  /**
   * Length of the window in tokens, itself included; read only for `KVT_ATTENTION_SLIDING_WINDOW`.
   */
  uint32_t window_tokens;
  /**
   * 0.
   */
  uint32_t reserved;
  /**
   * Bytes of this rank's part of one block. 0 in a scheduler's session.
   */
  uint64_t rank_bytes;
} kvt_group_spec;

/**
 * What `kvt_session_open` needs to know. Zero it, set `struct_bytes`, fill the rest. Everything is copied; nothing needs
 * to outlive the call.
 */
typedef struct kvt_session_options {
  /**
   * `sizeof(kvt_session_options)`.
   */
  size_t struct_bytes;
  /**
   * Path of the daemon's socket. NULL: `$KVTIER_SOCKET`, else the default path.
   */
  const char *socket_path;
  /**
   * The tenant. NULL: the one that the daemon's allow-list gives this user.
   */
  const char *tenant;
  /**
   * A name for people: `"vllm 0.32.0"`. NULL: empty.
   */
  const char *engine_name;
  /**
   * A `KVT_ROLE_*`.
   */
  uint32_t role;
  /**
   * Which worker this is, below `rank_count`; 0 in other roles.
   */
  uint32_t rank;
  /**
   * Workers of this engine on this node, 1 to 64; 0 for an observer.
   */
  uint32_t rank_count;
  /**
   * A `KVT_REATTACH_*`.
   */
  uint32_t reattach;
  /**
   * Random bytes drawn by the engine at its start, equal in all its sessions.
   */
  uint8_t engine_group[16];
  /**
   * Descriptor fields of the engine, equal in all its sessions.
   */
  const struct kvt_field *fields;
  /**
   * How many.
   */
  size_t field_count;
  /**
   * Descriptor fields of this worker alone.
   */
  const struct kvt_field *rank_fields;
  /**
   * How many.
   */
  size_t rank_field_count;
  /**
   * The KV cache groups, equal in all sessions but for `rank_bytes`.
   */
  const struct kvt_group_spec *groups;
  /**
   * How many.
   */
  size_t group_count;
  /**
   * Bytes of the ring that carries requests, a power of two from 64 KiB to 64 MiB. 0: 8 MiB for a scheduler, else
   * 256 KiB. One hash takes 32 bytes, and a whole look-up must fit.
   */
  uint64_t request_ring_bytes;
  /**
   * Bytes of the ring that carries completions. 0: 4 MiB for a scheduler, else 256 KiB.
   */
  uint64_t completion_ring_bytes;
  /**
   * How long the handshake may take, in milliseconds. 0: 2000.
   */
  uint32_t deadline_ms;
  /**
   * 0.
   */
  uint32_t reserved;
  /**
   * Where routers find the engine, as it stands in its events: `"10.0.0.1:8000"`. NULL: no router knows it. Since minor
   * version 2; a struct that ends before it is taken as well.
   */
  const char *pod;
  /**
   * The name that the engine serves its model under. NULL: empty.
   */
  const char *model;
} kvt_session_options;

/**
 * Where a session stands: see `kvt_session_info_get`.
 */
typedef struct kvt_session_info {
  /**
   * `sizeof(kvt_session_info)`, set by the caller.
   */
  size_t struct_bytes;
  /**
   * A `KVT_SESSION_*` state.
   */
  uint32_t state;
  /**
   * KV cache groups of the namespace; 0 until it is known.
   */
  uint32_t group_count;
  /**
   * Grows by one at each (re)attachment; 0: never attached. Tags, leases and slots of an earlier one are void.
   */
  uint64_t attachment;
  /**
   * Drawn by the daemon at each start. Slots that came through a session with another boot epoch mean nothing here.
   */
  uint8_t boot_epoch[16];
  /**
   * The namespace, once ready; else zeros.
   */
  uint8_t namespace_id[16];
  /**
   * Bytes of the region as of the last attachment; 0: never attached.
   */
  uint64_t region_bytes;
} kvt_session_info;

/**
 * Where this session's rank lies in the slots of one group.
 */
typedef struct kvt_group_layout {
  /**
   * Bytes of a whole slot, all ranks.
   */
  uint64_t slot_bytes;
  /**
   * Where this rank's part begins, in bytes from the start of the slot; not always 0 for rank 0, because slots may
   * begin with bytes of the daemon's own. In a scheduler's session: rank 0's.
   */
  uint64_t rank_offset;
  /**
   * Bytes of this rank's part. In a scheduler's session: rank 0's.
   */
  uint64_t rank_bytes;
} kvt_group_layout;

/**
 * A run of consecutive blocks of one group, counted in blocks from the start of the look-up's keys.
 */
typedef struct kvt_span {
  /**
   * Index of the group.
   */
  uint32_t group;
  /**
   * First block.
   */
  uint32_t first;
  /**
   * Number of blocks.
   */
  uint32_t count;
} kvt_span;

/**
 * Names one use of one slot of the region, or says why there is none.
 */
typedef struct kvt_slot {
  /**
   * Where the slot begins, in pages of 4096 bytes from the start of the region. `KVT_SLOT_NONE`: no slot.
   */
  uint32_t page;
  /**
   * Which use of it. If there is no slot: a `KVT_GRANT_*`.
   */
  uint32_t generation;
} kvt_slot;

/**
 * The answer to one operation.
 */
typedef struct kvt_completion {
  /**
   * The tag it was submitted with (a load: the lease's tag).
   */
  uint64_t tag;
  /**
   * A `KVT_OP_*`.
   */
  uint32_t op;
  /**
   * `KVT_OK`; for a look-up also `KVT_NOT_READY` or `KVT_QUOTA_EXCEEDED`, both of which are misses.
   */
  kvt_status status;
  /**
   * Look-up: length of the hit in tokens. Pending look-up: its length if all blocks are there and arrive. Load: blocks lost. Seal: blocks published. Abort: parts given back. Reset:
   * 1 if there is a new namespace, whose 16 bytes are in `bytes`; else 0. Events: 1 if the daemon relays none; else 0.
   */
  uint64_t value;
  /**
   * Seal: parts sealed. Else 0.
   */
  uint64_t value2;
  /**
   * Seal, abort: slots in which this session had nothing to seal or abort any more. Else 0.
   */
  uint64_t value3;
  /**
   * Look-up: the blocks that are held, one span for each group that the hit needs.
   */
  const struct kvt_span *spans;
  /**
   * How many.
   */
  size_t span_count;
  /**
   * Reserve: one grant for each key in order. Load: one for each block of the spans in order.
   */
  const struct kvt_slot *slots;
  /**
   * How many.
   */
  size_t slot_count;
  /**
   * Counters: JSON in UTF-8, not NUL-terminated. Reset: see `value`. Events: a batch in MessagePack.
   */
  const uint8_t *bytes;
  /**
   * How many.
   */
  size_t byte_count;
} kvt_completion;

/**
 * Keys of one group, one for each block in order.
 */
typedef struct kvt_group_keys {
  /**
   * Index of the group.
   */
  uint32_t group;
  /**
   * 0.
   */
  uint32_t reserved;
  /**
   * `hash_count` × 32 bytes, no alignment needed. May be NULL if there are none.
   */
  const uint8_t *hashes;
  /**
   * How many.
   */
  size_t hash_count;
} kvt_group_keys;

/**
 * What consecutive new blocks are about, so that the daemon can announce them to a router: blocks of one sequence in one
 * group that follow each other and differ in nothing but their tokens.
 */
typedef struct kvt_run {
  /**
   * How many keys this run describes, at least 1.
   */
  uint32_t blocks;
  /**
   * Tokens of each block. 0: nobody describes these blocks, and everything below is NULL or 0.
   */
  uint32_t tokens_per_block;
  /**
   * The 32 bytes of the hash of the block before the first one; no alignment needed. NULL: it begins its sequence.
   */
  const uint8_t *parent;
  /**
   * The tokens of all blocks: `blocks` × `tokens_per_block`.
   */
  const uint32_t *tokens;
  /**
   * The adapter that the blocks were computed with, NUL-terminated UTF-8. NULL: none.
   */
  const char *lora_name;
  /**
   * What else went into the hash of each block, but for the adapter: one MessagePack array, which the library does not
   * read. It has an entry for each of the engine's own blocks in a block, nil or an array. May be NULL if there is nothing.
   */
  const uint8_t *extra_keys;
  /**
   * Bytes of it.
   */
  size_t extra_bytes;
} kvt_run;

/**
 * Whether the daemon records traces.
 */
typedef struct kvt_traces {
  /**
   * `sizeof(kvt_traces)`, set by the caller.
   */
  size_t struct_bytes;
  /**
   * 1 if it does; else 0.
   */
  uint32_t recording;
  /**
   * 0.
   */
  uint32_t reserved;
  /**
   * A request that comes without a trace of its own is to be followed if the last eight bytes of its new trace id, as a
   * big-endian number shifted right by one bit, are below this: 2^63 is every request, 0 is none.
   */
  uint64_t sample_below;
} kvt_traces;

/**
 * Whose consecutive keys of the next message are.
 */
typedef struct kvt_trace_context {
  /**
   * The trace, as in W3C Trace Context. All zero: nobody follows these keys.
   */
  uint8_t trace_id[16];
  /**
   * The request's span in it, which `kvt_trace_request` tells of later.
   */
  uint8_t span_id[8];
  /**
   * How many keys. Of a look-up, which belongs to one request, it says nothing.
   */
  uint32_t key_count;
  /**
   * 0.
   */
  uint32_t reserved;
} kvt_trace_context;

/**
 * A request that is over.
 */
typedef struct kvt_traced_request {
  /**
   * `sizeof(kvt_traced_request)`, set by the caller.
   */
  size_t struct_bytes;
  /**
   * Its trace.
   */
  uint8_t trace_id[16];
  /**
   * Its span.
   */
  uint8_t span_id[8];
  /**
   * The span it was asked in, of whoever sent it. All zero: it begins its trace.
   */
  uint8_t parent_span_id[8];
  /**
   * When it came, in nanoseconds since 1970.
   */
  uint64_t start_unix_ns;
  /**
   * When it ended, likewise.
   */
  uint64_t end_unix_ns;
  /**
   * Tokens of its prompt.
   */
  uint64_t prompt_tokens;
  /**
   * Tokens that look-ups found.
   */
  uint64_t hit_tokens;
  /**
   * Tokens that were loaded.
   */
  uint64_t loaded_tokens;
  /**
   * As its engine calls it, at most 256 bytes. NULL: empty.
   */
  const char *name;
} kvt_traced_request;

/**
 * Pages of one tensor: the page of device block `b` lies at `base + b * stride_bytes`.
 */
typedef struct kvt_page_run {
  /**
   * Where device block 0's page begins.
   */
  void *base;
  /**
   * Distance between the pages of consecutive device blocks, at least `page_bytes`.
   */
  uint64_t stride_bytes;
  /**
   * Bytes of a page, at least 1.
   */
  uint64_t page_bytes;
  /**
   * Number of device blocks; a transfer must name one below it.
   */
  uint64_t page_count;
} kvt_page_run;

/**
 * One device block and its place in a slot.
 */
typedef struct kvt_transfer {
  /**
   * The slot.
   */
  struct kvt_slot slot;
  /**
   * The device block.
   */
  uint32_t device_block;
  /**
   * Which of the chunk's device blocks it is, below `blocks_per_chunk`.
   */
  uint32_t block_in_chunk;
} kvt_transfer;

/**
 * The end of one batch of copies.
 */
typedef struct kvt_copy_result {
  /**
   * The tag it was submitted with.
   */
  uint64_t tag;
  /**
   * `KVT_OK`: all bytes have been copied. Anything else: the target's bytes are undefined.
   */
  kvt_status status;
  /**
   * 0.
   */
  uint32_t reserved;
  /**
   * Bytes copied.
   */
  uint64_t bytes;
} kvt_copy_result;

/**
 * What `kvt_copier_open_with` needs to know. Zero it, set `struct_bytes`, fill the rest. Everything is copied.
 */
typedef struct kvt_copier_options {
  /**
   * `sizeof(kvt_copier_options)`.
   */
  size_t struct_bytes;
  /**
   * A `KVT_BACKEND_*`.
   */
  uint32_t backend;
  /**
   * Threads of the host backend, as in `kvt_copier_open`; 0 for others, which have their own.
   */
  uint32_t threads;
  /**
   * The device's number as CUDA counts in this process; -1: that of the context that is current in this thread.
   */
  int32_t device;
  /**
   * `KVT_COPIER_*` flags.
   */
  uint32_t flags;
  /**
   * The driver library. NULL: `$KVTIER_CUDA_DRIVER`, else `libcuda.so.1`.
   */
  const char *driver_path;
  /**
   * Bytes that are pinned by one call, a multiple of 4 KiB. 0: 256 MiB.
   */
  uint64_t pin_piece_bytes;
  /**
   * Bytes of the buffer, one for each direction, through which memory is copied that is not pinned. 0: 8 MiB.
   */
  uint64_t bounce_bytes;
} kvt_copier_options;

/**
 * What a copier knows of its device: see `kvt_copier_info_get`.
 */
typedef struct kvt_copier_info {
  /**
   * `sizeof(kvt_copier_info)`, set by the caller.
   */
  size_t struct_bytes;
  /**
   * A `KVT_PINNING_*`.
   */
  uint32_t pinning;
  /**
   * 1: many pieces go to the device in one call; 0: each by itself.
   */
  uint32_t batched;
  /**
   * 1: the device is lost, and every copy fails.
   */
  uint32_t lost;
  /**
   * 0.
   */
  uint32_t reserved;
  /**
   * Bytes of the region that are pinned.
   */
  uint64_t pinned_bytes;
  /**
   * How long that took, in microseconds, once it is over.
   */
  uint64_t pinning_us;
  /**
   * The device's name, NUL-terminated; empty for the host backend.
   */
  char device[64];
} kvt_copier_info;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * The name of a status, e.g. `"KVT_RING_FULL"`; `"KVT_UNKNOWN"` for a number that is none.
 *
 * The string is static: never freed, valid for ever. Any thread, never blocks.
 */
const char *kvt_status_name(int32_t status);

/**
 * A sentence for people about a status.
 *
 * The string is static: never freed, valid for ever. Any thread, never blocks.
 */
const char *kvt_status_text(int32_t status);

/**
 * The version of the ABI this library has, to be compared with the `KVT_ABI_VERSION` a program was compiled with.
 *
 * Any thread, never blocks.
 */
uint32_t kvt_abi_version(void);

/**
 * The version of the library, e.g. `"0.1.0"`.
 *
 * The string is static: never freed, valid for ever. Any thread, never blocks.
 */
const char *kvt_library_version(void);

/**
 * Opens a session: connects to the daemon, says who it is, maps the region.
 *
 * Blocks until attached, refused or `options->deadline_ms` has passed. With `KVT_REATTACH_BACKGROUND` and no daemon
 * there, or one that is shutting down, it returns `KVT_OK` with a session that is lost and keeps trying.
 *
 * `options` is copied. `*session` belongs to the caller, who frees it with `kvt_session_close`. `error_text` may be
 * NULL; on failure it receives a NUL-terminated sentence, cut to `error_text_bytes`. Any thread.
 *
 * `KVT_OK`, `KVT_NULL_ARGUMENT`, `KVT_BAD_ARGUMENT`, `KVT_REFUSED`, `KVT_UNAVAILABLE`, `KVT_TIMEOUT`,
 * `KVT_VERSION_MISMATCH`, `KVT_IO`, `KVT_PEER_MISBEHAVED`, `KVT_PANIC`.
 *
 * The caller promises:
 * `options` points to a `kvt_session_options` whose pointers are valid for their counts; `session` to a place for a
 * pointer; `error_text` is NULL or has room for `error_text_bytes`.
 */
kvt_status kvt_session_open(const struct kvt_session_options *options,
                            struct kvt_session **session,
                            char *error_text,
                            size_t error_text_bytes);

/**
 * Closes a session: a clean good-bye, which promises that no copy of this session is under way, so that the daemon can
 * give its slots to others at once. Ends the thread that reattaches, if there is one.
 *
 * Frees `session`; NULL is ignored. Wait for the copiers' results first. Never blocks on the daemon.
 *
 * `KVT_OK`, `KVT_PANIC`.
 *
 * The caller promises:
 * `session` is NULL or came from `kvt_session_open` and has not been closed.
 */
kvt_status kvt_session_close(struct kvt_session *session);

/**
 * Says where the session stands, and adopts a finished reattachment: after it, and only then, `attachment` is greater
 * and everything of the earlier attachment (tags, leases, slots) is void.
 *
 * Reads memory only (a loss that is found here unmaps the region once no copy uses it). One thread at a time.
 *
 * `KVT_OK`, `KVT_NULL_ARGUMENT`, `KVT_BAD_ARGUMENT` (`struct_bytes`), `KVT_PANIC`. A lost session is a state, not an
 * error.
 *
 * The caller promises:
 * `session` is an open session; `info` points to a `kvt_session_info` whose `struct_bytes` is set.
 */
kvt_status kvt_session_info_get(struct kvt_session *session,
                                struct kvt_session_info *info);

/**
 * Says in a sentence why the last call on this session that failed did.
 *
 * The string belongs to the session and is valid until the next call on it. Empty if nothing failed. Never blocks; one
 * thread at a time.
 *
 * The caller promises:
 * `session` is NULL or an open session.
 */
const char *kvt_session_error(struct kvt_session *session);

/**
 * Says where this session's rank lies in the slots of a group.
 *
 * Reads memory only. One thread at a time.
 *
 * `KVT_OK`, `KVT_NOT_READY` (no namespace yet), `KVT_SESSION_LOST` (never attached), `KVT_BAD_ARGUMENT`,
 * `KVT_NULL_ARGUMENT`, `KVT_PANIC`.
 *
 * The caller promises:
 * `session` is an open session; `layout` points to a `kvt_group_layout`.
 */
kvt_status kvt_session_group_layout(struct kvt_session *session,
                                    uint32_t group,
                                    struct kvt_group_layout *layout);

/**
 * Takes the next answer, if one has come: `*count` becomes 1 and `*completion` is written, or `*count` becomes 0.
 *
 * Reads memory only, but for one look at the socket every 5 ms and a doorbell if the daemon waits for room. The
 * completion's pointers belong to the session and are valid until the next poll or close. One thread at a time.
 *
 * `KVT_OK`; `KVT_SESSION_LOST` while the daemon is gone (what was under way is void); `KVT_PEER_MISBEHAVED`,
 * `KVT_NULL_ARGUMENT`, `KVT_BAD_ARGUMENT`, `KVT_PANIC`.
 *
 * The caller promises:
 * `session` is an open session; `completion` and `count` point to places for their values.
 */
kvt_status kvt_session_poll(struct kvt_session *session,
                            struct kvt_completion *completion,
                            size_t *count);

/**
 * Sleeps until an answer can be polled, the session's state changes, or `timeout_us` has passed. Watches the ring for
 * about 60 µs before it sleeps. On a session that is being reattached it sleeps until `kvt_session_info_get` can adopt
 * the new attachment.
 *
 * Blocks for at most `timeout_us`. One thread at a time.
 *
 * `KVT_OK`: look again; `KVT_TIMEOUT`; `KVT_SESSION_LOST`: the daemon was found gone, or the session is lost and not
 * being reattached; `KVT_PEER_MISBEHAVED`, `KVT_NULL_ARGUMENT`, `KVT_PANIC`.
 *
 * The caller promises:
 * `session` is an open session.
 */
kvt_status kvt_session_wait(struct kvt_session *session,
                            uint64_t timeout_us);

/**
 * Asks how long a prefix is cached, in one message for all groups. The answer is a `KVT_OP_LOOKUP` completion; the
 * blocks that make the hit are held under `tag` until it is committed, released, or the session is lost. A group that is
 * not named has no blocks. The hit is at most `tokens_max` tokens.
 *
 * Blocks in host memory are answered at once. If blocks have to come from a slower tier, a `KVT_OP_LOOKUP_PENDING`
 * completion with the same tag says so first: whoever gives up on answers that are late should wait longer then, or
 * release the look-up.
 *
 * `tag` is the caller's choice, unique among the session's live operations, look-ups and leases. The hashes are copied
 * once, into the ring, before the call returns. Schedulers only. Never blocks; one thread at a time.
 *
 * `KVT_OK`, `KVT_RING_FULL`, `KVT_TOO_LARGE`, `KVT_SESSION_LOST`, `KVT_UNSUPPORTED` (role), `KVT_BAD_ARGUMENT`,
 * `KVT_NULL_ARGUMENT`, `KVT_PEER_MISBEHAVED`, `KVT_PANIC`. Nothing was sent unless `KVT_OK`.
 *
 * The caller promises:
 * `session` is an open session; `groups` and the hashes it points to are valid for their counts.
 */
kvt_status kvt_lookup_submit(struct kvt_session *session,
                             uint64_t tag,
                             const struct kvt_group_keys *groups,
                             size_t group_count,
                             uint64_t tokens_max);

/**
 * Gives up what the look-up `tag` holds. Not answered. Needless after a miss or a `kvt_load_commit`. A look-up may be
 * released before its answer: then no answer comes, unless it was under way already.
 *
 * Schedulers only. Never blocks; one thread at a time.
 *
 * `KVT_OK`, `KVT_RING_FULL`, `KVT_SESSION_LOST`, `KVT_UNSUPPORTED`, `KVT_NULL_ARGUMENT`, `KVT_PEER_MISBEHAVED`,
 * `KVT_PANIC`.
 *
 * The caller promises:
 * `session` is an open session.
 */
kvt_status kvt_lookup_release(struct kvt_session *session,
                              uint64_t tag);

/**
 * Turns what the look-up `lookup_tag` holds on `spans` into the lease `lease_tag`, and gives up its other holds. The
 * answer is a `KVT_OP_LOAD` completion under `lease_tag`, with one grant for each block; blocks whose hold was taken back
 * meanwhile are `KVT_GRANT_LOST`. If all are lost there is no lease.
 *
 * A lease ends by `kvt_lease_release`, or when every process that could copy is proven dead; never by a timer. The spans
 * are copied. Schedulers only. Never blocks; one thread at a time.
 *
 * `KVT_OK`, `KVT_RING_FULL`, `KVT_TOO_LARGE`, `KVT_SESSION_LOST`, `KVT_UNSUPPORTED`, `KVT_BAD_ARGUMENT`,
 * `KVT_NULL_ARGUMENT`, `KVT_PEER_MISBEHAVED`, `KVT_PANIC`. Nothing was sent unless `KVT_OK`.
 *
 * The caller promises:
 * `session` is an open session; `spans` is valid for `span_count`.
 */
kvt_status kvt_load_commit(struct kvt_session *session,
                           uint64_t lookup_tag,
                           uint64_t lease_tag,
                           const struct kvt_span *spans,
                           size_t span_count);

/**
 * Ends a lease. Its slots must not be touched by any process of this engine after this call. Not answered.
 *
 * Schedulers only. Never blocks; one thread at a time.
 *
 * `KVT_OK`, `KVT_RING_FULL` (the lease goes on: release it again later), `KVT_SESSION_LOST`, `KVT_UNSUPPORTED`,
 * `KVT_NULL_ARGUMENT`, `KVT_PEER_MISBEHAVED`, `KVT_PANIC`.
 *
 * The caller promises:
 * `session` is an open session.
 */
kvt_status kvt_lease_release(struct kvt_session *session,
                             uint64_t lease_tag);

/**
 * Asks for slots to fill, in one message for all groups. The answer is a `KVT_OP_RESERVE` completion with one grant for
 * each key, in order: a slot, or why there is none.
 *
 * The hashes are copied once, into the ring, before the call returns. Schedulers only. Never blocks; one thread at a
 * time.
 *
 * `KVT_OK`, `KVT_RING_FULL`, `KVT_TOO_LARGE`, `KVT_SESSION_LOST`, `KVT_UNSUPPORTED`, `KVT_BAD_ARGUMENT`,
 * `KVT_NULL_ARGUMENT`, `KVT_PEER_MISBEHAVED`, `KVT_PANIC`. Nothing was sent unless `KVT_OK`.
 *
 * The caller promises:
 * `session` is an open session; `groups` and the hashes it points to are valid for their counts.
 */
kvt_status kvt_blocks_reserve(struct kvt_session *session,
                              uint64_t tag,
                              const struct kvt_group_keys *groups,
                              size_t group_count);

/**
 * The same, and says what the blocks are about, so that the daemon can announce them to a router. `runs` cover all keys in
 * the order of the message, and none has keys of two groups. The answer is a `KVT_OP_RESERVE` completion.
 *
 * Since minor version 2. To a daemon that is older, or through a ring that has no room for the tokens, the keys go as
 * by `kvt_blocks_reserve`: descriptions are dropped before stores.
 *
 * Hashes, tokens and texts are copied once, into the ring, before the call returns. Schedulers only. Never blocks; one
 * thread at a time.
 *
 * Status codes as `kvt_blocks_reserve`.
 *
 * The caller promises:
 * `session` is an open session; `groups`, `runs` and all that they point to are valid for their counts.
 */
kvt_status kvt_blocks_reserve_described(struct kvt_session *session,
                                        uint64_t tag,
                                        const struct kvt_group_keys *groups,
                                        size_t group_count,
                                        const struct kvt_run *runs,
                                        size_t run_count);

/**
 * Says that this worker's part of these slots is final; it must not be written any more. A block can be found once all
 * ranks have sealed it. The answer is a `KVT_OP_SEAL` completion.
 *
 * The slots are copied. Workers only. Never blocks; one thread at a time.
 *
 * `KVT_OK`, `KVT_RING_FULL` (try again later: until then the slots stay reserved), `KVT_TOO_LARGE` (send fewer at a
 * time), `KVT_SESSION_LOST`, `KVT_UNSUPPORTED`, `KVT_BAD_ARGUMENT`, `KVT_NULL_ARGUMENT`, `KVT_PEER_MISBEHAVED`,
 * `KVT_PANIC`.
 *
 * The caller promises:
 * `session` is an open session; `slots` is valid for `slot_count`.
 */
kvt_status kvt_blocks_seal(struct kvt_session *session,
                           uint64_t tag,
                           const struct kvt_slot *slots,
                           size_t slot_count);

/**
 * Gives reserved slots back. From a worker: it will not write its part any more, and the block is lost. From a
 * scheduler: no worker was ever told of these slots. The answer is a `KVT_OP_ABORT` completion.
 *
 * The slots are copied. Never blocks; one thread at a time. Status codes as `kvt_blocks_seal`.
 *
 * The caller promises:
 * `session` is an open session; `slots` is valid for `slot_count`.
 */
kvt_status kvt_blocks_abort(struct kvt_session *session,
                            uint64_t tag,
                            const struct kvt_slot *slots,
                            size_t slot_count);

/**
 * Moves the engine to a namespace nobody has used, because its weights or its cache have changed: from the answer on
 * nothing that was stored before is found by this engine. Other engines keep the old namespace. The answer is a
 * `KVT_OP_RESET` completion. If the daemon is lost, now or later, the session repeats the reset by itself before anything
 * else when it is attached again; after `KVT_RING_FULL` the caller repeats it.
 *
 * Schedulers only. Never blocks; one thread at a time.
 *
 * `KVT_OK`, `KVT_RING_FULL`, `KVT_SESSION_LOST`, `KVT_UNSUPPORTED`, `KVT_IO`, `KVT_NULL_ARGUMENT`,
 * `KVT_PEER_MISBEHAVED`, `KVT_PANIC`.
 *
 * The caller promises:
 * `session` is an open session.
 */
kvt_status kvt_namespace_reset(struct kvt_session *session,
                               uint64_t tag);

/**
 * Asks for the tenant's counters and occupancy. The answer is a `KVT_OP_COUNTERS` completion with JSON in UTF-8.
 *
 * Any role. Never blocks; one thread at a time.
 *
 * `KVT_OK`, `KVT_RING_FULL`, `KVT_SESSION_LOST`, `KVT_NULL_ARGUMENT`, `KVT_PEER_MISBEHAVED`, `KVT_PANIC`.
 *
 * The caller promises:
 * `session` is an open session.
 */
kvt_status kvt_counters_request(struct kvt_session *session,
                                uint64_t tag);

/**
 * Asks for block events, and for `credit` messages of them more: the first call subscribes, each later one gives back
 * credit for messages that have been taken in. 8 can be under way; more is forgotten.
 *
 * Each comes as a `KVT_OP_EVENTS` completion with tag 0, which no other call answers: `bytes` is one batch as vLLM's
 * publisher encodes it, `[seconds, [event, ...], nil]` in MessagePack, events as maps. First everything that is there, as
 * removed and then as stored, each block after the one before it; then every change. Where `value` is 1 the daemon is
 * configured to relay none, and there will be no others. A new attachment has to be asked anew, and begins anew. Since
 * minor version 3.
 *
 * A scheduler's session. Never blocks; one thread at a time.
 *
 * `KVT_OK`, `KVT_UNSUPPORTED` (not a scheduler, or a daemon that is too old), `KVT_BAD_ARGUMENT` (`credit` is 0),
 * `KVT_RING_FULL`, `KVT_SESSION_LOST`, `KVT_NULL_ARGUMENT`, `KVT_PEER_MISBEHAVED`, `KVT_PANIC`.
 *
 * The caller promises:
 * `session` is an open session.
 */
kvt_status kvt_events_request(struct kvt_session *session,
                              uint32_t credit);

/**
 * Says whether the daemon records traces, and of which requests. Until that is so nothing has to be done for them, and the
 * two functions below send nothing. Belongs to one attachment: look again when `kvt_session_info_get` tells of another.
 * Since minor version 4; of a daemon that is older or not there, `recording` is 0.
 *
 * Reads memory only. One thread at a time.
 *
 * `KVT_OK`, `KVT_BAD_ARGUMENT` (`struct_bytes`), `KVT_NULL_ARGUMENT`, `KVT_PANIC`.
 *
 * The caller promises:
 * `session` is an open session; `traces` points to a `kvt_traces` whose `struct_bytes` is set.
 */
kvt_status kvt_traces_get(struct kvt_session *session,
                          struct kvt_traces *traces);

/**
 * Says whose the keys of the next message are: a look-up or a reservation that will have this `tag`. Call it right before that
 * one, and only for requests that are followed. The contexts stand in the order of the keys; keys beyond them are nobody's.
 * At most 256. Not answered; what is said of no message is forgotten.
 *
 * Schedulers only. Never blocks; one thread at a time. Since minor version 4.
 *
 * `KVT_OK`, `KVT_UNSUPPORTED` (not a scheduler, or a daemon that records no traces), `KVT_BAD_ARGUMENT` (no context or too
 * many), `KVT_RING_FULL`, `KVT_SESSION_LOST`, `KVT_NULL_ARGUMENT`, `KVT_PEER_MISBEHAVED`, `KVT_PANIC`.
 *
 * The caller promises:
 * `session` is an open session; `contexts` points to `context_count` of them.
 */
kvt_status kvt_trace_next(struct kvt_session *session,
                          uint64_t tag,
                          const struct kvt_trace_context *contexts,
                          size_t context_count);

/**
 * Says that a request that was followed is over, so that its span can be recorded. Not answered.
 *
 * Schedulers only. Never blocks; one thread at a time. Since minor version 4.
 *
 * `KVT_OK`, `KVT_UNSUPPORTED` (not a scheduler, or a daemon that records no traces), `KVT_BAD_ARGUMENT`, `KVT_RING_FULL`,
 * `KVT_SESSION_LOST`, `KVT_NULL_ARGUMENT`, `KVT_PEER_MISBEHAVED`, `KVT_PANIC`.
 *
 * The caller promises:
 * `session` is an open session; `request` points to a `kvt_traced_request` whose `struct_bytes` is set, and its `name` is NULL
 * or NUL-terminated.
 */
kvt_status kvt_trace_request(struct kvt_session *session,
                             const struct kvt_traced_request *request);

/**
 * Says where a slot of a group lies in this process: this rank's part of it in a worker's session, the whole slot in a
 * scheduler's. The bounds are checked; whether the slot is this session's to touch is for the caller to know. A slot may
 * begin with bytes that are the daemon's own: only the ranks' parts are a client's to touch.
 *
 * The address is valid until the session is closed or a call on it reports that it is lost. Reads memory only; one thread
 * at a time.
 *
 * `KVT_OK`, `KVT_BAD_ARGUMENT` (no such slot or group), `KVT_NOT_READY`, `KVT_SESSION_LOST`,
 * `KVT_NULL_ARGUMENT`, `KVT_PANIC`.
 *
 * The caller promises:
 * `session` is an open session; `address` and `bytes` point to places for their values.
 */
kvt_status kvt_slot_address(struct kvt_session *session,
                            struct kvt_slot slot,
                            uint32_t group,
                            void **address,
                            uint64_t *bytes);

/**
 * Opens a copier of the host backend: `backend` is `KVT_BACKEND_HOST`; `kvt_copier_open_with` opens others. With 0 `threads` copies run in the caller's thread, inside
 * `kvt_copy_submit`; else in that many threads of the library (at most 64), in which all signals are blocked.
 *
 * `*copier` belongs to the caller, who frees it with `kvt_copier_close`. Never blocks. Any thread.
 *
 * `KVT_OK`, `KVT_UNSUPPORTED` (no such backend in this build), `KVT_BAD_ARGUMENT`, `KVT_NULL_ARGUMENT`, `KVT_IO` (no
 * thread can be started), `KVT_PANIC`.
 *
 * The caller promises:
 * `copier` points to a place for a pointer.
 */
kvt_status kvt_copier_open(uint32_t backend,
                           uint32_t threads,
                           struct kvt_copier **copier);

/**
 * Closes a copier and frees it; NULL is ignored. Blocks until its copies under way are done. Results that were not
 * polled are lost.
 *
 * `KVT_OK`, `KVT_PANIC`.
 *
 * The caller promises:
 * `copier` is NULL or came from `kvt_copier_open` and has not been closed.
 */
kvt_status kvt_copier_close(struct kvt_copier *copier);

/**
 * Says where the device pages of a group lie. A device block of the group is one page of each run, in order; this rank's
 * part of a slot is `blocks_per_chunk` device blocks one after another, so the group's `rank_bytes` must equal
 * `blocks_per_chunk` times the sum of the runs' `page_bytes`.
 *
 * The runs are copied, the pages are not: they must stay valid until the group is set again or the copier is closed, and
 * the copies submitted until then are done. Pages may not lie in the shared region. Never blocks; one thread at a time.
 *
 * `KVT_OK`, `KVT_BAD_ARGUMENT`, `KVT_NULL_ARGUMENT`, `KVT_PANIC`.
 *
 * The caller promises:
 * `copier` is an open copier; `runs` is valid for `run_count`, and the pages it names are memory of this process.
 */
kvt_status kvt_copier_group_set(struct kvt_copier *copier,
                                uint32_t group,
                                uint32_t blocks_per_chunk,
                                const struct kvt_page_run *runs,
                                size_t run_count);

/**
 * Says in a sentence why the last call on this copier that failed did.
 *
 * The string belongs to the copier and is valid until the next call on it. Empty if nothing failed. Never blocks; one
 * thread at a time.
 *
 * The caller promises:
 * `copier` is NULL or an open copier.
 */
const char *kvt_copier_error(struct kvt_copier *copier);

/**
 * Copies a batch between device pages and slots: `KVT_COPY_STORE` or `KVT_COPY_LOAD`. Everything in it is checked before
 * a byte moves; if anything is wrong, nothing is copied. One `kvt_copy_result` under `tag` ends the batch.
 *
 * The transfers are copied. The slots are those of `session`'s attachment; its region stays mapped until the copies are
 * done, even if the session is lost or closed meanwhile. Slots mean nothing in a region of another boot epoch: compare
 * `kvt_session_info.boot_epoch` with the one they were granted under, before this call.
 *
 * Without threads it returns when the bytes have been copied; with threads it never blocks. Devices other than the CPU refuse
 * it (`KVT_BAD_ARGUMENT`): they have to be told what a copy comes after, see `kvt_copy_submit_after`. At most 1024 batches may wait
 * for `kvt_copy_poll`. Workers only. One thread at a time, for both objects.
 *
 * `KVT_OK`; `KVT_RING_FULL`: 1024 results have not been polled, nothing was copied; `KVT_TOO_LARGE`: more than 1048576
 * transfers; `KVT_BAD_ARGUMENT`; `KVT_NOT_READY`; `KVT_SESSION_LOST`; `KVT_UNSUPPORTED` (role);
 * `KVT_NULL_ARGUMENT`; `KVT_PANIC`. `kvt_copier_error` says more.
 *
 * The caller promises:
 * `copier` and `session` are open; `transfers` is valid for `transfer_count`; the slots are leased to (load) or reserved
 * for (store) this engine, and nobody else touches the device pages until the result is there.
 */
kvt_status kvt_copy_submit(struct kvt_copier *copier,
                           struct kvt_session *session,
                           uint64_t tag,
                           uint32_t direction,
                           uint32_t group,
                           const struct kvt_transfer *transfers,
                           size_t transfer_count);

/**
 * Takes up to `results_max` results; `*count` says how many were written, 0 if none is ready. A device is asked whether it is
 * done.
 *
 * Never blocks; one thread at a time.
 *
 * `KVT_OK`, `KVT_NULL_ARGUMENT`, `KVT_BAD_ARGUMENT`, `KVT_PANIC`.
 *
 * The caller promises:
 * `copier` is open; `results` has room for `results_max`; `count` is a place for a count.
 */
kvt_status kvt_copy_poll(struct kvt_copier *copier,
                         struct kvt_copy_result *results,
                         size_t results_max,
                         size_t *count);

/**
 * Sleeps until at least one result can be polled or `timeout_us` has passed.
 *
 * Blocks for at most `timeout_us`; not at all if nothing is under way. One thread at a time.
 *
 * `KVT_OK`: there is a result; `KVT_TIMEOUT`: there is none; `KVT_NULL_ARGUMENT`, `KVT_PANIC`.
 *
 * The caller promises:
 * `copier` is open.
 */
kvt_status kvt_copy_wait(struct kvt_copier *copier, uint64_t timeout_us);

/**
 * Opens a copier as `kvt_copier_open` does, with more to say. `KVT_BACKEND_CUDA` loads the CUDA driver at run time and works in
 * the device's primary context, or in the one that is current; it has three threads of its own, in which all signals are
 * blocked: one for each direction, and one that pins.
 *
 * `*copier` belongs to the caller, who frees it with `kvt_copier_close`. Loading the driver and making its context, if nobody
 * has, may take a second. Any thread.
 *
 * `KVT_OK`, `KVT_UNSUPPORTED` (no such backend, or no driver on this machine), `KVT_DEVICE_ERROR`, `KVT_DEVICE_LOST`,
 * `KVT_BAD_ARGUMENT`, `KVT_NULL_ARGUMENT`, `KVT_IO` (no thread can be started), `KVT_PANIC`. `error_text` may be
 * NULL; on failure it receives a NUL-terminated sentence, cut to `error_text_bytes`.
 *
 * The caller promises:
 * `options` is valid with all it points to; `copier` points to a place for a pointer; `error_text` is NULL or has room for
 * `error_text_bytes`. A context that is not a primary one outlives the copier.
 */
kvt_status kvt_copier_open_with(const struct kvt_copier_options *options,
                                struct kvt_copier **copier,
                                char *error_text,
                                size_t error_text_bytes);

/**
 * Makes ready for copies of `session`'s slots: has its region pinned in the background, if the device wants that. The first
 * copy does so too, but then goes through a buffer. To be called again when the session has attached again.
 *
 * Never blocks. Workers only. One thread at a time, for both objects.
 *
 * `KVT_OK`, `KVT_NOT_READY`, `KVT_SESSION_LOST`, `KVT_UNSUPPORTED` (role), `KVT_NULL_ARGUMENT`, `KVT_PANIC`.
 *
 * The caller promises:
 * `copier` and `session` are open.
 */
kvt_status kvt_copier_prepare(struct kvt_copier *copier,
                              struct kvt_session *session);

/**
 * Copies a batch as `kvt_copy_submit` does, after what `after` (a `KVT_AFTER_*`) and `handle` name. The point in a stream is
 * noted during the call, whatever the stream is given later; a stream that records a graph is refused.
 *
 * A store reads the pages, and a load overwrites them, when that point was reached; what the engine does with the pages later
 * has to wait for the result. Never blocks (`KVT_BACKEND_HOST` without threads copies inside, and takes `KVT_AFTER_NOTHING`
 * only). One thread at a time, for both objects.
 *
 * As `kvt_copy_submit`, and `KVT_DEVICE_ERROR`, `KVT_DEVICE_LOST`: nothing was copied. A copy that fails later says so in its
 * result: after `KVT_DEVICE_ERROR` nothing of it is under way; after `KVT_DEVICE_LOST` a store's slots must not be aborted,
 * nor the session closed.
 *
 * The caller promises:
 * As `kvt_copy_submit`; the handle is one of the device's context.
 */
kvt_status kvt_copy_submit_after(struct kvt_copier *copier,
                                 struct kvt_session *session,
                                 uint64_t tag,
                                 uint32_t direction,
                                 uint32_t group,
                                 const struct kvt_transfer *transfers,
                                 size_t transfer_count,
                                 uint32_t after,
                                 size_t handle);

/**
 * Writes what is known of the device into `*info`, whose `struct_bytes` the caller has set.
 *
 * Never blocks; one thread at a time.
 *
 * `KVT_OK`, `KVT_BAD_ARGUMENT`, `KVT_NULL_ARGUMENT`, `KVT_PANIC`.
 *
 * The caller promises:
 * `copier` is open; `info` points to a `kvt_copier_info`.
 */
kvt_status kvt_copier_info_get(struct kvt_copier *copier, struct kvt_copier_info *info);

/**
 * Says in a sentence what the device or its driver refused last: a copy, or to pin the region. It may have been long ago.
 *
 * The string belongs to the copier and is valid until the next call on it. Empty if nothing was refused. Never blocks; one
 * thread at a time.
 *
 * The caller promises:
 * `copier` is NULL or an open copier.
 */
const char *kvt_copier_trouble(struct kvt_copier *copier);

/**
 * Computes the hashes of the whole blocks of `tokens`, each chained to the one before:
 *
 *   key  = BLAKE3 derive_key(context "kvtier 2026 block hash v1", namespace_id)
 *   h(i) = BLAKE3 keyed_hash(key, h(i-1) || tokens of block i as little-endian uint32 || extra)
 *
 * where h(-1) is `parent`, or 32 zero bytes if it is NULL. `extra` is whatever else makes the content differ (a LoRA
 * name, a salt) and goes into every block of the call. Tokens behind the last whole block are left out.
 *
 * Writes `*hash_count` hashes of 32 bytes to `hashes`, which must not overlap the inputs. Pure; any thread; takes as long
 * as hashing takes.
 *
 * `KVT_OK`; `KVT_TOO_LARGE`: more hashes than `hashes_max`, nothing was written; `KVT_BAD_ARGUMENT`: `tokens_per_block`
 * is 0; `KVT_NULL_ARGUMENT`; `KVT_PANIC`.
 *
 * The caller promises:
 * `namespace_id` points to 16 bytes, `parent` is NULL or points to 32, `tokens` and `extra` are valid for their counts,
 * `hashes` has room for `hashes_max` × 32 bytes, `hash_count` is a place for a count.
 */
kvt_status kvt_hash_tokens(const uint8_t *namespace_id,
                           const uint8_t *parent,
                           const uint32_t *tokens,
                           size_t token_count,
                           uint32_t tokens_per_block,
                           const uint8_t *extra,
                           size_t extra_bytes,
                           uint8_t *hashes,
                           size_t hashes_max,
                           size_t *hash_count);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* KVTIER_H */
