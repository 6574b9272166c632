//! The processor's own state: descriptors, segment bases, debug registers, the FPU's trap.

use cantle_abi::Errno;
use cantle_abi::pv::*;

use super::{Arguments, DONE, Outcome, address_is_canonical, fault};
use crate::descriptors;
use crate::hardware::Machine;
use crate::interface::HYPERVISOR_SLOTS;
use crate::vcpu::Vcpu;
use zerocopy::IntoBytes;

/// The registers of the segments' bases.
const MSR_FS_BASE: u32 = 0xc000_0100;
const MSR_GS_BASE: u32 = 0xc000_0101;
const MSR_KERNEL_GS_BASE: u32 = 0xc000_0102;

/// CR0.TS.
const CR0_TS: u64 = 1 << 3;
/// CR4.DE.
const CR4_DE: u64 = 1 << 3;

/// DR6: bits that are always 1, and those that may be either.
const DR6_ONES: u64 = 0xffff_0ff0;
const DR6_FREE: u64 = 0x0000_e00f;
/// DR7: the bit that is always 1, and those that may be either; "general detect" is not among them.
const DR7_ONE: u64 = 0x400;
const DR7_FREE: u64 = 0xffff_03ff;

/// `set_gdt(frames, entries)`.
///
/// # Errors
/// `EINVAL` for too many entries, frames that are not the guest's, descriptors that may not be; `EFAULT`.
pub(super) fn set_gdt<M: Machine>(
    machine: &mut M,
    vcpu: &mut Vcpu,
    [list, entries, ..]: Arguments,
) -> Outcome {
    let entries = entries & u64::from(u32::MAX);
    let mut frames = [0_u64; 14];
    let used = usize::try_from(descriptors::pages(entries))
        .ok()
        .and_then(|pages| frames.get_mut(..pages))
        .ok_or(Errno::EINVAL)?;
    machine.read(list, used.as_mut_bytes()).map_err(fault)?;
    descriptors::set_gdt(machine, vcpu.id, used, entries)?;
    machine.gdt_changed();
    DONE
}

/// `update_descriptor(address, descriptor)`: writes a descriptor, wherever in the guest's memory it is.
///
/// # Errors
/// `EINVAL` where that is not, or the descriptor may not be.
pub(super) fn update_descriptor<M: Machine>(
    machine: &mut M,
    vcpu: &Vcpu,
    [address, descriptor, ..]: Arguments,
) -> Outcome {
    crate::tables::check_slot(machine.boot(), vcpu, address)?;
    let fixed = descriptors::fixed(descriptor).ok_or(Errno::EINVAL)?;
    machine.store(address, fixed);
    DONE
}

/// `fpu_taskswitch(set)`.
///
/// # Errors
/// None.
pub(super) fn fpu_taskswitch<M: Machine>(
    machine: &mut M,
    vcpu: &mut Vcpu,
    [set, ..]: Arguments,
) -> Outcome {
    set_task_switched(machine, vcpu, set & u64::from(u32::MAX) != 0);
    DONE
}

/// Sets or clears CR0.TS, for the guest and the processor.
pub(crate) fn set_task_switched<M: Machine>(machine: &mut M, vcpu: &mut Vcpu, on: bool) {
    vcpu.cr0 = if on {
        vcpu.cr0 | CR0_TS
    } else {
        vcpu.cr0 & !CR0_TS
    };
    machine.set_task_switched(on);
}

/// `set_segment_base(which, base)`. The kernel runs, so that the programs' gs is the one that `swapgs` would bring.
///
/// # Errors
/// `EINVAL` for an address that is none, or a segment that there is not.
pub(super) fn set_segment_base<M: Machine>(
    machine: &mut M,
    [which, base, ..]: Arguments,
) -> Outcome {
    let msr = match which {
        SEGBASE_FS => MSR_FS_BASE,
        SEGBASE_GS_USER => MSR_KERNEL_GS_BASE,
        SEGBASE_GS_KERNEL => MSR_GS_BASE,
        SEGBASE_GS_USER_SEL => {
            let [low, high, ..] = base.to_le_bytes();
            machine.load_user_gs(u16::from_le_bytes([low, high]));
            return DONE;
        }
        _ => return Err(Errno::EINVAL),
    };
    if !address_is_canonical(base) {
        return Err(Errno::EINVAL);
    }
    machine.write_msr(msr, base).ok_or(Errno::EINVAL)?;
    DONE
}

/// `set_debugreg(register, value)`. No breakpoint may be in the hypervisor's addresses, or on a port.
///
/// # Errors
/// `EPERM` for such values, `ENODEV` for registers that are switched off, `EINVAL` for those that there are not.
pub(crate) fn set_debugreg<M: Machine>(
    machine: &mut M,
    vcpu: &mut Vcpu,
    register: u64,
    value: u64,
) -> Outcome {
    let register = number(vcpu, register)?;
    let value = match register {
        0..=3 => {
            let slot = usize::try_from(value >> 39 & 0x1ff).unwrap_or(0);
            if !address_is_canonical(value) || HYPERVISOR_SLOTS.contains(&slot) {
                return Err(Errno::EPERM);
            }
            value
        }
        _ if value >> 32 != 0 => return Err(Errno::EPERM),
        6 => value & DR6_FREE | DR6_ONES,
        _ => {
            if (0..4).any(|breakpoint| is_on_a_port(value, breakpoint)) {
                return Err(Errno::EPERM);
            }
            value & DR7_FREE | DR7_ONE
        }
    };
    if let Some(slot) = vcpu.debug.get_mut(usize::from(register)) {
        *slot = value;
    }
    machine.set_debug(register, value);
    DONE
}

/// Whether DR7 has a breakpoint on and says that it is one of ports.
const fn is_on_a_port(dr7: u64, breakpoint: u32) -> bool {
    dr7 >> (2 * breakpoint) & 3 != 0 && dr7 >> (16 + 4 * breakpoint) & 3 == 2
}

/// `get_debugreg(register)`: its value.
///
/// # Errors
/// `ENODEV` and `EINVAL` as [`set_debugreg`] has them.
pub(crate) fn get_debugreg(vcpu: &Vcpu, register: u64) -> Outcome {
    let register = usize::from(number(vcpu, register)?);
    vcpu.debug.get(register).copied().ok_or(Errno::EINVAL)
}

/// The register that is meant: 4 and 5 are names of 6 and 7, unless CR4.DE is on.
fn number(vcpu: &Vcpu, register: u64) -> Result<u8, Errno> {
    match register {
        0..=3 | 6 | 7 => u8::try_from(register).map_err(|_| Errno::EINVAL),
        4 | 5 if vcpu.cr4 & CR4_DE != 0 => Err(Errno::ENODEV),
        4 => Ok(6),
        5 => Ok(7),
        _ => Err(Errno::EINVAL),
    }
}
