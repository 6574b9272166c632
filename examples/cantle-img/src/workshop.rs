//! Where an image is made: a hidden folder beside its place, from which it is moved there when it is whole.
//!
//! The name in the folder is the final one, which some formats write into their files; and the folder holds all files of those that have
//! several. It is locked: one that is there and not locked was left by a crash, and is taken away.

use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use cantle_disk::ImageLock;
use rustix::fs::{CWD, FlockOperation, OFlags, RenameFlags, flock, renameat_with};

use crate::chain::folder_of;
use crate::image;

/// A folder for one image, removed with all that is in it when this is dropped.
#[derive(Debug)]
pub(crate) struct Workshop {
    folder: PathBuf,
    place: PathBuf,
    dir: PathBuf,
    file: PathBuf,
    _lock: File,
    /// On what is going to be replaced.
    replaced: Option<ImageLock>,
}

impl Workshop {
    /// Opens one for an image that is to be at `place`.
    pub(crate) fn open(place: &Path, overwrite: bool) -> Result<Self> {
        let name = place
            .file_name()
            .with_context(|| format!("cannot make {}: it is no file's name", place.display()))?;
        let folder = folder_of(place)?;
        let replaced = match place.symlink_metadata() {
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error).context(format!("cannot make {}", place.display())),
            Ok(metadata) => Some(replace(place, &metadata, overwrite)?),
        };
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(".cantle-img");
        let dir = folder.join(hidden);
        let lock = take(&dir).with_context(|| format!("cannot make folder {}", dir.display()))?;
        Ok(Self {
            file: dir.join(name),
            place: folder.join(name),
            folder,
            dir,
            _lock: lock,
            replaced,
        })
    }

    /// Where the image is made.
    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// Where it is going to be.
    pub(crate) fn place(&self) -> &Path {
        &self.place
    }

    /// Moves the image to its place, with its other files before it. It is closed, and on the medium.
    pub(crate) fn finish(self) -> Result<()> {
        let failed = || format!("cannot move the image to {}", self.place.display());
        let mut others = Vec::new();
        for entry in fs::read_dir(&self.dir).with_context(failed)? {
            let entry = entry.with_context(failed)?;
            if entry.path() != self.file {
                others.push(entry.file_name());
            }
        }
        for (n, name) in others.iter().enumerate() {
            let moved = self.give(&self.dir.join(name), &self.folder.join(name));
            moved.inspect_err(|_| self.take_back(others.get(..n).unwrap_or_default()))?;
        }
        let moved = self.give(&self.file, &self.place);
        moved.inspect_err(|_| self.take_back(&others))?;
        let synced = File::open(&self.folder).and_then(|folder| folder.sync_all());
        synced.with_context(failed)
    }

    fn give(&self, from: &Path, to: &Path) -> Result<()> {
        let moved = match self.replaced {
            Some(_) => fs::rename(from, to),
            None => rename_new(from, to),
        };
        moved.with_context(|| format!("cannot move the image to {}", to.display()))
    }

    fn take_back(&self, names: &[std::ffi::OsString]) {
        for name in names {
            // The first error counts.
            let _ = fs::remove_file(self.folder.join(name));
        }
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.dir) {
            eprintln!("cantle-img: cannot remove {}: {error}", self.dir.display());
        }
    }
}

/// Whether what is at `place` may be replaced; nobody uses it while the lock is held.
fn replace(place: &Path, metadata: &fs::Metadata, overwrite: bool) -> Result<ImageLock> {
    let shown = place.display();
    let kind = metadata.file_type();
    ensure!(!kind.is_dir(), "cannot make {shown}: it is a directory");
    ensure!(
        kind.is_file() || kind.is_symlink() && place.is_file(),
        "cannot make {shown}: it is there, and no file; `convert -n` writes into devices"
    );
    ensure!(
        overwrite,
        "cannot make {shown}: it is there; --overwrite replaces it"
    );
    ensure!(
        kind.is_file(),
        "cannot replace {shown}: it is a link, and would not be one any more"
    );
    image::lock(place, false)
}

/// Makes the folder and locks it.
fn take(dir: &Path) -> Result<File> {
    for _ in 0..2 {
        match DirBuilder::new().mode(0o700).create(dir) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let lock = lock(dir)?;
                remove_left(dir, &lock)?;
                continue;
            }
            Err(error) => return Err(error.into()),
        }
        let lock = lock(dir)?;
        // Somebody may have taken it for one that was left, between the two calls.
        ensure!(is_at(dir, &lock)?, "another one was quicker");
        return Ok(lock);
    }
    bail!("another one was quicker")
}

fn lock(dir: &Path) -> Result<File> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let file = File::options()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(dir)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)
        .context("an image of that name is being made")?;
    Ok(file)
}

/// Takes away what a crash has left: only where it is ours, and is what is locked.
fn remove_left(dir: &Path, lock: &File) -> Result<()> {
    let owner = lock.metadata()?.uid();
    ensure!(
        owner == rustix::process::geteuid().as_raw(),
        "it is there, and somebody else's"
    );
    if is_at(dir, lock)? {
        fs::remove_dir_all(dir)?;
    }
    Ok(())
}

fn is_at(dir: &Path, lock: &File) -> io::Result<bool> {
    let held = lock.metadata()?;
    match dir.symlink_metadata() {
        Ok(there) => Ok((there.dev(), there.ino()) == (held.dev(), held.ino())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Renames to a name that nothing has.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::io::Errno;
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // A file system that does not know it.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            fs::hard_link(from, to)?;
            fs::remove_file(from)
        }
        renamed => Ok(renamed?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_comes_to_its_place_or_goes() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("a.vmdk");
        let count = || fs::read_dir(folder.path()).unwrap().count();
        let shop = Workshop::open(&place, false).unwrap();
        fs::write(shop.file(), "half").unwrap();
        assert!(Workshop::open(&place, false).is_err(), "locked");
        drop(shop);
        assert_eq!(count(), 0);
        let shop = Workshop::open(&place, false).unwrap();
        fs::write(shop.file(), "whole").unwrap();
        fs::write(shop.file().with_file_name("b"), "more").unwrap();
        shop.finish().unwrap();
        assert_eq!(fs::read(&place).unwrap(), b"whole");
        assert_eq!(count(), 2);
        assert!(Workshop::open(&place, false).is_err(), "there");
        let shop = Workshop::open(&place, true).unwrap();
        fs::write(shop.file(), "new").unwrap();
        assert_eq!(fs::read(&place).unwrap(), b"whole");
        shop.finish().unwrap();
        assert_eq!(fs::read(&place).unwrap(), b"new");
    }

    #[test]
    fn what_a_crash_has_left_goes() {
        let folder = tempfile::tempdir().unwrap();
        let left = folder.path().join(".a.cantle-img");
        fs::create_dir(&left).unwrap();
        fs::write(left.join("a"), "half").unwrap();
        let shop = Workshop::open(&folder.path().join("a"), false).unwrap();
        assert!(!shop.file().exists());
    }

    #[test]
    fn a_name_that_was_taken_meanwhile_stays_whose_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("a");
        let shop = Workshop::open(&place, false).unwrap();
        fs::write(shop.file(), "ours").unwrap();
        fs::write(shop.file().with_file_name("b"), "ours, too").unwrap();
        fs::write(&place, "theirs").unwrap();
        assert!(shop.finish().is_err());
        assert_eq!(fs::read(&place).unwrap(), b"theirs");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
