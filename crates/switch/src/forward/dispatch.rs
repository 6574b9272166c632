//! Giving a batch to where it goes, in runs, each port's frames in their order.

use std::mem;

use cantle_netport::{Frame, Part, recycle};

use super::CHUNK;
use super::decide::{Decision, Verdict};
use super::rewrite::{Head, Retag};
use crate::DropReason;
use crate::topology::{Attached, Topology};
use crate::vlan::Egress;

/// Memory that one batch leaves to the next.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    heads: Vec<Head>,
    parts: Vec<Part<'static>>,
    frames: Vec<Frame<'static>>,
    copies: Vec<Frame<'static>>,
}

pub(crate) struct Dispatch<'s> {
    pub(crate) topology: &'s Topology,
    pub(crate) from: &'s Attached,
    pub(crate) scratch: &'s mut Scratch,
}

/// The places of the bits that are set, from the lowest.
fn bits(mut mask: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let at = (mask != 0).then(|| mask.trailing_zeros() as usize);
        mask &= mask.wrapping_sub(1);
        at
    })
}

impl Dispatch<'_> {
    /// Gives at most [`CHUNK`] frames to where it was decided that they go.
    pub(crate) fn run(&mut self, decisions: &[Decision], frames: &mut [Frame<'_>]) {
        let mut rest = decisions;
        let mut at = 0;
        while let Some(first) = rest.first() {
            let flood = |of: &Decision| matches!(of.verdict, Verdict::Flood { .. });
            let same = |next: &Decision| match flood(first) {
                true => flood(next) && next.vlan == first.vlan,
                false => !flood(next),
            };
            let len = rest
                .iter()
                .position(|next| !same(next))
                .unwrap_or(rest.len());
            let (run, after) = rest.split_at(len);
            let part = frames.get_mut(at..at + len).unwrap_or_default();
            match flood(first) {
                true => self.flood(run, part),
                false => self.unicast(run, part),
            }
            rest = after;
            at += len;
        }
    }

    fn unicast(&mut self, run: &[Decision], frames: &mut [Frame<'_>]) {
        let Some(first) = run.first() else { return };
        // The most frequent case: all go to one port, as they are.
        if let Verdict::To(slot) = first.verdict
            && let Some(to) = self.topology.slot(slot)
            && run.iter().all(|next| {
                let egress = to.options.vlans.egress(next.vlan);
                next.verdict == first.verdict && egress.is_some_and(|egress| next.unchanged(egress))
            })
        {
            return self.give(to, frames);
        }
        let mut done = 0_u64;
        for (at, decision) in run.iter().enumerate() {
            let Verdict::To(slot) = decision.verdict else {
                continue;
            };
            let Some(to) = self.topology.slot(slot).filter(|_| done & (1 << at) == 0) else {
                continue;
            };
            let all = run.iter().enumerate().skip(at);
            let mine = all.filter(|(_, next)| next.verdict == decision.verdict);
            let mask = mine.fold(0, |mask, (at, _)| mask | 1 << at);
            done |= mask;
            self.leave(
                run,
                frames,
                mask,
                |decision| to.options.vlans.egress(decision.vlan),
                [(to, mask)],
            );
        }
    }

    fn flood(&mut self, run: &[Decision], frames: &mut [Frame<'_>]) {
        let Some(vlan) = run.first().map(|first| first.vlan) else {
            return;
        };
        let (topology, from) = (self.topology, self.from);
        let all = run
            .iter()
            .enumerate()
            .fold(0, |mask, (at, _)| mask | 1 << at);
        let unknown = run.iter().enumerate().fold(0, |mask, (at, decision)| {
            let unknown = matches!(decision.verdict, Verdict::Flood { unknown: true });
            mask | u64::from(unknown) << at
        });
        let others = || {
            topology.ports().filter(|to| {
                let apart = from.options.isolated && to.options.isolated;
                to.port.id != from.port.id && !apart && to.options.mirror.is_none()
            })
        };
        for egress in [Egress::Untagged, Egress::Tagged] {
            let mut members = others()
                .filter(|to| to.options.vlans.egress(vlan) == Some(egress))
                .map(|to| {
                    (
                        to,
                        if to.options.flood_unknown {
                            all
                        } else {
                            all & !unknown
                        },
                    )
                })
                .filter(|(_, mask)| *mask != 0)
                .peekable();
            if members.peek().is_some() {
                self.leave(run, frames, all, |_| Some(egress), members);
            }
        }
        // Whoever floods does not learn who listened.
        for frame in frames {
            frame.taken = true;
        }
    }

    /// Makes the frames in `mask` as they are to leave, once, and gives each port its own.
    fn leave<'t>(
        &mut self,
        run: &[Decision],
        frames: &mut [Frame<'_>],
        mask: u64,
        egress: impl Fn(&Decision) -> Option<Egress>,
        ports: impl IntoIterator<Item = (&'t Attached, u64)>,
    ) {
        let mut heads = mem::take(&mut self.scratch.heads);
        heads.clear();
        // Which head each frame has, if it has one, and which cannot leave.
        let mut head_of = [None; CHUNK];
        let mut possible = mask;
        for (at, (decision, frame)) in run.iter().zip(frames.iter()).enumerate() {
            if mask & (1 << at) == 0 {
                continue;
            }
            let retag = egress(decision).and_then(|egress| decision.retag(egress));
            let head = match retag {
                Some(Retag::Keep) => continue,
                Some(retag) => Head::new(frame, retag),
                None => None,
            };
            match (head, head_of.get_mut(at)) {
                (Some(head), Some(place)) => {
                    *place = Some(heads.len());
                    heads.push(head);
                }
                _ => possible &= !(1 << at),
            }
        }
        let mut parts: Vec<Part<'_>> = recycle(mem::take(&mut self.scratch.parts));
        let mut spans = [(0, 0); CHUNK];
        for ((head, frame), span) in head_of.iter().zip(frames.iter()).zip(&mut spans) {
            if let Some(head) = head.and_then(|at| heads.get(at)) {
                span.0 = parts.len();
                head.parts(frame.parts, &mut parts);
                span.1 = parts.len();
            }
        }
        for (to, wanted) in ports {
            let lost = (wanted & !possible).count_ones();
            if lost != 0 {
                to.port.counters.drop(DropReason::EgressTag, lost.into());
            }
            let mut out: Vec<Frame<'_>> = recycle(mem::take(&mut self.scratch.frames));
            for at in bits(wanted & possible) {
                let (Some(frame), Some(head), Some(span)) =
                    (frames.get(at), head_of.get(at), spans.get(at))
                else {
                    continue;
                };
                out.push(match head.and_then(|at| heads.get(at)) {
                    Some(head) => Frame {
                        parts: parts.get(span.0..span.1).unwrap_or_default(),
                        len: head.len,
                        offload: head.offload,
                        taken: false,
                    },
                    None => copy(frame),
                });
            }
            if !out.is_empty() {
                self.give(to, &mut out);
            }
            for (at, frame) in bits(wanted & possible).zip(&out) {
                if let Some(old) = frames.get_mut(at) {
                    old.taken |= frame.taken;
                }
            }
            self.scratch.frames = recycle(out);
        }
        self.scratch.parts = recycle(parts);
        self.scratch.heads = heads;
    }

    /// Gives frames to a port, and copies to those that watch it.
    fn give(&mut self, to: &Attached, frames: &mut [Frame<'_>]) {
        to.port.deliver(frames);
        self.copies(&to.copies_sent, frames);
    }

    /// Gives copies to the ports in `slots`.
    pub(crate) fn copies(&mut self, slots: &[usize], frames: &[Frame<'_>]) {
        for to in slots.iter().filter_map(|slot| self.topology.slot(*slot)) {
            let mut copies: Vec<Frame<'_>> = recycle(mem::take(&mut self.scratch.copies));
            copies.extend(frames.iter().map(copy));
            to.port.deliver(&mut copies);
            self.scratch.copies = recycle(copies);
        }
    }
}

fn copy<'f>(frame: &Frame<'f>) -> Frame<'f> {
    Frame {
        parts: frame.parts,
        len: frame.len,
        offload: frame.offload,
        taken: false,
    }
}
