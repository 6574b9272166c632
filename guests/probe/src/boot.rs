//! The entry points, and the jump to Rust.

// UNSAFETY: the code before the first Rust function, which is called by its symbol.
#![expect(unsafe_code)]

use core::arch::global_asm;

global_asm!(include_str!("boot.s"), options(att_syntax));

#[unsafe(no_mangle)]
extern "C" fn probe_main(start_info: u32) -> ! {
    crate::run(start_info)
}
