//! A node's children: an ordered list in shared pieces, so that changing one child of a thousand copies a few dozen pointers,
//! where the rest is shared with a snapshot.

use std::sync::Arc;

use super::Node;

/// A piece that grows beyond this is halved.
const PIECE_MAX: usize = 32;

type Piece = Vec<Arc<Node>>;

/// Children, ordered by name. No piece is empty.
#[derive(Clone, Debug, Default)]
pub(crate) struct Children(Vec<Arc<Piece>>);

/// How far a walk through some children has come.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cursor {
    piece: usize,
    index: usize,
}

impl Children {
    /// From a list that is in order.
    pub(crate) fn from_sorted(list: &[Arc<Node>]) -> Self {
        Self(
            list.chunks(PIECE_MAX)
                .map(|piece| Arc::new(piece.to_vec()))
                .collect(),
        )
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Arc<Node>> {
        let piece = self.0.get(self.piece_of(name))?;
        piece.get(position(piece, name).ok()?)
    }

    /// The child, made this list's own where it was shared.
    pub(crate) fn get_mut(&mut self, name: &str) -> Option<&mut Node> {
        let at = self.piece_of(name);
        let piece = Arc::make_mut(self.0.get_mut(at)?);
        let at = position(piece, name).ok()?;
        piece.get_mut(at).map(Arc::make_mut)
    }

    /// Adds a child. The caller knows that there is none of its name.
    pub(crate) fn insert(&mut self, child: Node) {
        // A name beyond all others goes to the end of the last piece.
        let at = self
            .piece_of(&child.name)
            .min(self.0.len().saturating_sub(1));
        let Some(piece) = self.0.get_mut(at) else {
            self.0.push(Arc::new(vec![Arc::new(child)]));
            return;
        };
        let piece = Arc::make_mut(piece);
        let there = position(piece, &child.name).unwrap_or_else(|there| there);
        piece.insert(there, Arc::new(child));
        if piece.len() > PIECE_MAX {
            let upper = piece.split_off(PIECE_MAX / 2);
            self.0.insert(at + 1, Arc::new(upper));
        }
    }

    pub(crate) fn remove(&mut self, name: &str) -> Option<Arc<Node>> {
        let at = self.piece_of(name);
        let piece = self.0.get_mut(at)?;
        let there = position(piece, name).ok()?;
        let piece = Arc::make_mut(piece);
        let removed = piece.remove(there);
        if piece.is_empty() {
            self.0.remove(at);
        }
        Some(removed)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.0.iter().flat_map(|piece| piece.iter())
    }

    /// The child at the cursor, which moves on.
    pub(crate) fn next(&self, cursor: &mut Cursor) -> Option<&Arc<Node>> {
        let piece = self.0.get(cursor.piece)?;
        let child = piece.get(cursor.index);
        cursor.index += 1;
        if cursor.index >= piece.len() {
            *cursor = Cursor {
                piece: cursor.piece + 1,
                index: 0,
            };
        }
        child
    }

    /// Whether both lists have the same names.
    pub(crate) fn same_names(&self, other: &Self) -> bool {
        let name = |child: &Arc<Node>| Arc::clone(&child.name);
        self.iter().map(name).eq(other.iter().map(name))
    }

    /// Takes all children out and drops those subtrees that nobody shares, without recursion: a guest decides how deep
    /// they are.
    pub(super) fn drop_all(&mut self) {
        let mut doomed = core::mem::take(&mut self.0);
        while let Some(piece) = doomed.pop() {
            for child in Arc::into_inner(piece).into_iter().flatten() {
                if let Some(mut child) = Arc::into_inner(child) {
                    doomed.append(&mut child.children.0);
                }
            }
        }
    }

    /// The first piece whose last name is not before `name`; one beyond the last where there is none.
    fn piece_of(&self, name: &str) -> usize {
        self.0
            .partition_point(|piece| piece.last().is_some_and(|last| *last.name < *name))
    }
}

fn position(piece: &Piece, name: &str) -> Result<usize, usize> {
    piece.binary_search_by(|child| (*child.name).cmp(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::edit::private_to_dom0;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn node(name: &str, generation: u64) -> Node {
        Node::new(name, private_to_dom0(), generation)
    }

    proptest! {
        #[test]
        fn it_is_an_ordered_map(steps in prop::collection::vec((0..3_u8, "[a-d]{1,4}"), 0..400)) {
            let mut children = Children::default();
            let mut model = BTreeMap::new();
            let mut snapshots = Vec::new();
            for (number, (kind, name)) in (1_u64..).zip(&steps) {
                match kind {
                    0 => {
                        let removed = children.remove(name).map(|node| node.generation);
                        prop_assert_eq!(removed, model.remove(name));
                    }
                    1 if model.contains_key(name) => {
                        children.get_mut(name).unwrap().generation = number;
                        model.insert(name.clone(), number);
                    }
                    _ if model.contains_key(name) => {}
                    _ => {
                        children.insert(node(name, number));
                        model.insert(name.clone(), number);
                    }
                }
                prop_assert_eq!(children.get(name).map(|node| node.generation), model.get(name).copied());
                if number % 50 == 0 {
                    snapshots.push((children.clone(), model.clone()));
                }
            }
            snapshots.push((children, model));
            for (children, model) in &snapshots {
                let listed: Vec<_> = children.iter().map(|node| (node.name.to_string(), node.generation)).collect();
                prop_assert_eq!(&listed, &model.clone().into_iter().collect::<Vec<_>>());
                let mut cursor = Cursor::default();
                let walked: Vec<_> = core::iter::from_fn(|| children.next(&mut cursor)).collect();
                prop_assert_eq!(walked.len(), listed.len());
                prop_assert!(children.0.iter().all(|piece| (1..=PIECE_MAX).contains(&piece.len())));
                let sorted: Vec<_> = children.iter().cloned().collect();
                prop_assert!(Children::from_sorted(&sorted).same_names(children));
                prop_assert_eq!(children.is_empty(), model.is_empty());
            }
        }
    }
}
