//! See `fuzz_common::targets::image_vhd`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_common::targets::image_vhd::run(data));
