//! The block back end with a hostile front end: requests, ring, grants and xenstore keys as it likes.

use std::cell::Cell;
use std::io::Result;
use std::os::fd::BorrowedFd;

use arbitrary::Arbitrary;
use cantle_abi::io::blkif::BlkifRequest;
use cantle_blkback::image::{
    BlockImage, Completion, Finished, Geometry, ImageError, Io, IoOp, NullImage,
};
use cantle_blkback::test_utils::{
    BACK, BlkFront, Fault, FaultImage, Faults, FrontError, Transfer, World,
};
use cantle_blkback::{Backend, Progress};
use cantle_xenstore::xenbus::XenbusState;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use zerocopy::FromBytes;

use crate::input::{self, Odd};
use crate::scribble;

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
}

const SECTORS: u64 = 2048;
const KEYS: [&str; 6] = [
    "ring-ref",
    "event-channel",
    "protocol",
    "ring-page-order",
    "feature-persistent",
    "ring-ref0",
];

/// An image that touches every byte range it is given at both ends, and holds no data.
struct TouchImage {
    inner: NullImage,
    finished: Finished,
}

impl BlockImage for TouchImage {
    fn geometry(&self) -> Geometry {
        self.inner.geometry()
    }

    fn queue(&mut self, io: Io) {
        let checked = self.geometry().check(&io);
        assert_eq!(checked, Ok(()), "the back end lets {io:?} pass");
        if matches!(io.op(), IoOp::Read | IoOp::Write) {
            touch(&io);
        }
        self.finished.push(Completion { io, result: Ok(()) });
    }

    fn submit(&mut self) -> Result<()> {
        self.finished.publish()
    }

    fn completions(&mut self, done: &mut Vec<Completion>) {
        self.finished.collect(done);
    }

    fn completion_fd(&self) -> BorrowedFd<'_> {
        self.finished.fd()
    }
}

fn touch(io: &Io) {
    let mut bytes = 0;
    for segment in io.segments() {
        scribble::touch(segment, io.op() == IoOp::Read);
        bytes += segment.len() as u64;
    }
    assert_eq!(bytes, io.sectors() * 512, "the segments are the request");
}

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
    let (world, times) = USED.take().unwrap_or_default();
    let reusable = in_world(&world, data) && times < 100;
    USED.set(reusable.then_some((world, times + 1)));
}

/// Whether the world is as it was.
fn in_world(world: &World, data: &[u8]) -> bool {
    let (Ok(inner), Ok(finished)) = (NullImage::new(SECTORS), Finished::new()) else {
        return false;
    };
    let Ok(image) = FaultImage::new(TouchImage { inner, finished }) else {
        return false;
    };
    let faults = image.faults();
    let Ok(mut backend) = world.backend(Box::new(image)) else {
        return false;
    };
    let Ok(mut front) = BlkFront::start(world) else {
        return false;
    };
    let mut session = Session {
        honest: true,
        pushed: 0,
        answered: 0,
        rewritten: false,
    };
    let served = settle(&mut backend);
    // Where the back end has refused, the front end goes on all the same.
    let _ = front.finish();
    if served && session.hostilities(world, &mut front, &mut backend, &faults, data) {
        recover(&faults);
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
}

impl Session {
    /// Does what the input says; false where the back end has finished.
    fn hostilities(
        &mut self,
        world: &World,
        front: &mut BlkFront,
        backend: &mut Backend,
        faults: &Faults,
        data: &[u8],
    ) -> bool {
        let mut served = true;
        for action in input::actions(data) {
            match action {
                Action::Process => served = settle(backend),
                Action::Close => served = backend.close().is_ok_and(goes_on),
                Action::Image(0) => faults.plan(|_| Fault::Fail(ImageError::Host(5))),
                Action::Image(1) => faults.plan(|_| Fault::Hold),
                Action::Image(_) => recover(faults),
                Action::Entry(slot, page, flags, frame) => {
                    self.honest = false;
                    self.rewritten = true;
                    let (slot, page) = (usize::from(slot % 32), usize::from(page % 11));
                    if let Some(page) = front.page(slot, page) {
                        let (flags, frame) = (flags.half(), frame.word());
                        world.guest().write_entry(page.gref, flags, BACK, frame);
                    }
                }
                other => self.act(front, &other),
            }
            if !served {
                return false;
            }
        }
        true
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
                let page = &front.ring_page().memory;
                scribble::write(page, usize::from(at.half()), &value.to_le_bytes());
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
            Action::Process | Action::Close | Action::Image(_) | Action::Entry(..) => {}
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
    front.request(usize::from(pages % 32), &transfer)
}

fn goes_on(progress: Progress) -> bool {
    progress != Progress::Finished
}

/// The image works again, and does what it has held back.
fn recover(faults: &Faults) {
    if faults.held() > 0 {
        faults.release();
    } else {
        // A release of nothing would wake a back end that is not connected and does not ask its image.
        faults.plan(|_| Fault::Pass);
    }
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
