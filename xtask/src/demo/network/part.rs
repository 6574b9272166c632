//! The parts of the demo.

use clap::ValueEnum;

use super::run::Run;

/// What is tried, each by a guest of its own, or by two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// A guest and its host: figures, offloads, checksums.
    Host,
    /// A guest and its host by four queues.
    Queues,
    /// Two guests of two `cantle`s on the host's bridge.
    Bridge,
    /// Two guests of one `cantle` on a switch in it.
    Switch,
    /// A guest whose rates are limited, and whose packets are kept in a file.
    Rate,
    /// A guest whose interface is unplugged and plugged in again.
    Plug,
}

impl Part {
    /// All there are.
    pub(crate) const ALL: [Self; 6] = [
        Self::Host,
        Self::Queues,
        Self::Bridge,
        Self::Switch,
        Self::Rate,
        Self::Plug,
    ];

    /// Their names.
    pub(crate) const NAMES: [&str; 6] = ["host", "queues", "bridge", "switch", "rate", "plug"];

    /// Those that are tried each time.
    pub(crate) const SHORT: [Self; 2] = [Self::Host, Self::Switch];

    /// The name for people and programs.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Queues => "queues",
            Self::Bridge => "bridge",
            Self::Switch => "switch",
            Self::Rate => "rate",
            Self::Plug => "plug",
        }
    }

    /// Whether it is of two guests.
    pub(super) fn has_server(self) -> bool {
        matches!(self, Self::Bridge | Self::Switch)
    }

    /// Whether both guests are of one `cantle`.
    pub(super) fn is_one_process(self) -> bool {
        self == Self::Switch
    }

    /// What the guest does, one after the other.
    pub(super) fn steps(self) -> &'static str {
        match self {
            Self::Host => "speed,offloads",
            Self::Queues => "speed,data",
            Self::Bridge | Self::Switch => "speed,data,quit",
            Self::Rate => "speed",
            Self::Plug => "data,replug",
        }
    }

    /// What is measured, in short or in full.
    pub(super) fn runs(self, short: bool) -> Vec<Run> {
        match self {
            Self::Plug => Vec::new(),
            Self::Rate => Run::FEW.to_vec(),
            _ if short => Run::FEW.to_vec(),
            Self::Host | Self::Queues => Run::all(&[1500, 9000]),
            Self::Bridge | Self::Switch => Run::all(&[1500]),
        }
    }

    /// The interface's queues.
    pub(super) fn queues(self) -> u32 {
        if self == Self::Queues { 4 } else { 1 }
    }
}
