//! Consoles that have no terminal of their own: their lines among others', each with its guest's name before it.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::thread::JoinHandle;

use rustix::pipe::{PipeFlags, pipe_with};

/// A line is this long at most, in bytes; what is longer goes on in the next.
const LINE_MAX: usize = 4096;

/// A console whose lines are printed with `name` before them, until its last writer is gone.
pub(crate) fn prefixed(name: &str) -> io::Result<(OwnedFd, JoinHandle<()>)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    let name = name.to_owned();
    let thread = std::thread::Builder::new()
        .name("console-lines".into())
        .spawn(move || {
            // Nobody is left to be told.
            let _ = copy(std::fs::File::from(read), &name, &mut io::stdout());
        })?;
    Ok((write, thread))
}

/// Copies lines, each written at once.
fn copy(mut from: impl Read, name: &str, to: &mut impl Write) -> io::Result<()> {
    let mut line = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => buffer.get(..read).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        for byte in read {
            match byte {
                b'\n' => say(name, &mut line, to)?,
                b'\t' | b' '..=b'~' | 0x80.. => line.push(*byte),
                // What moves a cursor or changes colours would do so to the other guests' lines.
                _ => {}
            }
            if line.len() >= LINE_MAX {
                say(name, &mut line, to)?;
            }
        }
    }
    if !line.is_empty() {
        say(name, &mut line, to)?;
    }
    Ok(())
}

fn say(name: &str, line: &mut Vec<u8>, to: &mut impl Write) -> io::Result<()> {
    let text = format!("{name}| {}\n", String::from_utf8_lossy(line));
    line.clear();
    to.write_all(text.as_bytes())?;
    to.flush()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn copied(text: &[u8]) -> String {
        let mut out = Vec::new();
        copy(text, "web", &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_have_names_and_move_no_cursor() {
        assert_eq!(
            copied(b"a\r\nb\tc\n\nd"),
            "web| a\nweb| b\tc\nweb| \nweb| d\n"
        );
        assert_eq!(copied(b"\x1b[2Jred\x07\x7f\n"), "web| [2Jred\n");
        assert_eq!(copied(&[b'x'; LINE_MAX * 2 + 1]).lines().count(), 3);
        assert_eq!(copied(b""), "");
    }

    proptest! {
        #[test]
        fn whatever_a_guest_prints_every_line_is_named(text in prop::collection::vec(any::<u8>(), 0..9000)) {
            let out = copied(&text);
            for line in out.split_terminator('\n') {
                prop_assert!(line.starts_with("web| "));
                prop_assert!(!line.contains(|c: char| c.is_ascii_control() && c != '\t'));
            }
        }
    }
}
