//! Can this machine's KVM run kernels that were not written for it?

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvm_bindings::{kvm_regs, kvm_userspace_memory_region};
use kvm_ioctls::{VcpuExit, VmFd};
use vm_memory::mmap::MmapRegion;

use crate::error::SetupError;

/// `movd %xmm0,%eax`-like work with SSE enabled, then a write to a port: `mov %cr4,%eax; or $0x200,%eax; mov %eax,%cr4;
/// xorps %xmm0,%xmm0; mov $1,%al; out %al,$0xe8; hlt`. Our own few bytes of 16-bit code.
const PROGRAM: &[u8] = &[
    0x0f, 0x20, 0xe0, // mov %cr4, %eax
    0x66, 0x0d, 0x00, 0x02, 0x00, 0x00, // or $0x200, %eax
    0x0f, 0x22, 0xe0, // mov %eax, %cr4
    0x0f, 0x57, 0xc0, // xorps %xmm0, %xmm0
    0xb0, 0x01, // mov $1, %al
    0xe6, 0xe8, // out %al, $0xe8
    0xf4, // hlt
];
const ORIGIN: u64 = 0x1000;

/// Runs a guest of a few instructions, one of them SSE, and says whether it got to its end.
///
/// A KVM without hardware under it (one that emulates instructions) fails here, and cannot boot a stock kernel either.
///
/// # Errors
///
/// [`SetupError`] where `/dev/kvm` cannot be used at all.
pub fn kvm_runs_stock_kernels() -> Result<bool, SetupError> {
    let kvm = super::vm::open()?;
    let vm = Arc::new(
        kvm.create_vm()
            .map_err(SetupError::kvm("creating a virtual machine"))?,
    );
    let memory =
        MmapRegion::<()>::new(2 * 4096).map_err(|e| SetupError::memory(io::Error::other(e)))?;
    map(&vm, &memory)?;
    let mut vcpu = vm
        .create_vcpu(0)
        .map_err(SetupError::kvm("creating a vCPU"))?;
    let mut sregs = vcpu.get_sregs().map_err(SetupError::kvm("KVM_GET_SREGS"))?;
    sregs.cs.base = 0;
    sregs.cs.selector = 0;
    vcpu.set_sregs(&sregs)
        .map_err(SetupError::kvm("KVM_SET_SREGS"))?;
    let regs = kvm_regs {
        rip: ORIGIN,
        rflags: 2,
        ..Default::default()
    };
    vcpu.set_regs(&regs)
        .map_err(SetupError::kvm("KVM_SET_REGS"))?;
    let deadline = Instant::now() + Duration::from_secs(2);
    while Instant::now() < deadline {
        match vcpu.run() {
            Ok(VcpuExit::IoOut(0xe8, [1])) => return Ok(true),
            Ok(VcpuExit::Intr) => {}
            Err(e) if e.errno() == libc::EINTR => {}
            _ => return Ok(false),
        }
    }
    Ok(false)
}

// UNSAFETY: gives memory to KVM, and writes the program into it.
#[expect(unsafe_code)]
fn map(vm: &VmFd, memory: &MmapRegion<()>) -> Result<(), SetupError> {
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: ORIGIN,
        memory_size: memory.size() as u64,
        userspace_addr: memory.as_ptr() as u64,
    };
    // SAFETY: the program is shorter than the mapping, which nothing else knows yet.
    unsafe { std::ptr::copy_nonoverlapping(PROGRAM.as_ptr(), memory.as_ptr(), PROGRAM.len()) };
    // SAFETY: the mapping outlives the VM: both are dropped at the end of the caller, the VM's vCPU no longer running.
    unsafe { vm.set_user_memory_region(region) }
        .map_err(SetupError::kvm("KVM_SET_USER_MEMORY_REGION"))
}
