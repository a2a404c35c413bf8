//! Signed notes and verifier keys as C2SP's `signed-note` defines them, with Ed25519.
//!
//! One key signs all of a log's trees, each under a key name equal to the tree's origin, so that tools
//! which expect name and origin to agree work with every tree. Signatures by others (witnesses) may
//! stand beside ours; they are skipped, never trusted.

use crate::tree::sha256;
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, UnparsedPublicKey};
use base64::{Engine as _, engine::general_purpose::STANDARD};

/// The longest note that is read, bytes.
pub const NOTE_BYTES_MAX: u64 = 64 << 10;

const ED25519_TYPE: u8 = 1;
const SIGNATURE_PREFIX: &str = "\u{2014} ";

/// Why a note or a key is not accepted. Never worth a retry with the same bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// No verifier key in C2SP's format.
    #[error("no verifier key: expected NAME+HASH+KEY as in the log's public.key")]
    BadKey,
    /// The text is no signed note.
    #[error("no signed note: {0}")]
    Malformed(&'static str),
    /// The note bears no signature of this key.
    #[error("not signed by the key {0}")]
    Unsigned(String),
    /// The note bears a signature of this key that does not fit.
    #[error(
        "the signature of {0} does not match the text: it was altered or signed by another key"
    )]
    BadSignature(String),
}

/// A public key and the name it signs under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    public: [u8; 32],
}

impl VerifierKey {
    /// The key under a name.
    pub fn new(name: String, public: [u8; 32]) -> Self {
        VerifierKey { name, public }
    }

    /// Reads `NAME+HASH+KEY`; white space around it is ignored.
    pub fn parse(text: &str) -> Result<Self, NoteError> {
        let mut parts = text.trim().splitn(3, '+');
        let (Some(name), Some(hash), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(NoteError::BadKey);
        };
        let bytes = STANDARD.decode(key).map_err(|_| NoteError::BadKey)?;
        let (Some((&ED25519_TYPE, public)), false) = (bytes.split_first(), name.is_empty()) else {
            return Err(NoteError::BadKey);
        };
        let public = public.try_into().map_err(|_| NoteError::BadKey)?;
        let key = VerifierKey::new(name.to_owned(), public);
        if name.contains(char::is_whitespace) || hex(&key.id()) != hash {
            return Err(NoteError::BadKey);
        }
        Ok(key)
    }

    /// The name that it signs under.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The raw Ed25519 public key.
    pub fn public(&self) -> &[u8; 32] {
        &self.public
    }

    /// The same key under another name.
    pub fn renamed(&self, name: String) -> Self {
        VerifierKey::new(name, self.public)
    }

    fn id(&self) -> [u8; 4] {
        let hash = sha256(&[self.name.as_bytes(), b"\n", &[ED25519_TYPE], &self.public]);
        [hash[0], hash[1], hash[2], hash[3]]
    }
}

impl std::fmt::Display for VerifierKey {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let key = [&[ED25519_TYPE], self.public.as_slice()].concat();
        write!(
            out,
            "{}+{}+{}",
            self.name,
            hex(&self.id()),
            STANDARD.encode(key)
        )
    }
}

/// The note over `text` (which ends in a newline), signed under the key's name.
pub fn sign(text: &str, key: &VerifierKey, signer: &Ed25519KeyPair) -> String {
    let signature = [key.id().as_slice(), signer.sign(text.as_bytes()).as_ref()].concat();
    format!(
        "{text}\n{SIGNATURE_PREFIX}{} {}\n",
        key.name,
        STANDARD.encode(signature)
    )
}

/// The text of a note, if `key` signed it.
pub fn open<'a>(note: &'a str, key: &VerifierKey) -> Result<&'a str, NoteError> {
    let blank = note
        .rfind("\n\n")
        .ok_or(NoteError::Malformed("it has no signatures"))?;
    let (text, signatures) = (&note[..=blank], &note[blank + 2..]);
    let Some(signatures) = signatures.strip_suffix('\n') else {
        return Err(NoteError::Malformed("it does not end in a newline"));
    };
    let mut signed = false;
    for line in signatures.split('\n') {
        let (name, signature) = line
            .strip_prefix(SIGNATURE_PREFIX)
            .and_then(|rest| rest.split_once(' '))
            .ok_or(NoteError::Malformed("a signature line is broken"))?;
        let bytes = STANDARD
            .decode(signature)
            .map_err(|_| NoteError::Malformed("a signature is no base64"))?;
        if name != key.name || !bytes.starts_with(&key.id()) {
            continue;
        }
        UnparsedPublicKey::new(&ED25519, &key.public)
            .verify(text.as_bytes(), &bytes[4..])
            .map_err(|_| NoteError::BadSignature(key.name.clone()))?;
        signed = true;
    }
    if signed {
        Ok(text)
    } else {
        Err(NoteError::Unsigned(key.name.clone()))
    }
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::signature::KeyPair as _;

    fn pair() -> (Ed25519KeyPair, VerifierKey) {
        let signer = Ed25519KeyPair::generate().unwrap();
        let public = signer.public_key().as_ref().try_into().unwrap();
        (signer, VerifierKey::new("bulkhead/test".into(), public))
    }

    #[test]
    fn the_key_of_the_published_example_is_read_and_its_note_opens() {
        // The example of the signed-note specification.
        let key = VerifierKey::parse(
            "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        )
        .unwrap();
        let note = "If you think cryptography is the answer to your problem,\n\
                    then you don't know what your problem is.\n\
                    \n\
                    \u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";
        assert!(open(note, &key).unwrap().ends_with("problem is.\n"));
    }

    #[test]
    fn a_key_survives_its_text() {
        let (_, key) = pair();
        assert_eq!(VerifierKey::parse(&format!("{key}\n")), Ok(key));
        for bad in [
            "",
            "a+b",
            "name+00000000+AAAA",
            "+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        ] {
            assert_eq!(VerifierKey::parse(bad), Err(NoteError::BadKey));
        }
    }

    #[test]
    fn every_altered_byte_of_a_note_is_refused() {
        let (signer, key) = pair();
        let note = sign("origin\n3\nAAAA\n", &key, &signer);
        assert_eq!(open(&note, &key), Ok("origin\n3\nAAAA\n"));
        for at in 0..note.len() {
            let mut bytes = note.clone().into_bytes();
            bytes[at] ^= 1;
            if let Ok(text) = String::from_utf8(bytes) {
                assert!(open(&text, &key).is_err(), "byte {at}");
            }
        }
    }

    #[test]
    fn another_key_or_name_does_not_open_it() {
        let (signer, key) = pair();
        let note = sign("text\n", &key, &signer);
        assert!(matches!(
            open(&note, &pair().1),
            Err(NoteError::Unsigned(_))
        ));
        assert!(matches!(
            open(&note, &key.renamed("other".into())),
            Err(NoteError::Unsigned(_))
        ));
    }

    #[test]
    fn a_witness_may_sign_beside_us() {
        let (signer, key) = pair();
        let (witness, witness_key) = pair();
        let witness_key = witness_key.renamed("witness".into());
        let ours = sign("text\n", &key, &signer);
        let theirs = sign("text\n", &witness_key, &witness);
        let both = format!("{ours}{}", theirs.split_once("\n\n").unwrap().1);
        assert_eq!(open(&both, &key), Ok("text\n"));
        assert_eq!(open(&both, &witness_key), Ok("text\n"));
    }
}
