//! See `fuzz_common::targets::hypercall`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_common::targets::hypercall::run(data));
