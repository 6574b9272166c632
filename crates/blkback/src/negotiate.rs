//! What is written into xenstore for the front end, and what is read of its answer.

use cantle_abi::io::blkif::{VDISK_CDROM, VDISK_READONLY, VDISK_REMOVABLE, keys as key};
use cantle_abi::ring::MAX_RING_PAGES;
use cantle_abi::{GrantRef, Port};
use cantle_image::Geometry;
use cantle_xenstore::xenbus::{Keys, OtherEnd};

use crate::connect::ConnectError;
use crate::options::{BackendOptions, DiskKind};
use crate::ring::Protocol;

/// A front end's answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) protocol: Protocol,
    pub(crate) persistent: bool,
    pub(crate) queues: Vec<QueueKeys>,
}

/// One queue as the front end has made it.
#[derive(Debug)]
pub(crate) struct QueueKeys {
    pub(crate) pages: Vec<GrantRef>,
    pub(crate) port: Port,
}

/// What is offered before the front end answers: features and limits.
pub(crate) fn offer(disk: &Geometry, options: &BackendOptions) -> Keys {
    let order = u64::from(options.max_ring_page_order);
    let mut offered = keys(&[
        (key::FEATURE_FLUSH_CACHE, 1),
        (key::FEATURE_BARRIER, options.barrier.into()),
        (key::FEATURE_PERSISTENT, options.persistent.into()),
        (key::MAX_RING_PAGE_ORDER, order),
        // The same in the older spelling of some front ends.
        (key::MAX_RING_PAGES, 1 << order),
        (key::MULTI_QUEUE_MAX_QUEUES, options.max_queues.into()),
    ]);
    if options.indirect_segments != 0 {
        let most = options.indirect_segments.into();
        offered.extend(keys(&[(key::FEATURE_MAX_INDIRECT_SEGMENTS, most)]));
    }
    offered.extend(discards(disk, options.discard));
    offered
}

/// What is said of discards; also after the medium has changed.
pub(crate) fn discards(disk: &Geometry, wanted: bool) -> Keys {
    let offered = wanted && disk.discard;
    let mut said = keys(&[(key::FEATURE_DISCARD, offered.into())]);
    if offered {
        said.extend(keys(&[
            (key::DISCARD_GRANULARITY, disk.discard_granularity.into()),
            (key::DISCARD_ALIGNMENT, 0),
            (key::DISCARD_SECURE, disk.secure_discard.into()),
        ]));
    }
    said
}

/// What the disk is: published with the state `Connected`, and again when it changes.
///
/// `sectors` is in units of 512 bytes whatever `sector-size` says, and so is everything in a request: as the header has it since 4.20. It
/// calls the front end's `feature-large-sector-size`, which once meant otherwise, a key that decides nothing.
pub(crate) fn properties(disk: &Geometry, kind: DiskKind) -> Keys {
    let mut info = match kind {
        DiskKind::Disk => 0,
        DiskKind::Removable => VDISK_REMOVABLE,
        DiskKind::Cdrom => VDISK_CDROM | VDISK_REMOVABLE | VDISK_READONLY,
    };
    if disk.read_only {
        info |= VDISK_READONLY;
    }
    keys(&[
        (key::SECTORS, disk.sectors),
        (key::SECTOR_SIZE, disk.sector_size.into()),
        (key::PHYSICAL_SECTOR_SIZE, disk.physical_sector_size.into()),
        (key::INFO, info.into()),
    ])
}

/// Reads what the front end wants. Nothing of it is more than was offered.
pub(crate) fn read(front: &OtherEnd<'_>, options: &BackendOptions) -> Result<Answer, ConnectError> {
    let protocol = match front.get(key::PROTOCOL)? {
        None => Protocol::Native,
        Some(name) => Protocol::parse(&name)
            // It goes to the log; a guest does not fill that.
            .ok_or_else(|| ConnectError::Protocol(name.chars().take(32).collect()))?,
    };
    let pages = ring_pages(front, options)?;
    let queues = front.optional::<u32>(key::MULTI_QUEUE_NUM_QUEUES)?;
    let queues = within(
        key::MULTI_QUEUE_NUM_QUEUES,
        queues.unwrap_or(1),
        1..=options.max_queues.into(),
    )?;
    let queues = if queues == 1 {
        vec![queue(front, "", pages)?]
    } else {
        (0..queues)
            .map(|n| queue(front, &format!("queue-{n}/"), pages))
            .collect::<Result<_, _>>()?
    };
    let persistent =
        options.persistent && front.optional::<u32>(key::FEATURE_PERSISTENT)? == Some(1);
    Ok(Answer {
        protocol,
        persistent,
        queues,
    })
}

/// How many pages each ring has, by either spelling; `None`: one, and the front end does not say so.
fn ring_pages(front: &OtherEnd<'_>, options: &BackendOptions) -> Result<Option<u32>, ConnectError> {
    let most = u32::from(options.max_ring_page_order);
    if let Some(order) = front.optional::<u32>(key::RING_PAGE_ORDER)? {
        let order = within(key::RING_PAGE_ORDER, order, 0..=most)?;
        return Ok(Some(1 << order));
    }
    let Some(pages) = front.optional::<u32>(key::NUM_RING_PAGES)? else {
        return Ok(None);
    };
    let pages = within(key::NUM_RING_PAGES, pages, 1..=1 << most)?;
    if pages.is_power_of_two() {
        Ok(Some(pages))
    } else {
        Err(ConnectError::NotOffered {
            key: key::NUM_RING_PAGES,
            wanted: pages,
            most: 1 << most,
        })
    }
}

fn within(
    key: &'static str,
    wanted: u32,
    offered: std::ops::RangeInclusive<u32>,
) -> Result<u32, ConnectError> {
    if offered.contains(&wanted) {
        Ok(wanted)
    } else {
        let most = *offered.end();
        Err(ConnectError::NotOffered { key, wanted, most })
    }
}

fn queue(
    front: &OtherEnd<'_>,
    directory: &str,
    pages: Option<u32>,
) -> Result<QueueKeys, ConnectError> {
    let count = pages.unwrap_or(1);
    debug_assert!(usize::try_from(count).is_ok_and(|count| count <= MAX_RING_PAGES));
    let alone = match count {
        1 => front.optional(&format!("{directory}{}", key::RING_REF))?,
        _ => None,
    };
    let pages = match alone {
        Some(gref) => vec![GrantRef(gref)],
        // A front end that knows of larger rings may use their spelling for one page too.
        None => (0..count)
            .map(|n| {
                Ok(GrantRef(
                    front.require(&format!("{directory}{}{n}", key::RING_REF))?,
                ))
            })
            .collect::<Result<_, ConnectError>>()?,
    };
    let port = Port(front.require(&format!("{directory}{}", key::EVENT_CHANNEL))?);
    Ok(QueueKeys { pages, port })
}

fn keys(list: &[(&str, u64)]) -> Keys {
    list.iter()
        .map(|(key, value)| ((*key).to_owned(), value.to_string()))
        .collect()
}
