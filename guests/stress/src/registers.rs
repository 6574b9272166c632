//! Registers: what is in them stays in them across faults, signals, system calls and other programs.

// UNSAFETY: assembly, and the frames of signals.
#![expect(unsafe_code)]

use std::arch::global_asm;
use std::ffi::c_void;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use libc::{c_int, siginfo_t, ucontext_t};

use crate::digest::{Digest, Random};
use crate::sys::{self, Outcome};

global_asm!(include_str!("registers.s"));

/// What runs between; ends by `ret`.
type Between = unsafe extern "C" fn();

unsafe extern "C" {
    fn stress_registers(values: *const u64, after: *mut u64, between: Between);
    fn stress_ud2();
    fn stress_int3();
    fn stress_spin();
    fn stress_call();
    fn stress_called();
    fn stress_int80();
    static stress_stop: AtomicU32;
}

/// rax rbx rcx rdx rsi rdi rbp r8…r15.
type Values = [u64; 15];

/// The same registers in a frame.
const IN_FRAME: [usize; 15] = [
    libc::REG_RAX as usize,
    libc::REG_RBX as usize,
    libc::REG_RCX as usize,
    libc::REG_RDX as usize,
    libc::REG_RSI as usize,
    libc::REG_RDI as usize,
    libc::REG_RBP as usize,
    libc::REG_R8 as usize,
    libc::REG_R9 as usize,
    libc::REG_R10 as usize,
    libc::REG_R11 as usize,
    libc::REG_R12 as usize,
    libc::REG_R13 as usize,
    libc::REG_R14 as usize,
    libc::REG_R15 as usize,
];

const RAX: usize = 0;
const RCX: usize = 2;
const R8: usize = 7;
const R11: usize = 10;

/// What a handler found in its frame, and what it does to it.
static FOUND: [AtomicU64; 15] = [const { AtomicU64::new(0) }; 15];
static MASK: AtomicU64 = AtomicU64::new(0);
static TICKS: AtomicU32 = AtomicU32::new(0);

fn across(values: &Values, between: Between) -> Values {
    let mut after = [0; 15];
    // SAFETY: it keeps to the calling convention, and so does what runs between.
    unsafe { stress_registers(values.as_ptr(), after.as_mut_ptr(), between) };
    after
}

fn values(random: &mut Random) -> Values {
    std::array::from_fn(|_| random.next())
}

/// Notes all registers, changes them by the mask, and goes on behind a `ud2`.
extern "C" fn on_trap(_: c_int, _: *mut siginfo_t, context: *mut c_void) {
    let context = context.cast::<ucontext_t>();
    // SAFETY: the kernel made it for this call; behind `rip` is an instruction of ours.
    unsafe {
        let registers = &mut (*context).uc_mcontext.gregs;
        for (place, index) in FOUND.iter().zip(IN_FRAME) {
            let register = &mut registers[index];
            place.store(register.cast_unsigned(), Ordering::Relaxed);
            *register ^= MASK.load(Ordering::Relaxed).cast_signed();
        }
        let at = &mut registers[libc::REG_RIP as usize];
        if (*at as *const u16).read_unaligned() == 0x0b0f {
            *at += 2;
        }
    }
}

/// What the program has, the handler finds; what the handler leaves, the program has.
pub(crate) fn in_handlers(digest: &mut Digest) -> Outcome {
    let mut random = Random::new(3);
    for signal in [libc::SIGILL, libc::SIGTRAP] {
        sys::handle(signal, 0, on_trap)?;
    }
    for round in 0..2000 {
        let before = values(&mut random);
        let mask = random.next();
        MASK.store(mask, Ordering::Relaxed);
        let between = if round % 2 == 0 {
            stress_ud2
        } else {
            stress_int3
        };
        let after = across(&before, between);
        let found: Values = std::array::from_fn(|index| FOUND[index].load(Ordering::Relaxed));
        if found != before || after != before.map(|value| value ^ mask) {
            return Err(format!(
                "round {round}: {before:x?} were {found:x?}, became {after:x?}"
            ));
        }
        digest.add(after[R8]);
    }
    Ok(())
}

extern "C" fn on_tick(_: c_int, _: *mut siginfo_t, _: *mut c_void) {
    if TICKS.fetch_add(1, Ordering::Relaxed) % 5 == 4 {
        // SAFETY: an atomic in the assembly's data.
        unsafe { stress_stop.store(1, Ordering::Relaxed) };
    }
}

/// A program that is interrupted has its registers afterwards.
pub(crate) fn across_interrupts(digest: &mut Digest) -> Outcome {
    let mut random = Random::new(4);
    sys::handle(libc::SIGALRM, libc::SA_RESTART, on_tick)?;
    sys::ticks(1500)?;
    for round in 0..60 {
        // SAFETY: as above.
        unsafe { stress_stop.store(0, Ordering::Relaxed) };
        let before = values(&mut random);
        let after = across(&before, stress_spin);
        if after != before {
            return Err(format!("round {round}: {before:x?} became {after:x?}"));
        }
        digest.add(after[RAX]);
    }
    sys::ticks(0)?;
    crate::watch_over();
    Ok(())
}

/// A system call changes rax, rcx and r11 only, and these to what they have to be.
pub(crate) fn across_calls(digest: &mut Digest) -> Outcome {
    let mut random = Random::new(5);
    let process = u64::from(std::process::id());
    for round in 0..20_000 {
        let mut before = values(&mut random);
        let (number, between, result): (u64, Between, u64) = match round % 3 {
            0 => (39, stress_call, process),
            1 => (0xffff, stress_call, (-38_i64).cast_unsigned()),
            // getpid, of 32 bits.
            _ => (20, stress_int80, process),
        };
        before[RAX] = number;
        let after = across(&before, between);
        let mut due = before;
        due[RAX] = result;
        if round % 3 == 2 {
            // What becomes of those that 32-bit programs have not is Linux's affair.
            due[R8..=R11].copy_from_slice(&after[R8..=R11]);
        } else {
            due[RCX] = stress_called as *const () as u64;
            due[R11] = after[R11];
            if after[R11] & !0xcd5 != 0x202 {
                return Err(format!("round {round}: r11 is {:#x}", after[R11]));
            }
        }
        if after != due {
            return Err(format!("round {round}: {after:x?}, not {due:x?}"));
        }
        digest.add(after[1]);
    }
    Ok(())
}
