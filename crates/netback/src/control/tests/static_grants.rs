use cantle_abi::io::netif::XEN_NETIF_CTRLF_GREF_readonly;

use super::*;

#[test]
fn grants_stay_mapped_until_their_front_end_takes_them_back() {
    let mut world = World::new(true);
    let (one, none) = ([1, world.writable.0, 2], [4, world.writable.0, 2]);
    let data = world.guest.alloc_frame();
    let both = world.guest.grant(DomId::DOM0, data, false);
    let read = world.guest.grant(DomId::DOM0, data, true);
    let size = XEN_NETIF_CTRL_TYPE_GET_GREF_MAPPING_SIZE;
    assert_eq!(world.ask(size, [3, 0, 0]), (SUCCESS, 512));
    assert_eq!(world.ask(size, [4, 0, 0]), (INVALID_PARAMETER, 0));

    world.write_list(&[(both, 0), (read, XEN_NETIF_CTRLF_GREF_readonly)]);
    assert_eq!(
        world.ask(XEN_NETIF_CTRL_TYPE_ADD_GREF_MAPPING, none),
        (INVALID_PARAMETER, 0)
    );
    assert_eq!(
        world.ask(XEN_NETIF_CTRL_TYPE_ADD_GREF_MAPPING, one),
        (SUCCESS, 0)
    );
    // Each queue has its own.
    assert!(world.grants[0].is_empty());
    assert!(
        world.grants[1]
            .lock()
            .get(both, Access::ReadWrite)
            .is_some()
    );
    assert!(!world.guest.ungrant(both));
    // Twice is once too often.
    assert_eq!(
        world.ask(XEN_NETIF_CTRL_TYPE_ADD_GREF_MAPPING, one),
        (INVALID_PARAMETER, 0)
    );

    let held = world.grants[1].lock().get(read, Access::ReadOnly);
    world.write_list(&[(both, 0), (read, 0), (GrantRef(7), 0)]);
    let three = [1, world.writable.0, 3];
    assert_eq!(
        world.ask(XEN_NETIF_CTRL_TYPE_DEL_GREF_MAPPING, three),
        (SUCCESS, 1)
    );
    assert_eq!(world.statuses(3), [0, 2, 2]);
    assert!(world.guest.ungrant(both));
    drop(held);
    assert_eq!(
        world.ask(XEN_NETIF_CTRL_TYPE_DEL_GREF_MAPPING, three),
        (SUCCESS, 1)
    );
    assert_eq!(world.statuses(3), [2, 0, 2]);
    assert!(world.guest.ungrant(read));
}

#[test]
fn a_list_page_that_cannot_be_answered_in_unmaps_nothing() {
    let mut world = World::new(true);
    let data = world.guest.alloc_frame();
    let gref = world.guest.grant(DomId::DOM0, data, false);
    world.write_list(&[(gref, 0)]);
    let readable = [0, world.readable.0, 1];
    assert_eq!(
        world.ask(XEN_NETIF_CTRL_TYPE_ADD_GREF_MAPPING, readable),
        (SUCCESS, 0)
    );
    let refused = world.ask(XEN_NETIF_CTRL_TYPE_DEL_GREF_MAPPING, readable);
    assert_eq!(refused, (INVALID_PARAMETER, 0));
    assert!(!world.grants[0].is_empty());
    let bad = [0, 60_000, 1];
    assert_eq!(
        world.ask(XEN_NETIF_CTRL_TYPE_DEL_GREF_MAPPING, bad).0,
        INVALID_PARAMETER
    );
    assert_eq!(
        world.ask(XEN_NETIF_CTRL_TYPE_ADD_GREF_MAPPING, bad).0,
        INVALID_PARAMETER
    );
    let long = [0, world.writable.0, 513];
    assert_eq!(
        world.ask(XEN_NETIF_CTRL_TYPE_ADD_GREF_MAPPING, long).0,
        INVALID_PARAMETER
    );
    assert_eq!(
        world.ask(XEN_NETIF_CTRL_TYPE_DEL_GREF_MAPPING, long).0,
        INVALID_PARAMETER
    );
}

#[test]
fn a_pass_ends_before_it_unmaps_for_ever() {
    let mut world = World::new(true);
    let data = [0, world.writable.0, STATIC_GRANTS_MAX];
    let kind = XEN_NETIF_CTRL_TYPE_DEL_GREF_MAPPING;
    for id in 0..10 {
        world
            .front
            .push_request(&XenNetifCtrlRequest { id, kind, data })
            .unwrap();
    }
    assert!(world.front.publish_requests());
    let mut passes = 0;
    while world.back.process(&world.mapper).unwrap().more {
        passes += 1;
    }
    assert_eq!(passes, 4);
    for id in 0..10 {
        assert_eq!(world.front.next_response().unwrap().unwrap().id, id);
    }
}
