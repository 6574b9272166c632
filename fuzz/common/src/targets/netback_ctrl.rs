//! The control ring with a hostile front end: requests, pages and the ring as it likes, while queues use what comes of it.

use std::num::NonZeroU32;
use std::sync::Arc;

use arbitrary::Arbitrary;
use cantle_abi::io::netif::{XenNetifCtrlRequest, XenNetifCtrlResponse};
use cantle_abi::ring::{BackRing, FrontRing};
use cantle_abi::{DomId, GrantRef};
use cantle_grant::{Access, GrantMapper};
use cantle_netback::control::{
    Control, ControlRing, HashConfig, STATIC_GRANTS_MAX, SharedHash, StaticGrants,
};
use cantle_netback::test_utils::{GUEST, World};

use crate::input::{self, Odd};
use crate::scribble;

const QUEUES: u32 = 3;
/// Pages that are granted, all but one for writing.
const PAGES: usize = 8;

#[derive(Arbitrary, Debug)]
enum Action {
    /// A request: its kind, what goes with it, and whether it names a page that there is.
    Ask(u8, [Odd; 3], bool),
    Process,
    /// A word of the page that is named changes.
    Page(Odd, u32),
    /// The page that is named has a list of grants: the first, how many, flags.
    List(u8, u8, u8),
    /// One of the ring's indices.
    Index(u8, Odd),
    /// Anything in the ring.
    Write(Odd, u32),
    /// A frame is to go to a queue.
    Frame(Vec<u8>),
    /// A queue's thread has a page in use.
    Hold(u8, u8),
    Release,
}

/// Runs one input.
///
/// # Panics
///
/// Where a frame goes to a queue that there is not, more stays mapped than may, or something stays mapped at the end.
pub fn run(data: &[u8]) {
    let world = World::with_pages(PAGES + 2);
    let guest = world.guest();
    let frame = guest.alloc_frame();
    let page = guest.page(frame);
    let Ok(mut front) =
        FrontRing::<XenNetifCtrlRequest, XenNetifCtrlResponse, _>::init(page.clone())
    else {
        return;
    };
    let gref = guest.grant(DomId::DOM0, frame, false);
    let grants: Vec<_> = (0..PAGES)
        .map(|n| {
            let frame = guest.alloc_frame();
            (guest.grant(DomId::DOM0, frame, n == 7), guest.page(frame))
        })
        .collect();
    let (named, list) = (grants[0].0, grants[0].1.clone());
    let mapper = world.mapper();
    {
        let Some(queues) = NonZeroU32::new(QUEUES) else {
            return;
        };
        let hash = Arc::new(SharedHash::new(HashConfig::new(queues)));
        let statics: Vec<Arc<StaticGrants>> = (0..QUEUES).map(|_| Arc::default()).collect();
        let control = Control::new(GUEST, queues, hash.clone(), statics.clone().into());
        let mapped = mapper.map(GUEST, gref, Access::ReadWrite);
        let Ok(ring) = BackRing::attach(mapped.expect("it is granted")) else {
            return;
        };
        let mut ring = ControlRing::new(ring, control);
        let mut reader = hash.reader();
        let mut held = Vec::new();
        for action in input::actions(data) {
            match action {
                Action::Ask(kind, data, good) => {
                    let mut data = data.map(Odd::word);
                    let kind = u16::from(kind % 13);
                    if good {
                        data[usize::from(matches!(kind, 9 | 10))] = named.0;
                    }
                    let _ = front.push_request(&XenNetifCtrlRequest { id: 7, kind, data });
                    // The back end is called anyhow.
                    let _ = front.publish_requests();
                }
                Action::Process => {
                    if ring.process(&mapper).is_err() {
                        break;
                    }
                    let stats = guest.table().stats();
                    let most = u64::from(QUEUES * STATIC_GRANTS_MAX) + 1;
                    assert!(stats.maps - stats.unmaps <= most);
                }
                Action::Page(at, word) => {
                    scribble::write(&list, usize::from(at.half()) % 512, &word.to_le_bytes());
                }
                Action::List(first, count, flags) => {
                    for n in 0..count % 8 {
                        let gref = grants[usize::from(first.wrapping_add(n)) % PAGES].0;
                        let at = usize::from(n) * 8;
                        scribble::write(&list, at, &gref.0.to_le_bytes());
                        scribble::write(&list, at + 4, &u32::from(flags % 4).to_le_bytes());
                    }
                }
                Action::Index(index, to) => {
                    let at = usize::from(index % 4) * 4;
                    scribble::write(&page, at, &to.word().to_le_bytes());
                }
                Action::Write(at, word) => {
                    scribble::write(&page, usize::from(at.half()), &word.to_le_bytes());
                }
                Action::Frame(bytes) => {
                    let config = reader.get();
                    if config.is_on() {
                        let queue = config.queue(config.hash(&bytes));
                        assert!(u32::try_from(queue).is_ok_and(|queue| queue < QUEUES));
                    }
                }
                Action::Hold(queue, which) => {
                    let gref: GrantRef = grants[usize::from(which) % PAGES].0;
                    let pages = statics[usize::from(queue) % statics.len()].lock();
                    held.extend(pages.get(gref, Access::ReadOnly));
                }
                Action::Release => held.clear(),
            }
        }
    }
    let stats = guest.table().stats();
    assert_eq!(stats.maps, stats.unmaps, "everything is let go");
}
