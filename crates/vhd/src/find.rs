//! Which of an image's footers counts.

use cantle_image::Storage;

use crate::footer::{FOOTER, FOOTER_LEN, Footer};
use crate::{Kind, OpenError};

/// The footers that were found.
pub(crate) struct Footers {
    /// The one that counts.
    pub(crate) footer: Footer,
    /// Whether the image is on a block device.
    pub(crate) device: bool,
    /// Where the one at the end is, or is to be.
    pub(crate) end: u64,
    pub(crate) end_is_good: bool,
    pub(crate) start_is_good: bool,
}

/// Decides which footer counts.
///
/// The last sector of a fixed image's disk area is before its footer, and the first one is the image's first: a guest can write a footer
/// there. Of the others, the first sector is always ours; but after a crash the last one can be a guest's, which can look like a footer
/// as well. So where both ends have one, they have to be of one image.
pub(crate) fn find_footers(
    storage: &dyn Storage,
    len: u64,
    device: bool,
    expect: Option<Kind>,
) -> Result<Footers, OpenError> {
    let start = read_footer(storage, 0, len)?.filter(|footer| footer.kind() != Kind::Fixed);
    let mut end = None;
    // Old versions of Virtual PC have footers of 511 bytes.
    for at in [len.checked_sub(512), len.checked_sub(511)]
        .into_iter()
        .flatten()
    {
        if end.is_none() {
            end = read_footer(storage, at, len)?.map(|footer| (at, footer));
        }
    }
    let belong = match (&start, &end) {
        (Some(start), Some((_, end))) => Some(start.is_of_one_image_with(end)),
        _ => None,
    };
    let end_kind = end.as_ref().map(|(_, footer)| footer.kind());
    let by_end = match (expect, belong) {
        (Some(Kind::Fixed), _) => end_kind == Some(Kind::Fixed) || start.is_none(),
        (None, Some(false)) => {
            return Err(OpenError::Ambiguous {
                end: end_kind.unwrap_or(Kind::Fixed),
                start: start.map_or(Kind::Fixed, |footer| footer.kind()),
            });
        }
        _ => start.is_none(),
    };
    let start_is_good = start.is_some();
    // What does not belong to the image is somebody's data, behind which the footer comes.
    let end_is_good = end.is_some() && (by_end || belong == Some(true));
    let end_at = match &end {
        Some((at, _)) if end_is_good => *at,
        _ if device => len.saturating_sub(FOOTER_LEN),
        _ => len.next_multiple_of(512),
    };
    let end_footer = end.map(|(_, footer)| footer);
    let differs = end_footer.as_ref() != start.as_ref();
    let footer = if by_end { end_footer } else { start };
    let footer = footer.ok_or(OpenError::NotVhd)?;
    let found = footer.kind();
    if let Some(expected) = expect.filter(|&expected| expected != found) {
        return Err(OpenError::Kind { expected, found });
    }
    Ok(Footers {
        footer,
        device,
        end: end_at,
        end_is_good: end_is_good && (by_end || !differs),
        start_is_good,
    })
}

fn read_footer(storage: &dyn Storage, at: u64, len: u64) -> Result<Option<Footer>, OpenError> {
    let mut raw = [0; FOOTER];
    let there = usize::try_from(len.saturating_sub(at))
        .unwrap_or(FOOTER)
        .min(FOOTER);
    if there < FOOTER - 1 {
        return Ok(None);
    }
    let into = raw.get_mut(..there).unwrap_or_default();
    storage.read_at(at, into).map_err(OpenError::io("footer"))?;
    Ok(Footer::parse(raw))
}

/// Writes the footer to where it is missing.
pub(crate) fn repair_footers(storage: &dyn Storage, found: &Footers) -> std::io::Result<()> {
    if found.start_is_good && found.end_is_good {
        return Ok(());
    }
    tracing::warn!("a footer of the VHD image is missing; it is written from its copy");
    if !found.start_is_good {
        storage.write_at(0, found.footer.raw())?;
    }
    if !found.end_is_good {
        storage.write_at(found.end, found.footer.raw())?;
    }
    storage.sync()
}
