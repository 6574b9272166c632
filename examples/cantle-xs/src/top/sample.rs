//! The daemon's figures at one moment, and what they say of the time between two.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use cantle_abi::{DomId, Errno};
use cantle_xenstore::client::SocketClient;
use cantle_xenstore::prelude::*;

use crate::domains;

/// How many parts the figures may come in.
const PARTS_MAX: usize = 65_536;

/// What to say of a daemon that does not have them.
const NONE: &str = "this daemon keeps no figures: `top` needs cantle-xenstored";

/// One domain's figures, as the daemon counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Figures {
    pub(super) connections: u64,
    pub(super) requests: u64,
    pub(super) errors: u64,
    pub(super) quota_hits: u64,
    pub(super) nodes: u64,
    pub(super) bytes: u64,
    pub(super) watches: u64,
    pub(super) transactions: u64,
    pub(super) unread: u64,
}

#[derive(Debug)]
pub(super) struct Sample {
    at: Instant,
    domains: BTreeMap<DomId, Figures>,
}

impl Sample {
    /// Asks for all domains, as many at a time as the daemon gives.
    pub(super) fn take(client: &SocketClient) -> Result<Self> {
        let mut domains = BTreeMap::new();
        let at = Instant::now();
        let mut from = Some(0_u16);
        for _ in 0..PARTS_MAX {
            let Some(first) = from else { break };
            let answer = client.control(&["stats", &first.to_string()]);
            let answer = match answer {
                Err(error) if matches!(error.errno, Errno::EINVAL | Errno::ENOSYS) => bail!(NONE),
                // What oxenstored says to whatever it does not know.
                Ok(answer) if answer == "OK" => bail!(NONE),
                answer => answer.context("could not ask for the figures")?,
            };
            let mut last = None;
            for line in answer.lines() {
                let (domid, figures) = parse(line).context("the daemon's figures are none")?;
                domains.insert(domid, figures);
                last = Some(domid);
            }
            from = match last {
                // It is to go on, whatever the daemon says.
                Some(DomId(last)) if last >= first => last.checked_add(1),
                _ => None,
            };
        }
        Ok(Self { at, domains })
    }

    pub(super) fn seconds_since(&self, before: &Self) -> f64 {
        self.at.saturating_duration_since(before.at).as_secs_f64()
    }
}

/// One line of the daemon's answer; figures that a later daemon adds at its end are ignored.
fn parse(line: &str) -> Option<(DomId, Figures)> {
    let mut words = line.split_ascii_whitespace();
    let domid = DomId(words.next()?.parse().ok()?);
    let mut next = || words.next()?.parse().ok();
    let figures = Figures {
        connections: next()?,
        requests: next()?,
        errors: next()?,
        quota_hits: next()?,
        nodes: next()?,
        bytes: next()?,
        watches: next()?,
        transactions: next()?,
        unread: next()?,
    };
    Some((domid, figures))
}

/// Domains' names, each asked for once.
#[derive(Debug, Default)]
pub(super) struct Names(HashMap<DomId, String>);

impl Names {
    /// Asks for those that are new, and forgets those that are gone: the next of a number has another name.
    pub(super) fn learn(&mut self, client: &SocketClient, sample: &Sample) {
        self.0.retain(|domid, _| sample.domains.contains_key(domid));
        let new = sample
            .domains
            .keys()
            .filter(|domid| !self.0.contains_key(*domid));
        let new: Vec<DomId> = new.copied().collect();
        let names = domains::names(client, &new).into_iter();
        let named = new.into_iter().zip(names);
        self.0
            .extend(named.filter_map(|(domid, name)| Some((domid, name?))));
    }
}

/// One domain between two samples: rates by the second, and what it has at the second one.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) domid: DomId,
    pub(super) name: Option<String>,
    pub(super) requests: f64,
    pub(super) errors: f64,
    pub(super) quota_hits: f64,
    pub(super) now: Figures,
}

/// The domains of the later sample; who asked most stands first.
pub(super) fn rates(before: &Sample, now: &Sample, names: &Names) -> Vec<Row> {
    let seconds = now.seconds_since(before).max(1e-9);
    let mut rows: Vec<Row> = now
        .domains
        .iter()
        .map(|(domid, figures)| {
            let before = before.domains.get(domid);
            let rate = |of: fn(&Figures) -> u64| {
                let now = of(figures);
                // Counters that went back are those of another domain of this number.
                let since = before.map_or(0, of);
                #[expect(clippy::cast_precision_loss, reason = "rates are shown with one digit")]
                let grown = now.checked_sub(since).unwrap_or(now) as f64;
                grown / seconds
            };
            Row {
                domid: *domid,
                name: names.0.get(domid).cloned(),
                requests: rate(|figures| figures.requests),
                errors: rate(|figures| figures.errors),
                quota_hits: rate(|figures| figures.quota_hits),
                now: *figures,
            }
        })
        .collect();
    rows.sort_by(|a, b| {
        b.requests
            .total_cmp(&a.requests)
            .then(a.domid.cmp(&b.domid))
    });
    rows
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn sample(at: Instant, lines: &[&str]) -> Sample {
        Sample {
            at,
            domains: lines.iter().map(|line| parse(line).unwrap()).collect(),
        }
    }

    #[test]
    fn rates_are_of_the_time_between() {
        let begin = Instant::now();
        let before = sample(begin, &["0 1 1000 0 0 9 99 0 0 0", "5 1 700 5 0 1 1 0 0 0"]);
        let after = begin + Duration::from_secs(2);
        let lines = [
            "0 2 1100 10 2 9 99 3 1 7",
            "5 1 600 0 0 1 1 0 0 0",
            "6 1 4 0 0 1 1 0 0 0",
        ];
        let rows = rates(&before, &sample(after, &lines), &Names::default());
        let seen: Vec<_> = rows.iter().map(|row| (row.domid.0, row.requests)).collect();
        assert_eq!(
            seen,
            [(5, 300.0), (0, 50.0), (6, 2.0)],
            "5 is another domain by now"
        );
        assert_eq!(
            (rows[1].errors, rows[1].quota_hits, rows[1].now.unread),
            (5.0, 1.0, 7)
        );
    }

    #[test]
    fn lines_that_are_none_are_refused() {
        for line in [
            "",
            "0",
            "0 1 2 3 4 5 6 7 8",
            "x 1 2 3 4 5 6 7 8 9",
            "0 1 2 3 4 5 6 7 8 -9",
        ] {
            assert_eq!(parse(line), None, "{line:?}");
        }
        assert!(parse("0 1 2 3 4 5 6 7 8 9 10").is_some());
    }
}
