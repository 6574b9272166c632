//! The threads of a running machine.

use std::sync::Arc;
use std::thread::JoinHandle;

use cantle_abi::VcpuId;
use kvm_ioctls::VcpuFd;
use vmm_sys_util::eventfd::EventFd;

use crate::devices::{Device, EndedDevice, RunningDevice};
use crate::domain::Domain;
use crate::error::SetupError;
use crate::kvm::vcpu;
use crate::nets::Nets;
use crate::services::{self, Service};

/// A machine's threads: vCPUs, the host's services, devices. All but the vCPUs end when `stop` is readable.
pub(crate) struct Running {
    stop: EventFd,
    vcpus: Vec<JoinHandle<()>>,
    services: Vec<JoinHandle<()>>,
    devices: Vec<RunningDevice>,
    nets: Arc<Nets>,
}

impl Running {
    pub(crate) fn new(stop: EventFd, nets: Arc<Nets>) -> Self {
        Self {
            stop,
            vcpus: Vec::new(),
            services: Vec::new(),
            devices: Vec::new(),
            nets,
        }
    }

    /// Starts everything, the first vCPU last: the guest runs only where all else does. What was started before an
    /// error is there to be joined.
    pub(crate) fn start(
        &mut self,
        domain: &Arc<Domain>,
        services: Vec<Service>,
        devices: Vec<Device>,
        vcpus: Vec<VcpuFd>,
    ) -> Result<(), SetupError> {
        for (name, subscribers) in services {
            self.services
                .push(services::spawn(name, subscribers, &self.stop)?);
        }
        for device in devices {
            self.devices.push(device.start(&self.stop)?);
        }
        self.nets.start()?;
        let numbered: Vec<_> = (0..).map(VcpuId).zip(vcpus).collect();
        for (id, fd) in numbered.into_iter().rev() {
            let domain = domain.clone();
            let thread = std::thread::Builder::new()
                .name(format!("vcpu{id}"))
                .spawn(move || vcpu::run(fd, id, &domain))
                .map_err(SetupError::host("a vCPU's thread"))?;
            self.vcpus.push(thread);
        }
        Ok(())
    }

    /// Waits for all threads; the domain has ended. The vCPUs go first: while a guest runs, its host is whole.
    pub(crate) fn join(self) -> Vec<EndedDevice> {
        self.vcpus
            .into_iter()
            .for_each(|thread| join("a vCPU", thread));
        if let Err(error) = self.stop.write(1) {
            tracing::error!(%error, "the host's threads cannot be told to stop");
        }
        self.services
            .into_iter()
            .for_each(|thread| join("a service", thread));
        self.nets.end();
        self.devices.into_iter().map(RunningDevice::join).collect()
    }
}

/// Waits for a thread's end.
pub(crate) fn join(what: &str, thread: JoinHandle<()>) {
    if thread.join().is_err() {
        tracing::error!(thread = what, "a thread of the host panicked");
    }
}
