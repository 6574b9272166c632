//! See `fuzz_common::targets::pv_hypercalls`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_common::targets::pv_hypercalls::run(data));
