//! Which of Xen's kinds a guest is.

use clap::ValueEnum;

/// A kind of guest, by its name in `cantle run --type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// On hardware's virtualisation, by the PVH entry.
    #[default]
    Pvh,
    /// On the monitor of `cantle-pv-monitor`, by `startup_xen`.
    Pv,
}

impl Kind {
    /// The name on command lines.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Pvh => "pvh",
            Self::Pv => "pv",
        }
    }

    /// What the guest's kernel has in `/sys/hypervisor/guest_type`.
    pub(crate) fn guest_type(self) -> &'static str {
        match self {
            Self::Pvh => "PVH",
            Self::Pv => "PV",
        }
    }
}
