//! Any bytes for the check of `kvstore-events`: see `kvstore_events::fuzz::extra_keys`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kvstore_events::fuzz::extra_keys(data));
