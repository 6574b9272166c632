//! A node's children: an ordered list in shared pieces, so that changing one child of a thousand copies a few dozen pointers,
//! where the rest is shared with a snapshot.
//!
//! A piece keeps its children's names together, as the protocol lists them, and beside them one pointer for each child. So
//! a search touches the names alone, a listing is a copy, and a name costs no allocation of its own.

use std::sync::Arc;

use super::mentions::{Mentions, Renaming};
use super::{Node, NodeRef};

/// A piece that grows beyond this is divided.
const PIECE_MAX: usize = 32;

/// Children, ordered by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Children(Option<Arc<Dir>>);

/// What is behind [`Children`], in three forms.
#[derive(Clone, Debug)]
enum Dir {
    /// A few of them: at least one.
    Piece(Piece),
    /// More than one piece, each of which may be renamed on its own.
    Pieces(Vec<Arc<Dir>>),
    /// A directory or a piece that is shared with another domain's subtree: whatever is read in it, and below it, is read
    /// under the renaming; what is changed is unshared first. The directory is not renamed itself.
    Renamed(Arc<Dir>, Arc<Renaming>),
}

#[derive(Clone, Debug, Default)]
struct Piece {
    /// The names, each with a NUL, in order.
    names: Box<str>,
    entries: Box<[Entry]>,
    /// Covers the nodes and all below them.
    mentions: Mentions,
}

#[derive(Clone, Debug)]
struct Entry {
    node: Arc<Node>,
    /// Where its name ends in `names`, behind the NUL.
    end: u32,
}

impl Children {
    /// From names in order, each with its NUL, and as many nodes.
    pub(super) fn from_sorted(names: &str, nodes: Vec<Arc<Node>>) -> Self {
        let mut pieces = Vec::with_capacity(nodes.len().div_ceil(PIECE_MAX));
        let mut rest = names;
        let mut nodes = nodes.into_iter();
        while nodes.len() > 0 {
            let mut entries = Vec::with_capacity(nodes.len().min(PIECE_MAX));
            let mut end = 0;
            for node in nodes.by_ref().take(PIECE_MAX) {
                let after = rest.get(end..).unwrap_or_default();
                end += after.find('\0').map_or(after.len(), |at| at + 1);
                let end = offset(end);
                entries.push(Entry { node, end });
            }
            let (piece, after) = rest.split_at(end);
            rest = after;
            pieces.push(Arc::new(Dir::Piece(Piece::from_parts(
                piece.to_owned(),
                entries,
            ))));
        }
        Self(if pieces.len() > 1 {
            Some(Arc::new(Dir::Pieces(pieces)))
        } else {
            pieces.pop()
        })
    }

    /// The children of two lists, as both are to be seen under a renaming, but for those in pieces that both share at their
    /// beginnings and their ends: where little has changed, most of them.
    pub(super) fn unlike<'t>(
        &'t self,
        other: &'t Self,
        outer: Option<&Arc<Renaming>>,
    ) -> (Pieces<'t>, Pieces<'t>) {
        let (mut ours, mut others) = (self.parts(), other.parts());
        while let ([our, our_rest @ ..], [other, other_rest @ ..]) = (ours, others)
            && Arc::ptr_eq(our, other)
        {
            (ours, others) = (our_rest, other_rest);
        }
        while let ([our_rest @ .., our], [other_rest @ .., other]) = (ours, others)
            && Arc::ptr_eq(our, other)
        {
            (ours, others) = (our_rest, other_rest);
        }
        let under = |rest| Pieces {
            rest,
            outer: outer.map(Arc::clone),
        };
        (under(ours), under(others))
    }

    /// The pieces, or what they are in.
    fn parts(&self) -> &[Arc<Dir>] {
        match self.0.as_deref() {
            Some(Dir::Pieces(pieces)) => pieces,
            _ => self.0.as_slice(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Whether both are the same list in memory.
    pub(crate) fn is(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Some(this), Some(other)) => Arc::ptr_eq(this, other),
            (None, None) => true,
            _ => false,
        }
    }

    /// A child, where these children are to be seen under a renaming.
    pub(crate) fn get<'t>(
        &'t self,
        name: &str,
        outer: Option<&Arc<Renaming>>,
    ) -> Option<NodeRef<'t>> {
        let mut renaming = outer.map(Arc::clone);
        let mut dir = self.0.as_ref()?;
        loop {
            match &**dir {
                Dir::Renamed(inner, inward) => {
                    renaming = Some(inward.then(renaming.as_ref()));
                    dir = inner;
                }
                Dir::Pieces(pieces) => dir = pieces.get(piece_of(pieces, name))?,
                Dir::Piece(piece) => {
                    let at = piece.position(name).ok()?;
                    return Some(NodeRef::new(&piece.entries.get(at)?.node, renaming));
                }
            }
        }
    }

    /// The child, made this list's own where it was shared. `mentions` is what will be mentioned by it or below it and was not.
    pub(crate) fn get_mut(&mut self, name: &str, mentions: Mentions) -> Option<&mut Node> {
        let piece = match owned(self.0.as_mut()?) {
            Dir::Pieces(pieces) => {
                let at = piece_of(pieces, name);
                owned(pieces.get_mut(at)?)
            }
            dir => dir,
        };
        let Dir::Piece(piece) = piece else {
            return None;
        };
        let at = piece.position(name).ok()?;
        piece.mentions = piece.mentions.and(mentions);
        piece
            .entries
            .get_mut(at)
            .map(|entry| Arc::make_mut(&mut entry.node))
    }

    /// Adds a child. The caller knows that there is none of its name.
    pub(crate) fn insert(&mut self, name: &str, child: Node) {
        let mentions = child.mentions();
        let entry = Arc::new(child);
        let Some(dir) = &mut self.0 else {
            let piece = Piece::of_one(name, entry, mentions);
            self.0 = Some(Arc::new(Dir::Piece(piece)));
            return;
        };
        let mut new = None;
        match owned(dir) {
            Dir::Piece(piece) => {
                if let Some(upper) = piece.insert(name, entry, mentions, true) {
                    let lower = core::mem::take(piece);
                    let pieces = [lower, upper].map(|piece| Arc::new(Dir::Piece(piece)));
                    new = Some(Dir::Pieces(pieces.into()));
                }
            }
            Dir::Pieces(pieces) => {
                // A name beyond all others goes to the end of the last piece.
                let last = pieces.len().saturating_sub(1);
                let at = piece_of(pieces, name).min(last);
                if let Some(piece) = pieces.get_mut(at)
                    && let Dir::Piece(piece) = owned(piece)
                    && let Some(upper) = piece.insert(name, entry, mentions, at == last)
                {
                    pieces.insert(at + 1, Arc::new(Dir::Piece(upper)));
                }
            }
            Dir::Renamed(..) => {}
        }
        if let Some(new) = new {
            *dir = Arc::new(new);
        }
    }

    /// Takes a child out.
    pub(crate) fn remove(&mut self, name: &str) -> Option<Arc<Node>> {
        let (removed, empty) = match owned(self.0.as_mut()?) {
            Dir::Piece(piece) => {
                let removed = piece.remove(name)?;
                (removed, piece.entries.is_empty())
            }
            Dir::Pieces(pieces) => {
                let at = piece_of(pieces, name);
                let Dir::Piece(piece) = owned(pieces.get_mut(at)?) else {
                    return None;
                };
                let removed = piece.remove(name)?;
                if piece.entries.is_empty() {
                    pieces.remove(at);
                }
                (removed, pieces.is_empty())
            }
            Dir::Renamed(..) => return None,
        };
        if empty {
            self.0 = None;
        }
        Some(removed)
    }

    /// The same children, shared, as they are to be seen under a renaming.
    pub(crate) fn under(&self, renaming: &Arc<Renaming>) -> Self {
        Self(self.0.as_ref().map(|dir| under(dir, renaming)))
    }

    /// What is mentioned below, with false positives.
    pub(crate) fn mentions(&self) -> Mentions {
        self.0
            .as_ref()
            .map_or(Mentions::default(), |dir| dir.mentions())
    }

    /// Finds out anew what is mentioned below, one level deep.
    pub(crate) fn recount_mentions(&mut self) {
        let recount = |dir: &mut Dir| {
            if let Dir::Piece(piece) = dir {
                piece.mentions = mentions_of(&piece.entries);
            }
        };
        match self.0.as_mut().map(owned) {
            Some(Dir::Pieces(pieces)) => pieces.iter_mut().map(owned).for_each(recount),
            Some(dir) => recount(dir),
            None => {}
        }
    }

    /// The children in order, by pieces, as they are to be seen under a renaming.
    pub(crate) fn pieces<'t>(&'t self, outer: Option<&Arc<Renaming>>) -> Pieces<'t> {
        Pieces {
            rest: self.0.as_slice(),
            outer: outer.map(Arc::clone),
        }
    }

    /// The names in order, in runs; each has its NUL.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.pieces(None).map(|part| &*part.piece.names)
    }

    /// Whether both lists have the same names.
    pub(crate) fn same_names(&self, other: &Self) -> bool {
        self.is(other)
            || self
                .names()
                .flat_map(str::bytes)
                .eq(other.names().flat_map(str::bytes))
    }

    /// Takes all children out and drops those subtrees that nobody shares, without recursion: a guest decides how deep
    /// they are.
    pub(super) fn drop_all(&mut self) {
        let Some(dir) = self.0.take() else { return };
        let mut doomed = vec![dir];
        while let Some(dir) = doomed.pop() {
            match Arc::into_inner(dir) {
                None => {}
                Some(Dir::Renamed(dir, _)) => doomed.push(dir),
                Some(Dir::Pieces(pieces)) => doomed.extend(pieces),
                Some(Dir::Piece(piece)) => {
                    for entry in piece.entries {
                        if let Some(mut node) = Arc::into_inner(entry.node) {
                            doomed.extend(node.children.0.take());
                        }
                    }
                }
            }
        }
    }
}

impl Dir {
    fn mentions(&self) -> Mentions {
        match self {
            Self::Piece(piece) => piece.mentions,
            Self::Pieces(pieces) => pieces
                .iter()
                .fold(Mentions::default(), |sum, piece| sum.and(piece.mentions())),
            Self::Renamed(dir, renaming) => renaming.mentions(dir.mentions()),
        }
    }

    /// The last name of a directory that is not in pieces itself.
    fn last_name(&self) -> &str {
        match self {
            Self::Piece(piece) => piece.last_name(),
            Self::Renamed(dir, _) => match &**dir {
                Self::Piece(piece) => piece.last_name(),
                _ => "",
            },
            Self::Pieces(_) => "",
        }
    }
}

/// The directory under a renaming, shared.
fn under(dir: &Arc<Dir>, renaming: &Arc<Renaming>) -> Arc<Dir> {
    Arc::new(match &**dir {
        Dir::Renamed(inner, inward) => Dir::Renamed(Arc::clone(inner), inward.then(Some(renaming))),
        _ => Dir::Renamed(Arc::clone(dir), Arc::clone(renaming)),
    })
}

/// The directory, not shared; and where it was renamed, its parts are instead.
fn owned(dir: &mut Arc<Dir>) -> &mut Dir {
    if let Dir::Renamed(inner, renaming) = &**dir {
        let parts = match &**inner {
            Dir::Pieces(pieces) => {
                Dir::Pieces(pieces.iter().map(|dir| under(dir, renaming)).collect())
            }
            Dir::Piece(piece) => Dir::Piece(piece.renamed(renaming)),
            // Not made: see `under`.
            other @ Dir::Renamed(..) => other.clone(),
        };
        *dir = Arc::new(parts);
    }
    Arc::make_mut(dir)
}

/// The first piece whose last name is not before `name`; one beyond the last where there is none.
fn piece_of(pieces: &[Arc<Dir>], name: &str) -> usize {
    pieces.partition_point(|piece| piece.last_name() < name)
}

fn mentions_of(entries: &[Entry]) -> Mentions {
    entries.iter().fold(Mentions::default(), |sum, entry| {
        sum.and(entry.node.mentions())
    })
}

impl Piece {
    fn of_one(name: &str, node: Arc<Node>, mentions: Mentions) -> Self {
        let mut piece = Self::default();
        piece.insert(name, node, mentions, true);
        piece
    }

    fn start(&self, at: usize) -> usize {
        at.checked_sub(1)
            .and_then(|before| self.entries.get(before))
            .map_or(0, |before| before.end as usize)
    }

    fn name(&self, at: usize) -> &str {
        let end = self.entries.get(at).map_or(0, |entry| entry.end as usize);
        self.names
            .get(self.start(at)..end.saturating_sub(1))
            .unwrap_or_default()
    }

    fn last_name(&self) -> &str {
        self.name(self.entries.len().saturating_sub(1))
    }

    /// Where the name is, or where it would be.
    fn position(&self, name: &str) -> Result<usize, usize> {
        let (mut low, mut high) = (0, self.entries.len());
        while low < high {
            let middle = usize::midpoint(low, high);
            match self.name(middle).cmp(name) {
                core::cmp::Ordering::Less => low = middle + 1,
                core::cmp::Ordering::Equal => return Ok(middle),
                core::cmp::Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }

    /// Adds a child; where there are too many then, returns the upper ones as another piece. Nothing is allocated in advance:
    /// most directories are written once.
    fn insert(
        &mut self,
        name: &str,
        node: Arc<Node>,
        mentions: Mentions,
        last: bool,
    ) -> Option<Self> {
        let at = self.position(name).unwrap_or_else(|at| at);
        if self.entries.len() >= PIECE_MAX {
            // Names that come in order fill one piece after the other; else both halves have room.
            if last && at == self.entries.len() {
                return Some(Self::of_one(name, node, mentions));
            }
            let keep = self.entries.len() / 2;
            let mut upper = self.split_off(keep);
            let side = if at > keep { &mut upper } else { self };
            side.insert(name, node, mentions, false);
            return Some(upper);
        }
        let start = self.start(at);
        let more = name.len() + 1;
        let mut names = String::from(core::mem::take(&mut self.names));
        names.reserve_exact(more);
        names.insert(start, '\0');
        names.insert_str(start, name);
        self.names = names.into_boxed_str();
        let mut entries = Vec::from(core::mem::take(&mut self.entries));
        entries.reserve_exact(1);
        let end = offset(start);
        entries.insert(at, Entry { node, end });
        for entry in entries.iter_mut().skip(at) {
            entry.end = entry.end.saturating_add(offset(more));
        }
        self.entries = entries.into_boxed_slice();
        self.mentions = self.mentions.and(mentions);
        None
    }

    fn split_off(&mut self, keep: usize) -> Self {
        let start = self.start(keep);
        let mut names = String::from(core::mem::take(&mut self.names));
        let mut entries = Vec::from(core::mem::take(&mut self.entries));
        let upper_names = names.split_off(start);
        let mut upper = entries.split_off(keep);
        for entry in &mut upper {
            entry.end = entry.end.saturating_sub(offset(start));
        }
        *self = Self::from_parts(names, entries);
        Self::from_parts(upper_names, upper)
    }

    fn from_parts(names: String, entries: Vec<Entry>) -> Self {
        Self {
            mentions: mentions_of(&entries),
            names: names.into_boxed_str(),
            entries: entries.into_boxed_slice(),
        }
    }

    fn remove(&mut self, name: &str) -> Option<Arc<Node>> {
        let at = self.position(name).ok()?;
        let (start, less) = (self.start(at), name.len() + 1);
        let mut names = String::from(core::mem::take(&mut self.names));
        names.drain(start..start + less);
        self.names = names.into_boxed_str();
        let mut entries = Vec::from(core::mem::take(&mut self.entries));
        let removed = entries.remove(at);
        for entry in entries.iter_mut().skip(at) {
            entry.end = entry.end.saturating_sub(offset(less));
        }
        self.entries = entries.into_boxed_slice();
        Some(removed.node)
    }

    /// The piece with nodes of its own.
    fn renamed(&self, renaming: &Arc<Renaming>) -> Self {
        let rename = |entry: &Entry| Entry {
            node: Arc::new(entry.node.under(renaming)),
            end: entry.end,
        };
        Self {
            names: self.names.clone(),
            entries: self.entries.iter().map(rename).collect(),
            mentions: renaming.mentions(self.mentions),
        }
    }
}

/// A place in a piece's names: 33 names of at most 3072 bytes.
fn offset(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

/// See [`Children::pieces`].
#[derive(Clone, Debug)]
pub(crate) struct Pieces<'t> {
    rest: &'t [Arc<Dir>],
    outer: Option<Arc<Renaming>>,
}

/// Some children that follow each other.
#[derive(Clone, Debug)]
pub(crate) struct Part<'t> {
    piece: &'t Piece,
    renaming: Option<Arc<Renaming>>,
    next: usize,
}

impl<'t> Iterator for Pieces<'t> {
    type Item = Part<'t>;

    fn next(&mut self) -> Option<Part<'t>> {
        loop {
            let (first, rest) = self.rest.split_first()?;
            self.rest = rest;
            let mut renaming = self.outer.clone();
            let mut dir = first;
            if let Dir::Renamed(inner, inward) = &**dir {
                renaming = Some(inward.then(renaming.as_ref()));
                dir = inner;
            }
            match &**dir {
                Dir::Piece(piece) => {
                    return Some(Part {
                        piece,
                        renaming,
                        next: 0,
                    });
                }
                // Only at the top, where there is no rest.
                Dir::Pieces(pieces) => {
                    self.rest = pieces;
                    self.outer = renaming;
                }
                Dir::Renamed(..) => {}
            }
        }
    }
}

impl Part<'_> {
    /// What is mentioned by its nodes and below them, with false positives.
    pub(crate) fn mentions(&self) -> Mentions {
        match &self.renaming {
            None => self.piece.mentions,
            Some(renaming) => renaming.mentions(self.piece.mentions),
        }
    }
}

impl<'t> Iterator for Part<'t> {
    type Item = (&'t str, NodeRef<'t>);

    fn next(&mut self) -> Option<Self::Item> {
        let entry = self.piece.entries.get(self.next)?;
        let name = self.piece.name(self.next);
        self.next += 1;
        Some((name, NodeRef::new(&entry.node, self.renaming.clone())))
    }
}

#[cfg(test)]
mod tests {
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
}
