//! What each domain's nodes cost.

use std::collections::HashMap;

use cantle_abi::DomId;

use crate::Perms;

/// What a node costs its owner beside its name, its value and its permissions: about what it takes in memory.
pub(crate) const NODE_OVERHEAD: i64 = 128;

/// Nodes, and the bytes that they take; or a difference of these.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) nodes: i64,
    pub(crate) bytes: i64,
}

impl Usage {
    /// One node's. Four bytes stand for each entry of its permissions, as on Xen.
    pub(crate) fn of_node(name: &str, value: usize, perms: &Perms) -> Self {
        Self {
            nodes: 1,
            bytes: NODE_OVERHEAD + signed(name.len()) + signed(value) + of_perms(perms),
        }
    }

    /// No node more or less, but so many bytes.
    pub(crate) fn of_bytes(bytes: i64) -> Self {
        Self { nodes: 0, bytes }
    }

    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            nodes: self.nodes.saturating_add(other.nodes),
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }

    pub(crate) fn negated(self) -> Self {
        Self {
            nodes: self.nodes.saturating_neg(),
            bytes: self.bytes.saturating_neg(),
        }
    }
}

/// What a list of permissions counts for, in bytes.
pub(crate) fn of_perms(perms: &Perms) -> i64 {
    4 * (1 + signed(perms.listed.len()))
}

/// A length as a number that may be subtracted.
pub(crate) fn signed(len: usize) -> i64 {
    i64::try_from(len).unwrap_or(i64::MAX)
}

/// Usage by domain, or differences of it. No domain is in it that uses nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Accounts(HashMap<DomId, Usage>);

impl Accounts {
    pub(crate) fn of(&self, domain: DomId) -> Usage {
        self.0.get(&domain).copied().unwrap_or_default()
    }

    pub(crate) fn add(&mut self, domain: DomId, more: Usage) {
        let sum = self.of(domain).plus(more);
        if sum == Usage::default() {
            self.0.remove(&domain);
        } else {
            self.0.insert(domain, sum);
        }
    }

    pub(crate) fn add_all(&mut self, more: &Self) {
        for (domain, usage) in more.iter() {
            self.add(domain, usage);
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (DomId, Usage)> {
        self.0.iter().map(|(domain, usage)| (*domain, *usage))
    }

    /// The domains for which the two differ, in order.
    pub(crate) fn differing(&self, other: &Self) -> Vec<DomId> {
        let mut wrong: Vec<DomId> = self
            .iter()
            .chain(other.iter())
            .map(|(domain, _)| domain)
            .filter(|domain| self.of(*domain) != other.of(*domain))
            .collect();
        wrong.sort_unstable();
        wrong.dedup();
        wrong
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use cantle_abi::Errno;

    use super::*;
    use crate::quota::Quotas;
    use crate::store::{Actor, Edit, Store};
    use crate::{Access, Limits};

    const DOM0: Actor = Actor {
        domid: DomId::DOM0,
        privileged: true,
        target: None,
    };
    const GUEST: Actor = Actor {
        domid: DomId(5),
        privileged: false,
        target: None,
    };

    fn write(len: usize) -> Edit {
        Edit::Write(vec![b'x'; len].into())
    }

    /// A store in which domain 5 has a home of its own, and the quotas.
    fn world(limits: &Limits) -> (Store, Quotas) {
        let (mut store, mut quotas) = (Store::new(), Quotas::new(limits.clone()));
        let home = Arc::new(Perms::new(GUEST.domid, Access::None));
        edit(&mut store, &mut quotas, DOM0, "/g", &Edit::Mkdir).unwrap();
        edit(&mut store, &mut quotas, DOM0, "/g", &Edit::SetPerms(home)).unwrap();
        (store, quotas)
    }

    fn edit(
        store: &mut Store,
        quotas: &mut Quotas,
        actor: Actor,
        path: &str,
        edit: &Edit,
    ) -> Result<(), Errno> {
        quotas.ask(actor, path, |allowance| {
            store.edit(actor, path, edit, allowance).map(drop)
        })
    }

    #[test]
    fn a_node_counts_name_value_permissions_and_overhead() {
        let limits = Limits::DEFAULT;
        let (mut s, mut q) = world(&limits);
        let (s, q) = (&mut s, &mut q);
        let home = NODE_OVERHEAD + 1 + 4;
        assert_eq!(
            s.usage_of(GUEST.domid),
            Usage {
                nodes: 1,
                bytes: home
            }
        );
        edit(s, q, GUEST, "/g/ab/cde", &write(7)).unwrap();
        let below = 2 * NODE_OVERHEAD + 5 + 7 + 2 * 4;
        let all = Usage {
            nodes: 3,
            bytes: home + below,
        };
        assert_eq!(s.usage_of(GUEST.domid), all);
        edit(s, q, GUEST, "/g/ab/cde", &write(2)).unwrap();
        assert_eq!(s.usage_of(GUEST.domid).bytes, all.bytes - 5);
        let listed = Arc::new(Perms::new(GUEST.domid, Access::None).and(DomId(7), Access::Read));
        edit(s, q, GUEST, "/g/ab", &Edit::SetPerms(listed)).unwrap();
        assert_eq!(s.usage_of(GUEST.domid).bytes, all.bytes - 5 + 4);
        edit(s, q, GUEST, "/g/ab", &Edit::Rm).unwrap();
        assert_eq!(
            s.usage_of(GUEST.domid),
            Usage {
                nodes: 1,
                bytes: home
            }
        );
        assert!(s.audit().is_empty());
        s.forget(GUEST.domid);
        assert_eq!(s.usage_of(GUEST.domid), Usage::default());
        assert!(s.audit().is_empty());
    }

    #[test]
    fn memory_is_a_quota_that_shrinking_and_dom0_do_not_meet() {
        let home = usize::try_from(NODE_OVERHEAD).unwrap() + 5;
        let limits = Limits {
            memory: u32::try_from(home + 10).unwrap(),
            ..Limits::DEFAULT
        };
        let (mut s, mut q) = world(&limits);
        let (s, q) = (&mut s, &mut q);
        edit(s, q, GUEST, "/g", &write(10)).unwrap();
        let full = s.usage_of(GUEST.domid);
        let refused = [("/g", write(11)), ("/g/a", Edit::Mkdir), ("/g/a", write(0))];
        for (path, what) in &refused {
            let answer = edit(s, q, GUEST, path, what);
            assert_eq!(answer, Err(Errno::ENOMEM));
        }
        let listed = Arc::new(Perms::new(GUEST.domid, Access::None).and(DomId(7), Access::Read));
        let answer = edit(s, q, GUEST, "/g", &Edit::SetPerms(listed));
        assert_eq!(answer, Err(Errno::ENOMEM));
        assert_eq!(s.usage_of(GUEST.domid), full);
        edit(s, q, DOM0, "/g", &write(50)).unwrap();
        edit(s, q, GUEST, "/g", &write(40)).unwrap();
        assert!(s.audit().is_empty());
    }
}
