//! The probe: a PVH guest that tries each part of a host's Xen interface and prints what it found.
//!
//! It starts in 32-bit mode with nothing set up, goes to 64-bit mode, and runs the tests that its command line names
//! (`probe=all`, or `probe=console,evtchn,…`). Each prints one line, `probe: NAME: ok` or `probe: NAME: FAILED: why`; the last line counts them.
//! Then it ends as told (`end=poweroff`). `guests/README.md` lists all options.
//!
//! It uses plain integer instructions only, so that it runs in KVM's instruction emulator too.
#![no_std]
#![no_main]

mod acpi;
mod apic;
mod bench;
mod block;
mod boot;
mod clock;
mod console;
mod cpu;
mod device;
mod end;
mod events;
mod grants;
mod hypercall;
mod interrupts;
mod memory;
mod network;
mod params;
mod report;
mod smp;
mod start;
mod tests;
mod text;
mod xenstore;

use report::Outcome;
use start::Start;

/// What the tests share.
struct Probe {
    start: Start,
    store: Option<xenstore::Store>,
}

impl Probe {
    /// The connection to xenstore, made at its first use.
    fn store(&mut self) -> Outcome<&mut xenstore::Store> {
        if self.store.is_none() {
            self.store = Some(xenstore::Store::connect()?);
        }
        match &mut self.store {
            Some(store) => Ok(store),
            None => fail!("no xenstore"),
        }
    }
}

/// Runs the probe on the first vCPU, in 64-bit mode.
fn run(start_info: u32) -> ! {
    let Some(start) = Start::read(start_info) else {
        say!("probe: start info at {start_info:#x} is impossible");
        cpu::stop();
    };
    bench::before_anything(&start);
    interrupts::install();
    interrupts::load();
    let found = hypercall::detect();
    let transport = if !found {
        Ok("none")
    } else if start.option("hypercall") == Some("direct") {
        hypercall::use_instruction();
        Ok("direct")
    } else {
        hypercall::use_page().map(|()| "page")
    };
    match transport {
        Ok(transport) => say!("probe: hello, hypercalls: {transport}"),
        Err(why) => say!("probe: hypercalls: {why}"),
    }
    if let Err(why) = console::connect()
        && found
    {
        say!("probe: console: {why}");
    }
    if start.option("evtchn") == Some("fifo") {
        events::want_fifo();
    }
    let mut probe = Probe { start, store: None };
    bench::run(&mut probe);
    let failed = tests::run(&mut probe);
    end::end(&probe.start, failed);
}

#[panic_handler]
fn on_panic(info: &core::panic::PanicInfo<'_>) -> ! {
    cpu::disable_interrupts();
    say!("probe: panic: {info}");
    end::crash();
}
