//! Linux's calls, as safe functions.

// UNSAFETY: system calls, through the C library.
#![expect(unsafe_code)]

use std::ffi::{CStr, c_int, c_void};
use std::io;

/// What went wrong, for people.
pub(crate) type Outcome<T = ()> = Result<T, String>;

const PAGE: usize = 4096;

fn failed(what: &str) -> String {
    format!("{what}: {}", io::Error::last_os_error())
}

fn checked(what: &str, result: c_int) -> Outcome<c_int> {
    if result < 0 {
        return Err(failed(what));
    }
    Ok(result)
}

/// Keeps this process, and its children, on the first CPU.
pub(crate) fn pin() -> Outcome {
    // SAFETY: all zero is a set without CPUs, which has room for CPU 0; it is only read by the call.
    let done = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(0, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set)
    };
    checked("sched_setaffinity", done).map(drop)
}

/// The call itself, whatever the C library remembers.
pub(crate) fn getpid() {
    // SAFETY: touches no memory.
    unsafe { libc::syscall(libc::SYS_getpid) };
}

/// Runs `child` in a process of its own; the process.
pub(crate) fn forked(child: impl FnOnce() -> i32) -> Outcome<c_int> {
    // SAFETY: there is one thread; the child runs Rust code of this program and ends without destructors.
    match checked("fork", unsafe { libc::fork() })? {
        0 => {
            let code = child();
            // SAFETY: ends the process.
            unsafe { libc::_exit(code) }
        }
        process => Ok(process),
    }
}

/// Waits for a process, which has to end with 0.
pub(crate) fn wait(process: c_int) -> Outcome {
    let mut status = 0;
    // SAFETY: the status is ours.
    checked("waitpid", unsafe {
        libc::waitpid(process, &raw mut status, 0)
    })?;
    if status != 0 {
        return Err(format!("a process ended with status {status:#x}"));
    }
    Ok(())
}

/// Runs a program with a word in a process of its own, to its end.
pub(crate) fn run(path: &CStr, word: &CStr) -> Outcome {
    let child = forked(|| {
        let words = [path.as_ptr(), word.as_ptr(), std::ptr::null()];
        let none = [std::ptr::null()];
        // SAFETY: both lists end in null.
        unsafe { libc::execve(path.as_ptr(), words.as_ptr(), none.as_ptr()) }
    })?;
    wait(child)
}

/// Memory that has no pages yet, in small pages.
pub(crate) struct Pages {
    start: *mut c_void,
    count: usize,
}

impl Pages {
    pub(crate) fn new(count: usize) -> Outcome<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let (nowhere, len) = (std::ptr::null_mut(), count * PAGE);
        // SAFETY: where the kernel chooses.
        let start = unsafe { libc::mmap(nowhere, len, protection, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(failed("mmap"));
        }
        // A kernel without huge pages does not know this.
        // SAFETY: the memory of just now.
        unsafe { libc::madvise(start, len, libc::MADV_NOHUGEPAGE) };
        Ok(Self { start, count })
    }

    /// Writes to a page.
    pub(crate) fn touch(&self, page: usize) {
        assert!(page < self.count, "one of them");
        // SAFETY: in this memory.
        unsafe {
            self.start.cast::<u8>().add(page * PAGE).write_volatile(1);
        }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: this memory, which nobody refers to.
        unsafe { libc::munmap(self.start, self.count * PAGE) };
    }
}

/// A pipe, both of whose ends this process and its children have.
pub(crate) struct Pipe([c_int; 2]);

impl Pipe {
    pub(crate) fn new() -> Outcome<Self> {
        let mut ends = [0; 2];
        // SAFETY: the two numbers are ours.
        checked("pipe", unsafe { libc::pipe(ends.as_mut_ptr()) })?;
        Ok(Self(ends))
    }

    /// Bytes that there are, at least one.
    pub(crate) fn read(&self, bytes: &mut [u8]) -> Outcome<usize> {
        // SAFETY: there is room for so many.
        let got = unsafe { libc::read(self.0[0], bytes.as_mut_ptr().cast(), bytes.len()) };
        usize::try_from(got).map_err(|_| failed("read"))
    }

    /// All of them.
    pub(crate) fn write(&self, bytes: &[u8]) -> Outcome {
        let mut rest = bytes;
        while !rest.is_empty() {
            // SAFETY: there are so many.
            let put = unsafe { libc::write(self.0[1], rest.as_ptr().cast(), rest.len()) };
            let put = usize::try_from(put).map_err(|_| failed("write"))?;
            rest = rest.get(put..).unwrap_or_default();
        }
        Ok(())
    }
}
