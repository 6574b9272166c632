//! What guests are told at their start: PVH (`arch-x86/hvm/start_info.h`) and PV (`xen.h`).

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

/// [`StartInfo::flags`]: the domain may do what only the toolstack's may.
pub const SIF_PRIVILEGED: u32 = 1 << 0;
/// It is the first one.
pub const SIF_INITDOMAIN: u32 = 1 << 1;
/// [`StartInfo::mod_start`] is of a multiboot module.
pub const SIF_MULTIBOOT_MOD: u32 = 1 << 2;
/// [`StartInfo::mod_start`] is a pseudo-physical frame and not an address.
pub const SIF_MOD_START_PFN: u32 = 1 << 3;
/// The tools understand a P2M that is mapped at a virtual address (`arch_shared_info.p2m_vaddr`).
pub const SIF_VIRT_P2M_4TOOLS: u32 = 1 << 4;

/// Bytes of [`StartInfo::cmd_line`], its end included.
pub const MAX_GUEST_CMDLINE: usize = 1024;

/// `struct start_info` of a 64-bit PV guest (`xen.h`), 1168 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct StartInfo {
    /// `xen-VERSION-PLATFORM`, filled up with 0.
    pub magic: [u8; 32],
    /// The guest's pages.
    pub nr_pages: u64,
    /// Machine address of shared info.
    pub shared_info: u64,
    /// `SIF_*`.
    pub flags: u32,
    /// Padding.
    pub pad0: u32,
    /// The frame of xenstore's ring.
    pub store_mfn: u64,
    /// Its port.
    pub store_evtchn: u32,
    /// Padding.
    pub pad1: u32,
    /// The frame of the console's ring.
    pub console_mfn: u64,
    /// Its port.
    pub console_evtchn: u32,
    /// Padding.
    pub pad2: u32,
    /// Virtual address of the first level-4 table.
    pub pt_base: u64,
    /// Frames of page tables, from there on.
    pub nr_pt_frames: u64,
    /// Virtual address of the P2M: a frame (64 bits) for each page.
    pub mfn_list: u64,
    /// Virtual address of the initial RAM disk, or its first page ([`SIF_MOD_START_PFN`]); 0 for none.
    pub mod_start: u64,
    /// Its bytes.
    pub mod_len: u64,
    /// The command line, ended by 0.
    pub cmd_line: [u8; MAX_GUEST_CMDLINE],
    /// The first page of the P2M and its page tables, where it is at a place of its own.
    pub first_p2m_pfn: u64,
    /// And how many.
    pub nr_p2m_frames: u64,
}

const _: () = {
    assert!(core::mem::size_of::<StartInfo>() == 1168);
    assert!(core::mem::offset_of!(StartInfo, store_mfn) == 56);
    assert!(core::mem::offset_of!(StartInfo, console_mfn) == 72);
    assert!(core::mem::offset_of!(StartInfo, pt_base) == 88);
    assert!(core::mem::offset_of!(StartInfo, cmd_line) == 128);
    assert!(core::mem::offset_of!(StartInfo, first_p2m_pfn) == 1152);
};
