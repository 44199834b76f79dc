//! Any bytes for a decoder of `kvstore-types`: see `kvstore_types::fuzz::descriptor`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kvstore_types::fuzz::descriptor(data));
