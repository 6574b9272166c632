use super::*;

#[test]
fn a_full_ring_is_answered_in_one_pass() {
    let mut world = World::new(false);
    let data = [0; 3];
    let kind = XEN_NETIF_CTRL_TYPE_GET_HASH_MAPPING_SIZE;
    let slots = world.front.slots();
    for id in 0..u16::try_from(slots).unwrap() {
        world
            .front
            .push_request(&XenNetifCtrlRequest { id, kind, data })
            .unwrap();
    }
    assert!(world.front.publish_requests());
    let pass = world.back.process(&world.mapper).unwrap();
    assert_eq!(
        pass,
        ControlPass {
            notify: true,
            more: false
        }
    );
    for id in 0..u16::try_from(slots).unwrap() {
        assert_eq!(world.front.next_response().unwrap().unwrap().id, id);
    }
}

#[test]
fn an_index_that_jumps_breaks_the_ring() {
    let mut world = World::new(false);
    let ring = Gfn(world.page.0 - 1);
    let slots = world.front.slots();
    world.guest.write(ring, 0, &(slots + 1).to_le_bytes());
    assert!(world.back.process(&world.mapper).is_err());
}
