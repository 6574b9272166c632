//! See `fuzz_common::targets::evtchn_fifo`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_common::targets::evtchn_fifo::run(data));
