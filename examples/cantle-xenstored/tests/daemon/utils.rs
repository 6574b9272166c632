//! Debian's xenstore-utils against the daemon: every tool, with the output that they give with xenstored.
//!
//! The expectations are those of xenstored's documentation (`docs/man/xenstore-*.1.pod`, `docs/misc/xenstore.txt`). Each case is run with Xen's own daemon,
//! too, where `cargo xtask peers` has made it. Names are made in the order of the alphabet, since xenstored lists them in the order in
//! which they came.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use cantle_abi::io::xs_wire::{XS_INTRODUCE, XS_RELEASE};

use crate::support::raw::Raw;
use crate::support::{self, Daemon, Said, eventually, have};

macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        mod with_this_daemon {
            $(
                #[test]
                fn $name() {
                    super::with_this_daemon(super::$name);
                }
            )*
        }

        #[test]
        fn what_is_said_of_xenstored_is_true() {
            $(with_xenstored(stringify!($name), $name);)*
        }
    };
}

cases! {
    values_are_written_and_read,
    several_values_are_written_in_one_transaction,
    keys_are_listed,
    existence_is_told_by_the_exit_code,
    keys_are_removed,
    permissions_are_set_and_shown,
    a_watch_prints_what_changes,
    a_special_watch_fires_when_a_domain_comes_or_goes,
    a_directory_too_long_for_one_message_is_listed_in_parts,
    wrong_usage_is_told_by_the_tools_themselves,
}

/// Where the tools find a daemon.
struct Utils {
    socket: PathBuf,
}

fn have_tools() -> bool {
    have(Path::new("/usr/bin/xenstore-ls"), "Debian's xenstore-utils")
}

fn with_this_daemon(case: fn(&Utils)) {
    if have_tools() {
        let folder = tempfile::tempdir().unwrap();
        let daemon = Daemon::start::<&str>(folder.path(), []);
        let socket = daemon.socket();
        case(&Utils { socket });
    }
}

fn with_xenstored(name: &str, case: fn(&Utils)) {
    let start = support::peers().join("start");
    if !have_tools() || !have(&start, "cargo xtask peers") {
        return;
    }
    eprintln!("{name} with xenstored");
    // Beside the kit, so that its files need not be copied.
    let folder = support::peers().join("for-tests");
    let socket = folder.join("run/xenstored/socket");
    let _gone = std::fs::remove_file(&socket);
    let daemon = Command::new(start).arg(&folder).arg("xenstored").spawn();
    let _peer = Peer(daemon.unwrap());
    eventually("xenstored listens", || {
        std::os::unix::net::UnixStream::connect(&socket).is_ok()
    });
    case(&Utils { socket });
}

/// A daemon of Xen's.
struct Peer(Child);

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Utils {
    fn client(&self, program: impl AsRef<OsStr>) -> Command {
        support::client(&self.socket, program)
    }

    fn run(&self, line: &[&str]) -> Said {
        let (tool, args) = line.split_first().unwrap();
        let mut command = self.client(format!("/usr/bin/xenstore-{tool}"));
        command.args(args).output().unwrap().into()
    }

    /// It succeeds and prints this.
    #[track_caller]
    fn prints(&self, line: &[&str], out: &str) {
        let said = self.run(line);
        let expected = (Some(0), out, "");
        assert_eq!((said.code, &*said.out, &*said.err), expected, "{line:?}");
    }

    /// It fails and complains so.
    #[track_caller]
    fn fails(&self, line: &[&str], err: &str) {
        let said = self.run(line);
        let expected = (Some(1), "", err);
        assert_eq!(
            (said.code, &*said.out, said.err.trim_end()),
            expected,
            "{line:?}"
        );
    }
}

fn values_are_written_and_read(utils: &Utils) {
    utils.prints(&["write", "/a/b", "1", "/a/c", "x\\x01y\"z"], "");
    utils.prints(&["read", "/a/b"], "1\n");
    utils.prints(
        &["read", "-p", "/a/b", "/a/c"],
        "/a/b: 1\n/a/c: x\\001y\"z\n",
    );
    utils.prints(&["read", "-R", "/a/c"], "x\u{1}y\"z");
    utils.prints(&["read", "/a"], "\n");
    utils.prints(&["write", "-R", "/a/raw", "x\\x01y"], "");
    utils.prints(&["read", "-R", "/a/raw"], "x\\x01y");
    utils.fails(
        &["read", "/nope"],
        "xenstore-read: couldn't read path /nope",
    );
    utils.fails(
        &["write", "bad//path", "1"],
        "xenstore-write: could not write path bad//path",
    );
    utils.fails(
        &["write", "/bad path", "1"],
        "xenstore-write: could not write path /bad path",
    );
    // Relative paths of a socket are domain 0's.
    utils.prints(&["write", "vm", "7"], "");
    utils.prints(&["read", "/local/domain/0/vm"], "7\n");
}

fn several_values_are_written_in_one_transaction(utils: &Utils) {
    utils.fails(
        &["write", "/t/a", "1", "/t//b", "2"],
        "xenstore-write: could not write path /t//b",
    );
    utils.fails(&["read", "/t/a"], "xenstore-read: couldn't read path /t/a");
}

fn keys_are_listed(utils: &Utils) {
    utils.prints(&["write", "/a/b", "1", "/a/c/d", "2"], "");
    utils.prints(&["list", "/a"], "b\nc\n");
    utils.prints(&["list", "-p", "/a", "/a/c"], "/a/b\n/a/c\n/a/c/d\n");
    utils.prints(&["list", "/a/b"], "");
    utils.fails(
        &["list", "/nope"],
        "xenstore-list: could not list path /nope",
    );
    utils.prints(&["ls", "/a"], "b = \"1\"\nc = \"\"\n d = \"2\"\n");
    utils.prints(
        &["ls", "-f", "/a"],
        "/a/b = \"1\"\n/a/c = \"\"\n/a/c/d = \"2\"\n",
    );
    utils.fails(
        &["ls", "/nope"],
        "xenstore-ls: xs_directory (/nope): No such file or directory",
    );
    let whole = utils.run(&["ls", "-f"]).out;
    assert!(whole.contains("\n/tool/xenstored = \"\"\n"), "{whole}");
}

fn existence_is_told_by_the_exit_code(utils: &Utils) {
    utils.prints(&["write", "/a/b", ""], "");
    utils.prints(&["exists", "/a/b"], "");
    utils.prints(&["exists", "/a", "/a/b"], "");
    utils.fails(&["exists", "/a/x"], "");
    utils.fails(&["exists", "/a", "/x/y"], "");
}

fn keys_are_removed(utils: &Utils) {
    utils.prints(&["write", "/d/e/f", "1", "/g/h/i", "1", "/g/j", "1"], "");
    utils.prints(&["rm", "/d"], "");
    utils.fails(&["exists", "/d"], "");
    // Tidying up ends at the first that has a child left.
    utils.prints(&["rm", "-t", "/g/h/i"], "");
    utils.prints(&["ls", "-f", "/g"], "/g/j = \"1\"\n");
    utils.prints(&["rm", "/g/nothing"], "");
    utils.fails(
        &["rm", "/q/nothing"],
        "xenstore-rm: could not remove path /q/nothing",
    );
    let root = utils.run(&["rm", "/"]);
    assert_eq!(root.code, Some(1), "{root:?}");
}

fn permissions_are_set_and_shown(utils: &Utils) {
    utils.prints(&["write", "/a/b/c", "1"], "");
    utils.prints(&["chmod", "/a/b", "r0", "r6", "w7", "b8"], "");
    utils.prints(
        &["ls", "-fp", "/a"],
        "/a/b = \"\"   (r0,r6,w7,b8)\n/a/b/c = \"1\"   (n0)\n",
    );
    utils.prints(&["chmod", "-r", "/a", "r0", "b3"], "");
    utils.prints(
        &["ls", "-fp", "/a"],
        "/a/b = \"\"   (r0,b3)\n/a/b/c = \"1\"   (r0,b3)\n",
    );
    // Up to the root, whose permissions these become.
    utils.prints(&["chmod", "-u", "/a/b/c", "n0", "r4"], "");
    utils.prints(
        &["ls", "-fp", "/a"],
        "/a/b = \"\"   (n0,r4)\n/a/b/c = \"1\"   (n0,r4)\n",
    );
    utils.prints(
        &["ls", "-p", "/a"],
        "b = \"\" . . . . . . . . . . . . . . . . . . . . . . . . . . .  (n0,r4)\n \
         c = \"1\" . . . . . . . . . . . . . . . . . . . . . . . . . .  (n0,r4)\n",
    );
    utils.fails(
        &["chmod", "/nope", "n0"],
        "xenstore-chmod: Error occurred setting permissions on '/nope': No such file or directory",
    );
}

fn a_watch_prints_what_changes(utils: &Utils) {
    let mut watch = utils
        .client("/usr/bin/xenstore-watch")
        .args(["-n", "6", "/w", "/x"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut next = || lines.next().unwrap().unwrap();
    // A new watch fires at once.
    assert_eq!([next(), next()], ["/w", "/x"]);
    utils.prints(&["write", "/elsewhere", "1"], "");
    utils.prints(&["write", "/w/1", "a"], "");
    utils.prints(&["chmod", "/w/1", "n0", "r1"], "");
    utils.prints(&["rm", "/w"], "");
    utils.prints(&["write", "/x", "1"], "");
    assert_eq!(
        [next(), next(), next(), next()],
        ["/w/1", "/w/1", "/w", "/x"]
    );
    eventually("the sixth event was the last", || {
        watch.try_wait().unwrap().is_some()
    });
    assert!(watch.wait().unwrap().success());
}

fn a_special_watch_fires_when_a_domain_comes_or_goes(utils: &Utils) {
    let mut watch = utils
        .client("/usr/bin/xenstore-watch")
        .args(["@introduceDomain", "@releaseDomain"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut next = || lines.next().unwrap().unwrap();
    assert_eq!([next(), next()], ["@introduceDomain", "@releaseDomain"]);
    let mut client = Raw::connect(&utils.socket);
    client.ask(XS_INTRODUCE, 0, b"9\x001\x002\0").unwrap();
    assert_eq!(next(), "@introduceDomain");
    client.ask(XS_RELEASE, 0, b"9\0").unwrap();
    assert_eq!(next(), "@releaseDomain");
    watch.kill().unwrap();
    watch.wait().unwrap();
}

fn a_directory_too_long_for_one_message_is_listed_in_parts(utils: &Utils) {
    let names: Vec<String> = (0..2000)
        .map(|number| format!("child-{number:04}"))
        .collect();
    for some in names.chunks(500) {
        let pairs: Vec<String> = some
            .iter()
            .flat_map(|name| [format!("/big/{name}"), "v".into()])
            .collect();
        let line: Vec<&str> = ["write"]
            .into_iter()
            .chain(pairs.iter().map(String::as_str))
            .collect();
        utils.prints(&line, "");
    }
    let listed = utils.run(&["ls", "-f", "/big"]);
    let expected: String = names
        .iter()
        .map(|name| format!("/big/{name} = \"v\"\n"))
        .collect();
    assert_eq!((listed.code, listed.err.as_str()), (Some(0), ""));
    assert!(
        listed.out == expected,
        "{} lines",
        listed.out.lines().count()
    );
    let listed = utils.run(&["list", "/big"]);
    assert_eq!(listed.out.lines().collect::<Vec<_>>(), names);
}

fn wrong_usage_is_told_by_the_tools_themselves(utils: &Utils) {
    for tool in ["read", "write", "exists", "chmod", "watch"] {
        let said = utils.run(&[tool]);
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.err.contains("Usage: "), "{said:?}");
    }
}
