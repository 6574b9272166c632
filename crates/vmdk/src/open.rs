//! Opening: what an image is made of, found and checked.

use std::io::ErrorKind;

use cantle_image::Storage;

use crate::descriptor::{Access, ExtentKind, MAX_LEN, NO_PARENT, is_plain_name};
use crate::part::{Kind, Part};
use crate::sparse::Sparse;
use crate::sparse::header::MAGIC;
use crate::{Descriptor, DescriptorError, OpenError, Parent, Report};

/// How to open an image.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// For reading only. Nothing is written then, not even marks.
    pub read_only: bool,
    /// Lets the descriptor name extents anywhere, through links, and block devices: for descriptors of one's own. Otherwise they are
    /// ordinary files in the descriptor's folder. Even so, a descriptor from a stranger can name every file there that may be opened: let
    /// there be nothing else.
    pub any_extent: bool,
    /// The parent, which a delta image needs.
    pub parent: Option<Parent>,
}

/// What an image is made of.
pub(crate) struct Found<S> {
    pub(crate) descriptor: Descriptor,
    pub(crate) parts: Vec<Part<S>>,
    /// Where the descriptor begins in the file that was opened, in bytes.
    pub(crate) descriptor_at: u64,
    /// The files, in the order of their numbers.
    pub(crate) files: Vec<S>,
    pub(crate) sectors: u64,
    /// What a repair found, where one was needed.
    pub(crate) repaired: Option<Report>,
}

pub(crate) fn find<S: Storage + Clone>(
    storage: &S,
    mut open: impl FnMut(&str) -> Result<S, OpenError>,
    options: &Options,
) -> Result<Found<S>, OpenError> {
    let mut magic = [0; 4];
    let len = storage.len().map_err(OpenError::Io)?;
    if len >= 4 {
        storage.read_at(0, &mut magic).map_err(OpenError::Io)?;
    }
    if &magic == b"COWD" {
        return Err(OpenError::Kind("vmfsSparse".to_owned()));
    }
    let mut found = if magic == MAGIC {
        monolithic(storage)?
    } else {
        let descriptor = read_descriptor(storage, 0, len)?;
        split(&mut open, descriptor)?
    };
    check_parent(&found.descriptor, options)?;
    if !options.read_only {
        writable(&mut found)?;
    }
    Ok(found)
}

/// An image whose descriptor is in its one sparse extent.
fn monolithic<S: Storage + Clone>(storage: &S) -> Result<Found<S>, OpenError> {
    let sparse = open_sparse(storage, 0)?;
    let header = sparse.layout().header;
    if header.descriptor == 0 {
        let part = "an extent of an image whose descriptor is elsewhere";
        return Err(OpenError::Kind(part.to_owned()));
    }
    let at = header.descriptor.saturating_mul(512);
    let descriptor = read_descriptor(storage, at, header.descriptor_sectors.saturating_mul(512))?;
    let kind = &descriptor.create_type;
    if !is(kind, "monolithicSparse") && !is(kind, "streamOptimized") {
        return Err(OpenError::Kind(kind.clone()));
    }
    let [extent] = descriptor.extents.as_slice() else {
        return Err(DescriptorError::Extents.into());
    };
    let sectors = extent.sectors;
    if !matches!(extent.kind, ExtentKind::Sparse { .. }) {
        return Err(OpenError::Kind(format!("{:?}", extent.kind)));
    }
    let part = Part::sparse(0, sectors, access(extent.access)?, 0, sparse)
        .ok_or_else(|| size(0, sectors, header.capacity))?;
    Ok(Found {
        descriptor,
        parts: vec![part],
        descriptor_at: at,
        files: vec![storage.clone()],
        sectors,
        repaired: None,
    })
}

/// An image whose descriptor is a file of its own.
fn split<S: Storage + Clone>(
    open: &mut impl FnMut(&str) -> Result<S, OpenError>,
    descriptor: Descriptor,
) -> Result<Found<S>, OpenError> {
    let kind = &descriptor.create_type;
    let known = [
        "monolithicFlat",
        "twoGbMaxExtentFlat",
        "twoGbMaxExtentSparse",
        "vmfs",
        "custom",
    ];
    if !known.iter().any(|known| is(kind, known)) {
        return Err(OpenError::Kind(kind.clone()));
    }
    let sectors = descriptor
        .sectors()
        .ok_or_else(|| size(0, u64::MAX, i64::MAX.cast_unsigned() / 512))?;
    let (mut parts, mut files) = (Vec::new(), Vec::<S>::new());
    let mut used: Vec<Use> = Vec::new();
    let mut start = 0;
    for (number, extent) in descriptor.extents.iter().enumerate() {
        let claim = Use::of(extent);
        if let Some(claim) = &claim
            && used.iter().any(|other| other.collides(claim))
        {
            return Err(OpenError::Name(claim.name.clone()));
        }
        let known = claim
            .as_ref()
            .and_then(|claim| used.iter().find(|other| other.name == claim.name))
            .map(|other| other.file);
        let file = known.unwrap_or(files.len());
        if let (None, Some(name)) = (known, extent.file()) {
            files.push(open(name)?);
        }
        let access = access(extent.access)?;
        let part = match (&extent.kind, files.get(file)) {
            (ExtentKind::Zero, _) => Part::zero(start),
            (ExtentKind::Flat { offset, .. }, Some(storage)) => {
                let there = storage.len().map_err(OpenError::Io)? / 512;
                let there = there.saturating_sub(*offset);
                Part::flat(start, extent.sectors, access, file, storage, *offset)
                    .filter(|_| there >= extent.sectors)
                    .ok_or_else(|| size(number, extent.sectors, there))?
            }
            (ExtentKind::Sparse { .. }, Some(storage)) => {
                let sparse = open_sparse(storage, number)?;
                let there = sparse.layout().header.capacity;
                Part::sparse(start, extent.sectors, access, file, sparse)
                    .ok_or_else(|| size(number, extent.sectors, there))?
            }
            (ExtentKind::Other(kind), _) => return Err(OpenError::Kind(kind.clone())),
            (_, None) => return Err(OpenError::Io(ErrorKind::NotFound.into())),
        };
        parts.push(part);
        start += extent.sectors;
        used.extend(claim.map(|claim| Use { file, ..claim }));
    }
    Ok(Found {
        descriptor,
        parts,
        descriptor_at: 0,
        files,
        sectors,
        repaired: None,
    })
}

/// A part of a file that an extent is.
struct Use {
    name: String,
    file: usize,
    from: u64,
    end: u64,
}

impl Use {
    fn of(extent: &crate::ExtentLine) -> Option<Self> {
        let (from, end) = match extent.kind {
            ExtentKind::Flat { offset, .. } => (offset, offset.saturating_add(extent.sectors)),
            ExtentKind::Sparse { .. } => (0, u64::MAX),
            ExtentKind::Zero | ExtentKind::Other(_) => return None,
        };
        Some(Self {
            name: extent.file()?.to_owned(),
            file: 0,
            from,
            end,
        })
    }

    fn collides(&self, other: &Self) -> bool {
        self.name == other.name && self.from < other.end && other.from < self.end
    }
}

/// Refuses what cannot be written, and repairs what was not closed.
fn writable<S: Storage>(found: &mut Found<S>) -> Result<(), OpenError> {
    for part in &found.parts {
        if part.access == Access::ReadOnly {
            return Err(OpenError::ReadOnly("an extent says so"));
        }
        match &part.kind {
            Kind::Flat { .. } => {}
            Kind::Zero => return Err(OpenError::ReadOnly("an extent is only zeroes")),
            Kind::Sparse { sparse, .. } => {
                let header = sparse.layout().header;
                if header.compressed {
                    return Err(OpenError::ReadOnly("it is compressed"));
                }
                if header.version > 2 {
                    return Err(OpenError::ReadOnly("a tracker of changes relies on it"));
                }
                if !sparse.layout().is_whole() {
                    return Err(OpenError::ReadOnly("grain tables are missing"));
                }
            }
        }
    }
    for part in &found.parts {
        let Kind::Sparse { sparse, .. } = &part.kind else {
            continue;
        };
        if sparse.layout().header.unclean {
            let report = sparse.repair().map_err(OpenError::Io)?;
            sparse.set_unclean(false).map_err(OpenError::Io)?;
            tracing::warn!(?report, "a VMDK that was not closed has been repaired");
            found.repaired.get_or_insert_default().add(&report);
        }
    }
    Ok(())
}

fn check_parent(descriptor: &Descriptor, options: &Options) -> Result<(), OpenError> {
    let wanted = descriptor.parent_cid;
    match &options.parent {
        None if wanted == NO_PARENT => Ok(()),
        None => Err(OpenError::Parent {
            cid: wanted,
            hint: descriptor.parent_hint.clone(),
        }),
        Some(parent) => match parent.cid.unwrap_or(wanted) {
            given if given == wanted && wanted != NO_PARENT => Ok(()),
            given => Err(OpenError::WrongParent { wanted, given }),
        },
    }
}

fn read_descriptor(storage: &impl Storage, at: u64, len: u64) -> Result<Descriptor, OpenError> {
    // One byte more is enough to see that it is too long; an embedded one may have room to spare.
    let len = usize::try_from(len).unwrap_or(usize::MAX).min(MAX_LEN + 1);
    let mut bytes = vec![0; len];
    storage.read_at(at, &mut bytes).map_err(OpenError::Io)?;
    Ok(Descriptor::parse(&bytes)?)
}

fn open_sparse<S: Storage + Clone>(storage: &S, extent: usize) -> Result<Sparse<S>, OpenError> {
    Sparse::open(storage.clone()).map_err(|source| OpenError::Sparse { extent, source })
}

fn access(access: Access) -> Result<Access, OpenError> {
    match access {
        Access::None => Err(OpenError::Kind("NOACCESS".to_owned())),
        access => Ok(access),
    }
}

fn size(extent: usize, sectors: u64, there: u64) -> OpenError {
    OpenError::Size {
        extent,
        sectors,
        there,
    }
}

fn is(kind: &str, name: &str) -> bool {
    kind.eq_ignore_ascii_case(name)
}

/// Whether the descriptor may name this file.
pub(crate) fn check_name(
    name: &str,
    own: Option<&str>,
    options: &Options,
) -> Result<(), OpenError> {
    if Some(name) != own && (options.any_extent || is_plain_name(name)) {
        Ok(())
    } else {
        Err(OpenError::Name(name.to_owned()))
    }
}
