//! The packets of the attach socket.

use cantle_abi::{DomId, Errno, Port};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::Introduction;

/// The first four bytes of every packet: "XSA" and the protocol's version.
pub const MAGIC: u32 = u32::from_le_bytes(*b"XSA1");

const INTRODUCE: u16 = 1;
const RELEASE: u16 = 2;
const ANSWER: u16 = 3;

const INTERRUPTED: u32 = 1;

/// A packet as it travels.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Packet {
    magic: U32,
    kind: U16,
    domid: U16,
    /// A port, or an error's number.
    number: U32,
    flags: U32,
    offset: U64,
    features: U32,
    reserved: U32,
}

const _: () = assert!(size_of::<Packet>() == 32);

/// What a packet says, checked for its form only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message {
    Introduce(Introduction),
    Release(DomId),
    Answer(Result<(), Errno>),
}

impl Message {
    pub(super) fn emit(self) -> Packet {
        let empty = Packet {
            magic: MAGIC.into(),
            kind: 0.into(),
            domid: 0.into(),
            number: 0.into(),
            flags: 0.into(),
            offset: 0.into(),
            features: 0.into(),
            reserved: 0.into(),
        };
        match self {
            Self::Introduce(guest) => Packet {
                kind: INTRODUCE.into(),
                domid: guest.domid.0.into(),
                number: guest.port.0.into(),
                flags: u32::from(guest.interrupted).into(),
                offset: guest.offset.into(),
                features: guest.features.into(),
                ..empty
            },
            Self::Release(domid) => Packet {
                kind: RELEASE.into(),
                domid: domid.0.into(),
                ..empty
            },
            Self::Answer(result) => Packet {
                kind: ANSWER.into(),
                number: result
                    .map_or_else(|errno| errno.0.cast_unsigned(), |()| 0)
                    .into(),
                ..empty
            },
        }
    }

    /// `None` for what is no packet of this protocol.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let packet = Packet::read_from_bytes(bytes).ok()?;
        if packet.magic.get() != MAGIC || packet.reserved.get() != 0 {
            return None;
        }
        let domid = DomId(packet.domid.get());
        match packet.kind.get() {
            INTRODUCE if packet.flags.get() & !INTERRUPTED == 0 => {
                Some(Self::Introduce(Introduction {
                    domid,
                    port: Port(packet.number.get()),
                    offset: packet.offset.get(),
                    features: packet.features.get(),
                    interrupted: packet.flags.get() & INTERRUPTED != 0,
                }))
            }
            RELEASE => Some(Self::Release(domid)),
            ANSWER => Some(Self::Answer(match packet.number.get().cast_signed() {
                0 => Ok(()),
                errno => Err(Errno(errno)),
            })),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn messages() -> impl Strategy<Value = Message> {
        let introduce = (
            any::<u16>(),
            any::<u32>(),
            any::<u64>(),
            any::<u32>(),
            any::<bool>(),
        )
            .prop_map(|(domid, port, offset, features, interrupted)| {
                Message::Introduce(Introduction {
                    domid: DomId(domid),
                    port: Port(port),
                    offset,
                    features,
                    interrupted,
                })
            });
        prop_oneof![
            introduce,
            any::<u16>().prop_map(|domid| Message::Release(DomId(domid))),
            Just(Message::Answer(Ok(()))),
            (1..200i32).prop_map(|errno| Message::Answer(Err(Errno(errno)))),
        ]
    }

    proptest! {
        #[test]
        fn what_is_emitted_is_parsed(message in messages()) {
            prop_assert_eq!(Message::parse(message.emit().as_bytes()), Some(message));
        }

        #[test]
        fn any_bytes_are_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = Message::parse(&bytes);
        }
    }

    #[test]
    fn a_packet_with_one_thing_wrong_is_none() {
        let whole = Message::Release(DomId(7)).emit();
        let bytes = whole.as_bytes();
        assert!(Message::parse(bytes).is_some());
        assert_eq!(Message::parse(&bytes[..31]), None);
        for (at, value) in [(0, 0), (3, b'2'), (4, 9), (31, 1)] {
            let mut wrong = bytes.to_vec();
            wrong[at] = value;
            assert_eq!(Message::parse(&wrong), None, "byte {at}");
        }
        let mut flags = Message::Introduce(Introduction {
            domid: DomId(1),
            port: Port(1),
            offset: 0,
            features: 0,
            interrupted: false,
        })
        .emit();
        flags.flags = 2.into();
        assert_eq!(Message::parse(flags.as_bytes()), None, "an unknown flag");
    }
}
