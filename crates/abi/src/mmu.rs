//! Memory management of PV guests: `mmu_update`, `mmuext_op`, `update_va_mapping` (`xen.h`, `arch-x86/xen-x86_64.h`).

use core::mem::size_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// [`MmuUpdate::ptr`], the lowest two bits: writes an entry of a page table.
pub const MMU_NORMAL_PT_UPDATE: u64 = 0;
/// Writes an entry of the machine-to-physical table.
pub const MMU_MACHPHYS_UPDATE: u64 = 1;
/// Writes an entry of a page table and keeps its accessed and dirty bits.
pub const MMU_PT_UPDATE_PRESERVE_AD: u64 = 2;
/// As [`MMU_NORMAL_PT_UPDATE`]; the value is a machine frame for guests of every kind.
pub const MMU_PT_UPDATE_NO_TRANSLATE: u64 = 3;

/// Pins a frame as a level-1 table.
pub const MMUEXT_PIN_L1_TABLE: u32 = 0;
/// As a level-2 table.
pub const MMUEXT_PIN_L2_TABLE: u32 = 1;
/// As a level-3 table.
pub const MMUEXT_PIN_L3_TABLE: u32 = 2;
/// As a level-4 table.
pub const MMUEXT_PIN_L4_TABLE: u32 = 3;
/// Undoes any of those.
pub const MMUEXT_UNPIN_TABLE: u32 = 4;
/// Loads the kernel's tables.
pub const MMUEXT_NEW_BASEPTR: u32 = 5;
/// Forgets what this vCPU has cached of the tables.
pub const MMUEXT_TLB_FLUSH_LOCAL: u32 = 6;
/// The same of one address.
pub const MMUEXT_INVLPG_LOCAL: u32 = 7;
/// Some vCPUs forget all.
pub const MMUEXT_TLB_FLUSH_MULTI: u32 = 8;
/// Some vCPUs forget one address.
pub const MMUEXT_INVLPG_MULTI: u32 = 9;
/// All vCPUs forget all.
pub const MMUEXT_TLB_FLUSH_ALL: u32 = 10;
/// All vCPUs forget one address.
pub const MMUEXT_INVLPG_ALL: u32 = 11;
/// Writes back the caches.
pub const MMUEXT_FLUSH_CACHE: u32 = 12;
/// Loads a local descriptor table.
pub const MMUEXT_SET_LDT: u32 = 13;
/// Sets the tables for user mode.
pub const MMUEXT_NEW_USER_BASEPTR: u32 = 15;
/// Fills a frame with zeroes.
pub const MMUEXT_CLEAR_PAGE: u32 = 16;
/// Copies a frame.
pub const MMUEXT_COPY_PAGE: u32 = 17;
/// Writes back the caches of all processors.
pub const MMUEXT_FLUSH_CACHE_GLOBAL: u32 = 18;
/// Says that frames are a large page.
pub const MMUEXT_MARK_SUPER: u32 = 19;
/// Undoes that.
pub const MMUEXT_UNMARK_SUPER: u32 = 20;

/// `update_va_mapping`'s flags: nothing is flushed.
pub const UVMF_NONE: u64 = 0;
/// The whole TLB is.
pub const UVMF_TLB_FLUSH: u64 = 1;
/// The one address is.
pub const UVMF_INVLPG: u64 = 2;
/// The bits with one of the three.
pub const UVMF_FLUSHTYPE_MASK: u64 = 3;
/// On all vCPUs. Without it the rest of the flags is the address of a bitmap of vCPUs, or 0 for this one.
pub const UVMF_ALL: u64 = 1 << 2;

/// The first of the level-4 slots that are the hypervisor's, as an address.
pub const HYPERVISOR_VIRT_START: u64 = 0xffff_8000_0000_0000;
/// The first address behind them.
pub const HYPERVISOR_VIRT_END: u64 = 0xffff_8800_0000_0000;

/// `struct mmu_update`, 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MmuUpdate {
    /// In: machine address of the entry; the lowest two bits are `MMU_*`.
    pub ptr: u64,
    /// In: its new value.
    pub val: u64,
}

/// `struct mmuext_op`, 24 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MmuextOp {
    /// In: `MMUEXT_*`.
    pub cmd: u32,
    /// Padding.
    pub pad: u32,
    /// In: a machine frame or an address, by `cmd`.
    pub arg1: u64,
    /// In: a number of entries (its lower half), the address of a bitmap of vCPUs, or a machine frame, by `cmd`.
    pub arg2: u64,
}

const _: () = assert!(size_of::<MmuUpdate>() == 16 && size_of::<MmuextOp>() == 24);
