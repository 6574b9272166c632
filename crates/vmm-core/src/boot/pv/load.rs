//! Writing everything that a PV guest finds at its start.

use cantle_abi::start_info::{
    MAX_GUEST_CMDLINE, SIF_MOD_START_PFN, SIF_VIRT_P2M_4TOOLS, StartInfo,
};
use cantle_abi::{PAGE_SHIFT, PAGE_SIZE};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use zerocopy::IntoBytes;

use super::frames::PvFrames;
use super::initrd::OpenInitrd;
use super::kernel::{PvError, PvKernel};
use super::layout::Layout;
use super::tables::{A, D, P, PageTables, RW, U};
use crate::boot::elf::Segment;
use crate::boot::image::KernelImage;
use crate::boot::{BootError, Initrd};

const PAGE: u64 = PAGE_SIZE as u64;
/// What start info says that this is.
const MAGIC: &[u8] = b"xen-3.0-x86_64";
/// An entry that leads to a table. User mode is decided by the last level.
const INNER: u64 = P | RW | U | A;
/// A page that the kernel may write, and one that it may not. Neither is for user mode: the kernel runs in ring 1.
const WRITABLE: u64 = P | RW | A | D;
const READ_ONLY: u64 = P | A;

/// A PV guest to be, planned and not written yet.
#[derive(Debug)]
pub struct PvBoot<'a> {
    image: &'a KernelImage,
    kernel: PvKernel,
    layout: Layout,
    cmdline: &'a str,
    initrd: OpenInitrd<'a>,
    pages: u64,
}

/// What of the guest's memory is the host's, and by which ports it is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PvRings {
    /// The frame of shared info.
    pub shared_info: u64,
    /// Xenstore's port.
    pub store_port: u32,
    /// The console's port.
    pub console_port: u32,
}

/// How the guest's first vCPU begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PvEntry {
    /// Its first instruction.
    pub rip: u64,
    /// Its stack, which is empty.
    pub rsp: u64,
    /// Start info.
    pub rsi: u64,
    /// The frame of its first level-4 table.
    pub l4: u64,
}

impl<'a> PvBoot<'a> {
    /// Plans a guest of `pages` pages: everything that can be wrong with kernel, initrd and command line is said here.
    ///
    /// # Errors
    ///
    /// [`BootError`].
    pub fn plan(
        image: &'a KernelImage,
        initrd: Option<Initrd<'a>>,
        cmdline: &'a str,
        pages: u64,
    ) -> Result<Self, BootError> {
        let limit = MAX_GUEST_CMDLINE - 1;
        if cmdline.len() > limit || cmdline.contains('\0') {
            return Err(BootError::CommandLine {
                length: cmdline.len(),
                limit,
            });
        }
        let kernel = PvKernel::of(image)?;
        let end = |segment: &Segment| {
            let start = kernel.pseudo_physical(segment.paddr);
            start
                .and_then(|start| start.checked_add(segment.size))
                .ok_or(PvError::Note {
                    note: "PADDR_OFFSET",
                    value: kernel.paddr_offset,
                    problem: "a segment begins before it",
                })
        };
        let mut kernel_end = 0;
        for segment in image.elf().segments() {
            kernel_end = kernel_end.max(end(segment)?);
        }
        let initrd = OpenInitrd::open(initrd)?;
        let layout = Layout::plan(&kernel, kernel_end, initrd.len(), pages)?;
        Ok(Self {
            image,
            kernel,
            layout,
            cmdline,
            initrd,
            pages,
        })
    }

    /// What the kernel asks for.
    #[must_use]
    pub fn kernel(&self) -> &PvKernel {
        &self.kernel
    }

    /// What will be where.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Writes kernel, initrd, P2M, page tables and start info into `memory`, which is zero. `frames` are of as many pages as were planned for.
    ///
    /// # Errors
    ///
    /// [`BootError`]; what has been written until then stays.
    pub fn load(
        mut self,
        memory: &GuestMemoryMmap<()>,
        frames: &PvFrames,
        rings: &PvRings,
        hypercall_page: &[u8; PAGE_SIZE],
    ) -> Result<PvEntry, BootError> {
        let put = |what, address, bytes: &[u8]| write(memory, frames, what, address, bytes);
        for segment in self.image.elf().segments() {
            let file = self.image.bytes().get(segment.file.clone());
            let address = self.kernel.pseudo_physical(segment.paddr).unwrap_or(0);
            put("kernel", address, file.unwrap_or_default())?;
        }
        if let Some(address) = self.kernel.hypercall_page {
            let address = address.wrapping_sub(self.kernel.virt_base);
            put("hypercall page", address, hypercall_page)?;
        }
        self.initrd
            .write(memory, frames, self.layout.initrd.start * PAGE)?;
        let list: Vec<u8> = (0..self.pages)
            .flat_map(|pfn| frames.mfn(pfn).unwrap_or(u64::MAX).to_le_bytes())
            .collect();
        put("P2M", self.layout.p2m.start * PAGE, &list)?;
        for (pfn, table) in self.tables(frames) {
            put("page tables", pfn * PAGE, &table)?;
        }
        let info = self.start_info(frames, rings);
        put("start info", self.layout.start_info * PAGE, info.as_bytes())?;
        let layout = &self.layout;
        Ok(PvEntry {
            rip: self.kernel.entry,
            rsp: layout.address(layout.stack) + PAGE,
            rsi: layout.address(layout.start_info),
            l4: frames.mfn(layout.tables.start).unwrap_or(0),
        })
    }

    /// The page tables with their pages: first those of everything, then those of the P2M alone.
    fn tables(&self, frames: &PvFrames) -> Vec<(u64, Vec<u8>)> {
        let layout = &self.layout;
        let first = layout.tables.end - layout.tables.start;
        let pfn_of = |number: u64| match number.checked_sub(first) {
            None => layout.tables.start + number,
            Some(more) => layout.p2m_tables.start + more,
        };
        let mfn = |pfn| frames.mfn(pfn).unwrap_or(0);
        let mut tables = PageTables::new(|number| mfn(pfn_of(number)), INNER);
        for pfn in 0..layout.mapped_end {
            let flags = if layout.tables.contains(&pfn) {
                READ_ONLY
            } else {
                WRITABLE
            };
            tables.map(layout.address(pfn), mfn(pfn), flags);
        }
        if self.kernel.init_p2m.is_some() {
            for (page, pfn) in (0..).zip(layout.p2m.clone()) {
                tables.map(layout.p2m_address + page * PAGE, mfn(pfn), WRITABLE);
            }
        }
        let made = tables.emit();
        made.map(|(number, table)| (pfn_of(number), table))
            .collect()
    }

    fn start_info(&self, frames: &PvFrames, rings: &PvRings) -> StartInfo {
        let layout = &self.layout;
        let mfn = |pfn| frames.mfn(pfn).unwrap_or(0);
        let has_initrd = !layout.initrd.is_empty();
        let by_page = has_initrd && layout.unmapped_initrd;
        let mut magic = [0; 32];
        copy(&mut magic, MAGIC);
        let mut cmd_line = [0; MAX_GUEST_CMDLINE];
        copy(&mut cmd_line, self.cmdline.as_bytes());
        StartInfo {
            magic,
            nr_pages: self.pages,
            shared_info: rings.shared_info << PAGE_SHIFT,
            flags: SIF_VIRT_P2M_4TOOLS | if by_page { SIF_MOD_START_PFN } else { 0 },
            pad0: 0,
            store_mfn: mfn(layout.store),
            store_evtchn: rings.store_port,
            pad1: 0,
            console_mfn: mfn(layout.console),
            console_evtchn: rings.console_port,
            pad2: 0,
            pt_base: layout.address(layout.tables.start),
            nr_pt_frames: layout.tables.end - layout.tables.start,
            mfn_list: layout.p2m_address,
            mod_start: match (has_initrd, by_page) {
                (false, _) => 0,
                (true, true) => layout.initrd.start,
                (true, false) => layout.address(layout.initrd.start),
            },
            mod_len: self.initrd.len(),
            cmd_line,
            first_p2m_pfn: if layout.p2m_tables.is_empty() {
                0
            } else {
                layout.p2m.start
            },
            nr_p2m_frames: if layout.p2m_tables.is_empty() {
                0
            } else {
                layout.p2m_tables.end - layout.p2m.start
            },
        }
    }
}

fn copy(to: &mut [u8], from: &[u8]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = *from;
    }
}

/// Writes bytes to pseudo-physical memory.
pub(super) fn write(
    memory: &GuestMemoryMmap<()>,
    frames: &PvFrames,
    what: &'static str,
    address: u64,
    bytes: &[u8],
) -> Result<(), BootError> {
    let mut rest = bytes;
    let pieces = frames.behind(address, bytes.len() as u64);
    for (at, length) in pieces.ok_or(PvError::Memory {
        what,
        end: address.saturating_add(bytes.len() as u64),
        limit: frames.pages() * PAGE,
    })? {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let (piece, after) = rest.split_at(rest.len().min(length));
        memory
            .write_slice(piece, GuestAddress(at))
            .map_err(|source| BootError::Write { what, source })?;
        rest = after;
    }
    Ok(())
}
