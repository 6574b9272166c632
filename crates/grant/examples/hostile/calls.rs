//! Attempts by touching, and by system calls.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use cantle_abi::PAGE_SIZE;

use crate::backend::{Hostile, read, say, say_byte, write};
use crate::host::{DIRT, FRAMES, PUBLIC};

/// Makes a system call and says how it ended, by the name of its error.
pub(crate) fn call(what: &str, number: libc::c_long, args: [usize; 6]) -> Option<usize> {
    let [a, b, c, d, e, f] = args;
    // SAFETY: to do harm is what it is for.
    let done = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    match usize::try_from(done) {
        Ok(done) => {
            say(&format!("{what}: {done}"));
            Some(done)
        }
        Err(_) => {
            let error = io::Error::last_os_error();
            say(&format!(
                "{what}: {}",
                error.raw_os_error().map_or("?", errno)
            ));
            None
        }
    }
}

pub(crate) fn errno(number: i32) -> &'static str {
    match number {
        libc::EPERM => "EPERM",
        libc::ENOENT => "ENOENT",
        libc::EIO => "EIO",
        libc::EACCES => "EACCES",
        libc::EFAULT => "EFAULT",
        libc::EBUSY => "EBUSY",
        libc::EINVAL => "EINVAL",
        libc::ENOMEM => "ENOMEM",
        libc::ENOSYS => "ENOSYS",
        libc::EOPNOTSUPP => "EOPNOTSUPP",
        libc::EBADFD => "EBADFD",
        _ => "another error",
    }
}

/// What a descriptor is as an argument.
pub(crate) fn arg(fd: &impl AsRawFd) -> usize {
    usize::try_from(fd.as_raw_fd()).unwrap_or(usize::MAX)
}

/// Says so if the pipe has a secret in it.
pub(crate) fn look_into_pipe(hostile: &Hostile, len: usize) {
    let mut buffer = vec![0_u8; len];
    let args = [
        arg(&hostile.pipe.0),
        buffer.as_mut_ptr().addr(),
        len,
        0,
        0,
        0,
    ];
    if call("read the pipe", libc::SYS_read, args).is_some_and(|len| len > 0) {
        say_byte(buffer[0]);
    }
}

pub(crate) fn lent(hostile: &mut Hostile) {
    let page = hostile.page();
    write(page, 1);
    write(page.wrapping_add(PAGE_SIZE - 1), 2);
    let both = (read(page), read(page.wrapping_add(PAGE_SIZE - 1)));
    if both == (1, 2) && read(hostile.read_only_page()) == PUBLIC {
        say("LENT");
    }
}

pub(crate) fn read_beside(hostile: &mut Hostile) {
    say_byte(read(hostile.beside()));
}

pub(crate) fn write_beside(hostile: &mut Hostile) {
    write(hostile.beside(), DIRT);
    say("SEEN: written");
}

pub(crate) fn read_after_unmap(hostile: &mut Hostile) {
    let page = hostile.page();
    hostile.lent = None;
    say("unmapped");
    std::thread::sleep(Duration::from_millis(50));
    say_byte(read(page));
    say("SEEN: still mapped");
}

pub(crate) fn write_after_unmap(hostile: &mut Hostile) {
    let page = hostile.page();
    hostile.lent = None;
    say("unmapped");
    std::thread::sleep(Duration::from_millis(50));
    write(page, DIRT);
    say("SEEN: written");
}

/// The kernel as an accomplice: reads and writes beside the page on this process's behalf.
pub(crate) fn system_calls(hostile: &mut Hostile) {
    let beside = hostile.beside().addr();
    let (file, pipe) = (arg(&hostile.file), arg(&hostile.pipe.1));
    let vector = [libc::iovec {
        iov_base: hostile.beside().cast(),
        iov_len: PAGE_SIZE,
    }];
    let vector = vector.as_ptr().addr();
    if call("write", libc::SYS_write, [pipe, beside, 64, 0, 0, 0]).is_some() {
        look_into_pipe(hostile, 64);
    }
    if call("pwritev", libc::SYS_pwritev, [file, vector, 1, 0, 0, 0]).is_some() {
        say("SEEN: the file has it");
    }
    for (what, number, args) in [
        (
            "pread",
            libc::SYS_pread64,
            [file, beside, PAGE_SIZE, 0, 0, 0],
        ),
        ("preadv", libc::SYS_preadv, [file, vector, 1, 0, 0, 0]),
    ] {
        if call(what, number, args).is_some_and(|len| len > 0) {
            say("SEEN: written by the kernel");
        }
    }
    // From the lent page's end into the next: what is read of the first may come, no more.
    let across = hostile.page().wrapping_add(PAGE_SIZE - 16).addr();
    let args = [pipe, across, 64, 0, 0, 0];
    if call("write across", libc::SYS_write, args).is_some_and(|len| len > 16) {
        say("SEEN: beyond the end");
    }
}

pub(crate) fn threads(hostile: &mut Hostile) {
    let first = hostile.frame(0).addr();
    let pipe = hostile.pipe.1.as_raw_fd();
    let readers: Vec<_> = (0..4_usize)
        .map(|n| {
            std::thread::spawn(move || {
                (0..40).fold(0, |seen, page| {
                    let at = first + (n * 40 + page) * PAGE_SIZE;
                    // SAFETY: it fails.
                    let done = unsafe { libc::write(pipe, std::ptr::without_provenance(at), 1) };
                    seen + i32::from(done == 1)
                })
            })
        })
        .collect();
    let seen: i32 = readers
        .into_iter()
        .map(|reader| reader.join().expect("it ends"))
        .sum();
    say(&format!("{seen} of 160 pages read"));
    if seen > 0 {
        say("SEEN");
    }
}

pub(crate) fn exec(_: &mut Hostile) {
    let argv = [c"/bin/true".as_ptr(), std::ptr::null()];
    let args = [argv[0].addr(), argv.as_ptr().addr(), 0, 0, 0, 0];
    call("execve", libc::SYS_execve, args);
    call(
        "execveat",
        libc::SYS_execveat,
        [usize::MAX, args[0], args[1], 0, 0, 0],
    );
}

fn open(path: &str, flags: i32) -> Option<RawFd> {
    let path = std::ffi::CString::new(path).expect("no zeros");
    let flags = usize::try_from(flags).expect("positive");
    let at = usize::try_from(i64::from(libc::AT_FDCWD) & 0xffff_ffff).expect("32 bits");
    call(
        "open",
        libc::SYS_open,
        [path.as_ptr().addr(), flags, 0, 0, 0, 0],
    )
    .or_else(|| {
        call(
            "openat",
            libc::SYS_openat,
            [at, path.as_ptr().addr(), flags, 0, 0, 0],
        )
    })
    .and_then(|fd| i32::try_from(fd).ok())
}

pub(crate) fn proc_mem(hostile: &mut Hostile) {
    let Some(fd) = open("/proc/self/mem", libc::O_RDWR) else {
        return;
    };
    let mut byte = 0_u8;
    let fd = usize::try_from(fd).expect("positive");
    let args = [fd, (&raw mut byte).addr(), 1, hostile.beside().addr(), 0, 0];
    if call("pread", libc::SYS_pread64, args) == Some(1) {
        say_byte(byte);
    }
}

pub(crate) fn map_files(hostile: &mut Hostile) {
    let start = hostile.frame(0).addr();
    let path = format!(
        "/proc/self/map_files/{start:x}-{:x}",
        start + FRAMES * PAGE_SIZE
    );
    let Some(fd) = open(&path, libc::O_RDWR) else {
        return;
    };
    let mut byte = 0_u8;
    let fd = usize::try_from(fd).expect("positive");
    let args = [fd, (&raw mut byte).addr(), 1, 0, 0, 0];
    if call("pread", libc::SYS_pread64, args) == Some(1) {
        say_byte(byte);
    }
}

pub(crate) fn ptrace(_: &mut Hostile) {
    // SAFETY: no effect.
    let parent = usize::try_from(unsafe { libc::getppid() }).unwrap_or(1);
    call("PTRACE_TRACEME", libc::SYS_ptrace, [0; 6]);
    call(
        "PTRACE_SEIZE",
        libc::SYS_ptrace,
        [0x4206, parent, 0, 0, 0, 0],
    );
    call("pidfd_open", libc::SYS_pidfd_open, [parent, 0, 0, 0, 0, 0]);
    call("pidfd_getfd", libc::SYS_pidfd_getfd, [0, 0, 0, 0, 0, 0]);
    call("kill", libc::SYS_kill, [parent, 0, 0, 0, 0, 0]);
}

pub(crate) fn process_vm(hostile: &mut Hostile) {
    let mut byte = 0_u8;
    let own = libc::iovec {
        iov_base: (&raw mut byte).cast(),
        iov_len: 1,
    };
    let beside = libc::iovec {
        iov_base: hostile.beside().cast(),
        iov_len: 1,
    };
    let pid = usize::try_from(std::process::id()).unwrap_or(0);
    let (own, beside) = ((&raw const own).addr(), (&raw const beside).addr());
    let args = [pid, own, 1, beside, 1, 0];
    if call("process_vm_readv", libc::SYS_process_vm_readv, args) == Some(1) {
        say_byte(byte);
    }
    call("process_vm_writev", libc::SYS_process_vm_writev, args);
    call(
        "process_madvise",
        libc::SYS_process_madvise,
        [0, beside, 1, 9, 0, 0],
    );
}

pub(crate) fn own_uffd(_: &mut Hostile) {
    call("userfaultfd", libc::SYS_userfaultfd, [1, 0, 0, 0, 0, 0]);
}

/// Fills its own page tables by the descriptor that it has to keep.
pub(crate) fn kept_uffd(hostile: &mut Hostile) {
    let fd = usize::try_from(hostile.uffd).expect("positive");
    let range = [hostile.beside().addr(), PAGE_SIZE, 0, 0];
    let range = range.as_ptr().addr();
    // UFFDIO_CONTINUE
    if call(
        "continue",
        libc::SYS_ioctl,
        [fd, 0xc020_aa07, range, 0, 0, 0],
    )
    .is_some()
    {
        return say_byte(read(hostile.beside()));
    }
    // UFFDIO_UNREGISTER
    let whole = [hostile.frame(0).addr(), FRAMES * PAGE_SIZE];
    let whole = whole.as_ptr().addr();
    if call(
        "unregister",
        libc::SYS_ioctl,
        [fd, 0x8010_aa01, whole, 0, 0, 0],
    )
    .is_some()
    {
        say_byte(read(hostile.beside()));
    }
    // So that the broker waits in a read for ever.
    call("fcntl F_SETFL", libc::SYS_fcntl, [fd, 4, 0, 0, 0, 0]);
    let off = 0_i32;
    call(
        "ioctl FIONBIO",
        libc::SYS_ioctl,
        [fd, 0x5421, (&raw const off).addr(), 0, 0, 0],
    );
}

pub(crate) fn close_uffd(hostile: &mut Hostile) {
    let fd = usize::try_from(hostile.uffd).expect("positive");
    call("close_range", libc::SYS_close_range, [fd, fd, 0, 0, 0, 0]);
    call("dup2", libc::SYS_dup2, [0, fd, 0, 0, 0, 0]);
    call("dup3", libc::SYS_dup3, [0, fd, 0, 0, 0, 0]);
    call("close", libc::SYS_close, [fd, 0, 0, 0, 0, 0]);
    // The upper half of the register is no part of a descriptor's number.
    call("close", libc::SYS_close, [fd | 1 << 32, 0, 0, 0, 0, 0]);
    read_beside(hostile);
}
