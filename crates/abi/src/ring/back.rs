//! The back end's side: consumes requests, produces responses.

use core::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::memory::{Index, Slots};
use super::{RingBroken, RingMemory, protocol};

/// A back end's view of a shared ring of requests `Q` and responses `S` over the memory `M`, in one piece or [`Paged`](super::Paged).
pub struct BackRing<Q, S, M> {
    ring: Slots<Q, S, M>,
    /// The next request to take.
    req_cons: u32,
    /// The producer index as last loaded and checked.
    req_prod: u32,
    /// The next response slot to fill; not yet visible to the front end.
    rsp_prod_pvt: u32,
    /// What the front end has been shown.
    rsp_prod: u32,
}

impl<Q, S, M> BackRing<Q, S, M>
where
    Q: FromBytes,
    S: IntoBytes + Immutable,
    M: RingMemory,
{
    /// Attaches to a ring that the front end has initialised, going on after the responses already in it.
    ///
    /// # Errors
    ///
    /// [`RingBroken`] where the indices are further apart than the ring is long, or no slot fits in the memory.
    pub fn attach(memory: M) -> Result<Self, RingBroken> {
        let ring = Slots::new(memory).ok_or(RingBroken { prod: 0, cons: 0 })?;
        let start = protocol::seen(ring.index(Index::RspProd));
        let mut back = Self {
            ring,
            req_cons: start,
            req_prod: start,
            rsp_prod_pvt: start,
            rsp_prod: start,
        };
        back.reload()?;
        Ok(back)
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

    /// Gives the memory back.
    #[must_use]
    pub fn into_memory(self) -> M {
        self.ring.into_memory()
    }

    fn reload(&mut self) -> Result<u32, RingBroken> {
        let prod = protocol::seen(self.ring.index(Index::ReqProd));
        self.accept(prod)
    }

    /// Checks a producer index that the peer wrote: requests not yet answered may not exceed the slots.
    fn accept(&mut self, prod: u32) -> Result<u32, RingBroken> {
        let unconsumed = prod.wrapping_sub(self.req_cons);
        if unconsumed > self.ring.count()
            || prod.wrapping_sub(self.rsp_prod_pvt) > self.ring.count()
        {
            return Err(RingBroken {
                prod,
                cons: self.req_cons,
            });
        }
        self.req_prod = prod;
        Ok(unconsumed)
    }

    /// How many requests can be taken now, by a fresh look at the producer index.
    ///
    /// # Errors
    ///
    /// [`RingBroken`] where the front end's index is impossible.
    pub fn available(&mut self) -> Result<u32, RingBroken> {
        self.reload()
    }

    /// Takes the next request: a private copy. The producer index is read again only when the requests known are used up.
    ///
    /// # Errors
    ///
    /// [`RingBroken`] where the front end's index is impossible.
    pub fn next_request(&mut self) -> Result<Option<Q>, RingBroken> {
        if self.req_cons == self.req_prod && self.reload()? == 0 {
            return Ok(None);
        }
        let request = self.ring.read_request(self.req_cons);
        self.req_cons = self.req_cons.wrapping_add(1);
        Ok(Some(request))
    }

    /// Requests taken and not yet answered.
    #[must_use]
    pub fn outstanding(&self) -> u32 {
        self.req_cons.wrapping_sub(self.rsp_prod_pvt)
    }

    /// Puts a response in the next slot. The front end sees it after [`publish_responses`](Self::publish_responses).
    ///
    /// A response without a request taken before would overwrite a request; such a one is refused.
    ///
    /// # Errors
    ///
    /// [`RingBroken`] where no request is outstanding (a mistake of the caller).
    pub fn push_response(&mut self, response: &S) -> Result<(), RingBroken> {
        if self.outstanding() == 0 {
            return Err(RingBroken {
                prod: self.rsp_prod_pvt,
                cons: self.req_cons,
            });
        }
        self.ring.write_response(self.rsp_prod_pvt, response);
        self.rsp_prod_pvt = self.rsp_prod_pvt.wrapping_add(1);
        Ok(())
    }

    /// Shows the responses pushed so far; true where the front end wants a notification. False where there are none.
    #[must_use = "the front end sleeps until it is notified"]
    pub fn publish_responses(&mut self) -> bool {
        if self.rsp_prod == self.rsp_prod_pvt {
            return false;
        }
        let old = core::mem::replace(&mut self.rsp_prod, self.rsp_prod_pvt);
        protocol::publish(
            self.ring.index(Index::RspProd),
            self.ring.index(Index::RspEvent),
            old,
            self.rsp_prod_pvt,
        )
    }

    /// Asks for a notification at the next request; true where there already is one, so that sleeping would be wrong.
    ///
    /// An impossible index also answers true: the next [`next_request`](Self::next_request) then reports it.
    #[must_use = "true means that there is work"]
    pub fn final_check_for_requests(&mut self) -> bool {
        if self.req_cons != self.req_prod {
            return true;
        }
        let prod = protocol::arm(
            self.ring.index(Index::ReqProd),
            self.ring.index(Index::ReqEvent),
            self.req_cons,
        );
        prod != self.req_cons
    }
}

impl<Q, S, M> fmt::Debug for BackRing<Q, S, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackRing")
            .field("req_cons", &self.req_cons)
            .field("req_prod", &self.req_prod)
            .field("rsp_prod_pvt", &self.rsp_prod_pvt)
            .field("rsp_prod", &self.rsp_prod)
            .finish_non_exhaustive()
    }
}
