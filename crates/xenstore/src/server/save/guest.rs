//! A migrating guest's part of a server, by the document alone: what any implementation reads.

use std::collections::BTreeMap;

use cantle_abi::DomId;

use super::{HostConn, SaveError, emit_node, quotas, save_connection, save_watches};
use crate::server::Server;
use crate::state::{Conn, DomainData, Record, emit, emit_header};
use crate::xenbus::domain_path;

impl Server {
    /// Appends a guest's part of the store as a migration stream, for [`load_domain`](Self::load_domain) on another host: what
    /// it has been offered and its own quotas; of its ring, what is on its way, its watches and its open transactions; and
    /// the nodes of `/local/domain/<domid>`.
    ///
    /// Where the guest has no ring, or nobody has to know of it, there is no `ring`. What the host has not taken out of the ring's page yet travels
    /// with the guest's memory; what it has taken and not fed is [`HostConn::unfed`]. The guest should be suspended, and the ring be
    /// served no more: the server itself is left as it is, and the caller [releases](Self::release) the domain when it has arrived.
    ///
    /// A transaction that has asked for anything outside of the guest's home fails with `EAGAIN` when it ends, for nobody can say
    /// whether it is the same on the other host. Guests begin again then, as they must anyway.
    ///
    /// # Errors
    ///
    /// [`SaveError::NoConnection`] where the ring is not this domain's; what was appended is of no use then.
    pub fn save_domain(
        &self,
        out: &mut Vec<u8>,
        domid: DomId,
        ring: Option<&HostConn<'_>>,
    ) -> Result<(), SaveError> {
        const CONN_ID: u32 = 1;
        let home = domain_path(domid);
        emit_header(out);
        let mut transactions = Vec::new();
        if let Some(known) = ring {
            let connection = self
                .connections
                .get(&known.conn)
                .filter(|connection| {
                    connection.actor.domid == domid && matches!(known.by, Conn::Ring { .. })
                })
                .ok_or(SaveError::NoConnection(known.conn))?;
            let by = match known.by {
                Conn::Ring { port, .. } => Conn::Ring {
                    domid,
                    target: None,
                    port,
                },
                socket @ Conn::Socket { .. } => socket,
            };
            let watches = save_connection(out, CONN_ID, connection, &HostConn { by, ..*known })?;
            save_watches(out, CONN_ID, &watches)?;
            let open: BTreeMap<_, _> = connection.transactions.iter().collect();
            for (tx_id, tx) in open {
                self.save_transaction(&mut transactions, (CONN_ID, *tx_id), tx, connection, &home)?;
            }
        }
        let own = self.quotas.budgets.get(&domid);
        let own = own.filter(|budget| budget.special);
        let data = DomainData {
            domid,
            features: self.features(domid),
            quotas: own.map(|budget| quotas(&budget.limits)).unwrap_or_default(),
        };
        emit(out, &Record::Domain(data))?;
        let mut scratch = Vec::new();
        self.store
            .tree
            .preorder_from(&home, |path, node| emit_node(out, path, node, &mut scratch))?;
        out.append(&mut transactions);
        emit(out, &Record::End)?;
        Ok(())
    }
}
