//! What needs the machine itself. The rest of the monitor is in the library, which sees this through its traits (`hardware`, `mode`).
// UNSAFETY: the first instruction, and what the host has written before it.
#![expect(unsafe_code)]

mod area;
mod cpu;
mod crash;
mod entry;
mod hardware;
mod host;
mod smp;
mod start;
mod tables;

use core::arch::global_asm;

use cantle_pv_monitor::interface::{BOOT_INFO, BootInfo};

// The host enters here with the vCPU's number in rdi and the stack pointer at the end of its area. The registers that the guest begins with are put
// at the end of the stack while this one is in use: it begins below.
global_asm!(
    ".section .text.entry, \"ax\", @progbits",
    ".globl monitor_entry",
    "monitor_entry:",
    "cld",
    "and rsp, -16",
    "sub rsp, 512",
    "xor ebp, ebp",
    "call {start}",
    "ud2",
    start = sym start::start,
);

/// What the host has said.
fn boot() -> &'static BootInfo {
    // SAFETY: the host has written it before the first vCPU ran, and nobody does after.
    unsafe { &*area::pointer::<BootInfo>(BOOT_INFO) }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    crash::panicked(info)
}
