//! Children against a plain map.

use super::*;
use crate::store::edit::private_to_dom0;
use crate::{Access, Perms};
use cantle_abi::DomId;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn node(owner: u16, generation: u64) -> Node {
    Node::new(Arc::new(Perms::new(DomId(owner), Access::None)), generation)
}

fn listed(children: &Children, outer: Option<&Arc<Renaming>>) -> Vec<(String, (u64, u16))> {
    children
        .pieces(outer)
        .flatten()
        .map(|(name, node)| (name.to_owned(), (node.generation(), node.perms().owner.0)))
        .collect()
}

impl Children {
    fn is_sound(&self) -> bool {
        let parts: Vec<_> = self.pieces(None).collect();
        let sized = |part: &Part<'_>| (1..=PIECE_MAX).contains(&part.piece.entries.len());
        let covered = parts.iter().all(|part| {
            part.clone()
                .all(|(_, node)| part.mentions().may_contain(node.perms().owner))
        });
        let whole = parts.iter().all(|part| {
            let end = part.piece.entries.last().map(|entry| entry.end as usize);
            end == Some(part.piece.names.len())
        });
        covered && whole && parts.iter().all(sized)
    }
}

proptest! {
    #[test]
    fn it_is_an_ordered_map(
        steps in prop::collection::vec((0..5_u8, "[a-d]{1,4}"), 0..500),
        ordered in prop::collection::btree_set("[a-d]{1,4}", 0..100),
    ) {
        let mut children = Children::default();
        let mut model = BTreeMap::new();
        let mut snapshots = Vec::new();
        for name in ordered {
            children.insert(&name, node(1, 0));
            model.insert(name, (0, 1));
        }
        for (number, (kind, name)) in (1_u64..).zip(&steps) {
            match kind {
                0 => {
                    let removed = children
                        .remove(name)
                        .map(|node| (node.generation, node.perms.owner.0));
                    prop_assert_eq!(removed, model.remove(name));
                }
                1 if model.contains_key(name) => {
                    let dom3 = Mentions::of(&Perms::new(DomId(3), Access::None));
                    let child = children.get_mut(name, dom3).unwrap();
                    child.generation = number;
                    child.perms = Arc::new(Perms::new(DomId(3), Access::None));
                    model.insert(name.clone(), (number, 3));
                }
                // Now and then another domain's clone, which shares.
                2 if number % 10 == 0 => {
                    let to = |domain: DomId| DomId(domain.0 % 7 + 1);
                    let all = (0..8).map(DomId);
                    children = children.under(&Renaming::new(all, to).unwrap());
                    for (_, owner) in model.values_mut() {
                        *owner = *owner % 7 + 1;
                    }
                }
                _ if model.contains_key(name) => {}
                _ => {
                    children.insert(name, node(2, number));
                    model.insert(name.clone(), (number, 2));
                }
            }
            let found = children
                .get(name, None)
                .map(|node| (node.generation(), node.perms().owner.0));
            prop_assert_eq!(found, model.get(name).copied());
            if number % 50 == 0 {
                snapshots.push((children.clone(), model.clone()));
            }
        }
        snapshots.push((children, model));
        for (mut children, model) in snapshots {
            let expected: Vec<_> = model.clone().into_iter().collect();
            prop_assert_eq!(listed(&children, None), expected.clone());
            prop_assert!(children.is_sound());
            let names: String = children.names().collect();
            let wanted: String = model.keys().map(|name| format!("{name}\0")).collect();
            prop_assert_eq!(names, wanted);
            children.recount_mentions();
            prop_assert!(children.is_sound());
            prop_assert_eq!(listed(&children, None), expected);
            prop_assert_eq!(children.is_empty(), model.is_empty());
            let mut other = Children::default();
            for name in model.keys() {
                prop_assert!(!children.same_names(&other));
                other.insert(name, Node::new(private_to_dom0(), 0));
            }
            prop_assert!(children.same_names(&other));
        }
    }
}
