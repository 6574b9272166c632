//! The tx ring's consumer.

use std::fmt;

use cantle_abi::DomId;
use cantle_abi::io::netif::{NETIF_RSP_ERROR, NETIF_RSP_NULL, NetifTxRequest, NetifTxResponse};
use cantle_abi::ring::{BackRing, RingBroken};
use cantle_grant::{GrantMapper, Mapping};

use super::assemble::{Answer, Assembler, Fault, Step};
use super::batch::{Batch, Outcome};
use crate::stats::Direction;
use cantle_netport::NetPort;

/// Takes packets off a tx ring and gives them to a port.
pub(crate) struct TxQueue {
    ring: BackRing<NetifTxRequest, NetifTxResponse, Mapping>,
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

/// What a pass over a ring ended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pass {
    /// The front end wants to be notified.
    pub(crate) notify: bool,
    /// There is more to do at once.
    pub(crate) more: bool,
}

impl TxQueue {
    pub(crate) fn new(ring: BackRing<NetifTxRequest, NetifTxResponse, Mapping>) -> Self {
        Self {
            ring,
            assembler: Assembler::new(),
            batch: Batch::new(),
            answers: Vec::new(),
            ends: Vec::new(),
            faults: 0,
        }
    }

    /// Takes what the ring has, as many slots as it is long at most.
    pub(crate) fn process(
        &mut self,
        mapper: &dyn GrantMapper,
        granter: DomId,
        port: &mut dyn NetPort,
        stats: &Direction,
    ) -> Result<Pass, RingBroken> {
        let mut budget = self.ring.slots();
        let mut notify = false;
        loop {
            let drained = self.gather(&mut budget, stats)?;
            self.batch.send(mapper, granter, port);
            self.answer(stats)?;
            notify |= self.ring.publish_responses();
            if budget == 0 || drained {
                // Asks to be told of the next one, unless there already is one.
                let more = self.ring.final_check_for_requests();
                if budget == 0 || !more {
                    return Ok(Pass { notify, more });
                }
            }
        }
    }

    /// Fills the batch; true where the ring is empty.
    fn gather(&mut self, budget: &mut u32, stats: &Direction) -> Result<bool, RingBroken> {
        self.batch.clear();
        self.answers.clear();
        self.ends.clear();
        while !self.batch.is_full() && *budget > 0 {
            let Some(slot) = self.ring.next_request()? else {
                return Ok(true);
            };
            *budget -= 1;
            match self.assembler.feed(&slot) {
                Step::More => {}
                Step::Whole => {
                    self.batch.push(&self.assembler.packet());
                    self.answers.extend_from_slice(self.assembler.answers());
                    self.ends.push(self.answers.len());
                }
                Step::Refused(fault) => {
                    respond(&mut self.ring, self.assembler.answers(), NETIF_RSP_ERROR)?;
                    self.complain(fault, stats);
                }
            }
        }
        Ok(false)
    }

    /// Answers the batch's packets.
    fn answer(&mut self, stats: &Direction) -> Result<(), RingBroken> {
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

    fn complain(&mut self, fault: Fault, stats: &Direction) {
        stats.count_error();
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
