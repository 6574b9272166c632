//! io_uring for a confined back end: its operations pass by the filter of system calls, so a ring has a list of its own.

// UNSAFETY: a system call that no library of ours wraps.
#![expect(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use zerocopy::{Immutable, IntoBytes};

const REGISTER_RESTRICTIONS: u32 = 11;
const REGISTER_ENABLE_RINGS: u32 = 12;
/// `IORING_RESTRICTION_SQE_OP`, `IORING_RESTRICTION_SQE_FLAGS_ALLOWED`.
const SQE_OP: u16 = 1;
const SQE_FLAGS_ALLOWED: u16 = 2;

/// Plain I/O on descriptors that are there, polls, timeouts and cancellation. Not what opens, closes, passes on, maps or advises, nor what
/// keeps buffers beyond an operation.
const OPERATIONS: [u8; 16] = [
    0,  // NOP
    1,  // READV
    2,  // WRITEV
    3,  // FSYNC
    4,  // READ_FIXED, with buffers that were registered before: of the program's own memory
    5,  // WRITE_FIXED
    6,  // POLL_ADD
    7,  // POLL_REMOVE
    8,  // SYNC_FILE_RANGE
    11, // TIMEOUT
    12, // TIMEOUT_REMOVE
    14, // ASYNC_CANCEL
    15, // LINK_TIMEOUT
    17, // FALLOCATE
    22, // READ
    23, // WRITE
];

/// `struct io_uring_restriction`.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Restriction {
    opcode: u16,
    what: u8,
    reserved: u8,
    reserved2: [u32; 3],
}

/// Lets a ring that was made with `IORING_SETUP_R_DISABLED` do only that from now on, and enables it.
pub(super) fn restrict(ring: BorrowedFd<'_>) -> io::Result<()> {
    let restriction = |opcode, what| Restriction {
        opcode,
        what,
        reserved: 0,
        reserved2: [0; 3],
    };
    let mut list: Vec<Restriction> = OPERATIONS
        .iter()
        .map(|operation| restriction(SQE_OP, *operation))
        .collect();
    // How operations are ordered and their files found.
    list.push(restriction(SQE_FLAGS_ALLOWED, 0x7f));
    register(ring, REGISTER_RESTRICTIONS, &list)?;
    register(ring, REGISTER_ENABLE_RINGS, &[])
}

fn register(ring: BorrowedFd<'_>, what: u32, list: &[Restriction]) -> io::Result<()> {
    let pointer = if list.is_empty() {
        std::ptr::null()
    } else {
        list.as_ptr()
    };
    // SAFETY: the kernel reads as many structures as are there.
    let done = unsafe {
        libc::syscall(
            libc::SYS_io_uring_register,
            ring.as_raw_fd(),
            what,
            pointer,
            list.len(),
        )
    };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
