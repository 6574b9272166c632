//! The ports that there are and how each is to be: a picture that is replaced, never changed.

use std::sync::Arc;

use crate::PortOptions;
use crate::port::{Port, PortId};

/// A port in the picture.
#[derive(Clone, Debug)]
pub(crate) struct Attached {
    pub(crate) port: Arc<Port>,
    pub(crate) options: Arc<PortOptions>,
    /// What its owner's epoch was when the picture was made.
    pub(crate) epoch: u64,
    /// Slots of ports that receive copies of what it sends, and of what is sent to it.
    pub(crate) copies_received: Vec<usize>,
    pub(crate) copies_sent: Vec<usize>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Topology {
    pub(crate) generation: u64,
    /// Shared with the pictures before and after: one that a queue kept from long ago is small.
    slots: Vec<Option<Arc<Attached>>>,
}

impl Topology {
    pub(crate) fn get(&self, id: PortId) -> Option<&Attached> {
        self.slot(id.slot())
            .filter(|attached| attached.port.id == id)
    }

    pub(crate) fn slot(&self, slot: usize) -> Option<&Attached> {
        self.slots.get(slot)?.as_deref()
    }

    pub(crate) fn ports(&self) -> impl Iterator<Item = &Attached> {
        self.slots.iter().flatten().map(|attached| &**attached)
    }

    /// The first slot that is free, below `max`.
    pub(crate) fn free(&self, max: usize) -> Option<usize> {
        let free = self.slots.iter().position(Option::is_none);
        let slot = free.unwrap_or(self.slots.len());
        (slot < max).then_some(slot)
    }

    /// Puts a port in, or changes it, or takes it out.
    pub(crate) fn put(&mut self, slot: usize, attached: Option<Attached>) {
        if slot >= self.slots.len() {
            self.slots.resize(slot + 1, None);
        }
        if let Some(place) = self.slots.get_mut(slot) {
            *place = attached.map(Arc::new);
        }
        self.wire_mirrors();
    }

    /// Works out whose frames are copied to whom.
    fn wire_mirrors(&mut self) {
        let mut received = vec![Vec::new(); self.slots.len()];
        let mut sent = received.clone();
        for attached in self.ports() {
            let Some(mirror) = &attached.options.mirror else {
                continue;
            };
            for (of, copies) in [(&mirror.received, &mut received), (&mirror.sent, &mut sent)] {
                for id in of.iter().filter(|id| self.get(**id).is_some()) {
                    // A port that is named twice gives one copy.
                    if let Some(copies) = copies.get_mut(id.slot())
                        && copies.last() != Some(&attached.port.id.slot())
                    {
                        copies.push(attached.port.id.slot());
                    }
                }
            }
        }
        for ((slot, received), sent) in self.slots.iter_mut().zip(received).zip(sent) {
            if let Some(attached) = slot
                && (attached.copies_received != received || attached.copies_sent != sent)
            {
                let attached = Arc::make_mut(attached);
                attached.copies_received = received;
                attached.copies_sent = sent;
            }
        }
    }
}
