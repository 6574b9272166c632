//! What exceptions and system calls of the guest lead to.

use crate::bounce::{self, CannotEnter, Middle};
use crate::emulate;
use crate::hardware::Machine;
use crate::interface::{WINDOW_SIZE, window};
use crate::mode::Mode;
use crate::regs::Regs;
use crate::segments::SYSRET;
use crate::vcpu::{Callback, Next, Vcpu};
use crate::writable;

/// `#DB`.
pub const DEBUG: u8 = 1;
/// `#UD`.
pub const INVALID_OPCODE: u8 = 6;
/// `#NM`.
pub const NO_FPU: u8 = 7;
/// `#GP`.
pub const GENERAL_PROTECTION: u8 = 13;
/// `#PF`.
pub const PAGE_FAULT: u8 = 14;

/// Whether the processor pushes an error code for an exception.
#[must_use]
pub const fn has_error_code(vector: u8) -> bool {
    matches!(vector, 8 | 10..=14 | 17 | 21 | 29 | 30)
}

/// An exception of the guest's, or an `int` that its table lets programs use.
pub fn exception<M: Machine + Mode>(machine: &mut M, vcpu: &mut Vcpu, regs: &mut Regs) -> Next {
    let vector = regs.vector.to_le_bytes()[0];
    let error = has_error_code(vector).then_some(regs.error);
    match vector {
        PAGE_FAULT => page_fault(machine, vcpu, regs),
        GENERAL_PROTECTION if regs.error & 2 != 0 => software_interrupt(vcpu, regs),
        // A selector may be its reason, too: the kernel's own, which Xen would give another ring than there is here.
        GENERAL_PROTECTION | INVALID_OPCODE => emulate::privileged(machine, vcpu, regs),
        NO_FPU => {
            // As Xen: the guest may use it from here on.
            machine.set_task_switched(false);
            vcpu.cr0 &= !(1 << 3);
            Next::Raise(vector, None)
        }
        DEBUG => {
            let status = machine.take_debug_status();
            if let Some(seen) = vcpu.debug.get_mut(6) {
                *seen = status;
            }
            Next::Raise(vector, None)
        }
        _ => Next::Raise(vector, error),
    }
}

fn page_fault<M: Machine + Mode>(machine: &mut M, vcpu: &mut Vcpu, regs: &mut Regs) -> Next {
    let address = machine.fault_address();
    // A selector beyond the guest's tables: the processor looked for its descriptor where no page is.
    let offset = address.wrapping_sub(window(vcpu.id));
    if offset < WINDOW_SIZE && regs.error & 4 == 0 {
        return Next::Raise(GENERAL_PROTECTION, Some(selector_at(offset)));
    }
    if writable::grant(machine, vcpu, address, regs.error) {
        return Next::Resume;
    }
    vcpu.set_fault_address(address);
    Next::Raise(PAGE_FAULT, Some(regs.error))
}

/// The selector (its ring 0) whose descriptor is so far in a window.
fn selector_at(offset: u64) -> u32 {
    let [low, high, ..] = offset.to_le_bytes();
    let table = if offset < WINDOW_SIZE / 2 { 0 } else { 4 };
    u32::from(u16::from_le_bytes([low, high])) & !7 | table
}

/// `int n` with a vector that the monitor's table lets no guest use: the guest's own says whether it may.
fn software_interrupt(vcpu: &Vcpu, regs: &mut Regs) -> Next {
    let [vector, ..] = (regs.error >> 3).to_le_bytes();
    let ring = if vcpu.in_kernel { 1 } else { 3 };
    match vcpu.traps.get(usize::from(vector)) {
        Some(trap) if trap.address != 0 && trap.dpl >= ring => {
            // `cd nn`.
            regs.rip = regs.rip.wrapping_add(2);
            Next::Raise(vector, None)
        }
        _ => Next::Raise(GENERAL_PROTECTION, Some(regs.error)),
    }
}

/// `int $0x80`, which the monitor's table lets everyone use.
pub fn int80(vcpu: &Vcpu, regs: &mut Regs) -> Next {
    regs.error = 0x80 << 3 | 2;
    regs.rip = regs.rip.wrapping_sub(2);
    software_interrupt(vcpu, regs)
}

/// A program's system call, by the instruction that `regs.vector` tells.
///
/// # Errors
/// [`CannotEnter`].
pub fn system_call<M: Machine + Mode>(
    machine: &mut M,
    vcpu: &mut Vcpu,
    regs: &mut Regs,
) -> Result<(), CannotEnter> {
    let handler = match regs.vector {
        Regs::SYSCALL => {
            (regs.cs, regs.ss) = SYSRET;
            vcpu.syscall
        }
        Regs::SYSCALL32 => vcpu.syscall32,
        _ => vcpu.sysenter,
    };
    match handler {
        Callback { address: 0, .. } if regs.vector == Regs::SYSENTER => {
            bounce::exception(machine, vcpu, regs, GENERAL_PROTECTION, Some(0))
        }
        Callback { address: 0, .. } => {
            // As if there were no such instruction; it has two bytes.
            regs.rip = regs.rip.wrapping_sub(2);
            bounce::exception(machine, vcpu, regs, INVALID_OPCODE, None)
        }
        handler => bounce::enter(machine, vcpu, regs, handler, Middle::None),
    }
}

/// The registers could not be loaded on the way to the guest (`iretq` faulted).
///
/// # Errors
/// [`CannotEnter`].
pub fn failed_return<M: Machine + Mode>(
    machine: &mut M,
    vcpu: &mut Vcpu,
    regs: &mut Regs,
) -> Result<(), CannotEnter> {
    if vcpu.in_kernel {
        // Only an address that is not canonical does this, and no handler's is such.
        return bounce::exception(machine, vcpu, regs, GENERAL_PROTECTION, Some(0));
    }
    let segments = machine.data_segments();
    let handler = vcpu.failsafe;
    bounce::enter(machine, vcpu, regs, handler, Middle::Segments(segments))
}

#[cfg(test)]
mod tests;
