//! An io_uring with the requests in it.

// UNSAFETY: the kernel is given addresses of memory that it reads and writes later, on its own.
#![expect(unsafe_code)]

use std::collections::VecDeque;
use std::fs::File;
use std::io::Result;
use std::os::fd::{AsRawFd, BorrowedFd};

use io_uring::squeue::Entry;
use io_uring::types::{Fd, Fixed};
use io_uring::{IoUring, opcode};

use crate::image::{Completion, ImageError, Io, IoOp, SECTOR_SIZE};

/// The completion of the poll of the wake-up descriptor; every other is the index of a flight.
const WAKE: u64 = u64::MAX;
/// How often a request is tried again that was interrupted.
const RETRIES: u8 = 16;
/// The only registered file.
const IMAGE: Fixed = Fixed(0);

/// A request on its way, at a fixed place in [`Uring::flights`] until it is over.
#[derive(Default)]
struct Flight {
    /// `None`: the place is free.
    io: Option<Io>,
    /// Where the kernel transfers to or from: the request's segments less what is done, merged where they touch.
    iovecs: Vec<libc::iovec>,
    /// Bytes transferred so far.
    done: usize,
    retries: u8,
}

// SAFETY: the addresses in `iovecs` belong to `io`, which may go to another thread itself.
unsafe impl Send for Flight {}

pub(super) struct Uring {
    /// Before `flights`, so that the kernel has let go of everything when they are dropped.
    uring: IoUring,
    flights: Vec<Flight>,
    free: Vec<u32>,
    /// Flights that the kernel has not seen yet.
    queued: VecDeque<u32>,
    /// How many flights the kernel has. The completion queue holds as many and the poll's, so it never overflows.
    in_kernel: usize,
    depth: usize,
    /// What is over and not collected.
    done: Vec<Completion>,
    wake: Wake,
    /// Registered with the ring, and the descriptor behind it.
    _file: File,
}

/// The poll of the wake-up descriptor.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wake {
    Idle,
    Armed,
    Fired,
}

impl Uring {
    /// An io_uring for `file`, with up to `depth` requests in the kernel at a time.
    pub(super) fn new(file: File, depth: u16) -> Result<Self> {
        let depth = depth.clamp(1, 4096);
        // One more than requests: the poll of the wake-up descriptor.
        let entries = (u32::from(depth) + 1).next_power_of_two();
        let uring = IoUring::builder()
            // Completions need not interrupt this thread: it comes to the kernel by itself. Linux 5.19.
            .setup_coop_taskrun()
            .setup_cqsize(entries * 2)
            .build(entries)
            .or_else(|_| IoUring::builder().setup_cqsize(entries * 2).build(entries))?;
        uring.submitter().register_files(&[file.as_raw_fd()])?;
        Ok(Self {
            uring,
            flights: Vec::new(),
            free: Vec::new(),
            queued: VecDeque::new(),
            in_kernel: 0,
            depth: usize::from(depth),
            done: Vec::new(),
            wake: Wake::Idle,
            _file: file,
        })
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the ring keeps its descriptor open for as long as `self` is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.uring.as_raw_fd()) }
    }

    /// Keeps a completion of a request that never went to the kernel.
    pub(super) fn refuse(&mut self, completion: Completion) {
        self.done.push(completion);
    }

    /// Takes a request that is within the disk.
    pub(super) fn queue(&mut self, io: Io) {
        let index = self.free.pop().unwrap_or_else(|| {
            self.flights.push(Flight::default());
            u32::try_from(self.flights.len() - 1).unwrap_or(u32::MAX)
        });
        let Some(flight) = self.flights.get_mut(index as usize) else {
            // Four thousand million requests in flight do not fit in memory.
            return;
        };
        flight.io = Some(io);
        flight.done = 0;
        flight.retries = 0;
        self.queued.push_back(index);
    }

    /// Moves what is queued to the submission queue; whether anything is there.
    fn fill(&mut self) -> bool {
        let mut sq = self.uring.submission();
        while self.in_kernel < self.depth
            && let Some(index) = self.queued.pop_front()
        {
            let Some(entry) = self.flights.get_mut(index as usize).and_then(Flight::entry) else {
                continue;
            };
            // SAFETY: the entry's addresses are those of the flight's iovecs and of the memory that its `Io` owns. Neither is
            // touched until the completion comes, and `drop` waits for that.
            let pushed = unsafe { sq.push(&entry.user_data(u64::from(index))) };
            if pushed.is_err() {
                self.queued.push_front(index);
                break;
            }
            self.in_kernel += 1;
        }
        !sq.is_empty()
    }

    pub(super) fn submit(&mut self) -> Result<()> {
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

    /// Submits, sleeps until something is over or `wake` is readable, and says whether the latter.
    pub(super) fn wait(&mut self, wake: Option<BorrowedFd<'_>>) -> Result<bool> {
        self.reap();
        let more = self.fill();
        // A descriptor that fired earlier counts for a caller that gives one; another would spin on it.
        let awake = (wake.is_some() && self.wake == Wake::Fired) || !self.done.is_empty();
        if awake {
            if more {
                self.enter(0)?;
            }
        } else {
            if let Some(fd) = wake
                && self.wake == Wake::Idle
            {
                let poll =
                    opcode::PollAdd::new(Fd(fd.as_raw_fd()), libc::POLLIN.cast_unsigned().into());
                // SAFETY: a poll has no addresses; the descriptor is borrowed, and the kernel takes its own hold on the file.
                if unsafe { self.uring.submission().push(&poll.build().user_data(WAKE)) }.is_ok() {
                    self.wake = Wake::Armed;
                }
            }
            if self.in_kernel == 0 && self.wake != Wake::Armed {
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

    pub(super) fn collect(&mut self, done: &mut Vec<Completion>) {
        self.reap();
        done.append(&mut self.done);
    }

    /// Looks at all that the kernel has finished.
    fn reap(&mut self) {
        for entry in self.uring.completion() {
            if entry.user_data() == WAKE {
                self.wake = Wake::Fired;
                continue;
            }
            let index = u32::try_from(entry.user_data()).unwrap_or(u32::MAX);
            let Some(flight) = self.flights.get_mut(index as usize) else {
                continue;
            };
            self.in_kernel = self.in_kernel.saturating_sub(1);
            match flight.advance(entry.result()) {
                None => self.queued.push_back(index),
                Some(result) => {
                    if let Some(io) = flight.io.take() {
                        self.free.push(index);
                        self.done.push(Completion { io, result });
                    }
                }
            }
        }
    }
}

impl Flight {
    /// The submission of what is left to do. `None` for a free place, which is never queued.
    fn entry(&mut self) -> Option<Entry> {
        let io = self.io.as_ref()?;
        // Checked to be on the disk, whose length in bytes fits in 64 bits.
        let start = io.sector().wrapping_mul(SECTOR_SIZE);
        let at = start.wrapping_add(self.done as u64);
        let op = io.op();
        if matches!(op, IoOp::Read | IoOp::Write) {
            gather(io, self.done, &mut self.iovecs);
        }
        let vectors = u32::try_from(self.iovecs.len()).unwrap_or(u32::MAX);
        let first = self.iovecs.first().filter(|_| vectors == 1);
        let one =
            first.and_then(|v| Some((v.iov_base.cast::<u8>(), u32::try_from(v.iov_len).ok()?)));
        Some(match (op, one) {
            (IoOp::Read, Some((base, len))) => {
                opcode::Read::new(IMAGE, base, len).offset(at).build()
            }
            (IoOp::Read, None) => opcode::Readv::new(IMAGE, self.iovecs.as_ptr(), vectors)
                .offset(at)
                .build(),
            (IoOp::Write, Some((base, len))) => {
                opcode::Write::new(IMAGE, base, len).offset(at).build()
            }
            (IoOp::Write, None) => opcode::Writev::new(IMAGE, self.iovecs.as_ptr(), vectors)
                .offset(at)
                .build(),
            (IoOp::Flush, _) => opcode::Fsync::new(IMAGE)
                .flags(io_uring::types::FsyncFlags::DATASYNC)
                .build(),
            (IoOp::Discard { sectors }, _) => {
                opcode::Fallocate::new(IMAGE, sectors.wrapping_mul(SECTOR_SIZE))
                    .offset(start)
                    .mode(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE)
                    .build()
            }
        })
    }

    /// Takes in the kernel's result; `None` where the rest is to be submitted.
    fn advance(&mut self, result: i32) -> Option<std::result::Result<(), ImageError>> {
        let Some(io) = self.io.as_ref() else {
            return Some(Ok(()));
        };
        let Ok(transferred) = usize::try_from(result) else {
            let errno = result.wrapping_neg();
            // The kernel cancels what a thread has in flight when that thread ends; the image goes on in another.
            let again = matches!(errno, libc::EINTR | libc::EAGAIN | libc::ECANCELED);
            if again && self.retries < RETRIES {
                self.retries += 1;
                return None;
            }
            return Some(Err(match errno {
                libc::EOPNOTSUPP => ImageError::Unsupported,
                errno => ImageError::Host(errno),
            }));
        };
        if !matches!(io.op(), IoOp::Read | IoOp::Write) {
            return Some(Ok(()));
        }
        self.done = self.done.saturating_add(transferred);
        let wanted = io.bytes();
        if self.done >= wanted {
            Some(Ok(()))
        } else if transferred == 0 {
            let done = self.done;
            Some(Err(ImageError::Short { done, wanted }))
        } else {
            None
        }
    }
}

/// The request's segments after the first `skip` bytes, as few vectors as possible.
fn gather(io: &Io, mut skip: usize, iovecs: &mut Vec<libc::iovec>) {
    iovecs.clear();
    for segment in io.segments() {
        let passed = skip.min(segment.len());
        skip -= passed;
        let len = segment.len() - passed;
        let base = segment.as_ptr().wrapping_add(passed);
        if len == 0 {
            continue;
        }
        match iovecs.last_mut() {
            Some(last) if last.iov_base.addr() + last.iov_len == base.addr() => last.iov_len += len,
            _ => iovecs.push(libc::iovec {
                iov_base: base.cast(),
                iov_len: len,
            }),
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
