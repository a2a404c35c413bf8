//! Landlock with nothing allowed: no path can be opened, no TCP port used, nobody outside signalled.
//!
//! Descriptors that are open stay usable: that is how the model gets in. Each ABI of the kernel knows
//! more; what it does not know is reported as missing, part by part.

use super::{LANDLOCK, LANDLOCK_NET, LANDLOCK_SCOPE, LayerStatus};
use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, LandlockStatus, Ruleset,
    RulesetAttr, RulesetStatus, Scope,
};

/// The newest rights that this program was written for.
const KNOWN: ABI = ABI::V6;

pub(super) fn restrict() -> [LayerStatus; 3] {
    let granted = apply();
    [
        (LANDLOCK, ABI::V1),
        (LANDLOCK_NET, ABI::V4),
        (LANDLOCK_SCOPE, ABI::V6),
    ]
    .map(|(name, needed)| {
        let outcome = match &granted {
            Ok(abi) if *abi >= needed => Ok(format!("nothing is allowed (ABI {})", *abi as i32)),
            Ok(abi) => Err(format!(
                "this kernel's Landlock has ABI {}, and this needs {}",
                *abi as i32, needed as i32
            )),
            Err(why) => Err(why.clone()),
        };
        LayerStatus::of(name, outcome)
    })
}

/// Handles every right that the kernel knows and allows none. Returns the ABI in force.
fn apply() -> Result<ABI, String> {
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(KNOWN))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(KNOWN)))
        .and_then(|rules| rules.scope(Scope::from_all(KNOWN)))
        .and_then(|rules| rules.create())
        .and_then(|rules| rules.restrict_self())
        .map_err(|error| error.to_string())?;
    match (status.ruleset, status.landlock) {
        (RulesetStatus::NotEnforced, landlock) => Err(format!("not enforced: {landlock:?}")),
        (_, LandlockStatus::Available { effective_abi, .. }) => Ok(effective_abi.min(KNOWN)),
        (_, landlock) => Err(format!("not available: {landlock:?}")),
    }
}
