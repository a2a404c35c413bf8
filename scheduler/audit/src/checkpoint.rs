//! Checkpoints in C2SP's `tlog-checkpoint` format: a tree's name, size and root, signed as a note.
//!
//! A log's origins all begin with `bulkhead/LOGID`: that of the tree over all checkpoints is exactly
//! this, that of a tenant's tree has `/TENANT` after it, that of the system's own records `/_system`.

use crate::note::{self, NoteError, VerifierKey, hex};
use crate::tree::Hash;
use aws_lc_rs::signature::Ed25519KeyPair;
use base64::{Engine as _, engine::general_purpose::STANDARD};

/// How the tree of tenant `""` (the system's own records) is called in origins and file names. No
/// tenant can bear this name.
pub const SYSTEM: &str = "_system";

/// The name of a tenant's tree in origins and file names.
pub fn tree_name(tenant: &str) -> &str {
    if tenant.is_empty() { SYSTEM } else { tenant }
}

/// The origin of the tree over all checkpoints, and the name of the log's key.
pub fn log_origin(log_id: &[u8; 16]) -> String {
    format!("bulkhead/{}", hex(log_id))
}

/// A tree's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which tree of which log.
    pub origin: String,
    /// Leaves in the tree.
    pub size: u64,
    /// The root over them.
    pub root: Hash,
}

impl Checkpoint {
    /// The signed note of it.
    pub fn sign(&self, key: &VerifierKey, signer: &Ed25519KeyPair) -> String {
        let text = format!(
            "{}\n{}\n{}\n",
            self.origin,
            self.size,
            STANDARD.encode(self.root)
        );
        note::sign(&text, &key.renamed(self.origin.clone()), signer)
    }

    /// Reads a signed note of any of the trees of the log whose key this is.
    pub fn open(text: &str, key: &VerifierKey) -> Result<Self, NoteError> {
        let origin = text.lines().next().unwrap_or_default();
        let ours = origin == key.name()
            || origin
                .strip_prefix(key.name())
                .is_some_and(|rest| rest.starts_with('/'));
        if !ours {
            return Err(NoteError::Unsigned(key.name().to_owned()));
        }
        let body = note::open(text, &key.renamed(origin.to_owned()))?;
        let mut lines = body.lines().skip(1);
        let size = lines.next().unwrap_or_default();
        let root = lines.next().unwrap_or_default();
        let checkpoint = Checkpoint {
            origin: origin.to_owned(),
            size: size
                .parse()
                .map_err(|_| NoteError::Malformed("the tree's size is no number"))?,
            root: STANDARD
                .decode(root)
                .ok()
                .and_then(|bytes| bytes.try_into().ok())
                .ok_or(NoteError::Malformed("the root is no SHA-256 in base64"))?,
        };
        if checkpoint.size.to_string() != size {
            return Err(NoteError::Malformed(
                "the tree's size is not in plain decimal",
            ));
        }
        Ok(checkpoint)
    }

    /// The tenant whose tree this is (`""` for the system's own); `None` for the tree over all.
    pub fn tenant(&self, key: &VerifierKey) -> Option<&str> {
        let name = self.origin.strip_prefix(key.name())?.strip_prefix('/')?;
        Some(if name == SYSTEM { "" } else { name })
    }
}
