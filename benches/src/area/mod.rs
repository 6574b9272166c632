//! What is measured: one module per area.

mod blkback;
mod evtchn;
mod grant;
mod grant_process;
mod netback;
mod ring;
mod vmm;
mod xenstore;

use std::path::Path;

use anyhow::Result;
use clap::ValueEnum;

use crate::report::Report;
pub(crate) use xenstore::{ECHO_ROLE, echo_main};

/// An area, as it is named on the command line and in the file's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Area {
    /// Event channels.
    Evtchn,
    /// Grants.
    Grant,
    /// The shared ring.
    Ring,
    /// xenstore.
    Xenstore,
    /// The block back end.
    Blkback,
    /// The network back end.
    Netback,
    /// The machine as a whole.
    Vmm,
}

impl Area {
    /// All of them, in the order in which they are measured.
    pub(crate) fn all() -> Vec<Self> {
        Self::value_variants().to_vec()
    }

    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Evtchn => "evtchn",
            Self::Grant => "grant",
            Self::Ring => "ring",
            Self::Xenstore => "xenstore",
            Self::Blkback => "blkback",
            Self::Netback => "netback",
            Self::Vmm => "vmm",
        }
    }

    /// Measures it. A row that cannot be measured here is in the report, with the reason; an error is a mistake of the benchmark.
    pub(crate) fn run(self, report: &mut Report, scratch: &Path) -> Result<()> {
        match self {
            Self::Evtchn => evtchn::run(report),
            Self::Grant => {
                grant::run(report)?;
                grant_process::run(report)
            }
            Self::Ring => ring::run(report),
            Self::Xenstore => xenstore::run(report),
            Self::Blkback => blkback::run(report, scratch),
            Self::Netback => netback::run(report),
            Self::Vmm => vmm::run(report, scratch),
        }
    }
}
