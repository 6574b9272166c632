//! How a vCPU starts: what `VCPUOP_initialise` says of it.

use cantle_abi::Errno;
use cantle_abi::pv::{TrapInfo, VGCF_syscall_disables_events, VcpuGuestContext};

use crate::hypercall::address_is_canonical;
use crate::interface::BootInfo;
use crate::regs::Regs;
use crate::vcpu::{Callback, Ports, Trap, Vcpu};

/// rflags that a guest may choose for itself: all but IOPL, IF, NT, VM, VIF, VIP and what is reserved.
pub const GUEST_RFLAGS: u64 = 0x0025_0dd5;
/// rflags that it has always: IF, and bit 1.
pub const FIXED_RFLAGS: u64 = 0x202;

/// What a vCPU starts with besides its [`Vcpu`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Start {
    /// Its registers; cs and ss as the guest gave them, rflags made harmless.
    pub regs: Regs,
    /// fs's base.
    pub fs_base: u64,
    /// gs's base in the kernel.
    pub gs_base_kernel: u64,
    /// gs's base in programs.
    pub gs_base_user: u64,
    /// ds.
    pub ds: u16,
    /// es.
    pub es: u16,
    /// fs.
    pub fs: u16,
    /// gs.
    pub gs: u16,
}

/// Whether a vCPU can start so: addresses are canonical, tables the guest's. Its GDT is looked at elsewhere.
///
/// # Errors
/// `EINVAL`.
pub fn check(context: &VcpuGuestContext, boot: &BootInfo) -> Result<(), Errno> {
    let regs = &context.user_regs;
    let addresses = [
        regs.rip,
        regs.rsp,
        context.kernel_sp,
        context.event_callback_eip,
        context.failsafe_callback_eip,
        context.syscall_callback_eip,
        context.fs_base,
        context.gs_base_kernel,
        context.gs_base_user,
    ];
    let mut all = addresses
        .iter()
        .chain(context.trap_ctxt.iter().map(|trap| &trap.address));
    let [_, user_l4, _, kernel_l4, ..] = context.ctrlreg.map(|cr| cr >> 12);
    // From a 32-bit guest's folded cr3 nothing comes that a 64-bit guest would have: the low bits are not looked at, as the processor does not.
    if all.all(|&address| address_is_canonical(address))
        && boot.is_ram(kernel_l4)
        && (user_l4 == 0 || boot.is_ram(user_l4))
        && context.ldt_ents == 0
    {
        Ok(())
    } else {
        Err(Errno::EINVAL)
    }
}

/// Fills the state of a vCPU that is about to start from a context that [`check`] has let through. Its number, areas, `vcpu_info`
/// and control registers stay as they are.
pub fn apply(context: &VcpuGuestContext, vcpu: &mut Vcpu) -> Start {
    for trap in &mut vcpu.traps {
        *trap = Trap::default();
    }
    for (slot, info) in vcpu.traps.iter_mut().zip(&context.trap_ctxt) {
        *slot = trap(info);
    }
    vcpu.in_kernel = true;
    vcpu.kernel_sp = context.kernel_sp;
    vcpu.kernel_ss = context.kernel_ss;
    let [_, user_l4, _, kernel_l4, ..] = context.ctrlreg.map(|cr| cr >> 12);
    vcpu.kernel_l4 = kernel_l4;
    vcpu.user_l4 = user_l4;
    let masks_syscalls = context.flags & VGCF_syscall_disables_events != 0;
    let callback = |address, masks_events| Callback {
        address,
        masks_events,
    };
    vcpu.event = callback(context.event_callback_eip, true);
    vcpu.failsafe = callback(
        context.failsafe_callback_eip,
        context.flags & cantle_abi::pv::VGCF_failsafe_disables_events != 0,
    );
    vcpu.syscall = callback(context.syscall_callback_eip, masks_syscalls);
    vcpu.syscall32 = Callback::default();
    vcpu.sysenter = Callback::default();
    vcpu.debug = [0; 8];
    // As Xen: what Linux asks for by a call on its first vCPU it says here of the others.
    let [_, flags, ..] = context.user_regs.rflags.to_le_bytes();
    vcpu.iopl = flags >> 4 & 3;
    vcpu.ports = Ports::default();
    let from = &context.user_regs;
    Start {
        regs: Regs {
            r15: from.r15,
            r14: from.r14,
            r13: from.r13,
            r12: from.r12,
            rbp: from.rbp,
            rbx: from.rbx,
            r11: from.r11,
            r10: from.r10,
            r9: from.r9,
            r8: from.r8,
            rax: from.rax,
            rcx: from.rcx,
            rdx: from.rdx,
            rsi: from.rsi,
            rdi: from.rdi,
            vector: 0,
            error: 0,
            rip: from.rip,
            cs: u64::from(from.cs),
            rflags: from.rflags & GUEST_RFLAGS | FIXED_RFLAGS,
            rsp: from.rsp,
            ss: u64::from(from.ss),
        },
        fs_base: context.fs_base,
        gs_base_kernel: context.gs_base_kernel,
        gs_base_user: context.gs_base_user,
        ds: from.ds,
        es: from.es,
        fs: from.fs,
        gs: from.gs,
    }
}

/// An entry of a trap table as it is kept.
#[must_use]
pub fn trap(info: &TrapInfo) -> Trap {
    Trap {
        address: info.address,
        cs: info.cs,
        dpl: info.flags & 3,
        masks_events: info.flags & 4 != 0,
    }
}
