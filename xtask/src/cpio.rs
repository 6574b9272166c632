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

    /// An entry as it reads back: mode, name, content.
    type Entry = (u32, String, Vec<u8>);

    fn read(mut bytes: &[u8]) -> Vec<Entry> {
        let mut entries = Vec::new();
        let whole = bytes.len();
        while !bytes.is_empty() {
            let field = |index: usize| {
                let digits = std::str::from_utf8(&bytes[6 + index * 8..14 + index * 8]).unwrap();
                u32::from_str_radix(digits, 16).unwrap()
            };
            assert_eq!(&bytes[..6], b"070701");
            let (mode, size, name_size) = (field(1), field(6), field(11));
            let name_end = 110 + usize::try_from(name_size).unwrap();
            let name = std::str::from_utf8(&bytes[110..name_end - 1]).unwrap();
            assert_eq!(bytes[name_end - 1], 0);
            let start = name_end.next_multiple_of(4);
            let end = start + usize::try_from(size).unwrap();
            entries.push((mode, name.to_owned(), bytes[start..end].to_vec()));
            bytes = &bytes[end.next_multiple_of(4)..];
            assert_eq!((whole - bytes.len()) % 4, 0);
        }
        entries
    }

    #[test]
    fn entries_read_back_as_they_were_written() {
        let mut archive = Archive::new(Vec::new());
        archive.folder("etc").unwrap();
        archive.file("etc/name", 0o644, b"cantle").unwrap();
        archive.link("etc/alias", "name").unwrap();
        archive.file("run", 0o755, b"").unwrap();
        let bytes = archive.finish().unwrap();
        let entry = |mode, name: &str, content: &[u8]| (mode, name.to_owned(), content.to_vec());
        let expected = [
            entry(0o040_755, "etc", b""),
            entry(0o100_644, "etc/name", b"cantle"),
            entry(0o120_777, "etc/alias", b"name"),
            entry(0o100_755, "run", b""),
            entry(0, "TRAILER!!!", b""),
        ];
        assert_eq!(read(&bytes), expected);
    }

    #[test]
    fn a_device_has_its_numbers_in_the_header() {
        let mut archive = Archive::new(Vec::new());
        archive.device("console", 5, 1).unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(&bytes[14..22], b"00002180");
        assert_eq!(&bytes[78..94], b"0000000500000001");
    }
}
