//! The call `iret`: back from an exception, an event or a system call.

use core::mem::size_of;

use cantle_abi::pv::{IretContext, VGCF_in_syscall};
use zerocopy::{FromZeros, IntoBytes};

use crate::bounce::IF;
use crate::hardware::Memory;
use crate::mode::{Mode, enter_user};
use crate::regs::Regs;
use crate::segments::{KERNEL_CS, KERNEL_SS, SEEN_USER_CS64, SYSRET, USER_CS64};
use crate::start::{FIXED_RFLAGS, GUEST_RFLAGS};
use crate::vcpu::{Next, Vcpu};

/// TF and RF: `sysretq` does not bring them back as they were.
const NOT_BY_SYSRET: u64 = (1 << 8) | (1 << 16);

/// Takes the registers from the kernel's stack. What they name is not checked here: the processor does, and the failsafe callback is told.
pub fn iret<M: Memory + Mode>(machine: &mut M, vcpu: &mut Vcpu, regs: &mut Regs) -> Next {
    let mut raw = [0_u64; size_of::<IretContext>() / 8];
    if machine.read(regs.rsp, raw.as_mut_bytes()).is_err() {
        return Next::Crash("the stack that iret takes its frame from cannot be read");
    }
    let mut context = IretContext::new_zeroed();
    context.as_mut_bytes().copy_from_slice(raw.as_bytes());

    regs.rax = context.rax;
    regs.rip = context.rip;
    regs.rsp = context.rsp;
    regs.rflags = context.rflags & GUEST_RFLAGS | FIXED_RFLAGS;
    let to_program = context.cs & 3 == 3;
    if to_program {
        regs.cs = if context.cs & 0xffff == SEEN_USER_CS64 {
            u64::from(USER_CS64)
        } else {
            context.cs & 0xffff
        };
        regs.ss = context.ss & 0xffff;
    } else {
        regs.cs = u64::from(KERNEL_CS);
        regs.ss = u64::from(KERNEL_SS);
    }
    if context.flags & VGCF_in_syscall == 0 {
        regs.vector = Regs::IRET;
        regs.rcx = context.rcx;
        regs.r11 = context.r11;
    } else {
        regs.vector = Regs::SYSCALL;
        regs.rcx = regs.rip;
        regs.r11 = regs.rflags;
    }
    vcpu.set_masked(context.rflags & IF == 0);
    if to_program {
        enter_user(machine, vcpu);
    }
    Next::Resume
}

/// Whether the registers can be loaded by `sysretq`, which is faster than `iretq`: a return from a system call to a 64-bit program.
#[must_use]
pub fn fits_sysret(vcpu: &Vcpu, regs: &Regs) -> bool {
    !vcpu.in_kernel
        && regs.vector == Regs::SYSCALL
        && (regs.cs, regs.ss) == SYSRET
        // The lower half: an address that is not canonical would fault in ring 0, on the program's stack.
        && regs.rip >> 47 == 0
        && regs.rflags & NOT_BY_SYSRET == 0
}

#[cfg(test)]
mod tests;
