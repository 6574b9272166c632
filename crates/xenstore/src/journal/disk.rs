//! The few things that a journal does with files.
//!
//! They are behind a trait so that the tests can let a machine stop between any two of them, or within a write.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;

/// A folder of files, each named without a path.
pub(super) trait Disk: Send + Sync {
    /// The names of all files.
    fn names(&self) -> io::Result<Vec<String>>;
    /// A file's bytes.
    fn read(&self, name: &str) -> io::Result<Vec<u8>>;
    /// A new, empty file, to be appended to. One of that name is replaced.
    fn create(&self, name: &str) -> io::Result<Box<dyn Output>>;
    /// A file that exists, cut to `len` bytes, to be appended to.
    fn open(&self, name: &str, len: u64) -> io::Result<Box<dyn Output>>;
    /// Renames a file; one of the new name is replaced.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Waits until names that were given or taken are where they survive a loss of power.
    fn sync(&self) -> io::Result<()>;
}

/// A file that grows.
pub(super) trait Output: Send {
    /// Appends bytes: by one system call unless the disk is full.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Takes off what is beyond `len` bytes.
    fn cut(&mut self, len: u64) -> io::Result<()>;
    /// Waits until the bytes are where they survive a loss of power.
    fn sync(&mut self) -> io::Result<()>;
}

/// A folder in the file system.
#[derive(Debug)]
pub(super) struct Folder(pub(super) PathBuf);

impl Disk for Folder {
    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.0)? {
            // What is not UTF-8 is not ours.
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        std::fs::read(self.0.join(name))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn Output>> {
        Ok(Box::new(File::create(self.0.join(name))?))
    }

    fn open(&self, name: &str, len: u64) -> io::Result<Box<dyn Output>> {
        let file = OpenOptions::new().append(true).open(self.0.join(name))?;
        file.set_len(len)?;
        Ok(Box::new(file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.0.join(from), self.0.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.0.join(name))
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.0)?.sync_all()
    }
}

impl Output for File {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn cut(&mut self, len: u64) -> io::Result<()> {
        self.set_len(len)?;
        // A file that was made here is not in append mode: the next byte comes after the cut.
        io::Seek::seek(self, io::SeekFrom::Start(len)).map(drop)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}
