//! The other vCPUs: started through the interrupt controller, as a kernel starts them.

// UNSAFETY: the trampoline's code and the stacks are found by their symbols.
#![expect(unsafe_code)]

use core::sync::atomic::{AtomicU32, Ordering};

use cantle_abi::cpuid::XEN_HVM_CPUID_VCPU_ID_PRESENT;
use cantle_abi::start_info::XEN_HVM_MEMMAP_TYPE_RAM;

use crate::memory::Window;
use crate::report::Outcome;
use crate::start::Start;
use crate::{apic, clock, cpu, events, fail, hypercall, interrupts};

/// vCPUs that are up, besides the first.
static UP: AtomicU32 = AtomicU32::new(0);
/// vCPUs that could not join, besides the first.
static BROKEN: AtomicU32 = AtomicU32::new(0);

unsafe extern "C" {
    static trampoline_start: u8;
    static trampoline_end: u8;
    static ap_stacks: u8;
}

/// A stack's size, and how many there are for other vCPUs than the first.
const STACK: usize = 0x2000;
const STACKS: usize = 16;

/// The number of the vCPU on each stack; that of the first vCPU comes first.
static NUMBERS: [AtomicU32; STACKS + 1] = [const { AtomicU32::new(0) }; STACKS + 1];

/// Which stack this is: 0 for the first vCPU's. Asking the CPU would cost an exit each time.
fn stack() -> usize {
    let here = 0_u8;
    (&raw const here as usize)
        .checked_sub(&raw const ap_stacks as usize)
        .map_or(0, |above| above / STACK + 1)
}

/// This vCPU's number.
pub(crate) fn current() -> u32 {
    NUMBERS
        .get(stack())
        .map_or(0, |number| number.load(Ordering::Relaxed))
}

/// This vCPU's number as the host has it.
fn ask() -> u32 {
    let [a, b, ..] = hypercall::leaf(4);
    if a & XEN_HVM_CPUID_VCPU_ID_PRESENT != 0 {
        b
    } else {
        cpu::cpuid(1)[1] >> 24
    }
}

/// How many others have come up.
pub(crate) fn up() -> u32 {
    UP.load(Ordering::Acquire)
}

/// How many others came up, but could not register with the host.
pub(crate) fn broken() -> u32 {
    BROKEN.load(Ordering::Acquire)
}

/// A page below 1 MiB that is RAM and holds nothing that the host put there.
fn low_page(start: &Start) -> Option<u8> {
    let taken = |page: u64| {
        let (from, to) = (page * 4096, page * 4096 + 4096);
        let info = &start.info;
        let mut kept = [
            start.addr,
            info.cmdline_paddr,
            info.memmap_paddr,
            info.rsdp_paddr,
        ]
        .into_iter()
        .chain([info.modlist_paddr]);
        kept.any(|addr| (from..to).contains(&addr))
            || start
                .modules()
                .any(|m| m.paddr < to && m.paddr + m.size > from)
    };
    let ram = |page: u64| {
        start.memmap().any(|entry| {
            entry.kind == XEN_HVM_MEMMAP_TYPE_RAM
                && entry.addr <= page * 4096
                && entry.addr + entry.size >= page * 4096 + 4096
        })
    };
    (1..0x9f_u8)
        .rev()
        .find(|page| ram(u64::from(*page)) && !taken(u64::from(*page)))
}

/// Starts the vCPU with this APIC number; false where it does not come up within `ms` milliseconds.
pub(crate) fn start(start: &Start, apic_id: u32, ms: u64) -> Outcome<bool> {
    let Some(page) = low_page(start) else {
        fail!("no RAM below 1 MiB to start a vCPU in");
    };
    let Some(window) = Window::outside_image(u64::from(page) * 4096, 4096) else {
        fail!("page {page} is not to be had");
    };
    let from = &raw const trampoline_start;
    let len = &raw const trampoline_end as usize - from as usize;
    // SAFETY: the symbols enclose constant code in the image.
    let code = unsafe { core::slice::from_raw_parts(from, len) };
    window.write_bytes(0, code);

    let before = up() + broken();
    apic::send_init(apic_id);
    clock::wait(10, || false);
    apic::send_startup(apic_id, page);
    if !clock::wait(50, || up() + broken() > before) {
        apic::send_startup(apic_id, page);
    }
    Ok(clock::wait(ms, || up() + broken() > before))
}

/// Where another vCPU begins, in 64-bit mode: it registers itself and then sleeps between events.
#[unsafe(no_mangle)]
extern "C" fn ap_main() -> ! {
    interrupts::load();
    let vcpu = ask();
    if let Some(number) = NUMBERS.get(stack()) {
        number.store(vcpu, Ordering::Relaxed);
    }
    let joined = events::join(vcpu).and_then(|()| events::enable_upcalls(vcpu));
    let list = if joined.is_ok() { &UP } else { &BROKEN };
    list.fetch_add(1, Ordering::Release);
    loop {
        cpu::wait_for_interrupt();
    }
}
