//! Ctrl-C and its like: what is under way ends cleanly.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context as _, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::flag;

/// A signal has asked to end.
#[derive(Debug)]
pub(crate) struct Interrupted(usize);

impl Interrupted {
    /// What a shell makes of a program that a signal ended.
    pub(crate) fn exit_code(&self) -> u8 {
        u8::try_from(128 + self.0).unwrap_or(u8::MAX)
    }
}

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// Hears signals.
#[derive(Clone, Debug)]
pub(crate) struct Interrupt(Arc<AtomicUsize>);

impl Interrupt {
    /// From now on such signals are only noted: whoever calls this asks by [`check`](Self::check) often enough. A second one ends the
    /// program at once.
    pub(crate) fn watch() -> Result<Self> {
        let heard = Arc::new(AtomicUsize::new(0));
        let again = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            let number = usize::try_from(signal).unwrap_or(0);
            flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&again))
                .and_then(|_| flag::register(signal, Arc::clone(&again)))
                .and_then(|_| flag::register_usize(signal, Arc::clone(&heard), number))
                .context("cannot listen for signals")?;
        }
        Ok(Self(heard))
    }

    pub(crate) fn check(&self) -> Result<(), Interrupted> {
        // The handler of a signal has nothing else to say than the number.
        match self.0.load(Ordering::Relaxed) {
            0 => Ok(()),
            signal => Err(Interrupted(signal)),
        }
    }
}

/// A file that becomes larger than the user may make it is an error of the write, not the program's end.
pub(crate) fn fail_at_file_limit() -> Result<()> {
    flag::register(SIGXFSZ, Arc::default()).context("cannot listen for signals")?;
    Ok(())
}
