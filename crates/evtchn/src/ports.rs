//! Which of a domain's ports are in use.

use std::collections::VecDeque;

use cantle_abi::Port;

/// Closed ports looked at in one call to see whether the guest has taken them off its queue.
const LOOKS: usize = 4;
/// The same where no other port is free.
const LOOKS_AT_LAST: usize = 256;

/// Which ports are in use: a bit each. A port that is closed while it is still on one of the guest's queues rests: its number
/// is not used again before the guest has taken it off, as in Xen.
pub(crate) struct PortSet {
    /// In use, or resting.
    words: Box<[u64]>,
    ports: u32,
    used: u32,
    /// No port below is free.
    hint: u32,
    /// No word from here on was ever used.
    top: usize,
    resting: VecDeque<Port>,
}

impl PortSet {
    /// Ports 1 to `ports - 1` are free.
    pub(crate) fn new(ports: u32) -> Self {
        Self {
            words: (0..ports.div_ceil(64)).map(|_| 0).collect(),
            ports,
            used: 0,
            hint: 1,
            top: 0,
            resting: VecDeque::new(),
        }
    }

    /// Takes the lowest free port below `limit`, as Xen does. `linked` tells whether a port is on a queue still.
    pub(crate) fn take(&mut self, limit: u32, linked: impl Fn(Port) -> bool) -> Option<Port> {
        self.wake(LOOKS, &linked);
        let found = self.find(limit).or_else(|| {
            self.wake(LOOKS_AT_LAST, &linked);
            self.find(limit)
        })?;
        self.mark(found);
        self.hint = found.0 + 1;
        self.used += 1;
        Some(found)
    }

    fn find(&self, limit: u32) -> Option<Port> {
        let first = usize::try_from(self.hint / 64).ok()?;
        for (n, word) in self.words.iter().enumerate().skip(first) {
            let reserved = u64::from(n == 0);
            let free = !(*word | reserved);
            if free == 0 {
                continue;
            }
            let port = u32::try_from(n).ok()? * 64 + free.trailing_zeros();
            return (port < self.ports.min(limit)).then_some(Port(port));
        }
        None
    }

    /// Frees ports that are on no queue any more, of the `looks` that rest longest.
    fn wake(&mut self, looks: usize, linked: impl Fn(Port) -> bool) {
        for _ in 0..looks.min(self.resting.len()) {
            let Some(port) = self.resting.pop_front() else {
                return;
            };
            if linked(port) {
                self.resting.push_back(port);
            } else {
                self.clear(port);
            }
        }
    }

    /// Gives a port back; it rests where it is on a queue.
    pub(crate) fn release(&mut self, port: Port, linked: bool) {
        if !self.contains(port) {
            return;
        }
        self.used -= 1;
        if linked {
            self.resting.push_back(port);
        } else {
            self.clear(port);
        }
    }

    /// Takes a port that is free, whatever its number.
    pub(crate) fn take_this(&mut self, port: Port) {
        if port.0 < self.ports && !self.contains(port) {
            self.mark(port);
            self.used += 1;
        }
    }

    /// Closed ports that are still on a queue.
    pub(crate) fn resting(&self) -> impl Iterator<Item = Port> {
        self.resting.iter().copied()
    }

    /// Nothing rests any more: there are no queues now.
    pub(crate) fn wake_all(&mut self) {
        self.wake(self.resting.len(), |_| false);
        self.resting.shrink_to_fit();
    }

    pub(crate) fn used(&self) -> u32 {
        self.used
    }

    /// The ports in use (and those that rest), from the lowest.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Port> {
        let words = self.words.iter().take(self.top);
        (0u32..).zip(words).flat_map(|(n, &word)| {
            (0..64)
                .filter(move |bit| word & (1 << bit) != 0)
                .map(move |bit| Port(n * 64 + bit))
        })
    }

    fn contains(&self, port: Port) -> bool {
        let word = usize::try_from(port.0 / 64)
            .ok()
            .and_then(|n| self.words.get(n));
        word.is_some_and(|word| word & (1 << (port.0 % 64)) != 0)
    }

    fn mark(&mut self, port: Port) {
        if let Some(word) = self.word(port) {
            *word |= 1 << (port.0 % 64);
            self.top = self.top.max(port.0 as usize / 64 + 1);
        }
    }

    fn clear(&mut self, port: Port) {
        if let Some(word) = self.word(port) {
            *word &= !(1 << (port.0 % 64));
            self.hint = self.hint.min(port.0);
        }
    }

    fn word(&mut self, port: Port) -> Option<&mut u64> {
        self.words.get_mut(usize::try_from(port.0 / 64).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(set: &mut PortSet) -> Option<Port> {
        set.take(u32::MAX, |_| false)
    }

    #[test]
    fn ports_are_taken_from_the_lowest_and_never_0() {
        let mut set = PortSet::new(130);
        for port in 1..130 {
            assert_eq!(take(&mut set), Some(Port(port)));
        }
        assert_eq!(take(&mut set), None);
        for port in [129, 64, 3, 3] {
            set.release(Port(port), false);
        }
        assert_eq!(set.used(), 126);
        assert_eq!(set.take(3, |_| false), None, "only those below the limit");
        assert_eq!(take(&mut set), Some(Port(3)));
        assert_eq!(take(&mut set), Some(Port(64)));
        assert_eq!(take(&mut set), Some(Port(129)));
        assert_eq!(take(&mut set), None);
        assert_eq!(set.iter().last(), Some(Port(129)));
        assert_eq!(set.iter().next(), Some(Port(1)));
    }

    #[test]
    fn a_port_rests_as_long_as_it_is_linked() {
        let mut set = PortSet::new(4);
        for _ in 0..3 {
            take(&mut set).unwrap();
        }
        set.release(Port(1), true);
        set.release(Port(2), true);
        assert_eq!(set.used(), 1);
        assert_eq!(set.take(4, |_| true), None);
        assert_eq!(set.take(4, |port| port == Port(1)), Some(Port(2)));
        assert_eq!(set.take(4, |_| true), None);
        set.wake_all();
        assert_eq!(set.take(4, |_| true), Some(Port(1)));
        assert_eq!(take(&mut set), None);
        assert_eq!(set.used(), 3);
    }
}
