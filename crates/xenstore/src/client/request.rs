//! The protocol's requests as bytes, for every kind of client.

use cantle_abi::io::xs_wire::{
    XS_CONTROL, XS_DIRECTORY, XS_DIRECTORY_PART, XS_GET_DOMAIN_PATH, XS_GET_FEATURE, XS_GET_PERMS,
    XS_GET_QUOTA, XS_INTRODUCE, XS_IS_DOMAIN_INTRODUCED, XS_MKDIR, XS_READ, XS_RELEASE,
    XS_RESET_WATCHES, XS_RESUME, XS_RM, XS_SET_FEATURE, XS_SET_PERMS, XS_SET_QUOTA, XS_SET_TARGET,
    XS_TRANSACTION_END, XS_TRANSACTION_START, XS_UNWATCH, XS_WATCH, XS_WRITE, XsType,
};
use cantle_abi::{DomId, Errno, Gfn, Port};

use crate::{Error, Perms};

/// One request: what is asked, and of which path.
///
/// The reply's payload is what `docs/misc/xenstore.txt` of Xen says for the operation; [`reply`](super::reply) understands it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    op: XsType,
    path: &'a str,
    payload: Vec<u8>,
    /// A string had a NUL in it: the server would take it for two.
    broken: bool,
}

impl<'a> Request<'a> {
    fn new(op: XsType, path: &'a str) -> Self {
        Self {
            op,
            path,
            payload: Vec::new(),
            broken: false,
        }
    }

    /// A request that names a path.
    fn of(op: XsType, path: &'a str) -> Self {
        Self::new(op, path).string(path)
    }

    fn string(mut self, text: &str) -> Self {
        self.broken |= text.contains('\0');
        self.payload.extend_from_slice(text.as_bytes());
        self.payload.push(0);
        self
    }

    fn number(self, number: impl ToString) -> Self {
        self.string(&number.to_string())
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.payload.extend_from_slice(bytes);
        self
    }

    /// `READ`: a node's value.
    #[must_use]
    pub fn read(path: &'a str) -> Self {
        Self::of(XS_READ, path)
    }

    /// `DIRECTORY`: the names below a node, where they fit into one message.
    #[must_use]
    pub fn directory(path: &'a str) -> Self {
        Self::of(XS_DIRECTORY, path)
    }

    /// `DIRECTORY_PART`: a part of those names, from `offset` bytes of the list on.
    #[must_use]
    pub fn directory_part(path: &'a str, offset: usize) -> Self {
        Self::of(XS_DIRECTORY_PART, path).number(offset)
    }

    /// `GET_PERMS`: a node's permissions.
    #[must_use]
    pub fn get_perms(path: &'a str) -> Self {
        Self::of(XS_GET_PERMS, path)
    }

    /// `WRITE`: sets a node's value.
    #[must_use]
    pub fn write(path: &'a str, value: &[u8]) -> Self {
        Self::of(XS_WRITE, path).bytes(value)
    }

    /// `MKDIR`: makes a node.
    #[must_use]
    pub fn mkdir(path: &'a str) -> Self {
        Self::of(XS_MKDIR, path)
    }

    /// `RM`: removes a node and what is below it.
    #[must_use]
    pub fn rm(path: &'a str) -> Self {
        Self::of(XS_RM, path)
    }

    /// `SET_PERMS`: sets a node's permissions.
    #[must_use]
    pub fn set_perms(path: &'a str, perms: &Perms) -> Self {
        Self::of(XS_SET_PERMS, path).bytes(&perms.emit())
    }

    /// `WATCH`: be told of changes at and below a path.
    #[must_use]
    pub fn watch(path: &'a str, token: &str) -> Self {
        Self::of(XS_WATCH, path).string(token)
    }

    /// `WATCH` of a limited depth: 0 is the node alone, 1 its children too.
    #[must_use]
    pub fn watch_depth(path: &'a str, token: &str, depth: u32) -> Self {
        Self::watch(path, token).number(depth)
    }

    /// `UNWATCH`: be told no longer.
    #[must_use]
    pub fn unwatch(path: &'a str, token: &str) -> Self {
        Self::of(XS_UNWATCH, path).string(token)
    }

    /// `RESET_WATCHES`: forgets all watches and transactions of the client.
    #[must_use]
    pub fn reset_watches() -> Self {
        Self::new(XS_RESET_WATCHES, "").string("")
    }

    /// `TRANSACTION_START`.
    #[must_use]
    pub fn transaction_start() -> Self {
        Self::new(XS_TRANSACTION_START, "").string("")
    }

    /// `TRANSACTION_END`: commits, or forgets.
    #[must_use]
    pub fn transaction_end(commit: bool) -> Self {
        Self::new(XS_TRANSACTION_END, "").string(if commit { "T" } else { "F" })
    }

    fn of_domain(op: XsType, domid: DomId) -> Self {
        Self::new(op, "").number(domid)
    }

    /// `INTRODUCE`: a domain's page and port.
    #[must_use]
    pub fn introduce(domid: DomId, gfn: Gfn, port: Port) -> Self {
        Self::of_domain(XS_INTRODUCE, domid)
            .number(gfn.0)
            .number(port.0)
    }

    /// `RELEASE`: a domain is gone.
    #[must_use]
    pub fn release(domid: DomId) -> Self {
        Self::of_domain(XS_RELEASE, domid)
    }

    /// `RESUME`: a domain may shut down again.
    #[must_use]
    pub fn resume(domid: DomId) -> Self {
        Self::of_domain(XS_RESUME, domid)
    }

    /// `IS_DOMAIN_INTRODUCED`.
    #[must_use]
    pub fn is_domain_introduced(domid: DomId) -> Self {
        Self::of_domain(XS_IS_DOMAIN_INTRODUCED, domid)
    }

    /// `GET_DOMAIN_PATH`: where a domain's relative paths begin.
    #[must_use]
    pub fn get_domain_path(domid: DomId) -> Self {
        Self::of_domain(XS_GET_DOMAIN_PATH, domid)
    }

    /// `SET_TARGET`: gives `domid` the rights of `target`.
    #[must_use]
    pub fn set_target(domid: DomId, target: DomId) -> Self {
        Self::of_domain(XS_SET_TARGET, domid).number(target)
    }

    /// `GET_FEATURE`: the features offered to a domain, or to the caller.
    #[must_use]
    pub fn get_feature(domid: Option<DomId>) -> Self {
        let request = Self::new(XS_GET_FEATURE, "");
        match domid {
            Some(domid) => request.number(domid),
            None => request,
        }
    }

    /// `SET_FEATURE`: which features a domain will be offered.
    #[must_use]
    pub fn set_feature(domid: DomId, features: u32) -> Self {
        Self::of_domain(XS_SET_FEATURE, domid).number(features)
    }

    /// `GET_QUOTA` without a name: the names of the quotas.
    #[must_use]
    pub fn quota_names() -> Self {
        Self::new(XS_GET_QUOTA, "")
    }

    /// `GET_QUOTA`: a domain's quota, or what new domains get.
    #[must_use]
    pub fn get_quota(domid: Option<DomId>, name: &str) -> Self {
        Self::quota(XS_GET_QUOTA, domid, name)
    }

    /// `SET_QUOTA`; 0 is no limit.
    #[must_use]
    pub fn set_quota(domid: Option<DomId>, name: &str, value: u32) -> Self {
        Self::quota(XS_SET_QUOTA, domid, name).number(value)
    }

    fn quota(op: XsType, domid: Option<DomId>, name: &str) -> Self {
        let request = Self::new(op, "");
        match domid {
            Some(domid) => request.number(domid),
            None => request,
        }
        .string(name)
    }

    /// `CONTROL`: a command to the daemon, with its arguments.
    #[must_use]
    pub fn control(words: &[&str]) -> Self {
        let request = Self::new(XS_CONTROL, "");
        words
            .iter()
            .fold(request, |request, word| request.string(word))
    }

    /// The operation.
    #[must_use]
    pub const fn op(&self) -> XsType {
        self.op
    }

    /// What goes over the wire after the header.
    ///
    /// # Errors
    ///
    /// [`Errno::EINVAL`] where a path, token or name has a NUL in it, and would be understood as two.
    pub fn payload(&self) -> Result<&[u8], Errno> {
        if self.broken {
            return Err(Errno::EINVAL);
        }
        Ok(&self.payload)
    }

    /// The error that this request failed with.
    #[must_use]
    pub fn error(&self, errno: Errno) -> Error {
        Error::new(self.op, self.path, errno)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Access;

    #[test]
    fn payloads_are_as_the_protocol_has_them() {
        let perms = Perms::new(DomId(5), Access::None).and(DomId(7), Access::Read);
        for (request, payload) in [
            (Request::read("/a"), &b"/a\0"[..]),
            (Request::directory_part("/a", 4000), b"/a\x004000\0"),
            (Request::write("a/b", b"v\0w"), b"a/b\0v\0w"),
            (Request::set_perms("/a", &perms), b"/a\0n5\0r7\0"),
            (Request::watch("/a", "t"), b"/a\0t\0"),
            (Request::watch_depth("/a", "t", 1), b"/a\0t\x001\0"),
            (Request::reset_watches(), b"\0"),
            (Request::transaction_end(false), b"F\0"),
            (
                Request::introduce(DomId(5), Gfn(0xfeff), Port(2)),
                b"5\x0065279\x002\0",
            ),
            (Request::set_target(DomId(5), DomId(6)), b"5\x006\0"),
            (Request::get_feature(None), b""),
            (Request::get_feature(Some(DomId(5))), b"5\0"),
            (Request::quota_names(), b""),
            (Request::get_quota(None, "nodes"), b"nodes\0"),
            (
                Request::set_quota(Some(DomId(5)), "nodes", 9),
                b"5\0nodes\x009\0",
            ),
            (Request::control(&["log", "on"]), b"log\0on\0"),
        ] {
            assert_eq!(request.payload(), Ok(payload), "{request:?}");
        }
    }

    #[test]
    fn a_nul_in_a_name_is_refused_and_in_a_value_is_not() {
        assert_eq!(Request::read("/a\0/b").payload(), Err(Errno::EINVAL));
        assert_eq!(Request::watch("/a", "t\0x").payload(), Err(Errno::EINVAL));
        assert!(Request::write("/a", b"\0").payload().is_ok());
    }
}
