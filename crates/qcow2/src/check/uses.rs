//! How often each cluster is used.

use std::collections::HashMap;

/// How often each cluster is used. Memory goes with what is used, not with where.
#[derive(Default)]
pub(super) struct Uses {
    pages: HashMap<u64, Vec<u32>>,
    /// The cluster after the last that is used.
    pub(super) end: u64,
}

const PAGE: u64 = 4096;
const PAGE_LEN: usize = 4096;

impl Uses {
    pub(super) fn add(&mut self, first: u64, last: u64) {
        for cluster in first..=last {
            let page = self
                .pages
                .entry(cluster / PAGE)
                .or_insert_with(|| vec![0; PAGE_LEN]);
            let within = usize::try_from(cluster % PAGE).unwrap_or(0);
            if let Some(uses) = page.get_mut(within) {
                *uses = uses.saturating_add(1);
            }
        }
        self.end = self.end.max(last.saturating_add(1));
    }

    pub(super) fn of(&self, cluster: u64) -> u64 {
        let within = usize::try_from(cluster % PAGE).unwrap_or(0);
        let page = self.pages.get(&(cluster / PAGE));
        page.and_then(|page| page.get(within))
            .copied()
            .unwrap_or(0)
            .into()
    }

    /// The clusters that are used, in no order.
    pub(super) fn used(&self) -> impl Iterator<Item = u64> {
        self.pages.iter().flat_map(|(page, uses)| {
            let clusters = (page * PAGE..).zip(uses);
            clusters
                .filter(|(_, uses)| **uses != 0)
                .map(|(cluster, _)| cluster)
        })
    }
}
