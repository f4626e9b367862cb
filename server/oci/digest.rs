//! Digests: the names of blobs (OCI image spec, descriptor.md, "Digests").

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, Result};
use crate::oci::hasher::Hasher;

/// The algorithms a digest may use: those that the image spec registers and that nobody can forge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// What everybody uses, and what is meant where nothing is said.
    Sha256,
    Sha384,
    Sha512,
}

impl Algorithm {
    pub const ALL: [Algorithm; 3] = [Algorithm::Sha256, Algorithm::Sha384, Algorithm::Sha512];

    /// The text before the colon.
    pub const fn as_str(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha384 => "sha384",
            Algorithm::Sha512 => "sha512",
        }
    }

    /// How many bytes its values have; in text each is two digits.
    pub const fn len_bytes(self) -> usize {
        match self {
            Algorithm::Sha256 => 32,
            Algorithm::Sha384 => 48,
            Algorithm::Sha512 => 64,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Algorithm {
    type Err = Error;

    fn from_str(text: &str) -> Result<Algorithm> {
        Algorithm::ALL.into_iter().find(|algorithm| algorithm.as_str() == text).ok_or_else(|| {
            Error::invalid(format!(
                "unknown digest algorithm `{}`: use sha256, sha384 or sha512",
                excerpt(text)
            ))
        })
    }
}

/// `algorithm:hex` of some bytes. Equal, ordered and hashed as that text; cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(Arc<str>);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(algorithm: Algorithm, bytes: &[u8]) -> Digest {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(bytes);
        hasher.digest()
    }

    /// The digest whose value is `bytes`.
    ///
    /// # Errors
    /// `Invalid` when the length is not the algorithm's.
    pub fn from_bytes(algorithm: Algorithm, bytes: &[u8]) -> Result<Digest> {
        if bytes.len() != algorithm.len_bytes() {
            return Err(Error::invalid(format!(
                "a {algorithm} digest has {} bytes, not {}",
                algorithm.len_bytes(),
                bytes.len()
            )));
        }
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = String::with_capacity(algorithm.as_str().len() + 1 + bytes.len() * 2);
        text.push_str(algorithm.as_str());
        text.push(':');
        for byte in bytes {
            text.push(char::from(DIGITS[usize::from(byte >> 4)]));
            text.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
        Ok(Digest(text.into()))
    }

    pub fn algorithm(&self) -> Algorithm {
        // Every digest was made by `from_str` or `from_bytes`, and the names differ in length or here.
        match self.0.as_bytes()[3] {
            b'2' => Algorithm::Sha256,
            b'3' => Algorithm::Sha384,
            _ => Algorithm::Sha512,
        }
    }

    /// The digits after the colon, lower case: safe as one component of a path or of a URL.
    pub fn hex(&self) -> &str {
        &self.0[self.algorithm().as_str().len() + 1..]
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The value as bytes: 32, 48 or 64 of them.
    pub fn to_bytes(&self) -> Vec<u8> {
        let value = |digit: u8| if digit.is_ascii_digit() { digit - b'0' } else { digit - b'a' + 10 };
        self.hex().as_bytes().chunks_exact(2).map(|pair| value(pair[0]) << 4 | value(pair[1])).collect()
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Digest> {
        let Some((algorithm, hex)) = text.split_once(':') else {
            return Err(Error::invalid(format!(
                "`{}` is not a digest: write it as sha256:<64 hex digits>",
                excerpt(text)
            )));
        };
        let algorithm: Algorithm = algorithm.parse()?;
        let digits = algorithm.len_bytes() * 2;
        if hex.len() != digits {
            return Err(Error::invalid(format!(
                "a {algorithm} digest has {digits} hex digits, `{}` has {}",
                excerpt(hex),
                hex.chars().count()
            )));
        }
        if !hex.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(Error::invalid(format!(
                "`{}` is not a digest: its digits are 0-9 and a-f, in lower case",
                excerpt(text)
            )));
        }
        Ok(Digest(text.into()))
    }
}

/// The start of a text that may be very long or hold control characters, fit for a message.
pub fn excerpt(text: &str) -> String {
    const LONGEST_CHARS: usize = 80;
    let mut shown: String = text.chars().take(LONGEST_CHARS).map(in_print).collect();
    if text.chars().nth(LONGEST_CHARS).is_some() {
        shown.push('…');
    }
    shown
}

/// A character as a message shows it: a control as `\x1b`, as everywhere.
fn in_print(c: char) -> String {
    match c {
        c if c.is_control() => format!("\\x{:02x}", c as u32),
        '\'' | '"' | '\\' => c.to_string(),
        c => c.escape_debug().collect(),
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for Digest {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

// A map keyed by digests can be asked with a plain text.
impl Borrow<str> for Digest {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn a_digest_is_the_text_that_names_its_bytes() {
        let digest = Digest::of(Algorithm::Sha256, b"");
        assert_eq!(digest.to_string(), EMPTY);
        assert_eq!(digest, EMPTY.parse().expect("a digest"));
        assert_eq!((digest.algorithm(), digest.hex()), (Algorithm::Sha256, &EMPTY[7..]));
        assert_eq!(serde_json::to_string(&digest).expect("json"), format!("{EMPTY:?}"));
        for algorithm in Algorithm::ALL {
            assert_eq!(Digest::of(algorithm, b"x").algorithm(), algorithm);
        }
    }

    #[test]
    fn anything_but_lower_case_hex_of_the_exact_length_is_refused_with_the_reason() {
        let refused = |text: &str| text.parse::<Digest>().expect_err(text).to_string();
        assert!(refused("alpine").contains("write it as sha256:"));
        assert!(refused("md5:d41d8cd98f00b204e9800998ecf8427e").contains("algorithm `md5`"));
        assert!(refused("sha256:abc").contains("64 hex digits, `abc` has 3"));
        assert!(refused(&EMPTY.to_uppercase().replace("SHA", "sha")).contains("lower case"));
        assert!(refused(&format!("{EMPTY}\n")).contains("has 65"));
        assert!(refused(&format!("sha512:{}", &EMPTY[7..])).contains("128 hex digits"));
        for hostile in ["", ":", "sha256:", "sha256:../../../etc/passwd", "SHA256:00", "sha256:é", "é:é"] {
            assert!(hostile.parse::<Digest>().is_err(), "{hostile:?}");
        }
        // As many bytes as a digest has, and none of them a digit.
        assert!(format!("sha256:{}", "é".repeat(32)).parse::<Digest>().is_err());
        assert!(format!("sha256:{}", "../".repeat(21) + "/").parse::<Digest>().is_err());
    }

    #[test]
    fn a_refusal_never_repeats_a_long_or_unprintable_text_whole() {
        let message = "\u{1b}[2J".repeat(10_000).parse::<Digest>().expect_err("hostile").to_string();
        assert!(message.len() < 800 && !message.contains('\u{1b}'), "{message}");
        assert_eq!(excerpt("a\u{1b}\n\u{9b}\u{202e}'\"\\é"), "a\\x1b\\x0a\\x9b\\u{202e}'\"\\é");
    }

    proptest! {
        #[test]
        fn bytes_and_text_of_a_digest_say_the_same(bytes in any::<[u8; 64]>(), which in 0..3usize) {
            let algorithm = Algorithm::ALL[which];
            let bytes = &bytes[..algorithm.len_bytes()];
            let digest = Digest::from_bytes(algorithm, bytes).expect("right length");
            prop_assert_eq!(digest.to_bytes(), bytes);
            prop_assert_eq!(&digest, &digest.as_str().parse::<Digest>().expect("its own text"));
            prop_assert!(Digest::from_bytes(algorithm, &bytes[1..]).is_err());
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,80}") {
            let _ = text.parse::<Digest>();
        }
    }
}
