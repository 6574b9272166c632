//! `mmuext_op`: tables to load and pin, flushes, the local descriptor table.

use cantle_abi::mmu::*;
use cantle_abi::{DomId, Errno};

use super::mmu_update::report;
use super::va_mapping::read_set;
use super::{Arguments, Outcome, batch, entry_at, read};
use crate::descriptors::{LDT_ENTRIES, pages, set_ldt};
use crate::hardware::{Flush, Machine, VcpuSet};
use crate::interface::FLAG_ONE_ADDRESS_SPACE;
use crate::tables::{frame_at, is_loaded, load_kernel, prepare_l4};
use crate::vcpu::Vcpu;
use crate::writable;

/// `mmuext_op(list, count, done, domain)`: does operations until one fails; how many it did is written to `done`.
///
/// # Errors
/// `EINVAL` for frames and addresses that are not the guest's, `ESRCH` for another domain's memory, `ENOSYS` for what there is not,
/// `EFAULT`, `E2BIG`.
pub(super) fn mmuext_op<M: Machine>(
    machine: &mut M,
    vcpu: &mut Vcpu,
    [list, count, done, domain, _]: Arguments,
) -> Outcome {
    let count = batch(count)?;
    if domain & 0xffff != u64::from(DomId::SELF.0) {
        return Err(Errno::ESRCH);
    }
    let mut succeeded = 0;
    let outcome = (0..count).try_for_each(|index| {
        let op = read(machine, entry_at(list, index, 24)?)?;
        one(machine, vcpu, op)?;
        succeeded = index + 1;
        Ok(())
    });
    report(machine, done, succeeded, outcome)
}

fn one<M: Machine>(machine: &mut M, vcpu: &mut Vcpu, op: MmuextOp) -> Result<(), Errno> {
    let own = VcpuSet::of(vcpu.id);
    let all = VcpuSet::all(machine.boot().vcpus);
    match op.cmd {
        // No frame has a type: there is nothing to check, but to remember for when the kernel writes to the table.
        MMUEXT_PIN_L4_TABLE => {
            prepare_l4(machine, op.arg1)?;
            writable::mark(machine, op.arg1);
            writable::mark_kernels(machine, op.arg1);
        }
        MMUEXT_PIN_L1_TABLE | MMUEXT_PIN_L2_TABLE | MMUEXT_PIN_L3_TABLE => {
            check_ram(machine, op.arg1)?;
            writable::mark(machine, op.arg1);
        }
        MMUEXT_UNPIN_TABLE => {
            check_ram(machine, op.arg1)?;
            writable::unmark(machine, op.arg1);
        }
        MMUEXT_NEW_BASEPTR => return load_kernel(machine, vcpu, op.arg1),
        MMUEXT_NEW_USER_BASEPTR => {
            let kept_only = machine.boot().flags & FLAG_ONE_ADDRESS_SPACE != 0;
            match op.arg1 {
                0 => {}
                mfn if kept_only => check_ram(machine, mfn)?,
                mfn => prepare_l4(machine, mfn)?,
            }
            vcpu.user_l4 = op.arg1;
        }
        MMUEXT_TLB_FLUSH_LOCAL => machine.flush(own, Flush::All),
        MMUEXT_INVLPG_LOCAL => machine.flush(own, Flush::Page(op.arg1)),
        MMUEXT_TLB_FLUSH_ALL => machine.flush(all, Flush::All),
        MMUEXT_INVLPG_ALL => machine.flush(all, Flush::Page(op.arg1)),
        MMUEXT_TLB_FLUSH_MULTI | MMUEXT_INVLPG_MULTI => {
            let vcpus = read_set(machine, op.arg2)?;
            let what = if op.cmd == MMUEXT_INVLPG_MULTI {
                Flush::Page(op.arg1)
            } else {
                Flush::All
            };
            machine.flush(vcpus, what);
        }
        MMUEXT_FLUSH_CACHE => machine.flush(own, Flush::Caches),
        MMUEXT_FLUSH_CACHE_GLOBAL => machine.flush(all, Flush::Caches),
        MMUEXT_SET_LDT => return load_ldt(machine, vcpu, op.arg1, op.arg2 & u64::from(u32::MAX)),
        MMUEXT_CLEAR_PAGE => {
            check_data(machine, vcpu, op.arg1)?;
            machine.clear_frame(op.arg1);
        }
        MMUEXT_COPY_PAGE => {
            check_data(machine, vcpu, op.arg1)?;
            check_ram(machine, op.arg2)?;
            machine.copy_frame(op.arg1, op.arg2);
        }
        // Large pages are mapped as such, or not at all.
        MMUEXT_MARK_SUPER | MMUEXT_UNMARK_SUPER => return Err(Errno::EOPNOTSUPP),
        _ => return Err(Errno::ENOSYS),
    }
    Ok(())
}

fn check_ram<M: Machine>(machine: &M, mfn: u64) -> Result<(), Errno> {
    if machine.boot().is_ram(mfn) {
        Ok(())
    } else {
        Err(Errno::EINVAL)
    }
}

/// A frame that may be overwritten as a whole: not a table through which this vCPU sees the monitor.
fn check_data<M: Machine>(machine: &M, vcpu: &Vcpu, mfn: u64) -> Result<(), Errno> {
    check_ram(machine, mfn)?;
    if is_loaded(vcpu, mfn) {
        Err(Errno::EINVAL)
    } else {
        Ok(())
    }
}

/// `MMUEXT_SET_LDT`: the table's pages are found on the kernel's tables, now: what is mapped there later does not count.
fn load_ldt<M: Machine>(
    machine: &mut M,
    vcpu: &Vcpu,
    address: u64,
    entries: u64,
) -> Result<(), Errno> {
    if address & 0xfff != 0 || entries > LDT_ENTRIES {
        return Err(Errno::EINVAL);
    }
    let mut frames = [0; 16];
    let used = usize::try_from(pages(entries)).unwrap_or(0);
    let Some(frames) = frames.get_mut(..used) else {
        return Err(Errno::EINVAL);
    };
    for (page, frame) in (0_u64..).zip(frames.iter_mut()) {
        *frame = frame_at(machine, vcpu.kernel_l4, entry_at(address, page, 4096)?)?;
    }
    set_ldt(machine, vcpu.id, frames, entries)?;
    // At most LDT_ENTRIES.
    machine.load_ldt(u32::try_from(entries).unwrap_or(0));
    Ok(())
}
