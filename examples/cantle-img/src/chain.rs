//! What an image stands on.

use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use cantle_disk::{ImageFormat, Parents};

use crate::cli::Policy;
use crate::image::{Below, Image, must_be_image};

/// So many images may stand on each other.
const MAX_DEPTH: usize = 64;

impl Policy {
    pub(crate) fn parents(self) -> Parents {
        match self {
            Self::Refuse => Parents::Refuse,
            Self::Folder => Parents::SameFolder,
            Self::Any => Parents::Any,
        }
    }
}

/// An image of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) path: PathBuf,
    pub(crate) format: ImageFormat,
}

/// A parent as an image names it: nobody has looked whether it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    /// The names, the first choice first.
    pub(crate) names: Vec<PathBuf>,
    /// Its format, where that is known here.
    pub(crate) format: Option<ImageFormat>,
    /// Its format's name.
    pub(crate) format_name: Option<String>,
}

/// What an image says of its parent.
pub(crate) fn named(image: &Image) -> Option<Named> {
    match image {
        Image::Raw(_) => None,
        Image::Vhd(image) => image.info().parent.map(|parent| {
            let format = match parent.uuid == [0; 16] {
                true => ImageFormat::Raw,
                false => ImageFormat::Vhd,
            };
            Named {
                names: parent.names,
                format: Some(format),
                format_name: Some(format.name().to_owned()),
            }
        }),
        Image::Qcow2(image) => image.header().backing.clone().map(|backing| Named {
            names: vec![backing.name.into()],
            format: match backing.format.as_deref() {
                Some("raw") => Some(ImageFormat::Raw),
                Some("qcow2") => Some(ImageFormat::Qcow2),
                // Others are not opened as parents.
                _ => None,
            },
            format_name: backing.format,
        }),
        Image::Vmdk(image) => {
            let descriptor = image.descriptor();
            let is_delta = descriptor.parent_cid != cantle_vmdk::descriptor::NO_PARENT;
            is_delta.then(|| Named {
                names: descriptor.parent_hint.iter().map(PathBuf::from).collect(),
                format: None,
                format_name: Some("vmdk".to_owned()),
            })
        }
    }
}

/// All that an image stands on, the nearest first, as far as the policy allows: an error where it does not.
pub(crate) fn parents(path: &Path, format: ImageFormat, policy: Policy) -> Result<Vec<Link>> {
    let base = folder_of(path)?;
    let below = Arc::new(Below::new()?);
    let mut seen = vec![identity(path)?];
    let mut links: Vec<Link> = Vec::new();
    let mut at = Link {
        path: path.to_owned(),
        format,
    };
    // A raw disk has no parents, and need not be opened to know it.
    while at.format != ImageFormat::Raw {
        let image = Image::open(&at.path, at.format, true, below.clone())?;
        let Some(named) = named(&image) else { break };
        let place = find(&at.path, &named, policy, &base);
        let next =
            place.with_context(|| format!("cannot use the parent of {}", at.path.display()))?;
        ensure!(
            !seen.contains(&identity(&next.path)?),
            "cannot use {}: it stands on itself",
            next.path.display()
        );
        ensure!(
            seen.len() < MAX_DEPTH,
            "cannot use {}: more than {MAX_DEPTH} images stand on each other",
            path.display()
        );
        seen.push(identity(&next.path)?);
        links.push(next.clone());
        at = next;
    }
    Ok(links)
}

/// The parent that the image at `child` names. `base` is where the policy's folder is.
fn find(child: &Path, named: &Named, policy: Policy, base: &Path) -> Result<Link> {
    let name = named.names.first().context("it is not named")?;
    ensure!(
        policy != Policy::Refuse,
        "it is {name:?}, and no parents are allowed"
    );
    let Some(format) = named.format else {
        match &named.format_name {
            Some(format) => {
                bail!("parent {name:?} has the format {format:?}, which does not go here")
            }
            None => bail!("the format of parent {name:?} is not stated"),
        }
    };
    let folder = folder_of(child)?;
    let found = named.names.iter().find_map(|name| {
        // A name with a colon before the first slash is a protocol's to QEMU, and so in no image that is to be read by both.
        let first = name.as_os_str().as_bytes();
        let first = first.iter().find(|byte| matches!(byte, b':' | b'/'));
        match first {
            Some(b':') => None,
            _ => folder.join(name).canonicalize().ok(),
        }
    });
    let path = found.with_context(|| format!("there is no {:?}", named.names))?;
    ensure!(
        policy == Policy::Any || path.starts_with(base),
        "{} is outside of {}; --parents any allows it",
        path.display(),
        base.display()
    );
    must_be_image(&path)?;
    Ok(Link { path, format })
}

/// The folder that an image is in, without links.
pub(crate) fn folder_of(path: &Path) -> Result<PathBuf> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    folder
        .canonicalize()
        .with_context(|| format!("cannot find the folder {}", folder.display()))
}

fn identity(path: &Path) -> Result<(u64, u64)> {
    let metadata = path
        .metadata()
        .with_context(|| format!("cannot open {}", path.display()))?;
    Ok((metadata.dev(), metadata.ino()))
}

/// How an image at `place` is to name a parent: from its own folder, where the parent is there or below, else from the root.
pub(crate) fn name_for(place: &Path, parent: &Path) -> Result<PathBuf> {
    let folder = folder_of(place)?;
    let parent = parent
        .canonicalize()
        .with_context(|| format!("cannot find parent {}", parent.display()))?;
    let Ok(below) = parent.strip_prefix(&folder) else {
        return Ok(parent);
    };
    // Else QEMU takes what is before the colon for a protocol.
    Ok(match below.as_os_str().as_bytes().contains(&b':') {
        true => Path::new(".").join(below),
        false => below.to_owned(),
    })
}
