//! The state of a vCPU, at the start of its area.

/// A handler of the guest's: where it is, and whether events are masked on the way in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Callback {
    /// Its address; 0 where there is none.
    pub address: u64,
    /// Whether `evtchn_upcall_mask` is set before it runs.
    pub masks_events: bool,
}

/// An entry of the guest's trap table (`struct trap_info`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Trap {
    /// The handler; 0 where there is none.
    pub address: u64,
    /// Its code segment as the guest gave it. The kernel has one only, so that this is kept for whoever asks.
    pub cs: u16,
    /// The least privileged ring that may raise it by `int`.
    pub dpl: u8,
    /// Whether `evtchn_upcall_mask` is set before it runs.
    pub masks_events: bool,
}

/// Ports that programs may use (`PHYSDEVOP_set_iobitmap`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Ports {
    /// The address of the bitmap in the kernel's memory, which is read when it is needed; a bit that is 0 allows a port.
    pub bitmap: u64,
    /// The bits that it has.
    pub count: u32,
}

/// What the guest has told of a vCPU, and what the monitor has to remember of it. Only the vCPU itself uses it, but for `shared`.
#[derive(Debug)]
#[repr(C)]
pub struct Vcpu {
    /// rsp of the guest while `syscall` has no stack yet. At offset 0: the entry code knows it.
    pub scratch: u64,
    /// The top of the vCPU's stack. At offset 8.
    pub stack_top: u64,
    /// Its number.
    pub id: u32,
    /// The guest's kernel runs, and not one of its programs. At offset 20.
    pub in_kernel: bool,
    /// Programs run on the kernel's tables. The quick ways of system calls are for those only. At offset 21.
    pub one_address_space: bool,
    /// `evtchn_upcall_*` of this vCPU, in the direct map; never null once the vCPU runs.
    pub vcpu_info: u64,
    /// The stack that the kernel is entered on from a program (`stack_switch`).
    pub kernel_sp: u64,
    /// Its segment, as the guest gave it.
    pub kernel_ss: u64,
    /// The frames of the tables in use: the kernel's, and the programs' (0 for none).
    pub kernel_l4: u64,
    /// The programs' table (`MMUEXT_NEW_USER_BASEPTR`).
    pub user_l4: u64,
    /// `CALLBACKTYPE_event`.
    pub event: Callback,
    /// `CALLBACKTYPE_failsafe`.
    pub failsafe: Callback,
    /// `CALLBACKTYPE_syscall`.
    pub syscall: Callback,
    /// `CALLBACKTYPE_syscall32`.
    pub syscall32: Callback,
    /// `CALLBACKTYPE_sysenter`.
    pub sysenter: Callback,
    /// The trap table.
    pub traps: [Trap; 256],
    /// CR0 as the guest sees it: only TS and those that are fixed.
    pub cr0: u64,
    /// CR4 as the guest sees it.
    pub cr4: u64,
    /// Debug registers, as the guest set them.
    pub debug: [u64; 8],
    /// The ring up to which ports may be used (`PHYSDEVOP_set_iopl`).
    pub iopl: u8,
    /// The ports that programs may use all the same.
    pub ports: Ports,
}

/// Where a call or exception leaves the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It goes on where its registers say.
    Resume,
    /// An exception is its to handle: vector and error code, where there is one. CR2 has been told already.
    Raise(u8, Option<u32>),
    /// It has broken the rules so that it cannot go on.
    Crash(&'static str),
}

impl Vcpu {
    /// A vCPU of which nothing has been told: in its kernel.
    #[must_use]
    pub const fn new(id: u32) -> Self {
        const NONE: Callback = Callback {
            address: 0,
            masks_events: false,
        };
        const NO_TRAP: Trap = Trap {
            address: 0,
            cs: 0,
            dpl: 0,
            masks_events: false,
        };
        Self {
            scratch: 0,
            stack_top: 0,
            id,
            in_kernel: true,
            one_address_space: false,
            vcpu_info: 0,
            kernel_sp: 0,
            kernel_ss: 0,
            kernel_l4: 0,
            user_l4: 0,
            event: NONE,
            failsafe: NONE,
            syscall: NONE,
            syscall32: NONE,
            sysenter: NONE,
            traps: [NO_TRAP; 256],
            cr0: 0,
            cr4: 0,
            debug: [0; 8],
            iopl: 0,
            ports: Ports {
                bitmap: 0,
                count: 0,
            },
        }
    }
}
