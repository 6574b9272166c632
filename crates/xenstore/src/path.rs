//! Paths as the protocol has them.

use std::borrow::Cow;

use cantle_abi::Errno;
use cantle_abi::io::xs_wire::{XENSTORE_ABS_PATH_MAX, XENSTORE_REL_PATH_MAX};

/// A node's path, checked and absolute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resolved<'a> {
    pub(crate) path: Cow<'a, str>,
    /// Whether it was given relative to the caller's home.
    pub(crate) relative: bool,
}

/// Checks a path as it came and makes it absolute; `home` is what relative paths start from.
///
/// A path consists of ASCII letters, digits and `-/_@`, has no empty component and no slash at its end (the root aside), and
/// is at most 3072 bytes long, or 2048 where it is relative. Names that begin with `@` are no nodes.
pub(crate) fn resolve<'a>(given: &'a [u8], home: &str) -> Result<Resolved<'a>, Errno> {
    let given = check(given)?;
    if given.starts_with('/') {
        return Ok(Resolved {
            path: Cow::Borrowed(given),
            relative: false,
        });
    }
    if given.starts_with('@') || given.len() > XENSTORE_REL_PATH_MAX {
        return Err(Errno::EINVAL);
    }
    // The bound holds for what is used, not only for what was given (XSA-323).
    let path = format!("{home}/{given}");
    if path.len() > XENSTORE_ABS_PATH_MAX {
        return Err(Errno::EINVAL);
    }
    Ok(Resolved {
        path: Cow::Owned(path),
        relative: true,
    })
}

/// The name where what was given is a special one, which begins with `@`; `None` for a path, which is not checked here.
pub(crate) fn special(given: &[u8]) -> Result<Option<&str>, Errno> {
    if given.starts_with(b"@") {
        check(given).map(Some)
    } else {
        Ok(None)
    }
}

fn check(given: &[u8]) -> Result<&str, Errno> {
    let mut before = 0;
    let well_formed = given.iter().all(|byte| {
        let doubled = *byte == b'/' && before == b'/';
        before = *byte;
        !doubled && (byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'/' | b'_' | b'@'))
    });
    let ends_well = given == b"/" || !given.ends_with(b"/");
    if !well_formed || !ends_well || given.is_empty() || given.len() > XENSTORE_ABS_PATH_MAX {
        return Err(Errno::EINVAL);
    }
    core::str::from_utf8(given).map_err(|_| Errno::EINVAL)
}

/// The names on the way from the root to a node; none for the root.
pub(crate) fn components(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|name| !name.is_empty())
}

/// A path and all its ancestors up to the root, from the root down.
pub(crate) fn prefixes(path: &str) -> impl Iterator<Item = &str> {
    let below = path
        .char_indices()
        .skip(1)
        .filter(|(_, letter)| *letter == '/')
        .filter_map(|(at, _)| path.get(..at));
    let itself = (path != "/").then_some(path);
    core::iter::once("/").chain(below).chain(itself)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(given: &[u8]) -> Result<String, Errno> {
        resolve(given, "/local/domain/5").map(|resolved| resolved.path.into_owned())
    }

    #[test]
    fn relative_paths_start_at_home() {
        assert_eq!(
            resolved(b"device/vif").unwrap(),
            "/local/domain/5/device/vif"
        );
        assert_eq!(resolved(b"/a-B_9@").unwrap(), "/a-B_9@");
        assert_eq!(resolved(b"/").unwrap(), "/");
    }

    #[test]
    fn malformed_paths_are_refused() {
        for bad in [
            &b""[..],
            b"//",
            b"/a/",
            b"a/",
            b"/a//b",
            b"/a b",
            b"/a.b",
            b"/\xc3\xa4",
            b"/\xff",
            b"@x",
            b"/a\0",
        ] {
            assert_eq!(resolved(bad), Err(Errno::EINVAL), "{bad:?}");
        }
    }

    #[test]
    fn length_limits_are_exact() {
        let absolute = |len: usize| ["/".to_owned(), "a".repeat(len - 1)].concat();
        assert!(resolved(absolute(3072).as_bytes()).is_ok());
        assert!(resolved(absolute(3073).as_bytes()).is_err());
        assert!(resolved("a".repeat(2048).as_bytes()).is_ok());
        assert!(resolved("a".repeat(2049).as_bytes()).is_err());
    }

    #[test]
    fn prefixes_go_from_the_root_down() {
        assert_eq!(
            prefixes("/a/bc/d").collect::<Vec<_>>(),
            ["/", "/a", "/a/bc", "/a/bc/d"]
        );
        assert_eq!(prefixes("/").collect::<Vec<_>>(), ["/"]);
        assert_eq!(prefixes("@x").collect::<Vec<_>>(), ["/", "@x"]);
    }
}
