//! An io_uring with the requests in it.

// UNSAFETY: the kernel is given addresses of memory that it reads and writes later, on its own.
#![expect(unsafe_code)]

mod flight;

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Error, Result};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;

use cantle_abi::SharedMemory;
use io_uring::types::Fd;
use io_uring::{IoUring, opcode};

use crate::{BufferId, Completion, Durability, Io};
use flight::Flight;
pub(crate) use flight::Piece;

/// The completion of the poll of the wake-up descriptor; every other is the index of a flight.
const WAKE: u64 = u64::MAX;
/// The completion of the poll of [`Uring::attach`]'s descriptor.
const ATTACHED: u64 = u64::MAX - 1;
/// Files that can be registered.
const FILES: usize = 64;
/// Pieces of memory that can be registered.
const BUFFERS: u16 = 1024;

pub(crate) struct Uring {
    /// Before `flights`, so that the kernel has let go of everything when they are dropped.
    uring: IoUring,
    flights: Vec<Flight>,
    free: Vec<u32>,
    /// Flights that the kernel has not seen yet.
    queued: VecDeque<u32>,
    /// How many flights the kernel has. The completion queue holds as many and the polls', so it never overflows.
    in_kernel: usize,
    depth: usize,
    durability: Durability,
    /// What is over and not collected.
    done: Vec<(Completion, Tag)>,
    wake: Wake,
    attached: Option<RawFd>,
    attached_wake: Wake,
    /// Registered with the ring, at the same places.
    files: Vec<Arc<File>>,
    buffers: Buffers,
}

/// What the owner of a request remembers with it.
pub(crate) type Tag = u8;

/// Numbers of registered memory that are free.
enum Buffers {
    /// Nobody has asked yet.
    Unknown,
    /// The kernel knows no such table, or has no room for it.
    None,
    Free(Vec<u16>),
}

/// The poll of a descriptor.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wake {
    Idle,
    Armed,
    Fired,
}

impl Uring {
    /// An io_uring for `files`, with up to `depth` requests in the kernel at a time.
    pub(crate) fn new(files: Vec<Arc<File>>, depth: u16, durability: Durability) -> Result<Self> {
        let depth = depth.clamp(1, 4096);
        // Two more than requests: the polls.
        let entries = (u32::from(depth) + 2).next_power_of_two();
        let uring = IoUring::builder()
            // Completions need not interrupt this thread: it comes to the kernel by itself. Linux 5.19.
            .setup_coop_taskrun()
            .setup_cqsize(entries * 2)
            .build(entries)
            .or_else(|_| IoUring::builder().setup_cqsize(entries * 2).build(entries))?;
        let mut places = [-1; FILES];
        for (place, file) in places.iter_mut().zip(&files) {
            *place = file.as_raw_fd();
        }
        if files.len() > FILES {
            return Err(Error::from_raw_os_error(libc::ENFILE));
        }
        uring.submitter().register_files(&places)?;
        Ok(Self {
            uring,
            flights: Vec::new(),
            free: Vec::new(),
            queued: VecDeque::new(),
            in_kernel: 0,
            depth: usize::from(depth),
            durability,
            done: Vec::new(),
            wake: Wake::Idle,
            attached: None,
            attached_wake: Wake::Idle,
            files,
            buffers: Buffers::Unknown,
        })
    }

    /// Whether requests are under way.
    pub(crate) fn busy(&self) -> bool {
        self.in_kernel != 0 || !self.queued.is_empty()
    }

    /// How many files are known.
    pub(crate) fn files(&self) -> usize {
        self.files.len()
    }

    /// Makes one more file known, at the next place.
    pub(crate) fn add_file(&mut self, file: Arc<File>) -> Result<()> {
        let place = u32::try_from(self.files.len()).unwrap_or(u32::MAX);
        let submitter = self.uring.submitter();
        match submitter.register_files_update(place, &[file.as_raw_fd()]) {
            Ok(1) => {
                self.files.push(file);
                Ok(())
            }
            Ok(_) => Err(Error::from_raw_os_error(libc::ENFILE)),
            Err(error) => Err(error),
        }
    }

    /// Wakes [`wait`](Self::wait), and makes the ring's descriptor readable, when `fd` is readable, from now on.
    ///
    /// The caller keeps `fd` open for as long as this lives.
    pub(crate) fn attach(&mut self, fd: BorrowedFd<'_>) -> Result<()> {
        self.attached = Some(fd.as_raw_fd());
        self.submit()
    }

    /// Whether the attached descriptor has become readable since the last call.
    pub(crate) fn take_attached(&mut self) -> bool {
        let fired = self.attached_wake == Wake::Fired;
        if fired {
            self.attached_wake = Wake::Idle;
        }
        fired
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the ring keeps its descriptor open for as long as `self` is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.uring.as_raw_fd()) }
    }

    /// Keeps a completion of a request that never went to the kernel.
    pub(crate) fn refuse(&mut self, completion: Completion, tag: Tag) {
        self.done.push((completion, tag));
    }

    /// Takes a request whose bytes lie in these pieces of files, one after the other. All are within what the files may hold. A flush
    /// has one piece, whose file is meant.
    pub(crate) fn queue(&mut self, io: Io, tag: Tag, pieces: impl IntoIterator<Item = Piece>) {
        let index = self.free.pop().unwrap_or_else(|| {
            self.flights.push(Flight::default());
            u32::try_from(self.flights.len() - 1).unwrap_or(u32::MAX)
        });
        let Some(flight) = self.flights.get_mut(index as usize) else {
            // Four thousand million requests in flight do not fit in memory.
            return;
        };
        flight.begin(io, tag, pieces);
        self.queued.push_back(index);
    }

    /// Makes memory known; its number.
    pub(crate) fn register(
        &mut self,
        memory: &(dyn SharedMemory + Send + Sync),
    ) -> Option<BufferId> {
        if matches!(self.buffers, Buffers::Unknown) {
            let made = self
                .uring
                .submitter()
                .register_buffers_sparse(BUFFERS.into());
            self.buffers = match made {
                Ok(()) => Buffers::Free((0..BUFFERS).rev().collect()),
                Err(_) => Buffers::None,
            };
        }
        let Buffers::Free(free) = &mut self.buffers else {
            return None;
        };
        let number = free.pop()?;
        let vector = libc::iovec {
            iov_base: memory.as_ptr().as_ptr().cast(),
            iov_len: memory.len(),
        };
        // SAFETY: the memory is mapped, and its owner keeps it so until `unregister`; the kernel holds on to its pages besides.
        let made = unsafe {
            self.uring
                .submitter()
                .register_buffers_update(number.into(), &[vector], None)
        };
        if made.is_err() {
            free.push(number);
            return None;
        }
        Some(BufferId(number))
    }

    /// Forgets memory.
    pub(crate) fn unregister(&mut self, buffer: BufferId) {
        let nothing = libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        };
        // SAFETY: an empty place has no address.
        let gone = unsafe {
            self.uring
                .submitter()
                .register_buffers_update(buffer.0.into(), &[nothing], None)
        };
        if let (Ok(_), Buffers::Free(free)) = (gone, &mut self.buffers) {
            free.push(buffer.0);
        }
    }

    /// Moves what is queued to the submission queue; whether anything is there.
    fn fill(&mut self) -> bool {
        if let Some(fd) = self.attached
            && self.attached_wake == Wake::Idle
            && self.push_poll(fd, ATTACHED)
        {
            self.attached_wake = Wake::Armed;
        }
        let durability = self.durability;
        let mut sq = self.uring.submission();
        while self.in_kernel < self.depth
            && let Some(index) = self.queued.pop_front()
        {
            let Some(entry) = self
                .flights
                .get_mut(index as usize)
                .and_then(|flight| flight.entry(durability))
            else {
                continue;
            };
            // SAFETY: the entry's addresses are those of the flight's iovecs and of the memory that its `Io` owns, or of a constant.
            // Neither is touched until the completion comes, and `drop` waits for that.
            let pushed = unsafe { sq.push(&entry.user_data(u64::from(index))) };
            if pushed.is_err() {
                self.queued.push_front(index);
                break;
            }
            self.in_kernel += 1;
        }
        !sq.is_empty()
    }

    fn push_poll(&mut self, fd: RawFd, name: u64) -> bool {
        let poll = opcode::PollAdd::new(Fd(fd), libc::POLLIN.cast_unsigned().into());
        // SAFETY: a poll has no addresses; the descriptor is open, and the kernel takes its own hold on the file.
        unsafe { self.uring.submission().push(&poll.build().user_data(name)) }.is_ok()
    }

    pub(crate) fn submit(&mut self) -> Result<()> {
        if self.fill() { self.enter(0) } else { Ok(()) }
    }

    /// Enters the kernel; a signal or a shortage there is no error, since the caller comes again.
    fn enter(&self, want: usize) -> Result<()> {
        match self.uring.submit_and_wait(want) {
            Ok(_) => Ok(()),
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)
                ) =>
            {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Submits, sleeps until something is over, the attached descriptor or `wake` is readable, and says whether the last.
    pub(crate) fn wait(&mut self, wake: Option<BorrowedFd<'_>>) -> Result<bool> {
        self.reap();
        let more = self.fill();
        // A descriptor that fired earlier counts for a caller that gives one; another would spin on it.
        let awake = (wake.is_some() && self.wake == Wake::Fired)
            || !self.done.is_empty()
            || self.attached_wake == Wake::Fired;
        if awake {
            if more {
                self.enter(0)?;
            }
        } else {
            if let Some(fd) = wake
                && self.wake == Wake::Idle
                && self.push_poll(fd.as_raw_fd(), WAKE)
            {
                self.wake = Wake::Armed;
            }
            if self.in_kernel == 0 && self.wake != Wake::Armed && self.attached_wake != Wake::Armed
            {
                // Nothing could ever wake us.
                return Ok(false);
            }
            self.enter(1)?;
            self.reap();
        }
        let fired = wake.is_some() && self.wake == Wake::Fired;
        if fired {
            self.wake = Wake::Idle;
        }
        Ok(fired)
    }

    /// Gives what is over to `done`, with what was remembered with it.
    pub(crate) fn collect(&mut self, mut done: impl FnMut(Completion, Tag)) {
        self.reap();
        for (completion, tag) in self.done.drain(..) {
            done(completion, tag);
        }
    }

    /// Looks at all that the kernel has finished.
    fn reap(&mut self) {
        for entry in self.uring.completion() {
            match entry.user_data() {
                WAKE => {
                    self.wake = Wake::Fired;
                    continue;
                }
                ATTACHED => {
                    self.attached_wake = Wake::Fired;
                    continue;
                }
                _ => {}
            }
            let index = u32::try_from(entry.user_data()).unwrap_or(u32::MAX);
            let Some(flight) = self.flights.get_mut(index as usize) else {
                continue;
            };
            self.in_kernel = self.in_kernel.saturating_sub(1);
            match flight.advance(entry.result()) {
                None => self.queued.push_back(index),
                Some(result) => {
                    if let Some((io, tag)) = flight.take() {
                        self.free.push(index);
                        self.done.push((Completion { io, result }, tag));
                    }
                }
            }
        }
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        self.queued.clear();
        while self.in_kernel > 0 {
            // Without these the kernel would write to memory that is somebody else's by then.
            if let Err(error) = self.enter(1) {
                tracing::error!(%error, in_flight = self.in_kernel, "io_uring does not finish; its memory is leaked");
                std::mem::forget(std::mem::take(&mut self.flights));
                return;
            }
            self.reap();
            self.queued.clear();
        }
    }
}
