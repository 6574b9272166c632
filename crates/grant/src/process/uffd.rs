//! userfaultfd: who fills another process's page tables.

// UNSAFETY: ioctls whose structures must be what the kernel expects.
#![expect(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use cantle_abi::PAGE_SIZE;
use rustix::io::Errno;
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};
use rustix::mm::{UserfaultfdFlags, userfaultfd};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// `UFFD_API`, the only one.
const API: u64 = 0xaa;
const FEATURE_MISSING_SHMEM: u64 = 1 << 5;
const FEATURE_MINOR_SHMEM: u64 = 1 << 10;
const FEATURE_POISON: u64 = 1 << 14;
const MODE_MISSING: u64 = 1 << 0;
const MODE_MINOR: u64 = 1 << 2;
const EVENT_PAGEFAULT: u8 = 0x12;

/// `struct uffdio_api`.
#[derive(FromZeros, IntoBytes, Immutable)]
#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

/// `struct uffdio_range`.
#[derive(FromZeros, IntoBytes, Immutable)]
#[repr(C)]
struct Range {
    start: u64,
    len: u64,
}

/// `struct uffdio_register`.
#[derive(FromZeros, IntoBytes, Immutable)]
#[repr(C)]
struct Register {
    range: Range,
    mode: u64,
    ioctls: u64,
}

/// `struct uffdio_continue`, `struct uffdio_poison`: both end with what was done, in bytes, or a negative errno.
#[derive(FromZeros, IntoBytes, Immutable)]
#[repr(C)]
struct Fill {
    range: Range,
    mode: u64,
    done: i64,
}

/// `struct uffd_msg`, as a page fault has it.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy)]
#[repr(C)]
struct Message {
    event: u8,
    reserved: [u8; 7],
    flags: u64,
    address: u64,
    thread: u64,
}

const _: () = assert!(size_of::<Message>() == 32 && size_of::<Fill>() == 32);

const IOCTL_API: Opcode = opcode::read_write::<Api>(0xaa, 0x3f);
const IOCTL_REGISTER: Opcode = opcode::read_write::<Register>(0xaa, 0x00);
const IOCTL_WAKE: Opcode = opcode::read::<Range>(0xaa, 0x02);
const IOCTL_CONTINUE: Opcode = opcode::read_write::<Fill>(0xaa, 0x07);
const IOCTL_POISON: Opcode = opcode::read_write::<Fill>(0xaa, 0x08);

/// A userfaultfd.
#[derive(Debug)]
pub(super) struct Uffd(OwnedFd);

/// What the kernel's userfaultfd can do beyond what is asked of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Abilities {
    /// `UFFDIO_POISON`, from Linux 6.6.
    pub(super) poison: bool,
}

/// Why a page was not entered into a page table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotFilled {
    /// Something is there already: the page itself, or poison.
    Occupied,
    /// The file has no page there yet.
    Hole,
    /// The window is not there any more, or the process is not.
    Gone,
    /// The mapping changes just now: again.
    Again,
    /// Another error.
    Failed(Errno),
}

impl Uffd {
    /// One for this process's memory, that can do what the windows need.
    pub(super) fn new() -> io::Result<Self> {
        let (_, offered) = Self::open(0)?;
        let wanted = FEATURE_MISSING_SHMEM | FEATURE_MINOR_SHMEM;
        if offered & wanted != wanted {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "userfaultfd has no minor faults of shared memory (Linux 5.14)",
            ));
        }
        // Features are asked for once in a descriptor's life.
        let (fd, _) = Self::open(wanted | (offered & FEATURE_POISON))?;
        Ok(fd)
    }

    fn open(features: u64) -> io::Result<(Self, u64)> {
        let flags = UserfaultfdFlags::CLOEXEC | UserfaultfdFlags::NONBLOCK;
        // SAFETY: a new descriptor; nothing is registered by it yet.
        let fd = Self(unsafe { userfaultfd(flags) }?);
        let mut api = Api {
            api: API,
            features,
            ioctls: 0,
        };
        fd.update::<IOCTL_API, _>(&mut api)?;
        Ok((fd, api.features))
    }

    /// One that came from another process, as [`new`](Self::new) made it there.
    pub(super) fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    pub(super) fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// From now on a page of this range is entered by [`fill`](Self::fill) only.
    pub(super) fn register(&self, start: u64, len: u64) -> io::Result<Abilities> {
        let mut register = Register {
            range: Range { start, len },
            mode: MODE_MISSING | MODE_MINOR,
            ioctls: 0,
        };
        self.update::<IOCTL_REGISTER, _>(&mut register)?;
        Ok(Abilities {
            poison: register.ioctls & (1 << 0x08) != 0,
        })
    }

    /// Enters the file's pages into the page table (`UFFDIO_CONTINUE`); wakes who waits for them. On failure also says how
    /// many bytes were done before it.
    pub(super) fn fill(&self, start: u64, len: u64) -> Result<(), (u64, NotFilled)> {
        self.fill_by::<IOCTL_CONTINUE>(start, len)
    }

    /// Makes a page one whose use ends in `SIGBUS` or `EFAULT` (`UFFDIO_POISON`).
    pub(super) fn poison(&self, page: u64) -> Result<(), NotFilled> {
        self.fill_by::<IOCTL_POISON>(page, PAGE_SIZE as u64)
            .map_err(|(_, why)| why)
    }

    fn fill_by<const OPCODE: Opcode>(&self, start: u64, len: u64) -> Result<(), (u64, NotFilled)> {
        let mut fill = Fill {
            range: Range { start, len },
            mode: 0,
            done: 0,
        };
        let Err(errno) = self.update::<OPCODE, _>(&mut fill) else {
            return Ok(());
        };
        let why = match errno {
            Errno::EXIST => NotFilled::Occupied,
            Errno::FAULT => NotFilled::Hole,
            Errno::NOENT | Errno::SRCH | Errno::INVAL => NotFilled::Gone,
            // Some pages were done: it goes on from there.
            Errno::AGAIN => NotFilled::Again,
            other => NotFilled::Failed(other),
        };
        Err((u64::try_from(fill.done).unwrap_or(0), why))
    }

    /// Lets those who wait for a page look again (`UFFDIO_WAKE`).
    pub(super) fn wake(&self, page: u64) -> Result<(), Errno> {
        let mut range = Range {
            start: page,
            len: PAGE_SIZE as u64,
        };
        self.update::<IOCTL_WAKE, _>(&mut range)
    }

    /// The addresses of the next faults; none when there are none now. At most as many as `room` has.
    pub(super) fn faults<'a>(&self, room: &'a mut [u64; MAX_FAULTS]) -> io::Result<&'a [u64]> {
        let mut messages = [Message::new_zeroed(); MAX_FAULTS];
        let bytes = match rustix::io::read(&self.0, messages.as_mut_bytes()) {
            Ok(bytes) => bytes,
            Err(Errno::AGAIN | Errno::INTR) => 0,
            Err(errno) => return Err(errno.into()),
        };
        let mut found = 0;
        let whole = messages.iter().take(bytes / size_of::<Message>());
        let addresses = whole
            .filter(|message| message.event == EVENT_PAGEFAULT)
            .map(|message| message.address);
        for (room, address) in room.iter_mut().zip(addresses) {
            *room = address;
            found += 1;
        }
        Ok(room.get(..found).unwrap_or_default())
    }

    fn update<const OPCODE: Opcode, T>(&self, value: &mut T) -> Result<(), Errno> {
        // SAFETY: the codes above are made with the very structures that they are used with here, which are the kernel's. What
        // they do is to enter pages of a file into a mapping of that file: its holder reaches it by volatile accesses only.
        unsafe { ioctl(&self.0, Updater::<OPCODE, T>::new(value)) }
    }
}

/// Faults that are taken at a time.
pub(super) const MAX_FAULTS: usize = 16;

impl AsFd for Uffd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
