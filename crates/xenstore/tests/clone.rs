//! A cloned domain's subtree, as its users see it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use cantle_abi::io::xs_wire::XS_CONTROL;
use cantle_abi::{DomId, Errno};
use cantle_xenstore::prelude::*;
use cantle_xenstore::{Access, LocalClient, Perms, Shared, TxId};

const HOME: &str = "/local/domain/5";
const CLONE: &str = "/local/domain/7";

fn world() -> (Shared, LocalClient) {
    let store = Shared::default();
    let dom0 = store.client(DomId::DOM0).unwrap();
    for domain in [5, 7] {
        store.introduce(DomId(domain)).unwrap();
    }
    let own = Perms::new(DomId(5), Access::None).and(DomId(3), Access::Read);
    dom0.mkdir(TxId::NONE, HOME).unwrap();
    dom0.set_perms(TxId::NONE, HOME, &own).unwrap();
    dom0.write(TxId::NONE, &format!("{HOME}/device/vif/0/state"), b"4")
        .unwrap();
    dom0.write(TxId::NONE, &format!("{HOME}/domid"), b"5")
        .unwrap();
    (store, dom0)
}

fn check(dom0: &LocalClient) {
    assert_eq!(
        dom0.request(XS_CONTROL, TxId::NONE, b"check\0").unwrap(),
        b"OK\0"
    );
}

#[test]
fn a_clone_is_its_own_domains_and_the_original_is_untouched() {
    let (store, dom0) = world();
    let subtree = store.capture(HOME).unwrap();
    assert_eq!(subtree.nodes(), 6);
    assert!(subtree.mentioned().eq([DomId(3), DomId(5)]));
    store
        .graft(CLONE, &subtree, &[(DomId(5), DomId(7))])
        .unwrap();

    let (original, clone) = (
        store.client(DomId(5)).unwrap(),
        store.client(DomId(7)).unwrap(),
    );
    let state = format!("{CLONE}/device/vif/0/state");
    let perms = Perms::new(DomId(7), Access::None).and(DomId(3), Access::Read);
    assert_eq!(clone.get_perms(TxId::NONE, &state).unwrap(), perms);
    assert_eq!(
        clone.read(TxId::NONE, "domid").unwrap(),
        b"5",
        "the caller's"
    );
    let refused = original.read(TxId::NONE, &state).unwrap_err();
    assert_eq!(refused.errno, Errno::EACCES);

    clone.write(TxId::NONE, "device/vif/0/state", b"1").unwrap();
    clone.rm(TxId::NONE, "domid").unwrap();
    assert_eq!(
        original.read(TxId::NONE, "device/vif/0/state").unwrap(),
        b"4"
    );
    assert_eq!(original.read(TxId::NONE, "domid").unwrap(), b"5");
    original
        .write(TxId::NONE, "device/vif/0/handle", b"9")
        .unwrap();
    assert!(
        !dom0
            .exists(TxId::NONE, &format!("{CLONE}/device/vif/0/handle"))
            .unwrap()
    );
    check(&dom0);

    // Each dies for itself, and a clone of the template can be made when the template is gone.
    store.release(DomId(5)).unwrap();
    assert!(!dom0.exists(TxId::NONE, HOME).unwrap());
    let clone_of = |domain: u16| {
        store.graft(
            &format!("/local/domain/{domain}"),
            &subtree,
            &[(DomId(5), DomId(domain))],
        )
    };
    assert_eq!(clone_of(8), Ok(()));
    assert_eq!(
        clone_of(5),
        Err(Errno::ENOENT),
        "it would be the dead one's"
    );
    store.release(DomId(7)).unwrap();
    assert!(!dom0.exists(TxId::NONE, CLONE).unwrap());
    assert!(
        dom0.exists(TxId::NONE, "/local/domain/8/device/vif/0")
            .unwrap()
    );
    check(&dom0);
}

#[test]
fn a_graft_is_one_event_and_one_change() {
    let (store, dom0) = world();
    let subtree = store.capture(HOME).unwrap();
    dom0.watch("/local/domain", "above").unwrap();
    dom0.watch(&format!("{CLONE}/device"), "below").unwrap();
    while dom0.take_event().is_some() {}
    let tx = dom0.transaction_start().unwrap();
    dom0.directory(tx, "/local/domain").unwrap();
    let same = [(DomId(5), DomId(7))];
    store.graft(CLONE, &subtree, &same).unwrap();
    let event = dom0.take_event().unwrap();
    assert_eq!(
        (event.path.as_str(), event.token.as_str()),
        (CLONE, "above")
    );
    assert!(dom0.take_event().is_none());
    assert!(dom0.transaction_end(tx, true).unwrap_err().is_again());
    // And what fails is none.
    assert_eq!(store.graft(CLONE, &subtree, &same), Err(Errno::EEXIST));
    assert_eq!(store.graft("x", &subtree, &same), Err(Errno::EINVAL));
    let nobody = [(DomId(5), DomId::INVALID)];
    assert_eq!(store.graft("/x", &subtree, &nobody), Err(Errno::EINVAL));
    assert_eq!(store.capture("/x").unwrap_err(), Errno::ENOENT);
    assert!(dom0.take_event().is_none());
}
