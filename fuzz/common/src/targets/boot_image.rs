//! Kernel files: parsed, their hypercall sites looked for, and loaded into a small guest's memory.

use cantle_vmm_core::boot::{self, BootConfig, Initrd, KernelImage, layout};
use vm_memory::{GuestAddress, GuestMemoryMmap};

/// The guest's memory in bytes.
const RAM: u64 = 32 << 20;

/// Runs one input.
///
/// # Panics
///
/// Where the guest's memory cannot be had, or an image loads without an entry in it.
pub fn run(data: &[u8]) {
    let Ok(kernel) = KernelImage::parse(data.to_vec()) else {
        return;
    };
    let _ = kernel.hypercall_sites();
    let ranges: Vec<_> = layout::ram_ranges(RAM)
        .into_iter()
        .filter_map(|(start, len)| Some((GuestAddress(start), usize::try_from(len).ok()?)))
        .collect();
    let Ok(memory) = GuestMemoryMmap::<()>::from_ranges(&ranges) else {
        return;
    };
    let config = BootConfig {
        kernel: &kernel,
        initrd: None::<Initrd<'_>>,
        cmdline: "console=hvc0",
        vcpus: 2,
        ram: RAM,
        io_apic: None,
        sleep: None,
    };
    if let Ok(entry) = boot::load(&memory, &config) {
        let end = layout::low_ram_end(RAM);
        assert!(u64::from(entry.start_info) < end, "start info beyond RAM");
        assert!(u64::from(entry.rip) < end, "an entry beyond RAM");
    }
}
