//! Registers that `rdmsr` and `wrmsr` name: which of them a guest may see and change.

use crate::hardware::Machine;
use crate::hypercall::address_is_canonical;
use crate::hypercall_page;

/// The time-stamp counter.
pub(super) const TSC: u32 = 0x10;
/// What `rdtscp` says besides.
pub(super) const TSC_AUX: u32 = 0xc000_0103;
/// The bases of fs and gs, and of gs after `swapgs`.
pub(super) const FS_BASE: u32 = 0xc000_0100;
pub(super) const GS_BASE: u32 = 0xc000_0101;
pub(super) const KERNEL_GS_BASE: u32 = 0xc000_0102;

const APIC_BASE: u32 = 0x1b;
/// APIC_BASE's bit of the x2APIC, which is the monitor's.
const X2APIC: u64 = 1 << 10;
const SPEC_CTRL: u32 = 0x48;
const PRED_CMD: u32 = 0x49;
const MICROCODE: u32 = 0x8b;
const MTRR_CAP: u32 = 0xfe;
const ARCH_CAPABILITIES: u32 = 0x10a;
const FLUSH_CMD: u32 = 0x10b;
const SYSENTER: core::ops::RangeInclusive<u32> = 0x174..=0x176;
const MISC_ENABLE: u32 = 0x1a0;
const PAT: u32 = 0x277;
/// Xen's: where the hypercall page is to be. Its number is what leaf 0x40000002 says.
const HYPERCALL_PAGE: u32 = 0x4000_0000;
const EFER: u32 = 0xc000_0080;
/// STAR, LSTAR, CSTAR, FMASK.
const SYSCALL: core::ops::RangeInclusive<u32> = 0xc000_0081..=0xc000_0084;
/// AMD's: HWCR, DE_CFG, VIRT_SPEC_CTRL.
const HWCR: u32 = 0xc001_0015;
const DE_CFG: u32 = 0xc001_1029;
const VIRT_SPEC_CTRL: u32 = 0xc001_011f;

/// What `rdmsr` reads; `None` is `#GP`.
pub(super) fn read<M: Machine>(machine: &mut M, msr: u32) -> Option<u64> {
    match msr {
        TSC | TSC_AUX | FS_BASE | GS_BASE | KERNEL_GS_BASE | SPEC_CTRL | MICROCODE
        | ARCH_CAPABILITIES | MISC_ENABLE | PAT | EFER | HWCR | DE_CFG | VIRT_SPEC_CTRL => {
            machine.read_msr(msr)
        }
        APIC_BASE => machine.read_msr(msr).map(|base| base & !X2APIC),
        // System calls are told by hypercall, and there are no MTRRs.
        MTRR_CAP => Some(0),
        _ if SYSENTER.contains(&msr) || SYSCALL.contains(&msr) => Some(0),
        _ => None,
    }
}

/// `wrmsr`; `None` is `#GP`.
pub(super) fn write<M: Machine>(machine: &mut M, msr: u32, value: u64) -> Option<()> {
    match msr {
        FS_BASE | GS_BASE | KERNEL_GS_BASE if address_is_canonical(value) => {
            machine.write_msr(msr, value)
        }
        TSC_AUX | SPEC_CTRL | PRED_CMD | FLUSH_CMD | VIRT_SPEC_CTRL => {
            machine.write_msr(msr, value)
        }
        // Not the guest's to change, and kernels go on where nothing happens.
        TSC | MICROCODE | MISC_ENABLE | EFER | HWCR | DE_CFG => Some(()),
        APIC_BASE | PAT => (read(machine, msr)? == value).then_some(()),
        HYPERCALL_PAGE => write_hypercall_page(machine, value),
        _ if SYSENTER.contains(&msr) || SYSCALL.contains(&msr) => Some(()),
        _ => None,
    }
}

/// Fills a frame of the guest's with the hypercall page. There is one: its number, in the lowest 12 bits, is 0.
fn write_hypercall_page<M: Machine>(machine: &mut M, value: u64) -> Option<()> {
    static PAGE: [u8; 4096] = hypercall_page::contents();
    if value & 0xfff != 0 || !machine.boot().is_ram(value >> 12) {
        return None;
    }
    let (words, _) = PAGE.as_chunks::<8>();
    for (at, word) in (value..).step_by(8).zip(words) {
        machine.store(at, u64::from_le_bytes(*word));
    }
    Some(())
}
