//! A process that is traced: single steps, breakpoints, watched memory, system calls, registers that are read and written.

// UNSAFETY: ptrace.
#![expect(unsafe_code)]

use std::ffi::c_void;

use crate::digest::Digest;
use crate::region::{Region, WRITE};
use crate::sys::{self, Ended, Outcome};

/// Offset of the debug registers in `struct user`.
const DEBUG: usize = 848;

/// Steps of the loop that is stepped through.
const STEPS: u64 = 400;

fn trace(request: libc::c_uint, process: i32, address: usize, data: usize) -> Outcome<i64> {
    // SAFETY: requests of this file's, whose addresses are the tracee's, or ours where the data is.
    let got = unsafe {
        libc::ptrace(
            libc::c_int::try_from(request).unwrap_or(-1),
            process,
            address as *mut c_void,
            data as *mut c_void,
        )
    };
    if got == -1 {
        return Err(format!(
            "ptrace {request}: {}",
            std::io::Error::last_os_error()
        ));
    }
    Ok(got)
}

fn registers(process: i32) -> Outcome<libc::user_regs_struct> {
    // SAFETY: numbers, for which 0 is one.
    let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
    trace(
        libc::PTRACE_GETREGS as u32,
        process,
        0,
        &raw mut registers as usize,
    )?;
    Ok(registers)
}

/// Lets it go on in this way until it stops.
fn on(request: u32, process: i32) -> Outcome<Ended> {
    trace(request, process, 0, 0)?;
    sys::wait(process)
}

const STEP: u32 = libc::PTRACE_SINGLESTEP as u32;
const CONTINUE: u32 = libc::PTRACE_CONT as u32;
const STOPPED: Ended = Ended::Stop(libc::SIGTRAP);

/// mov eax, 7; 1: inc rbx; dec ecx; jnz 1b; mov [rdx], rbx; int3; mov eax, 39; syscall; ud2.
const PROGRAM: [u8; 27] = [
    0xb8, 7, 0, 0, 0, 0x48, 0xff, 0xc3, 0xff, 0xc9, 0x75, 0xf9, 0x48, 0x89, 0x1a, 0xcc, 0xb8, 39,
    0, 0, 0, 0x0f, 0x05, 0x0f, 0x0b, 0x90, 0x90,
];
const AT_LOOP: usize = 5;
const AT_STORE: usize = 12;
const BEHIND_INT3: usize = 16;
const BEHIND_CALL: usize = 23;

pub(crate) fn all(digest: &mut Digest) -> Outcome {
    let code = Region::private(1, WRITE)?;
    let data = Region::private(1, WRITE)?;
    code.fill(&PROGRAM);
    code.protect(0..1, libc::PROT_READ | libc::PROT_EXEC)?;
    let child = sys::forked(|| {
        let traced = trace(libc::PTRACE_TRACEME as u32, 0, 0, 0);
        sys::raise(libc::SIGSTOP);
        i32::from(traced.is_err())
    })?;
    let outcome = steps(digest, child, code.at(0), data.at(0));
    if outcome.is_err() {
        let _ = sys::kill(child, libc::SIGKILL);
    }
    outcome
}

fn expect(what: &str, got: impl PartialEq + std::fmt::Debug, due: impl std::fmt::Debug) -> Outcome {
    let (got, due) = (format!("{got:x?}"), format!("{due:x?}"));
    if got == due {
        Ok(())
    } else {
        Err(format!("{what}: {got}, not {due}"))
    }
}

fn steps(digest: &mut Digest, child: i32, code: usize, data: usize) -> Outcome {
    expect("the stop", sys::wait(child)?, Ended::Stop(libc::SIGSTOP))?;
    let mut start = registers(child)?;
    start.rip = code as u64;
    start.rbx = 1000;
    start.rcx = STEPS / 4 + 50;
    start.rdx = data as u64;
    start.orig_rax = u64::MAX;
    trace(
        libc::PTRACE_SETREGS as u32,
        child,
        0,
        &raw const start as usize,
    )?;

    // Step by step.
    for step in 0..STEPS {
        expect("a step", on(STEP, child)?, STOPPED)?;
        let now = registers(child)?;
        let due = code + AT_LOOP + [0, 3, 5][usize::try_from(step % 3).unwrap_or(0)];
        expect("its place", now.rip, due as u64)?;
        digest.add(now.rbx);
    }
    // To the place where it stores, by a breakpoint in a debug register, and on by its memory being watched.
    for (index, place, kind) in [(0, code + AT_STORE, 0_usize), (1, data, 0b1101)] {
        trace(
            libc::PTRACE_POKEUSER as u32,
            child,
            DEBUG + index * 8,
            place,
        )?;
        let control = 1 << (index * 2) | kind << (16 + index * 4);
        trace(libc::PTRACE_POKEUSER as u32, child, DEBUG + 7 * 8, control)?;
        expect("a breakpoint", on(CONTINUE, child)?, STOPPED)?;
        let now = registers(child)?;
        let due = [code + AT_STORE, code + AT_STORE + 3];
        expect("its place", now.rip, due[index] as u64)?;
        let status = trace(libc::PTRACE_PEEKUSER as u32, child, DEBUG + 6 * 8, 0)?;
        expect("its number", status & 0xf, 1_i64 << index)?;
        trace(libc::PTRACE_POKEUSER as u32, child, DEBUG + 7 * 8, 0)?;
    }
    let stored = trace(libc::PTRACE_PEEKDATA as u32, child, data, 0)?;
    expect("what it stored", stored, 1000 + STEPS as i64 / 4 + 50)?;
    digest.add(stored.cast_unsigned());
    // By int3.
    expect("int3", on(CONTINUE, child)?, STOPPED)?;
    expect(
        "behind int3",
        registers(child)?.rip,
        (code + BEHIND_INT3) as u64,
    )?;
    // Its system call, another number on the way in and another result on the way out.
    let call = libc::PTRACE_SYSCALL as u32;
    expect("the call", on(call, child)?, STOPPED)?;
    let mut inside = registers(child)?;
    expect("its number", inside.orig_rax, 39_u64)?;
    inside.orig_rax = 0xfff;
    trace(
        libc::PTRACE_SETREGS as u32,
        child,
        0,
        &raw const inside as usize,
    )?;
    expect("the return", on(call, child)?, STOPPED)?;
    let mut outside = registers(child)?;
    expect("its result", outside.rax.cast_signed(), -38_i64)?;
    expect("its place", outside.rip, (code + BEHIND_CALL) as u64)?;
    outside.rax = 5;
    outside.r11 = 1;
    outside.rcx = 2;
    outside.r14 = 3;
    trace(
        libc::PTRACE_SETREGS as u32,
        child,
        0,
        &raw const outside as usize,
    )?;
    // What was written is there at the next stop: the instruction that is none.
    expect("ud2", on(CONTINUE, child)?, Ended::Stop(libc::SIGILL))?;
    let last = registers(child)?;
    expect(
        "registers",
        [last.rax, last.r11, last.rcx, last.r14],
        [5_u64, 1, 2, 3],
    )?;
    // A step over a call comes back behind it.
    let mut again = last;
    again.rip = (code + BEHIND_INT3) as u64;
    trace(
        libc::PTRACE_SETREGS as u32,
        child,
        0,
        &raw const again as usize,
    )?;
    expect("a step", on(STEP, child)?, STOPPED)?;
    expect("a step over a call", on(STEP, child)?, STOPPED)?;
    let behind = registers(child)?;
    expect("behind it", behind.rip, (code + BEHIND_CALL) as u64)?;
    expect("its result", behind.rax, u64::from(child.unsigned_abs()))?;
    sys::kill(child, libc::SIGKILL)?;
    expect(
        "the end",
        on(CONTINUE, child).or_else(|_| sys::wait(child))?,
        Ended::Signal(libc::SIGKILL),
    )?;
    Ok(())
}
