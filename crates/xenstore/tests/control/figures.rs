//! Counters and reports.

use cantle_abi::DomId;
use cantle_abi::io::xs_wire::{XS_CONTROL, XS_READ, XS_WRITE};
use cantle_xenstore::server::Server;

use crate::support::{GUEST, ask, world};

#[test]
fn figures_by_domain() {
    let mut server = Server::new();
    let s = &mut server;
    let dom0 = s.connect(DomId::DOM0, true);
    let guest = s.connect(GUEST, false);
    assert_eq!(ask(s, guest, XS_READ, b"/nowhere\0"), "!EACCES");
    assert_eq!(ask(s, dom0, XS_WRITE, b"/a\0value"), "OK|");
    let stats = s.stats();
    assert_eq!(stats.len(), 2);
    assert_eq!((stats[0].domid, stats[1].domid), (DomId::DOM0, GUEST));
    let figures = |n: usize| (stats[n].connections, stats[n].requests, stats[n].errors);
    assert_eq!((figures(0), figures(1)), ((1, 1, 0), (1, 1, 1)));
    assert_eq!((stats[0].nodes, stats[1].nodes), (6, 0));

    assert_eq!(ask(s, dom0, XS_CONTROL, b"stats\x006\0"), "");
    let text = ask(s, dom0, XS_CONTROL, b"stats\x005\0");
    assert_eq!(text, "5 1 1 1 0 0 28720 0 0 0\n");
    s.disconnect(guest);
    assert_eq!(
        s.stats().len(),
        1,
        "an unknown domain ends with its connection"
    );
    s.disconnect(dom0);
    assert_eq!(s.stats()[0].requests, 3, "dom0's connections come and go");
}

#[test]
fn a_report_of_memory_by_domain() {
    let (mut server, dom0, guest) = world();
    let s = &mut server;
    assert_eq!(ask(s, guest, XS_WRITE, b"a\0value"), "OK|");
    let report = s.memory_report();
    let lines: Vec<&str> = report.lines().collect();
    assert!(lines[0].starts_with("domid nodes node-bytes connections watches"));
    let fields = |line: &str| -> Vec<u64> {
        line.split(' ')
            .skip(1)
            .map(|word| word.parse().unwrap())
            .collect()
    };
    assert_eq!(lines.len(), 4);
    assert!(lines[1].starts_with("0 ") && lines[2].starts_with("5 "));
    let (guest_row, sums) = (fields(lines[2]), fields(lines[3]));
    assert_eq!(guest_row[0], 2, "its home and the node in it");
    assert_eq!(guest_row[2], 1);
    for (column, sum) in sums.iter().enumerate() {
        assert_eq!(fields(lines[1])[column] + guest_row[column], *sum);
    }
    // The host puts it where it was told to.
    let answer = s.request(
        dom0,
        XS_CONTROL,
        cantle_xenstore::TxId::NONE,
        b"memreport\0",
    );
    assert_eq!(answer, Err(cantle_abi::Errno::ENOSYS));
}
