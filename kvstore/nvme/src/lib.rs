//! The NVMe tier: a door to a room that is not built yet.
//!
//! It will own segments, the io_uring engine and its pread/pwrite fallback, the RocksDB catalogue and recovery. The
//! engine already keeps a place for an NVMe copy in each block's residency; nothing fills it today, and no
//! configuration key turns this tier on.
