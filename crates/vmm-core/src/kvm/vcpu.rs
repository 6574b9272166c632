//! A vCPU: its thread, what brings it out of the guest, and how others reach it there.

// UNSAFETY: reads the exit's union, shares one byte of the run structure with kickers, and sends signals to threads.
#![expect(unsafe_code)]

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use cantle_abi::{PAGE_SIZE, VcpuId};
use kvm_bindings::{
    CpuId, KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_UNINITIALIZED, Msrs,
    kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_segment,
};
use kvm_ioctls::{SyncReg, VcpuExit, VcpuFd, VmFd};
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

use super::dump;
use super::pv::{self, MonitorEntry};
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
    /// The guest is about to start it anew.
    renewed: AtomicBool,
    has_run: AtomicBool,
    /// The monitor of a PV guest has asked for its start.
    begin: AtomicBool,
    /// It has been taken down since.
    down: AtomicBool,
    /// Those who keep it out of the guest.
    holders: AtomicU32,
    gate: Mutex<()>,
    let_go: Condvar,
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

    /// Asks KVM something about the vCPU, for which it waits while the vCPU runs: it is brought out of the guest and stays outside
    /// until that is done. Its own thread may ask, too.
    pub(crate) fn outside<R>(&self, ask: impl FnOnce() -> R) -> R {
        self.holders.fetch_add(1, Ordering::SeqCst);
        self.kick();
        let answer = ask();
        // Under the gate's lock, so that the thread either sees it or waits already.
        let gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        self.holders.fetch_sub(1, Ordering::SeqCst);
        drop(gate);
        self.let_go.notify_all();
        answer
    }

    /// Waits for those who keep the vCPU out of the guest.
    fn wait_outside(&self) {
        if self.holders.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        while self.holders.load(Ordering::SeqCst) != 0 {
            gate = self
                .let_go
                .wait(gate)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The guest prepares to start the vCPU anew, which makes KVM forget its clock. It learns the place again when the vCPU makes
    /// its first hypercall then: nothing tells of the reset itself.
    pub(crate) fn renew(&self) {
        self.renewed.store(true, Ordering::Relaxed);
    }

    /// Has a vCPU of a PV guest begin; false where it has already.
    pub(crate) fn begin(&self) -> bool {
        let first = !self.begin.swap(true, Ordering::SeqCst);
        self.kick();
        first
    }

    /// A PV guest has taken the vCPU down, or put it up again.
    pub(crate) fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::Relaxed);
    }

    /// Whether the vCPU has been taken down.
    pub(crate) fn is_down(&self) -> bool {
        self.down.load(Ordering::Relaxed)
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

/// Interrupts a thread's system calls as a kick does.
#[cfg(test)]
pub(crate) fn interrupt<T>(thread: &std::thread::JoinHandle<T>) {
    use std::os::unix::thread::JoinHandleExt;
    // SAFETY: a thread that is not joined keeps its number, and the handle says that it is not; the handler does nothing.
    unsafe { libc::pthread_kill(thread.as_pthread_t() as libc::pthread_t, kick_signal()) };
}

/// Makes a vCPU.
pub(crate) fn create(vm: &VmFd, id: VcpuId) -> Result<VcpuFd, SetupError> {
    vm.create_vcpu(id.0.into())
        .map_err(SetupError::kvm("creating a vCPU"))
}

/// How a guest's first vCPU begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// At the kernel's PVH entry.
    Pvh(Entry),
    /// In the monitor, as all others do too.
    Pv(MonitorEntry),
}

/// Sets a vCPU up: the first one for its start, the others to wait to be started by it.
pub(crate) fn set_up(
    mut fd: VcpuFd,
    cpuid: &CpuId,
    id: VcpuId,
    start: Option<&Start>,
) -> Result<VcpuFd, SetupError> {
    fd.set_cpuid2(cpuid)
        .map_err(SetupError::kvm("KVM_SET_CPUID2"))?;
    match start {
        // The others begin when the guest's monitor says so; how, they know already.
        Some(Start::Pv(entry)) => pv::enter(&fd, id, entry)?,
        Some(Start::Pvh(entry)) if id.0 == 0 => enter_pvh(&fd, entry)?,
        _ => {}
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
    /// The vCPU waited to be started and was reset, which comes before the start.
    Reset,
    /// A hypercall by port; its registers are in the shared page.
    PortCall,
    /// A hypercall that the kernel intercepted; it stands in the exit.
    XenCall,
    End(End),
}

/// A thread that runs a vCPU, known to the vCPU's handle until it stops to.
struct Attached<'a> {
    handle: &'a VcpuHandle,
    domain: &'a Domain,
}

impl<'a> Attached<'a> {
    fn new(handle: &'a VcpuHandle, domain: &'a Domain, fd: &mut VcpuFd) -> Self {
        handle.attach(fd);
        Self { handle, domain }
    }
}

impl Drop for Attached<'_> {
    fn drop(&mut self) {
        // In any case before the run structure goes, which kickers write to.
        self.handle.detach();
        if std::thread::panicking() {
            let why = "the host failed to run a vCPU".into();
            self.domain.end(End::Crash(why));
        }
    }
}

/// Whether a vCPU has been started by the guest: one that was only kicked while it waited for that has not.
fn has_started(fd: &VcpuFd) -> bool {
    fd.get_mp_state().map_or(true, |state| {
        !matches!(
            state.mp_state,
            KVM_MP_STATE_UNINITIALIZED | KVM_MP_STATE_INIT_RECEIVED
        )
    })
}

/// Runs a vCPU in the calling thread until the domain ends.
pub(crate) fn run(mut fd: VcpuFd, id: VcpuId, domain: &Arc<Domain>) {
    let Some(handle) = domain.handle(id) else {
        return;
    };
    let attached = Attached::new(handle, domain, &mut fd);
    let mut meter = Meter::start(id);
    let mut clock = 0;
    let mut begun = id.0 == 0;
    loop {
        fd.set_kvm_immediate_exit(0);
        // Pairs with the fence in `kick`.
        fence(Ordering::SeqCst);
        if domain.has_ended() {
            break;
        }
        handle.wait_outside();
        let asked = handle.clock.swap(0, Ordering::SeqCst);
        if asked != 0 {
            clock = asked;
            keep_clock(&fd, id, clock);
        }
        if !begun && handle.begin.load(Ordering::SeqCst) {
            begun = true;
            begin(&fd, id);
        }
        let after = enter(&mut fd, domain);
        if matches!(after, After::PortCall | After::XenCall)
            && handle.renewed.load(Ordering::Relaxed)
            && handle.renewed.swap(false, Ordering::Relaxed)
            && clock != 0
        {
            keep_clock(&fd, id, clock);
        }
        match after {
            After::Nothing => {}
            // The reset made KVM forget where the clock is.
            After::Reset if clock != 0 => keep_clock(&fd, id, clock),
            After::Reset => {}
            After::PortCall => port_call(&mut fd, id, domain),
            After::XenCall => xen_call(&mut fd, id, domain),
            After::End(end) => {
                if domain.pv.is_some() && matches!(end, End::Crash(_)) {
                    dump::to_console(&fd, id, domain);
                }
                domain.end(with_registers(end, &fd, id));
            }
        }
        if !handle.has_run() && has_started(&fd) {
            handle.has_run.store(true, Ordering::Relaxed);
        }
        meter.refresh(&domain.runstates, &domain.ram, || domain.system_time_ns());
    }
    drop(attached);
    if let (Ok(regs), Ok(state)) = (fd.get_regs(), fd.get_mp_state()) {
        tracing::debug!(vcpu = %id, rip = format!("{:#x}", regs.rip), mp_state = state.mp_state, "vCPU stopped");
    }
}

/// Lets a vCPU run that has its registers already.
fn begin(fd: &VcpuFd, id: VcpuId) {
    let runnable = kvm_mp_state {
        mp_state: KVM_MP_STATE_RUNNABLE,
    };
    if let Err(error) = fd.set_mp_state(runnable) {
        tracing::error!(vcpu = %id, %error, "a vCPU cannot be started");
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
            let done = msr.index == HYPERCALL_MSR && fill_hypercall_page(domain, msr.data);
            // Otherwise the guest gets a general protection fault, as for an MSR that is not there.
            *msr.error = u8::from(!done);
            After::Nothing
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
        Err(e) if e.errno() == libc::EINTR => {
            count(Exit::Interrupted);
            After::Nothing
        }
        Err(e) if e.errno() == libc::EAGAIN => {
            count(Exit::Interrupted);
            After::Reset
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

/// Writes the hypercall page at a guest-physical address; false where it cannot be: as in Xen, where it is not the beginning of
/// a page of memory (the low bits would name another page, and there is one only).
fn fill_hypercall_page(domain: &Domain, gpa: u64) -> bool {
    gpa.is_multiple_of(PAGE_SIZE as u64)
        && domain.ram.write(gpa, &hypercall::page::contents()).is_ok()
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

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use cantle_abi::xen::VcpuTimeInfo;

    use super::*;
    use crate::kvm::vm;
    use crate::test_utils::{Harness, MEMORY};

    #[test]
    fn kvm_a_vcpu_that_is_kicked_before_it_was_started_is_not_up() {
        let Some(h) = Harness::new() else { return };
        install_kick_handler().unwrap();
        let vm = vm::create(&vm::open().unwrap()).unwrap();
        let fd = create(&vm, VcpuId(1)).unwrap();
        let thread = std::thread::spawn({
            let domain = h.domain().clone();
            move || run(fd, VcpuId(1), &domain)
        });
        let until = Instant::now() + std::time::Duration::from_secs(10);
        let interrupted = || h.domain().counters().exits().contains_key("interrupted");
        while !interrupted() && Instant::now() < until {
            // Somewhere outside of memory, too: the clock is then nowhere.
            h.domain().handle(VcpuId(1)).unwrap().set_clock(MEMORY * 2);
            // A thread that gets signals without a pause gets nothing else.
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let up = h.domain().is_up(VcpuId(1));
        h.domain().end(End::Destroyed);
        thread.join().unwrap();
        assert!(interrupted() && !up);
    }

    /// `KVM_SIGNAL_MSI` with a delivery mode.
    fn send(vm: &VmFd, vcpu: u32, mode: u32, vector: u32) {
        let msi = kvm_bindings::kvm_msi {
            address_lo: 0xfee0_0000 | (vcpu << 12),
            data: (mode << 8) | (1 << 14) | vector,
            ..Default::default()
        };
        assert!(vm.signal_msi(msi).unwrap() > 0);
    }

    /// As Linux does it: the first vCPU says where the others' clocks are, then it starts them.
    #[test]
    fn kvm_a_clock_that_was_placed_before_the_vcpu_is_started_runs() {
        const INIT: u32 = 5;
        const START_UP: u32 = 6;
        let Some(h) = Harness::new() else { return };
        install_kick_handler().unwrap();
        let fd = create(h.domain().vm(), VcpuId(1)).unwrap();
        // KVM addresses APICs by a map that it draws when one of them changes.
        fd.set_lapic(&fd.get_lapic().unwrap()).unwrap();
        let fd = set_up(fd, &CpuId::new(0).unwrap(), VcpuId(1), None).unwrap();
        // out to the hypercalls' port; hlt, for ever.
        h.put(0x8_0000, &[0x66_u8, 0xe7, HYPERCALL_PORT, 0xf4, 0xeb, 0xfd]);
        let thread = std::thread::spawn({
            let domain = h.domain().clone();
            move || run(fd, VcpuId(1), &domain)
        });
        let seen = |what: &dyn Fn() -> bool| {
            let until = Instant::now() + std::time::Duration::from_secs(5);
            while !what() && Instant::now() < until {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            what()
        };
        let handle = h.domain().handle(VcpuId(1)).unwrap();
        handle.set_clock(0x80_0020);
        let taken = seen(&|| handle.clock.load(Ordering::SeqCst) == 0);
        let runs = [1, 2].map(|time| {
            if time > 1 {
                // As for a guest that sets the vector of a vCPU which it starts again.
                handle.renew();
            }
            h.put(0x80_0020, &[0_u8; 32]);
            send(h.domain().vm(), 1, INIT, 0);
            // What a kernel waits, too, so that the reset is over.
            std::thread::sleep(std::time::Duration::from_millis(10));
            send(h.domain().vm(), 1, START_UP, 0x80);
            let calls = || h.domain().counters().hypercalls();
            let called = seen(&|| calls().get("hypercall_0") == Some(&time));
            called && seen(&|| h.get::<VcpuTimeInfo>(0x80_0020).tsc_to_system_mul != 0)
        });
        h.domain().end(End::Destroyed);
        thread.join().unwrap();
        assert_eq!((taken, runs), (true, [true, true]));
    }

    #[test]
    fn kvm_a_hypercall_page_is_a_page_of_memory() {
        let Some(h) = Harness::new() else { return };
        assert!(fill_hypercall_page(h.domain(), 0x80_0000));
        assert_eq!(h.get::<[u8; 3]>(0x80_0000), [0xb8, 0, 0]);
        for nowhere in [MEMORY, 0x80_0001, u64::MAX, !0xfff] {
            assert!(!fill_hypercall_page(h.domain(), nowhere));
        }
    }
}
