//! Kernel files: parsed, their hypercall sites looked for, and loaded into a small guest's memory.

use cantle_vmm_core::boot::{self, BootConfig, Entry, Initrd, KernelImage, layout};
use vm_memory::{GuestAddress, GuestMemoryMmap};

/// The guest's memory in bytes.
const RAM: u64 = 32 << 20;

/// Runs one input.
///
/// # Panics
///
/// Where an image loads without an entry in the guest's memory.
pub fn run(data: &[u8]) {
    if let Some(entry) = load(data) {
        let end = layout::low_ram_end(RAM);
        assert!(u64::from(entry.start_info) < end, "start info beyond RAM");
        assert!(u64::from(entry.rip) < end, "an entry beyond RAM");
    }
}

/// Where the image would start, if it can be loaded.
fn load(data: &[u8]) -> Option<Entry> {
    let mut kernel = KernelImage::parse(data.to_vec()).ok()?;
    // Most images have no such sites, and stay as they are.
    let _ = kernel.rewrite_hypercalls(0x40);
    let ranges: Vec<_> = layout::ram_ranges(RAM)
        .into_iter()
        .filter_map(|(start, len)| Some((GuestAddress(start), usize::try_from(len).ok()?)))
        .collect();
    let memory = GuestMemoryMmap::<()>::from_ranges(&ranges).ok()?;
    let config = BootConfig {
        kernel: &kernel,
        initrd: None::<Initrd<'_>>,
        cmdline: "console=hvc0",
        vcpus: 2,
        ram: RAM,
        io_apic: None,
        sleep: None,
    };
    boot::load(&memory, &config).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    #[test]
    fn every_seed_is_a_kernel_that_loads() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus-seeds/boot_image");
        let mut seeds = 0;
        for entry in fs::read_dir(folder).expect("the seeds") {
            let path = entry.expect("a folder's entry").path();
            let bytes = fs::read(&path).expect("a seed can be read");
            let kernel = KernelImage::parse(bytes.clone()).map_err(|error| error.to_string());
            assert!(kernel.is_ok(), "{}: {kernel:?}", path.display());
            assert!(load(&bytes).is_some(), "{}", path.display());
            seeds += 1;
        }
        assert!(seeds >= 8, "one of each kind of packing");
    }
}
