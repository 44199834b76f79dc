//! Any bytes for a decoder of `kvstore-events`: see `kvstore_events::fuzz::zmtp`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kvstore_events::fuzz::zmtp(data));
