//! Any bytes for a decoder of `kvstore-remote`: see `kvstore_remote::format::fuzz::remote_small`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kvstore_remote::format::fuzz::remote_small(data));
