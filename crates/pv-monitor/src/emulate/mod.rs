//! Privileged instructions of the guest's kernel.

use crate::hardware::Machine;
use crate::regs::Regs;
use crate::vcpu::{Next, Vcpu};

/// The bits of CR4 that a guest may choose: TSD, DE and FSGSBASE.
pub const GUEST_CR4: u64 = 1 << 2 | 1 << 3 | 1 << 16;

/// What becomes of a `#GP` (without error code) or `#UD` of the guest, whose registers are at the instruction.
pub fn privileged<M: Machine>(_machine: &mut M, _vcpu: &mut Vcpu, regs: &mut Regs) -> Next {
    Next::Raise(
        regs.vector.to_le_bytes()[0],
        (regs.vector == 13).then_some(regs.error),
    )
}
