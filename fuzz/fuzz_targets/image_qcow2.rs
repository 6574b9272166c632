//! See `fuzz_common::targets::image_qcow2`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_common::targets::image_qcow2::run(data));
