//! What the host and the monitor agree on: where things are, how the monitor is started, and what it asks the host for.
//!
//! The host builds the monitor's address space and its [`BootInfo`]; the monitor never allocates. Physical memory is as the VM has it: a machine
//! frame (MFN) of the guest *is* a frame of the VM. The monitor's own frames come first, from frame 0 to [`BootInfo::first_guest_mfn`].

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Where the machine-to-physical table is, at the address that Xen's 64-bit ABI fixes (`MACH2PHYS_VIRT_START`): one `u64` for each frame of the VM.
/// Slot 256 of every level-4 table.
pub const M2P_BASE: u64 = 0xffff_8000_0000_0000;
/// Where the monitor is: image, per-vCPU areas, descriptor windows. Slot 261.
pub const MONITOR_BASE: u64 = 0xffff_8280_0000_0000;
/// Where all of the VM's memory is seen, frame 0 first; at most 512 GiB. Slot 262.
pub const DIRECT_MAP: u64 = 0xffff_8300_0000_0000;
/// The first level-4 slot that belongs to the hypervisor, and the first one after (`HYPERVISOR_VIRT_START`, `HYPERVISOR_VIRT_END`).
pub const HYPERVISOR_SLOTS: core::ops::Range<usize> = 256..272;
/// The slots that the monitor puts into each level-4 table that is loaded.
pub const MONITOR_SLOTS: [usize; 3] = [256, 261, 262];

/// The most bytes of the monitor's image in memory; it is linked at [`MONITOR_BASE`].
pub const IMAGE_LIMIT: u64 = 0x10_0000;
/// The page with the [`BootInfo`].
pub const BOOT_INFO: u64 = MONITOR_BASE + IMAGE_LIMIT;
/// The page with the descriptors that all vCPUs share: page [`RESERVED_GDT_PAGE`] of each GDT.
pub const SHARED_GDT: u64 = BOOT_INFO + 0x1000;
/// The areas of the vCPUs, [`VCPU_AREA_SIZE`] each.
pub const VCPU_AREAS: u64 = MONITOR_BASE + 0x20_0000;
/// Bytes of a vCPU's area, to which it is aligned: its state at the start, its stack at the end. The page in the middle of it (the one at
/// [`VCPU_GUARD`]) is not mapped, so that a stack that overflows ends in a double fault and not in the state.
pub const VCPU_AREA_SIZE: u64 = 0x8000;
/// Offset of the page that is not mapped.
pub const VCPU_GUARD: u64 = 0x4000;
/// The windows through which a vCPU sees its guest's descriptor tables, [`WINDOW_SIZE`] each.
pub const WINDOWS: u64 = MONITOR_BASE + 0x4000_0000;
/// Bytes of a window: 16 pages of GDT (14 of the guest's, [`SHARED_GDT`], none), 16 pages of LDT.
pub const WINDOW_SIZE: u64 = 0x2_0000;
/// The page of a GDT that is the monitor's (`FIRST_RESERVED_GDT_PAGE`).
pub const RESERVED_GDT_PAGE: u64 = 14;
/// The I/O port by which the monitor reaches the host: `out` with the number in rax, arguments in rdi, rsi, rdx, r10, r8, and the result in rax.
/// It stands in the instruction, since rdx is an argument.
pub const HYPERCALL_PORT: u8 = 0xe8;
/// vCPUs that there is room for.
pub const MAX_VCPUS: u32 = 128;

/// `BootInfo::magic`: "cantlepv".
pub const MAGIC: u64 = 0x7670_656c_746e_6163;
/// `BootInfo::version`.
pub const VERSION: u32 = 1;

/// `BootInfo::flags`: programs of the guest run on the kernel's own tables (`MMUEXT_NEW_USER_BASEPTR` is kept and not loaded). Right only for
/// kernels that never map memory of theirs for user mode, on processors without Meltdown; saves a switch of tables at each system call.
pub const FLAG_ONE_ADDRESS_SPACE: u32 = 1 << 0;

/// Frames, the end not among them.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Frames {
    /// The first.
    pub start: u64,
    /// The one after the last.
    pub end: u64,
}

/// What the host tells the monitor, in the page at [`BOOT_INFO`]; the host writes it before the first vCPU runs and never again.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BootInfo {
    /// [`MAGIC`].
    pub magic: u64,
    /// [`VERSION`].
    pub version: u32,
    /// vCPUs of the guest, those that are not up included.
    pub vcpus: u32,
    /// `FLAG_*`.
    pub flags: u32,
    /// What `XENVER_version` says: major in the upper 16 bits, minor in the lower.
    pub xen_version: u32,
    /// [`HYPERCALL_PORT`].
    pub hypercall_port: u16,
    /// The interrupt vector that says: look at `evtchn_upcall_pending`.
    pub upcall_vector: u8,
    /// 0.
    pub reserved: [u8; 5],
    /// The frames before this one are the monitor's.
    pub first_guest_mfn: u64,
    /// The frame after the last one of [`DIRECT_MAP`] and of the machine-to-physical table.
    pub max_mfn: u64,
    /// The guest's memory, in at most two pieces; an empty one counts nothing.
    pub ram: [Frames; 2],
    /// Frames outside its memory that the guest may map: shared info, rings, grant table. Not in [`DIRECT_MAP`], but for shared info.
    pub special: Frames,
    /// The frame of the monitor's own level-4 table, on which vCPUs begin.
    pub monitor_l4: u64,
    /// The first of the consecutive frames that are the level-1 tables of [`WINDOWS`]: one for each 16 vCPUs.
    pub window_tables: u64,
    /// The first of the consecutive frames with a bit for each frame below [`BootInfo::max_mfn`], zero at first: which are page tables, as far as
    /// the guest has said (see [`crate::writable`]).
    pub table_marks: u64,
    /// The frame of shared info, which is in [`DIRECT_MAP`].
    pub shared_info: u64,
    /// The guest's first instruction.
    pub start_rip: u64,
    /// Its stack.
    pub start_rsp: u64,
    /// Its start info, which goes to rsi.
    pub start_rsi: u64,
    /// The frame of its first level-4 table.
    pub start_l4: u64,
}

// What the host serves for the monitor alone. The number goes to rax, arguments and result as with hypercalls. The guest's calls
// never have such a number: the monitor passes on only those of Xen's that it knows.

/// Writes text to the host's log. rdi: address, rsi: bytes (at most 4096).
pub const HOST_LOG: u64 = 0x4350_0000;
/// Ends the guest as crashed. rdi, rsi: address and bytes of a text of several lines, which goes to the guest's console log. Does not return.
pub const HOST_CRASH: u64 = 0x4350_0001;
/// Starts a vCPU that has never run. rdi: its number. It begins where the first one did. 0, or a negative error number.
pub const HOST_START_VCPU: u64 = 0x4350_0002;
/// The vCPU has been taken down (rsi = 0) or is up again (rsi = 1), for what the host says of it. rdi: its number.
pub const HOST_VCPU_STATE: u64 = 0x4350_0003;

/// How a vCPU begins: 64-bit mode in ring 0, interrupts off, on [`BootInfo::monitor_l4`], at the image's entry with the number of the vCPU in
/// rdi and its stack pointer at the end of its area.
#[must_use]
pub const fn vcpu_area(vcpu: u32) -> u64 {
    VCPU_AREAS + vcpu as u64 * VCPU_AREA_SIZE
}

/// Where a vCPU's window begins; its LDT is in the second half.
#[must_use]
pub const fn window(vcpu: u32) -> u64 {
    WINDOWS + vcpu as u64 * WINDOW_SIZE
}
