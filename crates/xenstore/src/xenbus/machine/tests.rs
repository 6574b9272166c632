//! The two tables against each other: every way that they can be interleaved.

use std::collections::{BTreeMap, BTreeSet};

use cantle_abi::io::xenbus::XenbusState as S;

use super::{Back, BackMove, BackSight, Front, FrontMove, FrontSight, Peer};

/// Both ends and the nodes between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct World {
    front: Front,
    back: Back,
    front_node: Option<S>,
    back_node: Option<S>,
    online: bool,
    /// The front end has changed keys, and the back end has not looked at them since.
    stale: bool,
}

impl World {
    fn new() -> Self {
        Self {
            front: Front::new(),
            back: Back::new(),
            front_node: Some(S::INITIALISING),
            back_node: Some(S::INITIALISING),
            online: true,
            stale: false,
        }
    }

    fn peer(node: Option<S>) -> Peer {
        node.map_or(Peer::Gone, Peer::from)
    }

    /// The back end's turn; `fails` where its device does not connect. Whether it moved.
    fn back(&mut self, fails: bool) -> bool {
        if self.back.is_finished() {
            return false;
        }
        let seen = BackSight {
            own: self.back_node,
            online: self.online,
            front: Self::peer(self.front_node),
        };
        let step = self.back.due(&seen);
        match step {
            BackMove::Rest => return false,
            BackMove::Await | BackMove::Shut | BackMove::Vanish => _ = self.back.detach(),
            BackMove::Connect => {
                assert!(!self.back.is_attached(), "a second connection: {self:?}");
                if !fails {
                    self.back.attached();
                    self.stale = false;
                }
            }
            BackMove::Reconfigure | BackMove::Resume => {
                assert!(self.back.is_attached(), "nothing to change: {self:?}");
                if fails {
                    self.back.refused();
                    self.back_node = Some(self.back.state());
                    return true;
                }
                self.stale = false;
            }
            BackMove::Close | BackMove::Restate => {}
        }
        self.back.made(step, self.online);
        if step != BackMove::Vanish {
            self.back_node = Some(self.back.state());
        }
        true
    }

    fn front(&mut self, fails: bool, one_step: bool) -> bool {
        if self.front.is_finished() {
            return false;
        }
        let seen = FrontSight {
            own: self.front_node,
            online: self.online,
            back: Self::peer(self.back_node),
        };
        let step = self.front.due(&seen);
        let mut said = S::CONNECTED;
        match step {
            FrontMove::Rest => return false,
            FrontMove::Begin | FrontMove::Shut | FrontMove::Vanish => {
                _ = self.front.detach();
                // What comes is a connection with keys of its own.
                self.stale = false;
            }
            FrontMove::Offer => {
                assert!(!self.front.is_attached(), "a second offer: {self:?}");
                if fails {
                    said = S::CLOSING;
                } else {
                    self.front.attached();
                    if !one_step {
                        said = S::INITIALISED;
                    }
                }
            }
            FrontMove::Connect if fails => said = S::CLOSING,
            FrontMove::Resume => {
                // Somebody may have said so in the back end's place, and it will not look again.
                self.stale &= self.back.state() == S::RECONFIGURED;
            }
            FrontMove::Connect | FrontMove::Close | FrontMove::Restate => {}
        }
        self.front.made(step, said);
        if step != FrontMove::Vanish {
            self.front_node = Some(self.front.state());
        }
        true
    }

    /// Everything that may happen next, of which some is the ends' own doing.
    fn successors(&self) -> Vec<Self> {
        let mut all = Vec::new();
        let mut add = |change: &dyn Fn(&mut Self)| {
            let mut next = *self;
            change(&mut next);
            all.push(next);
        };
        for fails in [false, true] {
            add(&|w| _ = w.back(fails));
            add(&|w| _ = w.front(fails, false));
            add(&|w| _ = w.front(fails, true));
        }
        add(&|w| w.back.ask_close());
        add(&|w| w.front.ask_close());
        add(&|w| w.front.ask_open());
        if self.front.is_connected() && self.front_node.is_some() {
            add(&|w| {
                w.front.reconfiguring();
                w.front_node = Some(w.front.state());
                w.stale = true;
            });
        }
        // The guest starts another kernel; the back end is started anew.
        add(&|w| w.front = Front::new());
        add(&|w| w.back = Back::new());
        // The toolstack's removal, its force, and the same device once more.
        add(&|w| {
            w.online = false;
            if w.back_node.is_some() {
                w.back_node = Some(S::CLOSING);
            }
        });
        add(&|w| w.back_node = None);
        add(&|w| w.front_node = None);
        add(&|w| {
            w.online = true;
            w.front_node = Some(S::INITIALISING);
            w.back_node = Some(S::INITIALISING);
            if w.back.is_finished() {
                w.back = Back::new();
            }
            if w.front.is_finished() {
                w.front = Front::new();
            }
        });
        // Whatever a guest may write, and a toolstack.
        for state in 0..=9 {
            if self.front_node.is_some() {
                add(&|w| w.front_node = Some(S(state)));
            }
            // A back end that is finished repairs nothing.
            if self.back_node.is_some() && !self.back.is_finished() {
                add(&|w| w.back_node = Some(S(state)));
            }
        }
        all
    }

    /// Lets both ends go on by themselves, in turns that `order` chooses, until neither moves.
    fn settled(mut self, order: u32, one_step: bool) -> Self {
        let begin = self;
        for turn in 0..40 {
            let back_first = order >> (turn % 8) & 1 == 1;
            let mut moved = back_first && self.back(false);
            moved = moved || self.front(false, one_step) || self.back(false);
            if !moved {
                return self;
            }
        }
        panic!("no end of it from {begin:?}; last {self:?}");
    }
}

/// Every world that can be reached, by whatever may happen.
fn reachable() -> BTreeSet<World> {
    let mut seen = BTreeSet::from([World::new()]);
    let mut new = vec![World::new()];
    while let Some(world) = new.pop() {
        for next in world.successors() {
            if seen.insert(next) {
                new.push(next);
            }
        }
    }
    seen
}

#[test]
fn whatever_happened_both_ends_are_connected_or_closed_when_nobody_hinders_them() {
    let worlds = reachable();
    assert!(worlds.len() > 1000, "only {} worlds", worlds.len());
    let mut ends = BTreeMap::<_, u32>::new();
    for world in worlds {
        for order in [0, 0xff, 0b0101_0101, 0b0011_0110] {
            for one_step in [false, true] {
                let end = world.settled(order, one_step);
                let states = (
                    end.front_node.map(|_| end.front.state()),
                    end.back_node.map(|_| end.back.state()),
                );
                *ends.entry(states).or_default() += 1;
                let attached = (end.front.is_attached(), end.back.is_attached());
                match states {
                    (Some(S::CONNECTED), Some(S::CONNECTED)) => {
                        assert_eq!(attached, (true, true), "from {world:?} to {end:?}");
                        assert!(end.online, "from {world:?} to {end:?}");
                        assert!(!end.stale, "from {world:?} to {end:?}");
                    }
                    // One end's directory was taken away: the other is closed, or has not begun.
                    (Some(S::CLOSED), Some(S::CLOSED) | None)
                    | (None, Some(S::CLOSED) | None)
                    | (Some(S::INITIALISING), None)
                    | (None, Some(S::INIT_WAIT)) => {
                        assert_eq!(attached, (false, false), "from {world:?} to {end:?}");
                    }
                    _ => panic!("from {world:?} to {end:?}"),
                }
            }
        }
    }
    assert!(ends.contains_key(&(Some(S::CONNECTED), Some(S::CONNECTED))));
    assert!(ends.contains_key(&(Some(S::CLOSED), Some(S::CLOSED))));
}

/// The whole of the back end's table, a row for each of its stages: what is due for a front end that is
/// gone, starts, waits, is ready, closes, is closed, reconfigures, has reconfigured, says something odd.
#[test]
fn the_back_ends_table() {
    const PEERS: [Peer; 9] = [
        Peer::Gone,
        Peer::Starts,
        Peer::Waits,
        Peer::Ready,
        Peer::Closing,
        Peer::Closed,
        Peer::Reconfigures,
        Peer::Reconfigured,
        Peer::Odd,
    ];
    let stages: [(&str, &[(BackMove, bool)]); 6] = [
        ("new", &[]),
        ("waiting", &[(BackMove::Await, false)]),
        (
            "connected",
            &[(BackMove::Await, false), (BackMove::Connect, true)],
        ),
        (
            "reconfigured",
            &[
                (BackMove::Await, false),
                (BackMove::Connect, true),
                (BackMove::Reconfigure, false),
            ],
        ),
        (
            "closing",
            &[
                (BackMove::Await, false),
                (BackMove::Connect, true),
                (BackMove::Close, false),
            ],
        ),
        ("closed", &[(BackMove::Shut, false)]),
    ];
    let expected = [
        // stay                          leave
        ("new", "A A A A C S A A A", "S S S C C S C S S"),
        ("waiting", "- - - N C S N - -", "S S S C C S C S S"),
        ("connected", "S A - - C S F - -", "S S C C C S C C C"),
        ("reconfigured", "S A - M C S - - -", "S S C C C S C C C"),
        ("closing", "S A - - - S - - -", "S S - - - S - - -"),
        ("closed", "- A - A - - - - -", "S S S S S S S S S"),
    ];
    for ((name, way), (row, stay, leave)) in stages.iter().zip(expected) {
        assert_eq!(*name, row);
        let mut back = Back::new();
        for (step, attaches) in *way {
            if *attaches {
                back.attached();
            }
            back.made(*step, true);
        }
        for (online, letters) in [(true, stay), (false, leave)] {
            let due: Vec<&str> = PEERS
                .iter()
                .map(|front| {
                    let own = Some(back.state());
                    letter(back.due(&BackSight {
                        own,
                        online,
                        front: *front,
                    }))
                })
                .collect();
            assert_eq!(due.join(" "), letters, "{name}, online: {online}");
        }
    }
}

fn letter(step: BackMove) -> &'static str {
    match step {
        BackMove::Rest => "-",
        BackMove::Await => "A",
        BackMove::Connect => "N",
        BackMove::Reconfigure => "F",
        BackMove::Resume => "M",
        BackMove::Close => "C",
        BackMove::Shut => "S",
        BackMove::Restate => "R",
        BackMove::Vanish => "V",
    }
}

/// Every number that there is as a state has a meaning, and none is taken for a promise.
#[test]
fn unknown_states_are_odd() {
    for state in 0..1000 {
        let odd = !(0..=8).contains(&state);
        assert_eq!(Peer::from(S(state)) == Peer::Odd, odd, "{state}");
    }
    assert_eq!(Peer::from(S(u32::MAX)), Peer::Odd);
    assert_eq!(Peer::from(S::parse(b"4\0")), Peer::Ready);
    for text in [&b""[..], b"four", b"-1", b"4294967296", b"4 4", b"\xff"] {
        assert_eq!(Peer::from(S::parse(text)), Peer::Gone);
    }
}
