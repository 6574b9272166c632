//! In what two trees differ, at the cost of what differs: subtrees that both share are not looked into.

use super::{NodeRef, Tree};

/// A place where a newer tree is not like an older one.
#[derive(Debug)]
pub(crate) enum Difference<'a> {
    /// The node and all below it is not there any more.
    Gone,
    /// The node is new, or has another value or other permissions.
    Set(&'a NodeRef<'a>),
}

/// Calls `found` with the path of each difference: parents first; what is gone from a node before what is new below it.
/// Without recursion.
pub(crate) fn differences(old: &Tree, new: &Tree, mut found: impl FnMut(&str, Difference<'_>)) {
    let mut stack = vec![(String::new(), Some(old.root()), new.root())];
    while let Some((path, old, new)) = stack.pop() {
        if old.as_ref().is_some_and(|old| old.is(&new)) {
            continue;
        }
        let shown = if path.is_empty() { "/" } else { path.as_str() };
        let same = |old: &NodeRef<'_>| old.value() == new.value() && old.perms() == new.perms();
        if !old.as_ref().is_some_and(same) {
            found(shown, Difference::Set(&new));
        }
        let Some(old) = old else {
            let below = new.children();
            stack.extend(below.map(|(name, child)| (format!("{path}/{name}"), None, child)));
            continue;
        };
        unlike(&old, &new, |name, old, new| match (old, new) {
            (Some(_), None) => found(&format!("{path}/{name}"), Difference::Gone),
            (old, Some(new)) => stack.push((format!("{path}/{name}"), old, new)),
            (None, None) => {}
        });
    }
}

/// Calls `found` with each child that is not the same below both, as it is below either.
fn unlike<'t>(
    old: &NodeRef<'t>,
    new: &NodeRef<'t>,
    mut found: impl FnMut(&'t str, Option<NodeRef<'t>>, Option<NodeRef<'t>>),
) {
    let (mut old, mut new) = old.unlike_children(new);
    let (mut before, mut after) = (old.next(), new.next());
    loop {
        (before, after) = match (before, after) {
            (None, None) => return,
            (Some((name, was)), Some((same, is))) if name == same => {
                if !was.is(&is) {
                    found(name, Some(was), Some(is));
                }
                (old.next(), new.next())
            }
            (Some((name, was)), after) if after.as_ref().is_none_or(|(later, _)| name < *later) => {
                found(name, Some(was), None);
                (old.next(), after)
            }
            (before, Some((name, is))) => {
                found(name, None, Some(is));
                (before, new.next())
            }
            // Not reached: the guard above takes whatever has no counterpart.
            (_, None) => return,
        };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::store::Node;
    use crate::store::edit::private_to_dom0;
    use crate::{Access, Perms};
    use cantle_abi::DomId;

    fn listed(tree: &Tree) -> Vec<(String, Vec<u8>, DomId)> {
        let mut list = Vec::new();
        let done: Result<(), ()> = tree.preorder(|path, node| {
            list.push((path.to_owned(), node.value().to_vec(), node.perms().owner));
            Ok(())
        });
        done.unwrap();
        list
    }

    fn change(tree: &mut Tree, steps: &[(u8, String)]) {
        for (number, (kind, path)) in (0_u64..).zip(steps) {
            let owner = DomId(u16::from(kind % 4));
            let perms = Arc::new(Perms::new(owner, Access::None));
            if *kind < 64 {
                tree.remove(path, number);
            } else {
                tree.put(path, (*kind).to_string().as_bytes(), &perms, number);
            }
        }
    }

    proptest! {
        #[test]
        fn applied_to_the_old_tree_they_make_the_new_one(
            first in prop::collection::vec((any::<u8>(), "(/[a-d]{1,3}){1,3}"), 0..150),
            second in prop::collection::vec((any::<u8>(), "(/[a-d]{1,3}){1,3}"), 0..30),
        ) {
            let mut old = Tree::new(Node::new(private_to_dom0(), 0));
            change(&mut old, &first);
            let mut new = old.clone();
            change(&mut new, &second);
            let mut made = old.clone();
            let mut count = 0;
            differences(&old, &new, |path, difference| {
                count += 1;
                match difference {
                    Difference::Gone => assert!(made.remove(path, 0).is_some(), "{path} was there"),
                    Difference::Set(node) => {
                        let parent = path.rsplit_once('/').unwrap().0;
                        assert!(made.get(parent).is_some(), "parents come first");
                        made.put(path, node.value(), node.perms(), 0);
                    }
                }
            });
            prop_assert_eq!(listed(&made), listed(&new));
            if second.is_empty() {
                prop_assert_eq!(count, 0);
            }
        }
    }
}
