//! The interrupt table and what its entries do.

// UNSAFETY: the table is written in place and loaded; its handlers are called by the CPU.
#![expect(unsafe_code)]

use core::arch::{asm, global_asm};
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU32, Ordering};

use crate::{apic, events};

/// The vector by which the host says that an event is pending.
pub(crate) const UPCALL_VECTOR: u8 = 0xf3;
/// The APIC's own: never to be seen in earnest, and without end of interrupt.
pub(crate) const SPURIOUS_VECTOR: u8 = 0xff;

const EXCEPTIONS: usize = 32;
const UNDEFINED: u64 = 6;

/// Upcalls taken.
pub(crate) static UPCALLS: AtomicU32 = AtomicU32::new(0);
/// Undefined instructions stepped over.
pub(crate) static UNDEFINED_SEEN: AtomicU32 = AtomicU32::new(0);

global_asm!(include_str!("interrupts.s"), options(att_syntax));

unsafe extern "C" {
    static exception_entries: u8;
    static upcall_entry: u8;
    static spurious_entry: u8;
}

#[repr(C, align(16))]
struct Table(UnsafeCell<[[u64; 2]; 256]>);

// SAFETY: written once, by the first vCPU before it starts others.
unsafe impl Sync for Table {}

static TABLE: Table = Table(UnsafeCell::new([[0; 2]; 256]));

/// What the CPU and the entry code push.
#[repr(C)]
struct Frame {
    registers: [u64; 9],
    vector: u64,
    error: u64,
    rip: u64,
    cs: u64,
    flags: u64,
    rsp: u64,
    ss: u64,
}

/// An interrupt gate to `handler` in the 64-bit code segment.
fn gate(handler: usize) -> [u64; 2] {
    let handler = handler as u64;
    let low = handler & 0xffff | 0x08 << 16 | 0x8e00 << 32 | (handler >> 16 & 0xffff) << 48;
    [low, handler >> 32]
}

/// Fills the table. Called once, before [`load`].
pub(crate) fn install() {
    let entries = &raw const exception_entries as usize;
    let table = TABLE.0.get();
    // SAFETY: no other vCPU runs yet, and no interrupt is taken.
    let table = unsafe { &mut *table };
    for (vector, slot) in table.iter_mut().take(EXCEPTIONS).enumerate() {
        *slot = gate(entries + vector * 16);
    }
    table[usize::from(UPCALL_VECTOR)] = gate(&raw const upcall_entry as usize);
    table[usize::from(SPURIOUS_VECTOR)] = gate(&raw const spurious_entry as usize);
}

/// Has this vCPU use the table.
pub(crate) fn load() {
    let mut pointer = [0_u8; 10];
    pointer[..2].copy_from_slice(&4095_u16.to_le_bytes());
    pointer[2..].copy_from_slice(&(TABLE.0.get() as u64).to_le_bytes());
    // SAFETY: `install` has filled the table.
    unsafe { asm!("lidt [{0}]", in(reg) &raw const pointer, options(readonly, nostack)) };
}

#[unsafe(no_mangle)]
extern "C" fn on_exception(frame: &mut Frame) {
    if frame.vector == UNDEFINED && UNDEFINED_SEEN.load(Ordering::Relaxed) == 0 {
        UNDEFINED_SEEN.store(1, Ordering::Relaxed);
        frame.rip += 2;
        return;
    }
    let address: u64;
    // SAFETY: reads the address of the last page fault.
    unsafe { asm!("mov {0}, cr2", out(reg) address, options(nomem, nostack)) };
    panic!(
        "exception {} (error {:#x}) at {:#x}, rsp {:#x}, cr2 {address:#x}",
        frame.vector, frame.error, frame.rip, frame.rsp
    );
}

#[unsafe(no_mangle)]
extern "C" fn on_upcall() {
    UPCALLS.fetch_add(1, Ordering::Relaxed);
    events::collect();
    apic::end_of_interrupt();
}
