//! The states of a device's two ends in xenstore (`io/xenbus.h`).

use core::fmt;

/// A device end's state (`enum xenbus_state`), as it came: any value is possible.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct XenbusState(pub u32);

impl XenbusState {
    /// Not known: the node is missing or holds no number.
    pub const UNKNOWN: Self = Self(0);
    /// Starting.
    pub const INITIALISING: Self = Self(1);
    /// Set up as far as possible without the other end.
    pub const INIT_WAIT: Self = Self(2);
    /// Set up; waiting for the other end to connect.
    pub const INITIALISED: Self = Self(3);
    /// In use.
    pub const CONNECTED: Self = Self(4);
    /// Going down.
    pub const CLOSING: Self = Self(5);
    /// Down.
    pub const CLOSED: Self = Self(6);
    /// Being changed.
    pub const RECONFIGURING: Self = Self(7);
    /// Changed.
    pub const RECONFIGURED: Self = Self(8);

    /// Parses the node's text: decimal digits.
    #[must_use]
    pub fn parse(text: &[u8]) -> Self {
        core::str::from_utf8(text)
            .ok()
            .and_then(|text| text.trim_end_matches('\0').parse().ok())
            .map_or(Self::UNKNOWN, Self)
    }
}

impl fmt::Debug for XenbusState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            0 => "Unknown",
            1 => "Initialising",
            2 => "InitWait",
            3 => "Initialised",
            4 => "Connected",
            5 => "Closing",
            6 => "Closed",
            7 => "Reconfiguring",
            8 => "Reconfigured",
            other => return write!(f, "XenbusState({other})"),
        };
        f.write_str(name)
    }
}

impl fmt::Display for XenbusState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
