//! Who may write to an image, told to others as QEMU does: by locks on bytes of the file that mean permissions.
//!
//! Each user holds a shared lock on byte 100 + n for each permission n that it uses, and on byte 200 + n for each that it does not
//! share; and there is a conflict where somebody holds the other one. The locks belong to the open file: they go when it is closed, also by the
//! death of its process. `qemu-img`, `qemu-storage-daemon` and QEMU itself keep to the same.

// UNSAFETY: locks of open files are in none of the safe wrappers that are used here.
#![expect(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::{Error, Result};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The first byte for permissions that are used.
const USED: libc::off_t = 100;
/// The first byte for permissions that are not shared.
const UNSHARED: libc::off_t = 200;

/// Permissions, by their bytes.
const CONSISTENT_READ: libc::off_t = 0;
const WRITE: libc::off_t = 1;
const RESIZE: libc::off_t = 3;

/// A lock on an image, held until it is dropped: as [`open`](crate::open) takes it, for tools.
#[derive(Debug)]
pub struct ImageLock {
    file: File,
}

impl Drop for ImageLock {
    /// Gives the lock back by a call, and not by closing the file: a program that another thread starts just now has a copy of
    /// the descriptor until it runs, which would hold the lock for so long.
    fn drop(&mut self) {
        let all = libc::flock {
            l_len: 0,
            ..flock(libc::F_UNLCK, 0)
        };
        // SAFETY: the structure is alive, and the descriptor open.
        let result =
            unsafe { libc::fcntl(self.file.as_raw_fd(), libc::F_OFD_SETLK, &raw const all) };
        if result < 0 {
            tracing::warn!(error = %Error::last_os_error(), "an image's lock cannot be given back");
        }
    }
}

impl ImageLock {
    /// Locks an image for writing, or for reading: several may read, or one may write. `None` where that is not possible now.
    ///
    /// # Errors
    ///
    /// The host's.
    pub fn take(path: &Path, read_only: bool) -> Result<Option<Self>> {
        // Without O_NONBLOCK, opening a pipe would hang.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)?;
        // From here on, whatever is held is given back.
        let lock = Self { file };
        let file = &lock.file;
        let used: &[_] = if read_only {
            &[CONSISTENT_READ]
        } else {
            &[CONSISTENT_READ, WRITE, RESIZE]
        };
        let unshared = [WRITE, RESIZE];
        // First hold, then look: of two that come at the same time at least one sees the other.
        for n in used {
            hold(file, USED + n)?;
        }
        for n in unshared {
            hold(file, UNSHARED + n)?;
        }
        for n in used {
            if is_held(file, UNSHARED + n)? {
                return Ok(None);
            }
        }
        for n in unshared {
            if is_held(file, USED + n)? {
                return Ok(None);
            }
        }
        Ok(Some(lock))
    }
}

fn flock(kind: i32, at: libc::off_t) -> libc::flock {
    libc::flock {
        l_type: i16::try_from(kind).unwrap_or(0),
        l_whence: i16::try_from(libc::SEEK_SET).unwrap_or(0),
        l_start: at,
        l_len: 1,
        l_pid: 0,
    }
}

/// Takes a shared lock on a byte. Nobody holds these exclusively, so that it never has to wait.
fn hold(file: &File, at: libc::off_t) -> Result<()> {
    let lock = flock(libc::F_RDLCK, at);
    // SAFETY: `lock` is such a structure, and lives until the call returns.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) } {
        0 => Ok(()),
        _ => Err(Error::last_os_error()),
    }
}

/// Whether another open file holds a lock on a byte.
fn is_held(file: &File, at: libc::off_t) -> Result<bool> {
    let mut lock = flock(libc::F_WRLCK, at);
    // SAFETY: `lock` is such a structure, and lives until the call returns.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) } {
        0 => Ok(i32::from(lock.l_type) != libc::F_UNLCK),
        _ => Err(Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a child has one between its making and its own program.
    #[test]
    fn a_copy_of_the_descriptor_holds_nothing() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let lock = ImageLock::take(file.path(), false).unwrap().unwrap();
        let copy = lock.file.try_clone().unwrap();
        assert!(ImageLock::take(file.path(), true).unwrap().is_none());
        drop(lock);
        assert!(ImageLock::take(file.path(), false).unwrap().is_some());
        drop(copy);
    }
}
