//! See `fuzz_common::targets::evtchn_ops`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_common::targets::evtchn_ops::run(data));
