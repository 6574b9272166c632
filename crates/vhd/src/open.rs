//! Opening an image: which footer is it, where are its tables, what is its parent.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

use cantle_image::Storage;
use rustix::fs::OFlags;

use crate::bitmap::Bitmaps;
use crate::find::{Footers, find_footers, repair_footers};
use crate::footer::{FOOTER_LEN, Footer};
use crate::header::{HEADER, Header, MAX_BLOCKS, batmap_place, table_len};
use crate::state::{Layout, State};
use crate::table::Table;
use crate::{Kind, OpenError, OpenOptions, Vhd, parent};

/// The files of a chain that are open already.
#[derive(Debug, Default)]
pub(crate) struct Chain {
    seen: Vec<(u64, u64)>,
}

impl Chain {
    /// Notes a file; false where it was there before.
    pub(crate) fn enter(&mut self, file: &File) -> bool {
        // A file that does not say which it is counts as a new one; the chain's length has a limit anyway.
        let id = file
            .metadata()
            .map_or((0, 0), |metadata| (metadata.dev(), metadata.ino()));
        let new = id == (0, 0) || !self.seen.contains(&id);
        self.seen.push(id);
        new
    }

    pub(crate) fn depth(&self) -> usize {
        self.seen.len()
    }
}

pub(crate) fn open_file(path: &Path, read_only: bool) -> Result<Arc<File>, OpenError> {
    let failed = |source| OpenError::Open {
        path: path.to_owned(),
        source,
    };
    // Without O_NONBLOCK, opening a pipe would hang before it could be seen to be one. For files and disks it changes nothing that is
    // used here, but io_uring heeds it.
    let file = File::options()
        .read(true)
        .write(!read_only)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
        .map_err(failed)?;
    let kind = file.metadata().map_err(failed)?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(OpenError::NoDisk {
            path: path.to_owned(),
        });
    }
    let flags = rustix::fs::fcntl_getfl(&file).map_err(|error| failed(error.into()))?;
    rustix::fs::fcntl_setfl(&file, flags - OFlags::NONBLOCK)
        .map_err(|error| failed(error.into()))?;
    Ok(Arc::new(file))
}

pub(crate) fn open_within(
    storage: Box<dyn Storage>,
    path: Option<&Path>,
    options: &OpenOptions,
    chain: &mut Chain,
) -> Result<Vhd, OpenError> {
    let len = storage.len().map_err(OpenError::io("length"))?;
    let metadata = storage.file().metadata().map_err(OpenError::io("nature"))?;
    let device = metadata.file_type().is_block_device();
    let found = find_footers(&*storage, len, device, options.expect)?;
    let sectors = found.footer.sectors(options.size);
    let bytes = sectors.checked_mul(512).filter(|&bytes| bytes != 0);
    let bytes = bytes.ok_or(OpenError::Invalid {
        field: "disk size",
        value: sectors,
    })?;
    if found.footer.kind() == Kind::Fixed {
        if bytes > found.end {
            return Err(OpenError::Invalid {
                field: "disk size",
                value: sectors,
            });
        }
        let state = State::fixed(found.footer, found.end);
        let layout = Layout {
            kind: Kind::Fixed,
            device,
            block_size: 512,
            bitmap_len: 512,
            lowest_bit_first: false,
        };
        return Ok(vhd(storage, options, sectors, None, state, layout));
    }
    let (state, layout) = open_tables(&*storage, len, &found, bytes)?;
    let parent = match &state.header {
        Some(header) if layout.kind == Kind::Differencing => {
            let names = parent::names(&*storage, header);
            let parent = parent::find(names, header, path, options, chain);
            Some(parent.map_err(OpenError::parent)?)
        }
        _ => None,
    };
    if !options.read_only {
        repair_footers(&*storage, &found).map_err(OpenError::io("footer"))?;
    }
    if state.damaged {
        tracing::warn!(
            ?path,
            "the VHD image's table names blocks that are not there; it gets no new ones before a repair"
        );
    }
    Ok(vhd(storage, options, sectors, parent, state, layout))
}

fn vhd(
    storage: Box<dyn Storage>,
    options: &OpenOptions,
    sectors: u64,
    parent: Option<Arc<dyn cantle_image::Format>>,
    state: State,
    layout: Layout,
) -> Vhd {
    Vhd {
        storage,
        parent,
        read_only: options.read_only,
        sectors: AtomicU64::new(sectors),
        layout,
        state: Mutex::new(state),
        flushing: Mutex::default(),
    }
}

fn open_tables(
    storage: &dyn Storage,
    len: u64,
    found: &Footers,
    bytes: u64,
) -> Result<(State, Layout), OpenError> {
    let at = found.footer.data_offset();
    let header_end = at.checked_add(HEADER as u64).filter(|&end| end <= len);
    let good = at >= FOOTER_LEN && at.is_multiple_of(512);
    let Some(header_end) = header_end.filter(|_| good) else {
        return Err(OpenError::Invalid {
            field: "header offset",
            value: at,
        });
    };
    let mut raw = [0; HEADER];
    storage
        .read_at(at, &mut raw)
        .map_err(OpenError::io("header"))?;
    let header = Header::parse(raw)?;
    let entries = header.entries();
    let blocks = bytes.div_ceil(header.block_size().into());
    if blocks > MAX_BLOCKS || blocks > entries.into() {
        return Err(OpenError::Invalid {
            field: "number of blocks",
            value: entries.into(),
        });
    }
    let table = header.table_offset();
    let table_end = table
        .checked_add(table_len(entries))
        .filter(|&end| end <= len);
    let table_end = table_end.ok_or(OpenError::Invalid {
        field: "table offset",
        value: table,
    })?;
    let mut metadata = vec![0..FOOTER_LEN, at..header_end, table..table_end];
    metadata.extend(other_metadata(storage, &found.footer, &header, table_end));
    metadata.retain(|range| range.end <= len && range.start < range.end);
    let layout = Layout {
        kind: found.footer.kind(),
        device: found.device,
        block_size: header.block_size().into(),
        bitmap_len: header.bitmap_len(),
        lowest_bit_first: found.footer.lowest_bit_first(),
    };
    let wanted = u32::try_from(blocks).unwrap_or(u32::MAX);
    let table = Table::read(storage, table, wanted).map_err(OpenError::io("table"))?;
    let mut state = State {
        footer: found.footer.clone(),
        header: Some(header),
        table,
        bitmaps: Bitmaps::new(&layout),
        span: layout.span(),
        metadata,
        end: found.end.min(len.next_multiple_of(512)),
        next: 0,
        damaged: false,
    };
    state.find_room(layout.device);
    Ok((state, layout))
}

/// Where batmap and parent locators are. They may be nonsense.
fn other_metadata(
    storage: &dyn Storage,
    footer: &Footer,
    header: &Header,
    table_end: u64,
) -> Vec<Range<u64>> {
    let mut ranges = Vec::new();
    let mut push =
        |start: u64, len: u64| ranges.extend(start.checked_add(len).map(|end| start..end));
    let mut raw = [0; 512];
    if footer.may_have_batmap()
        && storage.read_at(table_end, &mut raw).is_ok()
        && let Some((offset, len)) = batmap_place(&raw)
    {
        push(table_end, 512);
        push(offset, len);
    }
    for locator in header.locators() {
        if locator.code != [0; 4] {
            push(locator.offset, u64::from(locator.len).next_multiple_of(512));
        }
    }
    ranges
}
