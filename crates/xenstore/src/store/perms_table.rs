//! Equal permissions, kept once.

use std::collections::HashSet;
use std::sync::Arc;

use crate::Perms;

/// How many the table holds at least before it looks for those that nobody uses.
const FIRST_SWEEP: usize = 64;

/// The permissions that nodes have. Most nodes of a domain have the same, also where they were set one by one.
#[derive(Debug)]
pub(crate) struct PermsTable {
    known: HashSet<Arc<Perms>>,
    sweep_at: usize,
}

impl Default for PermsTable {
    fn default() -> Self {
        Self {
            known: HashSet::new(),
            sweep_at: FIRST_SWEEP,
        }
    }
}

impl PermsTable {
    /// The one that is equal to this, which is from now on this one where there was none.
    pub(crate) fn shared(&mut self, perms: Arc<Perms>) -> Arc<Perms> {
        if let Some(known) = self.known.get(&perms) {
            return Arc::clone(known);
        }
        if self.known.len() >= self.sweep_at {
            self.known.retain(|perms| Arc::strong_count(perms) > 1);
            self.sweep_at = FIRST_SWEEP.max(2 * self.known.len());
            self.known.shrink_to(self.sweep_at);
        }
        self.known.insert(Arc::clone(&perms));
        perms
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Access;
    use cantle_abi::DomId;

    #[test]
    fn equals_are_one_and_the_unused_are_forgotten() {
        let mut table = PermsTable::default();
        let perms = |domain| Arc::new(Perms::new(DomId(domain), Access::Read));
        let kept = table.shared(perms(1));
        for domain in 2..10_000 {
            assert_eq!(table.shared(perms(domain)).owner, DomId(domain));
        }
        assert!(table.known.len() <= 2 * FIRST_SWEEP);
        assert!(Arc::ptr_eq(&kept, &table.shared(perms(1))));
    }
}
