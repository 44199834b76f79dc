//! What the fuzz targets (`fuzz/`) and the replay of their corpus call.
#![allow(
    clippy::missing_panics_doc,
    reason = "a property that does not hold is a panic, which is what a fuzzer looks for"
)]

/// A client's extra keys: whatever is let through is one value that a decoder understands.
pub fn extra_keys(data: &[u8]) {
    let _ = crate::wire::check_extra_keys(data);
}
