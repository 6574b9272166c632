//! The block back end with a hostile front end: requests, ring, grants and xenstore keys as it likes.

mod image;
mod setup;

use std::cell::Cell;
use std::sync::Arc;

use arbitrary::Arbitrary;
use cantle_abi::GrantRef;
use cantle_abi::io::blkif::{BlkifRequest, BlkifRequestIndirect};
use cantle_blkback::image::{ImageError, NullDisk};
use cantle_blkback::test_utils::{BACK, BlkFront, Fault, FaultDisk, FrontError, Transfer, World};
use cantle_blkback::{Backend, Progress};
use cantle_xenstore::xenbus::XenbusState;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use zerocopy::{FromBytes, FromZeros};

use crate::input::{self, Odd};
use crate::scribble;
use image::TouchDisk;
use setup::Setup;

#[derive(Arbitrary, Debug)]
enum Action {
    /// A sound request with so many bytes.
    Transfer(u8, Odd, u8),
    /// A sound request with four bytes of it changed.
    Spoilt(u8, Odd, u8, u32),
    /// Any request.
    Any([u8; 32], Odd),
    Kick,
    Notify,
    /// The back end works.
    Process,
    /// The front end takes its answers.
    Answers,
    Index(u8, Odd),
    Write(Odd, u32),
    /// A grant is rewritten while it may be in use: slot, page, flags, frame.
    Entry(u8, u8, Odd, Odd),
    Key(u8, Odd),
    State(u8),
    /// The image fails, dawdles or recovers.
    Image(u8),
    /// The toolstack wants the disk back.
    Close,
    /// A sound indirect request: operation, sector, pages.
    Indirect(u8, Odd, u8),
    /// An indirect request of so many segments, in a page with this gref.
    AnyIndirect(u8, Odd, Odd),
    /// Something is written over the segments of a slot: slot, where, what.
    Segments(u8, Odd, u32),
    /// The embedder says something.
    Control(u8),
}

/// Slots whose pages are used.
const SLOTS: usize = 16;
const SECTORS: u64 = 2048;
/// The guest's pages: rings, and all of the slots'.
const PAGES: usize = 1200;
const KEYS: [&str; 10] = [
    "ring-ref",
    "event-channel",
    "protocol",
    "ring-page-order",
    "feature-persistent",
    "ring-ref0",
    "ring-ref1",
    "num-ring-pages",
    "multi-queue-num-queues",
    "queue-0/ring-ref",
];

thread_local! {
    /// A world that is as good as new, and how often it has been used: making one takes longer than most inputs.
    static USED: Cell<Option<(World, u32)>> = const { Cell::new(None) };
}

/// Runs one input.
///
/// # Panics
///
/// Where the back end fails or does not come to rest, lets an impossible request pass, or owes an honest ring an answer.
pub fn run(data: &[u8]) {
    let (world, times) = USED
        .take()
        .unwrap_or_else(|| (World::with_memory(PAGES), 0));
    let reusable = in_world(&world, data) && times < 100;
    USED.set(reusable.then_some((world, times + 1)));
}

/// Whether the world is as it was.
fn in_world(world: &World, data: &[u8]) -> bool {
    let (setup, data) = Setup::take(data);
    let faults = FaultDisk::new(NullDisk { sectors: SECTORS });
    let disk = TouchDisk {
        inner: Arc::clone(&faults),
        is_cd: setup.is_cd(),
    };
    let Ok(mut backend) = world.backend_of(Arc::new(disk), setup.backend()) else {
        return false;
    };
    let Ok(mut front) = BlkFront::start_with(world, setup.front()) else {
        return false;
    };
    let mut session = Session {
        honest: true,
        pushed: 0,
        answered: 0,
        rewritten: false,
        is_cd: setup.is_cd(),
    };
    let served = settle(&mut backend);
    // Where the back end has refused, the front end goes on all the same.
    let _ = front.finish();
    if served && session.hostilities(world, &mut front, &mut backend, &faults, data) {
        recover(&faults);
        backend.control().resume();
        let _ = front.kick();
        let _ = front.notify();
        if settle(&mut backend) && session.honest && backend.state() == XenbusState::CONNECTED {
            session.answers(&mut front);
            let (answered, pushed) = (session.answered, session.pushed);
            assert_eq!(answered, pushed, "requests without an answer");
        }
    }
    // First the back end, so that the front end gets all its pages back.
    recover(&faults);
    drop(backend);
    !session.rewritten
}

struct Session {
    /// The front end has kept to the rules of ring, grants and xenstore, though not to those of requests.
    honest: bool,
    pushed: u64,
    answered: u64,
    /// Entries of the grant table were rewritten: pages may be lost to the guest.
    rewritten: bool,
    is_cd: bool,
}

impl Session {
    /// Does what the input says; false where the back end has finished.
    fn hostilities(
        &mut self,
        world: &World,
        front: &mut BlkFront,
        backend: &mut Backend,
        faults: &FaultDisk,
        data: &[u8],
    ) -> bool {
        let mut served = true;
        for action in input::actions(data) {
            match action {
                Action::Process => served = settle(backend),
                Action::Close => served = backend.close().is_ok_and(goes_on),
                Action::Image(0) => faults.plan(|_| Fault::Fail(ImageError::Host(5))),
                Action::Image(2) => faults.plan(|_| Fault::Fail(ImageError::Host(28))),
                Action::Image(1) => faults.plan(|_| Fault::Hold),
                Action::Image(_) => recover(faults),
                Action::Entry(slot, page, flags, frame) => {
                    self.honest = false;
                    self.rewritten = true;
                    let slot = usize::from(slot) % SLOTS;
                    let page = match page % 12 {
                        11 => front.segment_page(slot),
                        page => front.page(slot, page.into()),
                    };
                    if let Some(page) = page {
                        let (flags, frame) = (flags.half(), frame.word());
                        world.guest().write_entry(page.gref, flags, BACK, frame);
                    }
                }
                Action::Control(order) => self.control(backend, order),
                other => self.act(front, &other),
            }
            if !served {
                return false;
            }
        }
        true
    }

    fn control(&self, backend: &Backend, order: u8) {
        let control = backend.control();
        match order % 6 {
            0 => control.resume(),
            1 => control.resized(),
            2 => drop(control.eject()),
            3 => drop(control.insert(Arc::new(image::disk(8, self.is_cd)))),
            4 => drop(control.insert(Arc::new(image::disk(4 * SECTORS, self.is_cd)))),
            _ => drop(control.insert(Arc::new(image::disk(SECTORS, self.is_cd)))),
        }
    }

    fn act(&mut self, front: &mut BlkFront, action: &Action) {
        match action {
            Action::Transfer(operation, sector, pages) => {
                let request = sound(front, *operation, *sector, *pages);
                self.push(front, &request);
            }
            Action::Spoilt(operation, sector, at, value) => {
                let request = sound(front, *operation, *sector, 3);
                let mut bytes = [0; size_of::<BlkifRequest>()];
                bytes.copy_from_slice(zerocopy::IntoBytes::as_bytes(&request));
                let at = usize::from(*at) % (bytes.len() - 4);
                bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
                if let Ok(request) = BlkifRequest::read_from_bytes(&bytes) {
                    self.push(front, &request);
                }
            }
            Action::Any(start, rest) => {
                let mut bytes = [rest.byte(); size_of::<BlkifRequest>()];
                bytes[..start.len()].copy_from_slice(start);
                if let Ok(request) = BlkifRequest::read_from_bytes(&bytes) {
                    self.push(front, &request);
                }
            }
            Action::Indirect(operation, sector, pages) => {
                let request = front.indirect(
                    usize::from(*pages) % SLOTS,
                    &Transfer {
                        operation: operation % 4,
                        sector: sector.0,
                        bytes: usize::from(pages % 66) * 4096,
                    },
                );
                self.push(front, &request.into());
            }
            Action::AnyIndirect(slot, segments, gref) => {
                let mut request = BlkifRequestIndirect::new_zeroed();
                request.operation = cantle_abi::io::blkif::BLKIF_OP_INDIRECT;
                request.indirect_op = slot >> 5;
                request.nr_segments = segments.half();
                let page = front.segment_page(usize::from(*slot) % SLOTS);
                request.indirect_grefs[0] = match (gref.0, page) {
                    (0, Some(page)) => page.gref,
                    _ => GrantRef(gref.word()),
                };
                self.push(front, &request.into());
            }
            Action::Segments(slot, at, value) => {
                // The guest's own, which it may write at any time.
                if let Some(page) = front.segment_page(usize::from(*slot) % SLOTS) {
                    let at = usize::from(at.half());
                    scribble::write(&page.memory, at, &value.to_le_bytes());
                }
            }
            Action::Kick => {
                let _ = front.kick();
            }
            Action::Notify => {
                let _ = front.notify();
            }
            Action::Answers => self.answers(front),
            Action::Index(index, to) => {
                self.honest = false;
                let at = usize::from(index % 4) * 4;
                let page = &front.ring_page().memory;
                scribble::write(page, at, &to.word().to_le_bytes());
            }
            Action::Write(at, value) => {
                self.honest = false;
                let at = usize::from(at.half());
                let pages = front.ring_pages();
                if let Some(page) = pages.get(at / 4096 % pages.len()) {
                    scribble::write(&page.memory, at, &value.to_le_bytes());
                }
            }
            Action::Key(key, value) => {
                self.honest = false;
                let key = KEYS[usize::from(*key) % KEYS.len()];
                let _ = front.publish(&[(key, &value.0.to_string())]);
            }
            Action::State(state) => {
                self.honest = false;
                let _ = front.set_state(XenbusState(u32::from(*state % 9)));
            }
            Action::Process
            | Action::Close
            | Action::Image(_)
            | Action::Entry(..)
            | Action::Control(_) => {}
        }
    }

    fn push(&mut self, front: &mut BlkFront, request: &BlkifRequest) {
        self.pushed += u64::from(front.push(request).is_ok());
    }

    fn answers(&mut self, front: &mut BlkFront) {
        loop {
            match front.response() {
                Ok(Some(_)) => self.answered += 1,
                Ok(None) => break,
                Err(error @ FrontError::Ring(_)) => {
                    assert!(!self.honest, "{error}");
                    break;
                }
                Err(error) => panic!("{error}"),
            }
        }
        assert!(
            !self.honest || self.answered <= self.pushed,
            "answers to nothing"
        );
    }
}

fn sound(front: &BlkFront, operation: u8, sector: Odd, pages: u8) -> BlkifRequest {
    let transfer = Transfer {
        operation: operation % 8,
        sector: sector.0,
        bytes: usize::from(pages % 12) * 4096,
    };
    front.request(usize::from(pages) % SLOTS, &transfer)
}

fn goes_on(progress: Progress) -> bool {
    progress != Progress::Finished
}

/// The image works again, and does what it has held back.
fn recover(faults: &FaultDisk) {
    faults.release();
}

/// Lets the back end work until it waits; false where it is finished.
fn settle(backend: &mut Backend) -> bool {
    for _ in 0..10_000 {
        match backend.process() {
            Ok(Progress::More) => continue,
            Ok(Progress::Finished) => return false,
            Ok(Progress::Idle) => {}
            Err(error) => panic!("the back end fails: {error}"),
        }
        let now = Timespec::default();
        let fd = backend.fd();
        let ready = poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&now));
        if ready == Ok(0) {
            return true;
        }
    }
    panic!("the back end does not come to rest");
}
