//! The remote tier: a door to a room that is not built yet.
//!
//! It will own shared filesystems (tokio-uring) and object stores (`object_store`). The engine already keeps a place
//! for a remote copy in each block's residency; nothing fills it today, and no configuration key turns it on.
#![forbid(unsafe_code)]
