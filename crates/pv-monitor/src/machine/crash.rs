//! The end of a guest that cannot go on: what its console log is told.
// UNSAFETY: a look at the stack, wherever that may be.
#![expect(unsafe_code)]

use core::fmt::{self, Write};

use cantle_pv_monitor::addresses;
use cantle_pv_monitor::interface::{HOST_CRASH, HOST_LOG};
use cantle_pv_monitor::regs::Regs;
use cantle_pv_monitor::vcpu::Vcpu;

use super::{cpu, entry, host};

/// Bytes of code that are shown.
const CODE_BYTES: u64 = 16;
/// Words of the stack that are shown.
const STACK_WORDS: u64 = 32;

/// A text of limited length; what is beyond is left out.
struct Text {
    bytes: [u8; 2560],
    used: usize,
}

impl Text {
    const fn new() -> Self {
        Self {
            bytes: [0; 2560],
            used: 0,
        }
    }

    fn send(&self, call: u64) {
        let at = self.bytes.as_ptr().expose_provenance() as u64;
        host::call_now(call, [at, self.used as u64, 0, 0, 0]);
    }
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for &byte in text.as_bytes() {
            let Some(slot) = self.bytes.get_mut(self.used) else {
                return Err(fmt::Error);
            };
            *slot = byte;
            self.used += 1;
        }
        Ok(())
    }
}

/// The guest has broken the rules so that it cannot go on.
pub(super) fn guest(vcpu: Option<&Vcpu>, regs: &Regs, why: &str) -> ! {
    end(vcpu, regs, why)
}

/// The monitor has.
pub(super) fn monitor(regs: &Regs) -> ! {
    end(None, regs, "an exception in the monitor")
}

/// A panic of the monitor's.
pub(super) fn panicked(info: &core::panic::PanicInfo<'_>) -> ! {
    let mut text = Text::new();
    let _ = writeln!(text, "the monitor has failed: {info}");
    stop(&text)
}

/// The monitor cannot run on what the host has made.
pub(super) fn setup(why: &str) -> ! {
    let mut text = Text::new();
    let _ = writeln!(text, "the monitor cannot start: {why}");
    stop(&text)
}

/// A line for the host's log.
pub(super) fn log(line: fmt::Arguments<'_>) {
    let mut text = Text::new();
    let _ = text.write_fmt(line);
    text.send(HOST_LOG);
}

fn end(vcpu: Option<&Vcpu>, regs: &Regs, why: &str) -> ! {
    let mut text = Text::new();
    // What does not fit is left out.
    let _ = describe(&mut text, vcpu, regs, why);
    stop(&text)
}

fn stop(text: &Text) -> ! {
    text.send(HOST_CRASH);
    // The host does not come back. Were it to, interrupts are off.
    loop {
        // SAFETY: nothing follows.
        unsafe { core::arch::asm!("cli", "hlt", options(nomem, nostack)) };
    }
}

fn describe(text: &mut Text, vcpu: Option<&Vcpu>, regs: &Regs, why: &str) -> fmt::Result {
    match vcpu {
        Some(vcpu) => {
            let mode = if vcpu.in_kernel { "kernel" } else { "program" };
            writeln!(
                text,
                "vCPU {} crashed in the guest's {mode}: {why}",
                vcpu.id
            )?;
        }
        None => writeln!(text, "crashed: {why}")?,
    }
    writeln!(
        text,
        "event {:#x}, error code {:#x}",
        regs.vector, regs.error
    )?;
    writeln!(
        text,
        "rip {:#06x}:{:#018x}  rflags {:#010x}",
        regs.cs, regs.rip, regs.rflags
    )?;
    writeln!(text, "rsp {:#06x}:{:#018x}", regs.ss, regs.rsp)?;
    let rows = [
        [("rax", regs.rax), ("rbx", regs.rbx), ("rcx", regs.rcx)],
        [("rdx", regs.rdx), ("rsi", regs.rsi), ("rdi", regs.rdi)],
        [("rbp", regs.rbp), ("r8 ", regs.r8), ("r9 ", regs.r9)],
        [("r10", regs.r10), ("r11", regs.r11), ("r12", regs.r12)],
        [("r13", regs.r13), ("r14", regs.r14), ("r15", regs.r15)],
        [
            ("cr0", cpu::read_cr0()),
            ("cr3", cpu::read_cr3()),
            ("cr4", cpu::read_cr4()),
        ],
        [
            ("cr2", cpu::read_cr2()),
            ("gs ", cpu::read_msr(cpu::GS_BASE).unwrap_or(0)),
            ("gs'", cpu::read_msr(cpu::KERNEL_GS_BASE).unwrap_or(0)),
        ],
    ];
    for row in rows {
        for (name, value) in row {
            write!(text, "{name} {value:016x}  ")?;
        }
        writeln!(text)?;
    }
    let in_monitor = regs.cs & 3 == 0;
    write!(text, "code:")?;
    for index in 0..CODE_BYTES {
        let Some([byte, ..]) = peek(regs.rip.wrapping_add(index), 1, in_monitor) else {
            break;
        };
        write!(text, " {byte:02x}")?;
    }
    writeln!(text, "\nstack:")?;
    for index in 0..STACK_WORDS {
        let Some(word) = peek(regs.rsp.wrapping_add(index * 8), 8, in_monitor) else {
            break;
        };
        let end = if index % 4 == 3 { "\n" } else { " " };
        write!(text, "{:016x}{end}", u64::from_le_bytes(word))?;
    }
    writeln!(text)
}

/// So many bytes, at most 8, at an address; those of the monitor only where that is what crashed.
fn peek(address: u64, bytes: u64, in_monitor: bool) -> Option<[u8; 8]> {
    if !in_monitor && !addresses::are_guests(address, bytes) {
        return None;
    }
    let mut found = [0; 8];
    let to = found.as_mut_ptr().expose_provenance() as u64;
    // SAFETY: it reads what is there, at most the 8 bytes that there is room for, and a fault is caught.
    let fault = unsafe { entry::copy_or_fault(to, address, 0, bytes.min(8)) };
    (fault == 0).then_some(found)
}
