//! Grant tables and their operations (`grant_table.h`).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{DomId, GrantRef};

/// Map a granted page.
pub const GNTTABOP_map_grant_ref: u32 = 0;
/// Unmap it.
pub const GNTTABOP_unmap_grant_ref: u32 = 1;
/// Size the table and learn its frames.
pub const GNTTABOP_setup_table: u32 = 2;
/// Print a table (for Xen's developers).
pub const GNTTABOP_dump_table: u32 = 3;
/// Give a page away.
pub const GNTTABOP_transfer: u32 = 4;
/// Copy between pages, granted or own.
pub const GNTTABOP_copy: u32 = 5;
/// The table's size and limit.
pub const GNTTABOP_query_size: u32 = 6;
/// Unmap, putting another mapping in its place.
pub const GNTTABOP_unmap_and_replace: u32 = 7;
/// Choose the table's version.
pub const GNTTABOP_set_version: u32 = 8;
/// Version 2: the status frames.
pub const GNTTABOP_get_status_frames: u32 = 9;
/// Ask for the table's version.
pub const GNTTABOP_get_version: u32 = 10;
/// Exchange two entries.
pub const GNTTABOP_swap_grant_ref: u32 = 11;
/// Cache maintenance (Arm).
pub const GNTTABOP_cache_flush: u32 = 12;

/// Entries at the start of the table for the toolstack's use.
pub const GNTTAB_NR_RESERVED_ENTRIES: u32 = 8;
/// The console's ring page.
pub const GNTTAB_RESERVED_CONSOLE: GrantRef = GrantRef(0);
/// Xenstore's ring page.
pub const GNTTAB_RESERVED_XENSTORE: GrantRef = GrantRef(1);

/// No grant.
pub const GTF_invalid: u16 = 0;
/// The domain may map or copy the frame.
pub const GTF_permit_access: u16 = 1;
/// The domain may transfer a frame here.
pub const GTF_accept_transfer: u16 = 2;
/// Version 2: a grant of a grant.
pub const GTF_transitive: u16 = 3;
/// The bits that hold the type.
pub const GTF_type_mask: u16 = 3;
/// For reading only.
pub const GTF_readonly: u16 = 1 << 2;
/// Set by the host: mapped for reading.
pub const GTF_reading: u16 = 1 << 3;
/// Set by the host: mapped for writing.
pub const GTF_writing: u16 = 1 << 4;
/// Cache attribute for mappings: write-through.
pub const GTF_PWT: u16 = 1 << 5;
/// Cache attribute for mappings: none.
pub const GTF_PCD: u16 = 1 << 6;
/// Cache attribute for mappings: by the attribute table.
pub const GTF_PAT: u16 = 1 << 7;
/// Version 2: only a part of the page.
pub const GTF_sub_page: u16 = 1 << 8;
/// Set by the host in a [`GTF_accept_transfer`] entry: a frame is on its way, and the guest leaves the entry alone.
pub const GTF_transfer_committed: u16 = 1 << 2;
/// Set by the host: the frame has arrived.
pub const GTF_transfer_completed: u16 = 1 << 3;

/// Map for devices.
pub const GNTMAP_device_map: u32 = 1 << 0;
/// Map for the CPU.
pub const GNTMAP_host_map: u32 = 1 << 1;
/// Map for reading only.
pub const GNTMAP_readonly: u32 = 1 << 2;
/// The program may use the mapping too, not the kernel alone (guests with Xen's page tables).
pub const GNTMAP_application_map: u32 = 1 << 3;
/// `host_addr` is the machine address of a page table entry (guests with Xen's page tables).
pub const GNTMAP_contains_pte: u32 = 1 << 4;
/// Bits for the page table entry that are the guest's own.
pub const GNTMAP_guest_avail_mask: u32 = u32::MAX << 16;

/// [`GnttabCacheFlush::op`]: write back.
pub const GNTTAB_CACHE_CLEAN: u32 = 1 << 0;
/// [`GnttabCacheFlush::op`]: forget.
pub const GNTTAB_CACHE_INVAL: u32 = 1 << 1;
/// [`GnttabCacheFlush::op`]: the page is named by a grant.
pub const GNTTAB_CACHE_SOURCE_GREF: u32 = 1 << 31;

/// [`GnttabCopy::flags`]: the source is a grant.
pub const GNTCOPY_source_gref: u16 = 1 << 0;
/// [`GnttabCopy::flags`]: the destination is a grant.
pub const GNTCOPY_dest_gref: u16 = 1 << 1;

/// Done.
pub const GNTST_okay: i16 = 0;
/// Some error.
pub const GNTST_general_error: i16 = -1;
/// No such domain.
pub const GNTST_bad_domain: i16 = -2;
/// No such grant, or not one of the right kind.
pub const GNTST_bad_gntref: i16 = -3;
/// No such mapping.
pub const GNTST_bad_handle: i16 = -4;
/// A bad virtual address.
pub const GNTST_bad_virt_addr: i16 = -5;
/// A bad device address.
pub const GNTST_bad_dev_addr: i16 = -6;
/// No room in the I/O MMU.
pub const GNTST_no_device_space: i16 = -7;
/// Not allowed.
pub const GNTST_permission_denied: i16 = -8;
/// A page that cannot be used so.
pub const GNTST_bad_page: i16 = -9;
/// The copy crosses a page's end.
pub const GNTST_bad_copy_arg: i16 = -10;
/// The address is too large.
pub const GNTST_address_too_big: i16 = -11;
/// Try again.
pub const GNTST_eagain: i16 = -12;
/// No room for handles.
pub const GNTST_no_space: i16 = -13;

/// `struct grant_entry_v1`, 8 bytes: written by the guest; only the host sets the reading and writing flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GrantEntryV1 {
    /// `GTF_*`.
    pub flags: u16,
    /// Who is granted access.
    pub domid: DomId,
    /// The frame.
    pub frame: u32,
}

/// Entries in one frame of a version 1 table.
pub const GRANT_ENTRIES_PER_FRAME_V1: u32 = 512;

/// `union grant_entry_v2`, 16 bytes, as a grant of a page or of a part of one: written by the guest alone; what the host marks
/// is in the status frames (`grant_status_t`, 16 bits for each entry).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GrantEntryV2 {
    /// `GTF_*`.
    pub flags: u16,
    /// Who is granted access.
    pub domid: DomId,
    /// With [`GTF_sub_page`]: where the part begins, in bytes.
    pub page_off: u16,
    /// With [`GTF_sub_page`]: its bytes.
    pub length: u16,
    /// The frame.
    pub frame: u64,
}

/// Entries in one frame of a version 2 table.
pub const GRANT_ENTRIES_PER_FRAME_V2: u32 = 256;
/// Entries whose status is in one status frame.
pub const GRANT_STATUS_PER_FRAME: u32 = 2048;

/// `struct gnttab_map_grant_ref`, 32 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GnttabMapGrantRef {
    /// In: where to map it.
    pub host_addr: u64,
    /// In: `GNTMAP_*`.
    pub flags: u32,
    /// In: the grant.
    pub gref: GrantRef,
    /// In: who grants it.
    pub dom: DomId,
    /// Out: `GNTST_*`.
    pub status: i16,
    /// Out: the mapping.
    pub handle: u32,
    /// Out: the device address.
    pub dev_bus_addr: u64,
}

/// `struct gnttab_unmap_grant_ref`, 24 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GnttabUnmapGrantRef {
    /// In: where it is mapped.
    pub host_addr: u64,
    /// In: the device address, or 0.
    pub dev_bus_addr: u64,
    /// In: the mapping.
    pub handle: u32,
    /// Out: `GNTST_*`.
    pub status: i16,
    /// Padding.
    pub pad: u16,
}

/// `struct gnttab_setup_table`, 24 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GnttabSetupTable {
    /// In: whose table.
    pub dom: DomId,
    /// Padding.
    pub pad: u16,
    /// In: how many frames it shall have.
    pub nr_frames: u32,
    /// Out: `GNTST_*`.
    pub status: i16,
    /// Padding.
    pub pad2: [u16; 3],
    /// In: guest-virtual address of an array for the frame numbers (64 bits each).
    pub frame_list: u64,
}

/// One end of a copy: `struct gnttab_copy_ptr`, 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GnttabCopyPtr {
    /// The grant (low 32 bits), or the own frame.
    pub u: u64,
    /// The domain.
    pub domid: DomId,
    /// Where in the page, in bytes.
    pub offset: u16,
    /// Padding.
    pub pad: u32,
}

/// `struct gnttab_copy`, 40 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GnttabCopy {
    /// In: from where.
    pub source: GnttabCopyPtr,
    /// In: to where.
    pub dest: GnttabCopyPtr,
    /// In: how many bytes.
    pub len: u16,
    /// In: `GNTCOPY_*`.
    pub flags: u16,
    /// Out: `GNTST_*`.
    pub status: i16,
    /// Padding.
    pub pad: u16,
}

/// `struct gnttab_query_size`, 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GnttabQuerySize {
    /// In: whose table.
    pub dom: DomId,
    /// Padding.
    pub pad: u16,
    /// Out: frames it has.
    pub nr_frames: u32,
    /// Out: frames it may have.
    pub max_nr_frames: u32,
    /// Out: `GNTST_*`.
    pub status: i16,
    /// Padding.
    pub pad2: u16,
}

/// `struct gnttab_set_version`, 4 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GnttabSetVersion {
    /// In: the version wanted; out: the version in use.
    pub version: u32,
}

/// `struct gnttab_get_version`, 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GnttabGetVersion {
    /// In: whose table.
    pub dom: DomId,
    /// Padding.
    pub pad: u16,
    /// Out: the version in use.
    pub version: u32,
}

/// `struct gnttab_dump_table`, 4 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GnttabDumpTable {
    /// In: whose table.
    pub dom: DomId,
    /// Out: `GNTST_*`.
    pub status: i16,
}

/// `struct gnttab_transfer`, 24 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GnttabTransfer {
    /// In: the frame that is given away.
    pub mfn: u64,
    /// In: to whom.
    pub domid: DomId,
    /// Padding.
    pub pad: u16,
    /// In: the entry by which it is taken.
    pub gref: GrantRef,
    /// Out: `GNTST_*`.
    pub status: i16,
    /// Padding.
    pub pad2: [u16; 3],
}

/// `struct gnttab_unmap_and_replace`, 24 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GnttabUnmapAndReplace {
    /// In: where it is mapped.
    pub host_addr: u64,
    /// In: the mapping that is to be there instead.
    pub new_addr: u64,
    /// In: the mapping.
    pub handle: u32,
    /// Out: `GNTST_*`.
    pub status: i16,
    /// Padding.
    pub pad: u16,
}

/// `struct gnttab_get_status_frames`, 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GnttabGetStatusFrames {
    /// In: how many frames are asked for.
    pub nr_frames: u32,
    /// In: whose table.
    pub dom: DomId,
    /// Out: `GNTST_*`.
    pub status: i16,
    /// In: guest-virtual address of an array for the frame numbers (64 bits each).
    pub frame_list: u64,
}

/// `struct gnttab_swap_grant_ref`, 12 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GnttabSwapGrantRef {
    /// In: one entry.
    pub ref_a: GrantRef,
    /// In: the other.
    pub ref_b: GrantRef,
    /// Out: `GNTST_*`.
    pub status: i16,
    /// Padding.
    pub pad: u16,
}

/// `struct gnttab_cache_flush`, 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GnttabCacheFlush {
    /// In: the device address of the page, or the grant (low 32 bits).
    pub a: u64,
    /// In: where in the page, in bytes.
    pub offset: u16,
    /// In: how many bytes.
    pub length: u16,
    /// In: `GNTTAB_CACHE_*`.
    pub op: u32,
}
