//! The output of the lab's jobs, and where one job's ends.

use std::io::{ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::Sender;

/// Which output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// What the reading threads report.
#[derive(Debug)]
pub(super) enum Event {
    /// Bytes, as they came.
    Data(Stream, Vec<u8>),
    /// The emulator closed the stream.
    End,
}

/// Reads a stream to its end, in a thread of its own.
pub(super) fn read(stream: Stream, mut from: UnixStream, events: &Sender<Event>) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let event = match from.read(&mut buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Ok(0) | Err(_) => Event::End,
            Ok(len) => Event::Data(stream, buffer.iter().take(len).copied().collect()),
        };
        let end = matches!(event, Event::End);
        if events.send(event).is_err() || end {
            return;
        }
    }
}

/// Cuts a job's output from the line after it: the byte 0x1e, the job's token, a space, the exit code.
#[derive(Debug)]
pub(super) struct Splitter {
    mark: Vec<u8>,
    held: Vec<u8>,
}

impl Splitter {
    pub(super) fn new(token: &str) -> Self {
        Self {
            mark: format!("\x1e{token} ").into_bytes(),
            held: Vec::new(),
        }
    }

    /// The output that is certain to be output, and the exit code when its line is complete.
    pub(super) fn push(&mut self, bytes: &[u8]) -> (Vec<u8>, Option<u8>) {
        self.held.extend_from_slice(bytes);
        let Some(start) = self.possible_mark() else {
            return (std::mem::take(&mut self.held), None);
        };
        let after = self.held.split_off(start);
        let output = std::mem::replace(&mut self.held, after);
        let code = self
            .held
            .strip_prefix(self.mark.as_slice())
            .and_then(|rest| rest.strip_suffix(b"\n"))
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| digits.parse().ok());
        if code.is_some() {
            self.held.clear();
        }
        (output, code)
    }

    /// Where the mark begins, whole or cut off by the end of what has come so far.
    fn possible_mark(&self) -> Option<usize> {
        (0..self.held.len()).find(|at| {
            self.held
                .iter()
                .skip(*at)
                .zip(&self.mark)
                .all(|(have, want)| have == want)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_ends_at_the_mark_however_it_is_cut() {
        let all = b"one\ntwo\x1e\x1e7-1\n\x1e7-1 42\n";
        for size in 1..all.len() {
            let mut splitter = Splitter::new("7-1");
            let mut output = Vec::new();
            let mut code = None;
            for part in all.chunks(size) {
                assert_eq!(code, None);
                let (some, end) = splitter.push(part);
                output.extend(some);
                code = end;
            }
            assert_eq!(output, b"one\ntwo\x1e\x1e7-1\n");
            assert_eq!(code, Some(42));
        }
    }

    #[test]
    fn another_jobs_mark_is_output() {
        let mut splitter = Splitter::new("7-2");
        let (output, code) = splitter.push(b"\x1e7-1 0\nx");
        assert_eq!((output.as_slice(), code), (&b"\x1e7-1 0\nx"[..], None));
    }
}
