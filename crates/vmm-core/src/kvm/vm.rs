//! The virtual machine: irqchip, the kernel's Xen support, MSR exits, the clock.

// UNSAFETY: two ioctls that kvm-ioctls does not wrap.
#![expect(unsafe_code)]

use std::io;
use std::os::fd::AsRawFd;

use kvm_bindings::{KVMIO, kvm_enable_cap, kvm_xen_hvm_config};
use kvm_ioctls::{Cap, Kvm, VmFd};
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::ioctl_iow_nr;

use crate::error::SetupError;

ioctl_iow_nr!(KVM_XEN_HVM_CONFIG, KVMIO, 0x7a, kvm_xen_hvm_config);

/// The MSR by which a guest asks for its hypercall page; the Xen CPUID leaves name it.
pub(crate) const HYPERCALL_MSR: u32 = 0x4000_0000;

const KVM_CAP_SPLIT_IRQCHIP: u32 = 121;
const KVM_CAP_X86_USER_SPACE_MSR: u32 = 188;
const KVM_CAP_XEN_HVM: u32 = 38;
const KVM_XEN_HVM_CONFIG_INTERCEPT_HCALL: u32 = 1 << 1;
const KVM_MSR_EXIT_REASON_INVAL: u64 = 1 << 0;
const KVM_MSR_EXIT_REASON_UNKNOWN: u64 = 1 << 1;
/// Where Intel's KVM keeps a TSS and an identity map for real mode: below the BIOS area, outside RAM.
const TSS_ADDRESS: usize = 0xfffb_d000;
const IDENTITY_MAP_ADDRESS: u64 = 0xfffb_c000;
/// Interrupt lines of the split irqchip's routing table; none is wired.
const SPLIT_IRQCHIP_LINES: u64 = 24;

/// Opens `/dev/kvm` and checks what every guest needs.
pub(crate) fn open() -> Result<Kvm, SetupError> {
    let kvm = Kvm::new().map_err(|e| SetupError::NoKvm(io::Error::from_raw_os_error(e.errno())))?;
    for (cap, what) in [
        (Cap::Irqchip, "an interrupt controller in the kernel"),
        (Cap::UserMemory, "guest memory from user space"),
        (
            Cap::SyncRegs,
            "registers in the shared page (KVM_CAP_SYNC_REGS)",
        ),
        (Cap::ImmediateExit, "immediate exits"),
        (
            Cap::SignalMsi,
            "message-signalled interrupts (KVM_SIGNAL_MSI)",
        ),
        (Cap::AdjustClock, "the guest's clock (KVM_GET_CLOCK)"),
    ] {
        if !kvm.check_extension(cap) {
            return Err(SetupError::Kvm {
                what,
                source: io::ErrorKind::Unsupported.into(),
            });
        }
    }
    Ok(kvm)
}

/// Whether this KVM intercepts Xen hypercalls itself.
pub(crate) fn has_xen(vm: &VmFd) -> bool {
    let flags = vm.check_extension_raw(KVM_CAP_XEN_HVM.into());
    u32::try_from(flags).is_ok_and(|flags| flags & KVM_XEN_HVM_CONFIG_INTERCEPT_HCALL != 0)
}

/// Makes the machine: local APICs in the kernel and nothing else of a PC's interrupt hardware.
pub(crate) fn create(kvm: &Kvm) -> Result<VmFd, SetupError> {
    let vm = kvm
        .create_vm()
        .map_err(SetupError::kvm("creating a virtual machine"))?;
    vm.set_identity_map_address(IDENTITY_MAP_ADDRESS)
        .map_err(SetupError::kvm("KVM_SET_IDENTITY_MAP_ADDR"))?;
    vm.set_tss_address(TSS_ADDRESS)
        .map_err(SetupError::kvm("KVM_SET_TSS_ADDR"))?;
    let split = kvm_enable_cap {
        cap: KVM_CAP_SPLIT_IRQCHIP,
        args: [SPLIT_IRQCHIP_LINES, 0, 0, 0],
        ..Default::default()
    };
    if vm.enable_cap(&split).is_err() {
        // An older KVM: the whole set, of which only the local APICs will be used.
        vm.create_irq_chip()
            .map_err(SetupError::kvm("KVM_CREATE_IRQCHIP"))?;
    }
    Ok(vm)
}

/// Has unknown MSRs exit to us, so that the guest can ask for a hypercall page.
///
/// # Errors
///
/// On kernels without `KVM_CAP_X86_USER_SPACE_MSR` (before 5.10).
pub(crate) fn exit_on_unknown_msrs(vm: &VmFd) -> Result<(), SetupError> {
    let cap = kvm_enable_cap {
        cap: KVM_CAP_X86_USER_SPACE_MSR,
        args: [
            KVM_MSR_EXIT_REASON_INVAL | KVM_MSR_EXIT_REASON_UNKNOWN,
            0,
            0,
            0,
        ],
        ..Default::default()
    };
    vm.enable_cap(&cap)
        .map_err(SetupError::kvm("KVM_CAP_X86_USER_SPACE_MSR"))
}

/// Has the kernel intercept hypercalls and fill the hypercall page.
pub(crate) fn intercept_xen_hypercalls(vm: &VmFd) -> Result<(), SetupError> {
    let config = kvm_xen_hvm_config {
        flags: KVM_XEN_HVM_CONFIG_INTERCEPT_HCALL,
        msr: HYPERCALL_MSR,
        ..Default::default()
    };
    // SAFETY: the request takes a pointer to this structure, which lives across the call.
    let ret = unsafe { ioctl_with_ref(&vm.as_raw_fd(), KVM_XEN_HVM_CONFIG(), &config) };
    if ret < 0 {
        return Err(SetupError::Kvm {
            what: "KVM_XEN_HVM_CONFIG",
            source: io::Error::last_os_error(),
        });
    }
    Ok(())
}

/// The guest's system time in nanoseconds, as its own clock pages show it.
pub(crate) fn system_time_ns(vm: &VmFd) -> u64 {
    vm.get_clock().map_or(0, |clock| clock.clock)
}
