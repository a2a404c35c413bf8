//! Landlock with nothing allowed: no path can be opened, no TCP port used, nobody outside signalled.
//!
//! Descriptors that are open stay usable: that is how the model gets in, and how a GPU is asked that was opened under a
//! first set of rules, which leaves what that takes. Each ABI of the kernel knows
//! more; what it does not know is reported as missing, part by part.

use super::gpu::Reach;
use super::{LANDLOCK, LANDLOCK_NET, LANDLOCK_SCOPE, LayerStatus};
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope, make_bitflags, path_beneath_rules,
};

const READ: BitFlags<AccessFs> = make_bitflags!(AccessFs::{ReadFile | ReadDir});
/// The last is what a device may be asked, which kernels before ABI 5 do not rule.
const ASK: BitFlags<AccessFs> = make_bitflags!(AccessFs::{ReadFile | WriteFile | IoctlDev});

/// The newest rights that this program was written for.
const KNOWN: ABI = ABI::V6;

/// Leaves these paths alone. What comes after it can only take more.
pub(super) fn leave(reach: &Reach) -> Result<(), String> {
    apply(reach).map(drop)
}

/// Leaves nothing. `before` is how an earlier [`leave`] went, without which this would be less than it says.
pub(super) fn restrict(before: Result<(), String>) -> [LayerStatus; 3] {
    // Whatever came of the first.
    let nothing = apply(&Reach::default());
    let granted = before.and(nothing);
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

/// Handles every right that the kernel knows and allows none but these; paths that are not there are left out. Returns
/// the ABI in force.
fn apply(reach: &Reach) -> Result<ABI, String> {
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(KNOWN))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(KNOWN)))
        .and_then(|rules| rules.scope(Scope::from_all(KNOWN)))
        .and_then(|rules| rules.create())
        .and_then(|rules| rules.add_rules(path_beneath_rules(&reach.readable, READ)))
        .and_then(|rules| rules.add_rules(path_beneath_rules(&reach.nodes, ASK)))
        .and_then(|rules| rules.restrict_self())
        .map_err(|error| error.to_string())?;
    match (status.ruleset, status.landlock) {
        (RulesetStatus::NotEnforced, landlock) => Err(format!("not enforced: {landlock:?}")),
        (_, LandlockStatus::Available { effective_abi, .. }) => Ok(effective_abi.min(KNOWN)),
        (_, landlock) => Err(format!("not available: {landlock:?}")),
    }
}
