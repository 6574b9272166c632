//! The processor's tables: descriptors, task segments, interrupts.
// UNSAFETY: the tables are at fixed addresses, and the processor reads them.
#![expect(unsafe_code)]

use core::arch::asm;
use core::cell::UnsafeCell;

use cantle_pv_monitor::interface::{SHARED_GDT, VCPU_AREA_SIZE, WINDOW_SIZE, vcpu_area, window};
use cantle_pv_monitor::segments::{self, MONITOR_CS, MONITOR_SS, WORDS};

use super::{area, cpu, entry};

/// A gate: two words.
type Gate = [u64; 2];

/// The interrupt table. The first vCPU fills it before any other runs.
struct Table(UnsafeCell<[Gate; 256]>);
// SAFETY: written only before there is a second vCPU; the processors read it.
unsafe impl Sync for Table {}
static INTERRUPTS: Table = Table(UnsafeCell::new([[0; 2]; 256]));

/// A 64-bit interrupt gate: `stack` 0 for the ordinary one, `ring` from which `int` may use it.
const fn gate(address: u64, stack: u64, ring: u64) -> Gate {
    [
        (address & 0xffff)
            | ((MONITOR_CS as u64) << 16)
            | (stack << 32)
            | (0x8e << 40)
            | (ring << 45)
            | ((address >> 16 & 0xffff) << 48),
        address >> 32,
    ]
}

/// Fills what all vCPUs share.
///
/// # Safety
/// Once, by the first vCPU before it starts another or enters the guest.
pub(super) unsafe fn fill_shared(vcpus: u32) {
    // SAFETY: nobody else runs; the host has mapped the page, writable.
    let (gdt, interrupts) = unsafe {
        (
            &mut *area::pointer::<[u64; WORDS]>(SHARED_GDT),
            &mut *INTERRUPTS.0.get(),
        )
    };
    segments::fill(gdt, vcpus, |vcpu| area::task_address(vcpu_area(vcpu)));
    for (vector, slot) in (0..=u8::MAX).zip(interrupts) {
        let stack = match vector {
            1 => 1,
            2 => 2,
            8 => 3,
            _ => 0,
        };
        let ring = if matches!(vector, 3 | 4 | 0x80) { 3 } else { 0 };
        *slot = gate(entry::vector_entry(vector), stack, ring);
    }
}

/// What `lgdt` and `lidt` take.
#[repr(C, packed)]
struct Place {
    limit: u16,
    base: u64,
}

/// Loads the tables on a vCPU.
///
/// # Safety
/// Interrupts are off, the vCPU's area is its own, and [`fill_shared`] has been.
pub(super) unsafe fn load(vcpu: u32) {
    let start = vcpu_area(vcpu);
    // SAFETY: in the vCPU's own area; all of it is integers.
    unsafe {
        let mut task: area::Task = core::mem::zeroed();
        task.rsp = [start + VCPU_AREA_SIZE; 3];
        for (slot, end) in { area::IST_ENDS }.into_iter().enumerate() {
            let mut stacks = task.ist;
            if let Some(stack) = stacks.get_mut(slot) {
                *stack = start + end;
            }
            task.ist = stacks;
        }
        task.ports = 104;
        area::task(start).write(task);
    }
    let gdt = Place {
        limit: 0xefff,
        base: window(vcpu),
    };
    let idt = Place {
        limit: 0xfff,
        base: INTERRUPTS.0.get().expose_provenance() as u64,
    };
    // SAFETY: the tables hold what the selectors name; the task segment is loaded for the first time since it was filled.
    unsafe {
        asm!(
            "lgdt [{gdt}]",
            "lidt [{idt}]",
            "push {cs}",
            "lea {scratch}, [rip + 2f]",
            "push {scratch}",
            "retfq",
            "2:",
            "mov ss, {ss:e}",
            "ltr {task:x}",
            gdt = in(reg) &raw const gdt,
            idt = in(reg) &raw const idt,
            cs = in(reg) u64::from(MONITOR_CS),
            ss = in(reg) u32::from(MONITOR_SS),
            task = in(reg) segments::task(vcpu),
            scratch = out(reg) _,
        );
    }
    cpu::load_ldt(0);
}

/// Has the processor use the second half of a vCPU's window as its LDT, with so many descriptors; 0 for none.
pub(super) fn load_ldt(vcpu: u32, entries: u32) {
    if entries == 0 {
        cpu::load_ldt(0);
        return;
    }
    let base = window(vcpu) + WINDOW_SIZE / 2;
    let limit = (u64::from(entries.min(8192)) * 8 - 1) & 0xffff;
    let low = limit | (0x82 << 40) | ((base & 0xff_ffff) << 16) | ((base >> 24 & 0xff) << 56);
    let selector = segments::local_table(vcpu);
    let offset = u64::from(selector & 0xff8);
    // SAFETY: the place in the shared page is this vCPU's alone; the host has mapped the page, writable.
    unsafe {
        let slot = area::pointer::<[u64; 2]>(SHARED_GDT + offset);
        slot.write_volatile([low, base >> 32]);
    }
    cpu::load_ldt(selector);
}
