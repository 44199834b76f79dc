//! Any bytes for a decoder of `kvstore-nvme`: see `kvstore_nvme::format::fuzz::records`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kvstore_nvme::format::fuzz::records(data));
