//! Xen's error numbers (errno.h). They are Linux's of x86, whatever the guest is.

use core::fmt;

/// A Xen error number, positive (`XEN_EPERM` and so on).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Errno(pub i32);

macro_rules! errnos {
    ($($(#[$doc:meta])* $name:ident = $value:literal),* $(,)?) => {
        impl Errno {
            $($(#[$doc])* pub const $name: Self = Self($value);)*

            /// The name without its prefix, as xenstore sends it (`"ENOENT"`); `None` for a number not listed.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self.0 { $($value => Some(stringify!($name)),)* _ => None }
            }

            /// The error that xenstore's `name` stands for.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $(stringify!($name) => Some(Self::$name),)* _ => None }
            }
        }
    };
}

errnos! {
    /// Not permitted.
    EPERM = 1,
    /// No such entry.
    ENOENT = 2,
    /// No such process (in Xen: no such domain).
    ESRCH = 3,
    /// An I/O error.
    EIO = 5,
    /// No such device or address.
    ENXIO = 6,
    /// The argument list is too long.
    E2BIG = 7,
    /// A bad handle.
    EBADF = 9,
    /// Try again.
    EAGAIN = 11,
    /// Out of memory.
    ENOMEM = 12,
    /// Access denied.
    EACCES = 13,
    /// A bad address.
    EFAULT = 14,
    /// Busy.
    EBUSY = 16,
    /// It exists already.
    EEXIST = 17,
    /// No such device.
    ENODEV = 19,
    /// Is a directory.
    EISDIR = 21,
    /// An invalid argument.
    EINVAL = 22,
    /// No space is left.
    ENOSPC = 28,
    /// A read-only medium.
    EROFS = 30,
    /// Out of range.
    ERANGE = 34,
    /// No such function.
    ENOSYS = 38,
    /// Not empty.
    ENOTEMPTY = 39,
    /// No data.
    ENODATA = 61,
    /// Not supported.
    EOPNOTSUPP = 95,
    /// Already connected.
    EISCONN = 106,
    /// Not connected.
    ENOTCONN = 107,
    /// A quota is used up.
    EQUOT = 122,
}

impl Errno {
    /// What a hypercall returns for this error: the negated number.
    #[must_use]
    pub const fn to_ret(self) -> i64 {
        -(self.0 as i64)
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "errno {}", self.0),
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl core::error::Error for Errno {}
