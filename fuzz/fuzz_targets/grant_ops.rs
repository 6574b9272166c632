//! See `fuzz_common::targets::grant_ops`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_common::targets::grant_ops::run(data));
