//! The command line.

use std::path::PathBuf;

use cantle_abi::DomId;
use cantle_xenstore::Quota;
use clap::Parser;

const HELP: &str = "\
It takes xenstored's place: libxenstore, xenstore-utils, pyxs and everything that is built on them
find it at the same socket. It stays in the foreground, and needs no privilege where it may make
its files.

Examples:
  cantle-xenstored --socket /tmp/xs/socket &
  XENSTORED_PATH=/tmp/xs/socket xenstore-ls -f
  cantle-xenstored --journal /var/lib/xenstored --domains /run/xenstored/domains
  cantle-xs live-update /usr/sbin/cantle-xenstored      # replaces the running one, clients and all

Without --journal, a daemon that was killed comes back with an empty store, as Xen's does, and says
so in its log. With it, every write that was acknowledged is there again; watches and transactions
end with the connections that had them.

Signals:
  SIGTERM, SIGINT  an orderly end
  SIGHUP           opens the log file anew

Exit codes:
  0  ended by a signal
  1  it could not go on serving
  2  it could not be set up (another serves the socket or the journal, say), or the usage is wrong

CANTLE_LOG in the environment says what is logged, like --log-level; NOTIFY_SOCKET is told when it
is ready, and LISTEN_FDS's first socket is served instead of --socket (systemd's Type=notify and
socket units).";

/// A xenstore daemon: xenstored's protocol and socket, with live update and a journal.
#[derive(Debug, Parser)]
#[command(name = "cantle-xenstored", version, after_help = HELP, max_term_width = 100)]
pub(crate) struct Cli {
    /// The socket that clients connect to [default: XENSTORED_PATH, or socket in XENSTORED_RUNDIR or /run/xenstored].
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,

    /// The folder in which all acknowledged writes are kept, for the time after a crash.
    #[arg(long, value_name = "DIR")]
    pub(crate) journal: Option<PathBuf>,

    /// The socket at which VMMs introduce their guests' rings.
    #[arg(long, value_name = "PATH")]
    pub(crate) domains: Option<PathBuf>,

    /// A quota of each unprivileged domain; 0 for none. `cantle-xs quota` shows the names.
    #[arg(long, value_name = "NAME=VALUE", value_parser = quota)]
    pub(crate) quota: Vec<(String, u64)>,

    /// A domain whose ring is privileged, besides domain 0.
    #[arg(long, value_name = "DOMID", value_parser = domid)]
    pub(crate) priv_domid: Option<DomId>,

    /// The file that the process's number is written to.
    #[arg(long, value_name = "FILE")]
    pub(crate) pid_file: Option<PathBuf>,

    /// The file to log to [default: the standard error].
    #[arg(long, value_name = "FILE")]
    pub(crate) log_file: Option<PathBuf>,

    /// What is logged: error, warn, info, debug or trace [default: info].
    #[arg(long, value_name = "LEVEL")]
    pub(crate) log_level: Option<String>,

    /// Reads a state that a daemon has saved from the standard input, says whether this program could go on from it, and ends.
    #[arg(long)]
    pub(crate) check_state: bool,

    /// Goes on from another daemon's state (live update): the descriptor of its table.
    #[arg(long, value_name = "FD", hide = true)]
    pub(crate) take_over: Option<i32>,
}

fn quota(text: &str) -> Result<(String, u64), String> {
    let (name, value) = text.split_once('=').ok_or("a quota is NAME=VALUE")?;
    if Quota::from_name(name).is_none() {
        let names = Quota::ALL.map(Quota::name).join(", ");
        return Err(format!("{name:?} is none; there are {names}"));
    }
    let value = value
        .parse()
        .map_err(|_| format!("{value:?} is no number"))?;
    Ok((name.to_owned(), value))
}

fn domid(text: &str) -> Result<DomId, String> {
    let domid = DomId(text.parse().map_err(|_| format!("{text:?} is no domid"))?);
    if domid.is_real() {
        Ok(domid)
    } else {
        Err(format!("{domid} is no domain's number"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_options_are_whole() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn quotas_and_domids_are_checked() {
        let parse = |args: &[&str]| Cli::try_parse_from(["cantle-xenstored"].iter().chain(args));
        let cli = parse(&[
            "--quota",
            "nodes=10",
            "--quota=watches=0",
            "--priv-domid",
            "3",
        ])
        .unwrap();
        assert_eq!(
            cli.quota,
            [("nodes".to_owned(), 10), ("watches".to_owned(), 0)]
        );
        assert_eq!(cli.priv_domid, Some(DomId(3)));
        for wrong in [
            &["--quota", "nodes"][..],
            &["--quota", "nodes=-1"],
            &["--quota", "knots=1"],
            &["--priv-domid", "32752"],
            &["--priv-domid", "x"],
            &["extra"],
        ] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
