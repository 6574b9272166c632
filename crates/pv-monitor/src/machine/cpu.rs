//! Single instructions.
// UNSAFETY: each is what the monitor is there for; what they change is the monitor's own or the guest's.
#![expect(unsafe_code)]

use core::arch::asm;

use super::entry;

/// MSRs.
pub(super) const APIC_BASE: u32 = 0x1b;
pub(super) const SYSENTER_CS: u32 = 0x174;
pub(super) const SYSENTER_ESP: u32 = 0x175;
pub(super) const SYSENTER_EIP: u32 = 0x176;
pub(super) const EFER: u32 = 0xc000_0080;
pub(super) const STAR: u32 = 0xc000_0081;
pub(super) const LSTAR: u32 = 0xc000_0082;
pub(super) const CSTAR: u32 = 0xc000_0083;
pub(super) const FMASK: u32 = 0xc000_0084;
pub(super) const FS_BASE: u32 = 0xc000_0100;
pub(super) const GS_BASE: u32 = 0xc000_0101;
pub(super) const KERNEL_GS_BASE: u32 = 0xc000_0102;

/// An instruction whose effects the compiler need not know of.
macro_rules! instruction {
    ($($code:tt)*) => {
        // SAFETY: the instruction changes the processor's state as its caller's documentation says, and no memory of the monitor's.
        unsafe { asm!($($code)*) }
    };
}

pub(super) fn read_cr2() -> u64 {
    let value;
    instruction!("mov {}, cr2", out(reg) value, options(nomem, nostack, preserves_flags));
    value
}

pub(super) fn read_cr3() -> u64 {
    let value;
    instruction!("mov {}, cr3", out(reg) value, options(nomem, nostack, preserves_flags));
    value
}

/// Loads tables, which must have the monitor's slots; flushes this processor's TLB.
pub(super) fn write_cr3(value: u64) {
    instruction!("mov cr3, {}", in(reg) value, options(nostack, preserves_flags));
}

pub(super) fn write_cr0(value: u64) {
    instruction!("mov cr0, {}", in(reg) value, options(nostack, preserves_flags));
}

pub(super) fn read_cr0() -> u64 {
    let value;
    instruction!("mov {}, cr0", out(reg) value, options(nomem, nostack, preserves_flags));
    value
}

pub(super) fn read_cr4() -> u64 {
    let value;
    instruction!("mov {}, cr4", out(reg) value, options(nomem, nostack, preserves_flags));
    value
}

pub(super) fn write_cr4(value: u64) {
    instruction!("mov cr4, {}", in(reg) value, options(nostack, preserves_flags));
}

/// Forgets the translation of one page on this processor.
pub(super) fn flush_page(address: u64) {
    instruction!("invlpg [{}]", in(reg) address, options(nostack, preserves_flags));
}

/// Writes the caches back.
pub(super) fn flush_caches() {
    instruction!("wbinvd", options(nostack, preserves_flags));
}

/// The guest's gs bases change places.
pub(super) fn swap_gs() {
    instruction!("swapgs", options(nomem, nostack, preserves_flags));
}

/// Sleeps until an interrupt comes; has it served, with interrupts off again when this returns.
pub(super) fn sleep() {
    instruction!("sti", "hlt", "cli", options(nostack));
}

/// `dr6` as after an exception that told of nothing.
const NO_DEBUG_STATUS: u64 = 0xffff_0ff0;

pub(super) fn clear_debug_status() {
    write_debug(6, NO_DEBUG_STATUS);
}

pub(super) fn read_debug_status() -> u64 {
    let value;
    instruction!("mov {}, dr6", out(reg) value, options(nomem, nostack, preserves_flags));
    value
}

/// Writes a debug register; nothing for 4, 5 and others that there are not.
pub(super) fn write_debug(register: u8, value: u64) {
    match register {
        0 => instruction!("mov dr0, {}", in(reg) value, options(nomem, nostack, preserves_flags)),
        1 => instruction!("mov dr1, {}", in(reg) value, options(nomem, nostack, preserves_flags)),
        2 => instruction!("mov dr2, {}", in(reg) value, options(nomem, nostack, preserves_flags)),
        3 => instruction!("mov dr3, {}", in(reg) value, options(nomem, nostack, preserves_flags)),
        6 => instruction!("mov dr6, {}", in(reg) value, options(nomem, nostack, preserves_flags)),
        7 => instruction!("mov dr7, {}", in(reg) value, options(nomem, nostack, preserves_flags)),
        _ => {}
    }
}

/// `cpuid`: eax, ebx, ecx, edx.
pub(super) fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    let found = core::arch::x86_64::__cpuid_count(leaf, subleaf);
    [found.eax, found.ebx, found.ecx, found.edx]
}

/// ds, es, fs, gs.
pub(super) fn data_segments() -> [u64; 4] {
    let (ds, es, fs, gs): (u32, u32, u32, u32);
    instruction!(
        "mov {0:e}, ds", "mov {1:e}, es", "mov {2:e}, fs", "mov {3:e}, gs",
        out(reg) ds, out(reg) es, out(reg) fs, out(reg) gs,
        options(nomem, nostack, preserves_flags)
    );
    [ds, es, fs, gs].map(u64::from)
}

/// Loads the table of local descriptors, 0 for none; its descriptor is the caller's care.
pub(super) fn load_ldt(selector: u16) {
    instruction!("lldt {0:x}", in(reg) selector, options(nostack, preserves_flags));
}

/// `rdmsr`; `None` where there is none such.
pub(super) fn read_msr(msr: u32) -> Option<u64> {
    let mut there = 0;
    // SAFETY: reading changes nothing, and a fault is caught.
    let value = unsafe { entry::rdmsr_or_fault(msr, &raw mut there) };
    (there != 0).then_some(value)
}

/// `wrmsr`; `None` where the processor refuses. What it does is the caller's care.
pub(super) fn write_msr(msr: u32, value: u64) -> Option<()> {
    // SAFETY: a fault is caught.
    (unsafe { entry::wrmsr_or_fault(msr, value) } == 0).then_some(())
}

/// `xsetbv` of register 0; `None` where the processor refuses.
pub(super) fn write_xcr0(value: u64) -> Option<()> {
    // SAFETY: a fault is caught; the monitor has no state in these registers.
    (unsafe { entry::xsetbv_or_fault(value) } == 0).then_some(())
}

/// The segment registers that may be loaded so.
#[derive(Clone, Copy, Debug)]
pub(super) enum Segment {
    Ds,
    Es,
    Fs,
    Gs,
}

/// Loads a data segment, or the null selector where that faults.
pub(super) fn load_segment(segment: Segment, selector: u16) {
    let load = match segment {
        Segment::Ds => entry::load_ds_or_fault,
        Segment::Es => entry::load_es_or_fault,
        Segment::Fs => entry::load_fs_or_fault,
        Segment::Gs => entry::load_gs_or_fault,
    };
    // SAFETY: the monitor uses none of them; a fault is caught, and the null selector can always be loaded.
    unsafe {
        if load(u32::from(selector)) != 0 {
            load(0);
        }
    }
}
