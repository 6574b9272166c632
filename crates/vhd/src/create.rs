//! Making an image.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cantle_image::Storage;

use crate::footer::{Footer, NewFooter};
use crate::header::{
    HEADER, Header, Locator, MAX_BLOCK_SIZE, MAX_BLOCKS, ParentFields, bitmap_len, empty_batmap,
    table_len,
};
use crate::locator::{MACX, MAX_PATH, W2KU, W2RU, encode, encode_name, relative};
use crate::open::{Chain, open_within};
use crate::{
    CreateError, CreateOptions, Kind, OpenError, OpenOptions, ParentDisk, Parents, SizeRule, Vhd,
    parent,
};

/// The largest disk: 2040 GiB, as others have it too.
pub(crate) const MAX_SECTORS: u64 = 0xff00_0000;

/// Where the table of a new image is: behind the footer's copy and the header.
const TABLE: u64 = 3 * 512;

impl Vhd {
    /// Makes an image in a new file and opens it for writing.
    ///
    /// # Errors
    ///
    /// [`CreateError`]; [`CreateError::NotEmpty`] where the file exists. After an error, the file is removed.
    pub fn create_path(path: &Path, options: &CreateOptions) -> Result<Self, CreateError> {
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path);
        let file = file.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => CreateError::NotEmpty,
            _ => error.into(),
        })?;
        let folder = path.canonicalize()?.parent().map(Path::to_owned);
        let options = CreateOptions {
            folder,
            ..options.clone()
        };
        Self::create(Arc::new(file), &options).inspect_err(|_| {
            // The first error counts.
            let _ = std::fs::remove_file(path);
        })
    }

    /// Makes an image in an empty file, or on a block device, and opens it for writing.
    ///
    /// # Errors
    ///
    /// [`CreateError`].
    pub fn create(
        storage: impl Storage + 'static,
        options: &CreateOptions,
    ) -> Result<Self, CreateError> {
        let storage = Box::new(storage);
        write_image(&*storage, options)?;
        let parents = match &options.parent {
            Some(parent) => Parents::Given(Arc::clone(&parent.disk)),
            None => Parents::Refuse,
        };
        let open = OpenOptions {
            parents,
            size: SizeRule::Current,
            expect: Some(options.kind),
            ..OpenOptions::default()
        };
        let opened = open_within(storage, None, &open, &mut Chain::default());
        opened.map_err(|error| match error {
            OpenError::Io { source, .. } => source.into(),
            other => io::Error::other(other).into(),
        })
    }
}

fn write_image(storage: &dyn Storage, options: &CreateOptions) -> Result<(), CreateError> {
    if options.parent.is_some() != (options.kind == Kind::Differencing) {
        return Err(CreateError::Parent);
    }
    let below = options
        .parent
        .as_ref()
        .map(|parent| parent.disk.geometry().sectors);
    let sectors = options.sectors.or(below).unwrap_or(0);
    if !(1..=MAX_SECTORS).contains(&sectors) {
        return Err(CreateError::Size(sectors));
    }
    let len = storage.len()?;
    let device = !storage.file().metadata()?.is_file();
    if len != 0 && !device {
        return Err(CreateError::NotEmpty);
    }
    let uuid = match options.uuid {
        Some(uuid) => uuid,
        None => random_uuid()?,
    };
    let footer = Footer::new(&NewFooter {
        kind: options.kind,
        sectors,
        uuid,
        timestamp: parent::now(),
    });
    let end = match options.kind {
        Kind::Fixed => sectors * 512,
        _ => write_tables(storage, options, sectors, &footer)?,
    };
    let end = match (device, len.checked_sub(512)) {
        (true, Some(last)) if last >= end => last,
        (true, _) => return Err(io::Error::from(io::ErrorKind::StorageFull).into()),
        (false, _) => end,
    };
    storage.write_at(end, footer.raw())?;
    Ok(storage.sync()?)
}

/// Writes the footer's copy, the header and the tables; where they end.
fn write_tables(
    storage: &dyn Storage,
    options: &CreateOptions,
    sectors: u64,
    footer: &Footer,
) -> Result<u64, CreateError> {
    let block = options.block_size;
    let blocks = (sectors * 512).div_ceil(u64::from(block).max(1));
    let good = block.is_power_of_two() && (4096..=MAX_BLOCK_SIZE).contains(&block);
    let entries = u32::try_from(blocks)
        .ok()
        .filter(|_| good && blocks <= MAX_BLOCKS);
    let entries = entries.ok_or(CreateError::BlockSize(block))?;
    let table = usize::try_from(table_len(entries)).map_err(|_| CreateError::BlockSize(block))?;
    // The whole of them in one piece: some 33 MiB for the largest table, 4 MiB for one of 2 TiB in usual blocks.
    let mut bytes = footer.raw().to_vec();
    bytes.resize(512 + HEADER, 0);
    bytes.resize(bytes.len() + table, 0xff);
    bytes.extend(empty_batmap(bytes.len() as u64, entries));
    let fields = match &options.parent {
        Some(parent) => parent_fields(parent, options.folder.as_deref(), &mut bytes)?,
        None => ParentFields::default(),
    };
    let header = Header::new(TABLE, entries, block, &fields);
    crate::bytes::put(&mut bytes, 512, header.raw());
    storage.write_at(0, &bytes)?;
    debug_assert!(bitmap_len(block) >= 512);
    Ok(bytes.len() as u64)
}

/// What the header says of the parent; the paths are appended to the `bytes` of the image.
fn parent_fields(
    parent: &ParentDisk,
    folder: Option<&Path>,
    bytes: &mut Vec<u8>,
) -> Result<ParentFields, CreateError> {
    let unusable = || CreateError::ParentPath(parent.path.clone());
    let absolute = parent.path.canonicalize().map_err(|_| unusable())?;
    let text = |path: PathBuf| path.into_os_string().into_string().map_err(|_| unusable());
    let mut paths = Vec::new();
    if let Some(folder) = folder {
        let way = text(relative(folder, &absolute))?;
        paths.extend([(MACX, way.clone()), (W2RU, way)]);
    }
    let name = absolute.file_name().ok_or_else(unusable)?;
    let name = encode_name(&text(name.into())?);
    paths.push((W2KU, text(absolute)?));
    if name.len() > 512 {
        return Err(unusable());
    }
    let mut locators = Vec::new();
    for (code, path) in paths {
        let path = encode(code, &path);
        let len = u32::try_from(path.len()).unwrap_or(u32::MAX);
        if len > MAX_PATH {
            return Err(unusable());
        }
        locators.push(Locator {
            code,
            // In bytes, as Microsoft's and Xen's tools do, though the specification says sectors.
            space: len.next_multiple_of(512),
            len,
            offset: bytes.len() as u64,
        });
        bytes.extend(path);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    Ok(ParentFields {
        uuid: parent.uuid,
        modified: parent.modified,
        name,
        locators,
    })
}

fn random_uuid() -> io::Result<[u8; 16]> {
    let mut uuid = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut uuid)?;
    let [.., version, _, variant, _, _, _, _, _, _, _] = &mut uuid;
    *version = *version & 0x0f | 0x40;
    *variant = *variant & 0x3f | 0x80;
    Ok(uuid)
}
