//! Page tables that the guest's kernel writes itself (`VMASST_TYPE_writable_pagetables`).
//!
//! A kernel maps its page tables read-only, as Xen wants them, and changes them by calls; but where it needs an entry's old value it still uses
//! `xchg` on the table, and counts on the hypervisor to do it for it. Here nothing speaks against its writing to them: the first such write
//! to a table makes the kernel's mapping of it writable, and the kernel goes on by itself. It is left with that mapping until it makes it read-only
//! anew.
//!
//! What is a table is known from pins: a bit for each frame ([`BootInfo::table_marks`](crate::interface::BootInfo::table_marks)). The bits are no
//! protection, they only tell such a write from a mistake of the kernel's, which it is to hear of.

use crate::hardware::{Flush, Machine, VcpuSet};
use crate::interface::HYPERVISOR_SLOTS;
use crate::tables::{LARGE, PRESENT, frame_of, level1_slot_and_rights};
use crate::vcpu::Vcpu;

/// An entry's bit: what it leads to may be written.
const WRITABLE: u64 = 1 << 1;
/// Bits of a page fault's error code: the page is there, and was written to; the opposite of which are a program's, and those of fetches.
const PROTECTION_ON_WRITE: u32 = 0b0_0011;
const RELEVANT: u32 = 0b1_1111;
/// Entries of a table.
const ENTRIES: u64 = 512;
/// The first entry of a level-4 table that maps the kernel's half.
const KERNEL_HALF: u64 = 256;
/// Tries to change a word that others change too.
const TRIES: u32 = 4096;

/// Remembers that a frame is a table; whether that is new.
pub fn mark<M: Machine>(machine: &mut M, mfn: u64) -> bool {
    change(machine, mfn, |word, bit| word | bit)
}

/// Forgets it.
pub fn unmark<M: Machine>(machine: &mut M, mfn: u64) {
    change(machine, mfn, |word, bit| word & !bit);
}

/// Remembers the tables of the kernel's half, of which only the first pin speaks. Those below a table that is known are known.
pub fn mark_kernels<M: Machine>(machine: &mut M, l4: u64) {
    for slot in KERNEL_HALF..ENTRIES {
        if !HYPERVISOR_SLOTS.contains(&usize::try_from(slot).unwrap_or(0)) {
            mark_below(machine, l4, slot, 3);
        }
    }
}

/// Marks the table that an entry leads to, and the tables below it. At most three tables deep.
fn mark_below<M: Machine>(machine: &mut M, table: u64, index: u64, level: u32) {
    let entry = machine.load((table << 12) + index * 8);
    let below = frame_of(entry);
    if entry & PRESENT == 0 || !machine.boot().is_ram(below) {
        return;
    }
    // In level 3 and level 2 entries may lead to large pages instead.
    if level < 3 && entry & LARGE != 0 {
        return;
    }
    if mark(machine, below) && level > 1 {
        for index in 0..ENTRIES {
            mark_below(machine, below, index, level - 1);
        }
    }
}

fn slot<M: Machine>(machine: &M, mfn: u64) -> Option<(u64, u64)> {
    let boot = machine.boot();
    let known = boot.table_marks != 0 && boot.is_ram(mfn);
    known.then(|| ((boot.table_marks << 12) + mfn / 64 * 8, 1 << (mfn % 64)))
}

/// Changes a frame's bit; whether it was clear before.
fn change<M: Machine>(machine: &mut M, mfn: u64, to: impl Fn(u64, u64) -> u64) -> bool {
    let Some((address, bit)) = slot(machine, mfn) else {
        return false;
    };
    let mut old = machine.load(address);
    for _ in 0..TRIES {
        let new = to(old, bit);
        if new == old {
            break;
        }
        match machine.exchange(address, old, new) {
            Ok(()) => break,
            Err(other) => old = other,
        }
    }
    old & bit == 0
}

/// A page fault of the kernel's: whether it may go on, since it wrote to a table of its and can do so now.
pub fn grant<M: Machine>(machine: &mut M, vcpu: &Vcpu, address: u64, error: u32) -> bool {
    if !vcpu.in_kernel || error & RELEVANT != PROTECTION_ON_WRITE || address >> 63 == 0 {
        return false;
    }
    let Ok((slot, above)) = level1_slot_and_rights(machine, vcpu.kernel_l4, address) else {
        return false;
    };
    let entry = machine.load(slot);
    let marked = self::slot(machine, frame_of(entry))
        .is_some_and(|(address, bit)| machine.load(address) & bit != 0);
    if entry & PRESENT == 0 || !marked || above & WRITABLE == 0 {
        return false;
    }
    if entry & WRITABLE == 0 && machine.exchange(slot, entry, entry | WRITABLE).is_err() {
        // Another vCPU has just changed it: whatever it is now, the kernel meets it when it tries again.
        return true;
    }
    // Where it was writable already another vCPU did that, and this one's translation was an old one.
    machine.flush(VcpuSet::of(vcpu.id), Flush::Page(address));
    true
}

#[cfg(test)]
mod tests;
