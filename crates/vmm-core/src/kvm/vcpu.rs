//! A vCPU: its thread, what brings it out of the guest, and how others reach it there.

// UNSAFETY: reads the exit's union, shares one byte of the run structure with kickers, and sends signals to threads.
#![expect(unsafe_code)]

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};

use cantle_abi::{PAGE_SIZE, VcpuId};
use kvm_bindings::{CpuId, Msrs, kvm_msr_entry, kvm_regs, kvm_segment};
use kvm_ioctls::{SyncReg, VcpuExit, VcpuFd, VmFd};
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

use super::vm::HYPERCALL_MSR;
use crate::boot::Entry;
use crate::counters::Exit;
use crate::domain::Domain;
use crate::error::SetupError;
use crate::hypercall::{self, Call, Caller, HYPERCALL_PORT, Paging};
use crate::outcome::End;
use crate::ports;
use crate::runstate::Meter;

/// KVM's clock MSR: an address, with bit 0 to switch it on.
const MSR_KVM_SYSTEM_TIME_NEW: u32 = 0x4b56_4d01;
/// The exit of an intercepted Xen hypercall.
const KVM_EXIT_XEN: u32 = 34;

/// How other threads reach a vCPU: a nudge out of the guest, and the one thing it can be asked to do.
#[derive(Default)]
pub(crate) struct VcpuHandle {
    thread: Mutex<Option<Running>>,
    /// Where its clock is to be kept; 0 for nothing new.
    clock: AtomicU64,
    has_run: AtomicBool,
}

/// The thread that a vCPU runs in, and `immediate_exit` of its run structure.
#[derive(Clone, Copy)]
struct Running {
    thread: libc::pthread_t,
    immediate_exit: *const AtomicU8,
}

// SAFETY: the pointer is only followed under the handle's lock, and taken out of it before what it points to is unmapped.
unsafe impl Send for Running {}

impl VcpuHandle {
    /// Brings the vCPU out of the guest, or keeps it from entering: its thread looks round before it enters again.
    pub(crate) fn kick(&self) {
        let running = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Running {
            thread,
            immediate_exit,
        }) = *running
        {
            // Pairs with the fence in `run`: the thread sees what it was asked for, or this byte.
            fence(Ordering::SeqCst);
            // SAFETY: `detach` removes this before the run structure goes, under the same lock.
            unsafe { (*immediate_exit).store(1, Ordering::SeqCst) };
            // SAFETY: the thread has not ended, by the same argument; the signal's handler does nothing.
            unsafe { libc::pthread_kill(thread, kick_signal()) };
        }
    }

    /// Asks for the clock to be kept at a guest-physical address. Before the vCPU runs guest code again, it is.
    pub(crate) fn set_clock(&self, gpa: u64) {
        self.clock.store(gpa, Ordering::SeqCst);
        self.kick();
    }

    /// Whether the vCPU has ever run guest code.
    pub(crate) fn has_run(&self) -> bool {
        self.has_run.load(Ordering::Relaxed)
    }

    fn attach(&self, fd: &mut VcpuFd) {
        let immediate_exit: *const AtomicU8 = (&raw mut fd.get_kvm_run().immediate_exit).cast();
        // SAFETY: asks for the calling thread only.
        let thread = unsafe { libc::pthread_self() };
        *self.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(Running {
            thread,
            immediate_exit,
        });
    }

    fn detach(&self) {
        *self.thread.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl fmt::Debug for VcpuHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VcpuHandle")
            .field("has_run", &self.has_run)
            .finish_non_exhaustive()
    }
}

fn kick_signal() -> libc::c_int {
    SIGRTMIN()
}

/// Lets the kick's signal interrupt system calls and do nothing else. Once a process is enough.
pub(crate) fn install_kick_handler() -> Result<(), SetupError> {
    extern "C" fn nothing(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
    register_signal_handler(kick_signal(), nothing).map_err(SetupError::host("the vCPU signal"))
}

/// Makes a vCPU.
pub(crate) fn create(vm: &VmFd, id: VcpuId) -> Result<VcpuFd, SetupError> {
    vm.create_vcpu(id.0.into())
        .map_err(SetupError::kvm("creating a vCPU"))
}

/// Sets a vCPU up: the first one (with an entry) for the kernel's PVH start, the others to wait to be started by it.
pub(crate) fn set_up(
    mut fd: VcpuFd,
    cpuid: &CpuId,
    entry: Option<&Entry>,
) -> Result<VcpuFd, SetupError> {
    fd.set_cpuid2(cpuid)
        .map_err(SetupError::kvm("KVM_SET_CPUID2"))?;
    if let Some(entry) = entry {
        enter_pvh(&fd, entry)?;
    }
    fd.set_sync_valid_reg(SyncReg::Register);
    fd.set_sync_valid_reg(SyncReg::SystemRegister);
    Ok(fd)
}

/// The state that the PVH start ABI asks for: flat 32-bit protected mode without paging, start info in rbx.
fn enter_pvh(fd: &VcpuFd, entry: &Entry) -> Result<(), SetupError> {
    let mut sregs = fd.get_sregs().map_err(SetupError::kvm("KVM_GET_SREGS"))?;
    let flat = |kind: u8| kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector: 0,
        type_: kind,
        present: 1,
        dpl: 0,
        db: 1,
        s: 1,
        l: 0,
        g: 1,
        avl: 0,
        unusable: 0,
        padding: 0,
    };
    // Execute and read, accessed; read and write, accessed.
    sregs.cs = kvm_segment {
        selector: 0x8,
        ..flat(0xb)
    };
    let data = kvm_segment {
        selector: 0x10,
        ..flat(0x3)
    };
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    // A busy 32-bit task segment of the least size.
    sregs.tr = kvm_segment {
        limit: 0x67,
        type_: 0xb,
        s: 0,
        g: 0,
        db: 0,
        selector: 0x18,
        ..flat(0)
    };
    // Protection on, extension type fixed to 1; paging off.
    sregs.cr0 = 0x11;
    sregs.cr4 = 0;
    sregs.efer = 0;
    fd.set_sregs(&sregs)
        .map_err(SetupError::kvm("KVM_SET_SREGS"))?;
    let regs = kvm_regs {
        rip: entry.rip.into(),
        rbx: entry.start_info.into(),
        rflags: 2,
        ..Default::default()
    };
    fd.set_regs(&regs).map_err(SetupError::kvm("KVM_SET_REGS"))
}

/// What an exit asks for that needs more than the exit itself.
enum After {
    Nothing,
    /// A hypercall by port; its registers are in the shared page.
    PortCall,
    /// A hypercall that the kernel intercepted; it stands in the exit.
    XenCall,
    /// The guest asks for a hypercall page there.
    HypercallPage(u64),
    End(End),
}

/// Runs a vCPU in the calling thread until the domain ends.
pub(crate) fn run(mut fd: VcpuFd, id: VcpuId, domain: &Arc<Domain>) {
    let Some(handle) = domain.handle(id) else {
        return;
    };
    handle.attach(&mut fd);
    let mut meter = Meter::start(id);
    loop {
        fd.set_kvm_immediate_exit(0);
        // Pairs with the fence in `kick`.
        fence(Ordering::SeqCst);
        if domain.has_ended() {
            break;
        }
        let clock = handle.clock.swap(0, Ordering::SeqCst);
        if clock != 0 {
            keep_clock(&fd, id, clock);
        }
        match enter(&mut fd, domain) {
            After::Nothing => {}
            After::PortCall => port_call(&mut fd, id, domain),
            After::XenCall => xen_call(&mut fd, id, domain),
            After::HypercallPage(gpa) => fill_hypercall_page(domain, gpa),
            After::End(end) => domain.end(with_registers(end, &fd, id)),
        }
        handle.has_run.store(true, Ordering::Relaxed);
        meter.refresh(&domain.runstates, &domain.ram, || domain.system_time_ns());
    }
    handle.detach();
    if let (Ok(regs), Ok(state)) = (fd.get_regs(), fd.get_mp_state()) {
        tracing::debug!(vcpu = %id, rip = format!("{:#x}", regs.rip), mp_state = state.mp_state, "vCPU stopped");
    }
}

/// Enters the guest once and serves the simple exits.
fn enter(fd: &mut VcpuFd, domain: &Domain) -> After {
    let count = |exit| domain.counters().exit(exit);
    match fd.run() {
        Ok(VcpuExit::IoOut(port, data)) if port == u16::from(HYPERCALL_PORT) && data.len() == 4 => {
            count(Exit::Hypercall);
            After::PortCall
        }
        Ok(VcpuExit::Unsupported(KVM_EXIT_XEN)) => {
            count(Exit::Hypercall);
            After::XenCall
        }
        Ok(VcpuExit::IoOut(port, data)) => {
            count(Exit::IoOut);
            if !ports::write(domain, port, data) {
                tracing::trace!(port, ?data, "written to a port where nobody is");
            }
            After::Nothing
        }
        Ok(VcpuExit::IoIn(port, data)) => {
            count(Exit::IoIn);
            ports::read(port, data);
            tracing::trace!(port, ?data, "read from a port");
            After::Nothing
        }
        // No hardware: writes go nowhere, reads float high.
        Ok(VcpuExit::MmioRead(_, data)) => {
            count(Exit::MmioRead);
            data.fill(0xff);
            After::Nothing
        }
        Ok(VcpuExit::MmioWrite(..)) => {
            count(Exit::MmioWrite);
            After::Nothing
        }
        Ok(VcpuExit::X86Wrmsr(msr)) => {
            count(Exit::MsrWrite);
            if msr.index == HYPERCALL_MSR {
                *msr.error = 0;
                After::HypercallPage(msr.data)
            } else {
                // The guest gets a general protection fault, as for an MSR that is not there.
                *msr.error = 1;
                After::Nothing
            }
        }
        Ok(VcpuExit::X86Rdmsr(msr)) => {
            count(Exit::MsrRead);
            *msr.error = 1;
            After::Nothing
        }
        Ok(VcpuExit::Shutdown) => After::End(End::Crash("triple fault".into())),
        Ok(VcpuExit::InternalError) => After::End(End::Crash(
            "KVM could not go on: an instruction or state that it cannot emulate".into(),
        )),
        Ok(VcpuExit::FailEntry(reason, _)) => After::End(End::Crash(format!(
            "KVM could not enter the guest: hardware reason {reason:#x}"
        ))),
        Ok(VcpuExit::Intr) => {
            count(Exit::Interrupted);
            After::Nothing
        }
        Ok(VcpuExit::Hlt | VcpuExit::IrqWindowOpen | VcpuExit::SetTpr | VcpuExit::IoapicEoi(_)) => {
            count(Exit::Other);
            After::Nothing
        }
        Ok(other) => After::End(End::Crash(format!(
            "an exit that has no meaning here: {other:?}"
        ))),
        Err(e) if matches!(e.errno(), libc::EINTR | libc::EAGAIN) => {
            count(Exit::Interrupted);
            After::Nothing
        }
        Err(e) => After::End(End::Crash(format!("KVM_RUN: {e}"))),
    }
}

/// Who calls, by the registers that the exit left in the shared page.
fn caller<'a>(fd: &VcpuFd, id: VcpuId, domain: &'a Domain) -> Caller<'a> {
    let sregs = fd.sync_regs().sregs;
    let paging = Paging {
        cr0: sregs.cr0,
        cr3: sregs.cr3,
        cr4: sregs.cr4,
        efer: sregs.efer,
    };
    Caller::new(domain, id, paging, sregs.ss.dpl)
}

fn port_call(fd: &mut VcpuFd, id: VcpuId, domain: &Domain) {
    let regs = fd.sync_regs().regs;
    let call = Call {
        nr: regs.rax,
        args: [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8],
    };
    let ret = hypercall::dispatch(&caller(fd, id, domain), &call);
    fd.sync_regs_mut().regs.rax = ret.cast_unsigned();
    fd.set_sync_dirty_reg(SyncReg::Register);
}

fn xen_call(fd: &mut VcpuFd, id: VcpuId, domain: &Domain) {
    let caller = caller(fd, id, domain);
    // SAFETY: the exit's reason is KVM_EXIT_XEN, for which the kernel has filled this member; its one kind is a hypercall.
    let hcall = unsafe { &mut fd.get_kvm_run().__bindgen_anon_1.xen.u.hcall };
    let [a, b, c, d, e, _] = hcall.params;
    let call = Call {
        nr: hcall.input,
        args: [a, b, c, d, e],
    };
    hcall.result = hypercall::dispatch(&caller, &call).cast_unsigned();
}

fn fill_hypercall_page(domain: &Domain, gpa: u64) {
    let page = gpa & !(PAGE_SIZE as u64 - 1);
    if domain
        .ram
        .write(page, &hypercall::page::contents())
        .is_err()
    {
        tracing::warn!(
            gpa,
            "the guest asked for a hypercall page outside of its RAM"
        );
    }
}

fn keep_clock(fd: &VcpuFd, id: VcpuId, gpa: u64) {
    let entry = kvm_msr_entry {
        index: MSR_KVM_SYSTEM_TIME_NEW,
        data: gpa | 1,
        ..Default::default()
    };
    let set = Msrs::from_entries(&[entry])
        .ok()
        .and_then(|msrs| fd.set_msrs(&msrs).ok());
    if set != Some(1) {
        tracing::warn!(vcpu = %id, gpa, "KVM does not keep this vCPU's clock");
    }
}

/// A crash's reason with the registers that tell where.
fn with_registers(end: End, fd: &VcpuFd, id: VcpuId) -> End {
    let End::Crash(why) = end else { return end };
    let (Ok(regs), Ok(sregs)) = (fd.get_regs(), fd.get_sregs()) else {
        return End::Crash(why);
    };
    End::Crash(format!(
        "{why} (vCPU {id}: rip {:#x} rsp {:#x} rflags {:#x} rax {:#x} rbx {:#x} cr0 {:#x} cr2 {:#x} cr3 {:#x} cr4 {:#x})",
        regs.rip,
        regs.rsp,
        regs.rflags,
        regs.rax,
        regs.rbx,
        sregs.cr0,
        sregs.cr2,
        sregs.cr3,
        sregs.cr4
    ))
}
