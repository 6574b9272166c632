//! See `fuzz_common::targets::net_switch`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_common::targets::net_switch::run(data));
