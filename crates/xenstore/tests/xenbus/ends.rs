//! The two real ends of a device against each other, over a real store.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use cantle_abi::DomId;
use cantle_abi::io::xenbus::XenbusState as S;
use cantle_xenstore::prelude::*;
use cantle_xenstore::xenbus::{
    Backend, Device, DeviceError, DeviceId, FrontDevice, Frontend, Keys, Offer, OtherEnd, Phase,
    Removal, Removed, toolstack,
};
use cantle_xenstore::{Error, LocalClient, Shared};
use proptest::prelude::*;

use crate::{GUEST, NONE};

/// What happened to the devices of one end, over all of their lives.
#[derive(Debug, Default)]
struct Counts {
    connects: Cell<u32>,
    disconnects: Cell<u32>,
    /// Whether it refuses to connect, and what is changed while it is connected.
    refuses: Cell<bool>,
    /// The front end's key that may change, as the back end uses it.
    headroom: Cell<u32>,
}

impl Counts {
    fn open(&self) -> u32 {
        let (connects, disconnects) = (self.connects.get(), self.disconnects.get());
        connects.checked_sub(disconnects).expect("it was connected")
    }

    fn connect(&self) -> Result<(), DeviceError> {
        if self.refuses.get() {
            return Err("it does not want to".into());
        }
        assert_eq!(self.open(), 0, "a second connection beside the first");
        self.connects.set(self.connects.get() + 1);
        Ok(())
    }

    fn disconnect(&self) {
        self.disconnects.set(self.disconnects.get() + 1);
        self.open();
    }
}

#[derive(Debug)]
struct BackDisk(Rc<Counts>);

impl Device for BackDisk {
    fn describe(&self) -> Keys {
        vec![("max-ring-page-order".to_owned(), "3".to_owned())]
    }

    fn connect(&mut self, front: &OtherEnd<'_>) -> Result<Keys, DeviceError> {
        front.require::<u32>("ring-ref")?;
        self.0.connect()?;
        self.0
            .headroom
            .set(front.optional("headroom")?.unwrap_or(0));
        Ok(vec![("sectors".to_owned(), "2048".to_owned())])
    }

    fn reconfigure(&mut self, front: &OtherEnd<'_>) -> Result<Keys, DeviceError> {
        assert_eq!(self.0.open(), 1, "nothing is connected");
        if self.0.refuses.get() {
            return Err("it does not want to".into());
        }
        self.0
            .headroom
            .set(front.optional("headroom")?.unwrap_or(0));
        Ok(Keys::new())
    }

    fn disconnect(&mut self) {
        self.0.disconnect();
    }
}

#[derive(Debug)]
struct FrontDisk {
    counts: Rc<Counts>,
    /// A disk's way, by `Initialised`, or a network card's.
    complete: bool,
    sectors: u32,
}

impl FrontDevice for FrontDisk {
    fn offer(&mut self, back: &OtherEnd<'_>) -> Result<Offer, DeviceError> {
        assert_eq!(back.domain(), DomId::DOM0);
        assert_eq!(back.require::<u32>("max-ring-page-order")?, 3);
        self.counts.connect()?;
        Ok(Offer {
            keys: vec![("ring-ref".to_owned(), "8".to_owned())],
            complete: self.complete,
        })
    }

    fn connect(&mut self, back: &OtherEnd<'_>) -> Result<(), DeviceError> {
        self.sectors = back.require("sectors")?;
        Ok(())
    }

    fn disconnect(&mut self) {
        self.sectors = 0;
        self.counts.disconnect();
    }
}

/// An end, where its directory is there.
fn there<T>(end: Result<T, Error>) -> Option<T> {
    match end {
        Err(error) if error.is_not_found() => None,
        end => Some(end.unwrap()),
    }
}

/// A store, a guest with one device, and whichever of its ends are alive.
struct Ends {
    store: Shared,
    dom0: Arc<LocalClient>,
    id: DeviceId,
    back: Option<Backend<BackDisk>>,
    front: Option<Frontend<FrontDisk>>,
    back_counts: Rc<Counts>,
    front_counts: Rc<Counts>,
    complete: bool,
}

impl Ends {
    fn new(complete: bool) -> Self {
        let store = Shared::default();
        let dom0 = Arc::new(store.client(DomId::DOM0).unwrap());
        toolstack::create_domain(&*dom0, &crate::guest()).unwrap();
        store.introduce(GUEST).unwrap();
        let mut ends = Self {
            id: DeviceId::new("vbd", 51712, GUEST, DomId::DOM0),
            store,
            dom0,
            back: None,
            front: None,
            back_counts: Rc::default(),
            front_counts: Rc::default(),
            complete,
        };
        ends.plug();
        ends
    }

    /// The toolstack makes the device, whatever was there before; ends that were finished are begun anew.
    fn plug(&mut self) {
        toolstack::create_device(&*self.dom0, &self.id, &[], &[]).unwrap();
        if self.back.is_none() {
            self.start_back();
        }
        if self.front.is_none() {
            self.start_front();
        }
    }

    /// A back end is started; the one before it, if any, is gone first.
    fn start_back(&mut self) {
        self.back = None;
        let client = Arc::new(self.store.client(DomId::DOM0).unwrap());
        let device = BackDisk(self.back_counts.clone());
        self.back =
            there(Backend::new(client, self.id.clone(), device)).filter(|back| !back.is_finished());
    }

    /// The guest loads its driver. One that was there has left its state in the store.
    fn start_front(&mut self) {
        self.front = None;
        let client = Arc::new(self.store.client(GUEST).unwrap());
        let device = FrontDisk {
            counts: self.front_counts.clone(),
            complete: self.complete,
            sectors: 0,
        };
        self.front = there(Frontend::new(client, "device/vbd/51712", device));
    }

    fn back_turn(&mut self) {
        self.on_back(Backend::process);
    }

    fn front_turn(&mut self) {
        self.on_front(Frontend::process);
    }

    /// Whoever has finished is dropped, as it asks to be.
    fn on_back(&mut self, act: impl FnOnce(&mut Backend<BackDisk>) -> Result<Phase, Error>) {
        if let Some(Phase::Finished) = self.back.as_mut().map(|back| act(back).unwrap()) {
            self.back = None;
        }
    }

    fn on_front(&mut self, act: impl FnOnce(&mut Frontend<FrontDisk>) -> Result<Phase, Error>) {
        if let Some(Phase::Finished) = self.front.as_mut().map(|front| act(front).unwrap()) {
            self.front = None;
        }
    }

    /// Both have turns until nothing changes any more.
    fn settle(&mut self) {
        let mut before = None;
        for _ in 0..30 {
            self.back_turn();
            self.front_turn();
            let now = (self.published(true), self.published(false));
            if before == Some(now) && self.is_quiet() {
                return;
            }
            before = Some(now);
        }
        panic!("they do not settle: {before:?}");
    }

    fn is_quiet(&self) -> bool {
        let back = self
            .back
            .as_ref()
            .is_none_or(|b| !crate::readable(b.event_fd()));
        let front = self
            .front
            .as_ref()
            .is_none_or(|f| !crate::readable(f.event_fd()));
        back && front
    }

    /// What stands in the store.
    fn published(&self, back: bool) -> Option<S> {
        let path = if back {
            self.id.backend_path()
        } else {
            self.id.frontend_path()
        };
        let text = self.dom0.read(NONE, &format!("{path}/state")).ok()?;
        Some(S::parse(&text))
    }

    fn states(&self) -> (Option<S>, Option<S>) {
        (self.published(false), self.published(true))
    }

    fn open(&self) -> (u32, u32) {
        (self.front_counts.open(), self.back_counts.open())
    }

    #[track_caller]
    fn assert_connected(&self) {
        assert_eq!(self.states(), (Some(S::CONNECTED), Some(S::CONNECTED)));
        assert_eq!(self.open(), (1, 1));
        let front = self.front.as_ref().unwrap();
        assert!(front.is_connected());
        assert_eq!(front.device().sectors, 2048);
    }

    #[track_caller]
    fn assert_closed(&self) {
        assert_eq!(self.states(), (Some(S::CLOSED), Some(S::CLOSED)));
        assert_eq!(self.open(), (0, 0));
    }

    fn removal(&self) -> Removal {
        let client = Arc::new(self.store.client(DomId::DOM0).unwrap());
        Removal::begin(client, self.id.clone()).unwrap()
    }

    /// The front end changes its key, where it is connected.
    fn reconfigure(&mut self, headroom: u32) -> bool {
        let keys = vec![("headroom".to_owned(), headroom.to_string())];
        self.front
            .as_mut()
            .is_some_and(|front| front.reconfigure(&keys).unwrap())
    }

    fn front_mut(&mut self) -> &mut Frontend<FrontDisk> {
        self.front.as_mut().unwrap()
    }
}

#[test]
fn both_ends_connect_by_either_way() {
    for complete in [false, true] {
        let mut ends = Ends::new(complete);
        ends.settle();
        ends.assert_connected();
        let hotplug = format!("{}/hotplug-status", ends.id.backend_path());
        assert_eq!(ends.dom0.read(NONE, &hotplug).unwrap(), b"connected");
    }
}

#[test]
fn a_front_end_that_closes_may_open_again() {
    let mut ends = Ends::new(false);
    for round in 1..=100 {
        ends.settle();
        ends.assert_connected();
        assert_eq!(ends.back_counts.connects.get(), round);
        ends.front_mut().close().unwrap();
        assert_eq!(ends.open(), (1, 1), "it is served until the back end knows");
        ends.settle();
        ends.assert_closed();
        ends.front_mut().open().unwrap();
    }
}

#[test]
fn a_back_end_that_closes_waits_for_the_next_front_end() {
    let mut ends = Ends::new(true);
    ends.settle();
    ends.back.as_mut().unwrap().close().unwrap();
    assert_eq!(
        ends.open(),
        (1, 1),
        "it serves until the front end is closed"
    );
    ends.settle();
    ends.assert_closed();
    ends.front_mut().open().unwrap();
    ends.settle();
    ends.assert_connected();
}

#[test]
fn a_new_kernel_connects_without_a_word_of_the_old_one() {
    let mut ends = Ends::new(false);
    for round in 1..=20 {
        ends.settle();
        ends.assert_connected();
        assert_eq!(ends.back_counts.connects.get(), round);
        // Its driver is dropped in the middle of things: its state stays.
        ends.start_front();
    }
}

#[test]
fn a_new_back_end_connects_the_front_end_that_a_dead_one_left() {
    let mut ends = Ends::new(false);
    ends.settle();
    ends.start_back();
    assert_eq!(ends.states(), (Some(S::CONNECTED), Some(S::INIT_WAIT)));
    ends.settle();
    ends.assert_connected();
    assert_eq!(
        ends.front_counts.connects.get(),
        1,
        "the front end did not notice"
    );
    assert_eq!(ends.back_counts.connects.get(), 2);
}

#[test]
fn what_a_connected_front_end_changes_is_done_without_a_new_connection() {
    let mut ends = Ends::new(true);
    assert!(!ends.reconfigure(1), "there is no connection to change");
    ends.settle();
    for headroom in [256, 0, 1] {
        assert!(ends.reconfigure(headroom));
        assert_eq!(ends.states().0, Some(S::RECONFIGURING));
        ends.back_turn();
        assert_eq!(ends.states().1, Some(S::RECONFIGURED));
        assert_eq!(ends.back_counts.headroom.get(), headroom);
        // It did not wait before the next.
        ends.front_turn();
        assert!(ends.reconfigure(headroom + 1));
        ends.settle();
        ends.assert_connected();
        assert_eq!(ends.back_counts.headroom.get(), headroom + 1);
    }
    // The back end is started anew meanwhile.
    assert!(ends.reconfigure(7));
    ends.start_back();
    ends.settle();
    ends.assert_connected();
    assert_eq!(ends.back_counts.headroom.get(), 7);
    assert_eq!(ends.back_counts.connects.get(), 2);
    assert_eq!(ends.front_counts.connects.get(), 1);
}

#[test]
fn what_cannot_be_changed_closes_the_device() {
    let mut ends = Ends::new(true);
    ends.settle();
    ends.back_counts.refuses.set(true);
    assert!(ends.reconfigure(1));
    ends.settle();
    ends.assert_closed();
    let said = "/local/domain/0/error/backend/vbd/5/51712/error";
    assert!(ends.dom0.exists(NONE, said).unwrap());
}

#[test]
fn a_new_back_end_ends_what_a_dead_one_had_begun_to_end() {
    // The front end was closing.
    let mut ends = Ends::new(false);
    ends.settle();
    ends.front_mut().close().unwrap();
    ends.start_back();
    ends.settle();
    ends.assert_closed();
    // The toolstack was taking the device away.
    let mut ends = Ends::new(false);
    ends.settle();
    let mut removal = ends.removal();
    ends.start_back();
    ends.settle();
    assert_eq!(removal.process().unwrap(), Removed::Orderly);
    assert_eq!(ends.open(), (0, 0));
}

#[test]
fn a_removal_ends_when_both_ends_are_closed() {
    let mut ends = Ends::new(false);
    ends.settle();
    let mut removal = ends.removal();
    assert_eq!(removal.process().unwrap(), Removed::NotYet);
    ends.back_turn();
    assert_eq!(ends.published(true), Some(S::CLOSING));
    assert_eq!(removal.process().unwrap(), Removed::NotYet);
    assert_eq!(ends.open(), (1, 1));
    ends.settle();
    assert!(ends.back.is_none(), "it is finished");
    assert!(crate::readable(removal.event_fd()));
    assert_eq!(removal.process().unwrap(), Removed::Orderly);
    assert_eq!(ends.states(), (None, None));
    ends.settle();
    assert!(ends.front.is_none());
    assert_eq!(ends.open(), (0, 0));
    // Plugged in again, it is a device like any other.
    ends.plug();
    ends.settle();
    ends.assert_connected();
}

#[test]
fn a_removal_can_be_forced_upon_a_silent_front_end() {
    let mut ends = Ends::new(false);
    ends.settle();
    let mut removal = ends.removal();
    for _ in 0..10 {
        ends.back_turn();
        assert_eq!(removal.process().unwrap(), Removed::NotYet);
    }
    assert_eq!(removal.force().unwrap(), Removed::Forced);
    assert_eq!(ends.states(), (None, None));
    ends.back_turn();
    assert!(ends.back.is_none());
    assert_eq!(ends.back_counts.open(), 0);
    // When it speaks again, it finds its device gone, and makes nothing of it.
    ends.front_turn();
    assert!(ends.front.is_none());
    assert_eq!(ends.open(), (0, 0));
    assert_eq!(ends.states(), (None, None));
}

#[test]
fn directories_that_vanish_and_come_back_are_another_device() {
    let mut ends = Ends::new(false);
    ends.settle();
    // Neither end has looked in between.
    ends.plug();
    assert_eq!(
        ends.states(),
        (Some(S::INITIALISING), Some(S::INITIALISING))
    );
    ends.settle();
    ends.assert_connected();
    assert_eq!(ends.back_counts.connects.get(), 2);
    assert_eq!(ends.front_counts.connects.get(), 2);
    // The front end's alone, seen and unseen.
    ends.dom0.rm(NONE, &ends.id.frontend_path()).unwrap();
    ends.back_turn();
    assert_eq!(ends.published(true), Some(S::CLOSED));
    assert_eq!(ends.back_counts.open(), 0);
    ends.front_turn();
    ends.plug();
    ends.settle();
    ends.assert_connected();
}

#[test]
fn failures_are_said_where_tools_look_and_withdrawn() {
    let mut ends = Ends::new(false);
    ends.back_counts.refuses.set(true);
    ends.settle();
    ends.assert_closed();
    let said = "/local/domain/0/error/backend/vbd/5/51712/error";
    assert_eq!(
        ends.dom0.read_string(NONE, said).unwrap(),
        "22 it does not want to"
    );
    ends.back_counts.refuses.set(false);
    ends.front_mut().open().unwrap();
    ends.settle();
    ends.assert_connected();
    assert!(!ends.dom0.exists(NONE, said).unwrap());

    ends.front_counts.refuses.set(true);
    ends.start_front();
    ends.settle();
    ends.assert_closed();
    let said = "/local/domain/5/error/device/vbd/51712/error";
    assert_eq!(
        ends.dom0.read_string(NONE, said).unwrap(),
        "22 it does not want to"
    );
    toolstack::destroy_device(&*ends.dom0, &ends.id).unwrap();
    assert!(!ends.dom0.exists(NONE, said).unwrap());
}

/// What may happen to a device.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Back,
    Front,
    CloseBack,
    CloseFront,
    OpenFront,
    RestartBack,
    RestartFront,
    Reconfigure(u32),
    BackRefuses(bool),
    FrontRefuses(bool),
    Remove,
    DestroyFront,
    DestroyBoth,
    Plug,
    GuestWrites(u32),
    ToolstackWrites(u32),
    Garbage,
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        8 => Just(Deed::Back),
        8 => Just(Deed::Front),
        1 => Just(Deed::CloseBack),
        1 => Just(Deed::CloseFront),
        2 => Just(Deed::OpenFront),
        1 => Just(Deed::RestartBack),
        1 => Just(Deed::RestartFront),
        2 => (1..10_u32).prop_map(Deed::Reconfigure),
        1 => any::<bool>().prop_map(Deed::BackRefuses),
        1 => any::<bool>().prop_map(Deed::FrontRefuses),
        1 => Just(Deed::Remove),
        1 => Just(Deed::DestroyFront),
        1 => Just(Deed::DestroyBoth),
        2 => Just(Deed::Plug),
        2 => (0..12_u32).prop_map(Deed::GuestWrites),
        1 => (0..12_u32).prop_map(Deed::ToolstackWrites),
        1 => Just(Deed::Garbage),
    ]
}

impl Ends {
    fn happen(&mut self, deed: Deed) {
        let front_state = format!("{}/state", self.id.frontend_path());
        let back_state = format!("{}/state", self.id.backend_path());
        let (has_front, has_back) = (
            self.published(false).is_some(),
            self.published(true).is_some(),
        );
        match deed {
            Deed::Back => self.back_turn(),
            Deed::Front => self.front_turn(),
            Deed::CloseBack => self.on_back(Backend::close),
            Deed::CloseFront => self.on_front(Frontend::close),
            Deed::OpenFront => self.on_front(Frontend::open),
            Deed::RestartBack if self.back.is_some() => self.start_back(),
            Deed::RestartFront if self.front.is_some() => self.start_front(),
            Deed::Reconfigure(headroom) if has_front => _ = self.reconfigure(headroom),
            Deed::BackRefuses(refuses) => self.back_counts.refuses.set(refuses),
            Deed::FrontRefuses(refuses) => self.front_counts.refuses.set(refuses),
            Deed::Remove if has_back && self.back.is_some() => {
                toolstack::remove_device(&*self.dom0, &self.id).unwrap()
            }
            Deed::DestroyFront if has_front => {
                self.dom0.rm(NONE, &self.id.frontend_path()).unwrap()
            }
            Deed::DestroyBoth => toolstack::destroy_device(&*self.dom0, &self.id).unwrap(),
            Deed::Plug => self.plug(),
            Deed::GuestWrites(state) if has_front => {
                self.write(&front_state, state.to_string().as_bytes());
            }
            // Where the device is on its way out, the back end may be through already, and repairs nothing.
            Deed::ToolstackWrites(state) if has_back && self.is_online() => {
                self.write(&back_state, state.to_string().as_bytes());
            }
            Deed::Garbage if has_front => self.write(&front_state, b"\xff4 "),
            _ => {}
        }
    }

    fn is_online(&self) -> bool {
        let online = format!("{}/online", self.id.backend_path());
        self.dom0.read(NONE, &online).unwrap() == b"1"
    }

    fn write(&self, path: &str, value: &[u8]) {
        self.dom0.write(NONE, path, value).unwrap();
    }
}

proptest! {
    /// Whatever happens: when nobody hinders them any more, both ends are connected, or closed, or gone; and every connection was
    /// ended once (the counts see to that, at each step).
    #[test]
    fn both_ends_come_to_rest(
        complete in any::<bool>(),
        deeds in prop::collection::vec(deed(), 0..60),
    ) {
        let mut ends = Ends::new(complete);
        // A toolstack that says `Reconfigured` in the back end's place deceives the front end.
        let deceived = deeds.iter().any(|deed| matches!(deed, Deed::ToolstackWrites(8)));
        for deed in deeds {
            ends.happen(deed);
        }
        ends.back_counts.refuses.set(false);
        ends.front_counts.refuses.set(false);
        ends.settle();
        let open = ends.open();
        match ends.states() {
            (Some(S::CONNECTED), Some(S::CONNECTED)) => {
                prop_assert_eq!(open, (1, 1));
                let path = format!("{}/headroom", ends.id.frontend_path());
                let headroom = match ends.dom0.exists(NONE, &path).unwrap() {
                    true => ends.dom0.read_parsed(NONE, &path).unwrap(),
                    false => 0,
                };
                prop_assert!(deceived || ends.back_counts.headroom.get() == headroom);
            }
            (Some(S::CLOSED), Some(S::CLOSED)) | (None, None) => prop_assert_eq!(open, (0, 0)),
            // Its front end's directory is gone, and it waits for another.
            (None, Some(S::CLOSED | S::INIT_WAIT)) => prop_assert_eq!(open, (0, 0)),
            states => prop_assert!(false, "{states:?}"),
        }
        // And whatever it was, a device that is plugged in again works.
        toolstack::destroy_device(&*ends.dom0, &ends.id).unwrap();
        ends.settle();
        prop_assert_eq!(ends.open(), (0, 0));
        ends.plug();
        ends.settle();
        ends.assert_connected();
    }
}
