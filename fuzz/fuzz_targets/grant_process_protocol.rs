//! See `fuzz_common::targets::grant_process_protocol`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_common::targets::grant_process_protocol::run(data));
