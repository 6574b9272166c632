//! What replies' payloads say.

use std::str::FromStr;

use cantle_abi::Errno;

/// The strings of a list of NUL-terminated ones, as `DIRECTORY` gives it.
#[must_use]
pub fn names(payload: &[u8]) -> Vec<String> {
    payload
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .collect()
}

/// One string; its NUL may be missing.
#[must_use]
pub fn text(payload: &[u8]) -> String {
    let text = payload.strip_suffix(b"\0").unwrap_or(payload);
    String::from_utf8_lossy(text).into_owned()
}

/// A number in decimal.
///
/// # Errors
///
/// [`Errno::EIO`] where it is none: the server is not to be trusted with more.
pub fn number<T: FromStr>(payload: &[u8]) -> Result<T, Errno> {
    text(payload).parse().map_err(|_| Errno::EIO)
}

/// "T" or "F".
///
/// # Errors
///
/// As for [`number`].
pub fn flag(payload: &[u8]) -> Result<bool, Errno> {
    match payload.strip_suffix(b"\0").unwrap_or(payload) {
        b"T" => Ok(true),
        b"F" => Ok(false),
        _ => Err(Errno::EIO),
    }
}

/// A part of a long directory: the directory's generation, and the part.
///
/// # Errors
///
/// [`Errno::EIO`] where the reply is malformed.
pub fn directory_part(payload: &[u8]) -> Result<(&[u8], &[u8]), Errno> {
    crate::wire::string_and_rest(payload).map_err(|_| Errno::EIO)
}
