//! The one section that matters: `__xen_guest`, in which old kernels say what newer ones have notes for.

use super::ElfError;
use super::header::{Header, part, read};

const WHAT: &str = "section header";
const NAME: &[u8] = b"__xen_guest\0";
/// The most sections that are looked at.
const MOST: u64 = 1024;
/// The most of the section that is kept, in bytes.
const LONGEST: usize = 4096;

/// What the section holds. `None` where there is none, or where the table of sections, without which a kernel can be loaded too, is broken.
pub(super) fn xen_guest(file: &[u8], header: &Header) -> Option<Vec<u8>> {
    if !header.wide {
        return None;
    }
    find(file).ok().flatten()
}

fn find(file: &[u8]) -> Result<Option<Vec<u8>>, ElfError> {
    let table = read::<8>(file, WHAT, 0x28)?;
    let size = read::<2>(file, WHAT, 0x3a)?;
    let count = read::<2>(file, WHAT, 0x3c)?.min(MOST);
    let names = read::<2>(file, WHAT, 0x3e)?;
    if size != 64 || names >= count {
        return Ok(None);
    }
    let section = |index: u64| part(file, WHAT, table.saturating_add(index * size), size);
    let place = |section: &[u8]| {
        Ok((
            read::<8>(section, WHAT, 0x18)?,
            read::<8>(section, WHAT, 0x20)?,
        ))
    };
    let (at, bytes) = place(section(names)?)?;
    let names = part(file, WHAT, at, bytes)?;
    for index in 0..count {
        let section = section(index)?;
        let name = usize::try_from(read::<4>(section, WHAT, 0)?).ok();
        let name = name.and_then(|at| names.get(at..));
        if name.is_some_and(|name| name.starts_with(NAME)) {
            let (at, bytes) = place(section)?;
            let text = part(file, WHAT, at, bytes)?;
            return Ok(text.get(..text.len().min(LONGEST)).map(<[u8]>::to_vec));
        }
    }
    Ok(None)
}
