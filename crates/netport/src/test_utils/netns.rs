//! A network namespace of one's own, for tests and benchmarks with real taps.

// UNSAFETY: `unshare` exists only as a C function.
#![expect(unsafe_code)]

use std::io;
use std::process::Command;

use crate::port::Tap;

/// Runs something on a thread in a new network namespace, which goes away with it. `None`, with a line on stderr, where this
/// process may not make one (only root may), or there is no tap driver or no `ip` command.
///
/// # Panics
///
/// Where `act` does.
pub fn in_netns<R: Send>(act: impl FnOnce() -> R + Send) -> Option<R> {
    let on_thread = || {
        // SAFETY: no memory is concerned; the flag changes this thread's network only.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } < 0 {
            let error = io::Error::last_os_error();
            eprintln!("SKIPPED: no network namespace of our own: {error}");
            return None;
        }
        if let Err(error) = Tap::create("probe0") {
            eprintln!("SKIPPED: no tap can be made: {error:?}");
            return None;
        }
        if Command::new("ip").arg("link").output().is_err() {
            eprintln!("SKIPPED: there is no `ip` command");
            return None;
        }
        Some(act())
    };
    let joined = std::thread::scope(|scope| scope.spawn(on_thread).join());
    joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Runs `ip` with arguments given as one line, in this thread's namespace.
///
/// # Panics
///
/// Where it fails.
pub fn ip(line: &str) {
    let output = Command::new("ip").args(line.split_whitespace()).output();
    let output = output.expect("`ip` was there before");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {line}: {complaint}");
}
