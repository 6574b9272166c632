//! Why a grant operation failed, in the interface's own numbers.

use std::fmt;

use cantle_abi::grant_table as abi;

/// A `GNTST_*` number other than `GNTST_okay`: why a grant operation failed.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct GrantStatus(pub i16);

macro_rules! statuses {
    ($($(#[$doc:meta])* $name:ident = $value:ident, $text:literal;)*) => {
        impl GrantStatus {
            $($(#[$doc])* pub const $name: Self = Self(abi::$value);)*

            fn text(self) -> Option<&'static str> {
                match self { $(Self::$name => Some($text),)* _ => None }
            }
        }
    };
}

statuses! {
    /// The entry does not grant this (wrong kind, another domain, read-only), is being rewritten, or has too many uses.
    GENERAL_ERROR = GNTST_general_error, "not granted so";
    /// No such domain.
    BAD_DOMAIN = GNTST_bad_domain, "no such domain";
    /// No such entry in the table.
    BAD_GNTREF = GNTST_bad_gntref, "no such grant reference";
    /// No such mapping.
    BAD_HANDLE = GNTST_bad_handle, "no such mapping";
    /// Not allowed at all.
    PERMISSION_DENIED = GNTST_permission_denied, "permission denied";
    /// The frame is not memory of the domain.
    BAD_PAGE = GNTST_bad_page, "no such page";
    /// The copy would cross a page's end.
    BAD_COPY_ARG = GNTST_bad_copy_arg, "copy beyond the page";
    /// Try again.
    EAGAIN = GNTST_eagain, "try again";
    /// No room for another mapping.
    NO_SPACE = GNTST_no_space, "no room for mappings";
}

impl fmt::Debug for GrantStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GrantStatus({}: {self})", self.0)
    }
}

impl fmt::Display for GrantStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.text() {
            Some(text) => f.write_str(text),
            None => write!(f, "grant status {}", self.0),
        }
    }
}

impl std::error::Error for GrantStatus {}
