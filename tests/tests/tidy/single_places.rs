//! Things that exist in one place only, so that there is one place to check.

use bulkhead_tests::source::{Source, names, rust_files};

/// What of the scheduler ships.
fn scheduler() -> Vec<Source> {
    let mut files = rust_files("scheduler/src");
    files.retain(|file| !file.path.ends_with("_tests.rs"));
    files
}

/// Paths of the files whose shipped code holds `text`, once for each time it does.
fn places(files: &[Source], text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for file in files {
        let times = file.shipped_code().matches(text).count();
        found.extend(std::iter::repeat_n(file.path.clone(), times));
    }
    found
}

/// Promise 1: the tenant of a submission comes from a verified credential and nowhere else. A
/// `Submission` is therefore made in one function, out of a `Permit` that it consumes.
#[test]
fn a_submission_is_made_in_one_place_out_of_a_permit() {
    const SUBMIT: &str = "scheduler/src/server/submit.rs";
    let files = scheduler();

    let literals: Vec<_> = files
        .iter()
        .flat_map(|file| {
            let code = file.shipped_code().replace("-> Submission {", "");
            let times = code.matches(" Submission {").count();
            std::iter::repeat_n(file.path.clone(), times)
        })
        .collect();
    assert_eq!(literals, [SUBMIT], "a Submission is built once");
    assert_eq!(
        places(&files, "Event::Submit(").len(),
        1,
        "an Event::Submit is sent to the core from one place"
    );

    let submit = files
        .iter()
        .find(|file| file.path == SUBMIT)
        .expect("it exists");
    let code = submit.shipped_code();
    assert!(
        code.contains("pub fn submit(&self, permit: Permit,"),
        "submit takes a Permit by value"
    );
    for number in ["tenant_number()", "agent_number()"] {
        assert!(
            code.contains(&format!("self.permit.principal().{number}")),
            "{number} is the permit's"
        );
    }
}

/// Outside its crate a principal, and with it a permit, cannot be made: their fields are private, and
/// their only constructors are not public.
#[test]
fn proofs_have_no_public_constructor() {
    for (folder, name) in [
        ("scheduler/identity/src", "Principal"),
        ("scheduler/policy/src", "Permit"),
    ] {
        let files = rust_files(folder);
        let holder = format!("pub struct {name} {{");
        let file = files.iter().find(|f| f.code().contains(&holder));
        let file = file.unwrap_or_else(|| panic!("{folder} defines {name}"));
        let code = file.shipped_code();
        let body = code.split(&holder).nth(1).and_then(|b| b.split('}').next());
        assert!(
            !names(body.expect("the struct ends"), "pub"),
            "{name} has no public field"
        );
        for made in ["pub fn new(", "impl Default for", "impl From<"] {
            let own = code.split(&format!("impl {name} {{")).nth(1);
            let text = if made.starts_with("pub") {
                own.unwrap_or("")
            } else {
                &code
            };
            assert!(!text.contains(made), "{name} is not made by {made}");
        }
    }
}

/// What a caller may learn from a refusal is decided in one file.
#[test]
fn statuses_are_chosen_in_one_file() {
    const ERRORS: &str = "scheduler/src/server/errors.rs";
    let mut complaints = Vec::new();
    for file in scheduler() {
        let code = file.shipped_code();
        let makes_one = code.match_indices("Status::").any(|(at, _)| {
            let before = code[..at].chars().next_back();
            let call = &code[at + "Status::".len()..];
            let lower = call.chars().next().is_some_and(char::is_lowercase);
            let alone = before.is_none_or(|c| !c.is_alphanumeric() && c != '_');
            lower && alone && names(&code, "tonic")
        });
        if makes_one && file.path != ERRORS {
            complaints.push(format!("{} makes a tonic::Status", file.path));
        }
    }
    super::none_of(complaints, "return a `Refused` from errors.rs");
}

/// One wrapper verifies tokens; the library's defaults are generous, and no second caller may rely on
/// them.
#[test]
fn tokens_are_verified_in_one_file() {
    let verifying = places(&rust_files("scheduler"), "jsonwebtoken::decode");
    assert_eq!(verifying, ["scheduler/identity/src/jwt.rs"]);
}

/// The machine of pretend is for tests: what ships looks at real devices only.
#[test]
fn no_program_that_ships_names_the_pretended_gpus() {
    let mut naming = Vec::new();
    for file in rust_files("") {
        let of_tests = ["tests/", "_tests.rs"];
        let shipped = !of_tests.iter().any(|part| file.path.contains(part));
        let own = ["kernels/src/device/fake.rs", "kernels/src/device/mod.rs"];
        if shipped && !own.contains(&file.path.as_str()) {
            naming.extend(places(&[file], "FakeNvml"));
        }
    }
    assert_eq!(
        naming,
        Vec::<String>::new(),
        "use NVML, or move it into a test"
    );
}
