//! `bulkhead serve`: prepare the data folder, then become the launcher.

use super::{Outcome, init};
use crate::{
    cli::{Globals, Serve},
    launcher,
    tls::Made,
};
use bulkhead_kernels::Measure;

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
    let off = config.zeroing_off();
    if !off.is_empty() {
        tracing::warn!(measures = ?off, "unsafe.disable: memory is not zeroed; for measurements only");
    }
    off.into_iter().for_each(Measure::switch_off);
    for (what, made, path) in init::ensure(&config)? {
        if made != Made::Kept {
            tracing::info!("made {what}: {}", path.display());
        }
    }
    Ok(launcher::serve(config)?)
}
