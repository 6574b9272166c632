//! The local interrupt controller: by MSRs where the CPU has x2APIC, else by its page.

use core::sync::atomic::{AtomicBool, Ordering};

use crate::cpu;
use crate::interrupts::SPURIOUS_VECTOR;
use crate::memory::Window;

const ID: u8 = 0x02;
const END_OF_INTERRUPT: u8 = 0x0b;
const SPURIOUS: u8 = 0x0f;
const COMMAND: u8 = 0x30;
const COMMAND_HIGH: u8 = 0x31;

const INIT: u32 = 0x4500;
const STARTUP: u32 = 0x4600;

static X2APIC: AtomicBool = AtomicBool::new(false);

fn mmio() -> Option<Window> {
    Window::outside_image(0xfee0_0000, 0x1000)
}

fn write(register: u8, value: u32) {
    if X2APIC.load(Ordering::Relaxed) {
        cpu::x2apic_write(register, u64::from(value));
    } else if let Some(page) = mmio() {
        page.word32(usize::from(register) * 16)
            .store(value, Ordering::Relaxed);
    }
}

/// Switches this vCPU's controller on.
pub(crate) fn enable() {
    let x2apic = cpu::cpuid(1)[2] & 1 << 21 != 0;
    if x2apic {
        X2APIC.store(true, Ordering::Relaxed);
        cpu::enable_x2apic();
    }
    write(SPURIOUS, 0x100 | u32::from(SPURIOUS_VECTOR));
}

/// Whether x2APIC mode is in use.
pub(crate) fn is_x2apic() -> bool {
    X2APIC.load(Ordering::Relaxed)
}

/// This vCPU's number as the controller has it.
pub(crate) fn id() -> u32 {
    if is_x2apic() {
        u32::try_from(cpu::x2apic_read(ID)).unwrap_or(u32::MAX)
    } else {
        mmio().map_or(u32::MAX, |page| {
            page.word32(usize::from(ID) * 16).load(Ordering::Relaxed) >> 24
        })
    }
}

pub(crate) fn end_of_interrupt() {
    write(END_OF_INTERRUPT, 0);
}

fn command(target: u32, what: u32) {
    if is_x2apic() {
        cpu::x2apic_write(COMMAND, u64::from(target) << 32 | u64::from(what));
    } else {
        write(COMMAND_HIGH, target << 24);
        write(COMMAND, what);
    }
}

/// Resets a vCPU.
pub(crate) fn send_init(target: u32) {
    command(target, INIT);
}

/// Starts a vCPU in 16-bit mode at a page below 1 MiB.
pub(crate) fn send_startup(target: u32, page: u8) {
    command(target, STARTUP | u32::from(page));
}
