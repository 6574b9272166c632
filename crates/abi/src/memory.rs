//! Memory operations (`memory.h`).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{DomId, Gfn};

/// Get more frames.
pub const XENMEM_increase_reservation: u32 = 0;
/// Give frames back.
pub const XENMEM_decrease_reservation: u32 = 1;
/// The highest machine frame.
pub const XENMEM_maximum_ram_page: u32 = 2;
/// How many pages the domain has.
pub const XENMEM_current_reservation: u32 = 3;
/// How many pages the domain may have.
pub const XENMEM_maximum_reservation: u32 = 4;
/// Put frames at given places.
pub const XENMEM_populate_physmap: u32 = 6;
/// Put a special frame at a given place.
pub const XENMEM_add_to_physmap: u32 = 7;
/// The domain's memory map.
pub const XENMEM_memory_map: u32 = 9;
/// The machine's memory map.
pub const XENMEM_machine_memory_map: u32 = 10;
/// Exchange frames.
pub const XENMEM_exchange: u32 = 11;
/// The domain's highest frame.
pub const XENMEM_maximum_gpfn: u32 = 14;
/// Take a frame out of a given place.
pub const XENMEM_remove_from_physmap: u32 = 15;
/// Many [`XENMEM_add_to_physmap`] at once.
pub const XENMEM_add_to_physmap_batch: u32 = 23;

/// The bits of a memory operation's number that hold the operation; the rest is where a continuation starts.
pub const MEMOP_CMD_MASK: u32 = 0x3f;

/// The shared info page.
pub const XENMAPSPACE_shared_info: u16 = 0;
/// A frame of the grant table.
pub const XENMAPSPACE_grant_table: u16 = 1;
/// One of the domain's own frames.
pub const XENMAPSPACE_gmfn: u16 = 2;
/// A range of the domain's own frames.
pub const XENMAPSPACE_gmfn_range: u16 = 3;
/// Another domain's frame.
pub const XENMAPSPACE_gmfn_foreign: u16 = 4;
/// `idx`: a status frame rather than an entries' frame.
pub const XENMAPIDX_grant_table_status: u64 = 0x8000_0000;

/// `struct xen_memory_reservation`, 32 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct XenMemoryReservation {
    /// In and out: guest-virtual address of an array of frame numbers (64 bits each).
    pub extent_start: u64,
    /// In: entries in it.
    pub nr_extents: u64,
    /// In: log2 of an extent's pages.
    pub extent_order: u32,
    /// In: `XENMEMF_*`.
    pub mem_flags: u32,
    /// In: whose.
    pub domid: DomId,
    /// Padding.
    pub pad: [u16; 3],
}

/// `struct xen_add_to_physmap`, 24 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct XenAddToPhysmap {
    /// In: whose.
    pub domid: DomId,
    /// In: pages, for a range.
    pub size: u16,
    /// In: `XENMAPSPACE_*` (32 bits in the header; only the low half is in use).
    pub space: u16,
    /// The upper half of `space`.
    pub space_high: u16,
    /// In: which frame of that space.
    pub idx: u64,
    /// In: where to.
    pub gpfn: Gfn,
}

/// `struct xen_add_to_physmap_batch`, 32 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct XenAddToPhysmapBatch {
    /// In: whose.
    pub domid: DomId,
    /// In: `XENMAPSPACE_*`.
    pub space: u16,
    /// In: entries.
    pub size: u16,
    /// In: the other domain, for a foreign space.
    pub foreign_domid: DomId,
    /// In: guest-virtual address of the indices (64 bits each).
    pub idxs: u64,
    /// In: guest-virtual address of the places (64 bits each).
    pub gpfns: u64,
    /// Out: guest-virtual address of the results (32 bits each).
    pub errs: u64,
}

/// `struct xen_remove_from_physmap`, 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct XenRemoveFromPhysmap {
    /// In: whose.
    pub domid: DomId,
    /// Padding.
    pub pad: [u16; 3],
    /// In: which frame.
    pub gpfn: Gfn,
}

/// `struct xen_memory_map`, 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct XenMemoryMap {
    /// In: room in entries; out: entries.
    pub nr_entries: u32,
    /// Padding.
    pub pad: u32,
    /// In: guest-virtual address of an array of [`E820Entry`].
    pub buffer: u64,
}

/// An entry of a memory map, `struct e820entry` of 20 bytes. The two 64-bit fields are split, since they are not aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct E820Entry {
    /// First address: low and high half.
    pub addr: [u32; 2],
    /// Bytes: low and high half.
    pub size: [u32; 2],
    /// Kind: 1 RAM, 2 reserved, 3 ACPI.
    pub kind: u32,
}
