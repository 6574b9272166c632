//! What a kernel asks for in its notes.

use cantle_abi::elfnote::{
    XEN_ELFNOTE_ENTRY, XEN_ELFNOTE_FEATURES, XEN_ELFNOTE_GUEST_OS, XEN_ELFNOTE_HV_START_LOW,
    XEN_ELFNOTE_HYPERCALL_PAGE, XEN_ELFNOTE_INIT_P2M, XEN_ELFNOTE_LOADER,
    XEN_ELFNOTE_MOD_START_PFN, XEN_ELFNOTE_PADDR_OFFSET, XEN_ELFNOTE_VIRT_BASE,
    XEN_ELFNOTE_XEN_VERSION,
};
use cantle_pv_monitor::interface::{HYPERVISOR_SLOTS, M2P_BASE};

use crate::boot::elf::{Elf, Note};
use crate::boot::image::KernelImage;

/// Features that a kernel may not do without, and that it finds here: by their names in `features.h`.
const FEATURES: [&str; 6] = [
    "writable_page_tables",
    "writable_descriptor_tables",
    "auto_translated_physmap",
    "pae_pgdir_above_4gb",
    "mmu_pt_update_preserve_ad",
    "gnttab_map_avail_bits",
];
/// Those of them that are not there, though their names are known.
const NOT_OFFERED: [&str; 2] = ["auto_translated_physmap", "writable_descriptor_tables"];

/// Why a kernel cannot be started as a PV guest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PvError {
    /// It has no notes that say so.
    #[error("the kernel is not a PV kernel: it has neither Xen's notes nor a __xen_guest section")]
    NotPv,
    /// Only 64-bit ones are served.
    #[error("the kernel is a 32-bit PV kernel: only 64-bit ones can be started")]
    Narrow,
    /// A note, or one of the old section's settings, has a value that cannot be.
    #[error("the kernel's Xen note {note} is {value:#x}: {problem}")]
    Note {
        /// Which.
        note: &'static str,
        /// Its value.
        value: u64,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A note that is a text says what is not served.
    #[error("the kernel's Xen note {note} is {value:?}, which is not served")]
    Text {
        /// Which.
        note: &'static str,
        /// What it says.
        value: String,
    },
    /// Something does not fit into the guest's memory.
    #[error(
        "the {what} does not fit: it needs memory up to {} KiB, and the guest's ends at {} KiB",
        .end.div_ceil(1024), .limit / 1024
    )]
    Memory {
        /// What.
        what: &'static str,
        /// Where it would end, in bytes of pseudo-physical memory.
        end: u64,
        /// Where it has to end.
        limit: u64,
    },
    /// Something would lie where something else is already, or where no address can be.
    #[error("the {what} at {start:#x} of {bytes:#x} bytes {problem}")]
    Address {
        /// What.
        what: &'static str,
        /// Its first virtual address.
        start: u64,
        /// Its bytes.
        bytes: u64,
        /// What is wrong.
        problem: &'static str,
    },
}

/// What a PV kernel asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PvKernel {
    /// Virtual address of its first instruction.
    pub entry: u64,
    /// Virtual address of pseudo-physical address 0.
    pub virt_base: u64,
    /// What the file's physical addresses are too large by.
    pub paddr_offset: u64,
    /// Virtual address of the page that gets the hypercalls' stubs, where it has one.
    pub hypercall_page: Option<u64>,
    /// Virtual address of the first P2M, where it is not to be with everything else.
    pub init_p2m: Option<u64>,
    /// The initial RAM disk need not be mapped.
    pub unmapped_initrd: bool,
    /// Its operating system's name.
    pub guest_os: String,
}

impl PvKernel {
    /// Reads the notes of a kernel.
    ///
    /// # Errors
    ///
    /// [`PvError`] where it is no PV kernel, or asks for what is not served.
    pub fn of(image: &KernelImage) -> Result<Self, PvError> {
        let elf = image.elf();
        let legacy;
        let mut notes = Notes(elf.notes());
        if !notes.any_of_pv() {
            legacy = super::legacy::notes(elf.xen_guest().unwrap_or_default());
            notes = Notes(&legacy);
        }
        if !notes.any_of_pv() {
            return Err(PvError::NotPv);
        }
        if !elf.is_64_bit() {
            return Err(PvError::Narrow);
        }
        let kernel = Self {
            entry: notes
                .number("ENTRY", XEN_ELFNOTE_ENTRY)?
                .unwrap_or(elf.entry()),
            virt_base: notes
                .number("VIRT_BASE", XEN_ELFNOTE_VIRT_BASE)?
                .unwrap_or(0),
            paddr_offset: notes
                .number("PADDR_OFFSET", XEN_ELFNOTE_PADDR_OFFSET)?
                .unwrap_or(0),
            hypercall_page: notes.number("HYPERCALL_PAGE", XEN_ELFNOTE_HYPERCALL_PAGE)?,
            init_p2m: notes.number("INIT_P2M", XEN_ELFNOTE_INIT_P2M)?,
            unmapped_initrd: notes
                .number("MOD_START_PFN", XEN_ELFNOTE_MOD_START_PFN)?
                .is_some_and(|value| value != 0),
            guest_os: notes
                .text(XEN_ELFNOTE_GUEST_OS)
                .unwrap_or_default()
                .to_owned(),
        };
        notes.check()?;
        kernel.check(elf)?;
        Ok(kernel)
    }

    /// Whether it is Linux, of which more is known than notes say.
    #[must_use]
    pub fn is_linux(&self) -> bool {
        self.guest_os == "linux"
    }

    /// The pseudo-physical address of what a segment has at an address of the file.
    #[must_use]
    pub fn pseudo_physical(&self, paddr: u64) -> Option<u64> {
        paddr.checked_sub(self.paddr_offset)
    }

    fn check(&self, elf: &Elf) -> Result<(), PvError> {
        let page = |note, value: u64| {
            if value.is_multiple_of(4096) {
                Ok(())
            } else {
                let problem = "not the beginning of a page";
                Err(PvError::Note {
                    note,
                    value,
                    problem,
                })
            }
        };
        page("VIRT_BASE", self.virt_base)?;
        page("HYPERCALL_PAGE", self.hypercall_page.unwrap_or(0))?;
        page("INIT_P2M", self.init_p2m.unwrap_or(0))?;
        let loaded = |address: u64| {
            let physical = address.wrapping_sub(self.virt_base);
            let mut segments = elf.segments().iter();
            segments.any(|s| {
                let start = self.pseudo_physical(s.paddr);
                start.is_some_and(|start| physical.wrapping_sub(start) < s.size)
            })
        };
        for (note, value) in [
            ("ENTRY", Some(self.entry)),
            ("HYPERCALL_PAGE", self.hypercall_page),
        ] {
            if let Some(value) = value.filter(|value| !loaded(*value)) {
                let problem = "not in a segment";
                return Err(PvError::Note {
                    note,
                    value,
                    problem,
                });
            }
        }
        Ok(())
    }
}

struct Notes<'a>(&'a [Note]);

impl Notes<'_> {
    /// Those that a kernel which is started as PVH alone has not.
    fn any_of_pv(&self) -> bool {
        let pv = [XEN_ELFNOTE_ENTRY, XEN_ELFNOTE_VIRT_BASE];
        self.0.iter().any(|note| pv.contains(&note.kind))
    }

    fn find(&self, kind: u32) -> Option<&Note> {
        self.0.iter().find(|note| note.kind == kind)
    }

    fn number(&self, note: &'static str, kind: u32) -> Result<Option<u64>, PvError> {
        let Some(found) = self.find(kind) else {
            return Ok(None);
        };
        match found.number() {
            Some(number) => Ok(Some(number)),
            None => Err(PvError::Note {
                note,
                value: found.value.len() as u64,
                problem: "so many bytes are no number",
            }),
        }
    }

    fn text(&self, kind: u32) -> Option<&str> {
        self.find(kind)?.text()
    }

    /// Notes that say what the kernel cannot do without.
    fn check(&self) -> Result<(), PvError> {
        let refuse = |note, value: &str| {
            Err(PvError::Text {
                note,
                value: value.to_owned(),
            })
        };
        if let Some(version) = self.text(XEN_ELFNOTE_XEN_VERSION)
            && version != "xen-3.0"
        {
            return refuse("XEN_VERSION", version);
        }
        if let Some(loader) = self.text(XEN_ELFNOTE_LOADER)
            && loader != "generic"
        {
            return refuse("LOADER", loader);
        }
        let features = self.text(XEN_ELFNOTE_FEATURES).unwrap_or_default();
        for feature in features.split('|').filter_map(|f| f.strip_prefix('!')) {
            if !FEATURES.contains(&feature) || NOT_OFFERED.contains(&feature) {
                return refuse("FEATURES", features);
            }
        }
        let begins = M2P_BASE;
        if let Some(low) = self.number("HV_START_LOW", XEN_ELFNOTE_HV_START_LOW)?
            && low > begins
        {
            return Err(PvError::Note {
                note: "HV_START_LOW",
                value: low,
                problem: "the monitor begins lower",
            });
        }
        Ok(())
    }
}

/// Whether a range of addresses can be a guest's: canonical, without a wrap, and none of it the hypervisor's.
pub(super) fn is_guests(start: u64, bytes: u64) -> bool {
    let (Some(_), Some(last)) = (start.checked_add(bytes), bytes.checked_sub(1)) else {
        return false;
    };
    let last = start + last;
    let lower_half = last < 1 << 47;
    let upper_half = start >= M2P_BASE;
    let slot = |address: u64| (address >> 39 & 0x1ff) as usize;
    let hypervisors = upper_half && slot(start) < HYPERVISOR_SLOTS.end;
    (lower_half || upper_half) && !hypervisors
}
