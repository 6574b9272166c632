//! The commands that the server answers itself.

use cantle_abi::io::xs_wire::{XS_CONTROL, XS_READ, XS_WATCH, XS_WRITE};
use cantle_xenstore::server::Server;

use crate::support::{ask, table, world};

const HELP: &str = "\
check           
log             [on|off|+<switch>|-<switch>]
live-update     [-c <cmdline>] [-F] [-t <timeout>] [-v <version>] <file>
logfile         <file>
memreport       [<file>]
print           <string>
quota           [set <name> <val>|<domid>|max [-r]]
quota-soft      [set <name> <val>]
stats           [<first-domid>]
tree            [<path> [<after>]]
help            
";

#[test]
fn commands_and_their_mistakes() {
    let (mut server, dom0, guest) = world();
    let s = &mut server;
    let help = ask(s, dom0, XS_CONTROL, b"help\0");
    assert_eq!(help.strip_suffix('|'), Some(HELP));
    let rows = [
        ("check|", "OK|"),
        ("check|x|", "!EINVAL"),
        ("help|x|", "!EINVAL"),
        ("nonsense|", "!EINVAL"),
        ("|", "!EINVAL"),
        ("", "!EINVAL"),
        ("check", "!EINVAL"),
        ("Check|", "!EINVAL"),
        ("print|", "!EINVAL"),
        ("print|a|b|", "!EINVAL"),
        ("logfile|", "!EINVAL"),
        ("memreport|a|b|", "!EINVAL"),
        ("stats|x|", "!EINVAL"),
        ("stats|1|2|", "!EINVAL"),
        ("quota|nonsense|", "!EINVAL"),
        ("quota|set|", "!EINVAL"),
        ("quota|set|nodes|", "!EINVAL"),
        ("quota|set|nodes|0|", "!EINVAL"),
        ("quota|set|nodes|-1|", "!EINVAL"),
        ("quota|set|nodes|4294967296|", "!EINVAL"),
        ("quota|set|nodes|1|2|", "!EINVAL"),
        ("quota|set|nonsense|1|", "!EINVAL"),
        ("quota|set|soft-memory|1|", "!EINVAL"),
        ("quota|77|", "!ENOENT"),
        ("quota|max|-x|", "!EINVAL"),
        ("quota-soft|set|nodes|1|", "!EINVAL"),
        ("quota-soft|5|", "!EINVAL"),
    ];
    table(s, dom0, XS_CONTROL, &rows);
    assert_eq!(ask(s, dom0, XS_CONTROL, b"check\0\xff\0"), "!EINVAL");
    for (payload, _) in rows {
        table(s, guest, XS_CONTROL, &[(payload, "!EACCES")]);
    }
}

#[test]
fn the_log_has_switches() {
    let (mut server, dom0, _) = world();
    let all_on = |on: &str, watch: &str| {
        format!(
            "the log is {on}, with\naccess     : on\nwatch      : {watch}\ntransaction: on\n\
             domain     : on\nquota      : on\n|"
        )
    };
    let rows = [
        ("log|", all_on("off", "on")),
        ("log|on|", "OK|".to_owned()),
        ("log|-watch|", "OK|".to_owned()),
        ("log|", all_on("on", "off")),
        ("log|+watch|", "OK|".to_owned()),
        ("log|off|", "OK|".to_owned()),
        ("log|", all_on("off", "on")),
        ("log|+nonsense|", "!EINVAL".to_owned()),
        ("log|nonsense|", "!EINVAL".to_owned()),
        ("log|on|off|", "!EINVAL".to_owned()),
        ("log||", "!EINVAL".to_owned()),
    ];
    for (payload, wanted) in &rows {
        table(&mut server, dom0, XS_CONTROL, &[(payload, wanted)]);
    }
}

#[test]
fn what_is_counted_is_what_is_there() {
    let (mut server, dom0, guest) = world();
    let s = &mut server;
    for payload in [&b"a\0t\0"[..], b"b\0t\0"] {
        // The reply, and the watch's first event, which nobody reads.
        let mut bytes = Vec::new();
        cantle_xenstore::wire::emit(&mut bytes, XS_WATCH, 1, 0, &[payload]).unwrap();
        s.feed(guest, &bytes).unwrap();
    }
    table(s, dom0, XS_WRITE, &[("/local/domain/5/a|x", "OK|")]);
    table(s, dom0, XS_CONTROL, &[("check|", "OK|")]);
    s.disconnect(guest);
    table(s, dom0, XS_CONTROL, &[("check|", "OK|")]);
    table(s, dom0, XS_READ, &[("/local/domain/5/a|", "x")]);
    let mut empty = Server::new();
    let dom0 = empty.connect(cantle_abi::DomId::DOM0, true);
    table(&mut empty, dom0, XS_CONTROL, &[("check|", "OK|")]);
}
