//! xenstore: a guest's read through its ring.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use cantle_abi::DomId;
use cantle_abi::io::xs_wire::{XENSTORE_REQ, XENSTORE_RSP, XS_READ};
use cantle_abi::ring::HeapPages;
use cantle_xenstore::prelude::*;
use cantle_xenstore::transport::ring::{Pumped, Ring};
use cantle_xenstore::transport::ring_client::RingClient;
use cantle_xenstore::{Shared, TxId};

use crate::measure::Unit;
use crate::report::Report;
use crate::rounds::{per_second, timed};

const GUEST: DomId = DomId(1);
const PATH: &[u8] = b"/local/domain/1/device/vbd/51712/state\0";

pub(super) fn run(report: &mut Report) -> Result<()> {
    ring_read(report)
}

/// A read of one node through the shared page, both sides in one thread; against the same bytes through the same page
/// without a store behind it.
fn ring_read(report: &mut Report) -> Result<()> {
    const BATCH: u32 = 64;
    /// A message's header, which the bare side carries as bytes like any others.
    const HEADER: usize = 16;
    let slice = report.plan().slice;
    let store = Shared::default();
    store.introduce(GUEST)?;
    let path = std::str::from_utf8(PATH.strip_suffix(b"\0").context("a string")?)?;
    let toolstack = store.client(DomId::DOM0)?;
    toolstack.write(TxId::NONE, path, b"4")?;
    let guest = cantle_xenstore::Perms::new(GUEST, cantle_xenstore::Access::None);
    toolstack.set_perms(TxId::NONE, path, &guest)?;
    let page = Arc::new(HeapPages::new(1));
    let mut server = Ring::connect(&store, GUEST, page.clone(), Arc::new(|| ()));
    let mut client = RingClient::new(page);
    let bare = HeapPages::new(1);
    let (request, mut heard) = (vec![0; HEADER + PATH.len()], vec![0; HEADER + PATH.len()]);
    report.contest(
        "xenstore/ring_read",
        Unit::PerSecond,
        &mut || {
            per_second(slice, BATCH, || {
                timed(|| {
                    for _ in 0..BATCH {
                        client.send(XS_READ, TxId::NONE, &[PATH])?;
                        client.pump()?;
                        let pumped = server.pump(|| ());
                        ensure!(pumped == Pumped::Idle, "the ring is {pumped:?}");
                        client.pump()?;
                        let reply = client.take_reply().context("no reply")?;
                        ensure!(reply.result.as_deref() == Ok(b"4"), "{reply:?}");
                    }
                    Ok(())
                })
            })
        },
        Some(&mut || {
            per_second(slice, BATCH, || {
                timed(|| {
                    for _ in 0..BATCH {
                        XENSTORE_REQ.write(&bare, &request)?;
                        let taken = XENSTORE_REQ.read(&bare, &mut heard)?;
                        ensure!(taken == request.len(), "bytes are lost");
                        XENSTORE_RSP.write(&bare, &heard[..=HEADER])?;
                        let taken = XENSTORE_RSP.read(&bare, &mut heard)?;
                        ensure!(taken == HEADER + 1, "bytes are lost");
                    }
                    Ok(())
                })
            })
        }),
    );
    Ok(())
}
