//! The same for version 2, whose marks are a word of their own.

use std::sync::atomic::Ordering;

use cantle_abi::grant_table::{GTF_permit_access, GTF_reading, GTF_writing};
use cantle_abi::{DomId, Gfn};
use loom::sync::Arc;
use loom::sync::atomic::AtomicU32;
use loom::thread;

use super::super::{EntryV2, Part};
use super::*;

struct Words {
    header: LoomWord,
    part: LoomWord,
    frame: LoomFrame,
    status: LoomStatus,
}

impl Words {
    fn entry(&self) -> EntryV2<'_, LoomWord, LoomFrame, LoomStatus> {
        EntryV2 {
            header: &self.header,
            part: &self.part,
            frame: &self.frame,
            status: &self.status,
        }
    }
}

fn model(test: fn(Arc<Words>)) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(move || {
        test(Arc::new(Words {
            header: LoomWord::new(header(GTF_permit_access, OURS)),
            part: LoomWord::new(0),
            frame: LoomFrame::new(LENT.into()),
            status: LoomStatus::new(0),
        }));
    });
}

/// The guest minds no mark: it takes the entry away and gives it to another domain for another frame.
#[test]
fn frame_of_a_rewritten_entry_is_never_ours() {
    model(|words| {
        let guest = {
            let words = words.clone();
            thread::spawn(move || {
                let secret = Gfn(SECRET.into());
                let entry = words.entry();
                entry.write(GTF_permit_access, DomId(3), secret, Part::PAGE);
            })
        };
        let answer = words.entry().mark(OURS, true, KIND_FOR_COPY);
        assert!(
            matches!(answer, Ok(granted) if granted.gfn.0 == u64::from(LENT)) || answer.is_err(),
            "a frame that was never granted to us: {answer:?}"
        );
        guest.join().unwrap();
    });
}

/// The guest takes the page back as it should, uses the entry's frame word for something else, and then grants anew what it
/// granted before. What was between is never ours.
#[test]
fn revoking_and_marking_exclude_each_other() {
    model(|words| {
        let guest = {
            let words = words.clone();
            thread::spawn(move || {
                let revoked = words.entry().revoke();
                if revoked {
                    words.frame.store(SECRET.into(), Ordering::Relaxed);
                }
                revoked
            })
        };
        let answer = words.entry().mark(OURS, false, KIND_FOR_COPY);
        let revoked = guest.join().unwrap();
        if let Ok(granted) = answer {
            assert!(granted.gfn.0 == u64::from(LENT), "what is not granted");
            assert!(!revoked, "used, and taken back");
        }
    });
}

/// What was done with the page is done before the guest can have it back.
#[test]
fn page_is_left_alone_before_its_marks_are_cleared() {
    model(|words| {
        // Written by us, then by the guest, never the other way round.
        let page = Arc::new(AtomicU32::new(0));
        let guest = {
            let (words, page) = (words.clone(), page.clone());
            thread::spawn(move || {
                let revoked = words.entry().revoke();
                if revoked {
                    page.store(2, Ordering::Relaxed);
                }
                revoked
            })
        };
        let entry = words.entry();
        if entry.mark(OURS, true, KIND_FOR_COPY).is_ok() {
            page.store(1, Ordering::Relaxed);
            entry.clear(GTF_reading | GTF_writing);
        }
        if guest.join().unwrap() {
            let last = page.load(Ordering::Relaxed);
            assert_eq!(last, 2, "written after it was given back");
        }
    });
}
