//! Threads: futexes, their own data, memory that goes away under them, and CPUs that they move between.

// UNSAFETY: arch_prctl, and accesses by the GS segment.
#![expect(unsafe_code)]

use std::arch::asm;
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Condvar, Mutex};
use std::thread;

use crate::digest::{Digest, Random};
use crate::region::{NONE, Region, WRITE};
use crate::sys::{self, Outcome};

const THREADS: usize = 6;
const ARCH_SET_GS: usize = 0x1001;

thread_local! {
    static OWN: Cell<u64> = const { Cell::new(0) };
}

/// A turn that goes round, a counter, and a barrier.
pub(crate) fn futexes(digest: &mut Digest) -> Outcome {
    let turn = Arc::new((Mutex::new(0_usize), Condvar::new()));
    let barrier = Arc::new(Barrier::new(THREADS));
    let counter = Arc::new(Mutex::new(0_u64));
    let threads: Vec<_> = (0..THREADS)
        .map(|index| {
            let (turn, barrier, counter) = (turn.clone(), barrier.clone(), counter.clone());
            thread::spawn(move || -> Option<u64> {
                OWN.set(index as u64 + 1);
                for round in 0..300 {
                    let (lock, changed) = &*turn;
                    let mut whose = lock.lock().ok()?;
                    while *whose % THREADS != index {
                        whose = changed.wait(whose).ok()?;
                    }
                    *whose += 1;
                    changed.notify_all();
                    drop(whose);
                    for _ in 0..20 {
                        *counter.lock().ok()? += 1;
                    }
                    OWN.set(OWN.get() + THREADS as u64);
                    if round % 50 == 0 {
                        barrier.wait();
                    }
                }
                Some(OWN.get())
            })
        })
        .collect();
    for (index, thread) in threads.into_iter().enumerate() {
        match thread.join() {
            Ok(Some(own)) if own == (index + 1 + 300 * THREADS) as u64 => digest.add(own),
            other => return Err(format!("thread {index}: its own number is {other:?}")),
        }
    }
    let counted = counter.lock().map_or(0, |counter| *counter);
    if counted != 300 * 20 * THREADS as u64 {
        return Err(format!("{counted} were counted"));
    }
    digest.add(counted);
    Ok(())
}

/// Each thread's FS and GS are its own; many threads come and go.
pub(crate) fn segments(digest: &mut Digest) -> Outcome {
    let threads: Vec<_> = (0..THREADS as u64)
        .map(|index| {
            thread::spawn(move || -> Outcome<u64> {
                OWN.set(index);
                let word = Box::new(index * 7 + 1);
                let base = &raw const *word as usize;
                set_gs(base)?;
                for round in 0..3000 {
                    if round % 10 == 0 {
                        thread::yield_now();
                    }
                    if gs_word() != index * 7 + 1 || OWN.get() != index {
                        return Err(format!("thread {index}, round {round}: another's segments"));
                    }
                }
                set_gs(0)?;
                Ok(*word)
            })
        })
        .collect();
    for thread in threads {
        digest.add(thread.join().map_err(|_| "a thread ended".to_owned())??);
    }
    let base = 0xdead_0000_usize;
    set_gs(base)?;
    let child = sys::forked(|| i32::from(gs_base() != base as u64))?;
    digest.add(sys::wait(child)?.number());
    set_gs(0)?;
    for round in 0..300_u64 {
        let thread = thread::spawn(move || {
            OWN.set(round);
            OWN.get()
        });
        if thread.join().ok() != Some(round) {
            return Err(format!("thread {round} of many"));
        }
    }
    Ok(())
}

fn set_gs(base: usize) -> Outcome {
    let set = sys::number_call(libc::SYS_arch_prctl, [ARCH_SET_GS, base, 0]);
    if set != 0 {
        return Err(format!("arch_prctl: {}", std::io::Error::last_os_error()));
    }
    Ok(())
}

/// As the kernel has it.
fn gs_base() -> u64 {
    let mut base = 0_u64;
    sys::number_call(libc::SYS_arch_prctl, [0x1004, &raw mut base as usize, 0]);
    base
}

/// The word at the base of GS, which has to have one.
fn gs_word() -> u64 {
    let word: u64;
    // SAFETY: the base is that of a word of this thread.
    unsafe { asm!("mov {}, gs:[0]", out(reg) word) };
    word
}

/// Memory that a thread takes away is away for all of them, at once; what it puts there is there.
pub(crate) fn shootdown(digest: &mut Digest) -> Outcome {
    let region = Arc::new(Region::private(64, WRITE)?);
    let [stop, looked, failed] = [0, 1, 2].map(|_| Arc::new(AtomicU64::new(0)));
    let old = Arc::new(AtomicBool::new(false));
    // The value that pages have at least: it is raised when the old ones are gone.
    let least = Arc::new(AtomicU64::new(0));
    let threads: Vec<_> = (0..4_u64)
        .map(|seed| {
            let (region, stop, looked, failed) =
                (region.clone(), stop.clone(), looked.clone(), failed.clone());
            let (least, old) = (least.clone(), old.clone());
            thread::spawn(move || {
                let mut random = Random::new(seed);
                while stop.load(Ordering::Relaxed) == 0 {
                    let page = random.below(32);
                    let due = least.load(Ordering::Acquire);
                    if region.read(page, 1) < due {
                        failed.fetch_add(1, Ordering::Relaxed);
                        old.store(true, Ordering::Relaxed);
                    }
                    looked.fetch_add(1, Ordering::Relaxed);
                    if random.below(50) == 0 {
                        thread::yield_now();
                    }
                }
            })
        })
        .collect();
    for round in 1..=300_u64 {
        // New pages are made in the other half, and moved over the old ones.
        for page in 32..64 {
            region.write(page, 1, round);
        }
        region.shift(32..64, 0, WRITE)?;
        least.store(round, Ordering::Release);
        region.protect(40..50, NONE)?;
        region.protect(40..50, WRITE)?;
        membarrier();
        thread::yield_now();
        digest.add(region.read(5, 1));
    }
    stop.store(1, Ordering::Relaxed);
    for thread in threads {
        thread.join().map_err(|_| "a thread ended".to_owned())?;
    }
    let failed = failed.load(Ordering::Relaxed);
    if failed > 0 || old.load(Ordering::Relaxed) {
        return Err(format!("memory that was gone was read {failed} times"));
    }
    Ok(())
}

/// Interrupts all CPUs that run this program.
fn membarrier() {
    for command in [1 << 4, 1 << 3] {
        // Registers, and then uses it; a kernel that has it not says so, which is all right.
        sys::number_call(libc::SYS_membarrier, [command, 0, 0]);
    }
}

/// A thread that moves to each CPU in turn has its memory there.
pub(crate) fn wander(digest: &mut Digest) -> Outcome {
    let cpus = sys::cpus();
    let region = Region::private(16, WRITE)?;
    for round in 0..200_u64 {
        for cpu in &cpus {
            sys::pin(*cpu)?;
            let before = region.read(3, 9);
            region.write(3, 9, before + 1);
            region.renew(4..6, WRITE)?;
            if region.read(5, 0) != 0 {
                return Err("a new page is not empty".to_owned());
            }
            region.write(5, 0, round + 1);
        }
        let due = (round + 1) * cpus.len() as u64;
        if region.read(3, 9) != due {
            return Err(format!("{} instead of {due}", region.read(3, 9)));
        }
    }
    digest.add(cpus.len() as u64);
    Ok(())
}
