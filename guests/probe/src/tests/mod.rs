//! The tests: their names, and which of them run.

mod block;
mod console;
mod evtchn;
mod grant;
mod machine;
mod network;
mod smp;
mod store;
mod time;
mod xen;

use crate::report::{Failure, Outcome};
use crate::{Probe, say};

/// A test: its name, the group it also runs under, whether `all` includes it, and what it does.
struct Test {
    name: &'static str,
    group: &'static str,
    in_all: bool,
    run: fn(&mut Probe) -> Outcome,
}

const fn test(name: &'static str, group: &'static str, run: fn(&mut Probe) -> Outcome) -> Test {
    Test {
        name,
        group,
        in_all: true,
        run,
    }
}

/// One that runs only where it is named: it needs something of the host's test, or more than Linux asks of a host.
const fn extra(name: &'static str, group: &'static str, run: fn(&mut Probe) -> Outcome) -> Test {
    Test {
        name,
        group,
        in_all: false,
        run,
    }
}

const TESTS: &[Test] = &[
    test("start-info", "machine", machine::start_info),
    test("memmap", "machine", machine::memmap),
    test("acpi", "machine", machine::acpi),
    test("exceptions", "machine", machine::exceptions),
    extra("modules", "machine", machine::modules),
    test("cpuid", "xen", xen::cpuid),
    test("version", "xen", xen::version),
    test("unknown-hypercall", "xen", xen::unknown_hypercall),
    test("bad-addresses", "xen", xen::bad_addresses),
    test("hvm-params", "xen", xen::hvm_params),
    test("memory-map", "xen", xen::memory_map),
    test("balloon", "xen", xen::balloon),
    extra("multicall", "xen", xen::multicall),
    test("console", "console", console::ring),
    test("console-io", "console", console::emergency),
    extra("console-input", "console-input", console::input),
    test("shared-info", "evtchn", evtchn::shared_info),
    test("loopback", "evtchn", evtchn::loopback),
    test("mask", "evtchn", evtchn::mask),
    test("close", "evtchn", evtchn::close),
    test("bad-ports", "evtchn", evtchn::bad_ports),
    test("ipi", "evtchn", evtchn::ipi),
    test("upcall", "evtchn", evtchn::upcall),
    test("port-status", "evtchn", evtchn::ports::status),
    test("port-errors", "evtchn", evtchn::ports::errors),
    test("port-limit", "evtchn", evtchn::ports::limit),
    test("pending-once", "evtchn", evtchn::ports::once),
    test("poll-ports", "evtchn", evtchn::ports::poll),
    test("bind-vcpu", "evtchn", evtchn::ports::bind_vcpu),
    test("pvclock", "timer", time::pvclock),
    test("wall-clock", "timer", time::wall_clock),
    test("singleshot", "timer", time::singleshot),
    test("block", "timer", time::block),
    test("poll", "timer", time::poll),
    test("runstate", "timer", time::runstate),
    test("grant-table", "grant", grant::table),
    test("grant-size", "grant", grant::calls::size),
    test("grant-version", "grant", grant::calls::version),
    test("grant-swap", "grant", grant::calls::swap),
    test("grant-cache-flush", "grant", grant::calls::cache_flush),
    test("grant-transfer", "grant", grant::calls::transfer),
    test("grant-copy", "grant", grant::copy::forms),
    test("copy-refusals", "grant", grant::copy::refusals),
    test("copy-batch", "grant", grant::copy::batch),
    test("grant-map", "grant", grant::map::own),
    test("map-refusals", "grant", grant::map::refusals),
    test("grant-backend", "grant", grant::map::backend),
    test("store-read", "xenstore", store::read),
    test("store-write", "xenstore", store::write),
    test("store-directory", "xenstore", store::directory),
    test("store-watch", "xenstore", store::watch),
    test("store-transaction", "xenstore", store::transaction),
    test("store-long", "xenstore", store::long),
    test("store-refused", "xenstore", store::refused),
    test("smp", "smp", smp::smp),
    test("blk", "blk", block::blk),
    test("net", "net", network::net),
    // From here on by the FIFO interface, whatever it was before; the last one goes back.
    test("fifo-refusals", "fifo", evtchn::fifo::refusals),
    test("fifo-carry", "fifo", evtchn::fifo::carry),
    test("fifo-control", "fifo", evtchn::fifo::control),
    test("fifo-order", "fifo", evtchn::queues::order),
    test("fifo-priority", "fifo", evtchn::queues::priority),
    test("fifo-mask", "fifo", evtchn::queues::mask),
    test("fifo-spoilt", "fifo", evtchn::queues::spoilt),
    test("fifo-timer", "fifo", evtchn::queues::timer),
    test("fifo-vcpus", "fifo", evtchn::queues::vcpus),
    test("fifo-many", "fifo", evtchn::fifo::many),
    extra("fifo-all", "fifo-all", evtchn::fifo::all),
    test("fifo-reset", "fifo", evtchn::fifo::reset),
];

/// Runs what `probe=` names; nothing where it is missing. The number of failures.
pub(crate) fn run(probe: &mut Probe) -> u32 {
    let (mut ok, mut failed) = (0_u32, 0_u32);
    for test in TESTS {
        let wanted = probe.start.option("probe").unwrap_or_default();
        let named = wanted
            .split(',')
            .any(|name| name == test.name || (name == test.group && test.in_all));
        let all = test.in_all && wanted.split(',').any(|name| name == "all");
        if !named && !all {
            continue;
        }
        match (test.run)(probe) {
            Ok(()) => {
                ok += 1;
                say!("probe: {}: ok", test.name);
            }
            // Without the device, a test that was asked for by name has failed.
            Err(Failure::Absent(what)) if named => {
                failed += 1;
                say!("probe: {}: FAILED: {what}", test.name);
            }
            Err(absent @ Failure::Absent(_)) => say!("probe: {}: {absent}", test.name),
            Err(why) => {
                failed += 1;
                say!("probe: {}: {why}", test.name);
            }
        }
    }
    let unknown = probe.start.option("probe").unwrap_or_default();
    for name in unknown.split(',').filter(|n| !n.is_empty() && *n != "all") {
        if !TESTS.iter().any(|t| t.name == name || t.group == name) {
            failed += 1;
            say!("probe: {name}: FAILED: there is no such test");
        }
    }
    say!("probe: done {ok} ok, {failed} failed");
    failed
}
