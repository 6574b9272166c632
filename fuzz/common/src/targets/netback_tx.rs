//! The network back end with a hostile front end: slots, extra infos, ring and states as it likes.

use arbitrary::Arbitrary;
use cantle_abi::GrantRef;
use cantle_abi::io::netif::{NetifExtraInfo, NetifTxRequest};
use cantle_netback::test_utils::{FrontOptions, NetFront, Outgoing, Shape, World, settle};
use cantle_netport::headers::IpVersion;
use cantle_netport::test_utils::{Recorded, Recorder, RecorderHandle};
use cantle_netport::{Checksum, Gso, GsoKind, Offload};
use cantle_xenstore::xenbus::XenbusState;

use crate::input::{self, Odd};
use crate::scribble;

#[derive(Arbitrary, Debug)]
enum Action {
    /// A sound packet.
    Packet(Odd, bool, Option<(u8, Odd)>),
    /// A slot: page, offset, flags, size.
    Slot(Odd, Odd, u8, Odd),
    Extra(u8, u8, [u8; 6]),
    /// A sound packet with extra info of any kinds.
    Chain(Odd, Vec<(u8, [u8; 6])>),
    Kick,
    /// The front end takes its answers.
    Answers,
    /// The back end works.
    Process,
    Index(bool, u8, Odd),
    Write(bool, Odd, u32),
    /// A byte of a page that is being sent changes.
    Data(u8, Odd, u8),
    Post(u8),
    /// A packet comes from the wire.
    Wire(Odd, bool),
    Receive,
    State(u8),
}

/// Runs one input.
///
/// # Panics
///
/// Where the back end fails or does not come to rest, or sends what is no frame.
pub fn run(data: &[u8]) {
    let world = World::new();
    let Ok((port, wire)) = Recorder::new() else {
        return;
    };
    let Ok(mut backend) = world.backend(Box::new(port)) else {
        return;
    };
    let mut front = world.front(&FrontOptions::default());
    let mut served = settle(&mut backend);
    let mut session = Session { honest: true };
    for action in input::actions(data) {
        if let Action::Process = action {
            served = settle(&mut backend);
            check(&wire);
        } else {
            session.act(&mut front, &wire, &action);
        }
        if !served {
            return;
        }
    }
    front.kick();
    front.notify_tx();
    if settle(&mut backend)
        && session.honest
        && backend.state() == XenbusState::CONNECTED
        && front.backend_state() == XenbusState::CONNECTED
    {
        front.responses();
    }
    check(&wire);
}

/// What goes out has a length that a wire knows, and metadata that fit it.
fn check(wire: &RecorderHandle) {
    for Recorded { bytes, offload } in wire.take_sent() {
        assert!(
            (14..=65_535).contains(&bytes.len()),
            "a frame of {} bytes",
            bytes.len()
        );
        if let Checksum::Blank { start, offset } = offload.checksum {
            let field = usize::from(start) + usize::from(offset);
            assert!(
                field + 2 <= bytes.len(),
                "a checksum at {field} of {}",
                bytes.len()
            );
        }
        if let Some(gso) = offload.gso {
            assert!(gso.size > 0 && usize::from(gso.header_len) <= bytes.len());
        }
    }
}

struct Session {
    /// The front end has not written over its rings, so that it can read them.
    honest: bool,
}

impl Session {
    fn act(&mut self, front: &mut NetFront, wire: &RecorderHandle, action: &Action) {
        match action {
            Action::Packet(len, blank, gso) => {
                let payload = vec![1; usize::from(len.half()) % 20_000];
                let bytes = Shape::tcp(IpVersion::V4, payload).build(*blank);
                let gso = gso.map(|(kind, size)| (kind % 4, size.half()));
                front.send(&Outgoing {
                    bytes: &bytes,
                    csum_blank: *blank,
                    gso,
                    ..Outgoing::default()
                });
            }
            Action::Slot(page, offset, flags, size) => {
                let buffer = front.tx_buffer(page.half() % 256).1;
                // Mostly a page that is granted.
                let gref = if page.0 > 0xffff {
                    GrantRef(page.word())
                } else {
                    buffer
                };
                front.push_slot(&NetifTxRequest {
                    gref,
                    offset: offset.half(),
                    flags: u16::from(*flags),
                    id: page.half() % 256,
                    size: size.half(),
                });
            }
            Action::Extra(kind, flags, u) => {
                let extra = NetifExtraInfo {
                    kind: kind % 8,
                    flags: *flags,
                    u: *u,
                };
                front.push_slot(&extra.to_tx_slot());
            }
            Action::Chain(len, extras) => {
                let payload = vec![1; usize::from(len.half()) % 9000];
                let bytes = Shape::tcp(IpVersion::V4, payload).build(true);
                let last = extras.len().min(6);
                let extras = extras.iter().take(6).enumerate();
                let extras: Vec<_> = extras
                    .map(|(n, (kind, u))| NetifExtraInfo {
                        kind: kind % 6,
                        flags: u8::from(n + 1 < last),
                        u: *u,
                    })
                    .collect();
                let packet = Outgoing {
                    bytes: &bytes,
                    csum_blank: true,
                    ..Outgoing::default()
                };
                front.send_with(&packet, &extras);
            }
            Action::Kick => front.kick(),
            Action::Answers if self.honest => {
                let _ = front.responses();
            }
            Action::Receive if self.honest => {
                let _ = front.drain();
            }
            Action::Post(count) => front.post(u16::from(*count)),
            Action::Index(rx, index, to) => {
                self.honest = false;
                let page = if *rx {
                    front.rx_ring_page()
                } else {
                    front.tx_ring_page()
                };
                let at = usize::from(index % 4) * 4;
                scribble::write(page, at, &to.word().to_le_bytes());
            }
            Action::Write(rx, at, value) => {
                self.honest = false;
                let page = if *rx {
                    front.rx_ring_page()
                } else {
                    front.tx_ring_page()
                };
                scribble::write(page, usize::from(at.half()), &value.to_le_bytes());
            }
            Action::Data(page, at, value) => {
                let page = front.tx_buffer(u16::from(*page)).0;
                scribble::write(page, usize::from(at.half()), &[*value]);
            }
            Action::Wire(len, large) => {
                let payload = vec![2; usize::from(len.half()) % 60_000];
                let shape = Shape::tcp(IpVersion::V4, payload);
                let gso = Gso {
                    kind: GsoKind::TcpV4,
                    size: 1448,
                    header_len: 54,
                    ecn: false,
                };
                wire.inject(Recorded {
                    bytes: shape.build(false),
                    offload: Offload {
                        checksum: Checksum::Present,
                        gso: large.then_some(gso),
                    },
                });
            }
            Action::State(state) => front.set_state(XenbusState(u32::from(*state % 9))),
            Action::Process | Action::Answers | Action::Receive => {}
        }
    }
}
