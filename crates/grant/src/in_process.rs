//! Back ends in the host's own process.

use std::sync::Arc;

use cantle_abi::{DomId, GrantRef};

use crate::copy::{Pinned, copy_local, pin_local};
use crate::{Access, CopyPiece, GrantMapper, GrantStatus, GrantTable, Mapping, Mappings, Tables};

/// A [`GrantMapper`] for a system domain that runs in the process that has the guests' memory.
#[derive(Clone, Debug)]
pub struct InProcessMapper {
    tables: Arc<Tables>,
    own: DomId,
}

impl InProcessMapper {
    /// What is granted to domain `own`.
    #[must_use]
    pub fn new(tables: Arc<Tables>, own: DomId) -> Self {
        Self { tables, own }
    }
}

impl GrantMapper for InProcessMapper {
    fn map(&self, granter: DomId, gref: GrantRef, access: Access) -> Result<Mapping, GrantStatus> {
        let tables = self.tables.read();
        let table = tables
            .get(&granter.resolve(self.own))
            .ok_or(GrantStatus::BAD_DOMAIN)?;
        Mapping::pin(table, gref, self.own, access)
    }

    fn map_all(&self, granter: DomId, wanted: &[(GrantRef, Access)]) -> Mappings {
        let tables = self.tables.read();
        match tables.get(&granter.resolve(self.own)) {
            Some(table) => Mappings::pin(table, self.own, wanted),
            None => Mappings::refused(GrantStatus::BAD_DOMAIN, wanted.len()),
        }
    }

    fn copy(&self, pieces: &mut [CopyPiece<'_>]) {
        match pieces.len() {
            0 => {}
            1 => self.copy_by::<1>(pieces),
            _ => self.copy_by::<16>(pieces),
        }
    }
}

impl InProcessMapper {
    /// Copies, `N` pieces pinned at a time.
    fn copy_by<const N: usize>(&self, pieces: &mut [CopyPiece<'_>]) {
        // One lock for the batch, one look-up for each run with the same granter. Of grants nothing is kept from one
        // piece to the next.
        let tables = self.tables.read();
        let mut run: Option<Run<'_>> = None;
        for pieces in pieces.chunks_mut(N) {
            // Pinned first, then copied, then unpinned: an unpin waits for its copy to reach memory, and so would all copies
            // that follow it.
            let mut pinned: [Option<Pinned<'_>>; N] = [const { None }; N];
            for (piece, pinned) in pieces.iter_mut().zip(&mut pinned) {
                let granter = piece.granter.resolve(self.own);
                let run = match &mut run {
                    Some(run) if run.granter == granter => run,
                    other => other.insert(Run {
                        granter,
                        table: tables.get(&granter).map(|table| &**table),
                        copies: 0,
                        bytes: 0,
                    }),
                };
                match run.pin(self.own, piece) {
                    Ok(page) => (*pinned, piece.status) = (page, Ok(())),
                    Err(status) => piece.status = Err(status),
                }
            }
            let mut next = pinned.iter().skip(1);
            for (piece, pinned) in pieces.iter_mut().zip(&pinned) {
                // The processor's own look ahead ends at the page's end.
                if let Some(Some(next)) = next.next() {
                    next.fetch_ahead();
                }
                if let Some(pinned) = pinned {
                    piece.status = copy_local(pinned, piece.offset, &mut piece.local);
                }
            }
        }
    }
}

/// Pieces of one granter.
struct Run<'a> {
    granter: DomId,
    table: Option<&'a GrantTable>,
    copies: u64,
    bytes: u64,
}

impl<'a> Run<'a> {
    /// Pins the piece's page; `None` for a piece without bytes.
    fn pin(
        &mut self,
        own: DomId,
        piece: &CopyPiece<'_>,
    ) -> Result<Option<Pinned<'a>>, GrantStatus> {
        if piece.local.is_empty() {
            return Ok(None);
        }
        let table = self.table.ok_or(GrantStatus::BAD_DOMAIN)?;
        let pinned = pin_local(table, piece.gref, own, piece.offset, &piece.local)?;
        self.copies += 1;
        self.bytes += piece.local.len() as u64;
        Ok(Some(pinned))
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        if let (Some(table), 1..) = (self.table, self.copies) {
            table.count_copies(self.copies, self.bytes);
        }
    }
}
