//! A back end's first steps: its windows onto the memory of its guests.

// UNSAFETY: maps memory files and hands the mappings' page tables to the broker.
#![expect(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;

use cantle_abi::PAGE_SIZE;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous};

use super::bounce::Bounce;
use super::confine::{ConfineError, Confinement};
use super::mapper::ProcessMapper;
use super::protocol::{self, BadMessage, Kind, MAX_MESSAGE, Outgoing, WindowPlace, WindowSize};
use super::socket;
use super::uffd::Uffd;

/// Address space below the windows in which nothing is: see `filter.rs`.
pub(super) const GUARD: usize = 4 << 30;

/// Why a back end could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The socket failed.
    #[error("the broker cannot be reached")]
    Socket(#[source] io::Error),
    /// The broker closed the socket: it will not serve this process.
    #[error("the broker refused")]
    Refused,
    /// What came is not what a broker says.
    #[error(transparent)]
    BadMessage(#[from] BadMessage),
    /// The memory cannot be mapped.
    #[error("cannot map the guests' memory")]
    Map(#[source] io::Error),
    /// There is no userfaultfd, or it cannot do what is needed.
    #[error("no userfaultfd for the windows")]
    Userfaultfd(#[source] io::Error),
    /// The process cannot be confined.
    #[error(transparent)]
    Confine(#[from] ConfineError),
}

/// A window onto a file of a guest's memory: the same pages twice.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub(super) len: usize,
    pub(super) read_write: NonNull<u8>,
    pub(super) read_only: NonNull<u8>,
}

impl Window {
    /// A page of it; `None` beyond its end.
    pub(super) fn page(&self, page: u64, read_only: bool) -> Option<NonNull<u8>> {
        let offset = usize::try_from(page).ok()?.checked_mul(PAGE_SIZE)?;
        let base = if read_only {
            self.read_only
        } else {
            self.read_write
        };
        // SAFETY: within the window.
        (offset < self.len).then(|| unsafe { base.add(offset) })
    }
}

/// A back end's process between its start and its confinement, when it still does only what its author wrote: it has windows onto the
/// memory of its guests, with nothing in them.
///
/// The program opens here what it will need (images, taps, rings), and then [confines](Self::confine) itself. It looks at nothing that a guest
/// or anybody else can have written before that.
#[derive(Debug)]
pub struct Setup {
    pub(super) socket: OwnedFd,
    pub(super) uffd: Uffd,
    pub(super) windows: Vec<Window>,
    /// From the guard's start to the last window's end.
    pub(super) arena: Range<usize>,
    pub(super) bounce: Bounce,
}

impl Setup {
    /// Takes the memory from the broker at the other end of the socket, maps it, gives the page tables into the broker's hands, and keeps no
    /// descriptor of the memory. Waits for the broker's first word.
    ///
    /// # Errors
    ///
    /// [`SetupError`]; the process should end then.
    pub fn receive(socket: OwnedFd) -> Result<Self, SetupError> {
        let mut room = [0; MAX_MESSAGE];
        let (message, mut fds) = socket::receive_fds(socket.as_fd(), &mut room)
            .map_err(SetupError::Socket)?
            .ok_or(SetupError::Refused)?;
        let (header, sizes) = protocol::parse::<WindowSize>(message)?;
        if header.kind != Kind::HELLO || fds.len() != sizes.count() + 1 {
            return Err(BadMessage.into());
        }
        let files = fds.split_off(1);
        let bounce = fds.pop().ok_or(BadMessage)?;
        let bounce = Bounce::map(bounce).map_err(SetupError::Map)?;
        let lens: Vec<usize> = sizes
            .iter()
            .map(|size| checked(size.len))
            .collect::<Result<_, _>>()?;

        let (arena, windows) = map_windows(&lens, files).map_err(SetupError::Map)?;
        let uffd = Uffd::new().map_err(SetupError::Userfaultfd)?;
        let mut places = Outgoing::new(Kind::READY, header.seq);
        for window in &windows {
            let place = WindowPlace {
                read_write: window.read_write.addr().get() as u64,
                read_only: window.read_only.addr().get() as u64,
            };
            for start in [place.read_write, place.read_only] {
                uffd.register(start, window.len as u64)
                    .map_err(SetupError::Userfaultfd)?;
            }
            places.push(place)?;
        }
        let pagemap = File::open("/proc/self/pagemap").map_err(SetupError::Socket)?;
        let handed = [uffd.as_fd(), pagemap.as_fd()];
        socket::send(socket.as_fd(), places.as_bytes(), &handed, true)
            .map_err(SetupError::Socket)?;
        Ok(Self {
            socket,
            uffd,
            windows,
            arena,
            bounce,
        })
    }

    /// Confines the process for good, and begins to be served. From here on it may be subverted: see the [module](super).
    ///
    /// # Errors
    ///
    /// [`SetupError`], [`Refused`](SetupError::Refused) where the broker found something wrong; the process should end then.
    pub fn confine(self, confinement: &Confinement<'_>) -> Result<ProcessMapper, SetupError> {
        confinement.apply(self.arena.clone(), self.uffd.raw())?;
        ProcessMapper::begin(self)
    }

    /// Begins to be served without any confinement, by a broker that was told to: what tests show the holes by.
    ///
    /// # Errors
    ///
    /// As [`confine`](Self::confine).
    #[cfg(any(test, feature = "test-utils"))]
    pub fn unconfined(self) -> Result<ProcessMapper, SetupError> {
        ProcessMapper::begin(self)
    }
}

fn checked(len: u64) -> Result<usize, BadMessage> {
    let len = usize::try_from(len).map_err(|_| BadMessage)?;
    if len == 0 || !len.is_multiple_of(PAGE_SIZE) {
        return Err(BadMessage);
    }
    Ok(len)
}

/// Maps each file twice, all of them in one place with nothing between. Closes the files.
fn map_windows(lens: &[usize], files: Vec<OwnedFd>) -> io::Result<(Range<usize>, Vec<Window>)> {
    let too_large = || io::Error::from(io::ErrorKind::OutOfMemory);
    let total = lens
        .iter()
        .try_fold(GUARD, |sum, len| sum.checked_add(len.checked_mul(2)?))
        .ok_or_else(too_large)?;
    let none = ProtFlags::empty();
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
    // SAFETY: a new mapping, at a place that the kernel chooses.
    let start = unsafe { mmap_anonymous(std::ptr::null_mut(), total, none, flags) }?;
    let start = NonNull::new(start.cast::<u8>()).ok_or_else(too_large)?;
    let mut offset = GUARD;
    let mut windows = Vec::new();
    for (len, file) in lens.iter().zip(&files) {
        let mut map = |prot| {
            // SAFETY: within what was reserved, by the sum above.
            let at = unsafe { start.add(offset) };
            offset += len;
            map_window(at, *len, prot, file).map(|()| at)
        };
        windows.push(Window {
            len: *len,
            read_write: map(ProtFlags::READ | ProtFlags::WRITE)?,
            read_only: map(ProtFlags::READ)?,
        });
    }
    let start = start.addr().get();
    Ok((start..start + total, windows))
}

fn map_window(at: NonNull<u8>, len: usize, prot: ProtFlags, file: &OwnedFd) -> io::Result<()> {
    let flags = MapFlags::SHARED | MapFlags::FIXED | MapFlags::NORESERVE;
    let at = at.as_ptr().cast();
    // SAFETY: over a part of our own reservation, which nothing points into.
    unsafe { mmap(at, len, prot, flags, file, 0) }?;
    // Not at once entered as one large page with its neighbours; not in a child; not in a dump.
    for advice in [
        Advice::LinuxNoHugepage,
        Advice::LinuxDontFork,
        Advice::LinuxDontDump,
    ] {
        // SAFETY: these change no contents.
        match unsafe { madvise(at, len, advice) } {
            // A kernel without huge pages does not know the first of them, and needs it not.
            Err(rustix::io::Errno::INVAL) if advice == Advice::LinuxNoHugepage => {}
            other => other?,
        }
    }
    Ok(())
}
