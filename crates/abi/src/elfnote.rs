//! ELF notes of a kernel that runs on Xen (`elfnote.h`).

/// The notes' name, with its end.
pub const XEN_ELFNOTE_NAME: &[u8; 4] = b"Xen\0";
/// PV: the entry point.
pub const XEN_ELFNOTE_ENTRY: u32 = 1;
/// PV: where the hypercall page goes.
pub const XEN_ELFNOTE_HYPERCALL_PAGE: u32 = 2;
/// PV: the virtual address of pseudo-physical address 0.
pub const XEN_ELFNOTE_VIRT_BASE: u32 = 3;
/// PV: what the file's physical addresses are too large by.
pub const XEN_ELFNOTE_PADDR_OFFSET: u32 = 4;
/// The version of Xen that it works with: "xen-3.0".
pub const XEN_ELFNOTE_XEN_VERSION: u32 = 5;
/// The operating system's name.
pub const XEN_ELFNOTE_GUEST_OS: u32 = 6;
/// The operating system's version.
pub const XEN_ELFNOTE_GUEST_VERSION: u32 = 7;
/// How it is loaded: "generic".
pub const XEN_ELFNOTE_LOADER: u32 = 8;
/// 32-bit PV: whether it has PAE.
pub const XEN_ELFNOTE_PAE_MODE: u32 = 9;
/// Features wanted.
pub const XEN_ELFNOTE_FEATURES: u32 = 10;
/// PV: whether the symbol table is to be loaded too.
pub const XEN_ELFNOTE_BSD_SYMTAB: u32 = 11;
/// PV: the lowest address that the hypervisor's own may begin at.
pub const XEN_ELFNOTE_HV_START_LOW: u32 = 12;
/// PV: how to tell level-1 entries with frames in them.
pub const XEN_ELFNOTE_L1_MFN_VALID: u32 = 13;
/// Whether a suspend may be cancelled.
pub const XEN_ELFNOTE_SUSPEND_CANCEL: u32 = 14;
/// PV: the virtual address of the first P2M.
pub const XEN_ELFNOTE_INIT_P2M: u32 = 15;
/// PV: the initial RAM disk need not be mapped.
pub const XEN_ELFNOTE_MOD_START_PFN: u32 = 16;
/// Features that it can do with, as bits of submap 0.
pub const XEN_ELFNOTE_SUPPORTED_FEATURES: u32 = 17;
/// PVH: the 32-bit entry point's guest-physical address.
pub const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;
