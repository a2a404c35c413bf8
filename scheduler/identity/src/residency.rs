//! Where a tenant's work may be done, as an operator said.
//!
//! Only what was said lies here: nothing is placed, and nobody is refused.

use crate::IdentityError;
use serde::{Deserialize, Serialize};

/// Most characters of a region's name.
const REGION_CHARS_MAX: usize = 63;
/// Most regions that a tenant's list can name.
const REGIONS_MAX: usize = 64;
/// What operators write for no such list, and so the name of no region.
const ANYWHERE: &str = "any";

/// The regions that a tenant is bound to, in order and each once; or none, and it may be anywhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Residency(Vec<String>);

impl Residency {
    /// These regions and no other; of an empty list, anywhere.
    ///
    /// # Errors
    /// Where one is no name, or they are too many.
    pub fn of(mut regions: Vec<String>) -> Result<Self, IdentityError> {
        if regions.len() > REGIONS_MAX {
            return Err(IdentityError::TooManyRegions(regions.len()));
        }
        if let Some(bad) = regions.iter().find(|region| !is_region(region)) {
            let start = bad.chars().take(REGION_CHARS_MAX + 1);
            return Err(IdentityError::BadRegion(start.collect()));
        }
        regions.sort();
        regions.dedup();
        Ok(Residency(regions))
    }

    /// Whether its work may be done in this region.
    pub fn admits(&self, region: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|one| one == region)
    }

    /// The list; empty for anywhere.
    pub fn regions(&self) -> &[String] {
        &self.0
    }
}

/// Whether a region can have this name: 1 to 63 characters, A-Z, a-z, 0-9 and "-_.", and not "any".
pub fn is_region(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    (1..=REGION_CHARS_MAX).contains(&name.len())
        && name.chars().all(allowed)
        && !name.eq_ignore_ascii_case(ANYWHERE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_bound_to_nothing_may_be_anywhere_and_who_is_nowhere_else() {
        let of = |names: &[&str]| Residency::of(names.iter().map(|&name| name.into()).collect());
        assert!(Residency::default().admits("eu-west"));
        let bound = of(&["eu-west", "eu-central", "eu-west"]).unwrap();
        assert_eq!(bound.regions(), ["eu-central", "eu-west"]);
        assert!(bound.admits("eu-west") && bound.admits("eu-central"));
        for other in ["us-east", "EU-WEST", "eu-wes", "eu-west ", "", "any"] {
            assert!(!bound.admits(other), "{other:?}");
        }
        let longest = "r".repeat(REGION_CHARS_MAX);
        assert!(of(&[&longest, "Eu_West.1"]).is_ok());
        for bad in [
            "",
            "eu west",
            "any",
            "ANY",
            "eu,us",
            "é",
            &format!("{longest}r"),
        ] {
            assert!(matches!(of(&[bad]), Err(IdentityError::BadRegion(_))));
        }
        let many = vec!["x"; REGIONS_MAX + 1];
        assert!(matches!(of(&many), Err(IdentityError::TooManyRegions(65))));
    }
}
