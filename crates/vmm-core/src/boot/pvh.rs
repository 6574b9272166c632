//! Writing everything that a PVH guest finds at its start.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use cantle_abi::PAGE_SIZE;
use cantle_abi::start_info::{
    HvmMemmapTableEntry, HvmModlistEntry, HvmStartInfo, XEN_HVM_START_MAGIC_VALUE,
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};
use zerocopy::IntoBytes;

use super::acpi::{self, AcpiConfig, IoApicConfig, SleepPorts};
use super::image::{ImageError, KernelImage};
use super::layout;
use super::rewrite::RewriteError;

const PAGE: u64 = PAGE_SIZE as u64;

/// Why a guest's memory could not be made ready.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BootError {
    /// The kernel is none that can be started.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The kernel's hypercalls cannot be rewritten.
    #[error(transparent)]
    Rewrite(#[from] RewriteError),
    /// It cannot be started as a PV guest.
    #[error(transparent)]
    Pv(#[from] super::pv::PvError),
    /// Too little RAM.
    #[error(
        "the {what} does not fit: it needs memory up to {} KiB, and the guest's ends at {} KiB",
        .end.div_ceil(1024), .limit / 1024
    )]
    Memory {
        /// What does not fit.
        what: &'static str,
        /// Where it would end, in bytes from guest-physical 0.
        end: u64,
        /// Where it has to end, in bytes.
        limit: u64,
    },
    /// The command line is too long, or has a 0 in it.
    #[error(
        "command line of {length} bytes: this kernel takes {limit} at the most, and none that is 0"
    )]
    CommandLine {
        /// Its bytes.
        length: usize,
        /// The most that the kernel takes.
        limit: usize,
    },
    /// There is no such number of vCPUs.
    #[error("{0} vCPUs: 1 to {max} are possible", max = acpi::MAX_PROCESSORS)]
    Vcpus(u32),
    /// The initrd cannot be read.
    #[error("initrd {}: {source}", path.display())]
    Initrd {
        /// Its path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The memory that was given has not the ranges of [`layout::ram_ranges`].
    #[error("writing {what} to guest memory")]
    Write {
        /// What was written.
        what: &'static str,
        /// Why it could not be.
        source: GuestMemoryError,
    },
}

/// The initrd, or whatever the guest takes as its first module.
#[derive(Clone, Copy, Debug)]
pub enum Initrd<'a> {
    /// A file, read straight into guest memory.
    File(&'a Path),
    /// Bytes.
    Bytes(&'a [u8]),
}

/// What a guest is started with.
#[derive(Clone, Copy, Debug)]
pub struct BootConfig<'a> {
    /// The kernel.
    pub kernel: &'a KernelImage,
    /// The initrd.
    pub initrd: Option<Initrd<'a>>,
    /// The command line.
    pub cmdline: &'a str,
    /// vCPUs, for ACPI.
    pub vcpus: u32,
    /// RAM in bytes, as in [`layout::ram_ranges`].
    pub ram: u64,
    /// The I/O APIC that ACPI tells of, if any.
    pub io_apic: Option<IoApicConfig>,
    /// Where the guest powers off by ACPI, if it can.
    pub sleep: Option<SleepPorts>,
}

impl<'a> BootConfig<'a> {
    /// A guest of one vCPU without initrd, command line and I/O APIC, which powers off by [`SleepPorts::DEFAULT`].
    #[must_use]
    pub fn new(kernel: &'a KernelImage, ram: u64) -> Self {
        Self {
            kernel,
            initrd: None,
            cmdline: "",
            vcpus: 1,
            ram,
            io_apic: None,
            sleep: Some(SleepPorts::DEFAULT),
        }
    }
}

/// How the first vCPU starts: 32-bit protected mode without paging, flat segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its instruction pointer.
    pub rip: u32,
    /// Guest-physical address of the start info, which goes to ebx.
    pub start_info: u32,
}

/// Writes kernel, initrd, command line, ACPI tables and start info into `memory`, which must be zero and have the ranges
/// of [`layout::ram_ranges`].
///
/// # Errors
///
/// [`BootError`]; what has been written until then stays.
pub fn load(memory: &GuestMemoryMmap<()>, config: &BootConfig<'_>) -> Result<Entry, BootError> {
    if !(1..=acpi::MAX_PROCESSORS).contains(&config.vcpus) {
        return Err(BootError::Vcpus(config.vcpus));
    }
    let limit = config.kernel.cmdline_limit();
    if config.cmdline.len() > limit || config.cmdline.contains('\0') {
        return Err(BootError::CommandLine {
            length: config.cmdline.len(),
            limit,
        });
    }
    let rip = config.kernel.pvh_entry()?;
    let acpi_start = layout::acpi_start(config.ram);
    let kernel_end = load_kernel(memory, config.kernel, acpi_start)?;
    let write = |what: &'static str, at: u64, bytes: &[u8]| {
        memory
            .write_slice(bytes, GuestAddress(at))
            .map_err(|source| BootError::Write { what, source })
    };

    let tables = AcpiConfig {
        vcpus: config.vcpus,
        io_apic: config.io_apic,
        sleep: config.sleep,
    };
    let tables = acpi::build(&tables, acpi_start);
    check_end(
        "ACPI tables",
        acpi_start + tables.len() as u64,
        layout::low_ram_end(config.ram),
    )?;
    write("ACPI tables", acpi_start, &tables)?;

    let parameters = Parameters::place(kernel_end.next_multiple_of(PAGE), config);
    check_end("start info", parameters.end, acpi_start)?;
    let module = load_initrd(memory, config.initrd, parameters.end, acpi_start)?;
    write(
        "start info",
        parameters.start,
        &parameters.emit(config, acpi_start, module),
    )?;
    // Below the ACPI tables, which are below 3 GiB.
    let start_info = u32::try_from(parameters.start).unwrap_or(u32::MAX);
    Ok(Entry { rip, start_info })
}

fn check_end(what: &'static str, end: u64, limit: u64) -> Result<(), BootError> {
    if end > limit {
        Err(BootError::Memory { what, end, limit })
    } else {
        Ok(())
    }
}

/// Writes the segments; returns where the last of them ends.
fn load_kernel(
    memory: &GuestMemoryMmap<()>,
    kernel: &KernelImage,
    limit: u64,
) -> Result<u64, BootError> {
    const WHAT: &str = "kernel";
    let segments = kernel.elf().segments();
    let end = segments
        .iter()
        .map(super::elf::Segment::end)
        .max()
        .unwrap_or_default();
    check_end(WHAT, end, limit)?;
    for segment in segments {
        let bytes = kernel.bytes().get(segment.file.clone()).unwrap_or_default();
        memory
            .write_slice(bytes, GuestAddress(segment.paddr))
            .map_err(|source| BootError::Write { what: WHAT, source })?;
    }
    Ok(end)
}

/// Writes the initrd as high as it can be below `limit`, but not below `start`; returns where it lies and its size.
fn load_initrd(
    memory: &GuestMemoryMmap<()>,
    initrd: Option<Initrd<'_>>,
    start: u64,
    limit: u64,
) -> Result<Option<(u64, u64)>, BootError> {
    const WHAT: &str = "initrd";
    let place = |size: u64| {
        let at = limit.saturating_sub(size) & !(PAGE - 1);
        if size > limit || at < start {
            return Err(BootError::Memory {
                what: WHAT,
                end: start.saturating_add(size).next_multiple_of(PAGE),
                limit,
            });
        }
        Ok(at)
    };
    match initrd {
        None => Ok(None),
        Some(Initrd::Bytes(bytes)) => {
            let at = place(bytes.len() as u64)?;
            memory
                .write_slice(bytes, GuestAddress(at))
                .map_err(|source| BootError::Write { what: WHAT, source })?;
            Ok(Some((at, bytes.len() as u64)))
        }
        Some(Initrd::File(path)) => {
            let failed = |source| BootError::Initrd {
                path: path.to_owned(),
                source,
            };
            let mut file = File::open(path).map_err(failed)?;
            let metadata = file.metadata().map_err(failed)?;
            if !metadata.is_file() {
                return Err(failed(io::Error::other("not a regular file")));
            }
            let at = place(metadata.len())?;
            let size = usize::try_from(metadata.len())
                .map_err(|_| failed(io::ErrorKind::FileTooLarge.into()))?;
            // A file that has become shorter meanwhile is an error; one that has grown is cut.
            memory
                .read_exact_volatile_from(GuestAddress(at), &mut file, size)
                .map_err(|e| failed(io::Error::other(e)))?;
            Ok(Some((at, metadata.len())))
        }
    }
}

/// Start info and what it points to, one behind the other in whole pages: start info, module, memory map, command line.
struct Parameters {
    start: u64,
    module: u64,
    memory_map: u64,
    cmdline: u64,
    end: u64,
    map: Vec<HvmMemmapTableEntry>,
}

impl Parameters {
    fn place(start: u64, config: &BootConfig<'_>) -> Self {
        let map = layout::memory_map(config.ram);
        let module = (start + size_of::<HvmStartInfo>() as u64).next_multiple_of(8);
        let memory_map = module + size_of::<HvmModlistEntry>() as u64;
        let cmdline = memory_map + size_of_val(map.as_slice()) as u64;
        let end = (cmdline + config.cmdline.len() as u64 + 1).next_multiple_of(PAGE);
        Self {
            start,
            module,
            memory_map,
            cmdline,
            end,
            map,
        }
    }

    /// The bytes from `start` on.
    fn emit(&self, config: &BootConfig<'_>, rsdp: u64, module: Option<(u64, u64)>) -> Vec<u8> {
        let (paddr, size) = module.unwrap_or_default();
        let info = HvmStartInfo {
            magic: XEN_HVM_START_MAGIC_VALUE,
            version: 1,
            flags: 0,
            nr_modules: module.is_some().into(),
            modlist_paddr: if module.is_some() { self.module } else { 0 },
            cmdline_paddr: self.cmdline,
            rsdp_paddr: rsdp,
            memmap_paddr: self.memory_map,
            memmap_entries: u32::try_from(self.map.len()).unwrap_or_default(),
            reserved: 0,
        };
        let module = HvmModlistEntry {
            paddr,
            size,
            cmdline_paddr: 0,
            reserved: 0,
        };
        // Start info is 56 bytes, so that each part begins where `place` has it without padding.
        [
            info.as_bytes(),
            module.as_bytes(),
            self.map.as_bytes(),
            config.cmdline.as_bytes(),
            &[0],
        ]
        .concat()
    }
}

#[cfg(test)]
mod tests;
