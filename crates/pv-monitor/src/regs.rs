//! The guest's registers as the entry code leaves them on the vCPU's stack.

/// What an entry pushes, lowest address first. The last five are what the processor itself pushes, and takes by `iretq`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Regs {
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
    /// What came: the exception's or interrupt's vector, or [`Regs::SYSCALL`].
    pub vector: u32,
    /// The exception's error code, or 0.
    pub error: u32,
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

impl Regs {
    /// `vector` where it was `syscall`.
    pub const SYSCALL: u32 = 0x100;
    /// `vector` where it was `syscall` in compatibility mode.
    pub const SYSCALL32: u32 = 0x101;
    /// `vector` where it was `sysenter`.
    pub const SYSENTER: u32 = 0x102;
    /// `vector` where the guest's own `iret` has set the registers, and rcx and r11 among them.
    pub const IRET: u32 = 0x103;
}
