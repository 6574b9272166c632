//! The virtual machine: irqchip, MSR exits, the clock.

use std::io;

use kvm_bindings::kvm_enable_cap;
use kvm_ioctls::{Cap, Kvm, VmFd};

use crate::error::SetupError;

/// The MSR by which a guest asks for its hypercall page; the Xen CPUID leaves name it.
pub(crate) const HYPERCALL_MSR: u32 = 0x4000_0000;

const KVM_CAP_SPLIT_IRQCHIP: u32 = 121;
const KVM_CAP_X86_USER_SPACE_MSR: u32 = 188;
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

/// The guest's system time in nanoseconds, as its own clock pages show it.
pub(crate) fn system_time_ns(vm: &VmFd) -> u64 {
    vm.get_clock().map_or(0, |clock| clock.clock)
}
