//! The smallest xenstore daemon: a service on a Unix socket, for as long as it is let.
//!
//! ```text
//! cargo run -p cantle-xenstore --example serve -- --socket /tmp/xenstored &
//! XENSTORED_PATH=/tmp/xenstored xenstore-write /greeting hello
//! ```

use std::error::Error;
use std::path::PathBuf;

use cantle_xenstore::transport::listen;
use cantle_xenstore::{Service, Shared};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [option, path] = arguments.as_slice() else {
        return Err("usage: serve --socket PATH".into());
    };
    if option != "--socket" {
        return Err(format!("no such option: {option}").into());
    }
    let mut service = Service::new(Shared::default())?;
    service.listen(listen::bind(&PathBuf::from(path))?, None)?;
    loop {
        // Requests are handled in here; what they ask of the host itself (a live update, say) this one does not do.
        service.run_once(None)?;
        while service.take_action().is_some() {}
    }
}
