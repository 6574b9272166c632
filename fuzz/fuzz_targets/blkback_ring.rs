//! See `fuzz_common::targets::blkback_ring`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_common::targets::blkback_ring::run(data));
