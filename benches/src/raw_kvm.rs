//! The limit of the machine's start: the smallest program that makes a VM and runs an instruction in it.

// UNSAFETY: a VM's memory is given to the kernel by its address.
#![expect(unsafe_code)]

use std::ffi::c_void;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, bail};
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Kvm, VcpuExit};
use rustix::fs::MemfdFlags;
use rustix::mm::{MapFlags, ProtFlags, mmap};

/// The argument by which this program is that one.
pub(crate) const ROLE: &str = "raw-kvm";
/// Where the guest's one instruction writes a 1.
pub(crate) const MARKER: u64 = 0x2000;

const CODE: u64 = 0x1000;
/// `movb $1, 0x2000; hlt` in 16-bit mode.
const PROGRAM: [u8; 6] = [0xc6, 0x06, 0x00, 0x20, 0x01, 0xf4];

/// Runs the guest with so much memory; then does nothing until it is killed.
pub(crate) fn main(memory: u64) -> Result<()> {
    let kvm = Kvm::new().context("cannot open /dev/kvm")?;
    let vm = kvm.create_vm().context("cannot make a VM")?;
    let ram = std::fs::File::from(rustix::fs::memfd_create("guest-ram", MemfdFlags::CLOEXEC)?);
    ram.set_len(memory)?;
    ram.write_all_at(&PROGRAM, CODE)?;
    let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
    // SAFETY: a new mapping, of which nothing here makes a reference.
    let base: *mut c_void = unsafe {
        mmap(
            std::ptr::null_mut(),
            usize::try_from(memory)?,
            protection,
            flags,
            &ram,
            0,
        )
    }?;
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: memory,
        userspace_addr: base.addr() as u64,
    };
    // SAFETY: the mapping is never undone; it goes with the process.
    unsafe { vm.set_user_memory_region(region) }?;
    let mut vcpu = vm.create_vcpu(0)?;
    let mut segments = vcpu.get_sregs()?;
    segments.cs.base = 0;
    segments.cs.selector = 0;
    vcpu.set_sregs(&segments)?;
    let mut registers = vcpu.get_regs()?;
    registers.rip = CODE;
    registers.rflags = 2;
    vcpu.set_regs(&registers)?;
    match vcpu.run()? {
        VcpuExit::Hlt => loop {
            std::thread::park();
        },
        other => bail!("the guest stopped with {other:?}"),
    }
}
