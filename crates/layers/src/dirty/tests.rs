use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::test_utils::{EagerDisk, SparseFormat};

const GRANULE: u64 = 4096;

fn tracked(bytes: u64, dirty: bool) -> (Arc<DirtyTracker>, Arc<EagerDisk>) {
    let file: Arc<File> = Arc::new(tempfile::tempfile().unwrap());
    let inner = SparseFormat::new(file, bytes).unwrap();
    let tracker = DirtyTracker::new(inner, Granularity::new(GRANULE).unwrap(), dirty);
    let tracker = Arc::new(tracker);
    let disk = EagerDisk::new(Arc::clone(&tracker) as Arc<dyn Format>);
    (tracker, disk)
}

#[derive(Clone, Debug)]
enum Act {
    Write(u64, u64),
    Discard(u64, u64),
    Take(u64, u64),
    Grow(u64),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        4 => (0_u64..40, 1_u64..6).prop_map(|(at, len)| Act::Write(at, len)),
        1 => (0_u64..40, 1_u64..20).prop_map(|(at, len)| Act::Discard(at, len)),
        3 => (0_u64..40, 1_u64..9).prop_map(|(at, most)| Act::Take(at, most)),
        1 => (1_u64..20).prop_map(Act::Grow),
    ];
    prop::collection::vec(act, 1..40)
}

proptest! {
    #[test]
    fn what_was_written_since_it_was_taken_is_dirty_and_nothing_else(acts in acts(), dirty: bool) {
        let mut size = 32_u64;
        let (tracker, disk) = tracked(size * GRANULE, dirty);
        let mut model = vec![dirty; 32];
        for act in acts {
            let cut = |at: u64, len: u64| (at.min(size), (at + len).min(size));
            match act {
                Act::Write(at, len) => {
                    let (from, to) = cut(at, len);
                    let bytes = vec![7; usize::try_from((to - from) * GRANULE).unwrap()];
                    disk.write(from * GRANULE, &bytes).unwrap();
                    (from..to).for_each(|granule| model[usize::try_from(granule).unwrap()] = true);
                }
                Act::Discard(at, len) => {
                    let (from, to) = cut(at, len);
                    disk.discard(from * GRANULE, (to - from) * GRANULE).unwrap();
                    (from..to).for_each(|granule| model[usize::try_from(granule).unwrap()] = true);
                }
                Act::Take(at, most) => {
                    let taken = tracker.take(&*disk, at * GRANULE, most * GRANULE).unwrap();
                    let start = (at..size).find(|granule| model[usize::try_from(*granule).unwrap()]);
                    prop_assert_eq!(taken.as_ref().map(|range| range.start), start.map(|start| start * GRANULE));
                    if let Some(range) = taken {
                        prop_assert!(range.end > range.start && range.end - range.start <= most * GRANULE);
                        for granule in range.start / GRANULE..range.end / GRANULE {
                            prop_assert!(std::mem::take(&mut model[usize::try_from(granule).unwrap()]));
                        }
                    }
                }
                Act::Grow(by) => {
                    size += by;
                    tracker.grow(size * GRANULE / 512).unwrap();
                    model.resize(usize::try_from(size).unwrap(), true);
                }
            }
            let found: Vec<u64> = tracker.dirty().into_iter().flat_map(|run| run.start / GRANULE..run.end / GRANULE).collect();
            let wanted: Vec<u64> = (0..size).filter(|granule| model[usize::try_from(*granule).unwrap()]).collect();
            prop_assert_eq!(found, wanted);
        }
    }
}

#[test]
fn a_dirty_granule_is_written_in_place() {
    let (tracker, disk) = tracked(1 << 20, false);
    let writable = |offset| match tracker.map(offset, 8192).unwrap() {
        Mapped {
            extent: Extent::Data { writable, .. },
            len,
        } => Some((writable, len)),
        _ => None,
    };
    assert_eq!(writable(0), None);
    disk.write(0, &[1; 4096]).unwrap();
    // The block below is 16 KiB, the granule 4.
    assert_eq!(writable(0), Some((true, 4096)));
    assert_eq!(writable(4096), Some((false, 8192)));
    tracker.take(&*disk, 0, u64::MAX).unwrap();
    assert_eq!(writable(0), Some((false, 8192)));
}

#[test]
fn a_disk_that_ends_within_a_granule_is_dirty_to_its_end() {
    let (tracker, disk) = tracked(GRANULE * 2 + 512, true);
    assert_eq!(tracker.dirty(), vec![0..GRANULE * 2 + 512; 1]);
    tracker.take(&*disk, 0, u64::MAX).unwrap();
    tracker.grow((GRANULE * 3) / 512).unwrap();
    assert_eq!(tracker.dirty(), vec![GRANULE * 2..GRANULE * 3; 1]);
}

struct Deaf;

impl LiveDisk for Deaf {
    fn forget(&self, _offset: u64, _len: u64) -> Result<()> {
        Err(std::io::ErrorKind::Other.into())
    }
    fn exclusive(&self, _act: &mut dyn FnMut(&mut Arc<dyn Format>) -> Result<()>) -> Result<()> {
        Err(std::io::ErrorKind::Other.into())
    }
}

#[test]
fn what_is_not_forgotten_is_not_taken() {
    let (tracker, _disk) = tracked(1 << 20, true);
    tracker.take(&Deaf, 0, 8192).unwrap_err();
    assert_eq!(tracker.dirty_bytes(), 1 << 20);
}
