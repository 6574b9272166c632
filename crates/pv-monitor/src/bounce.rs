//! How the guest's kernel is entered: a frame on its stack, and its registers at the handler.
//!
//! The frame is, from the lowest address: rcx, r11, (for the failsafe callback ds, es, fs, gs), (the error code), rip, cs, rflags, rsp, ss. Byte 4 of
//! the word with cs is the event mask as it was (`saved_upcall_mask`), and the IF in rflags is its opposite.

use zerocopy::IntoBytes;

use crate::hardware::Memory;
use crate::hypercall::address_is_canonical;
use crate::mode::{Mode, enter_kernel};
use crate::regs::Regs;
use crate::segments::{
    KERNEL_CS, KERNEL_SS, SEEN_KERNEL_CS, SEEN_KERNEL_SS, SEEN_USER_CS64, USER_CS64,
};
use crate::start::FIXED_RFLAGS;
use crate::vcpu::{Callback, Vcpu};

/// rflags.IF.
pub const IF: u64 = 1 << 9;
/// What of rflags a handler does not inherit: TF, IOPL, NT, RF, VM, AC.
const CLEARED: u64 = (1 << 8) | (3 << 12) | (1 << 14) | (1 << 16) | (1 << 17) | (1 << 18);

/// What is between r11 and rip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Middle {
    /// Nothing.
    None,
    /// An error code.
    Error(u32),
    /// ds, es, fs, gs.
    Segments([u64; 4]),
}

/// The kernel cannot be entered: the guest cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CannotEnter {
    /// There is no such handler, or its address is not canonical.
    NoHandler,
    /// Its stack cannot be written.
    NoStack,
}

impl CannotEnter {
    /// What the guest's console log is told.
    #[must_use]
    pub const fn why(self) -> &'static str {
        match self {
            Self::NoHandler => "the guest's kernel has no handler for what has happened",
            Self::NoStack => "the stack of the guest's kernel cannot be written",
        }
    }
}

/// The words of a frame.
struct Frame {
    words: [u64; 11],
    used: usize,
}

impl Frame {
    fn push(&mut self, word: u64) {
        if let Some(slot) = self.words.get_mut(self.used) {
            *slot = word;
            self.used += 1;
        }
    }
}

/// cs and ss as the guest is to see them.
fn seen_segments(in_kernel: bool, regs: &Regs) -> (u64, u64) {
    if in_kernel {
        (SEEN_KERNEL_CS, SEEN_KERNEL_SS)
    } else if regs.cs == u64::from(USER_CS64) {
        (SEEN_USER_CS64, regs.ss & 0xffff)
    } else {
        (regs.cs & 0xffff, regs.ss & 0xffff)
    }
}

/// Enters the kernel at a handler.
///
/// # Errors
/// [`CannotEnter`]; the registers are as they were, the mode may have changed.
pub fn enter<M: Memory + Mode>(
    machine: &mut M,
    vcpu: &mut Vcpu,
    regs: &mut Regs,
    handler: Callback,
    middle: Middle,
) -> Result<(), CannotEnter> {
    if handler.address == 0 || !address_is_canonical(handler.address) {
        return Err(CannotEnter::NoHandler);
    }
    let was_in_kernel = vcpu.in_kernel;
    let masked = vcpu.is_masked();
    enter_kernel(machine, vcpu);
    let mut frame = Frame {
        words: [0; 11],
        used: 0,
    };
    frame.push(regs.rcx);
    frame.push(regs.r11);
    match middle {
        Middle::None => {}
        Middle::Error(code) => frame.push(u64::from(code)),
        Middle::Segments(segments) => segments.into_iter().for_each(|word| frame.push(word)),
    }
    let (cs, ss) = seen_segments(was_in_kernel, regs);
    frame.push(regs.rip);
    frame.push(cs | (u64::from(masked) << 32));
    frame.push(if masked {
        regs.rflags & !IF
    } else {
        regs.rflags | IF
    });
    frame.push(regs.rsp);
    frame.push(ss);
    let words = frame.words.get(..frame.used).unwrap_or_default();

    let top = if was_in_kernel {
        regs.rsp
    } else {
        vcpu.kernel_sp
    };
    let bytes = words.as_bytes();
    let rsp = (top & !15).wrapping_sub(bytes.len() as u64);
    machine
        .write(rsp, bytes)
        .map_err(|_| CannotEnter::NoStack)?;

    regs.rsp = rsp;
    regs.rip = handler.address;
    regs.cs = u64::from(KERNEL_CS);
    regs.ss = u64::from(KERNEL_SS);
    regs.rflags = regs.rflags & !CLEARED | FIXED_RFLAGS;
    if handler.masks_events {
        vcpu.set_masked(true);
    }
    Ok(())
}

/// Raises an exception.
///
/// # Errors
/// As [`enter`].
pub fn exception<M: Memory + Mode>(
    machine: &mut M,
    vcpu: &mut Vcpu,
    regs: &mut Regs,
    vector: u8,
    error: Option<u32>,
) -> Result<(), CannotEnter> {
    let handler = vcpu
        .traps
        .get(usize::from(vector))
        .map_or(Callback::default(), |trap| Callback {
            address: trap.address,
            masks_events: trap.masks_events,
        });
    let middle = error.map_or(Middle::None, Middle::Error);
    enter(machine, vcpu, regs, handler, middle)
}

/// Enters the event callback where an event is pending and not masked.
///
/// # Errors
/// As [`enter`].
pub fn pending_event<M: Memory + Mode>(
    machine: &mut M,
    vcpu: &mut Vcpu,
    regs: &mut Regs,
) -> Result<(), CannotEnter> {
    // A kernel that has no callback yet looks by itself.
    if vcpu.event.address == 0 || vcpu.is_masked() || !vcpu.is_pending() {
        return Ok(());
    }
    let handler = Callback {
        masks_events: true,
        ..vcpu.event
    };
    enter(machine, vcpu, regs, handler, Middle::None)
}

#[cfg(test)]
mod tests;
