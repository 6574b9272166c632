//! How the probe calls its host.

// UNSAFETY: calls code that the host wrote, with addresses of arguments.
#![expect(unsafe_code)]

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use cantle_abi::cpuid::{
    XEN_CPUID_FIRST_LEAF, XEN_CPUID_SIGNATURE_EBX, XEN_CPUID_SIGNATURE_ECX,
    XEN_CPUID_SIGNATURE_EDX, XEN_HVM_CPUID_DOMID_PRESENT,
};
use cantle_abi::{DomId, Errno, xen};
use zerocopy::{FromBytes, IntoBytes};

use crate::cpu;
use crate::report::Outcome;
use crate::{fail, memory};

// Two calls as a kernel that chooses by vendor has them: one instruction and a return each, 16 bytes apart. A host that cannot take the
// instructions finds the pair by this shape and puts its own in their place. The shape occurs once in the image.
global_asm!(
    ".section .text.hypercall, \"ax\", @progbits",
    ".balign 32",
    ".globl hypercall_amd",
    "hypercall_amd:",
    ".byte 0x0f, 0x01, 0xd9, 0xc3",
    ".balign 16, 0xcc",
    ".globl hypercall_intel",
    "hypercall_intel:",
    ".byte 0x0f, 0x01, 0xc1, 0xc3",
    ".balign 16, 0xcc",
);

unsafe extern "C" {
    static hypercall_amd: u8;
    static hypercall_intel: u8;
}

/// The first of Xen's CPUID leaves; 0 where there are none.
static LEAVES: AtomicU32 = AtomicU32::new(0);
/// The address to call.
static ENTRY: AtomicUsize = AtomicUsize::new(0);
/// What to add to it for each call's number: an entry of the page, or nothing.
static STRIDE: AtomicUsize = AtomicUsize::new(0);

/// Looks for Xen's leaves.
pub(crate) fn detect() -> bool {
    for base in (XEN_CPUID_FIRST_LEAF..=XEN_CPUID_FIRST_LEAF + 0x1_0000).step_by(0x100) {
        let [_, b, c, d] = cpu::cpuid(base);
        if (b, c, d)
            == (
                XEN_CPUID_SIGNATURE_EBX,
                XEN_CPUID_SIGNATURE_ECX,
                XEN_CPUID_SIGNATURE_EDX,
            )
        {
            LEAVES.store(base, Ordering::Relaxed);
            return true;
        }
        // The leaves of most machines are not there at all: give up early, since each costs an exit.
        if base >= XEN_CPUID_FIRST_LEAF + 0x400 {
            return false;
        }
    }
    false
}

/// One of Xen's leaves, counted from its first.
pub(crate) fn leaf(number: u32) -> [u32; 4] {
    cpu::cpuid(LEAVES.load(Ordering::Relaxed) + number)
}

/// This domain's number; `DOMID_SELF` where the host does not tell it.
pub(crate) fn domid() -> DomId {
    let [features, _, domid, _] = leaf(4);
    match u16::try_from(domid) {
        Ok(domid) if features & XEN_HVM_CPUID_DOMID_PRESENT != 0 => DomId(domid),
        _ => DomId::SELF,
    }
}

/// Calls go through the hypercall page from now on.
pub(crate) fn use_page() -> Outcome {
    let [count, msr, ..] = leaf(2);
    if count == 0 {
        fail!("CPUID offers no hypercall page");
    }
    let page = memory::page()?;
    cpu::set_hypercall_page(msr, &page);
    let Ok(address) = usize::try_from(page.addr()) else {
        fail!("the hypercall page is too far up");
    };
    ENTRY.store(address, Ordering::Relaxed);
    STRIDE.store(32, Ordering::Relaxed);
    Ok(())
}

/// Calls use the CPU's own instruction from now on, or what the host put in its place.
pub(crate) fn use_instruction() {
    let [_, b, _, _] = cpu::cpuid(0);
    let amd = b == u32::from_le_bytes(*b"Auth") || b == u32::from_le_bytes(*b"Hygo");
    let site = if amd {
        &raw const hypercall_amd as usize
    } else {
        &raw const hypercall_intel as usize
    };
    ENTRY.store(site, Ordering::Relaxed);
    STRIDE.store(0, Ordering::Relaxed);
}

/// Makes a call with up to five arguments.
///
/// # Safety
///
/// Arguments that are addresses name memory that the call may use as it will.
unsafe fn call(number: u32, args: [u64; 5]) -> Result<u64, Errno> {
    let entry = ENTRY.load(Ordering::Relaxed);
    if entry == 0 {
        return Err(Errno::ENOSYS);
    }
    let entry = entry + STRIDE.load(Ordering::Relaxed) * number as usize;
    let result: i64;
    // SAFETY: the entry was set up by one of the two functions above; both conventions leave alone what is not named here.
    unsafe {
        asm!(
            "call {entry}",
            entry = in(reg) entry,
            inlateout("rax") u64::from(number) => result,
            inlateout("rdi") args[0] => _,
            inlateout("rsi") args[1] => _,
            inlateout("rdx") args[2] => _,
            inlateout("r10") args[3] => _,
            inlateout("r8") args[4] => _,
            lateout("r9") _,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    // Errors are -4095 to -1, as in every interface of this kind.
    match i32::try_from(result) {
        Ok(negative @ -4095..=-1) => Err(Errno(-negative)),
        _ => Ok(result.cast_unsigned()),
    }
}

/// `number(command, &argument)`: the shape of most hypercalls. Addresses within the argument name windows' memory.
pub(crate) fn op<T: FromBytes + IntoBytes>(
    number: u32,
    command: u32,
    argument: &mut T,
) -> Result<u64, Errno> {
    let argument = (&raw mut *argument) as u64;
    // SAFETY: the argument is borrowed for the call, and may hold any bytes afterwards.
    unsafe { call(number, [u64::from(command), argument, 0, 0, 0]) }
}

/// `number(command, &arguments, count)`: an array of arguments.
pub(crate) fn op_many<T: FromBytes + IntoBytes>(
    number: u32,
    command: u32,
    arguments: &mut [T],
) -> Result<u64, Errno> {
    let args = [
        u64::from(command),
        arguments.as_mut_ptr() as u64,
        arguments.len() as u64,
        0,
        0,
    ];
    // SAFETY: as in `op`; the host is told how many there are.
    unsafe { call(number, args) }
}

/// `vcpu_op(command, vcpu, &argument)`.
pub(crate) fn vcpu_op<T: FromBytes + IntoBytes>(
    command: u32,
    vcpu: u32,
    argument: &mut T,
) -> Result<u64, Errno> {
    let argument = (&raw mut *argument) as u64;
    let args = [u64::from(command), u64::from(vcpu), argument, 0, 0];
    // SAFETY: as in `op`.
    unsafe { call(xen::__HYPERVISOR_vcpu_op, args) }
}

/// `number(command, address, more)` with an address where there is nothing for the host to read or write.
pub(crate) fn op_nowhere(number: u32, command: u32, address: u64, more: u64) -> Result<u64, Errno> {
    assert!(
        address >= 0xc000_0000,
        "{address:#x} may be somewhere in RAM"
    );
    // SAFETY: the probe's objects are all below that, so that a host that does write changes none.
    unsafe { call(number, [u64::from(command), address, more, 0, 0]) }
}

/// A call with numbers only, none of which is an address to the host.
pub(crate) fn numbers(number: u32, args: [u64; 3]) -> Result<u64, Errno> {
    // SAFETY: by this function's contract, which its few callers in `tests` and `main` keep: no address is passed.
    unsafe { call(number, [args[0], args[1], args[2], 0, 0]) }
}

/// `console_io(write, …)`: text to the host's own console.
pub(crate) fn console_io_write(text: &[u8]) -> Result<u64, Errno> {
    let args = [
        u64::from(xen::CONSOLEIO_write),
        text.len() as u64,
        text.as_ptr() as u64,
        0,
        0,
    ];
    // SAFETY: the host reads the text.
    unsafe { call(xen::__HYPERVISOR_console_io, args) }
}

/// `multicall(entries, count)`, with the entries in a window.
pub(crate) fn multicall(
    number: u32,
    entries: &crate::memory::Window,
    count: u64,
) -> Result<u64, Errno> {
    // SAFETY: a window's memory is the host's to change.
    unsafe { call(number, [entries.addr(), count, 0, 0, 0]) }
}
