//! `quota` and `quota-soft`: the limits, and what has been used of them.

use std::fmt::Write as _;
use std::sync::Arc;

use cantle_abi::{DomId, Errno};

use super::answer;
use crate::limits::{Limits, Quota};
use crate::perms::parse_domid;
use crate::quota::Peaks;
use crate::server::Server;
use crate::server::requests::Reply;

impl Server {
    pub(super) fn control_quota(&mut self, words: &[&str]) -> Result<Reply, Errno> {
        match *words {
            [] => Ok(answer(&settings(
                Quota::ALL
                    .iter()
                    .map(|quota| (*quota, self.quotas.defaults.of(*quota))),
            ))),
            ["set", name, value] => {
                let quota = Quota::from_name(name).ok_or(Errno::EINVAL)?;
                self.set_default(quota.name(), value)
            }
            ["max"] => Ok(answer(&seen(&self.quotas.peaks))),
            ["max", "-r"] => {
                self.quotas.reset_peaks();
                Ok(answer(&seen(&self.quotas.peaks)))
            }
            [domid] => self.quotas_of(parse_domid(domid.as_bytes())?),
            _ => Err(Errno::EINVAL),
        }
    }

    /// The same for the one soft quota.
    pub(super) fn control_quota_soft(&mut self, words: &[&str]) -> Result<Reply, Errno> {
        match *words {
            [] => {
                let soft = (Quota::Memory, self.quotas.defaults.soft_memory);
                Ok(answer(&settings(core::iter::once(soft))))
            }
            ["set", "memory", value] => self.set_default(crate::limits::SOFT_MEMORY, value),
            _ => Err(Errno::EINVAL),
        }
    }

    /// Sets what new domains get. There is no way to unlimit anything here, as there is none in xenstored; `XS_SET_QUOTA` has
    /// one.
    fn set_default(&mut self, name: &str, value: &str) -> Result<Reply, Errno> {
        let value = value
            .parse()
            .ok()
            .filter(|value| *value > 0)
            .ok_or(Errno::EINVAL)?;
        let limits: &mut Limits = Arc::make_mut(&mut self.quotas.defaults);
        *limits.named_mut(name).ok_or(Errno::EINVAL)? = value;
        self.note_quotas();
        Ok(Reply::Done)
    }

    /// A domain's use of each quota now, the most that has been seen of it, its limit, and how often that has refused it.
    fn quotas_of(&self, domid: DomId) -> Result<Reply, Errno> {
        let budget = self.quotas.budgets.get(&domid).ok_or(Errno::ENOENT)?;
        let now = self.in_use(domid);
        let mut text = format!("domain {domid}:\n");
        for quota in Quota::ALL {
            let at = |values: &Peaks| values.get(quota.index()).copied().unwrap_or(0);
            let (now, most) = (at(&now), at(&budget.peaks).max(at(&now)));
            let (limit, refused) = (budget.limits.of(quota), at(&budget.hits));
            let name = quota.name();
            let _ = writeln!(
                text,
                "{name:<17}: {now:8} (max {most:8}) limit {limit:8} refused {refused:8}"
            );
        }
        Ok(answer(&text))
    }

    /// What a domain uses of each quota. Those of a single node or path have nothing in use.
    fn in_use(&self, domid: DomId) -> Peaks {
        let nodes = self.store.usage_of(domid);
        let mut used = Peaks::default();
        let mut put = |quota: Quota, value: u64| {
            if let Some(place) = used.get_mut(quota.index()) {
                *place = value;
            }
        };
        put(Quota::Nodes, u64::try_from(nodes.nodes).unwrap_or(0));
        let mut memory = u64::try_from(nodes.bytes).unwrap_or(0);
        if let Some(budget) = self.quotas.budgets.get(&domid) {
            put(Quota::Watches, u64::from(budget.watches));
            put(Quota::Transactions, u64::from(budget.transactions));
            memory = memory.saturating_add(budget.kept);
        }
        put(Quota::Memory, memory);
        let unread = self
            .connections
            .values()
            .filter(|connection| connection.actor.domid == domid)
            .map(|connection| connection.outbox.unread_messages() as u64);
        put(Quota::Outstanding, unread.max().unwrap_or(0));
        used
    }
}

fn settings(values: impl Iterator<Item = (Quota, u32)>) -> String {
    let mut text = "for new domains:\n".to_owned();
    for (quota, value) in values {
        let _ = writeln!(text, "{:<17}: {value:8} {}", quota.name(), quota.about());
    }
    text
}

fn seen(peaks: &Peaks) -> String {
    let mut text = "most of any domain:\n".to_owned();
    for (quota, value) in Quota::ALL.into_iter().zip(peaks) {
        let _ = writeln!(text, "{:<17}: {value:8}", quota.name());
    }
    text
}
