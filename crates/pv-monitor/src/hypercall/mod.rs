//! Hypercalls: those that the monitor serves, and those that it passes on.
//!
//! What a call gives of the guest's memory is copied once and the copy is checked. Lists have at most [`MAX_BATCH`] entries, so that no call takes
//! longer than the guest's timer can wait for.

#![expect(
    non_upper_case_globals,
    reason = "calls are matched by the names of Xen's headers"
)]

use cantle_abi::Errno;
use cantle_abi::xen::*;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

pub(crate) use processor::{get_debugreg, set_debugreg, set_task_switched};

use crate::hardware::{Fault, Machine};
use crate::regs::Regs;
use crate::vcpu::{Next, Vcpu};

mod callbacks;
mod mmu_update;
mod mmuext;
mod multicall;
mod processor;
mod va_mapping;
mod vcpus;

#[cfg(test)]
mod tests;

/// The most entries of a list of updates, operations or calls.
pub const MAX_BATCH: u64 = 1 << 16;

/// A call's arguments: rdi, rsi, rdx, r10, r8.
pub type Arguments = [u64; 5];

/// What a call returns: a result, or an error number.
type Outcome = Result<u64, Errno>;

/// Done, with nothing to say.
const DONE: Outcome = Ok(0);

/// Whether an address has its upper bits alike, as those of 48-bit addresses do.
#[must_use]
pub const fn address_is_canonical(address: u64) -> bool {
    // The sign of bit 47 moved through the rest.
    (address.cast_signed() << 16) >> 16 == address.cast_signed()
}

/// Serves the hypercall in the registers (number in rax; rdi, rsi, rdx, r10, r8) and puts its result into rax; `iret` is not among them.
pub fn serve<M: Machine>(machine: &mut M, vcpu: &mut Vcpu, regs: &mut Regs) -> Next {
    let arguments = [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8];
    let outcome = if regs.rax == u64::from(__HYPERVISOR_multicall) {
        multicall::multicall(machine, vcpu, arguments)
    } else {
        call(machine, vcpu, regs.rax, arguments)
    };
    regs.rax = result(outcome);
    Next::Resume
}

/// What the guest gets for an outcome.
fn result(outcome: Outcome) -> u64 {
    outcome.unwrap_or_else(|errno| errno.to_ret().cast_unsigned())
}

/// Any call but `multicall` and `iret`.
fn call<M: Machine>(
    machine: &mut M,
    vcpu: &mut Vcpu,
    number: u64,
    arguments: Arguments,
) -> Outcome {
    let Ok(number) = u32::try_from(number) else {
        return Err(Errno::ENOSYS);
    };
    match number {
        __HYPERVISOR_mmu_update => mmu_update::mmu_update(machine, vcpu, arguments),
        __HYPERVISOR_mmuext_op => mmuext::mmuext_op(machine, vcpu, arguments),
        __HYPERVISOR_update_va_mapping => va_mapping::update(machine, vcpu, arguments),
        __HYPERVISOR_update_va_mapping_otherdomain => {
            va_mapping::update_otherdomain(machine, vcpu, arguments)
        }
        __HYPERVISOR_set_trap_table => callbacks::set_trap_table(machine, vcpu, arguments),
        __HYPERVISOR_set_callbacks => callbacks::set_callbacks(vcpu, arguments),
        __HYPERVISOR_callback_op => callbacks::callback_op(machine, vcpu, arguments),
        __HYPERVISOR_nmi_op => callbacks::nmi_op(machine, arguments),
        __HYPERVISOR_stack_switch => callbacks::stack_switch(vcpu, arguments),
        __HYPERVISOR_set_gdt => processor::set_gdt(machine, vcpu, arguments),
        __HYPERVISOR_update_descriptor => processor::update_descriptor(machine, vcpu, arguments),
        __HYPERVISOR_fpu_taskswitch => processor::fpu_taskswitch(machine, vcpu, arguments),
        __HYPERVISOR_set_debugreg => {
            processor::set_debugreg(machine, vcpu, arguments[0], arguments[1])
        }
        __HYPERVISOR_get_debugreg => processor::get_debugreg(vcpu, arguments[0]),
        __HYPERVISOR_set_segment_base => processor::set_segment_base(machine, arguments),
        __HYPERVISOR_vcpu_op => vcpus::vcpu_op(machine, vcpu, arguments),
        __HYPERVISOR_sched_op => vcpus::sched_op(machine, vcpu, arguments),
        __HYPERVISOR_physdev_op => vcpus::physdev_op(machine, vcpu, arguments),
        __HYPERVISOR_vm_assist => vcpus::vm_assist(machine, arguments),
        __HYPERVISOR_xen_version => vcpus::xen_version(machine, arguments),
        __HYPERVISOR_memory_op
        | __HYPERVISOR_set_timer_op
        | __HYPERVISOR_console_io
        | __HYPERVISOR_event_channel_op
        | __HYPERVISOR_grant_table_op => Ok(machine.forward(number, arguments)),
        _ => Err(Errno::ENOSYS),
    }
}

/// A structure of the guest's, copied once.
fn read<T: FromBytes + IntoBytes + FromZeros, M: Machine>(
    machine: &mut M,
    address: u64,
) -> Result<T, Errno> {
    let mut value = T::new_zeroed();
    machine.read(address, value.as_mut_bytes()).map_err(fault)?;
    Ok(value)
}

/// A structure to the guest.
fn write<T: IntoBytes + Immutable, M: Machine>(
    machine: &mut M,
    address: u64,
    value: &T,
) -> Result<(), Errno> {
    machine.write(address, value.as_bytes()).map_err(fault)
}

/// What a call says of an address that is none.
fn fault(_: Fault) -> Errno {
    Errno::EFAULT
}

/// Where an entry of a list is.
fn entry_at(list: u64, index: u64, bytes: u64) -> Result<u64, Errno> {
    index
        .checked_mul(bytes)
        .and_then(|offset| list.checked_add(offset))
        .ok_or(Errno::EFAULT)
}

/// A list's length, which the guest gives as 32 bits.
fn batch(count: u64) -> Result<u64, Errno> {
    let count = count & u64::from(u32::MAX);
    if count <= MAX_BATCH {
        Ok(count)
    } else {
        Err(Errno::E2BIG)
    }
}
