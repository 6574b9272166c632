//! Paths of parents, as they are written into images.
//!
//! Source: the specification's section on parent locators. As Xen's tools do, slashes become backslashes and back, a drive `C:` is
//! dropped, a relative path of Windows' kind begins with `.\`, and a `MacX` path is `file://` and a path, without escapes.

use std::path::{Component, Path, PathBuf};

/// UTF-8 and `file://`.
pub(crate) const MACX: [u8; 4] = *b"MacX";
/// Relative, UTF-16.
pub(crate) const W2RU: [u8; 4] = *b"W2ru";
/// Absolute, UTF-16; relative too, where Xen's tools wrote it.
pub(crate) const W2KU: [u8; 4] = *b"W2ku";

/// The longest path that is read, in bytes of the file: 4096 characters in UTF-16.
pub(crate) const MAX_PATH: u32 = 8192;

/// What a locator's bytes say; `None` where they make no sense or the kind is not known.
pub(crate) fn decode(code: [u8; 4], bytes: &[u8]) -> Option<PathBuf> {
    match code {
        MACX => {
            let text = std::str::from_utf8(bytes).ok()?;
            usable(text.trim_end_matches('\0').strip_prefix("file://")?)
        }
        W2RU | W2KU => windows(bytes, u16::from_le_bytes),
        _ => None,
    }
}

/// The name of a parent in the header itself.
pub(crate) fn decode_name(bytes: &[u8]) -> Option<PathBuf> {
    windows(bytes, u16::from_be_bytes)
}

fn windows(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Option<PathBuf> {
    let units = bytes.chunks_exact(2).map(|pair| {
        let [first, second] = pair else { return 0 };
        unit([*first, *second])
    });
    let text: String = char::decode_utf16(units.take_while(|&unit| unit != 0))
        .collect::<Result<_, _>>()
        .ok()?;
    let text = text.replace('\\', "/");
    let path = text.strip_prefix("C:").or_else(|| text.strip_prefix("c:"));
    usable(path.unwrap_or(&text))
}

fn usable(text: &str) -> Option<PathBuf> {
    (!text.is_empty() && !text.contains('\0')).then(|| PathBuf::from(text))
}

/// A path's bytes for a locator.
pub(crate) fn encode(code: [u8; 4], path: &str) -> Vec<u8> {
    match code {
        MACX => format!("file://{path}").into_bytes(),
        _ => {
            let text = path.replace('/', "\\");
            text.encode_utf16().flat_map(u16::to_le_bytes).collect()
        }
    }
}

/// A name's bytes for the header.
pub(crate) fn encode_name(name: &str) -> Vec<u8> {
    name.encode_utf16().flat_map(u16::to_be_bytes).collect()
}

/// How to get from a folder to a file, both absolute and without links or `..`; it begins with `./` or `../`.
pub(crate) fn relative(folder: &Path, to: &Path) -> PathBuf {
    let shared = folder
        .components()
        .zip(to.components())
        .take_while(|(one, other)| one == other)
        .count();
    let up = folder.components().count() - shared;
    let mut path = PathBuf::new();
    if up == 0 {
        path.push(Component::CurDir);
    }
    path.extend(std::iter::repeat_n(Component::ParentDir, up));
    path.extend(to.components().skip(shared));
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_survive() {
        for path in ["./parent.vhd", "../a b/é.vhd", "/srv/sr/1234.vhd"] {
            for code in [MACX, W2RU, W2KU] {
                assert_eq!(decode(code, &encode(code, path)), Some(PathBuf::from(path)));
            }
            assert_eq!(decode_name(&encode_name(path)), Some(PathBuf::from(path)));
        }
    }

    #[test]
    fn windows_paths_become_ours() {
        let utf16 =
            |text: &str| -> Vec<u8> { text.encode_utf16().flat_map(u16::to_le_bytes).collect() };
        let read = |text| decode(W2KU, &utf16(text));
        assert_eq!(read("C:\\disks\\a.vhd"), Some("/disks/a.vhd".into()));
        assert_eq!(read(".\\a.vhd\0\0"), Some("./a.vhd".into()));
        assert_eq!(read(""), None);
        assert_eq!(decode(W2KU, &[0, 0xd8, 65, 0]), None, "half a surrogate");
        assert_eq!(decode(*b"Wi2r", b"a.vhd"), None);
        assert_eq!(decode(MACX, b"http://a"), None);
    }

    #[test]
    fn the_way_between_two_places() {
        let way = |from: &str, to: &str| relative(Path::new(from), Path::new(to));
        assert_eq!(way("/a/b", "/a/b/c.vhd"), Path::new("./c.vhd"));
        assert_eq!(way("/a/b", "/a/c.vhd"), Path::new("../c.vhd"));
        assert_eq!(way("/a/b/x", "/c/d.vhd"), Path::new("../../../c/d.vhd"));
    }
}
