//! Pages lent to the back end, and waiting for it.

use std::time::Duration;

use cantle_abi::{DomId, Gfn, GrantRef};
use cantle_evtchn::Channel;
use cantle_grant::test_utils::{GuestPages, HeapGuest};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// A page of the guest's, with its grant.
pub(super) struct Buffer {
    pub(super) frame: Gfn,
    pub(super) page: GuestPages,
    pub(super) gref: GrantRef,
}

impl Buffer {
    pub(super) fn lend(guest: &HeapGuest, to: DomId, readonly: bool) -> Self {
        let frame = guest.alloc_frame();
        Self {
            frame,
            page: guest.page(frame),
            gref: guest.grant(to, frame, readonly),
        }
    }

    /// Takes it back, unless the back end still uses it.
    pub(super) fn take_back(&self, guest: &HeapGuest) {
        if guest.ungrant(self.gref) {
            guest.free_frame(self.frame);
        }
    }
}

pub(super) fn wait(channel: &dyn Channel, patience: Duration) -> bool {
    let fd = channel.eventfd();
    let timeout = Timespec::try_from(patience).expect("a sound duration");
    let ready = poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout));
    let signalled = ready.is_ok_and(|ready| ready > 0);
    channel.take();
    signalled
}
