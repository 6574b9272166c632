//! The front end's side: produces requests, consumes responses.

use core::fmt;
use core::sync::atomic::Ordering;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::memory::{Index, Slots};
use super::{RingBroken, RingMemory, protocol};

/// A front end's view of a shared ring of requests `Q` and responses `S` over the memory `M`, in one piece or [`Paged`](super::Paged).
pub struct FrontRing<Q, S, M> {
    ring: Slots<Q, S, M>,
    /// The next request slot to fill; not yet visible to the back end.
    req_prod_pvt: u32,
    /// What the back end has been shown.
    req_prod: u32,
    /// The next response to take.
    rsp_cons: u32,
    /// The back end's producer index as last loaded and checked.
    rsp_prod: u32,
}

/// No slot is free: as many requests are in flight as the ring has slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingFull;

impl fmt::Display for RingFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the ring is full")
    }
}

impl core::error::Error for RingFull {}

impl<Q, S, M> FrontRing<Q, S, M>
where
    Q: IntoBytes + Immutable,
    S: FromBytes,
    M: RingMemory,
{
    /// Initialises the ring's header in memory that the back end does not have yet.
    ///
    /// # Errors
    ///
    /// [`RingBroken`] where not even one slot fits in the memory.
    pub fn init(memory: M) -> Result<Self, RingBroken> {
        let ring = Slots::new(memory).ok_or(RingBroken { prod: 0, cons: 0 })?;
        // Relaxed: the ring is handed over by other means (xenstore), which order these stores.
        ring.index(Index::ReqProd).store(0, Ordering::Relaxed);
        ring.index(Index::RspProd).store(0, Ordering::Relaxed);
        ring.index(Index::ReqEvent).store(1, Ordering::Relaxed);
        ring.index(Index::RspEvent).store(1, Ordering::Relaxed);
        Ok(Self {
            ring,
            req_prod_pvt: 0,
            req_prod: 0,
            rsp_cons: 0,
            rsp_prod: 0,
        })
    }

    /// Attaches to a ring that was in use before, with no request in flight: goes on at the producer indices found in it.
    ///
    /// # Errors
    ///
    /// [`RingBroken`] where a request is still unanswered (or the indices make no sense), or no slot fits in the memory.
    pub fn attach(memory: M) -> Result<Self, RingBroken> {
        let ring = Slots::new(memory).ok_or(RingBroken { prod: 0, cons: 0 })?;
        let prod = protocol::seen(ring.index(Index::ReqProd));
        let cons = protocol::seen(ring.index(Index::RspProd));
        if prod != cons {
            return Err(RingBroken { prod, cons });
        }
        Ok(Self {
            ring,
            req_prod_pvt: prod,
            req_prod: prod,
            rsp_cons: cons,
            rsp_prod: cons,
        })
    }

    /// How many slots the ring has.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.ring.count()
    }

    /// The memory under the ring.
    #[must_use]
    pub fn memory(&self) -> &M {
        self.ring.memory()
    }

    /// How many requests can be pushed now.
    #[must_use]
    pub fn free(&self) -> u32 {
        self.ring.count() - self.req_prod_pvt.wrapping_sub(self.rsp_cons)
    }

    /// Puts a request in the next slot. The back end sees it after [`publish_requests`](Self::publish_requests).
    ///
    /// # Errors
    ///
    /// [`RingFull`] where no slot is free.
    pub fn push_request(&mut self, request: &Q) -> Result<(), RingFull> {
        if self.free() == 0 {
            return Err(RingFull);
        }
        self.ring.write_request(self.req_prod_pvt, request);
        self.req_prod_pvt = self.req_prod_pvt.wrapping_add(1);
        Ok(())
    }

    /// Shows the requests pushed so far; true where the back end wants a notification. False where there are none.
    #[must_use = "the back end sleeps until it is notified"]
    pub fn publish_requests(&mut self) -> bool {
        if self.req_prod == self.req_prod_pvt {
            return false;
        }
        let old = core::mem::replace(&mut self.req_prod, self.req_prod_pvt);
        protocol::publish(
            self.ring.index(Index::ReqProd),
            self.ring.index(Index::ReqEvent),
            old,
            self.req_prod_pvt,
        )
    }

    /// Checks a producer index that the peer wrote: there can be no more responses than requests shown.
    fn accept(&mut self, prod: u32) -> Result<u32, RingBroken> {
        let unconsumed = prod.wrapping_sub(self.rsp_cons);
        if unconsumed > self.req_prod.wrapping_sub(self.rsp_cons) {
            return Err(RingBroken {
                prod,
                cons: self.rsp_cons,
            });
        }
        self.rsp_prod = prod;
        Ok(unconsumed)
    }

    /// Takes the next response: a private copy.
    ///
    /// # Errors
    ///
    /// [`RingBroken`] where the back end's index is impossible.
    pub fn next_response(&mut self) -> Result<Option<S>, RingBroken> {
        if self.rsp_cons == self.rsp_prod {
            let prod = protocol::seen(self.ring.index(Index::RspProd));
            if self.accept(prod)? == 0 {
                return Ok(None);
            }
        }
        let response = self.ring.read_response(self.rsp_cons);
        self.rsp_cons = self.rsp_cons.wrapping_add(1);
        Ok(Some(response))
    }

    /// Asks for a notification at the next response; true where there already is one, so that sleeping would be wrong.
    #[must_use = "true means that there is work"]
    pub fn final_check_for_responses(&mut self) -> bool {
        if self.rsp_cons != self.rsp_prod {
            return true;
        }
        let prod = protocol::arm(
            self.ring.index(Index::RspProd),
            self.ring.index(Index::RspEvent),
            self.rsp_cons,
        );
        prod != self.rsp_cons
    }
}

impl<Q, S, M> fmt::Debug for FrontRing<Q, S, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrontRing")
            .field("req_prod_pvt", &self.req_prod_pvt)
            .field("req_prod", &self.req_prod)
            .field("rsp_cons", &self.rsp_cons)
            .field("rsp_prod", &self.rsp_prod)
            .finish_non_exhaustive()
    }
}
