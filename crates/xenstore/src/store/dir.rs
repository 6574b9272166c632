//! A node's children: an ordered list in shared pieces, so that changing one child of a thousand copies a few dozen pointers,
//! where the rest is shared with a snapshot.
//!
//! A piece keeps its children's names together, as the protocol lists them, and beside them one pointer for each child. So
//! a search touches the names alone, a listing is a copy, and a name costs no allocation of its own.

mod piece;

use std::sync::Arc;

use super::mentions::{Mentions, Renaming};
use super::{Node, NodeRef};
use piece::{Entry, PIECE_MAX, Piece, mentions_of, offset};

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
mod tests;
