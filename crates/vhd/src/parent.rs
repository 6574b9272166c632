//! Finding and opening the parent of a differencing image.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use cantle_image::{Format, RawFormat, RawOptions, Storage};

use crate::header::{Header, Locator};
use crate::open::{Chain, open_file, open_within};
use crate::{OpenError, OpenOptions, ParentError, Parents, Vhd, locator};

/// The most images that stand on top of each other.
pub(crate) const MAX_DEPTH: usize = 64;

/// Seconds between 1970 and 2000.
const EPOCH: u64 = 946_684_800;

/// A disk to make a differencing image over.
#[derive(Clone)]
pub struct ParentDisk {
    /// Where it is: written into the child.
    pub path: PathBuf,
    /// Its identity; all zeroes for a raw disk.
    pub uuid: [u8; 16],
    /// When it was last modified, in seconds of 2000.
    pub modified: u32,
    /// The disk.
    pub disk: Arc<dyn Format>,
}

impl std::fmt::Debug for ParentDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ParentDisk")
            .field("path", &self.path)
            .field("uuid", &self.uuid)
            .field("modified", &self.modified)
            .finish_non_exhaustive()
    }
}

impl ParentDisk {
    /// Opens a VHD image for reading, to be a parent. `parents` says which of its own parents may be opened.
    ///
    /// # Errors
    ///
    /// As for [`Vhd::open_path`].
    pub fn vhd(path: &Path, parents: Parents) -> Result<Self, OpenError> {
        let options = OpenOptions {
            read_only: true,
            parents,
            ..OpenOptions::default()
        };
        let disk = Vhd::open_path(path, &options)?;
        Ok(Self {
            path: path.to_owned(),
            uuid: disk.info().uuid,
            modified: modified(&disk.storage.file()),
            disk: Arc::new(disk),
        })
    }

    /// Opens a raw image for reading, to be a parent.
    ///
    /// # Errors
    ///
    /// [`ParentError::Open`].
    pub fn raw(path: &Path) -> Result<Self, OpenError> {
        let disk = open_raw(path).map_err(OpenError::parent)?;
        let modified = disk.files().first().map_or(0, |file| modified(file));
        Ok(Self {
            path: path.to_owned(),
            uuid: [0; 16],
            modified,
            disk: Arc::new(disk),
        })
    }
}

/// The time now, as images have it.
pub(crate) fn now() -> u32 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    seconds_of_2000(since.map_or(0, |since| since.as_secs()))
}

fn seconds_of_2000(unix: u64) -> u32 {
    u32::try_from(unix.saturating_sub(EPOCH)).unwrap_or(u32::MAX)
}

fn modified(file: &File) -> u32 {
    let unix = file.metadata().map_or(0, |metadata| metadata.mtime());
    seconds_of_2000(u64::try_from(unix).unwrap_or(0))
}

fn open_raw(path: &Path) -> Result<RawFormat<Arc<File>>, ParentError> {
    let options = RawOptions {
        read_only: true,
        ..RawOptions::default()
    };
    RawFormat::open(path, &options).map_err(|source| ParentError::Open {
        path: path.to_owned(),
        source: source.into(),
    })
}

/// The names that an image gives its parent, in its own order, then the one in the header. Those that cannot be read are left out.
pub(crate) fn names(storage: &dyn Storage, header: &Header) -> Vec<PathBuf> {
    let read = |locator: Locator| {
        let len = usize::try_from(locator.len.min(locator::MAX_PATH)).ok()?;
        let mut bytes = vec![0; len];
        storage.read_at(locator.offset, &mut bytes).ok()?;
        locator::decode(locator.code, &bytes)
    };
    let used = header.locators().into_iter();
    let mut names: Vec<_> = used
        .filter(|locator| locator.code != [0; 4])
        .filter_map(read)
        .collect();
    names.extend(locator::decode_name(&header.parent_name()));
    names
}

/// Opens the parent of the image at `path` (if it is at one), by the names that it gives.
pub(crate) fn find(
    names: Vec<PathBuf>,
    header: &Header,
    path: Option<&Path>,
    options: &OpenOptions,
    chain: &mut Chain,
) -> Result<Arc<dyn Format>, ParentError> {
    match &options.parents {
        Parents::Refuse => return Err(ParentError::Refused),
        Parents::Given(disk) => return Ok(Arc::clone(disk)),
        Parents::InFolder(_) | Parents::Any => {}
    }
    if chain.depth() >= MAX_DEPTH {
        return Err(ParentError::TooDeep(MAX_DEPTH));
    }
    let folder = path.and_then(|path| path.canonicalize().ok());
    let folder = folder.as_deref().and_then(Path::parent);
    // The first that exists is it, and no second is tried: a chain of which each image had several parents would be a tree.
    let found = names.iter().find_map(|name| match folder {
        Some(folder) => folder.join(name).canonicalize().ok(),
        None => name.is_absolute().then(|| name.canonicalize().ok())?,
    });
    let Some(found) = found else {
        return Err(ParentError::NotFound { tried: names });
    };
    allowed(&found, &options.parents)?;
    if header.parent_uuid() == [0; 16] {
        let disk = open_raw(&found)?;
        if let Some(file) = disk.files().first() {
            check_time(&found, header, modified(file), options)?;
        }
        return Ok(Arc::new(disk));
    }
    open_vhd(&found, header, options, chain)
}

/// `path` is without links, so what is below the folder by name is below it.
fn allowed(path: &Path, parents: &Parents) -> Result<(), ParentError> {
    let Parents::InFolder(folder) = parents else {
        return Ok(());
    };
    let inside = folder
        .canonicalize()
        .is_ok_and(|folder| path.starts_with(folder));
    if inside {
        return Ok(());
    }
    Err(ParentError::Outside {
        path: path.to_owned(),
        folder: folder.clone(),
    })
}

fn open_vhd(
    path: &Path,
    header: &Header,
    options: &OpenOptions,
    chain: &mut Chain,
) -> Result<Arc<dyn Format>, ParentError> {
    let failed = |source: OpenError| match source {
        // What is wrong further up is said as it is, not once for each image between.
        OpenError::Parent(error) => *error,
        other => ParentError::Open {
            path: path.to_owned(),
            source: other.into(),
        },
    };
    let options = OpenOptions {
        read_only: true,
        expect: None,
        ..options.clone()
    };
    let file = open_file(path, true).map_err(failed)?;
    if !chain.enter(&file) {
        return Err(ParentError::Cycle {
            path: path.to_owned(),
        });
    }
    let time = modified(&file);
    let parent = open_within(Box::new(file), Some(path), &options, chain).map_err(failed)?;
    let (expected, found) = (header.parent_uuid(), parent.info().uuid);
    if expected != found {
        return Err(ParentError::Uuid {
            path: path.to_owned(),
            expected,
            found,
        });
    }
    check_time(path, header, time, &options)?;
    Ok(Arc::new(parent))
}

fn check_time(
    path: &Path,
    header: &Header,
    found: u32,
    options: &OpenOptions,
) -> Result<(), ParentError> {
    let expected = header.parent_modified();
    if found == expected || expected == 0 {
        return Ok(());
    }
    if options.strict_parent_time {
        return Err(ParentError::Modified {
            path: path.to_owned(),
            expected,
            found,
        });
    }
    tracing::warn!(
        ?path,
        expected,
        found,
        "the parent was modified since the image over it was made"
    );
    Ok(())
}
