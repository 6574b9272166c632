//! What is logged: warnings always, the rest by its switches.

use std::fmt::{Debug, Write as _};
use std::sync::{Arc, Mutex};

use cantle_abi::io::xs_wire::{
    XS_CONTROL, XS_INTRODUCE, XS_MKDIR, XS_READ, XS_SET_QUOTA, XS_TRANSACTION_END,
    XS_TRANSACTION_START, XS_WATCH, XS_WRITE,
};
use cantle_xenstore::TxId;
use cantle_xenstore::server::{ConnId, Server};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::support::{table, world};

/// Keeps each line as its target's last part and its fields.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = write!(self.0, " {}={value:?}", field.name());
    }
}

impl Subscriber for Lines {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        let meta = event.metadata();
        let target = meta.target().rsplit("::").next().unwrap();
        let mut line = Line(format!("{} {target}", meta.level()));
        event.record(&mut line);
        self.0.lock().unwrap().push(line.0);
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// What is logged by an action.
fn logged(act: impl FnOnce()) -> Vec<String> {
    let lines = Lines::default();
    tracing::subscriber::with_default(lines.clone(), act);
    let lines = lines.0.lock().unwrap();
    lines.clone()
}

/// Some of everything.
fn traffic(s: &mut Server, dom0: ConnId, guest: ConnId) {
    table(s, guest, XS_READ, &[("no\nne|", "!EINVAL")]);
    s.request(guest, XS_WATCH, TxId::NONE, b"a\0t\xff\0")
        .unwrap();
    while s.take_event(guest).is_some() {}
    table(s, guest, XS_TRANSACTION_START, &[("|", "1|")]);
    s.request(guest, XS_TRANSACTION_END, TxId(1), b"T\0")
        .unwrap();
    table(s, dom0, XS_INTRODUCE, &[("6|1|1|", "OK|")]);
    table(s, dom0, XS_SET_QUOTA, &[("5|nodes|1|", "OK|")]);
    for _ in 0..3 {
        table(s, guest, XS_MKDIR, &[("b|", "!ENOSPC")]);
    }
}

const WARNED: [&str; 2] = [
    "WARN quota message=quota refuses domid=5 quota=\"nodes\" limit=1 path=\"/local/domain/5/b\" hits=1",
    "WARN quota message=quota refuses domid=5 quota=\"nodes\" limit=1 path=\"/local/domain/5/b\" hits=2",
];

#[test]
fn refusals_by_quotas_are_logged_at_powers_of_two_whatever_the_switches() {
    let (mut server, dom0, guest) = world();
    assert_eq!(logged(|| traffic(&mut server, dom0, guest)), WARNED);
    let more = logged(|| {
        for _ in 3..100 {
            table(&mut server, guest, XS_MKDIR, &[("c|", "!ENOSPC")]);
        }
    });
    assert_eq!(more.len(), 5, "4, 8, 16, 32, 64");
    assert!(more[4].ends_with("path=\"/local/domain/5/c\" hits=64"));
    // The next domain of that number is another.
    server.release(cantle_abi::DomId(5)).unwrap();
    let guest = server.connect(cantle_abi::DomId(5), false);
    let again = logged(|| {
        for _ in 0..2 {
            let long = format!("{}|", "d/".repeat(65).trim_end_matches('/'));
            server
                .request(
                    guest,
                    XS_WATCH,
                    TxId::NONE,
                    long.replace('|', "\0t\0").as_bytes(),
                )
                .unwrap_err();
        }
    });
    assert!(
        again[0].contains("quota=\"path-depth\" limit=64") && again[0].ends_with("hits=1"),
        "{again:?}"
    );
    assert_eq!(again.len(), 2);
}

#[test]
fn each_switch_has_its_lines() {
    let domain = "INFO domain message=domain domid=6 what=\"introduced\"";
    let quota = "INFO quota message=quota refuses domid=5 quota=\"nodes\" limit=1 path=\"/local/domain/5/b\" hits=3";
    let begun = "INFO transaction message=transaction domid=5 tx=1 what=\"begun\"";
    let ended = "INFO transaction message=transaction domid=5 tx=1 what=\"committed\"";
    let event = "INFO watch message=event domid=5 path=\"/local/domain/5/a\" token=t\\xff";
    for (switch, wanted) in [
        ("domain", vec![domain]),
        ("quota", vec![quota]),
        ("transaction", vec![begun, ended]),
        ("watch", vec![event]),
    ] {
        let (mut server, dom0, guest) = world();
        let s = &mut server;
        table(s, dom0, XS_CONTROL, &[("log|on|", "OK|")]);
        for other in ["access", "watch", "transaction", "domain", "quota"] {
            if other != switch {
                table(s, dom0, XS_CONTROL, &[(&format!("log|-{other}|"), "OK|")]);
            }
        }
        let mut lines = logged(|| traffic(s, dom0, guest));
        lines.retain(|line| !WARNED.contains(&line.as_str()));
        assert_eq!(lines, wanted, "{switch}");
        table(s, dom0, XS_CONTROL, &[("log|off|", "OK|")]);
        assert_eq!(
            logged(|| table(s, dom0, XS_WRITE, &[("/x|", "OK|")])).len(),
            0
        );
    }
}

#[test]
fn the_access_log_names_the_request_and_its_result() {
    let (mut server, dom0, guest) = world();
    let s = &mut server;
    s.set_log("on").unwrap();
    s.set_log("-domain").unwrap();
    let lines = logged(|| {
        table(s, guest, XS_READ, &[("no\nne|", "!EINVAL")]);
        table(s, dom0, XS_WRITE, &[("/a|value", "OK|")]);
    });
    let wanted = [
        "INFO access message=request domid=5 op=2 tx=0 first=no\\nne len=6 result=\"EINVAL\"",
        "INFO access message=request domid=0 op=11 tx=0 first=/a len=8 result=\"OK\"",
    ];
    assert_eq!(lines, wanted);
}
