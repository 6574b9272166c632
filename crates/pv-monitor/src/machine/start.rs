//! How a vCPU gets from the host's first instruction to the guest's.
// UNSAFETY: the state of this vCPU, which nobody else uses yet.
#![expect(unsafe_code)]

use core::sync::atomic::Ordering::SeqCst;

use cantle_pv_monitor::interface::{
    BootInfo, DIRECT_MAP, FLAG_ONE_ADDRESS_SPACE, HYPERCALL_PORT, MAGIC, MAX_VCPUS, VCPU_AREA_SIZE,
    VERSION, vcpu_area,
};
use cantle_pv_monitor::regs::Regs;
use cantle_pv_monitor::segments::{KERNEL_CS, KERNEL_SS, MONITOR_CS, STAR};
use cantle_pv_monitor::start::{FIXED_RFLAGS, Start};
use cantle_pv_monitor::vcpu::Vcpu;

use super::{area, boot, cpu, crash, entry, smp, tables};

/// CR0: PE, MP, ET, NE, WP, AM, PG.
const CR0: u64 = 0x8005_0033;
/// CR4: PAE, OSFXSR, OSXMMEXCPT. Not PGE: what the guest calls global means nothing.
const CR4: u64 = 1 << 5 | 1 << 9 | 1 << 10;
const CR4_FSGSBASE: u64 = 1 << 16;
const CR4_OSXSAVE: u64 = 1 << 18;
/// EFER: SCE, LME, LMA, NXE.
const EFER: u64 = 1 | 1 << 8 | 1 << 10 | 1 << 11;
/// What `syscall` clears of rflags: TF, IF, DF, IOPL, NT, RF, AC.
const FMASK: u64 = 1 << 8 | 1 << 9 | 1 << 10 | 3 << 12 | 1 << 14 | 1 << 16 | 1 << 18;
/// The local APIC is on, and has its registers as MSRs.
const X2APIC: u64 = 1 << 11 | 1 << 10;

/// vCPUs that have their `vcpu_info` in shared info, and its bytes.
const LEGACY_VCPUS: u32 = 32;
const VCPU_INFO: u64 = 64;

/// A vCPU begins. Interrupts are off, and it is on the monitor's own tables.
pub(crate) extern "C" fn start(id: u32) -> ! {
    let boot = boot();
    if let Err(why) = check(boot, id) {
        crash::setup(why);
    }
    let area = vcpu_area(id);
    if id == 0 {
        // SAFETY: the first vCPU, before all others and the guest.
        unsafe {
            tables::fill_shared(boot.vcpus);
            first_state(area, boot);
        }
    }
    // SAFETY: this vCPU's own.
    unsafe { tables::load(id) };
    if let Err(why) = set_up_processor(id) {
        crash::setup(why);
    }
    let Some(shared) = smp::own(area) else {
        crash::setup("no area");
    };
    let Some(apic) = cpu::read_msr(smp::APIC_ID).and_then(|apic| u32::try_from(apic).ok()) else {
        crash::setup("no x2APIC");
    };
    shared.apic.store(apic, SeqCst);
    if id == 0 {
        shared.initialised.store(true, SeqCst);
        shared.started.store(true, SeqCst);
        shared.up.store(true, SeqCst);
    }
    // SAFETY: `initialise` (or `first_state`) has filled both, and has no further use of them.
    let (vcpu, start) = unsafe { (&mut *area::vcpu(area), area::start(area).read()) };
    vcpu.id = id;
    vcpu.stack_top = area + VCPU_AREA_SIZE;
    vcpu.cr0 = CR0;
    vcpu.cr4 = cpu::read_cr4();
    vcpu.one_address_space = boot.flags & FLAG_ONE_ADDRESS_SPACE != 0;
    if vcpu.vcpu_info == 0 && id < LEGACY_VCPUS {
        vcpu.vcpu_info = DIRECT_MAP + (boot.shared_info << 12) + u64::from(id) * VCPU_INFO;
    }
    vcpu.set_masked(true);
    // Before the guest's translations are used: whoever changes one from now on asks.
    shared.active.store(true, SeqCst);
    crash::log(format_args!(
        "the monitor is up on vCPU {id}; the guest begins at {:#x}",
        start.regs.rip
    ));
    enter(area, vcpu, &start)
}

/// Whether the monitor can run on what the host has made.
fn check(boot: &BootInfo, id: u32) -> Result<(), &'static str> {
    if boot.magic != MAGIC || boot.version != VERSION {
        return Err("the host's boot information is of another version");
    }
    if boot.hypercall_port != u16::from(HYPERCALL_PORT) {
        return Err("the host's port is another one");
    }
    if boot.vcpus > MAX_VCPUS || id >= boot.vcpus {
        return Err("a vCPU that there is not");
    }
    if boot.upcall_vector < 0x20
        || boot.upcall_vector == 0x80
        || boot.upcall_vector >= smp::FIRST_VECTOR
    {
        return Err("the vector of upcalls is the monitor's");
    }
    Ok(())
}

/// The first vCPU's state, as a guest expects it.
///
/// # Safety
/// The area is this vCPU's own, and not in use.
unsafe fn first_state(area: u64, boot: &BootInfo) {
    // SAFETY: the caller's promise.
    unsafe {
        let state = area::vcpu(area);
        state.write(Vcpu::new(0));
        (*state).kernel_l4 = boot.start_l4;
        (*state).kernel_sp = boot.start_rsp;
        area::start(area).write(Start {
            regs: Regs {
                rip: boot.start_rip,
                rsp: boot.start_rsp,
                rsi: boot.start_rsi,
                rflags: FIXED_RFLAGS,
                ..Regs::default()
            },
            ..Start::default()
        });
    }
}

/// Control registers and MSRs that are the same all the time.
fn set_up_processor(id: u32) -> Result<(), &'static str> {
    cpu::write_cr0(CR0);
    let [_, _, features, _] = cpu::cpuid(1, 0);
    let [highest, ..] = cpu::cpuid(0, 0);
    let [_, extended, ..] = if highest >= 7 {
        cpu::cpuid(7, 0)
    } else {
        [0; 4]
    };
    let has_xsave = features & 1 << 26 != 0;
    let mut cr4 = CR4;
    if has_xsave {
        cr4 |= CR4_OSXSAVE;
    }
    if extended & 1 != 0 {
        cr4 |= CR4_FSGSBASE;
    }
    cpu::write_cr4(cr4);
    if has_xsave {
        // x87 only, as after a reset: the guest says what else it uses.
        cpu::write_xcr0(1).ok_or("xcr0 cannot be set")?;
    }
    let [syscall, syscall32, sysenter] = entry::system_call_entries(id);
    let settings = [
        (cpu::EFER, EFER),
        (cpu::STAR, STAR),
        (cpu::LSTAR, syscall),
        (cpu::CSTAR, syscall32),
        (cpu::FMASK, FMASK),
        (cpu::SYSENTER_CS, u64::from(MONITOR_CS)),
        (cpu::SYSENTER_ESP, vcpu_area(id) + VCPU_AREA_SIZE),
        (cpu::SYSENTER_EIP, sysenter),
        (cpu::FS_BASE, 0),
        (cpu::GS_BASE, 0),
        (cpu::KERNEL_GS_BASE, 0),
    ];
    for (msr, value) in settings {
        cpu::write_msr(msr, value).ok_or("an MSR for system calls cannot be written")?;
    }
    let base = cpu::read_msr(cpu::APIC_BASE).ok_or("no local APIC")?;
    cpu::write_msr(cpu::APIC_BASE, base | X2APIC)
        .and_then(|()| cpu::write_msr(smp::APIC_SPURIOUS, 0x100 | u64::from(smp::SPURIOUS_VECTOR)))
        .ok_or("the local APIC has no x2APIC mode")
}

/// Goes to the guest.
fn enter(area: u64, vcpu: &Vcpu, start: &Start) -> ! {
    if !boot().is_ram(vcpu.kernel_l4) {
        crash::setup("the guest's tables are not in its memory");
    }
    for slot in cantle_pv_monitor::interface::MONITOR_SLOTS {
        let own = area::table_entry(boot().monitor_l4, slot);
        let guest = area::table_entry(vcpu.kernel_l4, slot);
        // SAFETY: both are frames of the direct map.
        unsafe { guest.write_volatile(own.read_volatile()) };
    }
    cpu::write_cr3(vcpu.kernel_l4 << 12);
    for (segment, selector) in [
        (cpu::Segment::Ds, start.ds),
        (cpu::Segment::Es, start.es),
        (cpu::Segment::Fs, start.fs),
        (cpu::Segment::Gs, start.gs),
    ] {
        cpu::load_segment(segment, selector);
    }
    for (msr, base) in [
        (cpu::FS_BASE, start.fs_base),
        (cpu::GS_BASE, start.gs_base_kernel),
        (cpu::KERNEL_GS_BASE, start.gs_base_user),
    ] {
        // The addresses have been checked: it does not fault.
        let _ = cpu::write_msr(msr, base);
    }
    // SAFETY: the registers are at the end of the stack, whose last words `monitor_entry` has left free; all is set up.
    unsafe {
        area::regs(area).write(Regs {
            cs: u64::from(KERNEL_CS),
            ss: u64::from(KERNEL_SS),
            vector: Regs::IRET,
            ..start.regs
        });
        entry::first_leave(area)
    }
}
