//! The monitor of PV guests as an ELF image, built for `x86_64-unknown-none` together with the host.
//!
//! The build script has cargo build `cantle-pv-monitor` a second time, for the machine without an operating system, in a folder of its own.
//! What the image expects of whoever loads it is in `cantle_pv_monitor::interface`.
#![no_std]

/// The ELF file: 64-bit, at fixed addresses (its segments' virtual addresses, from `interface::MONITOR_BASE` on), stripped.
pub static MONITOR: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/monitor.elf"));

#[cfg(test)]
mod tests;
