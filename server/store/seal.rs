//! Secrets at rest: sealed with a key that stands in the data directory and nowhere else, so that neither the database
//! nor a copy of it gives them away.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::disk::SECRET_KEY_BYTES;
use crate::id::{hex, random_bytes};

/// Opens and closes what is sealed. Its key is in no `Debug`.
pub(super) struct Seal {
    key: LessSafeKey,
    marks: hmac::Key,
}

impl Seal {
    pub fn new(key: &[u8; SECRET_KEY_BYTES]) -> Seal {
        let unbound = UnboundKey::new(&AES_256_GCM, key).expect("the key has the length of its cipher");
        // One key for one purpose: what marks secrets is derived from what seals them.
        let derived = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), b"marks");
        Seal { key: LessSafeKey::new(unbound), marks: hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref()) }
    }

    /// Seals `text` for `purpose`: it opens for the same purpose only, so that no row can be put in another's place.
    pub fn close(&self, purpose: &str, text: &str) -> String {
        // 96 random bits: with this many secrets two of them never meet.
        let nonce = random_bytes::<NONCE_LEN>();
        let mut bytes = text.as_bytes().to_vec();
        self.key
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(purpose.as_bytes()),
                &mut bytes,
            )
            .expect("a secret is shorter than the cipher's limit of 64 GiB");
        STANDARD.encode([&nonce[..], &bytes].concat())
    }

    /// `None` when it was sealed with another key or for another purpose, or is damaged.
    pub fn open(&self, purpose: &str, sealed: &str) -> Option<String> {
        let mut bytes = STANDARD.decode(sealed).ok()?;
        if bytes.len() < NONCE_LEN {
            return None;
        }
        let mut text = bytes.split_off(NONCE_LEN);
        let nonce = Nonce::try_assume_unique_for_key(&bytes).ok()?;
        let opened = self.key.open_in_place(nonce, Aad::from(purpose.as_bytes()), &mut text).ok()?;
        String::from_utf8(opened.to_vec()).ok()
    }

    /// The same for equal secrets, and tells nothing of them to whoever lacks the key.
    pub fn mark(&self, secret: &str) -> String {
        hex(&hmac::sign(&self.marks, secret.as_bytes()).as_ref()[..16])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_for_its_purpose_and_its_key_alone() {
        let (seal, other) = (Seal::new(&[1; SECRET_KEY_BYTES]), Seal::new(&[2; SECRET_KEY_BYTES]));
        let sealed = seal.close("a", "s3cret");
        assert_eq!(seal.open("a", &sealed).as_deref(), Some("s3cret"));
        assert_ne!(seal.close("a", "s3cret"), sealed, "never the same twice");
        assert!(!STANDARD.decode(&sealed).expect("base 64").windows(6).any(|part| part == b"s3cret"));
        for (seal, purpose, sealed) in [
            (&other, "a", sealed.as_str()),
            (&seal, "b", &sealed),
            (&seal, "a", &sealed[4..]),
            (&seal, "a", ""),
            (&seal, "a", "AAAA"),
            (&seal, "a", "%"),
        ] {
            assert_eq!(seal.open(purpose, sealed), None);
        }
    }

    #[test]
    fn a_mark_tells_equal_secrets_from_others_and_nothing_else() {
        let (seal, other) = (Seal::new(&[1; SECRET_KEY_BYTES]), Seal::new(&[2; SECRET_KEY_BYTES]));
        assert_eq!(seal.mark("s3cret"), seal.mark("s3cret"));
        assert_ne!(seal.mark("s3cret"), seal.mark("s3cret "));
        assert_ne!(seal.mark("s3cret"), other.mark("s3cret"));
    }
}
