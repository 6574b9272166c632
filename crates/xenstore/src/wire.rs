//! The wire protocol: messages in, messages out, no I/O.
//!
//! A message is a 16-byte header and up to 4096 bytes of payload, whose form depends on the kind: strings that end in NUL,
//! and for a write the value's bytes.

use cantle_abi::Errno;
use cantle_abi::io::xs_wire::{XENSTORE_PAYLOAD_MAX, XS_ERROR, XsType, XsdSockmsg};
use zerocopy::{FromBytes, IntoBytes};

/// The length of a message's header, in bytes.
pub const HEADER_SIZE: usize = size_of::<XsdSockmsg>();

/// The length of the longest message, in bytes.
pub const MESSAGE_MAX: usize = HEADER_SIZE + XENSTORE_PAYLOAD_MAX;

/// A message whose header announces more payload than the protocol allows. What follows cannot be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a message of {len} bytes is longer than the protocol allows")]
pub struct TooLong {
    /// The length that the header announced.
    pub len: u32,
}

/// One message, borrowed from the bytes it came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// The header; its `len` is the payload's length.
    pub header: XsdSockmsg,
    /// The payload.
    pub payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// The first message of `bytes` and what follows it; `None` where it is not all there yet.
    ///
    /// # Errors
    ///
    /// [`TooLong`], as soon as the header is there.
    pub fn parse(bytes: &'a [u8]) -> Result<Option<(Self, &'a [u8])>, TooLong> {
        let Ok((header, rest)) = XsdSockmsg::read_from_prefix(bytes) else {
            return Ok(None);
        };
        let len = payload_len(&header)?;
        let Some((payload, rest)) = rest.split_at_checked(len) else {
            return Ok(None);
        };
        Ok(Some((Self { header, payload }, rest)))
    }

    /// How many bytes a message has that begins with `bytes`; `None` where its header is not all there yet.
    ///
    /// # Errors
    ///
    /// [`TooLong`], as for [`parse`](Self::parse).
    pub fn length(bytes: &[u8]) -> Result<Option<usize>, TooLong> {
        let Ok((header, _)) = XsdSockmsg::read_from_prefix(bytes) else {
            return Ok(None);
        };
        Ok(Some(HEADER_SIZE + payload_len(&header)?))
    }
}

fn payload_len(header: &XsdSockmsg) -> Result<usize, TooLong> {
    usize::try_from(header.len)
        .ok()
        .filter(|len| *len <= XENSTORE_PAYLOAD_MAX)
        .ok_or(TooLong { len: header.len })
}

/// Appends a message to `out`; its payload is the `parts`, one after the other.
///
/// # Errors
///
/// `E2BIG` where the payload is longer than the protocol allows; nothing is appended then.
pub fn emit(
    out: &mut Vec<u8>,
    kind: XsType,
    req_id: u32,
    tx_id: u32,
    parts: &[&[u8]],
) -> Result<(), Errno> {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    if len > XENSTORE_PAYLOAD_MAX {
        return Err(Errno::E2BIG);
    }
    let len = u32::try_from(len).map_err(|_| Errno::E2BIG)?;
    let header = XsdSockmsg {
        kind,
        req_id,
        tx_id,
        len,
    };
    out.extend_from_slice(header.as_bytes());
    parts.iter().for_each(|part| out.extend_from_slice(part));
    Ok(())
}

/// What a reply says: its payload, or the error that it names. An error that has no name in this protocol is `EIO`.
///
/// # Errors
///
/// The one in the reply.
pub fn reply(kind: XsType, payload: &[u8]) -> Result<&[u8], Errno> {
    if kind != XS_ERROR {
        return Ok(payload);
    }
    let name = payload.strip_suffix(b"\0").unwrap_or(payload);
    Err(core::str::from_utf8(name)
        .ok()
        .and_then(Errno::from_name)
        .unwrap_or(Errno::EIO))
}

/// The text of an error on the wire, without its NUL. Those that the protocol has no string for become `EIO`.
pub(crate) fn error_text(errno: Errno) -> &'static str {
    const SPOKEN: [Errno; 16] = [
        Errno::EINVAL,
        Errno::EACCES,
        Errno::EEXIST,
        Errno::EISDIR,
        Errno::ENOENT,
        Errno::ENOMEM,
        Errno::ENOSPC,
        Errno::EIO,
        Errno::ENOTEMPTY,
        Errno::ENOSYS,
        Errno::EROFS,
        Errno::EBUSY,
        Errno::EAGAIN,
        Errno::EISCONN,
        Errno::E2BIG,
        Errno::EPERM,
    ];
    let spoken = SPOKEN.contains(&errno).then(|| errno.name()).flatten();
    spoken.unwrap_or("EIO")
}

/// A payload that is exactly `N` strings, each with its NUL.
pub(crate) fn strings<const N: usize>(payload: &[u8]) -> Result<[&[u8]; N], Errno> {
    let body = payload.strip_suffix(b"\0").ok_or(Errno::EINVAL)?;
    let mut found = body.split(|byte| *byte == 0);
    let mut strings = [&[][..]; N];
    for string in &mut strings {
        *string = found.next().ok_or(Errno::EINVAL)?;
    }
    match found.next() {
        None => Ok(strings),
        Some(_) => Err(Errno::EINVAL),
    }
}

/// A payload that begins with `N` strings, each with its NUL, and anything after them.
pub(crate) fn strings_and_rest<const N: usize>(
    payload: &[u8],
) -> Result<([&[u8]; N], &[u8]), Errno> {
    let mut rest = payload;
    let mut strings = [&[][..]; N];
    for string in &mut strings {
        (*string, rest) = string_and_rest(rest)?;
    }
    Ok((strings, rest))
}

/// A payload that is a string with its NUL, and anything after it.
pub(crate) fn string_and_rest(payload: &[u8]) -> Result<(&[u8], &[u8]), Errno> {
    let end = payload
        .iter()
        .position(|byte| *byte == 0)
        .ok_or(Errno::EINVAL)?;
    let (string, rest) = payload.split_at(end);
    Ok((string, rest.get(1..).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use cantle_abi::io::xs_wire::{XS_READ, XS_WRITE};
    use proptest::prelude::*;

    #[test]
    fn the_length_is_checked_before_the_payload_is_there() {
        let mut bytes = Vec::new();
        emit(&mut bytes, XS_WRITE, 1, 2, &[b"/a\0", b"x"]).unwrap();
        assert_eq!(Message::parse(&bytes[..bytes.len() - 1]), Ok(None));
        assert_eq!(Message::length(&bytes[..15]), Ok(None));
        assert_eq!(Message::length(&bytes[..16]), Ok(Some(20)));
        bytes[12..16].copy_from_slice(&4097_u32.to_le_bytes());
        assert_eq!(Message::parse(&bytes[..16]), Err(TooLong { len: 4097 }));
        // XSA-420's relative: a length that would be negative.
        bytes[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(Message::parse(&bytes), Err(TooLong { len: u32::MAX }));
    }

    #[test]
    fn a_payload_over_the_limit_is_not_emitted() {
        let mut out = Vec::new();
        assert_eq!(
            emit(&mut out, XS_READ, 0, 0, &[&[0; 4097]]),
            Err(Errno::E2BIG)
        );
        assert!(out.is_empty());
        assert_eq!(emit(&mut out, XS_READ, 0, 0, &[&[0; 4096]]), Ok(()));
        assert_eq!(out.len(), MESSAGE_MAX);
    }

    #[test]
    fn strings_are_counted_exactly() {
        assert_eq!(strings::<2>(b"a\0b\0"), Ok([&b"a"[..], b"b"]));
        assert_eq!(strings::<1>(b"\0"), Ok([&b""[..]]));
        for bad in [&b""[..], b"a", b"a\0b", b"a\0", b"a\0b\0c\0"] {
            assert_eq!(strings::<2>(bad), Err(Errno::EINVAL), "{bad:?}");
        }
    }

    #[test]
    fn errors_are_spoken_as_the_protocol_spells_them() {
        assert_eq!(error_text(Errno::ENOENT), "ENOENT");
        assert_eq!(error_text(Errno::EQUOT), "EIO");
        assert_eq!(reply(XS_ERROR, b"EAGAIN\0"), Err(Errno::EAGAIN));
        assert_eq!(reply(XS_ERROR, b"nonsense"), Err(Errno::EIO));
        assert_eq!(reply(XS_READ, b"EAGAIN\0"), Ok(&b"EAGAIN\0"[..]));
    }

    proptest! {
        #[test]
        fn what_is_emitted_is_parsed(
            kind in any::<u32>(), req_id in any::<u32>(), tx_id in any::<u32>(),
            payload in prop::collection::vec(any::<u8>(), 0..4096), tail in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let mut bytes = Vec::new();
            emit(&mut bytes, XsType(kind), req_id, tx_id, &[&payload]).unwrap();
            bytes.extend_from_slice(&tail);
            let (message, rest) = Message::parse(&bytes).unwrap().unwrap();
            prop_assert_eq!(message.header.kind, XsType(kind));
            prop_assert_eq!((message.header.req_id, message.header.tx_id), (req_id, tx_id));
            prop_assert_eq!(message.payload, &payload[..]);
            prop_assert_eq!(rest, &tail[..]);
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = Message::parse(&bytes);
        }
    }
}
