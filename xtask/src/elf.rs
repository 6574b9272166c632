//! Just enough ELF to read a kernel module's `.modinfo`, and which libraries a program needs.

use anyhow::{Result, bail, ensure};

/// The section's bytes, or an empty slice when there is none of that name. 64-bit little-endian files only.
pub(crate) fn section<'a>(file: &'a [u8], name: &str) -> Result<&'a [u8]> {
    ensure!(
        file.starts_with(b"\x7fELF\x02\x01"),
        "not a 64-bit little-endian ELF file"
    );
    let table = number::<8>(file, 0x28)?;
    let entry_size = number::<2>(file, 0x3a)?;
    let entries = number::<2>(file, 0x3c)?;
    let names_index = number::<2>(file, 0x3e)?;
    let (names, names_len) = extent(file, table + names_index * entry_size)?;
    let names = slice(file, names, names_len)?;
    for index in 0..entries {
        let header = table + index * entry_size;
        let at = number::<4>(file, header)?;
        let rest = slice(names, at, names.len().saturating_sub(at))?;
        if rest.split(|b| *b == 0).next() == Some(name.as_bytes()) {
            let (offset, len) = extent(file, header)?;
            return slice(file, offset, len);
        }
    }
    Ok(&[])
}

/// The tag of an entry in `.dynamic` that names a library.
const DT_NEEDED: usize = 1;

/// The libraries that a program or library is linked with, by the names that the loader looks for.
pub(crate) fn needed(file: &[u8]) -> Result<Vec<String>> {
    let names = section(file, ".dynstr")?;
    let mut needed = Vec::new();
    for entry in section(file, ".dynamic")?.chunks_exact(16) {
        if number::<8>(entry, 0)? == DT_NEEDED {
            let at = number::<8>(entry, 8)?;
            let rest = slice(names, at, names.len().saturating_sub(at))?;
            let name = rest.split(|b| *b == 0).next().unwrap_or_default();
            needed.push(String::from_utf8_lossy(name).into_owned());
        }
    }
    Ok(needed)
}

/// Bytes of memory that a program's segments take, from the first to the end of the last.
pub(crate) fn loaded(file: &[u8]) -> Result<usize> {
    const PT_LOAD: usize = 1;
    let table = number::<8>(file, 0x20)?;
    let entry_size = number::<2>(file, 0x36)?;
    let mut extent: Option<(usize, usize)> = None;
    for index in 0..number::<2>(file, 0x38)? {
        let header = table + index * entry_size;
        if number::<4>(file, header)? == PT_LOAD {
            let start = number::<8>(file, header + 0x10)?;
            let end = start.saturating_add(number::<8>(file, header + 0x28)?);
            let (first, last) = extent.unwrap_or((start, end));
            extent = Some((first.min(start), last.max(end)));
        }
    }
    let (first, last) = extent.unwrap_or_default();
    Ok(last - first)
}

/// Offset and length of the section whose header is at `header`.
fn extent(file: &[u8], header: usize) -> Result<(usize, usize)> {
    Ok((
        number::<8>(file, header + 0x18)?,
        number::<8>(file, header + 0x20)?,
    ))
}

fn slice(bytes: &[u8], offset: usize, len: usize) -> Result<&[u8]> {
    match offset
        .checked_add(len)
        .and_then(|end| bytes.get(offset..end))
    {
        Some(part) => Ok(part),
        None => bail!("truncated ELF file: {len} bytes at {offset:#x}"),
    }
}

/// A little-endian number of `N` bytes.
fn number<const N: usize>(file: &[u8], offset: usize) -> Result<usize> {
    let mut wide = [0; 8];
    for (to, from) in wide.iter_mut().zip(slice(file, offset, N)?) {
        *to = *from;
    }
    Ok(usize::try_from(u64::from_le_bytes(wide))?)
}
