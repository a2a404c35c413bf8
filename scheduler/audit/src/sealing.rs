//! Encryption of bodies: a data key per tenant and start of the log, wrapped and stored beside the log,
//! one file per tenant, so that removing that file erases the tenant's content and nothing else.
//!
//! A nonce is a record's sequence number. After a failed write the same number is given again to other
//! content, so all data keys are forgotten then: no key ever sees a nonce twice.

use crate::checkpoint::tree_name;
use crate::fsutil;
use crate::keys::{self, KeyError, Keys};
use crate::record::{SALT_BYTES, TAG_BYTES};
use crate::tree::{Hash, sha256};
use aws_lc_rs::aead::{Aad, LessSafeKey, Nonce};
use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use zeroize::{Zeroize as _, Zeroizing};

/// The name of a data key.
pub(crate) type KeyId = [u8; 16];

const NONCE_BYTES: usize = 12;
/// A wrapped key in its file: id, nonce, encrypted key, tag.
const WRAPPED_BYTES: usize = 16 + NONCE_BYTES + 32 + TAG_BYTES;
/// The largest file of wrapped keys that is read: some 200,000 starts, 16 MiB.
const KEY_FILE_BYTES_MAX: u64 = 16 << 20;

/// The folder of wrapped keys in a log's folder.
pub(crate) fn keys_dir(log_dir: &Path) -> PathBuf {
    log_dir.join("keys")
}

/// The file of a tenant's wrapped keys.
pub(crate) fn key_file(log_dir: &Path, tenant: &str) -> PathBuf {
    keys_dir(log_dir).join(tree_name(tenant))
}

/// A plaintext with its salt, ready to be encrypted in place.
pub(crate) struct Plain {
    salted: Zeroizing<Vec<u8>>,
}

impl Plain {
    /// Salts a body.
    pub fn new(body: &[u8]) -> Result<Self, KeyError> {
        let mut salted = Zeroizing::new(vec![0; SALT_BYTES + body.len()]);
        aws_lc_rs::rand::fill(&mut salted[..SALT_BYTES]).map_err(|_| KeyError::Crypto)?;
        salted[SALT_BYTES..].copy_from_slice(body);
        Ok(Plain { salted })
    }

    /// What stands for the plaintext in the clear.
    pub fn commitment(&self) -> Hash {
        sha256(&[&self.salted])
    }

    /// Bytes of the ciphertext that it becomes.
    pub fn ciphertext_bytes(&self) -> usize {
        self.salted.len() + TAG_BYTES
    }

    /// Encrypts it under a nonce that this key has never seen.
    pub fn seal(
        mut self,
        key: &LessSafeKey,
        sequence: u64,
        clear: &[u8],
    ) -> Result<Vec<u8>, KeyError> {
        let tag = key
            .seal_in_place_separate_tag(nonce(sequence), Aad::from(clear), &mut self.salted)
            .map_err(|_| KeyError::Crypto)?;
        let mut out = Vec::with_capacity(self.ciphertext_bytes());
        out.extend_from_slice(&self.salted);
        out.extend_from_slice(tag.as_ref());
        Ok(out)
    }
}

/// Decrypts a body and checks it against its commitment; `None` if key, header or body do not fit.
pub(crate) fn open(
    key: &LessSafeKey,
    sequence: u64,
    clear: &[u8],
    ciphertext: &[u8],
    commitment: &Hash,
) -> Option<Zeroizing<Vec<u8>>> {
    let mut buffer = Zeroizing::new(ciphertext.to_vec());
    let plain = key
        .open_in_place(nonce(sequence), Aad::from(clear), &mut buffer)
        .ok()?;
    if sha256(&[plain]) != *commitment {
        return None;
    }
    Some(Zeroizing::new(plain.get(SALT_BYTES..)?.to_vec()))
}

fn nonce(sequence: u64) -> Nonce {
    let mut bytes = [0; NONCE_BYTES];
    bytes[NONCE_BYTES - 8..].copy_from_slice(&sequence.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// The data keys of this start, made on first use.
#[derive(Default)]
pub(crate) struct DataKeys {
    current: HashMap<String, (KeyId, LessSafeKey)>,
}

impl DataKeys {
    /// A tenant's current key; a new one is on the disk before it is given out.
    pub fn get(
        &mut self,
        keys: &Keys,
        log_dir: &Path,
        log_id: &[u8; 16],
        tenant: &str,
    ) -> Result<&(KeyId, LessSafeKey), KeyError> {
        let path = key_file(log_dir, tenant);
        // Looking each time costs a microsecond; a tenant that was erased under a running log gets a
        // fresh key at once, instead of records that nobody could ever read.
        if !self.current.contains_key(tenant) || !path.exists() {
            let secret = keys::random()?;
            let mut id = KeyId::default();
            aws_lc_rs::rand::fill(&mut id).map_err(|_| KeyError::Crypto)?;
            let wrapped = wrap(&keys.wrapping, log_id, tenant, &id, &secret)?;
            store(&path, &wrapped).map_err(|source| KeyError::Io { path, source })?;
            self.current
                .insert(tenant.to_owned(), (id, keys::aead_key(&secret)?));
        }
        Ok(&self.current[tenant])
    }

    /// Forgets all keys, so that each tenant's next record gets a new one.
    pub fn forget(&mut self) {
        self.current.clear();
    }
}

/// All keys that were ever stored for a tenant and can still be unwrapped.
pub(crate) fn stored_keys(
    keys: &Keys,
    log_dir: &Path,
    log_id: &[u8; 16],
    tenant: &str,
) -> Result<HashMap<KeyId, LessSafeKey>, KeyError> {
    let path = key_file(log_dir, tenant);
    let content = fsutil::read_bounded(&path, KEY_FILE_BYTES_MAX)
        .map_err(|source| KeyError::Io { path, source })?
        .unwrap_or_default();
    let mut found = HashMap::new();
    for wrapped in content.chunks_exact(WRAPPED_BYTES) {
        let (id, rest) = wrapped
            .split_first_chunk::<16>()
            .expect("chunks are longer than an id");
        if let Some(key) = unwrap(&keys.wrapping, log_id, tenant, id, rest) {
            found.insert(*id, key);
        }
    }
    Ok(found)
}

fn wrapping_aad(log_id: &[u8; 16], tenant: &str, id: &KeyId) -> Vec<u8> {
    [
        b"bulkhead data key v1".as_slice(),
        log_id,
        id,
        tenant.as_bytes(),
    ]
    .concat()
}

fn wrap(
    wrapping: &LessSafeKey,
    log_id: &[u8; 16],
    tenant: &str,
    id: &KeyId,
    secret: &[u8; 32],
) -> Result<Vec<u8>, KeyError> {
    let mut nonce = [0; NONCE_BYTES];
    aws_lc_rs::rand::fill(&mut nonce).map_err(|_| KeyError::Crypto)?;
    let mut body = Zeroizing::new(*secret);
    let aad = Aad::from(wrapping_aad(log_id, tenant, id));
    let tag = wrapping
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), aad, body.as_mut())
        .map_err(|_| KeyError::Crypto)?;
    Ok([id.as_slice(), &nonce, body.as_ref(), tag.as_ref()].concat())
}

fn unwrap(
    wrapping: &LessSafeKey,
    log_id: &[u8; 16],
    tenant: &str,
    id: &KeyId,
    rest: &[u8],
) -> Option<LessSafeKey> {
    let (nonce, sealed) = rest.split_first_chunk::<NONCE_BYTES>()?;
    let mut body = Zeroizing::new(sealed.to_vec());
    let aad = Aad::from(wrapping_aad(log_id, tenant, id));
    let plain = wrapping
        .open_in_place(Nonce::assume_unique_for_key(*nonce), aad, &mut body)
        .ok()?;
    let mut secret = Zeroizing::new([0; 32]);
    secret.copy_from_slice(plain.get(..32)?);
    plain.zeroize();
    keys::aead_key(&secret).ok()
}

/// Appends a wrapped key durably, over the rest of one that was cut off by a full disk.
fn store(path: &Path, wrapped: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(path);
    let new = !path.exists();
    let mut options = OpenOptions::new();
    let file = options
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    let length = file.metadata()?.len();
    file.write_all_at(wrapped, length - length % WRAPPED_BYTES as u64)?;
    file.sync_all()?;
    if new { fsutil::sync_dir(dir) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_opens_only_in_its_own_place_with_its_own_commitment() {
        let key = keys::aead_key(&[7; 32]).unwrap();
        let plain = Plain::new(b"body").unwrap();
        let commitment = plain.commitment();
        let sealed = plain.seal(&key, 5, b"header").unwrap();
        let opened = open(&key, 5, b"header", &sealed, &commitment).unwrap();
        assert_eq!(opened.as_slice(), b"body");
        assert!(open(&key, 6, b"header", &sealed, &commitment).is_none());
        assert!(open(&key, 5, b"Header", &sealed, &commitment).is_none());
        assert!(open(&key, 5, b"header", &sealed[1..], &commitment).is_none());
        assert!(open(&key, 5, b"header", &sealed, &[0; 32]).is_none());
    }

    #[test]
    fn equal_bodies_have_different_commitments() {
        let commitment = || Plain::new(b"yes").unwrap().commitment();
        assert_ne!(commitment(), commitment());
    }

    #[test]
    fn a_wrapped_key_serves_its_own_tenant_and_log_only() {
        let home = tempfile::tempdir().unwrap();
        let keys = keys::init(&home.path().join("secrets")).unwrap();
        let log_dir = home.path().join("log");
        fsutil::create_private_dir(&keys_dir(&log_dir)).unwrap();
        let (log_id, mut data_keys) = ([1; 16], DataKeys::default());
        let id = data_keys.get(&keys, &log_dir, &log_id, "acme").unwrap().0;
        let found = |log_id: &[u8; 16], tenant: &str| {
            stored_keys(&keys, &log_dir, log_id, tenant)
                .unwrap()
                .contains_key(&id)
        };
        assert!(found(&log_id, "acme") && !found(&[2; 16], "acme"));
        std::fs::copy(key_file(&log_dir, "acme"), key_file(&log_dir, "globex")).unwrap();
        assert!(!found(&log_id, "globex"));
    }

    #[test]
    fn a_key_that_was_cut_off_by_a_full_disk_is_written_over() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("acme");
        let wrapped = |byte| vec![byte; WRAPPED_BYTES];
        store(&path, &wrapped(1)).unwrap();
        std::fs::write(&path, [wrapped(1), vec![9; 30]].concat()).unwrap();
        store(&path, &wrapped(2)).unwrap();
        assert_eq!(
            std::fs::read(&path).unwrap(),
            [wrapped(1), wrapped(2)].concat()
        );
    }
}
