//! What is logged besides warnings, and an operator's switches for it.
//!
//! The lines go out by `tracing`, each kind with a target of its own (`cantle_xenstore::access` and so on), at the level
//! "info". Whoever runs the server decides where they end up; whether they are made at all is decided here.

use cantle_abi::io::xs_wire::XsType;
use cantle_abi::{DomId, Errno};

use super::Server;
use crate::client::TxId;

/// How much of a request's first string is logged.
const SHOWN_MAX: usize = 256;

/// A kind of lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Switch {
    /// Each request, and what it came to.
    Access,
    /// Each event that is queued.
    Watch,
    /// Transactions that begin and end.
    Transaction,
    /// Domains that come and go.
    Domain,
    /// Each refusal by a quota, not only those that are worth a warning.
    Quota,
}

impl Switch {
    pub(super) const ALL: [Self; 5] = [
        Self::Access,
        Self::Watch,
        Self::Transaction,
        Self::Domain,
        Self::Quota,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Access => "access",
            Self::Watch => "watch",
            Self::Transaction => "transaction",
            Self::Domain => "domain",
            Self::Quota => "quota",
        }
    }
}

/// Which lines are made: none unless logging is on, and then those whose switches are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Log {
    on: bool,
    switches: [bool; Switch::ALL.len()],
}

impl Default for Log {
    fn default() -> Self {
        Self {
            on: false,
            switches: [true; Switch::ALL.len()],
        }
    }
}

impl Log {
    /// Whether lines of a kind are made.
    pub(super) fn has(self, switch: Switch) -> bool {
        self.on && self.is_set(switch)
    }

    pub(super) fn is_on(self) -> bool {
        self.on
    }

    pub(super) fn is_set(self, switch: Switch) -> bool {
        self.switches.get(switch as usize) == Some(&true)
    }

    /// `on`, `off`, `+switch` or `-switch`.
    pub(super) fn set(&mut self, word: &str) -> Result<(), Errno> {
        match word {
            "on" => self.on = true,
            "off" => self.on = false,
            _ => {
                let (set, name) = match word.split_at_checked(1) {
                    Some(("+", name)) => (true, name),
                    Some(("-", name)) => (false, name),
                    _ => return Err(Errno::EINVAL),
                };
                let switch = Switch::ALL.into_iter().find(|switch| switch.name() == name);
                let place = switch.and_then(|switch| self.switches.get_mut(switch as usize));
                *place.ok_or(Errno::EINVAL)? = set;
            }
        }
        Ok(())
    }
}

impl Server {
    /// Turns the log on or off, or one kind of its lines (`+access`, `-watch`…), as the command `log` does. It is off at first,
    /// with all kinds in it: `access`, `watch`, `transaction`, `domain`, `quota`. Warnings are logged in any case.
    ///
    /// # Errors
    ///
    /// `EINVAL` for another word.
    pub fn set_log(&mut self, word: &str) -> Result<(), Errno> {
        self.log.set(word)?;
        self.quotas.log_all = self.log.has(Switch::Quota);
        Ok(())
    }
}

/// Logs an event that has been queued.
pub(super) fn event(domid: DomId, path: &str, token: &[u8]) {
    let token = token.get(..SHOWN_MAX).unwrap_or(token).escape_ascii();
    tracing::info!(target: "cantle_xenstore::watch", %domid, path, %token, "event");
}

/// Logs what has happened to a transaction.
pub(super) fn transaction(domid: DomId, tx: TxId, what: &'static str) {
    let tx = tx.0;
    tracing::info!(target: "cantle_xenstore::transaction", %domid, tx, what, "transaction");
}

/// Logs what has happened to a domain.
pub(super) fn domain(domid: DomId, what: &'static str) {
    tracing::info!(target: "cantle_xenstore::domain", %domid, what, "domain");
}

/// Logs a request and what it came to.
pub(super) fn access(
    domid: DomId,
    op: XsType,
    tx: TxId,
    payload: &[u8],
    result: Result<(), Errno>,
) {
    let first = payload.split(|byte| *byte == 0).next().unwrap_or_default();
    let first = first.get(..SHOWN_MAX).unwrap_or(first).escape_ascii();
    let (op, tx, len) = (op.0, tx.0, payload.len());
    let result = result.err().and_then(Errno::name).unwrap_or("OK");
    tracing::info!(target: "cantle_xenstore::access", %domid, op, tx, %first, len, result, "request");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_needs_its_switch_and_the_log() {
        let mut log = Log::default();
        assert!(!log.has(Switch::Watch));
        assert_eq!(log.set("on"), Ok(()));
        assert!(log.has(Switch::Watch) && log.has(Switch::Quota));
        assert_eq!(log.set("-watch"), Ok(()));
        assert!(!log.has(Switch::Watch) && log.has(Switch::Quota));
        assert_eq!(log.set("+watch"), Ok(()));
        assert!(log.has(Switch::Watch));
        assert_eq!(log.set("off"), Ok(()));
        assert!(!log.has(Switch::Watch) && log.is_set(Switch::Watch));
        for wrong in ["", "+", "-", "watch", "+nonsense", "On", "\u{e9}watch"] {
            assert_eq!(log.set(wrong), Err(Errno::EINVAL), "{wrong}");
        }
    }
}
