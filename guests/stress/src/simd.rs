//! Floating point and vectors: each thread has its own, whoever else runs, and whatever handlers do.

// UNSAFETY: assembly.
#![expect(unsafe_code)]

use std::arch::asm;
use std::ffi::c_void;
use std::thread;

use libc::{c_int, siginfo_t};

use crate::digest::{Digest, Random};
use crate::sys::{self, Outcome};

/// Values in, values out, how often the CPU is given up between, and for x87 its control word.
type Kept = unsafe extern "C" fn(*const u64, *mut u64, u64, u32);

unsafe extern "C" {
    fn stress_xmm(values: *const u64, after: *mut u64, yields: u64, control: u32);
    fn stress_ymm(values: *const u64, after: *mut u64, yields: u64, control: u32);
    fn stress_zmm(values: *const u64, after: *mut u64, yields: u64, control: u32);
    fn stress_x87(values: *const u64, after: *mut u64, yields: u64, control: u32);
}

/// Threads, and how often each looks.
const THREADS: u64 = 6;
const ROUNDS: u64 = 60;
const YIELDS: u64 = 25;
/// Words of 16 registers of 64 bytes.
const WORDS: usize = 128;

/// Spoils what it can.
extern "C" fn spoil(_: c_int, _: *mut siginfo_t, _: *mut c_void) {
    // SAFETY: all that is changed, handlers may change.
    unsafe {
        asm!(
            "fninit", "fldpi", "fldz", "pcmpeqd xmm0, xmm0", "movaps xmm1, xmm0", "movaps xmm7, xmm0", "movaps xmm15, xmm0", "fninit",
            out("xmm0") _, out("xmm1") _, out("xmm7") _, out("xmm15") _,
            out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _, out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
        );
    }
}

/// As many threads as that work at once, and handlers in between.
fn kept(digest: &mut Digest, name: &str, keep: Kept, words: usize) -> Outcome {
    sys::handle(libc::SIGALRM, libc::SA_RESTART, spoil)?;
    sys::ticks(900)?;
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| thread::spawn(move || each(thread, keep, words)))
        .collect();
    let mut outcome = Ok(());
    for thread in threads {
        match thread.join() {
            Ok(Ok(sum)) => digest.add(sum),
            Ok(Err(why)) => outcome = Err(format!("{name}: {why}")),
            Err(_) => outcome = Err(format!("{name}: a thread ended")),
        }
    }
    sys::ticks(0)?;
    crate::watch_over();
    outcome
}

fn each(thread: u64, keep: Kept, words: usize) -> Outcome<u64> {
    let mut random = Random::new(100 + thread);
    let mut digest = Digest::new();
    for round in 0..ROUNDS {
        // Ordinary numbers, so that x87 has them as they are.
        let values: [u64; WORDS] =
            std::array::from_fn(|_| (random.next() >> 12 | 0x3ff0_0000_0000_0000) & !7);
        let mut after = [0; WORDS];
        // Another rounding in each thread.
        let control = 0x37f | u32::try_from(thread % 4).unwrap_or(0) << 10;
        // SAFETY: there is room for any of the functions, which keep to the calling convention.
        unsafe { keep(values.as_ptr(), after.as_mut_ptr(), YIELDS, control) };
        if after[..words] != values[..words] {
            let which = values
                .iter()
                .zip(after)
                .position(|(value, after)| *value != after);
            return Err(format!(
                "thread {thread}, round {round}: word {which:?} is another"
            ));
        }
        if words == 8 && after[8] != u64::from(control) {
            return Err(format!(
                "thread {thread}: the control word is {:#x}",
                after[8]
            ));
        }
        digest.add(after[0]);
    }
    Ok(digest.value())
}

pub(crate) fn sse(digest: &mut Digest) -> Outcome {
    kept(digest, "xmm", stress_xmm, 32)?;
    kept(digest, "x87", stress_x87, 8)?;
    rounding(digest)
}

/// Where the CPU and the kernel have AVX; otherwise that is said.
pub(crate) fn avx(digest: &mut Digest) -> Outcome {
    let has = std::arch::is_x86_feature_detected!("avx");
    digest.add(u64::from(has));
    if has {
        kept(digest, "ymm", stress_ymm, 64)?;
    }
    Ok(())
}

pub(crate) fn avx512(digest: &mut Digest) -> Outcome {
    let has = std::arch::is_x86_feature_detected!("avx512f");
    digest.add(u64::from(has));
    if has {
        kept(digest, "zmm", stress_zmm, 128)?;
    }
    Ok(())
}

/// MXCSR is each thread's own, and a new thread's is its maker's.
fn rounding(digest: &mut Digest) -> Outcome {
    let threads: Vec<_> = (0..4_u32)
        .map(|mode| {
            thread::spawn(move || {
                let control = 0x1f80 | mode << 13;
                let mut sum = 0_u64;
                for _ in 0..500 {
                    let mut read = 0_u32;
                    let result: u64;
                    // SAFETY: the usual state is set again at the end.
                    unsafe {
                        asm!(
                            "ldmxcsr [{control}]", "mov eax, 24", "syscall", "mov eax, 1", "cvtsi2sd xmm0, rax", "mov eax, 3", "cvtsi2sd xmm1, rax",
                            "divsd xmm0, xmm1", "movq {result}, xmm0", "stmxcsr [{read}]", "ldmxcsr [{usual}]",
                            control = in(reg) &raw const control, read = in(reg) &raw mut read, usual = in(reg) &raw const USUAL,
                            result = out(reg) result, out("rax") _, out("rcx") _, out("r11") _, out("xmm0") _, out("xmm1") _,
                        );
                    }
                    if read & !0x3f != control {
                        return 0;
                    }
                    sum = sum.wrapping_mul(31).wrapping_add(result);
                }
                sum
            })
        })
        .collect();
    for thread in threads {
        let sum = thread.join().unwrap_or(0);
        if sum == 0 {
            return Err("mxcsr is another".to_owned());
        }
        digest.add(sum);
    }
    Ok(())
}

static USUAL: u32 = 0x1f80;
