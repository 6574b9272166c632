//! Making the disk larger.

use std::io::{Error, ErrorKind, Result};
use std::sync::atomic::Ordering;

use cantle_image::SECTOR_SIZE;

use crate::Qcow2;
use crate::header::l1_entries_for;
use crate::shape::{Cluster, ZERO};
use crate::tables::Tables;

impl Qcow2 {
    pub(crate) fn do_grow(&self, sectors: u64) -> Result<()> {
        let size = sectors
            .checked_mul(SECTOR_SIZE)
            .filter(|size| *size <= 1 << 56);
        let size = size.ok_or(ErrorKind::InvalidInput)?;
        let mut tables = self.tables();
        let old = self.len();
        if size < old {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                "a disk cannot be made smaller",
            ));
        }
        tables.grow_l1(l1_entries_for(size, self.shape.cluster_bits))?;
        self.clear_tail(&mut tables, old)?;
        self.hide_parent(&mut tables, old, size)?;
        // What is new is zeroes on the medium before the disk is larger there.
        tables.commit()?;
        tables.size = size;
        tables.resized = true;
        tables.commit()?;
        self.size.store(size, Ordering::Release);
        Ok(())
    }

    /// The last cluster may go on after the disk's old end, with whatever its writer left there.
    fn clear_tail(&self, tables: &mut Tables, old: u64) -> Result<()> {
        let within = self.shape.in_cluster(old);
        if within == 0 {
            return Ok(());
        }
        let zeroes = vec![0; usize::try_from(self.shape.cluster() - within).unwrap_or(0)];
        match tables.cluster(old)? {
            Cluster::Zero { .. } => Ok(()),
            Cluster::Unallocated if self.parent_len() <= old => Ok(()),
            Cluster::Data { host, copied } if tables.in_place(host, copied)? => {
                self.storage.write_at(host + within, &zeroes)
            }
            _ => {
                let table = tables.own_l2(old)?;
                self.write_part(tables, table, old, &zeroes)
            }
        }
    }

    fn parent_len(&self) -> u64 {
        self.parent
            .as_ref()
            .map_or(0, |parent| parent.geometry().bytes())
    }

    /// A parent may be larger than this disk was; what it has there is not this disk's.
    fn hide_parent(&self, tables: &mut Tables, old: u64, size: u64) -> Result<()> {
        let mut at = old.next_multiple_of(self.shape.cluster());
        let end = size.min(self.parent_len());
        if at < end && self.shape.version < 3 {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "version 2 cannot hide what a larger parent has",
            ));
        }
        while at < end {
            if tables.is_full() {
                tables.commit()?;
            }
            let table = tables.own_l2(at)?;
            tables.set_entry(table, at, ZERO)?;
            at += self.shape.cluster();
        }
        Ok(())
    }
}
