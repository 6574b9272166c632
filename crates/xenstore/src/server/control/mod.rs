//! `XS_CONTROL`: what an operator may ask of the server itself. Only privileged connections come here.

mod check;
mod memory;
mod quota;
mod tree;

use std::fmt::Write as _;

use cantle_abi::io::xs_wire::XENSTORE_PAYLOAD_MAX;
use cantle_abi::{DomId, Errno};

use super::log::Switch;
use super::requests::Reply;
use super::{HostCommand, Server};
use crate::perms::parse_domid;

/// The commands and their arguments, for `help`.
const COMMANDS: [(&str, &str); 11] = [
    ("check", ""),
    ("log", "[on|off|+<switch>|-<switch>]"),
    (
        "live-update",
        "[-c <cmdline>] [-F] [-t <timeout>] [-v <version>] <file>",
    ),
    ("logfile", "<file>"),
    ("memreport", "[<file>]"),
    ("print", "<string>"),
    ("quota", "[set <name> <val>|<domid>|max [-r]]"),
    ("quota-soft", "[set <name> <val>]"),
    ("stats", "[<first-domid>]"),
    ("tree", "[<path> [<after>]]"),
    ("help", ""),
];

impl Server {
    /// A command and its arguments, each with its NUL; the answer is text with a NUL, but for the pages of `stats` and
    /// `tree`, which are empty where there is no more.
    pub(super) fn control(&mut self, payload: &[u8]) -> Result<Reply, Errno> {
        let text = core::str::from_utf8(payload).map_err(|_| Errno::EINVAL)?;
        let text = text.strip_suffix('\0').ok_or(Errno::EINVAL)?;
        let mut words = text.split('\0');
        let command = words.next().unwrap_or_default();
        let words: Vec<&str> = words.collect();
        match (command, words.as_slice()) {
            ("help", []) => Ok(answer(&help())),
            ("check", []) => Ok(answer(&self.check())),
            ("log", []) => Ok(answer(&self.log_settings())),
            ("log", [word]) => self.set_log(word).map(|()| Reply::Done),
            ("quota", words) => self.control_quota(words),
            ("quota-soft", words) => self.control_quota_soft(words),
            ("stats", []) => Ok(self.stats_page(DomId::DOM0)),
            ("stats", [first]) => Ok(self.stats_page(parse_domid(first.as_bytes())?)),
            ("tree", []) => self.tree_page("/", None),
            ("tree", [path]) => self.tree_page(path, None),
            ("tree", [path, after]) => self.tree_page(path, Some(after)),
            _ => host_command(command, &words).map(Reply::Later),
        }
    }

    fn stats_page(&self, first: DomId) -> Reply {
        Reply::Bytes(self.stats_text(first, XENSTORE_PAYLOAD_MAX).into_bytes())
    }

    fn tree_page(&self, path: &str, after: Option<&str>) -> Result<Reply, Errno> {
        self.tree(path, after)
            .map(|page| Reply::Bytes(page.into_bytes()))
    }

    fn log_settings(&self) -> String {
        let on = if self.log.is_on() { "on" } else { "off" };
        let mut text = format!("the log is {on}, with\n");
        for switch in Switch::ALL {
            let set = if self.log.is_set(switch) { "on" } else { "off" };
            let _ = writeln!(text, "{:<11}: {set}", switch.name());
        }
        text
    }
}

/// What is for the host to do.
fn host_command(command: &str, words: &[&str]) -> Result<HostCommand, Errno> {
    let owned = |word: &str| word.to_owned();
    Ok(match (command, words) {
        ("live-update", words) => {
            HostCommand::LiveUpdate(words.iter().copied().map(owned).collect())
        }
        ("logfile", [file]) => HostCommand::LogFile(owned(file)),
        ("memreport", []) => HostCommand::MemReport(None),
        ("memreport", [file]) => HostCommand::MemReport(Some(owned(file))),
        ("print", [line]) => HostCommand::Print(owned(line)),
        _ => return Err(Errno::EINVAL),
    })
}

fn help() -> String {
    let mut text = String::new();
    for (command, arguments) in COMMANDS {
        let _ = writeln!(text, "{command:<15} {arguments}");
    }
    text
}

/// Text with its NUL, cut to what a message holds.
fn answer(text: &str) -> Reply {
    let mut bytes = text.as_bytes().to_vec();
    bytes.truncate(XENSTORE_PAYLOAD_MAX - 1);
    bytes.push(0);
    Reply::Bytes(bytes)
}
