//! VLANs: their numbers, sets of them, and a port's part in them.

use std::fmt;

/// The number of a VLAN: 1 to 4094.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VlanId(u16);

impl VlanId {
    /// What a port is in where nothing else is said.
    pub const DEFAULT: Self = Self(1);

    /// `None` for 0 (which says "no VLAN, only a priority"), 4095 (reserved), and what has more than 12 bits.
    #[must_use]
    pub const fn new(number: u16) -> Option<Self> {
        match number {
            1..=4094 => Some(Self(number)),
            _ => None,
        }
    }

    /// The number.
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0
    }
}

impl fmt::Display for VlanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for VlanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A set of VLANs.
#[derive(Clone, PartialEq, Eq)]
pub struct VlanSet(Box<[u64; 64]>);

impl VlanSet {
    /// None.
    #[must_use]
    pub fn none() -> Self {
        Self(Box::new([0; 64]))
    }

    /// Each, 1 to 4094.
    #[must_use]
    pub fn all() -> Self {
        (1..=4094).filter_map(VlanId::new).collect()
    }

    /// Adds one.
    pub fn insert(&mut self, vlan: VlanId) {
        if let Some(word) = self.0.get_mut(usize::from(vlan.0 / 64)) {
            *word |= 1 << (vlan.0 % 64);
        }
    }

    /// Whether it is in the set.
    #[must_use]
    pub fn contains(&self, vlan: VlanId) -> bool {
        let word = self.0.get(usize::from(vlan.0 / 64));
        word.is_some_and(|word| word & (1 << (vlan.0 % 64)) != 0)
    }

    /// Those in the set, in order.
    pub fn iter(&self) -> impl Iterator<Item = VlanId> + '_ {
        (1..=4094)
            .filter_map(VlanId::new)
            .filter(|vlan| self.contains(*vlan))
    }
}

impl FromIterator<VlanId> for VlanSet {
    fn from_iter<I: IntoIterator<Item = VlanId>>(vlans: I) -> Self {
        let mut set = Self::none();
        vlans.into_iter().for_each(|vlan| set.insert(vlan));
        set
    }
}

impl fmt::Debug for VlanSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// A port's part in the VLANs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Vlans {
    /// In one, and knows nothing of it: its frames have no tag. One with a tag is dropped, unless the tag says a priority only
    /// (VLAN 0), which is taken off.
    Access(VlanId),
    /// In many, told apart by 802.1Q tags.
    Trunk {
        /// Those whose frames may pass with a tag.
        allowed: VlanSet,
        /// Where frames without a tag belong, and whose frames leave without one. Without it, such frames are dropped.
        native: Option<VlanId>,
    },
}

impl Default for Vlans {
    fn default() -> Self {
        Self::Access(VlanId::DEFAULT)
    }
}

/// How a VLAN's frames leave by a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Egress {
    Untagged,
    Tagged,
}

impl Vlans {
    /// Where a frame without a tag, or with only a priority in it, belongs.
    pub(crate) fn untagged(&self) -> Option<VlanId> {
        match self {
            Self::Access(vlan) => Some(*vlan),
            Self::Trunk { native, .. } => *native,
        }
    }

    /// Whether a frame with that VLAN's tag may come in.
    pub(crate) fn takes_tagged(&self, vlan: VlanId) -> bool {
        match self {
            Self::Access(_) => false,
            Self::Trunk { allowed, native } => allowed.contains(vlan) || *native == Some(vlan),
        }
    }

    /// How the VLAN's frames leave, if at all.
    pub(crate) fn egress(&self, vlan: VlanId) -> Option<Egress> {
        match self {
            _ if self.untagged() == Some(vlan) => Some(Egress::Untagged),
            Self::Trunk { allowed, .. } if allowed.contains(vlan) => Some(Egress::Tagged),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_what_was_put_in() {
        let set: VlanSet = [1, 63, 64, 4094]
            .into_iter()
            .filter_map(VlanId::new)
            .collect();
        let inside: Vec<u16> = set.iter().map(VlanId::number).collect();
        assert_eq!(inside, [1, 63, 64, 4094]);
        assert_eq!(VlanSet::all().iter().count(), 4094);
        assert_eq!((VlanId::new(0), VlanId::new(4095)), (None, None));
    }
}
