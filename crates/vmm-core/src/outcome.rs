//! How a guest's run ended, and what it did meanwhile.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::pv::MonitorMemory;

/// Why a guest stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum End {
    /// It powered off.
    PowerOff,
    /// It wants to be started again.
    Reboot,
    /// It has saved itself.
    Suspend,
    /// It crashed, or did what a machine does not survive.
    Crash(String),
    /// Somebody ended it from outside.
    Destroyed,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PowerOff => f.write_str("powered off"),
            Self::Reboot => f.write_str("asked for a reboot"),
            Self::Suspend => f.write_str("suspended"),
            Self::Crash(why) => write!(f, "crashed: {why}"),
            Self::Destroyed => f.write_str("was destroyed"),
        }
    }
}

/// How a run ended, with its figures.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Why it stopped.
    pub end: End,
    /// What it did.
    pub stats: Stats,
}

/// What a guest did in its run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Stats {
    /// What kind of guest it was: `pvh` or `pv`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Memory that the monitor takes, of a PV guest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub monitor: Option<MonitorMemory>,
    /// How its hypercalls arrived.
    pub transport: &'static str,
    /// By which interface it was told of events in the end: `fifo` or `2l`.
    pub evtchn: &'static str,
    /// Who delivers its events, at the end: `kernel` or `user`. What the kernel does is not counted below.
    pub delivery: &'static str,
    /// From the start of the set-up to the guest's first instruction, in seconds.
    pub first_instruction_s: f64,
    /// From its first instruction to its end, in seconds.
    pub run_s: f64,
    /// Returns from the kernel by kind.
    pub exits: BTreeMap<String, u64>,
    /// Hypercalls by name.
    pub hypercalls: BTreeMap<String, u64>,
    /// Hypercalls that were answered with "no such function", by number.
    pub unknown_hypercalls: BTreeMap<u64, u64>,
    /// Event channels: sends and what came of them.
    pub events: BTreeMap<String, u64>,
    /// Grants: maps, copies and bytes.
    pub grants: BTreeMap<String, u64>,
    /// Requests and bytes of each block device, by its name.
    pub disks: BTreeMap<String, BTreeMap<String, u64>>,
    /// Packets and bytes of each network device, by its number.
    pub nets: BTreeMap<String, BTreeMap<String, u64>>,
}
