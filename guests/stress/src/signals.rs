//! Signals: in each other, on stacks of their own, many of them.

// UNSAFETY: signal stacks, and addresses in them.
#![expect(unsafe_code)]

use std::ffi::c_void;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use libc::{c_int, siginfo_t};

use crate::digest::Digest;
use crate::region::{Region, WRITE};
use crate::sys::{self, Ended, Outcome, PAGE};

static DEPTH: AtomicU64 = AtomicU64::new(0);
static DEEPEST: AtomicU64 = AtomicU64::new(0);
static STACK: AtomicUsize = AtomicUsize::new(0);
static COUNT: AtomicU64 = AtomicU64::new(0);

/// Pages of the stack for signals.
const STACK_PAGES: usize = 32;

extern "C" fn nested(signal: c_int, _: *mut siginfo_t, _: *mut c_void) {
    let depth = DEPTH.fetch_add(1, Ordering::Relaxed) + 1;
    DEEPEST.fetch_max(depth, Ordering::Relaxed);
    COUNT.fetch_add(1, Ordering::Relaxed);
    if depth < 20 {
        sys::raise(if signal == libc::SIGUSR1 {
            libc::SIGUSR2
        } else {
            libc::SIGUSR1
        });
    }
    DEPTH.fetch_sub(1, Ordering::Relaxed);
}

extern "C" fn note_stack(_: c_int, _: *mut siginfo_t, _: *mut c_void) {
    let here = 0_u64;
    STACK.store((&raw const here) as usize, Ordering::Relaxed);
    COUNT.fetch_add(1, Ordering::Relaxed);
}

pub(crate) fn all(digest: &mut Digest) -> Outcome {
    // Handlers that interrupt handlers.
    for signal in [libc::SIGUSR1, libc::SIGUSR2] {
        sys::handle(signal, libc::SA_NODEFER, nested)?;
    }
    for _ in 0..300 {
        sys::raise(libc::SIGUSR1);
    }
    let deepest = DEEPEST.load(Ordering::Relaxed);
    if deepest != 20 || COUNT.load(Ordering::Relaxed) != 300 * 20 {
        return Err(format!("handlers were {deepest} deep"));
    }
    digest.add(COUNT.load(Ordering::Relaxed));

    on_its_own_stack(digest)?;
    out_of_stack(digest)?;

    // Between processes.
    COUNT.store(0, Ordering::Relaxed);
    sys::handle(libc::SIGUSR1, 0, note_stack)?;
    let parent = i32::try_from(std::process::id()).unwrap_or(0);
    for round in 1..=200 {
        let child = sys::forked(|| i32::from(sys::kill(parent, libc::SIGUSR1).is_err()))?;
        let ended = sys::wait(child)?;
        if ended != Ended::Exit(0) || COUNT.load(Ordering::Relaxed) != round {
            return Err(format!("signal {round} of a child did not come"));
        }
    }
    digest.add(COUNT.load(Ordering::Relaxed));
    Ok(())
}

fn use_stack(region: &Region) -> Outcome {
    let stack = libc::stack_t {
        ss_sp: region.at(0) as *mut c_void,
        ss_flags: 0,
        ss_size: STACK_PAGES * PAGE,
    };
    // SAFETY: the region lives until the process ends, or another stack is set.
    let set = unsafe { libc::sigaltstack(&raw const stack, std::ptr::null_mut()) };
    sys::checked("sigaltstack", set).map(drop)
}

fn on_its_own_stack(digest: &mut Digest) -> Outcome {
    let region = Region::private(STACK_PAGES, WRITE)?;
    use_stack(&region)?;
    sys::handle(libc::SIGUSR2, libc::SA_ONSTACK, note_stack)?;
    for _ in 0..200 {
        sys::raise(libc::SIGUSR2);
    }
    let place = STACK.load(Ordering::Relaxed);
    if !(region.at(0)..region.at(STACK_PAGES)).contains(&place) {
        return Err(format!("a handler's stack is at {place:#x}"));
    }
    digest.add(200);
    std::mem::forget(region);
    Ok(())
}

/// A process whose stack ends is told on another one.
fn out_of_stack(digest: &mut Digest) -> Outcome {
    extern "C" fn done(_: c_int, info: *mut siginfo_t, _: *mut c_void) {
        // SAFETY: the kernel made it for this call; the process ends.
        unsafe { libc::_exit(40 + (*info).si_code) }
    }
    fn deeper(depth: u64) -> u64 {
        let room = [depth; 512];
        std::hint::black_box(&room);
        if depth == u64::MAX {
            return 0;
        }
        deeper(depth + 1) + room[7]
    }
    let child = sys::forked(|| {
        let handled = sys::handle(libc::SIGSEGV, libc::SA_ONSTACK, done);
        i32::from(handled.is_err() || deeper(0) > 0)
    })?;
    let ended = sys::wait(child)?;
    // SEGV_MAPERR, or SEGV_ACCERR where there is a guard page.
    if !matches!(ended, Ended::Exit(41 | 42)) {
        return Err(format!("a process without stack: {ended:?}"));
    }
    digest.add(1);
    Ok(())
}
