//! Making a new image.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use cantle_image::Storage;

use crate::backing::Backing;
use crate::header::{
    BackingName, Compression, Header, MAX_L1_ENTRIES, MAX_NAME, l1_entries_for,
    max_reftable_entries,
};
use crate::shape::{COPIED, Cluster};
use crate::{OpenError, Options, Qcow2};

/// How much of a new image has a place from the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preallocation {
    /// Nothing: the file grows with what is written.
    #[default]
    Off,
    /// Each cluster has its place in the file, which is as long as the disk, and has holes. All writes then go in place.
    Metadata,
}

/// What to make.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    /// The disk's size in bytes: a multiple of 512.
    pub size: u64,
    /// The cluster's size in bytes: a power of two from 512 to 2 MiB.
    pub cluster_size: u64,
    /// The backing file to be named, with its format, which must be stated. It is not opened.
    pub backing: Option<BackingName>,
    /// What has a place from the start. Not with a backing file.
    pub preallocation: Preallocation,
}

impl CreateOptions {
    /// A disk of that many bytes, in clusters of 64 KiB, that stands by itself.
    #[must_use]
    pub fn new(size: u64) -> Self {
        Self {
            size,
            cluster_size: 64 << 10,
            backing: None,
            preallocation: Preallocation::Off,
        }
    }
}

/// Why an image could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CreateError {
    /// Not a multiple of 512, or more than clusters of this size can hold.
    #[error("a disk of {size} bytes cannot be in clusters of {cluster_size}")]
    Size {
        /// The disk's size.
        size: u64,
        /// The cluster's size.
        cluster_size: u64,
    },
    /// Not a power of two from 512 to 2 MiB.
    #[error("a cluster cannot have {0} bytes")]
    ClusterSize(u64),
    /// The name is empty, longer than 1023 bytes or than the first cluster has room for, or its format is not stated.
    #[error("an image cannot name backing file {:?} of format {:?}", .0.name, .0.format)]
    Backing(BackingName),
    /// A backing file and preallocation: what has a place hides the backing file.
    #[error("preallocation would hide the backing file")]
    Preallocation,
    /// The file could not be written.
    #[error("cannot write the image")]
    Io(#[source] io::Error),
    /// The new image could not be opened for preallocation.
    #[error("cannot open the new image")]
    Open(#[source] Box<OpenError>),
}

/// Makes an image in a new file, which must not exist.
///
/// # Errors
///
/// [`CreateError`]. The file is removed then.
pub fn create_path(path: &Path, options: &CreateOptions) -> Result<(), CreateError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path);
    let file = Arc::new(file.map_err(CreateError::Io)?);
    create(Arc::new(file), options).inspect_err(|_| {
        // It did not exist before.
        let _ = std::fs::remove_file(path);
    })
}

/// Makes an image in an empty file, or what stands for one, and brings it to the medium.
///
/// # Errors
///
/// [`CreateError`].
pub fn create(storage: Arc<dyn Storage>, options: &CreateOptions) -> Result<(), CreateError> {
    let header = layout(options)?;
    write(&*storage, &header).map_err(CreateError::Io)?;
    if options.preallocation == Preallocation::Metadata {
        let open = Options {
            backing: Backing::Absent,
            ..Options::default()
        };
        let image =
            Qcow2::open(storage, &open).map_err(|error| CreateError::Open(Box::new(error)))?;
        image.place_all().map_err(CreateError::Io)?;
    }
    Ok(())
}

/// The header; then the refcount table, its blocks and the L1 table in clusters one after the other.
fn layout(options: &CreateOptions) -> Result<Header, CreateError> {
    let (size, cluster_size) = (options.size, options.cluster_size);
    if !cluster_size.is_power_of_two() || !(512..=2 << 20).contains(&cluster_size) {
        return Err(CreateError::ClusterSize(cluster_size));
    }
    let cluster_bits = cluster_size.trailing_zeros();
    let wrong = CreateError::Size { size, cluster_size };
    let l1_entries = l1_entries_for(size.min(1 << 60), cluster_bits);
    if !size.is_multiple_of(512) || size > 1 << 56 || l1_entries > MAX_L1_ENTRIES {
        return Err(wrong);
    }
    if options.backing.is_some() && options.preallocation != Preallocation::Off {
        return Err(CreateError::Preallocation);
    }
    let (table, blocks) = counts_for(
        1 + (l1_entries * 8).div_ceil(cluster_size).max(1),
        cluster_size,
    );
    let narrow = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    let header = Header {
        version: 3,
        cluster_bits,
        size,
        refcount_order: 4,
        compression: Compression::Deflate,
        dirty: false,
        corrupt: false,
        snapshots: 0,
        backing: options.backing.clone(),
        l1_entries: narrow(l1_entries),
        l1_offset: (1 + table + blocks) << cluster_bits,
        reftable_offset: cluster_size,
        reftable_clusters: narrow(table),
        snapshots_offset: 0,
        incompatible: 0,
        autoclear: 0,
    };
    check_backing(options, &header)?;
    Ok(header)
}

fn check_backing(options: &CreateOptions, header: &Header) -> Result<(), CreateError> {
    let Some(backing) = &options.backing else {
        return Ok(());
    };
    let len = backing.name.as_bytes().len();
    let named = (1..=MAX_NAME as usize).contains(&len) && !backing.name.as_bytes().contains(&0);
    let fits = header.emit().len() as u64 <= options.cluster_size;
    if named
        && fits
        && backing
            .format
            .as_ref()
            .is_some_and(|format| !format.is_empty())
    {
        Ok(())
    } else {
        Err(CreateError::Backing(backing.clone()))
    }
}

/// How many clusters the refcount table and its blocks take, to count themselves and `others`.
fn counts_for(others: u64, cluster_size: u64) -> (u64, u64) {
    let per_block = cluster_size / 2;
    let (mut table, mut blocks) = (1, 1);
    loop {
        let needed = (others + table + blocks).div_ceil(per_block);
        let needed_table = (needed * 8)
            .div_ceil(cluster_size)
            .min(max_reftable_entries(cluster_size));
        if needed <= blocks && needed_table <= table {
            return (table, blocks);
        }
        (table, blocks) = (needed_table.max(table), needed.max(blocks));
    }
}

fn write(storage: &dyn Storage, header: &Header) -> io::Result<()> {
    let cluster = 1u64 << header.cluster_bits;
    let table = u64::from(header.reftable_clusters);
    let first_block = header.reftable_offset + table * cluster;
    let blocks = (header.l1_offset - first_block) / cluster;
    let l1 = (u64::from(header.l1_entries) * 8).div_ceil(cluster).max(1);
    let end = header.l1_offset + l1 * cluster;
    storage.set_len(end)?;
    let entries: Vec<u8> = (0..blocks)
        .flat_map(|block| (first_block + block * cluster).to_be_bytes())
        .collect();
    storage.write_at(header.reftable_offset, &entries)?;
    // The counts of all these clusters, each 1, in as many blocks as they need: one after the other, like the blocks.
    let counts: Vec<u8> = (0..end / cluster)
        .flat_map(|_| 1u16.to_be_bytes())
        .collect();
    storage.write_at(first_block, &counts)?;
    // The header last: before it there is no image.
    storage.sync()?;
    storage.write_at(0, &header.emit())?;
    storage.sync()
}

impl Qcow2 {
    /// Gives each cluster its place.
    fn place_all(&self) -> io::Result<()> {
        let cluster = self.shape.cluster();
        let (mut at, size) = (0, self.len());
        let mut tables = self.tables();
        while at < size {
            if tables.is_full() {
                tables.commit()?;
            }
            let table = tables.own_l2(at)?;
            if !matches!(tables.cluster(at)?, Cluster::Unallocated) {
                at += cluster;
                continue;
            }
            let left = (self.shape.l2_entries() - self.shape.l2_index(at)) as u64;
            let wanted = left.min((size - at).div_ceil(cluster));
            let (first, count) = tables.refs()?.take_run(wanted)?;
            // New clusters of a new file are behind its end, and zeroes.
            tables.extend(
                (first + count) << self.shape.cluster_bits,
                Some((first, count)),
            )?;
            for number in 0..count {
                let host = (first + number) << self.shape.cluster_bits;
                tables.set_entry(table, at + number * cluster, host | COPIED)?;
            }
            at += count * cluster;
        }
        tables.commit()
    }
}
