//! Hypercalls.

use cantle_abi::Errno;

use crate::hardware::Machine;
use crate::regs::Regs;
use crate::vcpu::{Next, Vcpu};

/// Whether an address has its upper bits alike, as those of 48-bit addresses do.
#[must_use]
pub const fn address_is_canonical(address: u64) -> bool {
    // The sign of bit 47 moved through the rest.
    (address.cast_signed() << 16) >> 16 == address.cast_signed()
}

/// Serves the hypercall in the registers (number in rax; rdi, rsi, rdx, r10, r8) and puts its result into rax; `iret` is not among them.
pub fn serve<M: Machine>(_machine: &mut M, _vcpu: &mut Vcpu, regs: &mut Regs) -> Next {
    regs.rax = Errno::ENOSYS.to_ret().cast_unsigned();
    Next::Resume
}
