//! Where a port is delivered: vCPU and priority, those it was last put on a queue by, and two marks, in one word.

use cantle_abi::VcpuId;
use cantle_abi::event_channel::EVTCHN_FIFO_PRIORITY_DEFAULT;

/// More vCPUs than any guest has (Xen's `HVM_MAX_VCPUS` is 128): what the ten bits here hold.
pub(crate) const MAX_VCPUS: u32 = 1 << 10;

/// A vCPU's queue of one priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Queue {
    vcpu: u16,
    priority: u8,
}

impl Queue {
    const BITS: u32 = 14;

    pub(crate) fn vcpu(self) -> VcpuId {
        VcpuId(self.vcpu.into())
    }

    pub(crate) fn priority(self) -> u32 {
        self.priority.into()
    }

    pub(crate) fn index(self) -> usize {
        self.vcpu.into()
    }

    /// `None` where there is no such vCPU or priority.
    pub(crate) fn on(self, vcpu: VcpuId) -> Option<Self> {
        let vcpu = u16::try_from(vcpu.0)
            .ok()
            .filter(|n| u32::from(*n) < MAX_VCPUS)?;
        Some(Self { vcpu, ..self })
    }

    /// As [`on`](Self::on).
    pub(crate) fn at(self, priority: u32) -> Option<Self> {
        let priority = u8::try_from(priority).ok().filter(|n| *n < 16)?;
        Some(Self { priority, ..self })
    }

    fn bits(self) -> u32 {
        u32::from(self.vcpu) << 4 | u32::from(self.priority)
    }

    #[expect(clippy::cast_possible_truncation, reason = "ten and four bits")]
    fn of(bits: u32) -> Self {
        Self {
            vcpu: (bits >> 4) as u16 & 0x3ff,
            priority: bits as u8 & 15,
        }
    }
}

/// All that a slot keeps beside its binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Where the next event goes.
    pub(crate) queue: Queue,
    /// Where the port was put last. Stays when the port is closed: the guest may not have taken it off yet.
    pub(crate) last: Queue,
    /// An event came when there was no event word for it yet.
    pub(crate) waiting: bool,
    /// The host made the port for the guest.
    pub(crate) given: bool,
}

impl Place {
    const WAITING: u32 = 1 << (2 * Queue::BITS);
    const GIVEN: u32 = 2 * Self::WAITING;

    /// Where ports begin: vCPU 0, the default priority.
    pub(crate) fn start() -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "it is 7")]
        let queue = Queue {
            vcpu: 0,
            priority: EVTCHN_FIFO_PRIORITY_DEFAULT as u8,
        };
        Self {
            queue,
            last: queue,
            waiting: false,
            given: false,
        }
    }

    pub(crate) fn bits(self) -> u32 {
        let mark = |set, bit| if set { bit } else { 0 };
        self.queue.bits()
            | self.last.bits() << Queue::BITS
            | mark(self.waiting, Self::WAITING)
            | mark(self.given, Self::GIVEN)
    }

    pub(crate) fn of(bits: u32) -> Self {
        Self {
            queue: Queue::of(bits),
            last: Queue::of(bits >> Queue::BITS),
            waiting: bits & Self::WAITING != 0,
            given: bits & Self::GIVEN != 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_has_its_own_bits() {
        let start = Place::start();
        assert_eq!(Place::of(start.bits()), start);
        let queue = start.queue.on(VcpuId(1023)).and_then(|q| q.at(15)).unwrap();
        let last = start.last.on(VcpuId(512)).and_then(|q| q.at(1)).unwrap();
        for (waiting, given) in [(false, true), (true, false)] {
            for place in [
                Place {
                    queue,
                    waiting,
                    given,
                    ..start
                },
                Place {
                    last,
                    waiting,
                    given,
                    ..start
                },
            ] {
                assert_eq!(Place::of(place.bits()), place);
            }
        }
        assert!(start.queue.on(VcpuId(1024)).is_none() && start.queue.at(16).is_none());
    }
}
