//! The plain values that cross the C boundary. Their bytes are the ABI: sizes and offsets are asserted below, fields are
//! only ever appended to structs that carry `struct_bytes`.

use std::ffi::{c_char, c_void};

/// Version of the ABI; the number in the soname. Grows only when something that worked stops working.
pub const KVT_ABI_VERSION: u32 = 1;

/// `page` of a grant that is not a slot; `generation` then holds a `KVT_GRANT_*`.
pub const KVT_SLOT_NONE: u32 = 0;

/// What a session does in its engine.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum kvt_role {
    /// Looks up, commits loads, reserves, resets. At most one in an engine group.
    KVT_ROLE_SCHEDULER = 0,
    /// Copies and seals its rank's part of the blocks. One for each rank.
    KVT_ROLE_WORKER = 1,
    /// Reads counters and nothing else.
    KVT_ROLE_OBSERVER = 2,
}

/// How the layers of a group attend to their prefix.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum kvt_attention {
    /// A hit needs all blocks from the start of the sequence (full attention, MLA).
    KVT_ATTENTION_FULL = 0,
    /// A hit needs only the blocks that the last `window_tokens - 1` tokens lie in.
    KVT_ATTENTION_SLIDING_WINDOW = 1,
}

/// What the library does after it has lost the daemon.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum kvt_reattach {
    /// Nothing: the session stays lost. Close it and open another one.
    KVT_REATTACH_NEVER = 0,
    /// One thread of the library sleeps on the daemon's socket for as long as the session is open. When the daemon is
    /// gone it unmaps the region (unless `kvt_slot_address` was called: then the call that reports the loss does), and
    /// tries to attach again, with back-off (50 ms to 2 s, jittered). `kvt_session_info_get`, and no other call, adopts
    /// the result.
    KVT_REATTACH_BACKGROUND = 1,
}

/// Where a session stands.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum kvt_session_state {
    /// Not attached. Look-ups are misses and stores are skipped until it is attached again.
    KVT_SESSION_LOST_STATE = 0,
    /// Attached, but other ranks of the engine are missing, so there is no namespace yet.
    KVT_SESSION_WAITING = 1,
    /// Attached, and the namespace is known.
    KVT_SESSION_READY = 2,
    /// The daemon shuts down: loads are still served, nothing is reserved any more.
    KVT_SESSION_DRAINING = 3,
}

/// Why a reservation or a load was not given a slot.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum kvt_grant {
    /// Reserve: the block is in the tier already. Nothing to do.
    KVT_GRANT_ALREADY_PRESENT = 1,
    /// Reserve: somebody is filling this block. Nothing to do.
    KVT_GRANT_FILLING = 2,
    /// Reserve: no slot could be taken. The store is dropped.
    KVT_GRANT_NO_SPACE = 3,
    /// Reserve: the daemon shuts down. The store is dropped.
    KVT_GRANT_DRAINING = 4,
    /// Reserve: other ranks of this engine have not attached yet. The store is dropped.
    KVT_GRANT_NOT_READY = 5,
    /// Load: the hold was taken back meanwhile. Compute the block.
    KVT_GRANT_LOST = 6,
}

/// Which operation a completion belongs to. Later versions may add some: pass over what you do not know.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum kvt_op {
    /// `kvt_lookup_submit`.
    KVT_OP_LOOKUP = 1,
    /// `kvt_load_commit`; the completion's tag is the lease's.
    KVT_OP_LOAD = 2,
    /// `kvt_blocks_reserve`.
    KVT_OP_RESERVE = 3,
    /// `kvt_blocks_seal`.
    KVT_OP_SEAL = 4,
    /// `kvt_blocks_abort`.
    KVT_OP_ABORT = 5,
    /// `kvt_namespace_reset`.
    KVT_OP_RESET = 6,
    /// `kvt_counters_request`.
    KVT_OP_COUNTERS = 7,
    /// `kvt_lookup_submit`, at most once and before its `KVT_OP_LOOKUP`: not the answer yet. Blocks of the hit are on
    /// their way into host memory, and the answer comes when they are there or when the daemon's deadline has passed.
    KVT_OP_LOOKUP_PENDING = 8,
    /// `kvt_events_request`: one batch of block events, or that the daemon relays none.
    KVT_OP_EVENTS = 9,
}

/// How device pages are reached.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum kvt_backend {
    /// Device pages are ordinary memory of this process.
    KVT_BACKEND_HOST = 0,
    /// Device pages are memory of a CUDA device.
    KVT_BACKEND_CUDA = 1,
}

/// Which way a copy goes.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum kvt_copy_direction {
    /// From device pages into slots.
    KVT_COPY_STORE = 0,
    /// From slots into device pages.
    KVT_COPY_LOAD = 1,
}

/// One fact that must be equal for two blocks' bytes to be interchangeable.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvt_field {
    /// What it is, dotted and lower-case (`"model.id"`), NUL-terminated UTF-8.
    pub tag: *const c_char,
    /// Its value. May be NULL if `value_bytes` is 0.
    pub value: *const u8,
    /// Bytes of the value.
    pub value_bytes: usize,
}

/// One KV cache group of the engine, as this session knows it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvt_group_spec {
    /// A `KVT_ATTENTION_*`.
    pub kind: u32,
    /// Tokens covered by one block of ours: the engine's block size times its blocks per chunk. At least 1.
    pub tokens_per_block: u32,
    /// Length of the window in tokens, itself included; read only for `KVT_ATTENTION_SLIDING_WINDOW`.
    pub window_tokens: u32,
    /// 0.
    pub reserved: u32,
    /// Bytes of this rank's part of one block. 0 in a scheduler's session.
    pub rank_bytes: u64,
}

/// What `kvt_session_open` needs to know. Zero it, set `struct_bytes`, fill the rest. Everything is copied; nothing needs
/// to outlive the call.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvt_session_options {
    /// `sizeof(kvt_session_options)`.
    pub struct_bytes: usize,
    /// Path of the daemon's socket. NULL: `$KVTIER_SOCKET`, else the default path.
    pub socket_path: *const c_char,
    /// The tenant. NULL: the one that the daemon's allow-list gives this user.
    pub tenant: *const c_char,
    /// A name for people: `"vllm 0.32.0"`. NULL: empty.
    pub engine_name: *const c_char,
    /// A `KVT_ROLE_*`.
    pub role: u32,
    /// Which worker this is, below `rank_count`; 0 in other roles.
    pub rank: u32,
    /// Workers of this engine on this node, 1 to 64; 0 for an observer.
    pub rank_count: u32,
    /// A `KVT_REATTACH_*`.
    pub reattach: u32,
    /// Random bytes drawn by the engine at its start, equal in all its sessions.
    pub engine_group: [u8; 16],
    /// Descriptor fields of the engine, equal in all its sessions.
    pub fields: *const kvt_field,
    /// How many.
    pub field_count: usize,
    /// Descriptor fields of this worker alone.
    pub rank_fields: *const kvt_field,
    /// How many.
    pub rank_field_count: usize,
    /// The KV cache groups, equal in all sessions but for `rank_bytes`.
    pub groups: *const kvt_group_spec,
    /// How many.
    pub group_count: usize,
    /// Bytes of the ring that carries requests, a power of two from 64 KiB to 64 MiB. 0: 8 MiB for a scheduler, else
    /// 256 KiB. One hash takes 32 bytes, and a whole look-up must fit.
    pub request_ring_bytes: u64,
    /// Bytes of the ring that carries completions. 0: 4 MiB for a scheduler, else 256 KiB.
    pub completion_ring_bytes: u64,
    /// How long the handshake may take, in milliseconds. 0: 2000.
    pub deadline_ms: u32,
    /// 0.
    pub reserved: u32,
    /// Where routers find the engine, as it stands in its events: `"10.0.0.1:8000"`. NULL: no router knows it. Since minor
    /// version 2; a struct that ends before it is taken as well.
    pub pod: *const c_char,
    /// The name that the engine serves its model under. NULL: empty.
    pub model: *const c_char,
}

/// Bytes of `kvt_session_options` before minor version 2.
pub(super) const SESSION_OPTIONS_BYTES_1: usize = std::mem::offset_of!(kvt_session_options, pod);

/// Where a session stands: see `kvt_session_info_get`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvt_session_info {
    /// `sizeof(kvt_session_info)`, set by the caller.
    pub struct_bytes: usize,
    /// A `KVT_SESSION_*` state.
    pub state: u32,
    /// KV cache groups of the namespace; 0 until it is known.
    pub group_count: u32,
    /// Grows by one at each (re)attachment; 0: never attached. Tags, leases and slots of an earlier one are void.
    pub attachment: u64,
    /// Drawn by the daemon at each start. Slots that came through a session with another boot epoch mean nothing here.
    pub boot_epoch: [u8; 16],
    /// The namespace, once ready; else zeros.
    pub namespace_id: [u8; 16],
    /// Bytes of the region as of the last attachment; 0: never attached.
    pub region_bytes: u64,
}

/// Where this session's rank lies in the slots of one group.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct kvt_group_layout {
    /// Bytes of a whole slot, all ranks.
    pub slot_bytes: u64,
    /// Where this rank's part begins, in bytes from the start of the slot; not always 0 for rank 0, because slots may
    /// begin with bytes of the daemon's own. In a scheduler's session: rank 0's.
    pub rank_offset: u64,
    /// Bytes of this rank's part. In a scheduler's session: rank 0's.
    pub rank_bytes: u64,
}

/// Keys of one group, one for each block in order.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvt_group_keys {
    /// Index of the group.
    pub group: u32,
    /// 0.
    pub reserved: u32,
    /// `hash_count` × 32 bytes, no alignment needed. May be NULL if there are none.
    pub hashes: *const u8,
    /// How many.
    pub hash_count: usize,
}

/// What consecutive new blocks are about, so that the daemon can announce them to a router: blocks of one sequence in one
/// group that follow each other and differ in nothing but their tokens.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvt_run {
    /// How many keys this run describes, at least 1.
    pub blocks: u32,
    /// Tokens of each block. 0: nobody describes these blocks, and everything below is NULL or 0.
    pub tokens_per_block: u32,
    /// The 32 bytes of the hash of the block before the first one; no alignment needed. NULL: it begins its sequence.
    pub parent: *const u8,
    /// The tokens of all blocks: `blocks` × `tokens_per_block`.
    pub tokens: *const u32,
    /// The adapter that the blocks were computed with, NUL-terminated UTF-8. NULL: none.
    pub lora_name: *const c_char,
    /// What else went into the hash of each block, but for the adapter: one MessagePack array, which the library does not
    /// read. It has an entry for each of the engine's own blocks in a block, nil or an array. May be NULL if there is nothing.
    pub extra_keys: *const u8,
    /// Bytes of it.
    pub extra_bytes: usize,
}

/// A run of consecutive blocks of one group, counted in blocks from the start of the look-up's keys.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct kvt_span {
    /// Index of the group.
    pub group: u32,
    /// First block.
    pub first: u32,
    /// Number of blocks.
    pub count: u32,
}

/// Names one use of one slot of the region, or says why there is none.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct kvt_slot {
    /// Where the slot begins, in pages of 4096 bytes from the start of the region. `KVT_SLOT_NONE`: no slot.
    pub page: u32,
    /// Which use of it. If there is no slot: a `KVT_GRANT_*`.
    pub generation: u32,
}

/// The answer to one operation.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvt_completion {
    /// The tag it was submitted with (a load: the lease's tag).
    pub tag: u64,
    /// A `KVT_OP_*`.
    pub op: u32,
    /// `KVT_OK`; for a look-up also `KVT_NOT_READY` or `KVT_QUOTA_EXCEEDED`, both of which are misses.
    pub status: super::kvt_status,
    /// Look-up: length of the hit in tokens. Pending look-up: its length if all blocks are there and arrive. Load: blocks lost. Seal: blocks published. Abort: parts given back. Reset:
    /// 1 if there is a new namespace, whose 16 bytes are in `bytes`; else 0. Events: 1 if the daemon relays none; else 0.
    pub value: u64,
    /// Seal: parts sealed. Else 0.
    pub value2: u64,
    /// Seal, abort: slots in which this session had nothing to seal or abort any more. Else 0.
    pub value3: u64,
    /// Look-up: the blocks that are held, one span for each group that the hit needs.
    pub spans: *const kvt_span,
    /// How many.
    pub span_count: usize,
    /// Reserve: one grant for each key in order. Load: one for each block of the spans in order.
    pub slots: *const kvt_slot,
    /// How many.
    pub slot_count: usize,
    /// Counters: JSON in UTF-8, not NUL-terminated. Reset: see `value`. Events: a batch in MessagePack.
    pub bytes: *const u8,
    /// How many.
    pub byte_count: usize,
}

/// Pages of one tensor: the page of device block `b` lies at `base + b * stride_bytes`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvt_page_run {
    /// Where device block 0's page begins.
    pub base: *mut c_void,
    /// Distance between the pages of consecutive device blocks, at least `page_bytes`.
    pub stride_bytes: u64,
    /// Bytes of a page, at least 1.
    pub page_bytes: u64,
    /// Number of device blocks; a transfer must name one below it.
    pub page_count: u64,
}

/// One device block and its place in a slot.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct kvt_transfer {
    /// The slot.
    pub slot: kvt_slot,
    /// The device block.
    pub device_block: u32,
    /// Which of the chunk's device blocks it is, below `blocks_per_chunk`.
    pub block_in_chunk: u32,
}

/// The end of one batch of copies.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct kvt_copy_result {
    /// The tag it was submitted with.
    pub tag: u64,
    /// `KVT_OK`: all bytes have been copied. Anything else: the target's bytes are undefined.
    pub status: super::kvt_status,
    /// 0.
    pub reserved: u32,
    /// Bytes copied.
    pub bytes: u64,
}

/// The sizes and offsets that programs were compiled with.
#[cfg(target_pointer_width = "64")]
const _: () = {
    use std::mem::offset_of;
    assert!(size_of::<kvt_field>() == 24);
    assert!(size_of::<kvt_group_spec>() == 24);
    assert!(size_of::<kvt_session_options>() == 152);
    assert!(SESSION_OPTIONS_BYTES_1 == 136);
    assert!(offset_of!(kvt_session_options, engine_group) == 48);
    assert!(offset_of!(kvt_session_options, request_ring_bytes) == 112);
    assert!(size_of::<kvt_session_info>() == 64);
    assert!(offset_of!(kvt_session_info, boot_epoch) == 24);
    assert!(size_of::<kvt_group_layout>() == 24);
    assert!(size_of::<kvt_group_keys>() == 24);
    assert!(size_of::<kvt_run>() == 48);
    assert!(size_of::<kvt_span>() == 12);
    assert!(size_of::<kvt_slot>() == 8);
    assert!(size_of::<kvt_completion>() == 88);
    assert!(offset_of!(kvt_completion, value) == 16);
    assert!(offset_of!(kvt_completion, spans) == 40);
    assert!(offset_of!(kvt_completion, bytes) == 72);
    assert!(size_of::<kvt_page_run>() == 32);
    assert!(size_of::<kvt_transfer>() == 16);
    assert!(size_of::<kvt_copy_result>() == 24);
};
