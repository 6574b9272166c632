//! The command line.

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use cantle_abi::DomId;
use cantle_xenstore::{Access, Perms};
use clap::{ArgAction, Args, Parser, Subcommand};

const HELP: &str = "\
Without --socket, the daemon is found as by xenstore-utils: XENSTORED_PATH in the environment, else
`socket` in XENSTORED_RUNDIR (/run/xenstored), else the kernel's /dev/xen/xenbus in a guest.

Examples:
  cantle-xs ls -f /local/domain
  cantle-xs read -p /local/domain/0/name /local/domain/0/domid
  cantle-xs write /local/domain/5/control/shutdown poweroff
  cantle-xs chmod -r /local/domain/5/data n5 r0
  cantle-xs watch -n 2 /local/domain/5/device
  cantle-xs top -d 2

Exit codes: 0; 1 where something failed or is not there; 3 where the daemon refused a command.";

/// Looks at a xenstore and changes it, in the habits of Xen's xenstore-utils.
#[derive(Debug, Parser)]
#[command(name = "cantle-xs", version, arg_required_else_help = true, after_help = HELP)]
pub(crate) struct Cli {
    /// The daemon's socket, or the kernel's device.
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Prints nodes' values, as they are at one moment.
    Read(Read),
    /// Sets nodes' values, all of them or none.
    Write(Write),
    /// Prints all below a path, as a tree.
    Ls(Ls),
    /// Prints the names of the nodes right below a path.
    List(List),
    /// Prints the path of each change at and below some paths.
    Watch(Watch),
    /// Removes nodes with all below them.
    Rm(Rm),
    /// Sets a node's permissions.
    Chmod(Chmod),
    /// Whether all nodes named exist: exit code 0 if so, 1 if not.
    Exists(Keys),
    /// Makes nodes, and their missing parents.
    Mkdir(Keys),
    /// Prints the domains that have a home in the store.
    Domains,
    /// Gives the daemon a command: `help` lists them.
    Control(Control),
    /// Replaces the running daemon by another program, with its clients and their requests.
    LiveUpdate(LiveUpdate),
    /// Prints quotas, or sets one.
    Quota(Quota),
    /// Shows, again and again, what each domain asks of the daemon and keeps in it.
    Top(Top),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cantle-xs read /local/domain/0/name
  cantle-xs read -p /vm/1/name /vm/1/uuid")]
pub(crate) struct Read {
    /// Print each node's path before its value.
    #[arg(short = 'p', long)]
    pub(crate) prefix: bool,
    /// Print values as they are: nothing is escaped, no line ends are added.
    #[arg(short = 'R', long)]
    pub(crate) raw: bool,
    /// The nodes.
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
In a value, \\t \\n \\r \\\\ \\ooo (octal) and \\xhh (hexadecimal) are bytes, as `read` prints them.

Examples:
  cantle-xs write /local/domain/5/control/shutdown poweroff
  cantle-xs write /a 1 /b 2 /c 'two\\nlines'")]
pub(crate) struct Write {
    /// Take values as they are.
    #[arg(short = 'R', long)]
    pub(crate) raw: bool,
    /// Paths, each followed by its value.
    #[arg(required = true, value_names = ["PATH", "VALUE"], num_args = 2.., allow_hyphen_values = true)]
    pub(crate) pairs: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Long values are cut to the terminal's width, or to 80 columns; with -f they are whole.

Examples:
  cantle-xs ls
  cantle-xs ls -fp /local/domain/5 | grep device")]
pub(crate) struct Ls {
    /// Print whole paths, and values that are not cut.
    #[arg(short = 'f', long)]
    pub(crate) flat: bool,
    /// Print permissions.
    #[arg(short = 'p', long)]
    pub(crate) prefix: bool,
    /// Where to begin.
    #[arg(default_value = "/", value_name = "PATH")]
    pub(crate) paths: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// Print whole paths.
    #[arg(short = 'p', long)]
    pub(crate) prefix: bool,
    /// The nodes.
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
One line comes for each path at once, whether or not anything is there.

Examples:
  cantle-xs watch /local/domain/5/device
  cantle-xs watch -n 2 /local/domain/5/control/shutdown   # until it changes
  cantle-xs watch -d 1 /local/domain                      # domains that come and go")]
pub(crate) struct Watch {
    /// End after so many lines.
    #[arg(short = 'n', long, value_name = "NR")]
    pub(crate) number: Option<u64>,
    /// Only changes so many levels below the paths: 0 is the nodes themselves. Needs a daemon of Xen 4.22's protocol.
    #[arg(short = 'd', long, value_name = "DEPTH")]
    pub(crate) depth: Option<u32>,
    /// The paths.
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Rm {
    /// Remove parents, too, that are left with neither value nor children.
    #[arg(short = 't', long)]
    pub(crate) tidy: bool,
    /// The nodes.
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
A permission is a letter (n none, r read, w write, b both) and a domain's number. The first names
the owner, who may do everything, and what all may do who are not named.

Examples:
  cantle-xs chmod /local/domain/5/data n5 r0
  cantle-xs chmod -r /local/domain/5/data b5")]
pub(crate) struct Chmod {
    /// All parents, too.
    #[arg(short = 'u', long)]
    pub(crate) upto: bool,
    /// All below it, too.
    #[arg(short = 'r', long)]
    pub(crate) recurse: bool,
    /// The node.
    #[arg(value_name = "PATH")]
    pub(crate) path: String,
    /// Its permissions.
    #[arg(required = true, value_name = "PERM", value_parser = permission)]
    pub(crate) perms: Vec<(DomId, Access)>,
}

impl Chmod {
    /// The permissions as a node has them.
    pub(crate) fn perms(&self) -> Option<Perms> {
        let ((owner, others), listed) = self.perms.split_first()?;
        let perms = Perms::new(*owner, *others);
        Some(
            listed
                .iter()
                .fold(perms, |perms, (domid, access)| perms.and(*domid, *access)),
        )
    }
}

#[derive(Debug, Args)]
pub(crate) struct Keys {
    /// The nodes.
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cantle-xs control help
  cantle-xs control check
  cantle-xs control quota 5")]
pub(crate) struct Control {
    /// The command and its arguments.
    #[arg(
        required = true,
        value_name = "WORD",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub(crate) words: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
The new program is tried on a copy of the state first; where it cannot go on from it, the running
daemon stays and says why. Nobody's connection ends, and no request is lost.

Examples:
  cantle-xs live-update /usr/sbin/cantle-xenstored
  cantle-xs live-update -t 10 -F ./cantle-xenstored")]
pub(crate) struct LiveUpdate {
    /// How many seconds open transactions are waited for.
    #[arg(short = 't', long, value_name = "SECONDS", default_value_t = 60)]
    pub(crate) timeout: u32,

    /// Do it in spite of transactions that are open then.
    #[arg(short = 'F', long)]
    pub(crate) force: bool,

    /// The new program's options, in one word [default: those of the running one].
    #[arg(short = 'c', long, value_name = "OPTIONS", allow_hyphen_values = true)]
    pub(crate) command_line: Option<String>,

    /// The new program, as an absolute path or relative to here.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Without --domain: what new domains get. A value of 0 is no limit. Needs a daemon of Xen 4.22's
protocol; for an older one see `cantle-xs control quota`.

Examples:
  cantle-xs quota
  cantle-xs quota nodes
  cantle-xs quota --domain 5 nodes 5000")]
pub(crate) struct Quota {
    /// One domain's.
    #[arg(long, value_name = "DOMID", value_parser = domid)]
    pub(crate) domain: Option<DomId>,
    /// One quota; all of them where none is named.
    pub(crate) name: Option<String>,
    /// Its new value.
    pub(crate) value: Option<u32>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Needs cantle-xenstored, or another host of this crate's server. Rates are since the last tick;
whoever asks most stands first.

Columns: requests, errors and refusals for a quota's sake, each by the second; what the domain
keeps: connections, nodes, bytes, watches, open transactions, bytes of replies and events that it
has not read.

Examples:
  cantle-xs top
  cantle-xs top -d 5 -n 12 --json >minute.json")]
pub(crate) struct Top {
    /// Seconds between two ticks, fractions too.
    #[arg(short = 'd', long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    pub(crate) delay: Duration,
    /// End after so many ticks.
    #[arg(short = 'n', long, value_name = "NR")]
    pub(crate) number: Option<NonZeroU64>,
    /// One JSON object a tick, in a line of its own.
    #[arg(long, action = ArgAction::SetTrue)]
    pub(crate) json: bool,
}

fn domid(text: &str) -> Result<DomId, String> {
    text.parse()
        .map(DomId)
        .map_err(|_| format!("{text:?} is no domain's number"))
}

fn permission(text: &str) -> Result<(DomId, Access), String> {
    let mut wire = text.as_bytes().to_vec();
    wire.push(0);
    match Perms::parse(&wire) {
        Ok(perms) if perms.listed.is_empty() => Ok((perms.owner, perms.others)),
        _ => Err(format!(
            "{text:?} is no letter (n, r, w or b) and a domain's number"
        )),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no number of seconds, 0.01 or more");
    let seconds: f64 = text.parse().map_err(|_| wrong())?;
    if seconds.is_nan() || seconds < 0.01 {
        return Err(wrong());
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn permissions_are_a_letter_and_a_number() {
        assert_eq!(permission("b5"), Ok((DomId(5), Access::Both)));
        for wrong in ["", "b", "5", "x5", "b-1", "b5\0r6", "b99999"] {
            permission(wrong).unwrap_err();
        }
    }

    #[test]
    fn a_tick_is_no_shorter_than_a_hundredth() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for wrong in ["0", "-1", "NaN", "inf", "x", "1e300"] {
            seconds(wrong).unwrap_err();
        }
    }
}
