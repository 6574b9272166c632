//! The ways into the monitor, and what each leads to.
// UNSAFETY: assembly, and the registers and state that it leaves on the stack.
#![expect(unsafe_code)]

use core::arch::global_asm;
use core::sync::atomic::Ordering;

use cantle_abi::xen::__HYPERVISOR_iret;
use cantle_pv_monitor::interface::VCPU_AREA_SIZE;
use cantle_pv_monitor::regs::Regs;
use cantle_pv_monitor::vcpu::{Next, Vcpu};
use cantle_pv_monitor::{bounce, hypercall, iret, trap};

use super::hardware::Here;
use super::{area, cpu, crash, smp};

global_asm!(
    include_str!("entry.s"),
    include_str!("quick.s"),
    options(att_syntax)
);

unsafe extern "C" {
    static vector_entries: u8;
    static syscall_entries: u8;
    static syscall32_entries: u8;
    static sysenter_entry: u8;
    static leave_iretq: u8;
    static __fixups_start: [u64; 3];
    static __fixups_end: [u64; 3];
    fn leave(regs: u64) -> !;
    /// Copies `words` words of 8 bytes and then `bytes` bytes: 0, or 1 after a fault.
    pub(super) fn copy_or_fault(to: u64, from: u64, words: u64, bytes: u64) -> u64;
    pub(super) fn rdmsr_or_fault(msr: u32, there: *mut u32) -> u64;
    pub(super) fn wrmsr_or_fault(msr: u32, value: u64) -> u64;
    pub(super) fn xsetbv_or_fault(value: u64) -> u64;
    pub(super) fn load_ds_or_fault(selector: u32) -> u64;
    pub(super) fn load_es_or_fault(selector: u32) -> u64;
    pub(super) fn load_fs_or_fault(selector: u32) -> u64;
    pub(super) fn load_gs_or_fault(selector: u32) -> u64;
}

/// Where the entry of a vector is.
pub(super) fn vector_entry(vector: u8) -> u64 {
    address(&raw const vector_entries) + u64::from(vector) * 16
}

/// Where a vCPU's entries are: syscall, syscall in compatibility mode, sysenter.
pub(super) fn system_call_entries(vcpu: u32) -> [u64; 3] {
    let offset = u64::from(vcpu) * 32;
    [
        address(&raw const syscall_entries) + offset,
        address(&raw const syscall32_entries) + offset,
        address(&raw const sysenter_entry),
    ]
}

fn address(symbol: *const u8) -> u64 {
    symbol.expose_provenance() as u64
}

/// The last bit of what the entry code is told: by `sysretq`.
const SYSRET: u64 = 1;

/// Goes to the guest for the first time.
///
/// # Safety
/// The vCPU is set up, and nothing of this stack is needed any more but the registers at its end.
pub(super) unsafe fn first_leave(area: u64) -> ! {
    // SAFETY: the caller's promise. The registers were put there by the start.
    unsafe {
        let vcpu = &mut *area::vcpu(area);
        let regs = &mut *area::regs(area);
        let way = finish(&mut Here::new(area), vcpu, regs, Next::Resume);
        enter(way)
    }
}

/// # Safety
/// `way` is what [`finish`] returns.
unsafe fn enter(way: u64) -> ! {
    // `leave` takes it in rax.
    // SAFETY: the caller's promise.
    unsafe {
        core::arch::asm!("jmp {leave}", leave = sym leave, in("rax") way, options(noreturn));
    }
}

/// An exception or interrupt. Returns what the entry code is to go on with.
#[unsafe(no_mangle)]
extern "C" fn on_trap(at: *mut Regs) -> u64 {
    let area = area::of(at.expose_provenance() as u64);
    // SAFETY: the entry code has pushed them, and is done with them until this returns.
    let regs = unsafe { &mut *at };
    let vector = regs.vector.to_le_bytes()[0];
    if regs.cs & 3 == 0 {
        return in_ring_0(area, at);
    }
    // SAFETY: the guest ran, so that nothing of the monitor on this vCPU has it; other vCPUs use only what is shared.
    let vcpu = unsafe { &mut *area::vcpu(area) };
    let mut here = Here::new(area);
    let next = match vector {
        2 => Next::Resume,
        8 => Next::Crash("double fault"),
        18 => Next::Crash("machine check"),
        0x80 => trap::int80(vcpu, regs),
        32.. => {
            smp::interrupt(area, vector);
            Next::Resume
        }
        _ => trap::exception(&mut here, vcpu, regs),
    };
    finish(&mut here, vcpu, regs, next)
}

/// `syscall`, or `sysenter`.
#[unsafe(no_mangle)]
extern "C" fn on_syscall(at: *mut Regs) -> u64 {
    let area = area::of(at.expose_provenance() as u64);
    // SAFETY: as in `on_trap`; system calls come from the guest only.
    let (regs, vcpu) = unsafe { (&mut *at, &mut *area::vcpu(area)) };
    let mut here = Here::new(area);
    let next = if !vcpu.in_kernel {
        match trap::system_call(&mut here, vcpu, regs) {
            Ok(()) => Next::Resume,
            Err(error) => Next::Crash(error.why()),
        }
    } else if regs.vector != Regs::SYSCALL {
        Next::Crash("sysenter, or syscall in compatibility mode, in the guest's kernel")
    } else {
        regs.cs = u64::from(cantle_pv_monitor::segments::KERNEL_CS);
        regs.ss = u64::from(cantle_pv_monitor::segments::KERNEL_SS);
        // As the instruction leaves it; no call may be returned from by `sysretq`.
        regs.vector = Regs::IRET;
        if regs.rax == u64::from(__HYPERVISOR_iret) {
            iret::iret(&mut here, vcpu, regs)
        } else {
            hypercall::serve(&mut here, vcpu, regs)
        }
    };
    finish(&mut here, vcpu, regs, next)
}

/// What is to be done before the guest runs again. Returns what the entry code is to go on with.
fn finish(here: &mut Here, vcpu: &mut Vcpu, regs: &mut Regs, next: Next) -> u64 {
    let entered = match next {
        Next::Resume => Ok(()),
        Next::Raise(vector, error) => bounce::exception(here, vcpu, regs, vector, error),
        Next::Crash(why) => crash::guest(Some(vcpu), regs, why),
    };
    let shared = here.shared();
    // Another vCPU's `VCPUOP_down`; it sends an interrupt, so that it does not matter when exactly this looks.
    if !shared.up.load(Ordering::Relaxed) {
        smp::sleep_until_up(shared, vcpu.id);
    }
    if let Err(error) = entered.and_then(|()| bounce::pending_event(here, vcpu, regs)) {
        crash::guest(Some(vcpu), regs, error.why());
    }
    let at = core::ptr::from_mut(regs).expose_provenance() as u64;
    if iret::fits_sysret(vcpu, regs) {
        at | SYSRET
    } else {
        at
    }
}

/// An exception or interrupt in the monitor itself.
fn in_ring_0(area: u64, at: *mut Regs) -> u64 {
    // SAFETY: as in `on_trap`.
    let regs = unsafe { &mut *at };
    let same = at.expose_provenance() as u64;
    let [vector, ..] = regs.vector.to_le_bytes();
    match vector {
        // A breakpoint on the way in, or TF with sysenter: the guest's doing, and not for here.
        1 => {
            regs.rflags &= !(1 << 8);
            cpu::clear_debug_status();
            return same;
        }
        2 => return same,
        // Only while it sleeps.
        32.. => {
            smp::interrupt(area, vector);
            return same;
        }
        10..=14 | 17 => {}
        _ => crash::monitor(regs),
    }
    if let Some(target) = fixup(regs.rip) {
        regs.rip = target;
        return same;
    }
    if regs.rip != address(&raw const leave_iretq) {
        crash::monitor(regs);
    }
    // The guest's registers are the processor's again, but for the five that iretq was about to take: those are still at the end of the stack.
    // They go together to their place there, which overlaps `at`.
    let mut guest = *regs;
    let top = area + VCPU_AREA_SIZE;
    let [rip, cs, rflags, rsp, ss] =
        // SAFETY: the end of this vCPU's stack.
        unsafe { *area::pointer::<[u64; 5]>(top - 40) };
    guest = Regs {
        rip,
        cs,
        rflags,
        rsp,
        ss,
        ..guest
    };
    // SAFETY: this function's own frame is below `at`, and `regs` is not used any more. The guest's state is nobody's else.
    let (regs, vcpu) = unsafe {
        area::regs(area).write(guest);
        (&mut *area::regs(area), &mut *area::vcpu(area))
    };
    let mut here = Here::new(area);
    if let Err(error) = trap::failed_return(&mut here, vcpu, regs) {
        crash::guest(Some(vcpu), regs, error.why());
    }
    finish(&mut here, vcpu, regs, Next::Resume)
}

/// Where to go on after a fault at `rip`.
fn fixup(rip: u64) -> Option<u64> {
    let mut entry = &raw const __fixups_start;
    let end = &raw const __fixups_end;
    while entry < end {
        // SAFETY: the linker script's table, of entries of three words.
        let [from, to, target] = unsafe { *entry };
        if from <= rip && rip < to {
            return Some(target);
        }
        entry = entry.wrapping_add(1);
    }
    None
}
