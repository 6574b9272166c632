//! Open transactions in streams that others have written: by the document, in both versions and both orders of bytes.

use cantle_abi::DomId;
use cantle_abi::io::xs_wire::*;
use cantle_xenstore::Server;

use super::{ask, check};

/// Writes records.
struct Hand {
    big: bool,
    out: Vec<u8>,
}

impl Hand {
    fn new(big: bool, version: u32) -> Self {
        let mut out = b"xenstore".to_vec();
        out.extend(version.to_be_bytes());
        out.extend(u32::from(big).to_be_bytes());
        Self { big, out }
    }

    fn n16(&self, n: u16) -> Vec<u8> {
        if self.big {
            n.to_be_bytes()
        } else {
            n.to_le_bytes()
        }
        .to_vec()
    }

    fn n32(&self, n: u32) -> Vec<u8> {
        if self.big {
            n.to_be_bytes()
        } else {
            n.to_le_bytes()
        }
        .to_vec()
    }

    fn record(&mut self, kind: u32, body: &[Vec<u8>]) {
        let body = body.concat();
        let head = [self.n32(kind), self.n32(body.len().try_into().unwrap())].concat();
        self.out.extend(head);
        self.out.extend(body);
        self.out.resize(self.out.len().next_multiple_of(8), 0);
    }

    /// A node as everybody sees it, or, with an access, as transaction 6 of connection 1 does.
    fn node(&mut self, path: &str, value: &str, access: Option<u16>, owner: Option<u16>) {
        let len = |text: &str| u16::try_from(text.len()).unwrap();
        let (conn, tx) = access.map_or((0, 0), |_| (1, 6));
        let mut body = vec![
            self.n32(conn),
            self.n32(tx),
            self.n16(len(path) + 1),
            self.n16(len(value)),
            self.n16(access.unwrap_or(0)),
            self.n16(u16::from(owner.is_some())),
        ];
        if let Some(owner) = owner {
            body.extend([b"n\0".to_vec(), self.n16(owner)]);
        }
        body.push([path.as_bytes(), b"\0", value.as_bytes()].concat());
        self.record(5, &body);
    }
}

/// A guest that has read `a` in a transaction as it says here, written `b`, made `c/d`, and removed `e`.
fn stream(big: bool, version: u32, whole: bool, read: &str) -> Vec<u8> {
    let mut hand = Hand::new(big, version);
    let ring = [hand.n16(5), hand.n16(0x7ff4), hand.n32(9)].concat();
    let lengths = [hand.n16(0), hand.n16(0), hand.n32(0)].concat();
    let body = [hand.n32(1), hand.n16(0), hand.n16(0), ring, lengths];
    hand.record(2, &body);
    if whole {
        for path in ["/", "/local", "/local/domain"] {
            hand.node(path, "", None, Some(0));
        }
    }
    hand.node("/local/domain/5", "", None, Some(5));
    for name in ["a", "b", "e"] {
        hand.node(&format!("/local/domain/5/{name}"), "old", None, Some(5));
    }
    let body = [hand.n32(1), hand.n32(6)];
    hand.record(4, &body);
    hand.node("/local/domain/5/a", read, Some(1), Some(5));
    hand.node("/local/domain/5/b", "new", Some(3), Some(5));
    hand.node("/local/domain/5/c", "", Some(2), Some(5));
    hand.node("/local/domain/5/c/d", "new", Some(2), Some(5));
    hand.node("/local/domain/5/e", "", Some(0), None);
    hand.node("/local/domain/5/f", "", Some(1), None);
    hand.record(0, &[]);
    hand.out
}

/// What becomes of the transaction, and of `b`, `c/d` and `e`, where domain 0 has written something before its end.
fn ends(stream: &[u8], whole: bool, change: Option<&str>) -> [String; 4] {
    let (mut server, conn) = if whole {
        let restored = Server::restore(stream).unwrap();
        (restored.server, restored.connections[0].conn)
    } else {
        let mut server = Server::new();
        let conn = server.load_domain(stream, DomId(5)).unwrap().unwrap().conn;
        (server, conn)
    };
    check(&mut server);
    let dom0 = server.connect_socket();
    if let Some(change) = change {
        assert_eq!(ask(&mut server, dom0, 0, XS_WRITE, change), "OK\0");
    }
    // Within it, all is as it was left.
    assert_eq!(ask(&mut server, conn, 0, XS_READ, "b\0"), "old");
    let end = ask(&mut server, conn, 6, XS_TRANSACTION_END, "T\0");
    let read = ["b\0", "c/d\0", "e\0"].map(|path| ask(&mut server, conn, 0, XS_READ, path));
    check(&mut server);
    let [b, d, e] = read;
    [end, b, d, e]
}

#[test]
fn a_transaction_goes_on_from_the_document_s_form() {
    let done = ["OK\0", "new", "new", "ENOENT"];
    let again = ["EAGAIN", "old", "ENOENT", "old"];
    for big in [false, true] {
        for version in [1, 2] {
            for whole in [false, true] {
                let what = (big, version, whole);
                let good = stream(big, version, whole, "old");
                assert_eq!(ends(&good, whole, None), done, "{what:?}");
                // Beside what it has read.
                let beside = Some("/local/domain/5/g\0");
                assert_eq!(ends(&good, whole, beside), done, "{what:?}");
                for change in ["/local/domain/5/a\0other", "/local/domain/5/f\0"] {
                    assert_eq!(ends(&good, whole, Some(change)), again, "{what:?} {change}");
                }
                // It has read what is not there any more.
                let stale = stream(big, version, whole, "older");
                assert_eq!(ends(&stale, whole, None), again, "{what:?}");
            }
        }
    }
}
