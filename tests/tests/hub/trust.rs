//! Whom the program believes and what it gives away: the token goes to the hub alone, links lead where
//! they may, names stay inside the folder, certificates are checked.

use super::{Operator, WEIGHTS, entries, source};
use bulkhead_tests::{
    hub::{DESCRIPTION, Fault, Hub},
    programs, tiny,
};

const TOKEN: &str = "hf_only-for-the-hub";

fn with_token(operator: &Operator, hub: &Hub, token: &str) -> Result<String, String> {
    let env = [("HF_TOKEN", token), ("BULKHEAD_LOG", "trace")];
    let added = operator.add_with(hub.url(), &source(), &env);
    added.map(|(_, said)| said)
}

#[test]
fn a_gated_model_opens_to_its_token_and_the_token_goes_to_the_hub_alone() {
    let (hub, operator) = (Hub::start(tiny::files()), Operator::new());
    hub.gate(TOKEN);
    let said = operator.refused(&hub, &source(), "is gated: accept its licence at");
    assert!(
        said.contains(&format!("{}/tiny/Random-Llama", hub.url())),
        "{said}"
    );
    let said = with_token(&operator, &hub, "hf_another").expect_err("a refusal");
    assert!(said.contains("HF_TOKEN does not open"), "{said}");
    hub.seen();

    let said = with_token(&operator, &hub, TOKEN).expect("it is added");
    assert!(!said.contains(TOKEN), "{said}");
    let expected = Some(format!("Bearer {TOKEN}"));
    let seen = hub.seen();
    assert!(
        seen.iter().any(|seen| seen.store),
        "large files lie elsewhere"
    );
    for seen in seen {
        let wanted = if seen.store { &None } else { &expected };
        assert_eq!(&seen.token, wanted, "{}", seen.path);
    }
}

#[test]
fn another_hub_that_it_is_sent_to_never_sees_the_token() {
    let (hub, other) = (Hub::start(tiny::files()), Hub::start(tiny::files()));
    let operator = Operator::new();
    let path = "/api/models/tiny/Random-Llama/revision/main?blobs=true";
    hub.fail(
        DESCRIPTION,
        Fault::Redirect(format!("{}{path}", other.url())),
    );
    with_token(&operator, &hub, TOKEN).expect("it is added");
    let seen = other.seen();
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert_eq!(seen[0].token, None);
}

#[test]
fn a_token_that_is_none_is_refused_and_not_shown() {
    let (hub, operator) = (Hub::start(tiny::files()), Operator::new());
    for bad in ["two words", "line\nbreak"] {
        let said = with_token(&operator, &hub, bad).expect_err("a refusal");
        assert!(said.contains("HF_TOKEN: it is no token"), "{said}");
        assert!(!said.contains(bad), "{said}");
    }
    assert_eq!(hub.seen().len(), 0);
}

#[test]
fn links_that_lead_elsewhere_than_the_web_are_not_followed() {
    let (hub, operator) = (Hub::start(tiny::files()), Operator::new());
    for link in [
        "file:///etc/passwd",
        "http://hub.example/x",
        "//hub.example/x",
        "x y",
    ] {
        hub.fail(WEIGHTS, Fault::Redirect(link.into()));
        operator.refused(&hub, &source(), "a redirect that is not followed");
    }
    let plain = operator.add_with("http://hub.example", &source(), &[]);
    let said = plain.expect_err("a refusal");
    assert!(
        said.contains("HF_ENDPOINT: plain http goes to this machine alone"),
        "{said}"
    );
}

#[test]
fn names_from_the_hub_stay_inside() {
    let content = || b"GGUF".to_vec();
    for name in [
        "../../evil.gguf",
        "/tmp/evil.gguf",
        "a/../../evil.gguf",
        ".evil.gguf",
        "a\\evil.gguf",
    ] {
        let operator = Operator::new();
        let hub = Hub::start(vec![(name.into(), content())]);
        operator.refused(&hub, &source(), "cannot be a model's file");
        assert_eq!(
            entries(operator.folder.path()),
            ["models"; 0],
            "nothing anywhere"
        );
    }
    for name in [
        "../../evil.safetensors",
        "/tmp/evil.safetensors",
        "a/b.safetensors",
        "evil.bin",
    ] {
        let operator = Operator::new();
        let mut files = tiny::files();
        files.retain(|(n, _)| n != WEIGHTS);
        let index = format!("{{\"weight_map\": {{\"a\": {name:?}}}}}");
        files.push(("model.safetensors.index.json".into(), index.into_bytes()));
        files.push((name.into(), content()));
        operator.refused(&Hub::start(files), &source(), "no file of weights");
        assert_eq!(entries(operator.folder.path()), ["models"]);
        assert_eq!(entries(&operator.models()), [""; 0]);
    }
}

#[test]
fn a_link_that_lies_in_wait_is_not_written_through() {
    let (hub, operator) = (Hub::start(tiny::files()), Operator::new());
    let outside = operator.folder.path().join("outside");
    std::fs::write(&outside, "mine").expect("it can be written");
    std::fs::create_dir_all(operator.partial()).expect("a folder");
    let link = operator.partial().join("config.json");
    std::os::unix::fs::symlink(&outside, link).expect("a link");
    operator.refused(&hub, &source(), "cannot write");
    assert_eq!(std::fs::read(&outside).expect("it is there"), b"mine");
}

#[test]
fn over_tls_certificates_are_checked_and_the_way_back_to_plain_http_is_closed() {
    let operator = Operator::new();
    let data = operator.folder.path().join("ca");
    let made = programs::bulkhead()
        .arg("--data")
        .arg(&data)
        .arg("init")
        .output();
    assert!(made.expect("the program runs").status.success());
    let tls = data.join("tls");
    let hub = Hub::start_tls(tiny::files(), &tls);

    let said = operator
        .add_with(hub.url(), &source(), &[])
        .expect_err("a refusal");
    assert!(
        said.contains("cannot reach 127.0.0.1") && said.contains("certificate"),
        "{said}"
    );
    assert_eq!(hub.seen().len(), 0, "nothing was asked");

    let ca = tls.join("ca.pem");
    let trusting = [("SSL_CERT_FILE", ca.to_str().expect("UTF-8"))];
    let plain = Hub::start(tiny::files());
    hub.fail(WEIGHTS, Fault::Redirect(format!("{}/x", plain.url())));
    let said = operator
        .add_with(hub.url(), &source(), &trusting)
        .expect_err("a refusal");
    assert!(said.contains("from https to plain http"), "{said}");
    assert_eq!(plain.seen().len(), 0);
    hub.mend();
    operator
        .add_with(hub.url(), &source(), &trusting)
        .expect("it is added");

    let empty = operator.folder.path().join("empty");
    std::fs::create_dir(&empty).expect("a folder");
    let nobody = [
        ("SSL_CERT_FILE", "/dev/null"),
        ("SSL_CERT_DIR", empty.to_str().expect("UTF-8")),
    ];
    let said = operator.add_with(hub.url(), &source(), &nobody);
    let said = said.expect_err("a refusal");
    assert!(said.contains("install ca-certificates"), "{said}");
}
