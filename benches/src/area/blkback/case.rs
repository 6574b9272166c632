//! What is done, and how a front end does it.

use std::path::PathBuf;
use std::time::Duration;

use cantle_blkback::BackendOptions;
use cantle_blkback::test_utils::FrontOptions;

use crate::disk_op::Op;
use crate::measure::Unit;

/// Where.
pub(super) struct Place {
    pub(super) path: PathBuf,
    /// Past the page cache.
    pub(super) direct: bool,
    pub(super) suffix: &'static str,
}

/// Requests of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Load {
    /// 4 KiB at random places, so many at a time.
    Random(Op, usize),
    /// 1 MiB one after the other, two at a time.
    ReadMib,
    WriteMib,
}

impl Load {
    pub(super) const ALL: [Self; 6] = [
        Self::randread(1),
        Self::randread(32),
        Self::randread(128),
        Self::Random(Op::Write, 32),
        Self::ReadMib,
        Self::WriteMib,
    ];

    pub(super) const fn randread(depth: usize) -> Self {
        Self::Random(Op::Read, depth)
    }

    fn name(self) -> String {
        match self {
            Self::Random(Op::Read, depth) => format!("randread_4k_qd{depth}"),
            Self::Random(Op::Write, depth) => format!("randwrite_4k_qd{depth}"),
            Self::ReadMib => "read_1m".to_owned(),
            Self::WriteMib => "write_1m".to_owned(),
        }
    }

    pub(super) fn unit(self) -> Unit {
        match self {
            Self::Random(..) => Unit::PerSecond,
            Self::ReadMib | Self::WriteMib => Unit::MebibytesPerSecond,
        }
    }

    pub(super) fn op(self) -> Op {
        match self {
            Self::Random(op, _) => op,
            Self::ReadMib => Op::Read,
            Self::WriteMib => Op::Write,
        }
    }

    pub(super) fn is_random(self) -> bool {
        matches!(self, Self::Random(..))
    }

    pub(super) fn bytes(self) -> usize {
        match self {
            Self::Random(..) => 4096,
            Self::ReadMib | Self::WriteMib => 1 << 20,
        }
    }

    /// Requests of [`bytes`](Self::bytes) in flight.
    pub(super) fn depth(self) -> usize {
        match self {
            Self::Random(_, depth) => depth,
            Self::ReadMib | Self::WriteMib => 2,
        }
    }
}

/// A load, and how it goes through the rings.
#[derive(Clone, Copy, Debug)]
pub(super) struct Case {
    pub(super) load: Load,
    pub(super) queues: u16,
    /// Grants stay mapped.
    persistent: bool,
    /// Requests of up to 1 MiB.
    indirect: bool,
    /// How long a queue's thread looks before it sleeps.
    spin: Duration,
}

impl Case {
    /// As Linux does it where it may: persistent grants, indirect segments, one queue.
    pub(super) fn usual(load: Load) -> Self {
        Self {
            load,
            queues: 1,
            persistent: true,
            indirect: true,
            spin: BackendOptions::default().spin,
        }
    }

    /// With pages mapped for each request.
    pub(super) fn plain(self) -> Self {
        Self {
            persistent: false,
            ..self
        }
    }

    /// With requests of 11 segments, 44 KiB.
    pub(super) fn short(self) -> Self {
        Self {
            indirect: false,
            ..self
        }
    }

    pub(super) fn spin(self, spin: Duration) -> Self {
        Self { spin, ..self }
    }

    pub(super) fn queues(self, queues: u16) -> Self {
        Self { queues, ..self }
    }

    pub(super) fn name(&self) -> String {
        let mut name = self.load.name();
        if !self.persistent {
            name += "_mapped";
        }
        if !self.indirect {
            name += "_direct_segments";
        }
        if self.queues > 1 {
            name += &format!("_{}q", self.queues);
        }
        name
    }

    pub(super) fn front(&self) -> FrontOptions {
        FrontOptions {
            queues: self.queues,
            persistent: self.persistent,
            segments: match (self.load, self.indirect) {
                (Load::Random(..), _) => 1,
                (_, true) => 256,
                (_, false) => 11,
            },
            // 128 slots.
            ring_page_order: match self.load.depth() {
                0..=32 => 0,
                _ => 2,
            },
            ..FrontOptions::default()
        }
    }

    /// Requests in flight as the front end sends them.
    pub(super) fn front_depth(&self) -> usize {
        match (self.load, self.indirect) {
            (Load::Random(_, depth), _) => depth,
            (_, true) => self.load.depth(),
            // As many bytes as the others have.
            (_, false) => 32,
        }
    }

    pub(super) fn back(&self) -> BackendOptions {
        BackendOptions {
            max_queues: self.queues,
            spin: self.spin,
            ..BackendOptions::default()
        }
    }
}
