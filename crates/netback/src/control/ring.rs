//! The control ring's consumer.

use std::fmt;

use cantle_abi::io::netif::{
    XEN_NETIF_CTRL_TYPE_ADD_GREF_MAPPING, XEN_NETIF_CTRL_TYPE_DEL_GREF_MAPPING,
    XenNetifCtrlRequest, XenNetifCtrlResponse,
};
use cantle_abi::ring::{BackRing, RingBroken};
use cantle_grant::{GrantMapper, Mapping};

use super::{Control, STATIC_GRANTS_MAX};

/// How much a pass does at most: a request counts as one, and as one more for each page it maps or unmaps.
const WORK_MAX: u32 = 2 * STATIC_GRANTS_MAX;

/// Takes requests off a control ring and carries them out.
pub struct ControlRing {
    ring: BackRing<XenNetifCtrlRequest, XenNetifCtrlResponse, Mapping>,
    control: Control,
    faults: u64,
}

impl fmt::Debug for ControlRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControlRing")
            .field("ring", &self.ring)
            .field("faults", &self.faults)
            .finish_non_exhaustive()
    }
}

/// What a pass over a control ring ended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlPass {
    /// The front end wants to be notified.
    pub notify: bool,
    /// There is more to do at once.
    pub more: bool,
}

impl ControlRing {
    /// Over a ring that the front end has initialised.
    #[must_use]
    pub fn new(
        ring: BackRing<XenNetifCtrlRequest, XenNetifCtrlResponse, Mapping>,
        control: Control,
    ) -> Self {
        Self {
            ring,
            control,
            faults: 0,
        }
    }

    /// Carries out what the ring has: as many requests as it has slots at most, and fewer where they map or unmap many pages.
    ///
    /// # Errors
    ///
    /// [`RingBroken`] where the front end's index is impossible: the ring is to be given up.
    pub fn process(&mut self, mapper: &dyn GrantMapper) -> Result<ControlPass, RingBroken> {
        let (mut requests, mut work) = (self.ring.slots(), WORK_MAX);
        let mut notify = false;
        loop {
            while requests > 0 && work > 0 {
                let Some(request) = self.ring.next_request()? else {
                    break;
                };
                requests -= 1;
                work = work.saturating_sub(weight(&request));
                let (response, done) = self.control.handle(mapper, &request);
                if let Err(fault) = done {
                    self.faults += 1;
                    // A guest that asks for nonsense for ever is logged ever more rarely.
                    if self.faults.is_power_of_two() {
                        tracing::debug!(faults = self.faults, %fault, "control request refused");
                    }
                }
                self.ring.push_response(&response)?;
            }
            notify |= self.ring.publish_responses();
            // Asks to be told of the next one, unless there already is one.
            let more = self.ring.final_check_for_requests();
            if !more || requests == 0 || work == 0 {
                return Ok(ControlPass { notify, more });
            }
        }
    }

    /// How many requests were refused.
    #[must_use]
    pub fn faults(&self) -> u64 {
        self.faults
    }
}

fn weight(request: &XenNetifCtrlRequest) -> u32 {
    let [_, _, count] = request.data;
    match request.kind {
        XEN_NETIF_CTRL_TYPE_ADD_GREF_MAPPING | XEN_NETIF_CTRL_TYPE_DEL_GREF_MAPPING => {
            1 + count.min(STATIC_GRANTS_MAX)
        }
        _ => 1,
    }
}
