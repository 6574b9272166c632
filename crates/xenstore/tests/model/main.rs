//! Random requests of several connections with open transactions, against a plain map.
//!
//! The model knows nothing of trees, sharing or logs. For every request the server's answer has to be the model's; every
//! transaction that commits has to be explicable as having happened at that moment, with all the answers that it got;
//! every one that is refused must have had a reason; and every watch must tell what the model says, and no more.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod map;
mod run;

use proptest::prelude::*;

use map::Op;
use run::{Step, World};

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 0..4).prop_map(|names| {
        if names.is_empty() {
            "/".to_owned()
        } else {
            names.iter().map(|name| format!("/{name}")).collect()
        }
    })
}

fn perms() -> impl Strategy<Value = String> {
    let entry = (prop::sample::select(vec!['n', 'r', 'w', 'b']), 0..3_u16)
        .prop_map(|(letter, domid)| format!("{letter}{domid}\0"));
    prop::collection::vec(entry, 1..4).prop_map(|entries| entries.concat())
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => path().prop_map(Op::Read),
        6 => (path(), "[x-z]{0,12}").prop_map(|(path, value)| Op::Write(path, value)),
        3 => path().prop_map(Op::Mkdir),
        2 => path().prop_map(Op::Rm),
        3 => path().prop_map(Op::List),
        1 => path().prop_map(Op::GetPerms),
        2 => (path(), perms()).prop_map(|(path, perms)| Op::SetPerms(path, perms)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => (0..4_usize, op()).prop_map(|(conn, op)| Step::Alone(conn, op)),
        20 => (0..4_usize, 0..3_usize, op()).prop_map(|(conn, tx, op)| Step::Within(conn, tx, op)),
        4 => (0..4_usize).prop_map(Step::Start),
        6 => (0..4_usize, 0..3_usize, prop::bool::weighted(0.8))
            .prop_map(|(conn, tx, commit)| Step::End(conn, tx, commit)),
        3 => (0..4_usize, path(), prop::option::of(0..4_u8))
            .prop_map(|(conn, path, depth)| Step::Watch(conn, path, depth)),
        1 => (0..4_usize, path()).prop_map(|(conn, path)| Step::Unwatch(conn, path)),
        1 => (1..3_u16).prop_map(Step::Die),
        8 => Just(Step::Hear),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5000, ..ProptestConfig::default() })]

    #[test]
    fn the_server_is_the_map(
        open_root in any::<bool>(),
        stub in any::<bool>(),
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let mut world = World::new(open_root, stub);
        for step in &steps {
            world.step(step)?;
        }
        world.finish()?;
    }
}
