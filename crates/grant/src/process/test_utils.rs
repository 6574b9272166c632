//! A guest whose memory is in a file, so that a back end in another process can have it.

// UNSAFETY: the guest's own accesses to its memory.
#![expect(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;

use cantle_abi::grant_table::{GTF_permit_access, GTF_readonly};
use cantle_abi::ring::HeapPages;
use cantle_abi::{DomId, Gfn, GrantRef, PAGE_SIZE};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::uffd::Uffd;
use super::{FilePage, Granter, GuestFile, GuestFiles};
use crate::entries::{Entries, Entry, Part, Version};
use crate::{GrantTable, GuestFrames, TableConfig};

/// A guest's memory in a memory file, frames from 0, holes until they are written.
#[derive(Debug)]
pub struct FileFrames {
    fd: OwnedFd,
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: shared memory, reached by raw pointers only.
unsafe impl Send for FileFrames {}
// SAFETY: as above.
unsafe impl Sync for FileFrames {}

impl FileFrames {
    /// Memory of `frames` frames.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn new(frames: usize) -> io::Result<Self> {
        let len = frames * PAGE_SIZE;
        let fd = memfd_create("guest-ram", MemfdFlags::CLOEXEC)?;
        ftruncate(&fd, len as u64)?;
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, at a place that the kernel chooses.
        let at = unsafe { mmap(std::ptr::null_mut(), len, prot, MapFlags::SHARED, &fd, 0) }?;
        let base = NonNull::new(at.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { fd, base, len })
    }

    fn page(&self, gfn: Gfn) -> Option<NonNull<u8>> {
        let offset = usize::try_from(gfn.0).ok()?.checked_mul(PAGE_SIZE)?;
        // SAFETY: checked to be within.
        (offset < self.len).then(|| unsafe { self.base.add(offset) })
    }
}

impl Drop for FileFrames {
    fn drop(&mut self) {
        // SAFETY: this mapping, which nothing points into any more.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
    }
}

// SAFETY: the frame is within memory that lives as long as `self`.
unsafe impl GuestFrames for FileFrames {
    fn frame(&self, gfn: Gfn) -> Option<NonNull<u8>> {
        self.page(gfn)
    }
}

// SAFETY: the mapping is of all of the file, from its beginning, and all of it is the guest's.
unsafe impl GuestFiles for FileFrames {
    fn files(&self) -> io::Result<Vec<GuestFile>> {
        Ok(vec![GuestFile {
            fd: self.fd.as_fd().try_clone_to_owned()?,
            len: self.len as u64,
        }])
    }

    fn locate(&self, page: NonNull<u8>) -> Option<FilePage> {
        let offset = page.addr().get().checked_sub(self.base.addr().get())?;
        (offset < self.len).then_some(FilePage {
            file: 0,
            page: (offset / PAGE_SIZE) as u64,
        })
    }
}

/// A guest with memory in a file, and its grant table. Its methods are the guest's side; they panic where a test asks for what it does not have.
pub struct FileGuest {
    table: Arc<GrantTable>,
    frames: Arc<FileFrames>,
    entries: Entries,
}

impl FileGuest {
    /// A guest with `frames` frames of memory, and a table of as many entries as four frames have.
    ///
    /// # Panics
    ///
    /// Where the system has no memory for it.
    #[must_use]
    pub fn new(dom: DomId, frames: usize) -> Self {
        let config = TableConfig {
            initial_frames: 4,
            max_frames: 4,
            ..TableConfig::default()
        };
        let memory = Arc::new(HeapPages::new(4));
        let frames = Arc::new(FileFrames::new(frames).expect("there is memory"));
        let table = GrantTable::new(dom, config, memory.clone(), frames.clone())
            .expect("the configuration is valid");
        Self {
            table,
            frames,
            entries: Entries::new(memory, None),
        }
    }

    /// The host's side of its table.
    #[must_use]
    pub fn table(&self) -> &Arc<GrantTable> {
        &self.table
    }

    /// What a broker lends its pages by.
    #[must_use]
    pub fn granter(&self) -> Granter {
        Granter {
            table: self.table.clone(),
            memory: self.frames.clone(),
        }
    }

    /// Writes an entry that grants a frame.
    ///
    /// # Panics
    ///
    /// Where there is no such entry.
    pub fn grant(&self, gref: GrantRef, grantee: DomId, gfn: Gfn, readonly: bool) {
        let flags = GTF_permit_access | if readonly { GTF_readonly } else { 0 };
        self.entry(gref).write(flags, grantee, gfn, Part::PAGE);
    }

    /// Revokes a grant unless it is in use; true where it is revoked.
    ///
    /// # Panics
    ///
    /// Where there is no such entry.
    #[must_use]
    pub fn end_access(&self, gref: GrantRef) -> bool {
        self.entry(gref).revoke()
    }

    /// The entry's flags.
    ///
    /// # Panics
    ///
    /// Where there is no such entry.
    #[must_use]
    pub fn entry_flags(&self, gref: GrantRef) -> u16 {
        self.entry(gref).raw().flags
    }

    /// Fills a frame with a byte.
    ///
    /// # Panics
    ///
    /// Where the guest has no such frame.
    pub fn fill(&self, gfn: Gfn, byte: u8) {
        // SAFETY: a page of its memory.
        unsafe { self.address(gfn).as_ptr().write_bytes(byte, PAGE_SIZE) };
    }

    /// The bytes of a frame, as they are now.
    ///
    /// # Panics
    ///
    /// Where the guest has no such frame.
    #[must_use]
    pub fn read(&self, gfn: Gfn) -> Vec<u8> {
        let page = self.address(gfn);
        // SAFETY: within a page of its memory.
        let byte = |n| unsafe { page.as_ptr().add(n).read_volatile() };
        (0..PAGE_SIZE).map(byte).collect()
    }

    /// Gives a frame's memory back, as a balloon driver does; the next look finds zeros.
    ///
    /// # Panics
    ///
    /// Where the system refuses.
    pub fn give_back(&self, gfn: Gfn) {
        use rustix::fs::{FallocateFlags, fallocate};
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let page = PAGE_SIZE as u64;
        fallocate(&self.frames.fd, flags, gfn.0 * page, page).expect("a hole can be made");
    }

    /// A second descriptor of its memory: what nobody but the host may have.
    ///
    /// # Panics
    ///
    /// Where there is none to be had.
    #[must_use]
    pub fn memory_file(&self) -> File {
        let fd = self.frames.fd.try_clone();
        fd.expect("descriptors are to be had").into()
    }

    fn address(&self, gfn: Gfn) -> NonNull<u8> {
        self.frames.page(gfn).expect("the guest has this frame")
    }

    fn entry(&self, gref: GrantRef) -> Entry<'_> {
        self.entries
            .get(Version::One, gref)
            .expect("the table has this entry")
    }
}

impl std::fmt::Debug for FileGuest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileGuest")
            .field("table", &self.table)
            .finish_non_exhaustive()
    }
}

/// A window of this process onto memory of its own: what a benchmark compares with.
pub struct BareWindow {
    frames: FileFrames,
    at: NonNull<u8>,
    uffd: Uffd,
}

impl BareWindow {
    /// A window of `frames` pages, all of which have contents, with nothing in it.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn new(frames: usize) -> io::Result<Self> {
        let frames = FileFrames::new(frames)?;
        // SAFETY: its own memory.
        unsafe { frames.base.as_ptr().write_bytes(1, frames.len) };
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        let null = std::ptr::null_mut();
        // SAFETY: a new mapping, at a place that the kernel chooses.
        let at = unsafe { mmap(null, frames.len, prot, MapFlags::SHARED, &frames.fd, 0) }?;
        let at = NonNull::new(at.cast::<u8>()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        let uffd = Uffd::new()?;
        uffd.register(at.addr().get() as u64, frames.len as u64)?;
        Ok(Self { frames, at, uffd })
    }

    fn page(&self, page: usize) -> io::Result<usize> {
        let offset = page * PAGE_SIZE;
        if offset < self.frames.len {
            Ok(self.at.addr().get() + offset)
        } else {
            Err(io::ErrorKind::InvalidInput.into())
        }
    }

    /// Enters a page into the page table.
    ///
    /// # Errors
    ///
    /// Where it is there already, or no page of the window.
    pub fn fill(&self, page: usize) -> io::Result<()> {
        let filled = self.uffd.fill(self.page(page)? as u64, PAGE_SIZE as u64);
        filled.map_err(|(_, why)| io::Error::other(format!("{why:?}")))
    }

    /// Takes a page out of the page table.
    ///
    /// # Errors
    ///
    /// Where it is no page of the window.
    pub fn empty(&self, page: usize) -> io::Result<()> {
        use rustix::mm::{Advice, madvise};
        let at = self.at.as_ptr().with_addr(self.page(page)?);
        // SAFETY: a page of the window, which nothing points into.
        Ok(unsafe { madvise(at.cast(), PAGE_SIZE, Advice::LinuxDontNeed) }?)
    }
}

impl Drop for BareWindow {
    fn drop(&mut self) {
        // SAFETY: this mapping, which nothing points into any more.
        let _ = unsafe { munmap(self.at.as_ptr().cast(), self.frames.len) };
    }
}

impl std::fmt::Debug for BareWindow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BareWindow")
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}
