//! Who is mentioned below a node, roughly; and the renaming of those who are.

use std::sync::Arc;

use cantle_abi::DomId;

use crate::Perms;

/// A set of domains, with false positives: domain `n` is bit `n` modulo 64. Domain numbers are given one after another, so
/// they spread as evenly as any hash would spread them.
///
/// Each directory has one that covers the permissions of all that is below it, so that the end of a domain costs about
/// what the domain had, and not a walk through the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mentions(u64);

impl Mentions {
    pub(crate) fn of(perms: &Perms) -> Self {
        Self(mentioned(perms).fold(0, |bits, domain| bits | Self::bit(domain)))
    }

    const fn bit(domain: DomId) -> u64 {
        1 << (domain.0 % 64)
    }

    /// `false` is certain.
    pub(crate) const fn may_contain(self, domain: DomId) -> bool {
        self.0 & Self::bit(domain) != 0
    }

    pub(crate) const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The domains that a node's permissions name.
pub(crate) fn mentioned(perms: &Perms) -> impl Iterator<Item = DomId> {
    core::iter::once(perms.owner).chain(perms.listed.iter().map(|(domain, _)| *domain))
}

/// Other domains in the place of those that a subtree mentions: what makes one subtree serve for a domain and its clones.
///
/// It names *every* domain that the subtree mentions, also those that stay themselves. So a renaming upon a renaming is one
/// of the same length, however long the chain of clones is, and [`Mentions`] can be renamed too.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Renaming(Box<[(DomId, DomId)]>);

impl Renaming {
    /// `to` is asked once for each of the domains that are mentioned; `None` where all stay themselves.
    pub(crate) fn new(
        mentioned: impl IntoIterator<Item = DomId>,
        to: impl Fn(DomId) -> DomId,
    ) -> Option<Arc<Self>> {
        let mut pairs: Vec<_> = mentioned
            .into_iter()
            .map(|domain| (domain, to(domain)))
            .collect();
        pairs.sort_unstable_by_key(|(from, _)| *from);
        pairs.dedup();
        let same = pairs.iter().all(|(from, to)| from == to);
        (!same).then(|| Arc::new(Self(pairs.into())))
    }

    /// One that does what this does, and then what `outer` does.
    pub(crate) fn then(self: &Arc<Self>, outer: Option<&Arc<Self>>) -> Arc<Self> {
        let Some(outer) = outer else {
            return Arc::clone(self);
        };
        let pairs = self.0.iter().map(|(from, to)| (*from, outer.domain(*to)));
        Arc::new(Self(pairs.collect()))
    }

    fn domain(&self, domain: DomId) -> DomId {
        self.0
            .binary_search_by_key(&domain, |(from, _)| *from)
            .ok()
            .and_then(|at| self.0.get(at))
            .map_or(domain, |(_, to)| *to)
    }

    pub(crate) fn perms(&self, perms: &Arc<Perms>) -> Arc<Perms> {
        if mentioned(perms).all(|domain| self.domain(domain) == domain) {
            return Arc::clone(perms);
        }
        let listed = perms.listed.iter();
        Arc::new(Perms {
            owner: self.domain(perms.owner),
            others: perms.others,
            listed: listed
                .map(|(domain, access)| (self.domain(*domain), *access))
                .collect(),
        })
    }

    pub(crate) fn mentions(&self, before: Mentions) -> Mentions {
        let there = self.0.iter().filter(|(from, _)| before.may_contain(*from));
        Mentions(there.fold(0, |bits, (_, to)| bits | Mentions::bit(*to)))
    }
}
