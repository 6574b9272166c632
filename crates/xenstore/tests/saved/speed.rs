//! A large store is handed over in less time than a guest notices.

use std::time::{Duration, Instant};

use cantle_abi::io::xs_wire::XS_WRITE;
use cantle_xenstore::server::Host;
use cantle_xenstore::{Server, TxId};

/// In a release build both together take a few dozen milliseconds (`cargo test --release -p cantle-xenstore --test saved speed --
/// --nocapture` says how many). The bound is what xenstored takes, for builds without optimisation on busy machines.
#[test]
fn speed_of_120_000_nodes() {
    let mut server = Server::new();
    let dom0 = server.connect_socket();
    for number in 0..120_000_u32 {
        let (domain, node) = (number / 60, number % 60);
        let payload = format!(
            "/local/domain/{domain}/device/{}/{node}\0value {number}",
            node % 6
        );
        server
            .request(dom0, XS_WRITE, TxId::NONE, payload.as_bytes())
            .unwrap();
    }
    let begin = Instant::now();
    let mut stream = Vec::new();
    server.save(&mut stream, &Host::default()).unwrap();
    let saved = begin.elapsed();
    let begin = Instant::now();
    let restored = Server::restore(&stream).unwrap();
    let loaded = begin.elapsed();
    println!(
        "{} bytes, saved in {saved:?}, restored in {loaded:?}",
        stream.len()
    );
    let mut again = Vec::new();
    restored.server.save(&mut again, &Host::default()).unwrap();
    assert!(stream == again, "what is restored is what was saved");
    assert!(saved + loaded < Duration::from_secs(11));
}
