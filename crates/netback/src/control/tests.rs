use cantle_abi::Gfn;
use cantle_abi::ring::{BackRing, FrontRing};
use cantle_grant::test_utils::{GuestPages, HeapGuest};
use cantle_grant::{Access, InProcessMapper, Tables};

use super::*;

mod model;
mod ring;
mod shared;
mod static_grants;

const GUEST: DomId = DomId(1);
const QUEUES: u32 = 4;

const SUCCESS: u32 = 0;
const NOT_SUPPORTED: u32 = 1;
const INVALID_PARAMETER: u32 = 2;
const BUFFER_OVERFLOW: u32 = 3;

/// A guest with a control ring, a page to say things in, and the back end's side.
struct World {
    guest: HeapGuest,
    mapper: InProcessMapper,
    front: FrontRing<XenNetifCtrlRequest, XenNetifCtrlResponse, GuestPages>,
    back: ControlRing,
    shared: Arc<SharedHash>,
    grants: Vec<Arc<StaticGrants>>,
    page: Gfn,
    /// The page's grants: for reading and writing, and for reading.
    writable: GrantRef,
    readable: GrantRef,
}

impl World {
    fn new(static_grants: bool) -> Self {
        let tables = Arc::new(Tables::new());
        let guest = HeapGuest::new(&tables, GUEST, 8);
        let mapper = InProcessMapper::new(tables, DomId::DOM0);
        let ring = guest.alloc_frame();
        let front = FrontRing::init(guest.page(ring)).unwrap();
        let gref = guest.grant(DomId::DOM0, ring, false);
        let mapped = mapper.map(GUEST, gref, Access::ReadWrite).unwrap();
        let queues = NonZeroU32::new(QUEUES).unwrap();
        let shared = Arc::new(SharedHash::new(HashConfig::new(NonZeroU32::MIN)));
        let grants: Vec<_> = (0..QUEUES).map(|_| Arc::default()).collect();
        let lent = if static_grants {
            grants.clone().into()
        } else {
            Box::default()
        };
        let control = Control::new(GUEST, queues, shared.clone(), lent);
        let page = guest.alloc_frame();
        Self {
            back: ControlRing::new(BackRing::attach(mapped).unwrap(), control),
            writable: guest.grant(DomId::DOM0, page, false),
            readable: guest.grant(DomId::DOM0, page, true),
            guest,
            mapper,
            front,
            shared,
            grants,
            page,
        }
    }

    /// Status and data of the answer to one request.
    fn ask(&mut self, kind: u16, data: [u32; 3]) -> (u32, u32) {
        let id = 0x8000 | kind;
        self.front
            .push_request(&XenNetifCtrlRequest { id, kind, data })
            .unwrap();
        assert!(self.front.publish_requests());
        let pass = self.back.process(&self.mapper).unwrap();
        assert_eq!(
            pass,
            ControlPass {
                notify: true,
                more: false
            }
        );
        let response = self.front.next_response().unwrap().unwrap();
        assert!(!self.front.final_check_for_responses());
        assert_eq!((response.id, response.kind), (id, kind));
        (response.status, response.data)
    }

    /// Hashing on, of all types.
    fn hashing(&mut self) {
        let ok = (SUCCESS, 0);
        assert_eq!(
            self.ask(XEN_NETIF_CTRL_TYPE_SET_HASH_ALGORITHM, [1, 0, 0]),
            ok
        );
        assert_eq!(self.ask(XEN_NETIF_CTRL_TYPE_SET_HASH_FLAGS, [15, 0, 0]), ok);
    }

    fn set_key(&mut self, gref: GrantRef, size: u32) -> u32 {
        self.ask(XEN_NETIF_CTRL_TYPE_SET_HASH_KEY, [gref.0, size, 0])
            .0
    }

    fn set_mapping(&mut self, entries: &[u32], count: u32, first: u32) -> u32 {
        let bytes: Vec<u8> = entries
            .iter()
            .flat_map(|entry| entry.to_le_bytes())
            .collect();
        self.guest.write(self.page, 0, &bytes);
        let data = [self.readable.0, count, first];
        self.ask(XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING, data).0
    }

    fn write_list(&self, list: &[(GrantRef, u16)]) {
        let entry = |&(gref, flags): &(GrantRef, u16)| XenNetifGref {
            gref,
            flags,
            status: 77,
        };
        let bytes: Vec<u8> = list.iter().flat_map(|e| entry(e).to_bytes()).collect();
        self.guest.write(self.page, 0, &bytes);
    }

    fn statuses(&self, count: usize) -> Vec<u16> {
        let bytes = self.guest.read(self.page, 0, count * 8);
        let (entries, _) = bytes.as_chunks();
        entries
            .iter()
            .map(|e| XenNetifGref::from_bytes(*e).status)
            .collect()
    }
}

fn queue_of(config: &HashConfig, value: u32) -> usize {
    let kind = HashKind::Ipv4;
    config.queue(Some(Hash { value, kind }))
}

#[test]
fn hashing_is_set_up_as_a_front_end_does() {
    let mut world = World::new(false);
    let mut reader = world.shared.reader();
    assert!(!reader.get().is_on());
    assert_eq!(
        world.ask(XEN_NETIF_CTRL_TYPE_GET_HASH_FLAGS, [0; 3]),
        (NOT_SUPPORTED, 0)
    );
    let early = world.ask(XEN_NETIF_CTRL_TYPE_SET_HASH_FLAGS, [15, 0, 0]);
    assert_eq!(early, (INVALID_PARAMETER, 0));
    world.hashing();
    assert_eq!(
        world.ask(XEN_NETIF_CTRL_TYPE_GET_HASH_FLAGS, [0; 3]),
        (SUCCESS, 15)
    );

    let key: Vec<u8> = (1..=40).collect();
    world.guest.write(world.page, 0, &key);
    assert_eq!(world.set_key(world.readable, 40), SUCCESS);
    let mut frame = vec![0; 14];
    (frame[12], frame[13]) = (8, 0);
    frame.extend([
        0x45, 0, 0, 20, 0, 0, 0, 0, 64, 1, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
    ]);
    let expected = Toeplitz::new(&key).hash(&[10, 0, 0, 1, 10, 0, 0, 2]);
    assert_eq!(reader.get().hash(&frame).unwrap().value, expected);

    let max = world.ask(XEN_NETIF_CTRL_TYPE_GET_HASH_MAPPING_SIZE, [0; 3]);
    assert_eq!(max, (SUCCESS, 128));
    let sized = world.ask(XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING_SIZE, [8, 0, 0]);
    assert_eq!(sized, (SUCCESS, 0));
    assert_eq!(world.set_mapping(&[3, 2, 1], 3, 5), SUCCESS);
    let queues: Vec<_> = (0..10).map(|hash| queue_of(reader.get(), hash)).collect();
    assert_eq!(queues, [0, 0, 0, 0, 0, 3, 2, 1, 0, 0]);
}

#[test]
fn a_refused_request_changes_nothing() {
    let mut world = World::new(false);
    world.hashing();
    world.guest.write(world.page, 0, &[0x5a; 41]);
    assert_eq!(world.set_key(world.readable, 40), SUCCESS);
    world.ask(XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING_SIZE, [4, 0, 0]);
    assert_eq!(world.set_mapping(&[3; 4], 4, 0), SUCCESS);
    let before = world.shared.load();

    assert_eq!(
        world
            .ask(XEN_NETIF_CTRL_TYPE_SET_HASH_ALGORITHM, [2, 0, 0])
            .0,
        INVALID_PARAMETER
    );
    assert_eq!(
        world.ask(XEN_NETIF_CTRL_TYPE_SET_HASH_FLAGS, [31, 0, 0]).0,
        INVALID_PARAMETER
    );
    assert_eq!(world.set_key(world.readable, 41), BUFFER_OVERFLOW);
    assert_eq!(world.set_key(world.readable, u32::MAX), BUFFER_OVERFLOW);
    assert_eq!(world.set_key(GrantRef(60_000), 40), INVALID_PARAMETER);
    let size = XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING_SIZE;
    assert_eq!(world.ask(size, [129, 0, 0]).0, INVALID_PARAMETER);
    assert_eq!(world.ask(size, [u32::MAX, 0, 0]).0, INVALID_PARAMETER);
    // The last entry is a queue that there is not: none of them is taken.
    assert_eq!(world.set_mapping(&[0, 1, 2, 4], 4, 0), INVALID_PARAMETER);
    assert_eq!(world.set_mapping(&[0; 2], 2, 3), INVALID_PARAMETER);
    assert_eq!(world.set_mapping(&[0; 2], 2, 127), BUFFER_OVERFLOW);
    assert_eq!(world.set_mapping(&[0; 2], 2, u32::MAX), BUFFER_OVERFLOW);
    assert_eq!(world.set_mapping(&[0; 2], u32::MAX, 2), BUFFER_OVERFLOW);
    let bad = [60_000, 1, 0];
    assert_eq!(
        world.ask(XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING, bad).0,
        INVALID_PARAMETER
    );
    for kind in [
        XEN_NETIF_CTRL_TYPE_GET_GREF_MAPPING_SIZE,
        9,
        10,
        0,
        11,
        u16::MAX,
    ] {
        assert_eq!(world.ask(kind, [0; 3]), (NOT_SUPPORTED, 0));
    }
    assert!(Arc::ptr_eq(&before, &world.shared.load()));
    assert_eq!(world.back.faults(), 19);
}

/// Where a table is to be set, and how much of it, is said by the guest: nothing it says reaches past the table or past its page, and
/// no queue of it is used that there is not, not even until it is refused.
#[test]
fn xsa_270_a_hash_mapping_is_set_within_its_bounds() {
    let ends = [
        0,
        1,
        63,
        64,
        65,
        127,
        128,
        129,
        1023,
        1024,
        1025,
        1 << 30,
        1 << 31,
        u32::MAX - 1,
        u32::MAX,
    ];
    let mut world = World::new(false);
    world.hashing();
    let sized = world.ask(XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING_SIZE, [64, 0, 0]);
    assert_eq!(sized, (SUCCESS, 0));
    for first in ends {
        for count in ends {
            let end = u64::from(first) + u64::from(count);
            let expected = match end {
                0..=64 => SUCCESS,
                65..=128 => INVALID_PARAMETER,
                _ => BUFFER_OVERFLOW,
            };
            assert_eq!(world.set_mapping(&[QUEUES - 1; 64], count, first), expected);
            let refused = if count == 0 {
                expected
            } else {
                expected.max(INVALID_PARAMETER)
            };
            assert_eq!(world.set_mapping(&[QUEUES; 64], count, first), refused);
            let config = world.shared.load();
            assert!((0..200).all(|hash| queue_of(&config, hash) < 4));
        }
    }
}

#[test]
fn a_key_of_no_bytes_clears_it_and_needs_no_page() {
    let mut world = World::new(false);
    world.guest.write(world.page, 0, &[0xff; 40]);
    assert_eq!(world.set_key(world.readable, 40), SUCCESS);
    assert_eq!(world.set_key(GrantRef(60_000), 0), SUCCESS);
    world.hashing();
    let mut frame = vec![0x45; 60];
    (frame[12], frame[13]) = (8, 0);
    assert_eq!(world.shared.load().hash(&frame).unwrap().value, 0);
}

#[test]
fn a_shorter_key_leaves_nothing_of_the_one_before() {
    let mut world = World::new(false);
    world.hashing();
    world.guest.write(world.page, 0, &[0xff; 40]);
    assert_eq!(world.set_key(world.readable, 40), SUCCESS);
    assert_eq!(world.set_key(world.readable, 3), SUCCESS);
    let mut frame = vec![0x45; 60];
    (frame[12], frame[13]) = (8, 0);
    let expected = Toeplitz::new(&[0xff; 3]).hash(&[0x45; 8]);
    assert_eq!(world.shared.load().hash(&frame).unwrap().value, expected);
}

#[test]
fn a_new_connection_begins_without_what_the_last_one_said() {
    let mut world = World::new(false);
    let mut reader = world.shared.reader();
    world.hashing();
    assert!(reader.get().is_on());
    let queues = NonZeroU32::new(2).unwrap();
    let _control = Control::new(GUEST, queues, world.shared.clone(), Box::default());
    assert!(!reader.get().is_on());
    assert_eq!(reader.get().queues(), queues);
}
