//! The switch: its ports, its addresses, and changes to them.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};
use std::time::Duration;

use crate::device::SwitchPort;
use crate::port::Port;
use crate::table::{GONE, Key, Owner, Table};
use crate::topology::{Attached, Topology};
use crate::{Address, Counters, MacAddr, PortId, PortOptions, SwitchOptions, VlanId};

/// Why something about a switch cannot be changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SwitchError {
    /// It has as many ports as it may have.
    #[error("the switch has its {max} ports")]
    Full {
        /// How many it may have.
        max: usize,
    },
    /// The port is removed.
    #[error("port {port} is removed")]
    NoPort {
        /// Which.
        port: PortId,
    },
    /// The address cannot be one station's.
    #[error("{mac} is not the address of a station")]
    NotAStation {
        /// The address.
        mac: MacAddr,
    },
}

/// A port, as it is listed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PortInfo {
    /// Which.
    pub id: PortId,
    /// How it is to be.
    pub options: Arc<PortOptions>,
    /// What it has counted.
    pub counters: Counters,
    /// How many addresses are learned behind it; old ones may be among them that are not believed any more.
    pub addresses: usize,
    /// How many queues are open.
    pub queues: u32,
    /// Whether its user says that somebody is there.
    pub link: bool,
}

/// A learning Ethernet switch. It has no thread: who sends a frame carries it to where it goes.
#[derive(Debug)]
pub struct Switch {
    options: SwitchOptions,
    table: Table,
    /// The picture that counts; senders keep copies, and look at `generation` to see that theirs is old.
    topology: RwLock<Arc<Topology>>,
    /// The picture's. Stored with release when the picture is in place; senders load it with acquire.
    generation: AtomicU64,
    serial: AtomicU64,
}

impl Switch {
    /// A switch without ports.
    #[must_use]
    pub fn new(options: SwitchOptions) -> Arc<Self> {
        let table = Table::new(
            options.addresses_max,
            options.age.as_secs(),
            options.moves_max,
        );
        Arc::new(Self {
            options,
            table,
            topology: RwLock::default(),
            generation: AtomicU64::new(0),
            serial: AtomicU64::new(0),
        })
    }

    /// Adds a port.
    ///
    /// # Errors
    ///
    /// [`SwitchError::Full`].
    pub fn add_port(self: &Arc<Self>, options: PortOptions) -> Result<SwitchPort, SwitchError> {
        let max = self.options.ports_max.min(1 << 16);
        let mut topology = self.write();
        let slot = topology.free(max).ok_or(SwitchError::Full { max })?;
        let slot_number = u16::try_from(slot).map_err(|_| SwitchError::Full { max })?;
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let epoch = topology.generation + 1;
        let port = Arc::new(Port::new(Arc::new(Owner {
            id: PortId::new(serial, slot_number),
            epoch: AtomicU64::new(epoch),
            used: AtomicUsize::new(0),
            limit: AtomicUsize::new(options.addresses_max),
        })));
        let attached = Attached {
            port: port.clone(),
            options: Arc::new(options),
            epoch,
            copies_received: Vec::new(),
            copies_sent: Vec::new(),
        };
        self.publish(&mut topology, slot, Some(attached));
        Ok(SwitchPort::new(self.clone(), port))
    }

    /// Changes how a port is to be. A batch that is under way meanwhile may still go by the old options; every later one
    /// goes by the new. Where its VLANs or its learning change, what was learned behind it is forgotten.
    ///
    /// # Errors
    ///
    /// [`SwitchError::NoPort`].
    pub fn set_options(&self, port: PortId, options: PortOptions) -> Result<(), SwitchError> {
        let mut topology = self.write();
        let old = topology.get(port).ok_or(SwitchError::NoPort { port })?;
        let afresh = old.options.vlans != options.vlans
            || old.options.learn != options.learn
            || old.options.mirror.is_some() != options.mirror.is_some();
        let mut attached = old.clone();
        attached
            .port
            .owner
            .limit
            .store(options.addresses_max, Ordering::Relaxed);
        attached.options = Arc::new(options);
        if afresh {
            attached.epoch = topology.generation + 1;
            attached
                .port
                .owner
                .epoch
                .store(attached.epoch, Ordering::Release);
        }
        self.publish(&mut topology, port.slot(), Some(attached));
        drop(topology);
        if afresh {
            self.table.forget(port, false);
        }
        Ok(())
    }

    /// How a port is to be; `None` once it is removed.
    #[must_use]
    pub fn options(&self, port: PortId) -> Option<Arc<PortOptions>> {
        Some(self.topology().get(port)?.options.clone())
    }

    /// Removes a port, whoever still holds it: from then on what it sends is dropped, and on return nothing is given to it any
    /// more and its addresses are forgotten. False where it is removed already.
    ///
    /// As for [`SwitchPort::set_sink`], the caller holds no lock that the port's receiver may wait for.
    pub fn remove_port(&self, port: PortId) -> bool {
        let mut topology = self.write();
        let Some(attached) = topology.get(port).cloned() else {
            return false;
        };
        attached.port.owner.epoch.store(GONE, Ordering::Release);
        self.publish(&mut topology, port.slot(), None);
        drop(topology);
        attached.port.close();
        self.table.forget(port, true);
        true
    }

    /// Says that an address is behind a port and stays there: it is not learned elsewhere, and a frame of another port that has
    /// it for its source is dropped. It takes no share of the table's bounds.
    ///
    /// # Errors
    ///
    /// [`SwitchError`] for a port that is removed, or what is no station's address.
    pub fn add_static(&self, vlan: VlanId, mac: MacAddr, port: PortId) -> Result<(), SwitchError> {
        if !mac.is_station() {
            return Err(SwitchError::NotAStation { mac });
        }
        let topology = self.topology();
        let attached = topology.get(port).ok_or(SwitchError::NoPort { port })?;
        let now = self.now().as_secs();
        let done = self
            .table
            .fix(Key::new(vlan, mac), &attached.port.owner, now);
        done.then_some(()).ok_or(SwitchError::NoPort { port })
    }

    /// Takes a static address away; false where there was none.
    pub fn remove_static(&self, vlan: VlanId, mac: MacAddr) -> bool {
        self.table.unfix(Key::new(vlan, mac))
    }

    /// The ports there are.
    #[must_use]
    pub fn ports(&self) -> Vec<PortInfo> {
        let list = |attached: &Attached| PortInfo {
            id: attached.port.id,
            options: attached.options.clone(),
            counters: attached.port.counters.read(),
            addresses: attached.port.owner.used.load(Ordering::Relaxed),
            queues: attached.port.queues.load(Ordering::Relaxed),
            link: attached.port.link(),
        };
        self.topology().ports().map(list).collect()
    }

    /// The addresses it knows, in no order.
    #[must_use]
    pub fn addresses(&self) -> Vec<Address> {
        self.table.list(self.now().as_secs())
    }

    /// Forgets what was learned, everywhere or behind one port. Static addresses stay.
    pub fn forget(&self, port: Option<PortId>) {
        match port {
            Some(port) => self.table.forget(port, false),
            None => self
                .topology()
                .ports()
                .for_each(|attached| self.table.forget(attached.port.id, false)),
        }
    }

    fn write(&self) -> RwLockWriteGuard<'_, Arc<Topology>> {
        self.topology
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a new picture in place of the one that `current` guards.
    fn publish(&self, current: &mut Arc<Topology>, slot: usize, attached: Option<Attached>) {
        let mut next = Topology::clone(current);
        next.generation += 1;
        next.put(slot, attached);
        let generation = next.generation;
        *current = Arc::new(next);
        self.generation.store(generation, Ordering::Release);
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub(crate) fn topology(&self) -> Arc<Topology> {
        self.topology
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn table(&self) -> &Table {
        &self.table
    }

    pub(crate) fn forward_link_local(&self) -> bool {
        self.options.forward_link_local
    }

    pub(crate) fn now(&self) -> Duration {
        self.options.clock.now()
    }
}
