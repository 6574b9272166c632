//! What becomes of grants when a guest ends.

use std::io::Write;
use std::sync::Mutex;

use super::*;

/// What is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// What this thread logs meanwhile.
    fn of(act: impl FnOnce()) -> String {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .without_time()
            .with_target(false)
            .finish();
        tracing::subscriber::with_default(subscriber, act);
        let bytes = log.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }
}

#[test]
fn kvm_the_log_names_what_is_mapped_of_an_ended_guest() {
    let Some((granter, mapper)) = Harness::pair() else {
        return;
    };
    let grants = &granter.domain().grants;
    let mut handles = Vec::new();
    for gref in [9, 10, 11] {
        let frame = cantle_abi::Gfn(0x800 + u64::from(gref));
        assert_eq!(grants.seed(GrantRef(gref), OTHER, frame), Ok(()));
        let at = HOLE + u64::from(gref) * 4096;
        let op = map(gref, GUEST, at, GNTMAP_host_map);
        let (_, done) = call(&mapper, GNTTABOP_map_grant_ref, &op, 1);
        assert_eq!(done.status, GNTST_okay);
        handles.push((done.handle, at));
    }
    // What was given back is not named.
    let (handle, at) = handles[1];
    let (_, op) = call(&mapper, GNTTABOP_unmap_grant_ref, &unmap(handle, at), 1);
    assert_eq!(op.status, GNTST_okay);
    let text = Log::of(|| drop(granter.domain().end_grants()));
    let line = |gref: u32| {
        format!(
            " WARN a grant of an ended domain is still in use granter={GUEST} gref={} grantee={OTHER} uses=1\n",
            GrantRef(gref)
        )
    };
    assert_eq!(text, line(9) + &line(11));
    // Those that end with nothing in use say nothing; nor does one say it twice.
    assert_eq!(Log::of(|| drop(granter.domain().end_grants())), "");
    assert_eq!(Log::of(|| drop(mapper.domain().end_grants())), "");
}

#[test]
fn kvm_what_is_mapped_of_an_ended_guest_is_named_and_stays() {
    let Some((granter, mapper)) = Harness::pair() else {
        return;
    };
    let granted = granter
        .domain()
        .grants
        .seed(GrantRef(9), OTHER, cantle_abi::Gfn(0x800));
    assert_eq!(granted, Ok(()));
    let readonly = GNTMAP_host_map | GNTMAP_readonly;
    let op = map(9, GUEST, HOLE, readonly);
    let (_, done) = call(&mapper, GNTTABOP_map_grant_ref, &op, 1);
    assert_eq!(done.status, GNTST_okay);
    let ram = Arc::downgrade(&granter.domain().ram);
    let left = granter.domain().end_grants();
    assert_eq!(left.len(), 1);
    assert_eq!((left[0].granter, left[0].grantee), (GUEST, OTHER));
    assert_eq!((left[0].gref, left[0].uses), (GrantRef(9), 1));
    assert_eq!(granter.domain().end_grants(), [], "once");
    drop(granter);
    assert!(ram.upgrade().is_some(), "a zombie's memory");
    let op = unmap(done.handle, HOLE);
    let (_, op) = call(&mapper, GNTTABOP_unmap_grant_ref, &op, 1);
    assert_eq!(op.status, GNTST_okay);
    assert!(ram.upgrade().is_none(), "its last page is given back");
}

#[test]
fn kvm_a_guest_that_ends_gives_back_what_it_has_mapped() {
    let Some((granter, mapper)) = Harness::pair() else {
        return;
    };
    let grants = &granter.domain().grants;
    let granted = grants.seed(GrantRef(9), OTHER, cantle_abi::Gfn(0x800));
    assert_eq!(granted, Ok(()));
    let op = map(9, GUEST, HOLE, GNTMAP_host_map);
    let (_, done) = call(&mapper, GNTTABOP_map_grant_ref, &op, 1);
    assert_eq!((done.status, grants.mapped().len()), (GNTST_okay, 1));
    assert_eq!(mapper.domain().end_grants(), []);
    assert_eq!(grants.mapped(), []);
}
