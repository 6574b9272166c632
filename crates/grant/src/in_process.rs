//! Back ends in the host's own process.

use std::sync::Arc;

use cantle_abi::{DomId, GrantRef};

use crate::copy::copy_local;
use crate::{Access, CopyPiece, GrantMapper, GrantStatus, GrantTable, Mapping, Tables};

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
        let table = self
            .tables
            .get(granter.resolve(self.own))
            .ok_or(GrantStatus::BAD_DOMAIN)?;
        Mapping::pin(&table, gref, self.own, access)
    }

    fn copy(&self, pieces: &mut [CopyPiece<'_>]) {
        // One lock for the batch, one look-up for each run with the same granter. Of grants nothing is kept from one
        // piece to the next.
        let tables = self.tables.read();
        let mut run: Option<Run<'_>> = None;
        for piece in pieces {
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
            piece.status = run.copy(self.own, piece);
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

impl Run<'_> {
    fn copy(&mut self, own: DomId, piece: &mut CopyPiece<'_>) -> Result<(), GrantStatus> {
        if piece.local.is_empty() {
            return Ok(());
        }
        let table = self.table.ok_or(GrantStatus::BAD_DOMAIN)?;
        let bytes = copy_local(table, piece.gref, own, piece.offset, &mut piece.local)?;
        self.copies += 1;
        self.bytes += bytes as u64;
        Ok(())
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        if let (Some(table), 1..) = (self.table, self.copies) {
            table.count_copies(self.copies, self.bytes);
        }
    }
}
