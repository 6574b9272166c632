//! The messages between a broker and a back end's process.
//!
//! A message is a header and items of one kind; a socket of whole messages (`SOCK_SEQPACKET`) keeps them apart. The back end asks, the
//! broker answers each request by one reply of the same number, with an item for each item. Both read what comes as bytes
//! of a hostile party; this module does that without touching anything else.

use std::marker::PhantomData;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The most items of a message: pages that are mapped, unmapped or copied at once.
pub const MAX_ITEMS: usize = 64;
/// No item is larger.
const MAX_ITEM: usize = 16;
/// No message is longer, in bytes.
pub const MAX_MESSAGE: usize = size_of::<Header>() + MAX_ITEMS * MAX_ITEM;

/// What a message is; unknown numbers are possible.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Kind(pub u16);

impl Kind {
    /// The broker's first word, with the memory's descriptors: [`WindowSize`] items.
    pub const HELLO: Self = Self(1);
    /// The back end's windows are made; with its userfaultfd and its `pagemap`: [`WindowPlace`] items.
    pub const READY: Self = Self(2);
    /// The back end is confined, and asks to be served: no items, nor in the reply.
    pub const CONFINED: Self = Self(3);
    /// [`MapItem`]s; the reply has [`Mapped`].
    pub const MAP: Self = Self(4);
    /// Handles (`u32`); the reply has [`Status`].
    pub const UNMAP: Self = Self(5);
    /// [`CopyItem`]s; the reply has [`Status`].
    pub const COPY: Self = Self(6);
}

/// Before the items.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Header {
    /// What it is.
    pub kind: Kind,
    /// How many items.
    pub count: u16,
    /// A request's number, chosen by who asks; its reply has the same.
    pub seq: u32,
}

/// A window onto one file of a guest's memory, as the broker asks for it.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct WindowSize {
    /// In bytes.
    pub len: u64,
    /// Whose memory.
    pub granter: u16,
    /// Zero.
    pub reserved: [u16; 3],
}

/// Where a window is in the back end's address space.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct WindowPlace {
    /// The address for reading and writing.
    pub read_write: u64,
    /// The address for reading only.
    pub read_only: u64,
}

/// A grant to be mapped.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct MapItem {
    /// Whose.
    pub granter: u16,
    /// 1 to read only; other bits are zero.
    pub flags: u16,
    /// Which.
    pub gref: u32,
}

impl MapItem {
    /// The mapping is for reading.
    pub const READ_ONLY: u16 = 1;
}

/// What became of a map.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Mapped {
    /// `GNTST_*`; what follows counts where it is okay.
    pub status: i16,
    /// Which window the page is in: its place in [`Kind::HELLO`].
    pub window: u16,
    /// What to unmap by.
    pub handle: u32,
    /// Which page of the window.
    pub page: u64,
}

/// A piece to be copied, between a granted page and a page of the bounce buffer.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct CopyItem {
    /// Whose.
    pub granter: u16,
    /// 1 to copy into the granted page, else out of it; other bits are zero.
    pub flags: u16,
    /// Which.
    pub gref: u32,
    /// Where in the granted page.
    pub offset: u16,
    /// How many bytes.
    pub len: u16,
    /// Which page of the bounce buffer; the bytes are at its beginning.
    pub slot: u32,
}

impl CopyItem {
    /// The granted page is written.
    pub const WRITE: u16 = 1;
}

/// What became of an unmap or a copy.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Status {
    /// `GNTST_*`.
    pub status: i16,
}

/// Bytes that are no message, or not the one that was to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no message of the protocol")]
pub struct BadMessage;

/// The items of a message, copied out one by one.
#[derive(Clone, Copy, Debug)]
pub struct Items<'a, T> {
    bytes: &'a [u8],
    kind: PhantomData<T>,
}

impl<T: FromBytes> Items<'_, T> {
    /// How many.
    #[must_use]
    pub fn count(&self) -> usize {
        self.bytes.len() / size_of::<T>()
    }

    /// One after the other.
    pub fn iter(&self) -> impl Iterator<Item = T> {
        let parts = self.bytes.chunks_exact(size_of::<T>());
        parts.filter_map(|part| T::read_from_bytes(part).ok())
    }
}

/// Takes a message apart: its header, and items of the given kind.
///
/// # Errors
///
/// [`BadMessage`] where the length is not what the header says, or there are more than [`MAX_ITEMS`].
pub fn parse<T: FromBytes>(bytes: &[u8]) -> Result<(Header, Items<'_, T>), BadMessage> {
    let (header, bytes) = Header::read_from_prefix(bytes).map_err(|_| BadMessage)?;
    let count = usize::from(header.count);
    if count > MAX_ITEMS || bytes.len() != count * size_of::<T>() {
        return Err(BadMessage);
    }
    let kind = PhantomData;
    Ok((header, Items { bytes, kind }))
}

/// What a back end asks for while it is served.
#[derive(Clone, Copy, Debug)]
pub enum Request<'a> {
    /// [`Kind::CONFINED`].
    Confined,
    /// [`Kind::MAP`].
    Map(Items<'a, MapItem>),
    /// [`Kind::UNMAP`].
    Unmap(Items<'a, u32>),
    /// [`Kind::COPY`].
    Copy(Items<'a, CopyItem>),
}

impl<'a> Request<'a> {
    /// A request and its number.
    ///
    /// # Errors
    ///
    /// [`BadMessage`] for anything else: who sends it does not know the protocol, or breaks it.
    pub fn parse(bytes: &'a [u8]) -> Result<(u32, Self), BadMessage> {
        let (Header { kind, count, seq }, _) =
            Header::read_from_prefix(bytes).map_err(|_| BadMessage)?;
        let request = match kind {
            Kind::CONFINED if count == 0 => {
                parse::<u32>(bytes)?;
                Self::Confined
            }
            Kind::MAP => Self::Map(parse(bytes)?.1),
            Kind::UNMAP => Self::Unmap(parse(bytes)?.1),
            Kind::COPY => Self::Copy(parse(bytes)?.1),
            _ => return Err(BadMessage),
        };
        Ok((seq, request))
    }
}

/// A message that is being written.
#[derive(Clone, Debug)]
pub struct Outgoing {
    bytes: Vec<u8>,
}

impl Outgoing {
    /// A message without items.
    #[must_use]
    pub fn new(kind: Kind, seq: u32) -> Self {
        let mut bytes = Vec::with_capacity(MAX_MESSAGE);
        let header = Header {
            kind,
            count: 0,
            seq,
        };
        bytes.extend_from_slice(header.as_bytes());
        Self { bytes }
    }

    /// Adds an item.
    ///
    /// # Errors
    ///
    /// [`BadMessage`] where it has [`MAX_ITEMS`]; it is as it was then.
    pub fn push<T: IntoBytes + Immutable>(&mut self, item: T) -> Result<(), BadMessage> {
        let Ok((header, _)) = Header::mut_from_prefix(&mut self.bytes) else {
            return Err(BadMessage);
        };
        if usize::from(header.count) == MAX_ITEMS || size_of::<T>() > MAX_ITEM {
            return Err(BadMessage);
        }
        header.count += 1;
        self.bytes.extend_from_slice(item.as_bytes());
        Ok(())
    }

    /// The bytes to be sent.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests;
