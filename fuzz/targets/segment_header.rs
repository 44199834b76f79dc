//! Any bytes for a decoder of `kvstore-nvme`: see `kvstore_nvme::format::fuzz::segment_header`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kvstore_nvme::format::fuzz::segment_header(data));
