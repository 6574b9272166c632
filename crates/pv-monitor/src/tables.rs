//! The guest's page tables: what it may write into them, and walks through them.
//!
//! The processor uses them as they are, and no frame has a type: an entry may be written wherever the guest says that a table is, so that its
//! level is not known. What is checked is that a present entry leads to a frame that the guest may use, and that the slots by which the monitor
//! is seen stay in the tables of the vCPU that asks.

use cantle_abi::Errno;

use crate::hardware::Machine;
use crate::hypercall::address_is_canonical;
use crate::interface::{BootInfo, HYPERVISOR_SLOTS, MONITOR_SLOTS};
use crate::vcpu::Vcpu;

/// An entry's bits: it is there.
pub const PRESENT: u64 = 1 << 0;
/// It leads to a page and not to a table (in levels 2 and 3; in level 1 it is `PAT`).
pub const LARGE: u64 = 1 << 7;
/// Accessed and dirty.
pub const ACCESSED_DIRTY: u64 = 1 << 5 | 1 << 6;
/// The frame's address.
const FRAME: u64 = 0x000f_ffff_ffff_f000;

/// The frame of an entry.
#[must_use]
pub const fn frame_of(entry: u64) -> u64 {
    (entry & FRAME) >> 12
}

/// Whether the guest may have this entry.
///
/// # Errors
/// `EINVAL` where it leads to a frame that is not the guest's.
pub fn check_entry(boot: &BootInfo, entry: u64) -> Result<(), Errno> {
    if entry & PRESENT == 0 || boot.may_map(frame_of(entry)) {
        Ok(())
    } else {
        Err(Errno::EINVAL)
    }
}

/// The machine address of an entry that the guest may write.
///
/// # Errors
/// `EINVAL` where it is not aligned, not in the guest's memory, or one of the hypervisor's in a table that this vCPU uses.
pub fn check_slot(boot: &BootInfo, vcpu: &Vcpu, address: u64) -> Result<(), Errno> {
    let mfn = address >> 12;
    let index = usize::try_from(address >> 3 & 0x1ff).unwrap_or(0);
    let guarded = is_loaded(vcpu, mfn) && HYPERVISOR_SLOTS.contains(&index);
    if address & 7 == 0 && boot.is_ram(mfn) && !guarded {
        Ok(())
    } else {
        Err(Errno::EINVAL)
    }
}

/// Whether a frame is the level-4 table of this vCPU's kernel or programs.
#[must_use]
pub fn is_loaded(vcpu: &Vcpu, mfn: u64) -> bool {
    mfn == vcpu.kernel_l4 || mfn == vcpu.user_l4
}

/// Makes a frame of the guest's a level-4 table that may be loaded: the monitor's slots are put into it.
///
/// # Errors
/// `EINVAL` where it is not in the guest's memory.
pub fn prepare_l4<M: Machine>(machine: &mut M, mfn: u64) -> Result<(), Errno> {
    if !machine.boot().is_ram(mfn) {
        return Err(Errno::EINVAL);
    }
    let own = machine.boot().monitor_l4;
    for slot in MONITOR_SLOTS {
        let at = |mfn: u64| (mfn << 12) + slot as u64 * 8;
        let entry = machine.load(at(own));
        if machine.load(at(mfn)) != entry {
            machine.store(at(mfn), entry);
        }
    }
    Ok(())
}

/// Makes a table that of the kernel, and loads it.
///
/// # Errors
/// Those of [`prepare_l4`].
pub fn load_kernel<M: Machine>(machine: &mut M, vcpu: &mut Vcpu, mfn: u64) -> Result<(), Errno> {
    prepare_l4(machine, mfn)?;
    vcpu.kernel_l4 = mfn;
    machine.load_tables(mfn);
    Ok(())
}

/// Where the level-1 entry of an address is.
///
/// # Errors
/// `EINVAL` where the address is not the guest's to map, or has no level-1 table.
pub fn level1_slot<M: Machine>(machine: &M, l4: u64, address: u64) -> Result<u64, Errno> {
    level1_slot_and_rights(machine, l4, address).map(|(slot, _)| slot)
}

/// As [`level1_slot`], and the bits that all entries above it have: what they forbid, it cannot allow.
///
/// # Errors
/// Those of [`level1_slot`].
pub fn level1_slot_and_rights<M: Machine>(
    machine: &M,
    l4: u64,
    address: u64,
) -> Result<(u64, u64), Errno> {
    let index = |level: u32| address >> (9 * level) & 0xff8;
    let guests = address_is_canonical(address)
        && !HYPERVISOR_SLOTS.contains(&usize::try_from(address >> 39 & 0x1ff).unwrap_or(0));
    if !guests {
        return Err(Errno::EINVAL);
    }
    let (mut table, mut rights) = (l4, u64::MAX);
    for level in [4, 3, 2] {
        let entry = machine.load((table << 12) + index(level));
        table = frame_of(entry);
        rights &= entry;
        if entry & PRESENT == 0 || entry & LARGE != 0 || !machine.boot().is_ram(table) {
            return Err(Errno::EINVAL);
        }
    }
    Ok(((table << 12) + index(1), rights))
}

/// The frame of the guest's memory that an address of its is mapped to, by a page of 4 KiB.
///
/// # Errors
/// `EINVAL` where there is none.
pub fn frame_at<M: Machine>(machine: &M, l4: u64, address: u64) -> Result<u64, Errno> {
    let slot = level1_slot(machine, l4, address)?;
    let entry = machine.load(slot);
    let mfn = frame_of(entry);
    if entry & PRESENT != 0 && machine.boot().is_ram(mfn) {
        Ok(mfn)
    } else {
        Err(Errno::EINVAL)
    }
}
