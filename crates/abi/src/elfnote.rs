//! ELF notes of a kernel that runs on Xen (`elfnote.h`).

/// The notes' name, with its end.
pub const XEN_ELFNOTE_NAME: &[u8; 4] = b"Xen\0";
/// PV: the entry point.
pub const XEN_ELFNOTE_ENTRY: u32 = 1;
/// PV: where the hypercall page goes.
pub const XEN_ELFNOTE_HYPERCALL_PAGE: u32 = 2;
/// The operating system's name.
pub const XEN_ELFNOTE_GUEST_OS: u32 = 6;
/// Features wanted.
pub const XEN_ELFNOTE_FEATURES: u32 = 10;
/// PVH: the 32-bit entry point's guest-physical address.
pub const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;
