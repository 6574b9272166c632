//! A switch as one would write it who has all the time in the world: one frame after the other, one table, no batches.

use std::collections::BTreeMap;

use cantle_netport::{Checksum, Offload};
use cantle_switch::test_utils::Owned;
use cantle_switch::{Limit, MacAddr, PortOptions, VlanId, Vlans};

pub(crate) type PortNumber = usize;

#[derive(Debug, Clone, Default)]
pub(crate) struct Copies {
    pub(crate) received: Vec<PortNumber>,
    pub(crate) sent: Vec<PortNumber>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Counts {
    pub(crate) dropped: BTreeMap<String, u64>,
    pub(crate) rx: (u64, u64),
    pub(crate) tx: (u64, u64),
    pub(crate) learning: (u64, u64, u64),
}

#[derive(Debug)]
struct Port {
    there: bool,
    options: PortOptions,
    copies: Option<Copies>,
    got: Vec<Owned>,
    counts: Counts,
    /// Tokens and when they were counted: broadcast, multicast, unknown.
    buckets: [Option<(u64, u64)>; 3],
}

#[derive(Debug, Clone, Copy)]
struct Known {
    port: PortNumber,
    seen: u64,
    fixed: bool,
    moved: (u64, u32),
}

#[derive(Debug, Default)]
pub(crate) struct Plain {
    pub(crate) now: u64,
    capacity: usize,
    age: u64,
    moves_max: u32,
    ports: Vec<Port>,
    table: BTreeMap<(VlanId, MacAddr), Known>,
}

fn is_tag(kind: [u8; 2]) -> bool {
    [[0x81, 0x00], [0x88, 0xa8], [0x91, 0x00]].contains(&kind)
}

fn kind_at(bytes: &[u8], at: usize) -> Option<[u8; 2]> {
    bytes.get(at..at + 2)?.try_into().ok()
}

/// Its VLAN and whether it leaves with a tag; `None` where it does not.
fn leaves(vlans: &Vlans, vlan: VlanId) -> Option<bool> {
    match vlans {
        Vlans::Access(own) => (*own == vlan).then_some(false),
        Vlans::Trunk {
            native: Some(native),
            ..
        } if *native == vlan => Some(false),
        Vlans::Trunk { allowed, .. } => allowed.contains(vlan).then_some(true),
    }
}

fn shifted(offload: Offload, by: i32, least: u16) -> Option<Offload> {
    let shift = |at: u16| {
        if at < least {
            return None;
        }
        u16::try_from(i32::from(at) + by).ok()
    };
    let mut offload = offload;
    if let Checksum::Blank { start, offset } = offload.checksum {
        offload.checksum = Checksum::Blank {
            start: shift(start)?,
            offset,
        };
    }
    if let Some(gso) = &mut offload.gso
        && gso.header_len != 0
    {
        gso.header_len = shift(gso.header_len)?;
    }
    Some(offload)
}

/// The frame as it leaves; `None` where it may not leave so.
fn retagged(frame: &Owned, vlan: VlanId, tagged: bool) -> Option<Owned> {
    let mut bytes = frame.bytes.clone();
    let mut offload = frame.offload;
    if kind_at(&bytes, 12) == Some([0x81, 0]) {
        let tci = u16::from_be_bytes(kind_at(&bytes, 14)?);
        if tagged {
            let tci = tci & 0xf000 | vlan.number();
            bytes[14..16].copy_from_slice(&tci.to_be_bytes());
        } else {
            if is_tag(kind_at(&bytes, 16)?) {
                return None;
            }
            bytes.drain(12..16);
            offload = shifted(offload, -4, 18)?;
        }
    } else if tagged {
        let [a, b] = vlan.number().to_be_bytes();
        bytes.splice(12..12, [0x81, 0, a, b]);
        offload = shifted(offload, 4, 14)?;
    }
    Some(Owned { bytes, offload })
}

impl Plain {
    pub(crate) fn new(capacity: usize, age: u64, moves_max: u32) -> Self {
        Self {
            capacity,
            age,
            moves_max,
            ..Self::default()
        }
    }

    pub(crate) fn add(&mut self, options: PortOptions, copies: Option<Copies>) -> PortNumber {
        self.ports.push(Port {
            there: true,
            options,
            copies,
            got: Vec::new(),
            counts: Counts::default(),
            buckets: [None; 3],
        });
        self.ports.len() - 1
    }

    pub(crate) fn change(
        &mut self,
        number: PortNumber,
        options: PortOptions,
        copies: Option<Copies>,
    ) -> bool {
        let port = &mut self.ports[number];
        if !port.there {
            return false;
        }
        let afresh = port.options.vlans != options.vlans
            || port.options.learn != options.learn
            || port.copies.is_some() != copies.is_some();
        port.options = options;
        port.copies = copies;
        if afresh {
            self.forget(Some(number));
        }
        true
    }

    pub(crate) fn remove(&mut self, number: PortNumber) -> bool {
        self.table.retain(|_, known| known.port != number);
        std::mem::replace(&mut self.ports[number].there, false)
    }

    pub(crate) fn fix(&mut self, vlan: VlanId, mac: MacAddr, port: PortNumber) -> bool {
        let there = self.ports[port].there;
        if there {
            let known = Known {
                port,
                seen: 0,
                fixed: true,
                moved: (0, 0),
            };
            self.table.insert((vlan, mac), known);
        }
        there
    }

    pub(crate) fn unfix(&mut self, vlan: VlanId, mac: MacAddr) -> bool {
        let fixed = self
            .table
            .get(&(vlan, mac))
            .is_some_and(|known| known.fixed);
        if fixed {
            self.table.remove(&(vlan, mac));
        }
        fixed
    }

    pub(crate) fn forget(&mut self, of: Option<PortNumber>) {
        self.table
            .retain(|_, known| known.fixed || of.is_some_and(|of| of != known.port));
    }

    pub(crate) fn known(&mut self) -> Vec<(VlanId, MacAddr, PortNumber, Option<u64>)> {
        self.forget_old();
        let list = |((vlan, mac), known): (&(VlanId, MacAddr), &Known)| {
            (
                *vlan,
                *mac,
                known.port,
                (!known.fixed).then(|| self.now - known.seen),
            )
        };
        self.table.iter().map(list).collect()
    }

    pub(crate) fn take(&mut self, number: PortNumber) -> (Vec<Owned>, bool, Counts) {
        let port = &mut self.ports[number];
        (
            std::mem::take(&mut port.got),
            port.copies.is_some(),
            port.counts.clone(),
        )
    }

    /// Forgets the old; those that a frame was to come back to as well.
    fn forget_old(&mut self) {
        let (now, age) = (self.now, self.age);
        self.table
            .retain(|_, known| known.fixed || now - known.seen <= age);
    }

    fn drop(&mut self, at: PortNumber, reason: &str) {
        *self.ports[at]
            .counts
            .dropped
            .entry(reason.to_owned())
            .or_default() += 1;
    }

    fn give(&mut self, to: PortNumber, frame: &Owned) {
        let port = &mut self.ports[to];
        port.counts.tx.0 += 1;
        port.counts.tx.1 += frame.bytes.len() as u64;
        port.got.push(frame.clone());
    }

    fn watchers(&self, of: impl Fn(&Copies) -> bool) -> Vec<PortNumber> {
        let watches =
            |(_, port): &(usize, &Port)| port.there && port.copies.as_ref().is_some_and(&of);
        self.ports
            .iter()
            .enumerate()
            .filter(watches)
            .map(|(at, _)| at)
            .collect()
    }

    /// Sends a frame; whether it was taken.
    pub(crate) fn send(&mut self, from: PortNumber, frame: &Owned) -> bool {
        self.forget_old();
        self.ports[from].counts.rx.0 += 1;
        self.ports[from].counts.rx.1 += frame.bytes.len() as u64;
        if !self.ports[from].there {
            self.drop(from, "NotForwarding");
            return false;
        }
        for to in self.watchers(|copies| copies.received.contains(&from)) {
            self.give(to, frame);
        }
        match self.route(from, frame) {
            Err(reason) => {
                self.drop(from, reason);
                false
            }
            Ok((vlan, Some(to))) => self.leave(to, vlan, frame),
            Ok((vlan, None)) => {
                let destination = MacAddr(frame.bytes[..6].try_into().expect("checked"));
                let unknown = !destination.is_multicast();
                for to in 0..self.ports.len() {
                    let port = &self.ports[to];
                    let apart = port.options.isolated && self.ports[from].options.isolated;
                    let wants = port.options.flood_unknown || !unknown;
                    let member =
                        leaves(&port.options.vlans, vlan).is_some() && port.copies.is_none();
                    if to != from && port.there && !apart && wants && member {
                        self.leave(to, vlan, frame);
                    }
                }
                true
            }
        }
    }

    fn leave(&mut self, to: PortNumber, vlan: VlanId, frame: &Owned) -> bool {
        let tagged = leaves(&self.ports[to].options.vlans, vlan);
        let tagged = tagged.filter(|_| self.ports[to].copies.is_none());
        let Some(tagged) = tagged else {
            self.drop(to, "EgressVlan");
            return false;
        };
        let Some(frame) = retagged(frame, vlan, tagged) else {
            self.drop(to, "EgressTag");
            return false;
        };
        self.give(to, &frame);
        for watcher in self.watchers(|copies| copies.sent.contains(&to)) {
            self.give(watcher, &frame);
        }
        true
    }

    /// Its VLAN, and the port it goes to; `None` for all.
    fn route(
        &mut self,
        from: PortNumber,
        frame: &Owned,
    ) -> Result<(VlanId, Option<PortNumber>), &'static str> {
        let bytes = &frame.bytes;
        let options = self.ports[from].options.clone();
        let blank_fits = match frame.offload.checksum {
            Checksum::Blank { start, offset } => {
                usize::from(start) + usize::from(offset) + 2 <= bytes.len()
            }
            _ => true,
        };
        let gso_fits = frame
            .offload
            .gso
            .is_none_or(|gso| gso.size > 0 && usize::from(gso.header_len) <= bytes.len());
        let first = kind_at(bytes, 12).ok_or("Malformed")?;
        let tagged = first == [0x81, 0];
        if !blank_fits || !gso_fits || (tagged && bytes.len() < 18) {
            return Err("Malformed");
        }
        let destination = MacAddr(bytes[..6].try_into().expect("checked"));
        let source = MacAddr(bytes[6..12].try_into().expect("checked"));
        if source.is_multicast() || source.0 == [0; 6] {
            return Err("BadSource");
        }
        if bytes[..5] == [1, 0x80, 0xc2, 0, 0] && bytes[5] < 16 {
            return Err("LinkLocal");
        }
        if self.ports[from].copies.is_some() {
            return Err("NotForwarding");
        }
        let vlan = self.vlan(&options.vlans, bytes).ok_or("Vlan")?;
        if let Some(filter) = &options.filter {
            // Behind two tags there is what there is.
            let mut at = 12;
            for _ in 0..2 {
                at += if kind_at(bytes, at).is_some_and(is_tag) {
                    4
                } else {
                    0
                };
            }
            let known = kind_at(bytes, at).is_some_and(|kind| !is_tag(kind));
            if !known
                || !filter
                    .macs
                    .as_ref()
                    .is_some_and(|macs| macs.contains(&source))
            {
                return Err("Spoofed");
            }
        }
        self.learn(from, vlan, source)?;
        let (kind, limit, reason) = if destination.is_broadcast() {
            (0, options.limits.broadcast, "BroadcastLimit")
        } else if destination.is_multicast() {
            (1, options.limits.multicast, "MulticastLimit")
        } else if let Some(known) = self.table.get(&(vlan, destination)) {
            if known.port == from {
                return Err("SamePort");
            }
            if options.isolated && self.ports[known.port].options.isolated {
                return Err("Isolated");
            }
            return Ok((vlan, Some(known.port)));
        } else {
            (2, options.limits.unknown, "UnknownLimit")
        };
        match limit {
            Some(limit) if !self.token(from, kind, limit) => Err(reason),
            _ => Ok((vlan, None)),
        }
    }

    fn vlan(&self, vlans: &Vlans, bytes: &[u8]) -> Option<VlanId> {
        let untagged = match vlans {
            Vlans::Access(vlan) => Some(*vlan),
            Vlans::Trunk { native, .. } => *native,
        };
        let kind = kind_at(bytes, 12)?;
        if kind != [0x81, 0] {
            return untagged.filter(|_| !is_tag(kind));
        }
        match u16::from_be_bytes(kind_at(bytes, 14)?) & 0xfff {
            0 => untagged.filter(|_| !kind_at(bytes, 16).is_some_and(is_tag)),
            number => {
                let vlan = VlanId::new(number)?;
                let trunk = matches!(vlans, Vlans::Trunk { .. });
                (trunk && leaves(vlans, vlan).is_some()).then_some(vlan)
            }
        }
    }

    fn token(&mut self, from: PortNumber, kind: usize, limit: Limit) -> bool {
        let burst = u64::from(limit.burst);
        let bucket = &mut self.ports[from].buckets[kind];
        let (tokens, at) = bucket.unwrap_or((burst, self.now));
        let tokens = burst.min(tokens + (self.now - at) * u64::from(limit.per_second));
        *bucket = Some((tokens.saturating_sub(1), self.now));
        tokens > 0
    }

    fn learn(
        &mut self,
        from: PortNumber,
        vlan: VlanId,
        source: MacAddr,
    ) -> Result<(), &'static str> {
        let behind = self
            .table
            .values()
            .filter(|known| !known.fixed && known.port == from)
            .count();
        let all = self.table.values().filter(|known| !known.fixed).count();
        let port = &mut self.ports[from];
        let room = behind < port.options.addresses_max;
        let learning = &mut port.counts.learning;
        match self.table.get_mut(&(vlan, source)) {
            Some(known) if known.fixed && known.port != from => return Err("StaticElsewhere"),
            Some(known) if known.fixed || !port.options.learn => {
                let _ = known;
            }
            Some(known) if known.port == from => known.seen = self.now,
            _ if !port.options.learn => {}
            Some(_) if !room => learning.2 += 1,
            Some(known) => {
                let moves = if known.moved.0 == self.now {
                    known.moved.1
                } else {
                    0
                };
                if moves >= self.moves_max {
                    learning.1 += 1;
                } else {
                    let moved = (self.now, moves + 1);
                    *known = Known {
                        port: from,
                        seen: self.now,
                        fixed: false,
                        moved,
                    };
                    learning.0 += 1;
                }
            }
            None if !room || all >= self.capacity => learning.2 += 1,
            None => {
                let known = Known {
                    port: from,
                    seen: self.now,
                    fixed: false,
                    moved: (0, 0),
                };
                self.table.insert((vlan, source), known);
            }
        }
        Ok(())
    }
}
