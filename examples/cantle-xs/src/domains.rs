//! The domains of the store.

use std::io::Write as _;

use anyhow::Result;
use cantle_abi::DomId;
use cantle_xenstore::TxId;
use cantle_xenstore::client::{Request, SocketClient, reply};
use cantle_xenstore::prelude::*;

use crate::escape::escape;
use crate::output::Output;

/// Where domains have their homes.
const HOMES: &str = "/local/domain";

/// Prints each domain with a home: its number, whether the daemon serves it, its name.
pub(crate) fn domains(client: &SocketClient, out: &mut Output) -> Result<u8> {
    let homes = match client.directory(TxId::NONE, HOMES) {
        Err(error) if error.is_not_found() => Vec::new(),
        homes => homes?,
    };
    let mut domids: Vec<DomId> = homes
        .iter()
        .filter_map(|name| name.parse().ok().map(DomId))
        .collect();
    domids.sort_unstable();
    let introduced: Vec<_> = domids
        .iter()
        .map(|domid| Request::is_domain_introduced(*domid))
        .collect();
    let introduced = client.request_all(TxId::NONE, &introduced);
    writeln!(out, "{:>5} {:10} NAME", "DOMID", "INTRODUCED")?;
    let names = names(client, &domids);
    for ((domid, introduced), name) in domids.iter().zip(introduced).zip(names) {
        let introduced = match introduced.ok().and_then(|flag| reply::flag(&flag).ok()) {
            Some(true) => "yes",
            Some(false) => "no",
            None => "?",
        };
        writeln!(
            out,
            "{:>5} {introduced:10} {}",
            domid.0,
            name.unwrap_or_default()
        )?;
    }
    Ok(0)
}

/// The names that domains have in the store, as printable text.
pub(crate) fn names(client: &SocketClient, domids: &[DomId]) -> Vec<Option<String>> {
    let paths: Vec<String> = domids
        .iter()
        .map(|domid| format!("{HOMES}/{domid}/name"))
        .collect();
    let requests: Vec<_> = paths.iter().map(|path| Request::read(path)).collect();
    let replies = client.request_all(TxId::NONE, &requests);
    replies
        .into_iter()
        .map(|value| value.ok().map(|value| escape(&value)))
        .collect()
}
