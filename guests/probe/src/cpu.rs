//! Single instructions, each behind a function that says what it does to the machine.

// UNSAFETY: instructions that the language has no words for.
#![expect(unsafe_code)]

use core::arch::asm;

/// CPUID, subleaf 0: EAX, EBX, ECX, EDX.
pub(crate) fn cpuid(leaf: u32) -> [u32; 4] {
    let r = core::arch::x86_64::__cpuid_count(leaf, 0);
    [r.eax, r.ebx, r.ecx, r.edx]
}

/// The time stamp counter.
pub(crate) fn tsc() -> u64 {
    // SAFETY: reads a counter.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// A byte to an I/O port.
pub(crate) fn out8(port: u16, value: u8) {
    // SAFETY: no port that the probe uses reaches memory.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack)) };
}

/// Lets a spinning CPU rest for a moment.
pub(crate) fn pause() {
    core::hint::spin_loop();
}

pub(crate) fn enable_interrupts() {
    // SAFETY: handlers are installed before this is first called, and touch only atomics.
    unsafe { asm!("sti", options(nomem, nostack)) };
}

pub(crate) fn disable_interrupts() {
    // SAFETY: only delays handlers.
    unsafe { asm!("cli", options(nomem, nostack)) };
}

/// Runs it with interrupts off; afterwards they are as they were.
pub(crate) fn without_interrupts<T>(run: impl FnOnce() -> T) -> T {
    let flags: u64;
    // SAFETY: only delays handlers; the stack is used and left as it was.
    unsafe { asm!("pushfq", "pop {0}", "cli", out(reg) flags) };
    let result = run();
    if flags & 1 << 9 != 0 {
        enable_interrupts();
    }
    result
}

/// Sleeps until the next interrupt, which is taken; the two instructions cannot be torn apart by one.
pub(crate) fn wait_for_interrupt() {
    // SAFETY: as in `enable_interrupts`.
    unsafe { asm!("sti", "hlt", options(nomem, nostack)) };
}

/// Sleeps for good.
pub(crate) fn stop() -> ! {
    loop {
        // SAFETY: sleeps.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}

/// Executes an undefined instruction; the handler goes on after it.
pub(crate) fn undefined_instruction() {
    // SAFETY: the exception's handler steps over the two bytes and saves all registers.
    unsafe { asm!("ud2") };
}

/// Faults with no handler for the fault, nor for the fault in that.
pub(crate) fn triple_fault() -> ! {
    let none = [0_u16; 5];
    // SAFETY: ends the machine's run.
    unsafe { asm!("lidt [{0}]", "ud2", in(reg) &raw const none, options(noreturn)) }
}

fn wrmsr(msr: u32, value: u64) {
    let [low, high] = [value & 0xffff_ffff, value >> 32];
    // SAFETY: private: the callers below write MSRs of the interrupt controller and the hypercall page only.
    unsafe { asm!("wrmsr", in("ecx") msr, in("rax") low, in("rdx") high, options(nostack)) };
}

fn rdmsr(msr: u32) -> u64 {
    let (low, high): (u64, u64);
    // SAFETY: reading has no effect; the callers below read MSRs that exist.
    unsafe {
        asm!("rdmsr", in("ecx") msr, out("rax") low, out("rdx") high, options(nomem, nostack))
    };
    high << 32 | low & 0xffff_ffff
}

/// Asks the host to write its hypercall page to a page of the pool.
pub(crate) fn set_hypercall_page(msr: u32, page: &crate::memory::Window) {
    wrmsr(msr, page.addr());
}

/// Switches the local APIC on, in x2APIC mode.
pub(crate) fn enable_x2apic() {
    const APIC_BASE: u32 = 0x1b;
    wrmsr(APIC_BASE, rdmsr(APIC_BASE) | 0xc00);
}

/// Reads an x2APIC register by its number (the MMIO offset / 16).
pub(crate) fn x2apic_read(register: u8) -> u64 {
    rdmsr(0x800 + u32::from(register))
}

/// Writes an x2APIC register by its number.
pub(crate) fn x2apic_write(register: u8, value: u64) {
    wrmsr(0x800 + u32::from(register), value);
}
