//! Works what a Linux kernel does for programs, check by check: processes, memory, faults, signals, threads, vectors, 32-bit programs, tracing, clocks,
//! CPUs and memory that come and go.
//!
//! `stress [CHECK…]` runs all checks, or these. Each runs in a process of its own and prints `stress_NAME=CHECKSUM`, of what it saw, which
//! is the same on each machine that does right and has the same CPU and as many of them. One that fails prints `stress: NAME: failed: why`
//! instead, and the program ends with 1.
//!
//! `STRESS_TOLD=1` has the faults themselves printed.

mod compat;
mod digest;
mod faults;
mod files;
mod instructions;
mod machine;
mod memory;
mod process;
mod region;
mod registers;
mod signals;
mod simd;
mod sys;
mod threads;
mod traced;

use std::io::Write;
use std::process::ExitCode;

use digest::Digest;
use sys::{Ended, Outcome};

/// Seconds that a check may take; the machine may be an emulated one.
const PATIENCE: u32 = 240;

type Check = fn(&mut Digest) -> Outcome;

const CHECKS: [(&str, Check); 27] = [
    ("fork", process::fork),
    ("ends", process::ends),
    ("exec", process::exec),
    ("map", memory::map),
    ("copy_on_write", memory::copy_on_write),
    ("large", memory::large),
    ("file", memory::file),
    ("pipe", files::pipe),
    ("proc", files::proc_files),
    ("pages", faults::pages),
    ("instructions", instructions::all),
    ("handlers", registers::in_handlers),
    ("interrupts", registers::across_interrupts),
    ("calls", registers::across_calls),
    ("signals", signals::all),
    ("sse", simd::sse),
    ("avx", simd::avx),
    ("avx512", simd::avx512),
    ("futexes", threads::futexes),
    ("segments", threads::segments),
    ("shootdown", threads::shootdown),
    ("wander", threads::wander),
    ("compat", compat::program),
    ("descriptors", compat::local_descriptors),
    ("traced", traced::all),
    ("ports", machine::ports),
    ("cpuid", machine::cpuid),
];

/// Those that look at the machine's clocks, or change the machine.
const LAST: [(&str, Check); 4] = [
    ("counter", machine::counter),
    ("clocks", machine::clocks),
    ("hotplug", machine::hotplug),
    ("balloon", machine::balloon),
];

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1).peekable();
    if words.next_if(|word| word == process::ROLE).is_some() {
        process::role(words);
        return ExitCode::SUCCESS;
    }
    let wanted: Vec<String> = words.collect();
    let known = |word: &String| CHECKS.iter().chain(&LAST).any(|(name, _)| name == word);
    if let Some(word) = wanted.iter().find(|word| !known(word)) {
        eprintln!("stress: no check {word}");
        return ExitCode::from(2);
    }
    let mut well = true;
    for (name, check) in CHECKS.iter().chain(&LAST) {
        if wanted.is_empty() || wanted.iter().any(|word| word == name) {
            well &= done(name, *check);
        }
    }
    if well {
        println!("stress=done");
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Runs a check in a process of its own; whether it went well.
fn done(name: &str, check: Check) -> bool {
    let ended = sys::forked(|| {
        watch_over();
        let mut digest = Digest::new();
        let outcome = check(&mut digest);
        match &outcome {
            Ok(()) => println!("stress_{name}={:016x}", digest.value()),
            Err(why) => println!("stress: {name}: failed: {why}"),
        }
        let _ = std::io::stdout().flush();
        i32::from(outcome.is_err())
    });
    match ended.and_then(sys::wait) {
        Ok(Ended::Exit(0)) => true,
        Ok(Ended::Exit(1)) => false,
        Ok(Ended::Signal(libc::SIGALRM)) => {
            println!("stress: {name}: failed: no end after {PATIENCE} s");
            false
        }
        other => {
            println!("stress: {name}: failed: its process ended: {other:?}");
            false
        }
    }
}

/// Ends this process when a check has had its time.
fn watch_over() {
    sys::default_alarm();
    sys::alarm(PATIENCE);
}

/// Whether what is seen is to be printed.
fn is_told() -> bool {
    std::env::var_os("STRESS_TOLD").is_some()
}
