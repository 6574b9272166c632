//! The names under which the two ends of a block device agree on things in xenstore, and what their values mean.
//!
//! Numbers are in decimal. The words of Xen 4.20's header hold, which put an end to the question of units.

// The back end's, of what it can do.

/// 0 or 1: `BLKIF_OP_WRITE_BARRIER` is worth trying; a request may still end in `BLKIF_RSP_EOPNOTSUPP`.
pub const FEATURE_BARRIER: &str = "feature-barrier";
/// 0 or 1: `BLKIF_OP_FLUSH_DISKCACHE` is worth trying, as [`FEATURE_BARRIER`] says it.
pub const FEATURE_FLUSH_CACHE: &str = "feature-flush-cache";
/// 0 or 1: `BLKIF_OP_DISCARD` is worth trying, as [`FEATURE_BARRIER`] says it.
pub const FEATURE_DISCARD: &str = "feature-discard";
/// 0 or 1, of either side: a front end uses the same grants again, all of them writable; a back end keeps them mapped.
pub const FEATURE_PERSISTENT: &str = "feature-persistent";
/// The most segments of a `BLKIF_OP_INDIRECT`; where it is missing, the operation is not to be used.
pub const FEATURE_MAX_INDIRECT_SEGMENTS: &str = "feature-max-indirect-segments";
/// log2 of the most pages of a ring; 0 by default.
pub const MAX_RING_PAGE_ORDER: &str = "max-ring-page-order";
/// The most pages of a ring, a power of two; 1 by default. Deprecated; to be published beside [`MAX_RING_PAGE_ORDER`] all the same.
pub const MAX_RING_PAGES: &str = "max-ring-pages";
/// The most rings of a device.
pub const MULTI_QUEUE_MAX_QUEUES: &str = "multi-queue-max-queues";
/// `VDISK_*` bits.
pub const INFO: &str = "info";
/// The disk's size in units of 512 bytes, whatever [`SECTOR_SIZE`] is; in bytes it is a multiple of [`PHYSICAL_SECTOR_SIZE`].
pub const SECTORS: &str = "sectors";
/// The logical block size in bytes, a power of two from 512: what requests are aligned to, and not their unit.
pub const SECTOR_SIZE: &str = "sector-size";
/// The physical block size in bytes, a multiple of [`SECTOR_SIZE`]; by default the same.
pub const PHYSICAL_SECTOR_SIZE: &str = "physical-sector-size";
/// Where the first extent that can be discarded begins, in bytes; 0 by default. Where discard is offered, this and [`DISCARD_GRANULARITY`] are
/// both to be there.
pub const DISCARD_ALIGNMENT: &str = "discard-alignment";
/// The size of the extents that can be discarded, in bytes; by default [`SECTOR_SIZE`]. `sector_number` of a discard is a multiple of it.
pub const DISCARD_GRANULARITY: &str = "discard-granularity";
/// 0 or 1: `BLKIF_DISCARD_SECURE` is obeyed; otherwise it is ignored.
pub const DISCARD_SECURE: &str = "discard-secure";

// The toolstack's, to the back end.

/// 0 or 1: whether to offer discard; by default where the storage can.
pub const DISCARD_ENABLE: &str = "discard-enable";

// The front end's.

/// The layout of slots, a name of [`protocols`](crate::io::protocols); by default the native one.
pub const PROTOCOL: &str = "protocol";
/// The port of a ring's event channel.
pub const EVENT_CHANNEL: &str = "event-channel";
/// The gref of a ring of one page. The pages of a longer ring are this name with a number from 0 after it (`ring-ref0`), and
/// this key itself is not there.
pub const RING_REF: &str = "ring-ref";
/// log2 of a ring's pages; 0 by default.
pub const RING_PAGE_ORDER: &str = "ring-page-order";
/// A ring's pages, a power of two; 1 by default. Deprecated, as [`MAX_RING_PAGES`].
pub const NUM_RING_PAGES: &str = "num-ring-pages";
/// How many rings; 1 by default. Of two or more, each has its [`EVENT_CHANNEL`] and [`RING_REF`] in a folder `queue-0`, `queue-1`, …;
/// [`RING_PAGE_ORDER`] is one for all of them and stays where it is.
pub const MULTI_QUEUE_NUM_QUEUES: &str = "multi-queue-num-queues";
/// Deprecated: front ends should not write it, and back ends should decide nothing by it. It once said that all units are [`SECTOR_SIZE`],
/// which hardly any front end but a Windows driver did.
pub const FEATURE_LARGE_SECTOR_SIZE: &str = "feature-large-sector-size";
/// 0 or 1, by the toolstack: whether the front end may trust the back end; 1 by default.
pub const TRUSTED: &str = "trusted";
