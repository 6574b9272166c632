//! What a PVH guest is told at its start (`arch-x86/hvm/start_info.h`).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// [`HvmStartInfo::magic`].
pub const XEN_HVM_START_MAGIC_VALUE: u32 = 0x336e_c578;

/// RAM.
pub const XEN_HVM_MEMMAP_TYPE_RAM: u32 = 1;
/// Not to be touched.
pub const XEN_HVM_MEMMAP_TYPE_RESERVED: u32 = 2;
/// ACPI tables: RAM once they are read.
pub const XEN_HVM_MEMMAP_TYPE_ACPI: u32 = 3;

/// `struct hvm_start_info`, version 1, 56 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct HvmStartInfo {
    /// [`XEN_HVM_START_MAGIC_VALUE`].
    pub magic: u32,
    /// 1.
    pub version: u32,
    /// `SIF_*`.
    pub flags: u32,
    /// Modules.
    pub nr_modules: u32,
    /// Guest-physical address of [`HvmModlistEntry`]s.
    pub modlist_paddr: u64,
    /// Guest-physical address of the command line, ended by 0.
    pub cmdline_paddr: u64,
    /// Guest-physical address of ACPI's RSDP.
    pub rsdp_paddr: u64,
    /// Guest-physical address of [`HvmMemmapTableEntry`]s.
    pub memmap_paddr: u64,
    /// How many.
    pub memmap_entries: u32,
    /// 0.
    pub reserved: u32,
}

/// `struct hvm_modlist_entry`, 32 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct HvmModlistEntry {
    /// Guest-physical address.
    pub paddr: u64,
    /// Bytes.
    pub size: u64,
    /// Guest-physical address of its command line, or 0.
    pub cmdline_paddr: u64,
    /// 0.
    pub reserved: u64,
}

/// `struct hvm_memmap_table_entry`, 24 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct HvmMemmapTableEntry {
    /// First address.
    pub addr: u64,
    /// Bytes.
    pub size: u64,
    /// `XEN_HVM_MEMMAP_TYPE_*`.
    pub kind: u32,
    /// 0.
    pub reserved: u32,
}
