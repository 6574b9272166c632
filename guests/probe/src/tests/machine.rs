//! What the machine is at its start.

use core::sync::atomic::Ordering;

use cantle_abi::start_info::{
    XEN_HVM_MEMMAP_TYPE_ACPI, XEN_HVM_MEMMAP_TYPE_RAM, XEN_HVM_MEMMAP_TYPE_RESERVED,
    XEN_HVM_START_MAGIC_VALUE,
};

use crate::acpi::Tables;
use crate::memory::Window;
use crate::report::Outcome;
use crate::{Probe, cpu, ensure, fail, interrupts, say};

pub(super) fn start_info(probe: &mut Probe) -> Outcome {
    let info = &probe.start.info;
    ensure!(
        info.magic == XEN_HVM_START_MAGIC_VALUE,
        "the magic is {:#x}",
        info.magic
    );
    ensure!(info.version >= 1, "the version is {}", info.version);
    ensure!(info.flags == 0, "the flags are {:#x}", info.flags);
    ensure!(
        info.reserved == 0,
        "the reserved word is {:#x}",
        info.reserved
    );
    ensure!(
        probe.start.option("probe").is_some(),
        "the command line is {:?}",
        probe.start.cmdline()
    );
    Ok(())
}

pub(super) fn memmap(probe: &mut Probe) -> Outcome {
    let entries = probe.start.info.memmap_entries;
    ensure!(entries > 0, "the memory map is empty");
    let (mut end, mut ram, mut program) = (0, 0, false);
    for entry in probe.start.memmap() {
        let kind = entry.kind;
        let known = [
            XEN_HVM_MEMMAP_TYPE_RAM,
            XEN_HVM_MEMMAP_TYPE_RESERVED,
            XEN_HVM_MEMMAP_TYPE_ACPI,
        ];
        ensure!(known.contains(&kind), "an entry has kind {kind}");
        ensure!(
            entry.addr >= end && entry.size > 0,
            "entry at {:#x} with {:#x} bytes, after {end:#x}",
            entry.addr,
            entry.size
        );
        end = entry.addr + entry.size;
        if kind == XEN_HVM_MEMMAP_TYPE_RAM {
            ram += entry.size;
            program |= entry.addr <= 2 << 20 && end >= 4 << 20;
        }
    }
    ensure!(program, "no RAM where the program is");
    say!("probe: memmap: {entries} entries, {} MiB", ram >> 20);
    match probe.start.number("expect-mib") {
        Some(mib) => ensure!(ram.div_ceil(1 << 20) == mib, "expected {mib} MiB"),
        None => ensure!(ram >= 4 << 20, "only {ram} bytes"),
    }
    Ok(())
}

pub(super) fn acpi(probe: &mut Probe) -> Outcome {
    let tables = Tables::find(probe.start.info.rsdp_paddr)?;
    let fadt = tables.table("FACP")?;
    // Byte 112: flags, bit 20: hardware-reduced.
    let reduced = fadt.word32(112) & 1 << 20 != 0;
    let (count, _) = tables.processors()?;
    ensure!(count >= 1, "the MADT has no processor");
    say!(
        "probe: acpi: {count} processors, FADT of {} bytes, hardware-reduced: {reduced}",
        fadt.len()
    );
    match probe.start.number("expect-vcpus") {
        Some(vcpus) => ensure!(count as u64 == vcpus, "expected {vcpus} processors"),
        None => ensure!(count <= 4096, "{count} processors"),
    }
    Ok(())
}

/// The exception that an undefined instruction is reaches its handler, which goes on after it.
pub(super) fn exceptions(_: &mut Probe) -> Outcome {
    cpu::undefined_instruction();
    let seen = interrupts::UNDEFINED_SEEN.load(Ordering::Relaxed);
    ensure!(seen == 1, "the handler ran {seen} times");
    Ok(())
}

/// The first module is there, and holds what the option `expect-module=` says at its start.
pub(super) fn modules(probe: &mut Probe) -> Outcome {
    let Some(module) = probe.start.modules().next() else {
        fail!("there is no module");
    };
    say!(
        "probe: modules: {} bytes at {:#x}",
        module.size,
        module.paddr
    );
    let expected = probe
        .start
        .option("expect-module")
        .unwrap_or_default()
        .as_bytes();
    let Some(window) = Window::outside_image(module.paddr, expected.len()) else {
        fail!("the module lies in the program or above 4 GiB");
    };
    for (i, expected) in expected.iter().enumerate() {
        let byte: u8 = window.read(i);
        ensure!(byte == *expected, "byte {i} is {byte:#x}");
    }
    Ok(())
}
