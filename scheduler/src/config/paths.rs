//! Where things are: the folders that hold unless somebody says otherwise, and the data folder's layout.
//!
//! Nothing here opens or makes a file.

use std::path::PathBuf;

/// Where the data folder is, unless somebody says otherwise.
pub fn default_data_dir() -> Option<PathBuf> {
    user_dir("XDG_DATA_HOME", ".local/share")
}

/// Where models are, unless somebody says otherwise.
pub fn default_models_dir() -> Option<PathBuf> {
    let named = std::env::var_os("BULKHEAD_MODELS").filter(|v| !v.is_empty());
    match named {
        Some(dir) => Some(dir.into()),
        None => user_dir("XDG_CACHE_HOME", ".cache").map(|cache| cache.join("models")),
    }
}

/// `bulkhead` in the folder that `variable` names, or in `fallback` under the home folder.
fn user_dir(variable: &str, fallback: &str) -> Option<PathBuf> {
    let base = match std::env::var_os(variable).map(PathBuf::from) {
        Some(dir) if dir.is_absolute() => dir,
        _ => std::env::home_dir()
            .filter(|home| home.is_absolute())?
            .join(fallback),
    };
    Some(base.join("bulkhead"))
}

/// The data folder's layout.
#[derive(Clone, Debug)]
pub struct Paths {
    pub(super) data: PathBuf,
}

impl Paths {
    pub fn ca_cert(&self) -> PathBuf {
        self.data.join("tls/ca.pem")
    }
    pub fn ca_key(&self) -> PathBuf {
        self.data.join("tls/ca.key")
    }
    pub fn server_cert(&self) -> PathBuf {
        self.data.join("tls/server.pem")
    }
    pub fn server_key(&self) -> PathBuf {
        self.data.join("tls/server.key")
    }
    pub fn identity_db(&self) -> PathBuf {
        self.data.join("state/identity.db")
    }
    pub fn policy_dir(&self) -> PathBuf {
        self.data.join("policy")
    }
    pub fn audit_log(&self) -> PathBuf {
        self.data.join("audit")
    }
    /// Outside the log's folder, so that a backup of the log holds no key.
    pub fn audit_keys(&self) -> PathBuf {
        self.data.join("keys/audit")
    }
    pub fn admin_socket(&self) -> PathBuf {
        self.data.join("admin.sock")
    }
    /// Held by the server that uses the folder; says its process.
    pub fn lock(&self) -> PathBuf {
        self.data.join("lock")
    }
    /// Where the addresses in use are written once the server listens.
    pub fn endpoints(&self) -> PathBuf {
        self.data.join("endpoints.json")
    }
}
