//! The tx ring's consumer.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use cantle_abi::io::netif::{
    NETIF_RSP_DROPPED, NETIF_RSP_ERROR, NETIF_RSP_NULL, NETIF_RSP_OKAY, NetifTxRequest,
    NetifTxResponse,
};
use cantle_abi::ring::{BackRing, RingBroken};
use cantle_grant::Mapping;
use cantle_netport::NetPort;

use super::assemble::{Answer, Assembler, Extras, Fault, Step};
use super::batch::{Batch, Outcome};
use crate::control::StaticGrants;
use crate::pass::Pass;
use crate::shared::Shared;

/// Takes packets off a tx ring and gives them to a port.
pub(crate) struct TxQueue {
    ring: BackRing<NetifTxRequest, NetifTxResponse, Mapping>,
    shared: Arc<Shared>,
    statics: Arc<StaticGrants>,
    assembler: Assembler,
    batch: Batch,
    /// The answers of the batch's packets, one after another, and where each packet's end.
    answers: Vec<Answer>,
    ends: Vec<usize>,
    faults: u64,
}

impl fmt::Debug for TxQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TxQueue")
            .field("ring", &self.ring)
            .field("faults", &self.faults)
            .finish_non_exhaustive()
    }
}

/// Why no more slots are taken for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    /// The batch is full, or the budget used up.
    Full,
    /// The ring has no more.
    Drained,
    /// The guest has sent what it may, until then.
    Spent(Instant),
}

impl TxQueue {
    pub(crate) fn new(
        ring: BackRing<NetifTxRequest, NetifTxResponse, Mapping>,
        shared: Arc<Shared>,
        statics: Arc<StaticGrants>,
    ) -> Self {
        let extras = Extras {
            multicast: shared.options.multicast_control,
            hash: shared.options.control_ring,
        };
        Self {
            ring,
            shared,
            statics,
            assembler: Assembler::accepting(extras),
            batch: Batch::new(),
            answers: Vec::new(),
            ends: Vec::new(),
            faults: 0,
        }
    }

    /// Takes what the ring has, as many slots as it is long at most.
    pub(crate) fn process(
        &mut self,
        port: &mut dyn NetPort,
        now: Instant,
    ) -> Result<Pass, RingBroken> {
        let mut budget = self.ring.slots();
        let mut pass = Pass::default();
        loop {
            let rest = self.gather(&mut budget, now)?;
            if self.shared.link() {
                self.batch.send(&self.shared, &self.statics, port);
                self.answer()?;
            } else {
                self.drop_all()?;
            }
            pass.notify |= self.ring.publish_responses();
            if let Rest::Spent(when) = rest {
                // What waits in the ring is found then: the front end need not say so.
                pass.wake_at(when);
                return Ok(pass);
            }
            if budget == 0 || rest == Rest::Drained {
                // Asks to be told of the next one, unless there already is one.
                pass.more = self.ring.final_check_for_requests();
                if budget == 0 || !pass.more {
                    return Ok(pass);
                }
            }
        }
    }

    /// Fills the batch.
    fn gather(&mut self, budget: &mut u32, now: Instant) -> Result<Rest, RingBroken> {
        self.batch.clear();
        self.answers.clear();
        self.ends.clear();
        while !self.batch.is_full() && *budget > 0 {
            if self.assembler.is_between()
                && let Err(when) = self.shared.tx_credit.ready(now)
            {
                return Ok(Rest::Spent(when));
            }
            let Some(slot) = self.ring.next_request()? else {
                return Ok(Rest::Drained);
            };
            *budget -= 1;
            match self.assembler.feed(&slot) {
                Step::More => {}
                Step::Whole => self.whole(now)?,
                Step::Refused(fault) => {
                    respond(&mut self.ring, self.assembler.answers(), NETIF_RSP_ERROR)?;
                    self.complain(fault);
                }
            }
        }
        Ok(Rest::Full)
    }

    /// Takes a whole packet into the batch, or does what it is for.
    fn whole(&mut self, now: Instant) -> Result<(), RingBroken> {
        let packet = self.assembler.packet();
        let Some(groups) = packet.multicast else {
            self.shared.tx_credit.spend(now, packet.len.into());
            self.batch.push(&packet);
            self.answers.extend_from_slice(self.assembler.answers());
            self.ends.push(self.answers.len());
            return Ok(());
        };
        // Such a packet is not sent: its slots are there to carry the extra info.
        let mut status = NETIF_RSP_OKAY;
        if let Err(fault) = self.shared.multicast.amend(&groups) {
            status = NETIF_RSP_ERROR;
            tracing::debug!(%fault, "a multicast group is refused");
        }
        respond(&mut self.ring, self.assembler.answers(), status)
    }

    /// Answers the batch's packets.
    fn answer(&mut self) -> Result<(), RingBroken> {
        let stats = &self.shared.stats.tx;
        let (mut start, mut packets, mut bytes) = (0, 0, 0);
        let mut fault = None;
        for (outcome, &end) in self.batch.outcomes().zip(&self.ends) {
            let answers = self.answers.get(start..end).unwrap_or_default();
            start = end;
            respond(&mut self.ring, answers, outcome.status())?;
            match outcome {
                Outcome::Sent { len } => {
                    packets += 1;
                    bytes += u64::from(len);
                }
                Outcome::Dropped => stats.count_dropped(),
                Outcome::Refused(found) => {
                    stats.count_error();
                    self.faults += 1;
                    fault = Some(found);
                }
            }
        }
        stats.count(packets, bytes);
        if let Some(fault) = fault {
            self.log(fault);
        }
        Ok(())
    }

    /// Answers the batch's packets while the link is down: nobody looks at them.
    fn drop_all(&mut self) -> Result<(), RingBroken> {
        self.ends
            .iter()
            .for_each(|_| self.shared.stats.tx.count_dropped());
        respond(&mut self.ring, &self.answers, NETIF_RSP_DROPPED)
    }

    fn complain(&mut self, fault: Fault) {
        self.shared.stats.tx.count_error();
        self.faults += 1;
        self.log(fault);
    }

    /// A guest that sends nonsense for ever is logged ever more rarely.
    fn log(&self, fault: Fault) {
        if self.faults.is_power_of_two() {
            tracing::warn!(faults = self.faults, %fault, "packet refused");
        }
    }
}

/// A response for each slot: extra-info slots get one that says nothing.
fn respond(
    ring: &mut BackRing<NetifTxRequest, NetifTxResponse, Mapping>,
    answers: &[Answer],
    status: i16,
) -> Result<(), RingBroken> {
    for answer in answers {
        let response = match *answer {
            Some(id) => NetifTxResponse { id, status },
            None => NetifTxResponse {
                id: 0,
                status: NETIF_RSP_NULL,
            },
        };
        ring.push_response(&response)?;
    }
    Ok(())
}
