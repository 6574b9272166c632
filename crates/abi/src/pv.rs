//! The processor's state of a PV guest (`arch-x86/xen.h`, `arch-x86/xen-x86_64.h`), and calls about it.

use core::mem::{offset_of, size_of};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The selector of the 32-bit code segment that every descriptor table has.
pub const FLAT_RING3_CS32: u16 = 0xe023;
/// Of the 64-bit one.
pub const FLAT_RING3_CS64: u16 = 0xe033;
/// Of the data segment.
pub const FLAT_RING3_DS32: u16 = 0xe02b;

/// The first page of a descriptor table that is the hypervisor's.
pub const FIRST_RESERVED_GDT_PAGE: u64 = 14;
/// Its first byte.
pub const FIRST_RESERVED_GDT_BYTE: u64 = 14 * 4096;
/// Its first descriptor.
pub const FIRST_RESERVED_GDT_ENTRY: u64 = FIRST_RESERVED_GDT_BYTE / 8;

/// `set_segment_base`: fs.
pub const SEGBASE_FS: u64 = 0;
/// gs of programs.
pub const SEGBASE_GS_USER: u64 = 1;
/// gs of the kernel.
pub const SEGBASE_GS_KERNEL: u64 = 2;
/// gs of programs, by a selector.
pub const SEGBASE_GS_USER_SEL: u64 = 3;

/// [`IretContext::flags`]: the return is from a system call, so that rcx and r11 are lost.
pub const VGCF_in_syscall: u64 = 1 << 8;

/// [`VcpuGuestContext::flags`]: the FPU's state is there.
pub const VGCF_i387_valid: u64 = 1 << 0;
/// The kernel runs, and not a program.
pub const VGCF_in_kernel: u64 = 1 << 2;
/// Events are masked on the way into the failsafe callback.
pub const VGCF_failsafe_disables_events: u64 = 1 << 3;
/// And into the system call's.
pub const VGCF_syscall_disables_events: u64 = 1 << 4;
/// The vCPU is up.
pub const VGCF_online: u64 = 1 << 5;

/// Switches on.
pub const VMASST_CMD_enable: u32 = 0;
/// Switches off.
pub const VMASST_CMD_disable: u32 = 1;
/// Segments of 4 GiB (32-bit guests).
pub const VMASST_TYPE_4gb_segments: u32 = 0;
/// A trap when that was used.
pub const VMASST_TYPE_4gb_segments_notify: u32 = 1;
/// Entries of level-1 tables may be written by ordinary stores.
pub const VMASST_TYPE_writable_pagetables: u32 = 2;
/// Tables above 4 GiB (32-bit guests).
pub const VMASST_TYPE_pae_extended_cr3: u32 = 3;
/// IOPL as the architecture has it.
pub const VMASST_TYPE_architectural_iopl: u32 = 4;
/// Updates of the run state are marked.
pub const VMASST_TYPE_runstate_update_flag: u32 = 5;
/// The machine-to-physical table is hidden from programs.
pub const VMASST_TYPE_m2p_strict: u32 = 32;

/// `struct trap_info`, 16 bytes: an entry of the guest's trap table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TrapInfo {
    /// The exception's number.
    pub vector: u8,
    /// Bits 0 and 1: the least privileged ring that may raise it. Bit 2: events are masked on the way in.
    pub flags: u8,
    /// The handler's code segment.
    pub cs: u16,
    /// Padding.
    pub pad: u32,
    /// The handler; 0 ends a list.
    pub address: u64,
}

/// `struct iret_context`, 72 bytes: what the call `iret` takes from the kernel's stack.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct IretContext {
    /// rax.
    pub rax: u64,
    /// r11, but not after a system call.
    pub r11: u64,
    /// rcx, but not after a system call.
    pub rcx: u64,
    /// [`VGCF_in_syscall`] or 0.
    pub flags: u64,
    /// rip.
    pub rip: u64,
    /// cs.
    pub cs: u64,
    /// rflags.
    pub rflags: u64,
    /// rsp.
    pub rsp: u64,
    /// ss.
    pub ss: u64,
}

/// `struct cpu_user_regs`, 200 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CpuUserRegs {
    /// r15.
    pub r15: u64,
    /// r14.
    pub r14: u64,
    /// r13.
    pub r13: u64,
    /// r12.
    pub r12: u64,
    /// rbp.
    pub rbp: u64,
    /// rbx.
    pub rbx: u64,
    /// r11.
    pub r11: u64,
    /// r10.
    pub r10: u64,
    /// r9.
    pub r9: u64,
    /// r8.
    pub r8: u64,
    /// rax.
    pub rax: u64,
    /// rcx.
    pub rcx: u64,
    /// rdx.
    pub rdx: u64,
    /// rsi.
    pub rsi: u64,
    /// rdi.
    pub rdi: u64,
    /// The hypervisor's own.
    pub error_code: u32,
    /// The hypervisor's own.
    pub entry_vector: u32,
    /// rip.
    pub rip: u64,
    /// cs.
    pub cs: u16,
    /// Padding.
    pub pad0: u16,
    /// Whether events were masked.
    pub saved_upcall_mask: u8,
    /// Padding.
    pub pad1: [u8; 3],
    /// rflags.
    pub rflags: u64,
    /// rsp.
    pub rsp: u64,
    /// ss.
    pub ss: u16,
    /// Padding.
    pub pad2: [u16; 3],
    /// es.
    pub es: u16,
    /// Padding.
    pub pad3: [u16; 3],
    /// ds.
    pub ds: u16,
    /// Padding.
    pub pad4: [u16; 3],
    /// fs.
    pub fs: u16,
    /// Padding.
    pub pad5: [u16; 3],
    /// gs.
    pub gs: u16,
    /// Padding.
    pub pad6: [u16; 3],
}

/// `struct vcpu_guest_context`, 5168 bytes: a vCPU's state, as `VCPUOP_initialise` takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VcpuGuestContext {
    /// The FPU's state, as `fxsave` writes it.
    pub fpu_ctxt: [u8; 512],
    /// `VGCF_*`.
    pub flags: u64,
    /// The registers.
    pub user_regs: CpuUserRegs,
    /// The trap table.
    pub trap_ctxt: [TrapInfo; 256],
    /// The local descriptor table's address.
    pub ldt_base: u64,
    /// Descriptors in it.
    pub ldt_ents: u64,
    /// The descriptor table's machine frames.
    pub gdt_frames: [u64; 16],
    /// Descriptors in it.
    pub gdt_ents: u64,
    /// The kernel's stack segment.
    pub kernel_ss: u64,
    /// The stack on which the kernel is entered.
    pub kernel_sp: u64,
    /// Control registers; 1 is the tables for user mode, 3 those of the kernel.
    pub ctrlreg: [u64; 8],
    /// Debug registers.
    pub debugreg: [u64; 8],
    /// The event callback.
    pub event_callback_eip: u64,
    /// The failsafe callback.
    pub failsafe_callback_eip: u64,
    /// The system call callback.
    pub syscall_callback_eip: u64,
    /// `VMASST_TYPE_*`, as bits.
    pub vm_assist: u64,
    /// fs's base.
    pub fs_base: u64,
    /// gs's base in the kernel.
    pub gs_base_kernel: u64,
    /// gs's base in programs.
    pub gs_base_user: u64,
}

const _: () = {
    assert!(size_of::<TrapInfo>() == 16 && size_of::<IretContext>() == 72);
    assert!(size_of::<CpuUserRegs>() == 200 && size_of::<VcpuGuestContext>() == 5168);
    assert!(offset_of!(VcpuGuestContext, ctrlreg) == 4984);
};
