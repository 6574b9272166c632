//! What a disk offers its front end, and how it is served.

use std::time::Duration;

use cantle_abi::io::blkif::BLKIF_SEGMENTS_PER_INDIRECT_PAGE;
use cantle_image::{Geometry, ImageError};

/// What a disk offers, and how it is served. The defaults suit a disk of a Linux guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendOptions {
    /// The most queues, each with a thread and an io_uring of its own. 1: the embedder's thread serves all. At most
    /// [`MAX_QUEUES`](Self::MAX_QUEUES).
    pub max_queues: u16,
    /// The most pages of a queue's ring, as a power of two; at most [`MAX_RING_ORDER`](Self::MAX_RING_ORDER), 16 pages.
    pub max_ring_page_order: u8,
    /// The most segments of an indirect request; 0 to offer none, at most [`MAX_SEGMENTS`](Self::MAX_SEGMENTS).
    pub indirect_segments: u16,
    /// Whether pages stay mapped between requests where the front end wants that too (`feature-persistent`).
    pub persistent: bool,
    /// How many pages each queue keeps mapped so; the one not used for longest goes first.
    pub persistent_pages: usize,
    /// Whether write barriers are offered beside flushes, for front ends that know nothing else.
    pub barrier: bool,
    /// Whether discards are offered where the image has them. The toolstack's `discard-enable` in the back end's directory can also
    /// say no.
    pub discard: bool,
    /// How long a thread looks for the next request or completion before it sleeps, at most; zero for never. Looking costs a CPU
    /// and spares the guest its notifications and both sides their wake-ups; what looks in vain looks ever more rarely.
    pub spin: Duration,
    /// What happens when the image fails.
    pub on_error: OnError,
    /// What the guest is told the disk is.
    pub kind: DiskKind,
}

impl BackendOptions {
    /// The most queues.
    pub const MAX_QUEUES: u16 = 16;
    /// The largest ring: 16 pages.
    pub const MAX_RING_ORDER: u8 = 4;
    /// The most segments of one request: 1 MiB in pages.
    pub const MAX_SEGMENTS: u16 = 256;

    /// The same with every number within its limits.
    #[must_use]
    pub fn within_limits(self) -> Self {
        Self {
            max_queues: self.max_queues.clamp(1, Self::MAX_QUEUES),
            max_ring_page_order: self.max_ring_page_order.min(Self::MAX_RING_ORDER),
            indirect_segments: self.indirect_segments.min(Self::MAX_SEGMENTS),
            ..self
        }
    }
}

const _: () = assert!(BackendOptions::MAX_SEGMENTS as usize <= BLKIF_SEGMENTS_PER_INDIRECT_PAGE);

impl Default for BackendOptions {
    /// One queue of up to 16 pages, 256 segments, persistent grants for 1,056 pages (what Linux keeps), 20 µs of looking.
    fn default() -> Self {
        Self {
            max_queues: 1,
            max_ring_page_order: Self::MAX_RING_ORDER,
            indirect_segments: Self::MAX_SEGMENTS,
            persistent: true,
            persistent_pages: 1056,
            barrier: true,
            discard: true,
            spin: Duration::from_micros(20),
            on_error: OnError::Report,
            kind: DiskKind::Disk,
        }
    }
}

/// What happens to a request that the host fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnError {
    /// The guest is told.
    #[default]
    Report,
    /// The disk stops: the request and all that follow wait until [`DiskControl::resume`](crate::DiskControl::resume), which tries it
    /// again. The guest sees a pause.
    Stop,
    /// As [`Stop`](Self::Stop) where the host has no room left (`ENOSPC`, `EDQUOT`), else as [`Report`](Self::Report).
    StopWhenFull,
}

impl OnError {
    /// Whether to stop for this.
    #[must_use]
    pub fn stops(self, error: &ImageError) -> bool {
        let full = matches!(error, ImageError::Host(libc::ENOSPC | libc::EDQUOT));
        match self {
            Self::Report => false,
            // What the request itself is to blame for is the guest's to know.
            Self::Stop => matches!(error, ImageError::Host(_) | ImageError::Short { .. }),
            Self::StopWhenFull => full,
        }
    }
}

/// What the guest is told a disk is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DiskKind {
    /// A fixed disk.
    #[default]
    Disk,
    /// A disk that may be taken out.
    Removable,
    /// A CD-ROM: removable and read-only, whatever the image is.
    Cdrom,
}

impl DiskKind {
    /// A disk as the guest is told it is, and as its requests are held against: it may be able to do less than its image.
    #[must_use]
    pub fn limit(self, disk: Geometry) -> Geometry {
        let read_only = disk.read_only || self == Self::Cdrom;
        Geometry {
            read_only,
            discard: disk.discard && !read_only,
            ..disk
        }
    }
}
