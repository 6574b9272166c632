//! Memory: mappings that come, move, change and go, against a model of them; copies on write; what is shared.

use std::ops::Range;

use crate::digest::{Digest, Random};
use crate::region::{NONE, READ, Region, WRITE};
use crate::sys::{self, Ended, Outcome, PAGE};

/// Pages that [`map`] works in, and how often.
const ARENA: usize = 512;
const STEPS: usize = 4000;
/// The most pages of a step.
const MOST: usize = 24;
/// Pages of the large region, 64 MiB.
const LARGE: usize = 16 << 10;

/// A page as it has to be: its two words, and what may be done to it.
#[derive(Clone, Copy, Debug)]
struct Page {
    value: u64,
    protection: i32,
}

const EMPTY: Page = Page {
    value: 0,
    protection: NONE,
};

pub(crate) fn map(digest: &mut Digest) -> Outcome {
    let arena = Region::private(ARENA, NONE)?;
    let mut model = [EMPTY; ARENA];
    let mut random = Random::new(7);
    for step in 0..STEPS {
        let len = 1 + random.below(MOST);
        let start = random.below(ARENA - len);
        let pages = start..start + len;
        let protection = [NONE, READ, WRITE][random.below(3)];
        match random.below(6) {
            0 => {
                arena.renew(pages.clone(), protection)?;
                model[pages.clone()].fill(Page {
                    value: 0,
                    protection,
                });
            }
            1 => {
                arena.protect(pages.clone(), protection)?;
                for page in &mut model[pages.clone()] {
                    page.protection = protection;
                }
            }
            2 => shift(&arena, &mut model, &pages, &mut random, protection)?,
            3 => {
                arena.advise(pages.clone(), libc::MADV_DONTNEED)?;
                for page in &mut model[pages.clone()] {
                    page.value = 0;
                }
            }
            _ => {
                for index in pages.clone() {
                    if model[index].protection == WRITE {
                        let value = random.next();
                        arena.write(index, index, value);
                        arena.write(index, index + 1, !value);
                        model[index].value = value;
                    }
                }
            }
        }
        let looked_at = random.below(ARENA);
        look(&arena, &model, looked_at).map_err(|why| format!("step {step}: {why}"))?;
        if step % 200 == 0 {
            for index in 0..ARENA {
                look(&arena, &model, index).map_err(|why| format!("step {step}: {why}"))?;
                digest.add(model[index].value);
            }
        }
    }
    Ok(())
}

/// Moves pages to where none of them is.
fn shift(
    arena: &Region,
    model: &mut [Page; ARENA],
    pages: &Range<usize>,
    random: &mut Random,
    protection: i32,
) -> Outcome {
    let to = random.below(ARENA - pages.len());
    if to < pages.end && pages.start < to + pages.len() {
        return Ok(());
    }
    // A mapping moves as a whole: it has to be one.
    arena.renew(pages.clone(), WRITE)?;
    let value = random.next();
    arena.write(pages.start, pages.start, value);
    arena.write(pages.start, pages.start + 1, !value);
    arena.shift(pages.clone(), to, protection)?;
    for (index, page) in model[to..to + pages.len()].iter_mut().enumerate() {
        page.protection = WRITE;
        page.value = 0;
        if index == 0 {
            // Its words are where they were, which is not where this page has them.
            for (word, want) in [(pages.start, value), (pages.start + 1, !value)] {
                if arena.read(to, word) != want {
                    return Err("a page has lost its content on its way".to_owned());
                }
                arena.write(to, word, 0);
            }
        }
    }
    model[pages.clone()].fill(Page {
        value: 0,
        protection,
    });
    Ok(())
}

/// Whether a page is as it has to be, for us and for the kernel.
fn look(arena: &Region, model: &[Page; ARENA], index: usize) -> Outcome {
    let page = model[index];
    let readable = sys::kernel_reaches(arena.at(index) + 8, false)?;
    // A word that is never looked at.
    let spare = arena.at(index) + ((index + 300) % (PAGE / 8)) * 8;
    let writable = sys::kernel_reaches(spare, true)?;
    if readable != (page.protection != NONE) || writable != (page.protection == WRITE) {
        return Err(format!(
            "page {index} with protection {}: readable {readable}, writable {writable}",
            page.protection
        ));
    }
    if page.protection != NONE {
        let want = if page.value == 0 {
            [0, 0]
        } else {
            [page.value, !page.value]
        };
        let have = [arena.read(index, index), arena.read(index, index + 1)];
        if have != want {
            return Err(format!("page {index} has {have:x?}, not {want:x?}"));
        }
    }
    Ok(())
}

/// What a parent has, its children have, and neither sees what the other writes.
pub(crate) fn copy_on_write(digest: &mut Digest) -> Outcome {
    let own = Region::private(256, WRITE)?;
    let common = Region::shared(256)?;
    for round in 1..=40_u64 {
        for page in 0..256 {
            own.write(page, 3, round * 1000 + page as u64);
        }
        let child = sys::forked(|| {
            for page in 0..256 {
                if own.read(page, 3) != round * 1000 + page as u64 {
                    return 1;
                }
                own.write(page, 3, 0);
                common.write(page, 5, round + page as u64);
            }
            // Again a level deeper.
            let deeper = sys::forked(|| i32::from(own.read(9, 3) != 0)).and_then(sys::wait);
            i32::from(deeper != Ok(Ended::Exit(0)))
        })?;
        for page in (0..256).step_by(3) {
            own.write(page, 4, round);
        }
        let ended = sys::wait(child)?;
        if ended != Ended::Exit(0) {
            return Err(format!("round {round}: the child {ended:?}"));
        }
        for page in 0..256 {
            if own.read(page, 3) != round * 1000 + page as u64 {
                return Err(format!("round {round}: page {page} was the child's"));
            }
            digest.add(common.read(page, 5));
        }
    }
    Ok(())
}

/// Much memory, all of it written, copied by a child that writes all of it as well; huge pages where there are any.
pub(crate) fn large(digest: &mut Digest) -> Outcome {
    let region = Region::private(LARGE, WRITE)?;
    // Not every kernel has them, nor every machine.
    let _ = region.advise(0..LARGE, libc::MADV_HUGEPAGE);
    for page in 0..LARGE {
        region.write(page, page, page as u64 * 3 + 1);
    }
    region.protect(LARGE / 4..LARGE / 2, READ)?;
    region.advise(1000..3000, libc::MADV_DONTNEED)?;
    let sum = |region: &Region| {
        (0..LARGE).fold(0_u64, |sum, page| {
            sum.wrapping_mul(31).wrapping_add(region.read(page, page))
        })
    };
    let before = sum(&region);
    let child = sys::forked(|| {
        if sum(&region) != before || region.protect(0..LARGE, WRITE).is_err() {
            return 1;
        }
        for page in 0..LARGE {
            region.write(page, page, 0);
        }
        i32::from(sum(&region) != 0)
    })?;
    let ended = sys::wait(child)?;
    if ended != Ended::Exit(0) || sum(&region) != before {
        return Err(format!("the child {ended:?}, or what it wrote was seen"));
    }
    digest.add(before);
    Ok(())
}

/// A file that is mapped twice is one.
pub(crate) fn file(digest: &mut Digest) -> Outcome {
    let file = crate::files::memory_file(64 * PAGE)?;
    let first = Region::mapped(64, WRITE, libc::MAP_SHARED, file.number())?;
    let second = Region::mapped(64, READ, libc::MAP_SHARED, file.number())?;
    let own = Region::mapped(64, WRITE, libc::MAP_PRIVATE, file.number())?;
    let mut random = Random::new(11);
    for _ in 0..5000 {
        let (page, word, value) = (random.below(64), random.below(500), random.next());
        first.write(page, word, value);
        if second.read(page, word) != value || file.word(page, word)? != value {
            return Err(format!("page {page}: the mappings differ"));
        }
        if page % 2 == 0 {
            own.write(page, word, 1);
            if second.read(page, word) != value {
                return Err(format!("page {page}: a private write is in the file"));
            }
        }
        digest.add(second.read(page, random.below(500)));
    }
    Ok(())
}
