//! The console, both ways.

use crate::report::{Because as _, Outcome};
use crate::text::Text;
use crate::{Probe, clock, console, ensure, events, hypercall, say};

/// More than the ring holds goes through it, in order: the host reads while the probe writes.
pub(super) fn ring(_: &mut Probe) -> Outcome {
    ensure!(console::port().is_some(), "the console ring is not in use");
    for line in 0..40 {
        say!(
            "probe: console: line {line:02} of 40, of one hundred characters, so that all of them together fill the ring twice"
        );
    }
    let taken = clock::wait(5_000, || matches!(console::unread(), Ok(0) | Err(_)));
    ensure!(
        taken && console::unread()? == 0,
        "the host leaves {} bytes in the ring",
        console::unread()?
    );
    Ok(())
}

pub(super) fn emergency(_: &mut Probe) -> Outcome {
    let text = b"probe: console-io: written by hypercall\n";
    let written = hypercall::console_io_write(text).because("CONSOLEIO_write")?;
    // Xen answers 0; a count would do no harm.
    ensure!(
        written == 0 || written == text.len() as u64,
        "CONSOLEIO_write answers {written}"
    );
    Ok(())
}

/// Waits for a line from the host and says it again.
pub(super) fn input(_: &mut Probe) -> Outcome {
    events::prepare()?;
    if let Some(port) = console::port() {
        events::unmask(port).because("unmasking the console's port")?;
    }
    say!("probe: console-input: waiting");
    let mut line = [0; 100];
    for at in 0..line.len() {
        let mut byte = Ok(None);
        clock::wait(20_000, || {
            byte = console::read();
            !matches!(byte, Ok(None))
        });
        match byte? {
            Some(b'\n' | b'\r') => {
                let text = Text::<100>::from_bytes(line.get(..at).unwrap_or_default());
                say!("probe: console-input: heard \"{text}\"");
                return Ok(());
            }
            Some(byte) => line[at] = byte,
            None => break,
        }
    }
    crate::fail!("no line came in");
}
