//! For tests and fuzz targets: a file that is bytes in memory, and a run over an image that may be anything.

use std::fs::File;
use std::io::{ErrorKind, Result};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cantle_image::{Extent, Format, Mapped, Storage};
use rustix::io::Errno;

use crate::{Options, Vmdk};

/// A file that is bytes in memory, at most [`Memory::LIMIT`] of them; then the disk is full.
#[derive(Clone, Debug, Default)]
pub struct Memory(Arc<Mutex<Vec<u8>>>);

impl Memory {
    /// How long it can become.
    pub const LIMIT: usize = 64 << 20;

    /// With these contents.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        Self(Arc::new(Mutex::new(bytes.to_vec())))
    }

    /// The contents, as they are.
    #[must_use]
    pub fn contents(&self) -> Vec<u8> {
        self.bytes().clone()
    }

    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn place(at: u64) -> Result<usize> {
    let at = usize::try_from(at).ok().filter(|at| *at <= Memory::LIMIT);
    at.ok_or_else(|| Errno::NOSPC.into())
}

impl Storage for Memory {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        let bytes = self.bytes();
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let part = bytes.get(from..).and_then(|rest| rest.get(..into.len()));
        into.copy_from_slice(part.ok_or(ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, offset: u64, from: &[u8]) -> Result<()> {
        let end = place(offset.saturating_add(from.len() as u64))?;
        let mut bytes = self.bytes();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        let part = bytes.get_mut(place(offset)?..end);
        part.ok_or(ErrorKind::InvalidInput)?.copy_from_slice(from);
        Ok(())
    }

    fn len(&self) -> Result<u64> {
        Ok(self.bytes().len() as u64)
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.bytes().resize(place(len)?, 0);
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> Result<()> {
        let mut bytes = self.bytes();
        let end = place(offset.saturating_add(len))?.min(bytes.len());
        if let Some(part) = bytes.get_mut(place(offset)?..end) {
            part.fill(0);
        }
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    /// Not the bytes: `/dev/null`. Read by [`Format::read`].
    fn file(&self) -> Arc<File> {
        Arc::new(File::open("/dev/null").expect("every Linux has /dev/null"))
    }
}

/// Opens any bytes as an image, for reading and for writing, and does with it what `actions` say, 8 bytes each, at most 64: the fuzz target of this
/// crate. Extents that a descriptor names are these same bytes, in a file each. What the contract of [`Format`] demands of any
/// image is asserted.
///
/// # Panics
///
/// Where the contract is broken.
pub fn exercise(image: &[u8], actions: &[u8]) {
    for read_only in [true, false] {
        let options = Options {
            read_only,
            ..Options::default()
        };
        let head = Memory::new(image);
        let mut files = Vec::new();
        let open = |_: &str| {
            let file = Memory::new(image);
            files.push(file.clone());
            Ok(file)
        };
        let Ok(mut disk) = Vmdk::open_on(head.clone(), open, &options) else {
            continue;
        };
        if files.is_empty() {
            files.push(head);
        }
        for action in actions.chunks_exact(8).take(64) {
            act(&disk, &files, action);
        }
        // Either is fine; that it ends is what matters.
        let _checked = disk.check();
        let _repaired = disk.repair();
        let _closed = disk.close();
    }
}

fn act(disk: &Vmdk<Memory>, files: &[Memory], action: &[u8]) {
    let number = action.first_chunk().map_or(0, |b| u64::from_le_bytes(*b));
    let sectors = disk.geometry().sectors;
    let start = (number >> 16) % sectors;
    let len = ((number >> 4) % 256 + 1).min(sectors - start) * 512;
    let at = start * 512;
    let Ok(size) = usize::try_from(len) else {
        return;
    };
    let mut buffer = vec![0x5a; size];
    match number % 8 {
        0..3 => drop(disk.write(at, &buffer)),
        3 => drop(disk.discard(at, len)),
        4 => drop(disk.flush()),
        5 => drop(disk.grow(sectors.saturating_add(start))),
        _ => {}
    }
    let read = disk.read(at, &mut buffer);
    let Ok(Mapped {
        extent,
        len: mapped,
    }) = disk.map(at, len)
    else {
        assert!(read.is_err(), "what can be read can be mapped");
        return;
    };
    assert!(mapped > 0 && mapped <= len && mapped.is_multiple_of(512));
    let first = buffer.get(..512).unwrap_or_default();
    match extent {
        Extent::Data {
            file,
            offset,
            writable,
        } => {
            assert!(!(writable && disk.geometry().read_only));
            let mut there = [0; 512];
            let file = files.get(usize::from(file)).expect("a file that there is");
            if file.read_at(offset, &mut there).is_ok() && read.is_ok() {
                assert_eq!(first, there, "read and mapped alike");
            }
        }
        Extent::Zero if read.is_ok() => assert!(first.iter().all(|b| *b == 0)),
        Extent::Zero | Extent::Other => {}
    }
}
