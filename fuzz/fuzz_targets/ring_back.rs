//! See `fuzz_common::targets::ring_back`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_common::targets::ring_back::run(data));
