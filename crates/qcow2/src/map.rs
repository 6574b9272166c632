//! Where things are, and reading them.

use std::io::Result;
use std::sync::Arc;

use cantle_image::{Extent, Mapped};

use crate::Qcow2;
use crate::shape::{COPIED, Cluster, invalid};
use crate::tables::Tables;

/// What a run of clusters is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Run {
    Parent,
    Zero,
    Data {
        host: u64,
        writable: bool,
    },
    Compressed {
        host: u64,
        len: u64,
    },
    /// Data in the tables, and not in the file, which ends before.
    Beyond,
}

impl Tables {
    /// What is at `offset`, and for how many of the `len` bytes from there: within one L2 table, or over the ranges of several that are
    /// not there.
    fn run(&mut self, offset: u64, len: u64) -> Result<(Run, u64)> {
        let shape = self.shape;
        let span = shape.l2_span();
        if self.l2_place(offset)?.is_none() {
            let mut end = (offset / span + 1) * span;
            while end - offset < len && self.l2_place(end)?.is_none() {
                end += span;
            }
            return Ok((Run::Parent, (end - offset).min(len)));
        }
        let first = self.cluster(offset)?;
        let run = self.run_of(first, shape.in_cluster(offset))?;
        let cluster = shape.cluster();
        let most = len.min(span - offset % span);
        let mut covered = cluster - shape.in_cluster(offset);
        covered +=
            cluster * self.alike(offset, most.saturating_sub(covered).div_ceil(cluster), run)?;
        while covered < most && !matches!(run, Run::Compressed { .. } | Run::Beyond) {
            let next = self.cluster(offset + covered)?;
            if self.run_of(next, 0)? != advanced(run, covered) {
                break;
            }
            covered += cluster;
        }
        let mut most = most;
        if let Run::Data { host, .. } = run {
            // Only what the file has can be read from it by others.
            most = most.min((self.end - host) & !511);
        }
        Ok((run, covered.min(most)))
    }

    /// How many of the next clusters have the entry that goes on from the one at `offset` as it is most often: this is quick, and
    /// where it ends the run may go on.
    fn alike(&mut self, offset: u64, most: u64, run: Run) -> Result<u64> {
        let (step, most) = match run {
            Run::Parent | Run::Zero => (0, most),
            Run::Data { host, .. } => {
                let first = host >> self.shape.cluster_bits;
                let after = self
                    .refs
                    .as_ref()
                    .and_then(|refs| refs.tables.range(first..).next());
                let to_table = after.map_or(most, |table| table - first - 1);
                let to_end = (self.end >> self.shape.cluster_bits).saturating_sub(first + 1);
                (self.shape.cluster(), most.min(to_table).min(to_end))
            }
            Run::Compressed { .. } | Run::Beyond => return Ok(0),
        };
        let index = self.shape.l2_index(offset);
        let Some(table) = self.l2(offset)? else {
            return Ok(0);
        };
        let mut entries = table.table.get(index..).unwrap_or_default().iter();
        let Some(first) = entries.next().copied() else {
            return Ok(0);
        };
        // Without the flag, whether it may be written in place is a question of its count.
        if step != 0 && first & COPIED == 0 {
            return Ok(0);
        }
        let limit = usize::try_from(most).unwrap_or(usize::MAX);
        let expected = (1u64..).map(|number| first.wrapping_add(number.wrapping_mul(step)));
        let same = entries
            .zip(expected)
            .take(limit)
            .take_while(|(entry, expected)| *entry == expected);
        Ok(same.count() as u64)
    }

    fn run_of(&mut self, cluster: Cluster, within: u64) -> Result<Run> {
        Ok(match cluster {
            Cluster::Unallocated => Run::Parent,
            Cluster::Zero { .. } => Run::Zero,
            Cluster::Compressed { host, len } => Run::Compressed { host, len },
            Cluster::Data { host, .. } if self.end.saturating_sub(host + within) < 512 => {
                Run::Beyond
            }
            Cluster::Data { host, copied } => Run::Data {
                host: host + within,
                writable: self.refs.is_some() && self.in_place(host, copied)?,
            },
        })
    }
}

fn advanced(run: Run, by: u64) -> Run {
    match run {
        Run::Data { host, writable } => Run::Data {
            host: host + by,
            writable,
        },
        other => other,
    }
}

impl Qcow2 {
    pub(crate) fn do_map(&self, offset: u64, len: u64) -> Result<Mapped> {
        if len == 0 {
            return Err(std::io::ErrorKind::InvalidInput.into());
        }
        let (run, len) = self.tables().run(offset, len)?;
        let extent = match run {
            Run::Zero => Extent::Zero,
            Run::Data {
                host: offset,
                writable,
            } => Extent::Data {
                file: 0,
                offset,
                writable,
            },
            Run::Compressed { .. } | Run::Beyond => Extent::Other,
            Run::Parent => return self.map_parent(offset, len),
        };
        Ok(Mapped { extent, len })
    }

    /// The parent's files come after ours, and none of it may be written.
    fn map_parent(&self, offset: u64, len: u64) -> Result<Mapped> {
        let zero = Mapped {
            extent: Extent::Zero,
            len,
        };
        let Some(parent) = &self.parent else {
            return Ok(zero);
        };
        let there = parent.geometry().bytes().saturating_sub(offset);
        if there == 0 {
            return Ok(zero);
        }
        let mapped = parent.map(offset, len.min(there))?;
        if mapped.len == 0 || mapped.len > len {
            return Err(invalid("a parent's map makes no sense"));
        }
        let extent = match mapped.extent {
            Extent::Data { file, offset, .. } => match file.checked_add(1) {
                Some(file) => Extent::Data {
                    file,
                    offset,
                    writable: false,
                },
                None => Extent::Other,
            },
            other => other,
        };
        Ok(Mapped { extent, ..mapped })
    }

    pub(crate) fn do_read(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        let (mut at, mut rest) = (offset, into);
        while !rest.is_empty() {
            let (run, len, plain) = {
                let mut tables = self.tables();
                let (run, len) = tables.run(at, rest.len() as u64)?;
                // Under the lock: the place of a compressed cluster is free as soon as its content is elsewhere.
                let plain = match run {
                    Run::Compressed { host, len } => Some(tables.inflate(host, len)?),
                    _ => None,
                };
                (run, len, plain)
            };
            let len = usize::try_from(len).unwrap_or(usize::MAX).min(rest.len());
            let (here, after) = rest.split_at_mut(len);
            match run {
                Run::Zero => here.fill(0),
                Run::Parent => self.read_parent(at, here)?,
                Run::Data { host, .. } => self.read_file(host, here)?,
                Run::Beyond => self.read_beyond(at, here)?,
                Run::Compressed { .. } => self.copy_out(at, here, plain)?,
            }
            at += len as u64;
            rest = after;
        }
        Ok(())
    }

    /// A file that ends within a cluster, or before it: the last bytes that there are, then zeroes.
    fn read_beyond(&self, at: u64, into: &mut [u8]) -> Result<()> {
        let cluster = self.tables().cluster(at)?;
        match cluster {
            Cluster::Data { host, .. } => self.read_file(host + self.shape.in_cluster(at), into),
            _ => Err(invalid("a cluster changed while it was read")),
        }
    }

    fn copy_out(&self, at: u64, into: &mut [u8], plain: Option<Arc<Vec<u8>>>) -> Result<()> {
        let from = usize::try_from(self.shape.in_cluster(at)).unwrap_or(usize::MAX);
        let part = plain
            .as_ref()
            .and_then(|plain| plain.get(from..)?.get(..into.len()));
        into.copy_from_slice(part.ok_or_else(|| invalid("a compressed cluster is too short"))?);
        Ok(())
    }
}
