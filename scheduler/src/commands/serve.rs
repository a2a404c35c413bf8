//! `bulkhead serve`: prepare the data folder, then become the launcher.

use super::{Outcome, init};
use crate::{
    cli::{Globals, Serve},
    launcher,
    tls::Made,
};

/// Runs the server until it is told to end.
pub fn run(globals: &Globals, args: Serve) -> Outcome {
    let mut config = globals.load()?;
    if let Some(address) = args.listen {
        config.server.listen = address;
    }
    if let Some(address) = args.operators {
        config.server.operators = address;
    }
    config.check()?;
    bulkhead_kernels::alloc::set_zeroing(config.zeroing());
    if !config.zeroing() {
        tracing::warn!("unsafe.disable: memory is not zeroed; for measurements only");
    }
    for (what, made, path) in init::ensure(&config)? {
        if made != Made::Kept {
            tracing::info!("made {what}: {}", path.display());
        }
    }
    Ok(launcher::serve(config)?)
}
