//! The certificates as clients meet them: in a TLS 1.3 handshake.

use super::*;
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection, version::TLS13};
use rustls_pki_types::PrivateKeyDer;
use std::os::unix::fs::PermissionsExt;

fn config(dir: &Path) -> Config {
    Config {
        data: dir.into(),
        ..Config::default()
    }
}

/// A handshake in memory: what the client thinks of the server's certificate for `name`.
fn handshake(config: &Config, name: &str) -> Result<(), rustls::Error> {
    let paths = config.paths();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(read_cert(&paths.ca_cert()).unwrap()).unwrap();
    let client = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let key = PrivateKeyDer::from_pem_file(paths.server_key()).unwrap();
    let server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![read_cert(&paths.server_cert()).unwrap()], key)?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(client.into(), name)?;
    let mut server = ServerConnection::new(server.into())?;
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        server.read_tls(&mut wire.as_slice()).unwrap();
        server.process_new_packets()?;
        let mut wire = Vec::new();
        server.write_tls(&mut wire).unwrap();
        client.read_tls(&mut wire.as_slice()).unwrap();
        client.process_new_packets()?;
    }
    Ok(())
}

#[test]
fn clients_that_trust_the_ca_accept_every_name_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.server.names = vec!["bulkhead.example".into()];
    let made = ensure(&config, SystemTime::now()).unwrap();
    assert_eq!((made.ca, made.server), (Made::New, Made::New));
    for name in ["localhost", "127.0.0.1", "::1", "bulkhead.example"] {
        handshake(&config, name).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    assert!(handshake(&config, "other.example").is_err());
}

#[test]
fn nothing_is_made_twice_and_keys_are_private() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let paths = config.paths();
    let files = [
        paths.ca_cert(),
        paths.ca_key(),
        paths.server_cert(),
        paths.server_key(),
    ];
    ensure(&config, SystemTime::now()).unwrap();
    let read = || files.each_ref().map(|f| fs::read(f).unwrap());
    let first = read();
    let again = ensure(&config, SystemTime::now()).unwrap();
    assert_eq!((again.ca, again.server), (Made::Kept, Made::Kept));
    assert_eq!(read(), first);
    for key in [paths.ca_key(), paths.server_key()] {
        assert_eq!(
            fs::metadata(key).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }
}

#[test]
fn a_certificate_near_its_end_or_without_a_name_is_issued_anew() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    let now = SystemTime::now();
    ensure(&config, now - DAY * (LEAF_DAYS - RENEW_DAYS - 1)).unwrap();
    assert_eq!(
        ensure(&config, now).unwrap().server,
        Made::Kept,
        "31 days left"
    );
    assert_eq!(
        ensure(&config, now + DAY * 2).unwrap().server,
        Made::Renewed
    );
    assert_eq!(ensure(&config, now + DAY * 2).unwrap().server, Made::Kept);
    config.server.names = vec!["added.example".into()];
    assert_eq!(ensure(&config, now).unwrap().server, Made::Renewed);
    handshake(&config, "added.example").unwrap();
}

#[test]
fn an_operators_own_certificate_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    ensure(&config, SystemTime::now()).unwrap();
    fs::remove_file(config.paths().ca_key()).unwrap();
    let much_later = SystemTime::now() + DAY * 390;
    assert_eq!(ensure(&config, much_later).unwrap().server, Made::Kept);

    fs::remove_file(config.paths().server_cert()).unwrap();
    let error = ensure(&config, SystemTime::now()).unwrap_err().to_string();
    assert!(error.contains("private key is missing"), "{error}");
}

/// Clients on webpki take nothing but name and key from an authority they trust; others heed this.
#[test]
fn the_ca_says_that_it_signs_end_certificates_only() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    ensure(&config, SystemTime::now()).unwrap();
    let ca = read_cert(&config.paths().ca_cert()).unwrap();
    // BasicConstraints: a sequence of `cA` TRUE and `pathLenConstraint` 0, in DER.
    let constraints = [0x30, 6, 0x01, 1, 0xff, 0x02, 1, 0];
    assert!(
        ca.windows(constraints.len())
            .any(|part| part == constraints)
    );
}
