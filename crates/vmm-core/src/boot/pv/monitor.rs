//! The monitor beside a PV guest: its image, areas and page tables in the frames before the guest's.
//!
//! ```text
//! frame 0  not used
//!       1  page tables, the top first
//!          image, BootInfo, the shared descriptor page, vCPU areas (without their guard pages), tables of the windows, a bit for each frame
//!  2 MiB   machine-to-physical table, in large pages
//!  2 MiB   the guest's memory
//! ```

mod image;
mod m2p;
mod tables;

use cantle_abi::{PAGE_SHIFT, PAGE_SIZE};
use cantle_pv_monitor::interface::{
    BootInfo, Frames, MAGIC, MAX_VCPUS, MONITOR_BASE, RESERVED_GDT_PAGE, VCPU_AREA_SIZE,
    VCPU_GUARD, VERSION, WINDOW_SIZE, WINDOWS,
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use zerocopy::IntoBytes;

use super::frames::PvFrames;
use super::load::PvEntry;
use crate::boot::elf::{Elf, ElfError};
use tables::DATA;

const PAGE: u64 = PAGE_SIZE as u64;
/// A large page, in bytes and in frames.
const LARGE: u64 = 2 << 20;
const LARGE_FRAMES: u64 = LARGE >> PAGE_SHIFT;
/// What the direct map can show.
const DIRECT_LIMIT: u64 = 512 << 30;
/// Windows whose pages are in one table of the last level.
const WINDOWS_PER_TABLE: u32 = 16;

/// Why there can be no monitor.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MonitorError {
    /// Its image is no ELF file.
    #[error("the monitor: {0}")]
    Elf(#[from] ElfError),
    /// A segment of it, or its entry, is not what it must be.
    #[error("the monitor's image at {address:#x} of {size:#x} bytes {problem}")]
    Image {
        /// Virtual address.
        address: u64,
        /// Bytes.
        size: u64,
        /// What is wrong.
        problem: &'static str,
    },
    /// It has room for no more.
    #[error("{what}: the monitor of PV guests has room for {most}")]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// How much there may be.
        most: u64,
    },
    /// Guest memory is not as it was planned.
    #[error("writing the monitor to guest memory")]
    Write(#[from] vm_memory::GuestMemoryError),
}

/// What the monitor is told besides where things are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MonitorStart {
    /// `BootInfo::flags`.
    pub flags: u32,
    /// What `XENVER_version` says.
    pub xen_version: u32,
    /// The port of its calls.
    pub hypercall_port: u16,
    /// The vector of upcalls.
    pub upcall_vector: u8,
    /// The frames of the host's own pages that the guest may map.
    pub special: Frames,
    /// The one of them that is shared info.
    pub shared_info: u64,
    /// How the guest begins.
    pub entry: PvEntry,
}

/// Where everything of the monitor is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MonitorLayout {
    elf: Elf,
    vcpus: u32,
    guest: PvFrames,
    shared_info: u64,
    tables: Frames,
    image: Frames,
    boot_info: u64,
    shared_gdt: u64,
    areas: Frames,
    windows: Frames,
    marks: Frames,
    m2p: Frames,
}

impl MonitorLayout {
    /// For a monitor's ELF file, a guest's vCPUs and pages, and the frame of shared info.
    ///
    /// # Errors
    ///
    /// [`MonitorError`].
    pub fn plan(
        image: &[u8],
        vcpus: u32,
        pages: u64,
        shared_info: u64,
    ) -> Result<Self, MonitorError> {
        let elf = Elf::parse(image)?;
        image::check(&elf)?;
        if vcpus > MAX_VCPUS {
            let (what, most) = ("vCPUs", u64::from(MAX_VCPUS));
            return Err(MonitorError::Limit { what, most });
        }
        let too_much = MonitorError::Limit {
            what: "bytes of memory",
            most: DIRECT_LIMIT,
        };
        if pages > DIRECT_LIMIT >> PAGE_SHIFT {
            return Err(too_much);
        }
        // How large the tables are depends on where the guest's memory ends, and that on them.
        let mut tables = 1;
        loop {
            let layout = Self::place(elf.clone(), vcpus, pages, shared_info, tables);
            if layout.guest.end() > DIRECT_LIMIT >> PAGE_SHIFT {
                return Err(too_much);
            }
            let needed = layout.page_tables().len();
            if needed <= tables {
                return Ok(layout);
            }
            tables = needed;
        }
    }

    fn place(elf: Elf, vcpus: u32, pages: u64, shared_info: u64, tables: u64) -> Self {
        let mut next = 1;
        let mut take = |frames: u64| {
            let start = next;
            next += frames;
            Frames { start, end: next }
        };
        let end = elf.segments().iter().map(|s| s.vaddr + s.size).max();
        let tables = take(tables);
        let image = take((end.unwrap_or(MONITOR_BASE) - MONITOR_BASE).div_ceil(PAGE));
        let boot_info = take(1).start;
        let shared_gdt = take(1).start;
        let areas = take(u64::from(vcpus) * AREA_FRAMES);
        let windows = take(u64::from(vcpus.div_ceil(WINDOWS_PER_TABLE)));
        // The bits and the table cover themselves, too.
        let mut marks = Frames {
            start: windows.end,
            end: windows.end,
        };
        let mut m2p = Frames::default();
        let guest = loop {
            m2p.start = marks.end.next_multiple_of(LARGE_FRAMES);
            let guest = PvFrames::new(m2p.end.max(m2p.start), pages);
            let bits = marks.start + guest.end().div_ceil(PAGE * 8);
            let end = m2p.start + (guest.end() * 8).div_ceil(LARGE) * LARGE_FRAMES;
            if bits <= marks.end && end <= m2p.end {
                break guest;
            }
            marks.end = marks.end.max(bits);
            m2p.end = m2p.end.max(end);
        };
        Self {
            elf,
            vcpus,
            guest,
            shared_info,
            tables,
            image,
            boot_info,
            shared_gdt,
            areas,
            windows,
            marks,
            m2p,
        }
    }

    /// The guest's frames, behind the monitor's.
    #[must_use]
    pub fn guest(&self) -> &PvFrames {
        &self.guest
    }

    /// The guest-physical address of the machine-to-physical table.
    #[must_use]
    pub fn m2p(&self) -> u64 {
        self.m2p.start << PAGE_SHIFT
    }

    /// The guest-physical address of a page of a vCPU's area; `None` for the guard page and beyond the area.
    #[must_use]
    pub fn area_page(&self, vcpu: u32, page: u64) -> Option<u64> {
        let guard = VCPU_GUARD / PAGE;
        let place = match page.cmp(&guard) {
            std::cmp::Ordering::Less => page,
            std::cmp::Ordering::Equal => return None,
            std::cmp::Ordering::Greater => page - 1,
        };
        let there = vcpu < self.vcpus && place < AREA_FRAMES;
        there.then(|| (self.areas.start + u64::from(vcpu) * AREA_FRAMES + place) << PAGE_SHIFT)
    }

    /// Memory that the monitor takes, in bytes: all but the machine-to-physical table, and that.
    #[must_use]
    pub fn memory(&self) -> (u64, u64) {
        let own = self.marks.end - self.tables.start;
        (own << PAGE_SHIFT, self.guest.end() * 8)
    }

    /// The entry of the image, and the guest-physical address of the top-level table: how vCPUs begin.
    #[must_use]
    pub fn begin(&self) -> (u64, u64) {
        (self.elf.entry(), self.tables.start << PAGE_SHIFT)
    }

    /// Writes everything into `memory`, which is zero. `image` is the file that it was planned for.
    ///
    /// # Errors
    ///
    /// [`MonitorError::Write`].
    pub fn write(
        &self,
        memory: &GuestMemoryMmap<()>,
        image: &[u8],
        start: &MonitorStart,
    ) -> Result<(), MonitorError> {
        let put = |at: u64, bytes: &[u8]| memory.write_slice(bytes, GuestAddress(at));
        for (number, table) in self.page_tables().emit() {
            put((self.tables.start + number) << PAGE_SHIFT, &table)?;
        }
        for segment in self.elf.segments() {
            let bytes = image.get(segment.file.clone()).unwrap_or_default();
            let at = (self.image.start << PAGE_SHIFT) + (segment.vaddr - MONITOR_BASE);
            put(at, bytes)?;
        }
        for vcpu in 0..self.vcpus {
            // The one page of a guest's table that is the monitor's; the other entries are set as the guest asks for it.
            let table = self.windows.start + u64::from(vcpu / WINDOWS_PER_TABLE);
            let page = u64::from(vcpu % WINDOWS_PER_TABLE) * (WINDOW_SIZE / PAGE);
            let entry = self.shared_gdt << PAGE_SHIFT | DATA;
            let at = (table << PAGE_SHIFT) + (page + RESERVED_GDT_PAGE) * 8;
            put(at, &entry.to_le_bytes())?;
        }
        self.write_m2p(memory)?;
        let info = self.boot_info(start);
        put(self.boot_info << PAGE_SHIFT, info.as_bytes())?;
        Ok(())
    }

    fn boot_info(&self, start: &MonitorStart) -> BootInfo {
        BootInfo {
            magic: MAGIC,
            version: VERSION,
            vcpus: self.vcpus,
            flags: start.flags,
            xen_version: start.xen_version,
            hypercall_port: start.hypercall_port,
            upcall_vector: start.upcall_vector,
            reserved: [0; 5],
            first_guest_mfn: self.m2p.end,
            max_mfn: self.guest.end(),
            ram: self.guest.pieces(),
            special: start.special,
            monitor_l4: self.tables.start,
            window_tables: self.windows.start,
            table_marks: self.marks.start,
            shared_info: start.shared_info,
            start_rip: start.entry.rip,
            start_rsp: start.entry.rsp,
            start_rsi: start.entry.rsi,
            start_l4: start.entry.l4,
        }
    }
}

/// Frames of a vCPU's area: all of its pages but the guard page.
const AREA_FRAMES: u64 = VCPU_AREA_SIZE / PAGE - 1;
const _: () = {
    assert!(VCPU_GUARD < VCPU_AREA_SIZE && VCPU_GUARD.is_multiple_of(PAGE));
    assert!(WINDOW_SIZE / PAGE * WINDOWS_PER_TABLE as u64 == 512);
    assert!(WINDOWS.is_multiple_of(LARGE));
};
