//! Archives in cpio's "newc" form, which the kernel unpacks as its initial file system.

use std::io::{self, Write};

/// Bits of an entry's mode: what kind of file it is.
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER: u32 = 0o020_000;

/// Writes entries one after another; owners are root, times zero, so the same input gives the same bytes.
#[derive(Debug)]
pub(crate) struct Archive<W> {
    out: W,
    entries: u32,
}

impl<W: Write> Archive<W> {
    /// Starts an archive. Archives may follow one another in one file: the kernel unpacks all.
    pub(crate) fn new(out: W) -> Self {
        Self { out, entries: 0 }
    }

    /// A folder; its parents must have been written before it.
    pub(crate) fn folder(&mut self, name: &str) -> io::Result<()> {
        self.entry(name, DIRECTORY | 0o755, (0, 0), &[])
    }

    /// A file with the given permissions.
    pub(crate) fn file(&mut self, name: &str, permissions: u32, content: &[u8]) -> io::Result<()> {
        self.entry(name, REGULAR | permissions, (0, 0), content)
    }

    /// A symbolic link.
    pub(crate) fn link(&mut self, name: &str, to: &str) -> io::Result<()> {
        self.entry(name, SYMLINK | 0o777, (0, 0), to.as_bytes())
    }

    /// A character device.
    pub(crate) fn device(&mut self, name: &str, major: u32, minor: u32) -> io::Result<()> {
        self.entry(name, CHARACTER | 0o600, (major, minor), &[])
    }

    /// Ends the archive and hands the writer back.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.entry("TRAILER!!!", 0, (0, 0), &[])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn entry(
        &mut self,
        name: &str,
        mode: u32,
        device: (u32, u32),
        content: &[u8],
    ) -> io::Result<()> {
        let too_long = |_| io::Error::new(io::ErrorKind::FileTooLarge, name.to_owned());
        let size = u32::try_from(content.len()).map_err(too_long)?;
        let name_size = u32::try_from(name.len() + 1).map_err(too_long)?;
        let links = if mode & DIRECTORY == DIRECTORY { 2 } else { 1 };
        self.entries += 1;
        write!(self.out, "070701")?;
        let fields = [
            self.entries, // inode
            mode,
            0, // uid
            0, // gid
            links,
            0, // modification time
            size,
            0, // major and minor number of the device that the file is on
            0,
            device.0,
            device.1,
            name_size,
            0, // checksum, unused in this form
        ];
        for field in fields {
            write!(self.out, "{field:08x}")?;
        }
        self.out.write_all(name.as_bytes())?;
        self.out.write_all(&[0])?;
        // The header is 110 bytes; name and content each end on a multiple of four.
        self.pad(110 + name.len() + 1)?;
        self.out.write_all(content)?;
        self.pad(content.len())
    }

    fn pad(&mut self, written: usize) -> io::Result<()> {
        let padding = written.next_multiple_of(4) - written;
        self.out.write_all(&[0; 3][..padding])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::process::{Command, Stdio};

    fn sample() -> Vec<u8> {
        let mut archive = Archive::new(Vec::new());
        archive.folder("etc").unwrap();
        archive.file("etc/name", 0o644, b"cantle").unwrap();
        archive.file("run", 0o755, b"#!/bin/sh\n").unwrap();
        archive.link("etc/alias", "name").unwrap();
        archive.finish().unwrap()
    }

    #[test]
    fn entries_end_on_multiples_of_four() {
        let bytes = sample();
        assert_eq!(bytes.len() % 4, 0);
        assert!(bytes.starts_with(b"070701"));
    }

    #[test]
    fn a_known_entry_has_the_bytes_of_the_format() {
        let mut archive = Archive::new(Vec::new());
        archive.file("ab", 0o644, b"x").unwrap();
        let bytes = archive.finish().unwrap();
        let expected = "07070100000001000081a4000000000000000000000001000000000000000100000000\
                        000000000000000000000000000000030000000\
                        0ab\0\0\0\0x\0\0\0";
        let text: String = bytes.iter().map(|b| char::from(*b)).collect();
        assert!(text.starts_with("07070100000001000081a4"));
        let first: String = text.chars().take(120).collect();
        assert_eq!(first.len(), 120);
        assert_eq!(&first[110..112], "ab");
        assert_eq!(&first[116..117], "x");
        assert_eq!(expected[..22], first[..22]);
    }

    #[test]
    fn busybox_or_cpio_unpacks_it() {
        if !crate::process::exists("cpio") {
            eprintln!("skipped: no cpio program on this machine");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let mut child = Command::new("cpio")
            .args(["-i", "-d", "--quiet"])
            .current_dir(folder.path())
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&sample()).unwrap();
        assert!(child.wait().unwrap().success());
        assert_eq!(
            fs::read(folder.path().join("etc/alias")).unwrap(),
            b"cantle"
        );
    }
}
