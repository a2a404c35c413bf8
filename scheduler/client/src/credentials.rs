//! An agent's credentials file: who it is, its private key, and where and whom it trusts.
//!
//! One JSON object, written once by `agent create` for its owner's eyes only (mode 0600). The
//! private key is wiped from memory when it is dropped and appears in no output but that file.

use crate::error::ClientError;
use bulkhead_proto::v1::CreateAgentResponse;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{
    fmt, fs,
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};
use zeroize::Zeroizing;

/// Credentials files are a few kilobytes; anything longer is something else.
const FILE_BYTES_MAX: u64 = 256 << 10;

/// What an agent needs in order to fetch tokens and to call.
#[derive(Clone, Serialize, Deserialize)]
pub struct Credentials {
    /// The client id, `agt_…`.
    pub agent: String,
    /// For people's eyes: the server takes the tenant from its own records.
    pub tenant: String,
    pub key_id: String,
    /// PKCS#8.
    #[serde(serialize_with = "expose", deserialize_with = "conceal")]
    pub private_key_pem: Zeroizing<String>,
    /// `https://HOST:PORT` of the agents' port.
    pub issuer: String,
    /// The only authority that this agent's connections trust.
    pub ca_pem: String,
    /// The audience of client assertions, where it is not the issuer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
}

impl Credentials {
    /// Reads and checks a file.
    pub fn read(path: &Path) -> Result<Credentials, ClientError> {
        let fail = |message: String| ClientError::Credentials {
            path: path.into(),
            message,
        };
        let mut text = Zeroizing::new(String::new());
        fs::File::open(path)
            .and_then(|file| file.take(FILE_BYTES_MAX).read_to_string(&mut text))
            .map_err(|e| fail(e.to_string()))?;
        let credentials: Credentials =
            serde_json::from_str(&text).map_err(|e| fail(format!("no credentials: {e}")))?;
        credentials.check().map_err(fail)?;
        Ok(credentials)
    }

    /// Writes them to a new file that only its owner can read.
    ///
    /// Fails where the file exists: a key that is still in use is never overwritten.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        Reserved::file(path)?.fill(self)
    }

    /// The file's text. Holds the private key.
    pub fn to_json(&self) -> io::Result<String> {
        serde_json::to_string_pretty(self).map_err(io::Error::other)
    }

    /// Whom a client assertion is for.
    pub fn assertion_audience(&self) -> &str {
        self.audience.as_deref().unwrap_or(&self.issuer)
    }

    fn check(&self) -> Result<(), String> {
        for (name, value) in [
            ("agent", &self.agent),
            ("key_id", &self.key_id),
            ("private_key_pem", &*self.private_key_pem),
            ("issuer", &self.issuer),
            ("ca_pem", &self.ca_pem),
        ] {
            if value.trim().is_empty() {
                return Err(format!("`{name}` is empty"));
            }
        }
        Ok(())
    }
}

/// A new private file that waits for credentials, so that no agent is created whose key cannot be
/// written. Removed again where none were written to it.
pub struct Reserved {
    file: fs::File,
    path: PathBuf,
    filled: bool,
}

impl Reserved {
    /// Makes the file, mode 0600. Fails where one exists.
    pub fn file(path: &Path) -> io::Result<Reserved> {
        let mut options = fs::OpenOptions::new();
        let file = (options.write(true).create_new(true).mode(0o600)).open(path)?;
        Ok(Reserved {
            file,
            path: path.into(),
            filled: false,
        })
    }

    /// Writes the credentials to the disk.
    pub fn fill(mut self, credentials: &Credentials) -> io::Result<()> {
        let text = Zeroizing::new(credentials.to_json()?);
        self.file.write_all(text.as_bytes())?;
        self.file.write_all(b"\n")?;
        self.file.sync_all()?;
        self.filled = true;
        Ok(())
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if !self.filled {
            // Where it cannot be removed, an empty file says as much.
            let _left = fs::remove_file(&self.path);
        }
    }
}

impl From<CreateAgentResponse> for Credentials {
    fn from(created: CreateAgentResponse) -> Self {
        let agent = created.agent.unwrap_or_default();
        Credentials {
            agent: agent.id,
            tenant: agent.tenant,
            key_id: created.key_id,
            private_key_pem: Zeroizing::new(created.private_key_pem),
            issuer: created.issuer,
            ca_pem: created.ca_pem,
            audience: None,
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("agent", &self.agent)
            .field("tenant", &self.tenant)
            .field("issuer", &self.issuer)
            .finish_non_exhaustive()
    }
}

fn expose<S: Serializer>(key: &Zeroizing<String>, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(key)
}

fn conceal<'de, D: Deserializer<'de>>(from: D) -> Result<Zeroizing<String>, D::Error> {
    String::deserialize(from).map(Zeroizing::new)
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use base64::Engine as _;
    use std::os::unix::fs::PermissionsExt as _;

    /// Credentials with a fresh key, for this module's neighbours too.
    pub fn sample() -> Credentials {
        let key = aws_lc_rs::signature::Ed25519KeyPair::generate().unwrap();
        let der = key.to_pkcs8v1().unwrap();
        let base64 = base64::engine::general_purpose::STANDARD.encode(der);
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{base64}\n-----END PRIVATE KEY-----\n");
        Credentials {
            agent: "agt_1".into(),
            tenant: "acme".into(),
            key_id: "k1".into(),
            private_key_pem: Zeroizing::new(pem),
            issuer: "https://127.0.0.1:8443".into(),
            ca_pem: "-----BEGIN CERTIFICATE-----\n".into(),
            audience: None,
        }
    }

    #[test]
    fn a_file_is_read_back_as_written_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.json");
        let written = sample();
        written.write(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let read = Credentials::read(&path).unwrap();
        assert_eq!(read.agent, written.agent);
        assert_eq!(*read.private_key_pem, *written.private_key_pem);
        assert_eq!(read.assertion_audience(), "https://127.0.0.1:8443");
    }

    #[test]
    fn a_key_in_use_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.json");
        sample().write(&path).unwrap();
        let error = sample().write(&path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn a_file_that_no_credentials_came_for_is_gone_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.json");
        let reserved = Reserved::file(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(reserved);
        assert!(!path.exists());
    }

    #[test]
    fn a_broken_file_is_named_with_what_is_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.json");
        let missing = Credentials::read(&path).unwrap_err().to_string();
        assert!(missing.contains("agent.json"), "{missing}");
        let mut empty = sample();
        empty.key_id = " ".into();
        empty.write(&path).unwrap();
        let error = Credentials::read(&path).unwrap_err().to_string();
        assert!(error.contains("`key_id` is empty"), "{error}");
    }

    #[test]
    fn debug_output_holds_no_key() {
        assert!(!format!("{:?}", sample()).contains("PRIVATE KEY"));
    }
}
