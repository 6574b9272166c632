//! What grows with the store, and must not.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use cantle_abi::DomId;
use cantle_xenstore::prelude::*;
use cantle_xenstore::server::Subtree;
use cantle_xenstore::xenbus::domain_path;
use cantle_xenstore::{Access, Limits, Perms, Server, Shared, TxId};

use crate::measure::Unit;
use crate::report::Report;
use crate::rounds::{per_op, timed};

pub(super) fn run(report: &mut Report) -> Result<()> {
    txn_start(report)?;
    clone(report)
}

/// Starting and aborting a transaction on a store of 100,000 nodes, against the same on one of 100.
fn txn_start(report: &mut Report) -> Result<()> {
    const BATCH: u32 = 256;
    let slice = report.plan().slice;
    let sides = [100_000, 100].map(|nodes| -> Result<_> {
        let client = Shared::default().client(DomId::DOM0)?;
        for n in 0..nodes / 10 {
            for key in 0..9 {
                client.write(TxId::NONE, &format!("/bench/n{n}/k{key}"), b"value")?;
            }
        }
        Ok(move || {
            per_op(slice, BATCH, || {
                timed(|| {
                    for _ in 0..BATCH {
                        let tx = client.transaction_start()?;
                        client.transaction_end(tx, false)?;
                    }
                    Ok(())
                })
            })
        })
    });
    let [ours, limit] = sides;
    let (mut ours, mut limit) = (ours.context("a store")?, limit.context("a store")?);
    report.contest(
        "xenstore/txn_start_100k_nodes",
        Unit::Nanoseconds,
        &mut ours,
        Some(&mut limit),
    );
    Ok(())
}

/// Cloning a domain's subtree of 6,000 nodes, against the same of 60: what a fork of a guest costs here.
fn clone(report: &mut Report) -> Result<()> {
    let slice = report.plan().slice;
    let [mut ours, mut limit] = [6000, 60].map(|nodes| {
        let clones = Clones::new(nodes);
        move || match &clones {
            Ok(clones) => clones.per_clone(slice),
            Err(error) => bail!("{error:#}"),
        }
    });
    report.contest(
        "xenstore/clone_6000_nodes",
        Unit::Nanoseconds,
        &mut ours,
        Some(&mut limit),
    );
    Ok(())
}

const PARENT: DomId = DomId(5);

struct Clones {
    store: Shared,
    subtree: Subtree,
}

impl Clones {
    fn new(nodes: usize) -> Result<Self> {
        let limits = Limits {
            nodes: 0,
            memory: 0,
            ..Limits::DEFAULT
        };
        let store = Shared::new(Server::with_limits(limits));
        let dom0 = store.client(DomId::DOM0)?;
        store.introduce(PARENT)?;
        let home = "/local/domain/5";
        dom0.mkdir(TxId::NONE, home)?;
        dom0.set_perms(TxId::NONE, home, &Perms::new(PARENT, Access::None))?;
        for n in 0..nodes / 10 {
            for key in 0..9 {
                let path = format!("{home}/device/n{n}/k{key}");
                dom0.write(TxId::NONE, &path, b"value")?;
            }
        }
        let subtree = store.capture(home)?;
        Ok(Self { store, subtree })
    }

    /// Nanoseconds for one.
    fn per_clone(&self, slice: Duration) -> Result<f64> {
        const BATCH: u16 = 64;
        let children = || (100..100 + BATCH).map(DomId);
        per_op(slice, BATCH.into(), || {
            for child in children() {
                self.store.introduce(child)?;
            }
            let took = timed(|| {
                for child in children() {
                    let home = domain_path(child);
                    self.store.graft(&home, &self.subtree, &[(PARENT, child)])?;
                }
                Ok(())
            })?;
            for child in children() {
                self.store.release(child)?;
            }
            Ok(took)
        })
    }
}
