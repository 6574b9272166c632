//! What grows with the store, and must not.

use anyhow::{Context, Result};
use cantle_abi::DomId;
use cantle_xenstore::prelude::*;
use cantle_xenstore::{Shared, TxId};

use crate::measure::Unit;
use crate::report::Report;
use crate::rounds::{per_op, timed};

pub(super) fn run(report: &mut Report) -> Result<()> {
    txn_start(report)
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
