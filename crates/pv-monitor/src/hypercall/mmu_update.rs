//! `mmu_update`: entries of page tables, and of the machine-to-physical table.

use cantle_abi::mmu::*;
use cantle_abi::{DomId, Errno};

use super::{Arguments, Outcome, batch, entry_at, read, write};
use crate::hardware::Machine;
use crate::tables::{ACCESSED_DIRTY, check_entry, check_slot};
use crate::vcpu::Vcpu;

/// Tries of an update that keeps the processors' accessed and dirty bits: each other vCPU can spoil a few.
const TRIES: u32 = 4096;

/// `mmu_update(list, count, done, domain)`: writes entries until one may not be; how many were is written to `done`.
///
/// # Errors
/// `EINVAL` for what may not be written, `ESRCH` for another domain's memory, `EFAULT`, `E2BIG`.
pub(super) fn mmu_update<M: Machine>(
    machine: &mut M,
    vcpu: &mut Vcpu,
    [list, count, done, domain, _]: Arguments,
) -> Outcome {
    let count = batch(count)?;
    check_domains(domain)?;
    let mut succeeded = 0;
    let outcome = (0..count).try_for_each(|index| {
        let update = read(machine, entry_at(list, index, 16)?)?;
        one(machine, vcpu, update)?;
        succeeded = index + 1;
        Ok(())
    });
    report(machine, done, succeeded, outcome)
}

/// The domain whose pages are mapped in the lower half; in the upper the one whose tables are written, plus 1. Both are the caller.
fn check_domains(domains: u64) -> Result<(), Errno> {
    let own = u64::from(DomId::SELF.0);
    let [pages, tables] = [domains & 0xffff, domains >> 16 & 0xffff];
    if pages == own && (tables == 0 || tables == own + 1) {
        Ok(())
    } else {
        Err(Errno::ESRCH)
    }
}

/// Tells the guest how many of a list were done.
pub(super) fn report<M: Machine>(
    machine: &mut M,
    done: u64,
    succeeded: u64,
    outcome: Result<(), Errno>,
) -> Outcome {
    if done != 0 {
        // A list has far fewer than 2^32.
        let succeeded = u32::try_from(succeeded).unwrap_or(u32::MAX);
        write(machine, done, &succeeded)?;
    }
    outcome.map(|()| 0)
}

fn one<M: Machine>(machine: &mut M, vcpu: &Vcpu, update: MmuUpdate) -> Result<(), Errno> {
    let address = update.ptr & !3;
    match update.ptr & 3 {
        MMU_MACHPHYS_UPDATE => {
            let mfn = update.ptr >> 12;
            if !machine.boot().is_ram(mfn) {
                return Err(Errno::EINVAL);
            }
            machine.set_m2p(mfn, update.val);
            Ok(())
        }
        command => {
            check_slot(machine.boot(), vcpu, address)?;
            check_entry(machine.boot(), update.val)?;
            if command == MMU_PT_UPDATE_PRESERVE_AD {
                keep_accessed_dirty(machine, address, update.val)
            } else {
                machine.store(address, update.val);
                Ok(())
            }
        }
    }
}

/// Writes an entry with the accessed and dirty bits of the one before it, which processors may set at any time.
fn keep_accessed_dirty<M: Machine>(machine: &mut M, address: u64, entry: u64) -> Result<(), Errno> {
    let mut old = machine.load(address);
    for _ in 0..TRIES {
        match machine.exchange(address, old, entry | old & ACCESSED_DIRTY) {
            Ok(()) => return Ok(()),
            Err(other) => old = other,
        }
    }
    Err(Errno::EAGAIN)
}
