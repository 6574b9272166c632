//! What a client is told when a request fails.

use cantle_abi::Errno;
use cantle_abi::io::xs_wire::XsType;

/// A request that failed.
///
/// `errno` is the protocol's own error; a transport that is gone gives [`Errno::EIO`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{op:?} {path:?}: {errno}")]
pub struct Error {
    /// The kind of request.
    pub op: XsType,
    /// The path it named, empty where it named none.
    pub path: String,
    /// Why it failed.
    pub errno: Errno,
}

impl Error {
    /// An error of `op` on `path`.
    #[must_use]
    pub fn new(op: XsType, path: &str, errno: Errno) -> Self {
        Self {
            op,
            path: path.to_owned(),
            errno,
        }
    }

    /// Whether the node, the watch or the transaction does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.errno == Errno::ENOENT
    }

    /// Whether a transaction conflicted with another and is to be run again.
    #[must_use]
    pub fn is_again(&self) -> bool {
        self.errno == Errno::EAGAIN
    }
}
