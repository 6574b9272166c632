//! `update_va_mapping`: the entry that maps an address.

use cantle_abi::mmu::*;
use cantle_abi::{DomId, Errno};

use super::{Arguments, DONE, Outcome, fault};
use crate::hardware::{Flush, Machine, VcpuSet};
use crate::tables::{check_entry, level1_slot};
use crate::vcpu::Vcpu;

/// `update_va_mapping(address, entry, flags)`.
///
/// # Errors
/// `EINVAL` where the address has no level-1 table, or the entry may not be; `EFAULT` for the bitmap of vCPUs.
pub(super) fn update<M: Machine>(
    machine: &mut M,
    vcpu: &mut Vcpu,
    [address, entry, flags, ..]: Arguments,
) -> Outcome {
    let slot = level1_slot(machine, vcpu.kernel_l4, address)?;
    check_entry(machine.boot(), entry)?;
    let flush = match flags & UVMF_FLUSHTYPE_MASK {
        UVMF_NONE => None,
        UVMF_TLB_FLUSH => Some(Flush::All),
        UVMF_INVLPG => Some(Flush::Page(address)),
        _ => return Err(Errno::EINVAL),
    };
    let vcpus = match flags & !UVMF_FLUSHTYPE_MASK {
        _ if flush.is_none() => VcpuSet::default(),
        0 => VcpuSet::of(vcpu.id),
        UVMF_ALL => VcpuSet::all(machine.boot().vcpus),
        bitmap => read_set(machine, bitmap)?,
    };
    machine.store(slot, entry);
    if let Some(flush) = flush {
        machine.flush(vcpus, flush);
    }
    DONE
}

/// `update_va_mapping_otherdomain(address, entry, flags, domain)`: for the caller's own pages.
///
/// # Errors
/// Those of [`update`], and `ESRCH` for another domain's.
pub(super) fn update_otherdomain<M: Machine>(
    machine: &mut M,
    vcpu: &mut Vcpu,
    arguments: Arguments,
) -> Outcome {
    let [_, _, _, domain, _] = arguments;
    if domain & 0xffff != u64::from(DomId::SELF.0) {
        return Err(Errno::ESRCH);
    }
    update(machine, vcpu, arguments)
}

/// A bitmap of vCPUs in the guest's memory. Bits of vCPUs that there are not mean nothing.
///
/// # Errors
/// `EFAULT`.
pub(super) fn read_set<M: Machine>(machine: &mut M, address: u64) -> Result<VcpuSet, Errno> {
    let vcpus = machine.boot().vcpus;
    let mut bytes = [0; 16];
    let used = usize::try_from(vcpus.div_ceil(8)).unwrap_or(16);
    if let Some(used) = bytes.get_mut(..used) {
        machine.read(address, used).map_err(fault)?;
    }
    let VcpuSet(all) = VcpuSet::all(vcpus);
    Ok(VcpuSet(u128::from_le_bytes(bytes) & all))
}
