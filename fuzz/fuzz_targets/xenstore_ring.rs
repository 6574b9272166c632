//! See `fuzz_common::targets::xenstore_ring`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_common::targets::xenstore_ring::run(data));
