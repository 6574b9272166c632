//! Linux's calls, as functions that are safe: what they do to memory, they do to memory that belongs to the value they are called on.

// UNSAFETY: system calls, through the C library.
#![expect(unsafe_code)]

use std::ffi::c_void;
use std::io;

use libc::{c_int, siginfo_t};

/// What went wrong, for people.
pub(crate) type Outcome<T = ()> = Result<T, String>;

/// Bytes of a page.
pub(crate) const PAGE: usize = 4096;

/// How a process ended, or stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Exit(i32),
    Signal(i32),
    Stop(i32),
}

impl Ended {
    /// As a number for a digest.
    pub(crate) fn number(self) -> u64 {
        let (kind, of) = match self {
            Self::Exit(code) => (0, code),
            Self::Signal(signal) => (1, signal),
            Self::Stop(signal) => (2, signal),
        };
        (kind << 32) | u64::from(of.unsigned_abs())
    }
}

/// A result of the C library, whose -1 is an error.
pub(crate) fn checked(what: &str, result: c_int) -> Outcome<c_int> {
    if result < 0 {
        return Err(format!("{what}: {}", io::Error::last_os_error()));
    }
    Ok(result)
}

/// Runs `child` in a process of its own, which ends with its result as exit code; the process.
pub(crate) fn forked(child: impl FnOnce() -> i32) -> Outcome<c_int> {
    // SAFETY: the child runs Rust code of this program only, which has one thread wherever this is called, and ends without destructors.
    match checked("fork", unsafe { libc::fork() })? {
        0 => {
            let code = child();
            // SAFETY: ends the process.
            unsafe { libc::_exit(code) }
        }
        process => Ok(process),
    }
}

/// Waits for a process's end, or until it stops.
pub(crate) fn wait(process: c_int) -> Outcome<Ended> {
    let mut status = 0;
    loop {
        // SAFETY: the status is ours.
        let got = unsafe { libc::waitpid(process, &raw mut status, libc::WUNTRACED) };
        if got == -1 && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted {
            continue;
        }
        checked("waitpid", got)?;
        return Ok(if libc::WIFEXITED(status) {
            Ended::Exit(libc::WEXITSTATUS(status))
        } else if libc::WIFSIGNALED(status) {
            Ended::Signal(libc::WTERMSIG(status))
        } else {
            Ended::Stop(libc::WSTOPSIG(status))
        });
    }
}

pub(crate) fn kill(process: c_int, signal: c_int) -> Outcome {
    // SAFETY: touches no memory.
    checked("kill", unsafe { libc::kill(process, signal) }).map(drop)
}

/// Sends this thread a signal.
pub(crate) fn raise(signal: c_int) {
    // SAFETY: touches no memory of ours; handlers are this program's own.
    unsafe { libc::raise(signal) };
}

/// Ends this process after so many seconds.
pub(crate) fn alarm(seconds: u32) {
    // SAFETY: touches no memory.
    unsafe { libc::alarm(seconds) };
}

/// SIGALRM each so many microseconds; 0 for none.
pub(crate) fn ticks(microseconds: i64) -> Outcome {
    let each = libc::timeval {
        tv_sec: 0,
        tv_usec: microseconds,
    };
    let timer = libc::itimerval {
        it_interval: each,
        it_value: each,
    };
    // SAFETY: the timer is read only.
    let set = unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut()) };
    checked("setitimer", set).map(drop)
}

/// A handler that gets the registers.
pub(crate) type Handler = extern "C" fn(c_int, *mut siginfo_t, *mut c_void);

/// Has a signal handled; `flags` besides `SA_SIGINFO`.
pub(crate) fn handle(signal: c_int, flags: c_int, handler: Handler) -> Outcome {
    // SAFETY: all zero is a set without signals.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as usize;
    action.sa_flags = flags | libc::SA_SIGINFO;
    // SAFETY: handlers of this program only touch atomics and the frame that they are given.
    let set = unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
    checked("sigaction", set).map(drop)
}

/// CPUs that are there, on line or not; and the ones that this process may use.
pub(crate) fn cpus() -> Vec<usize> {
    // SAFETY: all zero is a set without CPUs.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is ours.
    unsafe { libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) };
    (0..1024)
        // SAFETY: 1024 is the set's size.
        .filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) })
        .collect()
}

/// Keeps this thread on a CPU.
pub(crate) fn pin(cpu: usize) -> Outcome {
    // SAFETY: as above.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the CPU is one of `cpus`, below 1024.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: the set is read only.
    let done = unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) };
    checked("sched_setaffinity", done).map(drop)
}

/// A call that the C library has no function for, with numbers only.
pub(crate) fn number_call(number: i64, arguments: [usize; 3]) -> i64 {
    let [first, second, third] = arguments;
    // SAFETY: callers pass no addresses, but for those of a `Region`.
    unsafe { libc::syscall(number, first, second, third) }
}

/// Whether the kernel can read (or else write) a byte there for us.
pub(crate) fn kernel_reaches(address: usize, write: bool) -> Outcome<bool> {
    let mut ends = [0; 2];
    // SAFETY: the two numbers are ours.
    checked("pipe", unsafe { libc::pipe(ends.as_mut_ptr()) })?;
    let [reader, writer] = ends;
    let byte = [0_u8];
    // SAFETY: the kernel checks the address; it is in a `Region`, or nowhere.
    let moved = unsafe {
        if write {
            libc::write(writer, byte.as_ptr().cast(), 1);
            libc::read(reader, address as *mut c_void, 1)
        } else {
            libc::write(writer, address as *const c_void, 1)
        }
    };
    let error = io::Error::last_os_error();
    for end in ends {
        // SAFETY: opened above.
        unsafe { libc::close(end) };
    }
    match (moved, error.raw_os_error()) {
        (1, _) => Ok(true),
        (_, Some(libc::EFAULT)) => Ok(false),
        _ => Err(format!("the kernel's access: {error}")),
    }
}

/// Has SIGALRM end the process again.
pub(crate) fn default_alarm() {
    // SAFETY: no handler is given.
    unsafe { libc::signal(libc::SIGALRM, libc::SIG_DFL) };
}
