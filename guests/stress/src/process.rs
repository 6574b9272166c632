//! Processes: fork in trees and in rows, exec, and how they end.

use std::process::Command;

use crate::digest::Digest;
use crate::sys::{self, Ended, Outcome};

/// The word by which this program is told to be what [`exec`] starts.
pub(crate) const ROLE: &str = "role-exec";

/// Processes one after another.
const ROW: i32 = 300;
/// Programs one after another.
const PROGRAMS: u64 = 60;

pub(crate) fn fork(digest: &mut Digest) -> Outcome {
    digest.add(u64::from(tree(3, 1).unsigned_abs()));
    for index in 0..ROW {
        let child = sys::forked(|| index & 0x7f)?;
        let ended = sys::wait(child)?;
        if ended != Ended::Exit(index & 0x7f) {
            return Err(format!("child {index} ended with {ended:?}"));
        }
        digest.add(ended.number());
    }
    // All at once, and waited for in the other order.
    let children: Vec<i32> = (0..40)
        .map(|index| sys::forked(|| index))
        .collect::<Outcome<_>>()?;
    for (index, child) in children.iter().enumerate().rev() {
        digest.add(sys::wait(*child)?.number() ^ index as u64);
    }
    Ok(())
}

/// A process with four children, and they likewise; what they add up to, or 127.
fn tree(depth: u32, seed: i32) -> i32 {
    if depth == 0 {
        return seed & 0x3f;
    }
    let mut sum = seed;
    for index in 0..4 {
        let child = sys::forked(|| tree(depth - 1, seed * 5 + index)).and_then(sys::wait);
        match child {
            Ok(Ended::Exit(code)) if code != 127 => sum += code,
            _ => return 127,
        }
    }
    sum & 0x3f
}

/// How processes end and stop by signals.
pub(crate) fn ends(digest: &mut Digest) -> Outcome {
    for signal in [libc::SIGKILL, libc::SIGTERM, libc::SIGABRT, libc::SIGUSR1] {
        let child = sys::forked(|| {
            loop {
                std::thread::park();
            }
        })?;
        sys::kill(child, libc::SIGSTOP)?;
        let stopped = sys::wait(child)?;
        sys::kill(child, signal)?;
        sys::kill(child, libc::SIGCONT)?;
        let ended = sys::wait(child)?;
        if stopped != Ended::Stop(libc::SIGSTOP) || ended != Ended::Signal(signal) {
            return Err(format!("by signal {signal}: {stopped:?}, {ended:?}"));
        }
        digest.add(ended.number());
    }
    Ok(())
}

pub(crate) fn exec(digest: &mut Digest) -> Outcome {
    for index in 0..PROGRAMS {
        // Up to 60 KiB of words.
        let words: Vec<String> = (0..index)
            .map(|word| format!("{word}").repeat(usize::try_from(index).unwrap_or(1) * 8))
            .collect();
        let output = Command::new("/proc/self/exe")
            .arg(ROLE)
            .args(&words)
            .env("STRESS", format!("{index}"))
            .output()
            .map_err(|error| format!("exec: {error}"))?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut due = Digest::new();
        for word in &words {
            due.text(word);
        }
        due.text(&format!("{index}"));
        if said != format!("{:x}", due.value()) {
            return Err(format!("program {index} said {said:?}, {}", output.status));
        }
        digest.text(&said);
    }
    let missing = Command::new("/proc/self/no-such").output();
    if missing.is_ok() {
        return Err("a program that is not there was run".to_owned());
    }
    Ok(())
}

/// What [`exec`] starts: says what it was given.
pub(crate) fn role(words: impl Iterator<Item = String>) {
    let mut digest = Digest::new();
    for word in words {
        digest.text(&word);
    }
    digest.text(&std::env::var("STRESS").unwrap_or_default());
    print!("{:x}", digest.value());
}
