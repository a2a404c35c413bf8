//! The local certificate authority, and the server's certificate that it signs.
//!
//! For machines without a certificate authority of their own: agents trust `ca.pem` and nothing
//! else. The CA can sign only end certificates (path length 0), the server's certificate can only
//! be a server's. Private keys are written with mode 0600 and leave this module in no other way.
//! An operator's own files in the same places are used as they are, and never overwritten.

use crate::config::{Config, Paths};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use rustls::{
    CertificateError, RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject};
use std::{
    fs, io,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

const DAY: Duration = Duration::from_secs(86_400);
/// How long the CA is valid, days.
const CA_DAYS: u32 = 3650;
/// How long the server's certificate is valid, days.
const LEAF_DAYS: u32 = 397;
/// A server's certificate of ours with less than this left is issued anew, days.
const RENEW_DAYS: u32 = 30;
/// Clients' clocks may be behind ours by this much.
const BACKDATE: Duration = Duration::from_secs(3600);
/// What the server's certificate always carries.
const LOCAL_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Why there are no certificates. The operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file could not be read or written.
    #[error("cannot {verb} {path}: {source}")]
    File {
        verb: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// What is there is of no use.
    #[error("{path}: {what}; mend it, or move the folder away and run `bulkhead init`")]
    Unusable { path: PathBuf, what: String },
    /// A certificate could not be made.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
}

/// What became of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    New,
    Renewed,
    Kept,
}

/// What became of the CA and of the server's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub ca: Made,
    pub server: Made,
}

/// Makes the CA and the server's certificate where they are missing. Where the CA is ours, a
/// certificate that ends soon, or lacks a configured name, is issued anew with the key it has.
pub fn ensure(config: &Config, now: SystemTime) -> Result<Outcome, TlsError> {
    let paths = config.paths();
    make_folder(&paths)?;
    let has_ca = paths.ca_cert().exists();
    if paths.server_cert().exists() {
        if !paths.server_key().exists() {
            let what = "its private key is missing".into();
            return Err(unusable(&paths.server_cert(), what));
        }
        let ours = has_ca && paths.ca_key().exists();
        let server = if ours && !good_for(config, now + DAY * RENEW_DAYS)? {
            issue(config, now)?;
            Made::Renewed
        } else {
            Made::Kept
        };
        let ca = Made::Kept;
        return Ok(Outcome { ca, server });
    }
    if !has_ca {
        make_ca(&paths, now)?;
    }
    issue(config, now)?;
    Ok(Outcome {
        ca: if has_ca { Made::Kept } else { Made::New },
        server: Made::New,
    })
}

/// Whether clients that trust `ca.pem` would accept the server's certificate, in words.
pub fn state(config: &Config) -> Result<String, TlsError> {
    let now = SystemTime::now();
    if !config.paths().ca_cert().exists() {
        return Ok("an operator's own, not checked".into());
    }
    if good_for(config, now + DAY * RENEW_DAYS)? {
        return Ok(format!("valid for more than {RENEW_DAYS} days"));
    }
    if good_for(config, now)? {
        return Ok(format!("valid, but for less than {RENEW_DAYS} days"));
    }
    if config.paths().ca_key().exists() {
        return Ok("ended, or lacks a configured name; the next start issues it anew".into());
    }
    let what = "it has ended, or lacks a configured name".into();
    Err(unusable(&config.paths().server_cert(), what))
}

fn make_folder(paths: &Paths) -> Result<(), TlsError> {
    let cert = paths.server_cert();
    let folder = cert.parent().unwrap_or(Path::new("."));
    crate::commands::init::private_folder(folder).map_err(|source| TlsError::File {
        verb: "make",
        path: folder.into(),
        source,
    })
}

/// Makes the CA's certificate, and its key where there is none.
fn make_ca(paths: &Paths, now: SystemTime) -> Result<(), TlsError> {
    let key = key_at(&paths.ca_key())?;
    let mut params = ca_params(&key);
    validity(&mut params, now, CA_DAYS);
    let cert = params.self_signed(&key)?;
    write(&paths.ca_cert(), cert.pem().as_bytes(), 0o644)
}

/// What follows from the CA's key alone, so that its name is the same whenever it signs.
fn ca_params(key: &KeyPair) -> CertificateParams {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, key.public_key_raw());
    let id: String = (digest.as_ref()[..4].iter())
        .map(|b| format!("{b:02x}"))
        .collect();
    let mut params = CertificateParams::default();
    params.distinguished_name = named(&format!("Bulkhead local CA {id}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// Issues the server's certificate, with the key that is there or a new one.
fn issue(config: &Config, now: SystemTime) -> Result<(), TlsError> {
    let paths = config.paths();
    if !paths.ca_key().exists() {
        let what = "its private key is missing, so no server's certificate can be signed".into();
        return Err(unusable(&paths.ca_cert(), what));
    }
    let ca_key = key_at(&paths.ca_key())?;
    let issuer = Issuer::new(ca_params(&ca_key), ca_key);
    let key = key_at(&paths.server_key())?;
    let mut params = CertificateParams::new(names(config))?;
    params.distinguished_name = named("Bulkhead server");
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    validity(&mut params, now, LEAF_DAYS);
    let cert = params.signed_by(&key, &issuer)?;
    write(&paths.server_cert(), cert.pem().as_bytes(), 0o644)?;
    if !good_for(config, now)? {
        let what = "it is not valid under ca.pem just after it was issued".into();
        return Err(unusable(&paths.server_cert(), what));
    }
    Ok(())
}

/// True if the server's certificate is valid `at` for every name that it should have.
fn good_for(config: &Config, at: SystemTime) -> Result<bool, TlsError> {
    let paths = config.paths();
    let (ca, cert) = (paths.ca_cert(), paths.server_cert());
    let mut roots = RootCertStore::empty();
    let root = read_cert(&ca)?;
    roots.add(root).map_err(|e| unusable(&ca, e.to_string()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), provider)
        .build()
        .map_err(|e| unusable(&ca, e.to_string()))?;
    let leaf = read_cert(&cert)?;
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let at = UnixTime::since_unix_epoch(since);
    for name in names(config) {
        let name = ServerName::try_from(name.as_str())
            .map_err(|_| unusable(&cert, format!("server.names: {name:?} is no host name")))?;
        match verifier.verify_server_cert(&leaf, &[], &name, &[], at) {
            Ok(_) => {}
            Err(rustls::Error::InvalidCertificate(
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidForName
                | CertificateError::NotValidForNameContext { .. },
            )) => return Ok(false),
            Err(e) => return Err(unusable(&cert, format!("not valid under ca.pem: {e}"))),
        }
    }
    Ok(true)
}

/// The names that the server's certificate carries.
fn names(config: &Config) -> Vec<String> {
    let mut names = LOCAL_NAMES.map(String::from).to_vec();
    for name in &config.server.names {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    names
}

fn named(name: &str) -> DistinguishedName {
    let mut all = DistinguishedName::new();
    all.push(DnType::CommonName, name);
    all
}

fn validity(params: &mut CertificateParams, now: SystemTime, days: u32) {
    params.not_before = (now - BACKDATE).into();
    params.not_after = (now + DAY * days).into();
}

/// The key in `path`, or a new one, written there first.
fn key_at(path: &Path) -> Result<KeyPair, TlsError> {
    match fs::read_to_string(path) {
        Ok(pem) => KeyPair::from_pem(&pem)
            .map_err(|e| unusable(path, format!("no private key of a known kind: {e}"))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
            let pem = zeroize::Zeroizing::new(key.serialize_pem());
            write(path, pem.as_bytes(), 0o600)?;
            Ok(key)
        }
        Err(source) => Err(file("read", path, source)),
    }
}

fn read_cert(path: &Path) -> Result<CertificateDer<'static>, TlsError> {
    CertificateDer::from_pem_file(path).map_err(|e| unusable(path, format!("no certificate: {e}")))
}

/// Writes a file whole or not at all.
fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), TlsError> {
    let new = path.with_extension("new");
    let put = || -> io::Result<()> {
        if let Err(e) = fs::remove_file(&new)
            && e.kind() != io::ErrorKind::NotFound
        {
            return Err(e);
        }
        let mut out = fs::File::options()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&new)?;
        out.write_all(bytes)?;
        out.sync_all()?;
        fs::rename(&new, path)
    };
    put().map_err(|source| file("write", path, source))
}

fn file(verb: &'static str, path: &Path, source: io::Error) -> TlsError {
    TlsError::File {
        verb,
        path: path.into(),
        source,
    }
}

fn unusable(path: &Path, what: String) -> TlsError {
    TlsError::Unusable {
        path: path.into(),
        what,
    }
}

#[cfg(test)]
#[path = "tls_tests.rs"]
mod tests;
