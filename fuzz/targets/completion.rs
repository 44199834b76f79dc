//! Any bytes for a decoder of `connector-shm`: see `connector_shm::fuzz::completion`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| connector_shm::fuzz::completion(data));
