//! The guest's physical memory: RAM, the special pages, and the host's own pages that the guest places where it likes.
//!
//! RAM is one memory file, mapped here and given to KVM. The pages that the host owns and the guest sees (shared info, grant
//! frames, the console's and xenstore's rings) are a second one, the *heap*. Where the guest asks for a heap page at a
//! frame of its RAM, the page is mapped over that place in this process, and KVM follows; elsewhere it gets a memory
//! slot of its own. So RAM's slots never change while the guest runs.

// UNSAFETY: hands guest memory to KVM, maps pages over it, and gives out its addresses.
#![expect(unsafe_code)]

mod foreign;
mod heap;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cantle_abi::{Errno, Gfn, PAGE_SHIFT, PAGE_SIZE, SharedMemory};
use cantle_grant::GuestFrames;
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use rustix::fs::{FallocateFlags, MemfdFlags};
use rustix::mm::{MapFlags, ProtFlags};
use vm_memory::mmap::MmapRegion;
use vm_memory::{
    Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion,
    GuestRegionMmap,
};

use crate::boot::layout;
use crate::boot::pv::{FIRST_SPECIAL, PvFrames};
use crate::error::SetupError;
use crate::kvm::grace::Grace;
use foreign::Foreign;
use heap::Heap;
pub(crate) use heap::{HeapPage, HeapSlice};

/// What is where in the VM's physical memory.
#[derive(Debug)]
pub(crate) struct Places {
    /// RAM, as guest-physical start and length in bytes.
    ram: Vec<(u64, u64)>,
    /// Pages of it that are the guest's.
    pages: u64,
    /// Which they are.
    guests: Guests,
    /// The frame of the heap's first page.
    heap: u64,
    /// How many of the heap's pages are there from the beginning; all where `None`.
    heap_pages: Option<usize>,
}

/// Which frames are the guest's RAM.
#[derive(Debug)]
enum Guests {
    /// All but the special pages.
    Translated,
    Pv(PvFrames),
}

impl Guests {
    fn contains(&self, gfn: Gfn) -> bool {
        match self {
            Self::Translated => {
                let special = gfn.0.checked_sub(layout::SPECIAL_GFN.0);
                special.is_none_or(|n| n >= layout::SPECIAL_PAGES as u64)
            }
            Self::Pv(frames) => frames.contains(gfn.0),
        }
    }
}

impl Places {
    /// Of a PVH guest with so many bytes of RAM.
    pub(crate) fn pvh(bytes: u64) -> Self {
        Self {
            ram: layout::ram_ranges(bytes),
            pages: bytes >> PAGE_SHIFT,
            guests: Guests::Translated,
            heap: layout::SPECIAL_GFN.0,
            heap_pages: Some(layout::SPECIAL_PAGES),
        }
    }

    /// Of a PV guest, which has what of the heap is its own at fixed frames.
    pub(crate) fn pv(frames: PvFrames) -> Self {
        Self {
            ram: frames.ram_ranges(),
            pages: frames.pages(),
            guests: Guests::Pv(frames),
            heap: FIRST_SPECIAL,
            heap_pages: None,
        }
    }
}

/// A guest's physical memory. It stays mapped while anything (a grant mapping, a ring) still holds it.
#[derive(Debug)]
pub struct GuestRam {
    memory: GuestMemoryMmap<()>,
    vm: Arc<VmFd>,
    ram_file: Arc<File>,
    heap: Heap,
    places: Places,
    grace: Arc<Grace>,
    physmap: Mutex<Physmap>,
}

#[derive(Debug, Default)]
struct Physmap {
    /// Which heap page lies over or at which frame.
    placed: BTreeMap<u64, Placed>,
    /// Where a heap page is; it has one place at most.
    place_of: HashMap<usize, u64>,
    /// Other domains' pages, by the frame.
    foreign: BTreeMap<u64, Foreign>,
    /// RAM frames that the guest gave back.
    ballooned: BTreeSet<u64>,
    next_slot: u32,
    free_slots: Vec<u32>,
}

impl Physmap {
    /// A memory slot that is not in use.
    fn take_slot(&mut self) -> u32 {
        self.free_slots.pop().unwrap_or_else(|| {
            self.next_slot += 1;
            self.next_slot - 1
        })
    }
}

#[derive(Debug)]
struct Placed {
    page: HeapPage,
    /// The memory slot, where the frame is not RAM.
    slot: Option<u32>,
}

impl GuestRam {
    /// Makes the memory and gives it to the VM. `grants` are the most frames, and status frames, that the grant table can have.
    pub(crate) fn new(
        vm: Arc<VmFd>,
        places: Places,
        grants: (u32, u32),
        grace: Arc<Grace>,
    ) -> Result<Self, SetupError> {
        let all = places.ram.iter().map(|(_, bytes)| bytes).sum();
        let ram_file = Arc::new(memory_file("guest-ram", all)?);
        let heap = Heap::new(grants)?;
        let mut regions = Vec::new();
        let mut offset = 0;
        for (base, bytes) in &places.ram {
            let file = ram_file.try_clone().map_err(SetupError::memory)?;
            regions.push(region(file, offset, *bytes, *base)?);
            offset += bytes;
        }
        let special = heap.file().try_clone().map_err(SetupError::memory)?;
        let pages = places.heap_pages.unwrap_or(heap.pages());
        regions.push(region(
            special,
            0,
            (pages * PAGE_SIZE) as u64,
            places.heap << PAGE_SHIFT,
        )?);
        // The heap's is below 4 GiB, where RAM may go on above.
        regions.sort_by_key(GuestMemoryRegion::start_addr);
        let memory = GuestMemoryMmap::from_regions(regions)
            .map_err(|e| SetupError::memory(std::io::Error::other(e)))?;
        let mut slot = 0;
        for region in memory.iter() {
            set_slot(
                &vm,
                (slot, 0),
                region.start_addr().0,
                region.len(),
                region.as_ptr(),
            )
            .map_err(SetupError::memory)?;
            slot += 1;
        }
        let physmap = Mutex::new(Physmap {
            next_slot: slot,
            ..Physmap::default()
        });
        Ok(Self {
            memory,
            vm,
            ram_file,
            heap,
            places,
            grace,
            physmap,
        })
    }

    /// The memory as vm-memory sees it: RAM and the special pages.
    #[must_use]
    pub fn memory(&self) -> &GuestMemoryMmap<()> {
        &self.memory
    }

    /// Pages that the guest has now, without what it gave back.
    pub(crate) fn current_pages(&self) -> u64 {
        self.max_pages() - self.lock().ballooned.len() as u64
    }

    /// Pages that the guest may have.
    pub(crate) fn max_pages(&self) -> u64 {
        self.places.pages
    }

    fn lock(&self) -> MutexGuard<'_, Physmap> {
        // A panic elsewhere while it was held left no half-done change that matters more than going on.
        self.physmap.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Copies bytes out of guest-physical memory.
    pub(crate) fn read(&self, gpa: u64, buf: &mut [u8]) -> Result<(), Errno> {
        self.memory
            .read_slice(buf, GuestAddress(gpa))
            .map_err(|_| Errno::EFAULT)
    }

    /// Copies bytes into guest-physical memory.
    pub(crate) fn write(&self, gpa: u64, buf: &[u8]) -> Result<(), Errno> {
        self.memory
            .write_slice(buf, GuestAddress(gpa))
            .map_err(|_| Errno::EFAULT)
    }

    /// Reads a 64-bit word, for walks of page tables.
    pub(crate) fn read_u64(&self, gpa: u64) -> Option<u64> {
        self.memory.read_obj(GuestAddress(gpa)).ok()
    }

    /// Puts a heap page at a frame; it leaves the place where it was, once it is at the new one.
    ///
    /// # Errors
    ///
    /// `EINVAL` where KVM refuses the frame, `EBUSY` where another heap page is there, `ENOMEM` where mapping fails; the page
    /// is where it was then.
    pub(crate) fn place(&self, page: HeapPage, gfn: Gfn) -> Result<(), Errno> {
        let mut map = self.lock();
        match map.placed.get(&gfn.0) {
            Some(there) if there.page == page => return Ok(()),
            Some(_) => return Err(Errno::EBUSY),
            None if map.foreign.contains_key(&gfn.0) => return Err(Errno::EBUSY),
            None => {}
        }
        let slot = self.map_page(&mut map, page, gfn)?;
        map.placed.insert(gfn.0, Placed { page, slot });
        if let Some(old) = map.place_of.insert(page.index(), gfn.0)
            && let Err(errno) = self.unplace(&mut map, old)
        {
            map.place_of.insert(page.index(), old);
            // It was put there a moment ago; what cannot be undone stays known as placed.
            let _ = self.unplace(&mut map, gfn.0);
            return Err(errno);
        }
        Ok(())
    }

    /// Maps a heap page over a frame of RAM, or gives KVM a slot for it elsewhere: returns that.
    fn map_page(&self, map: &mut Physmap, page: HeapPage, gfn: Gfn) -> Result<Option<u32>, Errno> {
        if let Some((ptr, _)) = self.ram_page(gfn) {
            map_over(ptr, self.heap.file(), page.offset())?;
            return Ok(None);
        }
        let addr = gfn.addr().ok_or(Errno::EINVAL)?;
        let slot = map.take_slot();
        let host = self.heap.ptr(page).as_ptr();
        let set = || set_slot(&self.vm, (slot, 0), addr, PAGE_SIZE as u64, host);
        if self.grace.during(set).is_err() {
            map.free_slots.push(slot);
            return Err(Errno::EINVAL);
        }
        Ok(Some(slot))
    }

    /// Takes whatever is at a frame away: a heap page, or RAM, which is then given back.
    ///
    /// # Errors
    ///
    /// `ENOENT` where nothing is there.
    pub(crate) fn remove(&self, gfn: Gfn) -> Result<(), Errno> {
        let mut map = self.lock();
        if map.placed.contains_key(&gfn.0) {
            return self.unplace(&mut map, gfn.0);
        }
        let Some((_, offset)) = self.ram_page(gfn) else {
            return Err(Errno::ENOENT);
        };
        if !map.ballooned.insert(gfn.0) {
            return Err(Errno::ENOENT);
        }
        // What fails to be freed costs memory, not correctness: the guest has given up the contents.
        let freed = rustix::fs::fallocate(
            &*self.ram_file,
            FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            offset,
            PAGE_SIZE as u64,
        );
        if let Err(error) = freed {
            tracing::warn!(%gfn, %error, "a page that the guest gave back could not be freed");
        }
        Ok(())
    }

    /// Gives a frame of RAM back to the guest that it gave up before; false where it cannot have one there.
    pub(crate) fn populate(&self, gfn: Gfn) -> bool {
        self.lock().ballooned.remove(&gfn.0)
    }

    /// Gives the guest consecutive frames that it gave up before, aligned to their number (log2 is given); which, it learns by the first.
    pub(crate) fn take_ballooned(&self, order: u32) -> Option<Gfn> {
        let mut map = self.lock();
        let count = 1_u64.checked_shl(order)?;
        // A frame that is aligned and has all the others behind it.
        let first = map.ballooned.iter().copied().find(|first| {
            first.is_multiple_of(count)
                && (1..count).all(|offset| map.ballooned.contains(&(first + offset)))
        })?;
        for gfn in first..first + count {
            map.ballooned.remove(&gfn);
        }
        Some(Gfn(first))
    }

    /// Whether a frame is one that the guest gave up.
    pub(crate) fn is_ballooned(&self, gfn: Gfn) -> bool {
        self.lock().ballooned.contains(&gfn.0)
    }

    fn unplace(&self, map: &mut Physmap, gfn: u64) -> Result<(), Errno> {
        let Some(placed) = map.placed.get(&gfn) else {
            return Ok(());
        };
        match (placed.slot, self.ram_page(Gfn(gfn))) {
            (Some(slot), _) => {
                let addr = Gfn(gfn).addr().ok_or(Errno::EINVAL)?;
                let host = self.heap.ptr(placed.page).as_ptr();
                self.grace
                    .during(|| set_slot(&self.vm, (slot, 0), addr, 0, host))
                    .map_err(|_| Errno::ENOMEM)?;
                map.free_slots.push(slot);
            }
            (None, Some((ptr, offset))) => map_over(ptr, &self.ram_file, offset)?,
            (None, None) => {}
        }
        // Where the page has moved on already, that place stays.
        if map.place_of.get(&placed.page.index()) == Some(&gfn) {
            map.place_of.remove(&placed.page.index());
        }
        map.placed.remove(&gfn);
        Ok(())
    }

    /// The host address of a frame of RAM, and its offset in the memory file; `None` for what is no RAM.
    fn ram_page(&self, gfn: Gfn) -> Option<(NonNull<u8>, u64)> {
        if !self.places.guests.contains(gfn) {
            return None;
        }
        let addr = GuestAddress(gfn.addr()?);
        let region = self.memory.find_region(addr)?;
        let into = addr.0 - region.start_addr().0;
        let offset = region.file_offset()?.start() + into;
        let ptr = NonNull::new(self.memory.get_host_address(addr).ok()?)?;
        Some((ptr, offset))
    }

    /// A frame of guest memory to be kept: a vCPU's info.
    pub(crate) fn page(self: &Arc<Self>, gfn: Gfn) -> Option<FramePage> {
        Some(FramePage {
            ptr: self.frame(gfn)?,
            _ram: self.clone(),
        })
    }
}

// SAFETY: regions and the heap stay mapped while `self` lives: pages are only ever mapped over by other pages of the same
// two files, at once and without a gap.
unsafe impl GuestFrames for GuestRam {
    fn frame(&self, gfn: Gfn) -> Option<NonNull<u8>> {
        NonNull::new(
            self.memory
                .get_host_address(GuestAddress(gfn.addr()?))
                .ok()?,
        )
    }
}

/// One frame of guest memory, kept mapped.
#[derive(Debug)]
pub(crate) struct FramePage {
    ptr: NonNull<u8>,
    _ram: Arc<GuestRam>,
}

// SAFETY: the frame's mapping lives with the Arc (see `GuestFrames`) and is page-aligned.
unsafe impl SharedMemory for FramePage {
    fn as_ptr(&self) -> NonNull<u8> {
        self.ptr
    }
    fn len(&self) -> usize {
        PAGE_SIZE
    }
}

// SAFETY: the pointer is to shared memory that is accessed by volatile and atomic operations only.
unsafe impl Send for FramePage {}
// SAFETY: as above.
unsafe impl Sync for FramePage {}

fn memory_file(name: &str, bytes: u64) -> Result<File, SetupError> {
    let file: File = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC)
        .map_err(|e| SetupError::memory(e.into()))?
        .into();
    file.set_len(bytes).map_err(SetupError::memory)?;
    Ok(file)
}

fn region(
    file: File,
    offset: u64,
    bytes: u64,
    base: u64,
) -> Result<GuestRegionMmap<()>, SetupError> {
    let size = usize::try_from(bytes).map_err(|e| SetupError::memory(std::io::Error::other(e)))?;
    let map = MmapRegion::from_file(FileOffset::new(file, offset), size)
        .map_err(|e| SetupError::memory(std::io::Error::other(e)))?;
    GuestRegionMmap::new(map, GuestAddress(base)).ok_or_else(|| {
        SetupError::memory(std::io::Error::other(
            "a region past the end of the address space",
        ))
    })
}

/// Sets a memory slot, by its number and flags; without bytes it is taken away.
fn set_slot(
    vm: &VmFd,
    (slot, flags): (u32, u32),
    gpa: u64,
    bytes: u64,
    host: *mut u8,
) -> std::io::Result<()> {
    let region = kvm_userspace_memory_region {
        slot,
        flags,
        guest_phys_addr: gpa,
        memory_size: bytes,
        userspace_addr: host as u64,
    };
    // SAFETY: `host` is the start of a mapping of `bytes` bytes that `GuestRam` keeps for as long as the VM it belongs to runs, or as
    // the slot is there.
    unsafe { vm.set_user_memory_region(region) }
        .map_err(|e| std::io::Error::from_raw_os_error(e.errno()))
}

/// Maps a page of a file over a page of guest memory, at once.
fn map_over(at: NonNull<u8>, file: &File, offset: u64) -> Result<(), Errno> {
    // SAFETY: `at` is a whole page inside a region that `GuestRam` owns and only reaches by volatile accesses; the new mapping has
    // the same rights, so whoever holds the address still reads and writes mapped memory.
    unsafe {
        rustix::mm::mmap(
            at.as_ptr().cast(),
            PAGE_SIZE,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::SHARED | MapFlags::FIXED | MapFlags::NORESERVE,
            file,
            offset,
        )
    }
    .map(drop)
    .map_err(|_| Errno::ENOMEM)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kvm::vm;

    /// Memory is taken as it is touched: this takes none.
    #[test]
    fn kvm_there_may_be_ram_on_both_sides_of_the_hole() {
        if !std::path::Path::new("/dev/kvm").exists() {
            eprintln!("SKIPPED: /dev/kvm: no KVM here");
            return;
        }
        let bytes = 5 << 30;
        let frames = PvFrames::new(0x400, bytes >> PAGE_SHIFT);
        for (places, last) in [
            (Places::pvh(bytes), Gfn((6 << 18) - 1)),
            (Places::pv(frames), Gfn(frames.end() - 1)),
        ] {
            let vm = Arc::new(vm::create(&vm::open().unwrap()).unwrap());
            let grace = Arc::new(Grace::new().unwrap());
            let ram = GuestRam::new(vm, places, (4, 0), grace).unwrap();
            assert_eq!(ram.max_pages(), bytes >> PAGE_SHIFT);
            let end = last.addr().unwrap() + PAGE_SIZE as u64;
            assert_eq!(ram.write(end - 1, &[7]), Ok(()));
            assert_eq!(ram.write(end, &[7]), Err(Errno::EFAULT));
            // The hole.
            assert_eq!(ram.write(layout::LOW_RAM_LIMIT, &[7]), Err(Errno::EFAULT));
        }
    }
}
