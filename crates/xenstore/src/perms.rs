//! A node's permissions.

use core::fmt;

use cantle_abi::{DomId, Errno};

/// What a domain may do with a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Nothing (`n`).
    None,
    /// Read it and list what is below it (`r`).
    Read,
    /// Write and remove it, and make nodes below it (`w`).
    Write,
    /// Both (`b`).
    Both,
}

impl Access {
    /// Whether reading is included.
    #[must_use]
    pub const fn may_read(self) -> bool {
        matches!(self, Self::Read | Self::Both)
    }

    /// Whether writing is included.
    #[must_use]
    pub const fn may_write(self) -> bool {
        matches!(self, Self::Write | Self::Both)
    }

    pub(crate) const fn letter(self) -> char {
        match self {
            Self::None => 'n',
            Self::Read => 'r',
            Self::Write => 'w',
            Self::Both => 'b',
        }
    }

    pub(crate) const fn from_letter(letter: u8) -> Option<Self> {
        Some(match letter {
            b'n' => Self::None,
            b'r' => Self::Read,
            b'w' => Self::Write,
            b'b' => Self::Both,
            _ => return None,
        })
    }
}

/// Who owns a node, and what the others may do with it.
///
/// The owner and privileged domains may do everything. On the wire this is a list of `<letter><domid>`: the first
/// names the owner, and with its letter what everybody may do who is not named by the rest.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Perms {
    /// The owner. Its quota pays for the node.
    pub owner: DomId,
    /// What a domain may do that is not listed.
    pub others: Access,
    /// Exceptions, by domain. The first that names a domain counts; [`DomId::ANY`] names them all.
    pub listed: Vec<(DomId, Access)>,
}

impl Perms {
    /// Owned by `owner`; all others may do `others`.
    #[must_use]
    pub const fn new(owner: DomId, others: Access) -> Self {
        Self {
            owner,
            others,
            listed: Vec::new(),
        }
    }

    /// The same, where `domain` may do `access`.
    #[must_use]
    pub fn and(mut self, domain: DomId, access: Access) -> Self {
        self.listed.push((domain, access));
        self
    }

    /// What `domain` may do, privilege aside.
    #[must_use]
    pub fn access_of(&self, domain: DomId) -> Access {
        self.access_where(|named| named == domain)
    }

    /// What somebody may do whom each number means that `is` says so of, privilege aside.
    pub(crate) fn access_where(&self, is: impl Fn(DomId) -> bool) -> Access {
        if is(self.owner) {
            return Access::Both;
        }
        self.listed
            .iter()
            .find(|(listed, _)| *listed == DomId::ANY || is(*listed))
            .map_or(self.others, |(_, access)| *access)
    }

    /// Parses the wire's form: one or more NUL-terminated entries.
    ///
    /// # Errors
    ///
    /// [`Errno::EINVAL`] where there is no entry, an entry is no letter and number, or the last one lacks its NUL.
    pub fn parse(wire: &[u8]) -> Result<Self, Errno> {
        let body = wire.strip_suffix(b"\0").ok_or(Errno::EINVAL)?;
        let mut entries = body.split(|byte| *byte == 0).map(parse_entry);
        let (owner, others) = entries.next().ok_or(Errno::EINVAL)??;
        Ok(Self {
            owner,
            others,
            listed: entries.collect::<Result<_, _>>()?,
        })
    }

    /// Emits the wire's form.
    #[must_use]
    pub fn emit(&self) -> Vec<u8> {
        let mut text = String::new();
        for (domain, access) in core::iter::once(&(self.owner, self.others)).chain(&self.listed) {
            text.push(access.letter());
            text.push_str(&domain.to_string());
            text.push('\0');
        }
        text.into_bytes()
    }
}

impl fmt::Display for Perms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.others.letter(), self.owner)?;
        self.listed
            .iter()
            .try_for_each(|(domain, access)| write!(f, ",{}{domain}", access.letter()))
    }
}

fn parse_entry(entry: &[u8]) -> Result<(DomId, Access), Errno> {
    let (letter, digits) = entry.split_first().ok_or(Errno::EINVAL)?;
    let access = Access::from_letter(*letter).ok_or(Errno::EINVAL)?;
    Ok((parse_domid(digits)?, access))
}

/// Parses a domain's number in decimal.
pub(crate) fn parse_domid(digits: &[u8]) -> Result<DomId, Errno> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(Errno::EINVAL);
    }
    let number = core::str::from_utf8(digits)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or(Errno::EINVAL)?;
    Ok(DomId(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_entry_names_the_owner_and_the_default() {
        let perms = Perms::parse(b"r3\0b5\0n7\0").unwrap();
        assert_eq!(perms.access_of(DomId(3)), Access::Both);
        assert_eq!(perms.access_of(DomId(5)), Access::Both);
        assert_eq!(perms.access_of(DomId(7)), Access::None);
        assert_eq!(perms.access_of(DomId(9)), Access::Read);
        assert_eq!(perms.emit(), b"r3\0b5\0n7\0");
        assert_eq!(perms.to_string(), "r3,b5,n7");
    }

    #[test]
    fn malformed_lists_are_refused() {
        for bad in [
            &b""[..],
            b"\0",
            b"r3",
            b"x3\0",
            b"r\0",
            b"r-1\0",
            b"r70000\0",
            b"r3\0\0",
            b"r+3\0",
        ] {
            assert_eq!(Perms::parse(bad), Err(Errno::EINVAL), "{bad:?}");
        }
    }
}
