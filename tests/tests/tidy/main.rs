//! The architecture, held by ordinary tests: who depends on whom, what the pure crates may name,
//! where `unsafe` is, which things exist in one place only, and which licences come along.
//!
//! Each rule has its reason beside it. A test that fails here names the file and what to do. Nothing
//! here runs any of our programs.

mod direction;
mod habits;
mod licences;
mod purity;
mod single_places;

/// Fails with all complaints at once: one run then shows everything that is left to do.
fn none_of(complaints: Vec<String>, what_to_do: &str) {
    assert!(
        complaints.is_empty(),
        "{}\n=> {what_to_do}",
        complaints.join("\n")
    );
}
