//! The least program that runs a guest: `boot KERNEL [INITRD [CMDLINE]]`, console on standard input and output.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use cantle_vmm_core::{
    Console, GrantConfig, GuestConfig, GuestKind, MAX_EVENT_CHANNELS, Machine, TransportChoice,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .init();
    let mut args = std::env::args().skip(1);
    let config = GuestConfig {
        name: "example".into(),
        kind: GuestKind::Pvh,
        kernel: args
            .next()
            .ok_or("usage: boot KERNEL [INITRD [CMDLINE]]")?
            .into(),
        initrd: args.next().filter(|path| !path.is_empty()).map(Into::into),
        cmdline: args.next().unwrap_or_else(|| "console=hvc0".into()),
        memory: 512 << 20,
        vcpus: 2,
        max_event_channels: MAX_EVENT_CHANNELS,
        max_event_rate: None,
        disks: vec![],
        nets: vec![],
        grants: GrantConfig::default(),
        transport: TransportChoice::Auto,
        xenstore_socket: None,
    };
    let console = Console {
        input: OwnedFd::from(File::open("/dev/null")?),
        output: std::io::stdout().as_fd().try_clone_to_owned()?,
    };
    let machine = Machine::new(config, console)?;
    let control = machine.control();
    if let Some(seconds) = std::env::var("BOOT_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok())
    {
        std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_secs(seconds));
            control.destroy();
        });
    }
    let outcome = machine.run()?;
    println!("the guest {}: {:#?}", outcome.end, outcome.stats);
    Ok(())
}
