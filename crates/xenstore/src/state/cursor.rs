//! Taking fields out of bytes, one after the other, with the place where it failed.

/// What is wrong with a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// It does not begin as a stream does.
    #[error("this is no xenstore stream")]
    NoStream,
    /// Its version is one that is not known.
    #[error("version {0} is not known")]
    Version(u32),
    /// A field, an array or a record goes beyond the end of what it is in.
    #[error("the data ends within `{0}`")]
    Truncated(&'static str),
    /// A field's value is none that it may have.
    #[error("`{field}` may not be {value:#x}")]
    Value {
        /// The field's name in the document.
        field: &'static str,
        /// What it is.
        value: u64,
    },
    /// A string does not end in its only NUL.
    #[error("`{0}` does not end in its only NUL")]
    String(&'static str),
    /// A record's body is longer than what is in it.
    #[error("{0} bytes are left over in a record")]
    Leftover(usize),
}

/// A stream that cannot be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at byte {offset}: {fault}")]
pub struct ParseError {
    /// Where, in bytes from the beginning.
    pub offset: usize,
    /// What.
    pub fault: Fault,
}

/// The order of a number's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Little,
    Big,
}

/// Bytes that are being read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    /// Where `bytes` begins in the stream.
    at: usize,
    order: Order,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8], at: usize, order: Order) -> Self {
        Self { bytes, at, order }
    }

    pub(super) fn set_order(&mut self, order: Order) {
        self.order = order;
    }

    pub(super) fn order(&self) -> Order {
        self.order
    }

    /// Where the next byte is, from the beginning of the stream.
    pub(super) fn offset(&self) -> usize {
        self.at
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.bytes
    }

    pub(super) fn error(&self, fault: Fault) -> ParseError {
        ParseError {
            offset: self.at,
            fault,
        }
    }

    /// The value of the field that ends here may not be what it is.
    pub(super) fn bad(&self, field: &'static str, value: impl Into<u64>) -> ParseError {
        let value = value.into();
        self.error(Fault::Value { field, value })
    }

    pub(super) fn take(&mut self, len: usize, field: &'static str) -> Result<&'a [u8], ParseError> {
        let Some((taken, rest)) = self.bytes.split_at_checked(len) else {
            return Err(self.error(Fault::Truncated(field)));
        };
        self.bytes = rest;
        self.at = self.at.saturating_add(len);
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], ParseError> {
        let Some((taken, rest)) = self.bytes.split_first_chunk::<N>() else {
            return Err(self.error(Fault::Truncated(field)));
        };
        self.bytes = rest;
        self.at = self.at.saturating_add(N);
        Ok(*taken)
    }

    pub(super) fn u8(&mut self, field: &'static str) -> Result<u8, ParseError> {
        self.array(field).map(u8::from_ne_bytes)
    }

    pub(super) fn u16(&mut self, field: &'static str) -> Result<u16, ParseError> {
        let bytes = self.array(field)?;
        Ok(match self.order {
            Order::Little => u16::from_le_bytes(bytes),
            Order::Big => u16::from_be_bytes(bytes),
        })
    }

    pub(super) fn u32(&mut self, field: &'static str) -> Result<u32, ParseError> {
        let bytes = self.array(field)?;
        Ok(match self.order {
            Order::Little => u32::from_le_bytes(bytes),
            Order::Big => u32::from_be_bytes(bytes),
        })
    }

    pub(super) fn u64(&mut self, field: &'static str) -> Result<u64, ParseError> {
        let bytes = self.array(field)?;
        Ok(match self.order {
            Order::Little => u64::from_le_bytes(bytes),
            Order::Big => u64::from_be_bytes(bytes),
        })
    }

    pub(super) fn i32(&mut self, field: &'static str) -> Result<i32, ParseError> {
        self.u32(field).map(u32::cast_signed)
    }

    /// A length that is given in 32 bits.
    pub(super) fn len(&mut self, field: &'static str) -> Result<usize, ParseError> {
        let len = self.u32(field)?;
        usize::try_from(len).map_err(|_| self.bad(field, len))
    }

    /// A string of `len` bytes of which the last, and no other, is NUL; without it.
    pub(super) fn string(
        &mut self,
        len: usize,
        field: &'static str,
    ) -> Result<&'a [u8], ParseError> {
        let taken = self.take(len, field)?;
        match taken.split_last() {
            Some((0, string)) if !string.contains(&0) => Ok(string),
            _ => Err(self.error(Fault::String(field))),
        }
    }

    /// A string that ends at the next NUL.
    pub(super) fn string_to_nul(&mut self, field: &'static str) -> Result<&'a [u8], ParseError> {
        let Some(end) = self.bytes.iter().position(|byte| *byte == 0) else {
            return Err(self.error(Fault::Truncated(field)));
        };
        self.string(end.saturating_add(1), field)
    }

    /// Nothing but padding may be left.
    pub(super) fn finish(&self) -> Result<(), ParseError> {
        if self.bytes.len() < super::ALIGN {
            Ok(())
        } else {
            Err(self.error(Fault::Leftover(self.bytes.len())))
        }
    }
}
