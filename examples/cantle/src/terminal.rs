//! The terminal as a guest's console: raw while the guest runs, and as it was on every way out.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::io::Errno;
use rustix::termios::{OptionalActions, OutputModes, Termios, isatty, tcgetattr, tcsetattr};

/// Ctrl-].
const ESCAPE: u8 = 0x1d;

/// The terminal in raw mode. Dropping it, and a panic in any thread, give it back as it was.
#[derive(Debug)]
pub(crate) struct RawTerminal(Arc<Saved>);

#[derive(Debug)]
struct Saved {
    fd: OwnedFd,
    modes: Termios,
}

impl Saved {
    fn restore(&self) {
        // A terminal that is gone needs no modes.
        let _ = tcsetattr(&self.fd, OptionalActions::Now, &self.modes);
    }
}

impl RawTerminal {
    /// Makes standard input raw; `None` if it is no terminal.
    pub(crate) fn enter() -> io::Result<Option<Self>> {
        let stdin = io::stdin();
        if !isatty(&stdin) {
            return Ok(None);
        }
        let modes = tcgetattr(&stdin)?;
        let mut raw = modes.clone();
        raw.make_raw();
        // Our own messages end lines with a line feed only.
        raw.output_modes |= OutputModes::OPOST | OutputModes::ONLCR;
        let saved = Arc::new(Saved {
            fd: stdin.as_fd().try_clone_to_owned()?,
            modes,
        });
        tcsetattr(&stdin, OptionalActions::Now, &raw)?;
        let of_hook = saved.clone();
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            of_hook.restore();
            previous(info);
        }));
        Ok(Some(Self(saved)))
    }

    /// Gives the terminal back before this value goes: for an exit that drops nothing.
    pub(crate) fn restorer(&self) -> impl Fn() + Send + Sync + use<> {
        let saved = self.0.clone();
        move || saved.restore()
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        self.0.restore();
    }
}

/// Passes standard input on to the guest until it ends, or until nobody reads any more. From a terminal, Ctrl-] is not
/// passed on: each calls `escape`. What a guest does not read from a terminal in time is lost, as on a serial line, so
/// that Ctrl-] is always seen.
pub(crate) fn pump(guest: OwnedFd, terminal: bool, escape: impl Fn() + Send + 'static) {
    let body = move || {
        let stdin = io::stdin();
        let mut buffer = [0; 4096];
        loop {
            let read = match rustix::io::read(&stdin, &mut buffer) {
                Ok(0) => return,
                Ok(read) => buffer.get(..read).unwrap_or_default(),
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => {
                    wait_readable(&stdin);
                    continue;
                }
                Err(_) => return,
            };
            let mut pieces = read.split(|byte| terminal && *byte == ESCAPE);
            let passed = pieces
                .next()
                .is_none_or(|piece| write_all(&guest, piece, terminal));
            for piece in pieces {
                escape();
                write_all(&guest, piece, terminal);
            }
            if !passed && !terminal {
                return;
            }
        }
    };
    // Not joined: it blocks in a read that only the end of the process ends.
    if let Err(error) = std::thread::Builder::new()
        .name("console-input".into())
        .spawn(body)
    {
        say!("cantle: no console input: {error}");
    }
}

fn wait_readable(fd: &impl AsFd) {
    use rustix::event::{PollFd, PollFlags, poll};
    let _ = poll(&mut [PollFd::new(fd, PollFlags::IN)], None);
}

/// Writes all, or what fits if `lossy` (the pipe does not block then); false if nobody reads.
fn write_all(to: &OwnedFd, bytes: &[u8], lossy: bool) -> bool {
    let mut rest = bytes;
    while !rest.is_empty() {
        match rustix::io::write(to, rest) {
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) if lossy => return true,
            Err(_) => return false,
        }
    }
    true
}
