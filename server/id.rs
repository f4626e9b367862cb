//! Ids that the server makes: a prefix that says what it names, then 26 characters that sort by time.

use std::fmt;
use std::ops::Deref;
use std::str::FromStr;

use serde::{Deserialize, Deserializer};

use crate::clock::Time;
use crate::error::{Error, Result};
use crate::limits;

/// Crockford's base 32, lower case: no letter that reads as a digit.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// A new id such as `ing_01jd3x…`: 48 bits of milliseconds, then 80 random bits (the ULID layout).
pub fn new_id(prefix: &str, now: Time) -> String {
    let millis = u128::try_from(now.0 / 1_000).unwrap_or(0) & ((1 << 48) - 1);
    let mut random = [0u8; 16];
    random[6..].copy_from_slice(&random_bytes::<10>());
    let value = (millis << 80) | u128::from_be_bytes(random);
    let mut id = String::with_capacity(prefix.len() + 27);
    id.push_str(prefix);
    id.push('_');
    for at in (0..26).rev() {
        id.push(char::from(ALPHABET[(value >> (at * 5)) as usize & 31]));
    }
    id
}

/// Random bytes from the operating system.
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0u8; N];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}

/// Bytes as text: two digits for each, in lower case.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Types of the ids that callers send: text that has passed its check once.
macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident $fits:expr, $form:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $name(String);

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<$name> {
                let fits: fn(&str) -> bool = $fits;
                if fits(text) { Ok($name(text.to_owned())) } else { Err(Error::invalid($form)) }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$name, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }

        impl Deref for $name {
            type Target = str;

            fn deref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}

ids! {
    ImageId |text| is_made("img", text), "an image's id is `img_` and 26 characters";
    IngestId |text| is_made("ing", text), "an ingest's id is `ing_` and 26 characters";
    PullId |text| is_made("pull", text), "a pull's id is `pull_` and 26 characters";
    UnpackId |text| is_made("unpack", text), "an unpack's id is `unpack_` and 26 characters";
    TokenId |text| is_made("tok", text), "a token's id is `tok_` and 26 characters";
    /// Clients may choose it.
    LeaseId is_chosen, "a lease's id is 1 to 255 letters, digits or any of `._:@+-`";
    /// Clients choose it; of an unpacked layer it is the chain ID.
    SnapshotKey is_chosen, "a snapshot's key is 1 to 255 letters, digits or any of `._:@+-`";
}

/// Whether [`new_id`] could have made it.
fn is_made(prefix: &str, text: &str) -> bool {
    let own = text.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('_'));
    own.is_some_and(|own| own.len() == 26 && own.bytes().all(|byte| ALPHABET.contains(&byte)))
}

fn is_chosen(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._:@+-".contains(&byte);
    (1..=limits::ID_BYTES).contains(&text.len()) && text.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_taken_if_the_server_could_have_made_it() {
        let id = new_id("img", Time(7));
        assert_eq!(id.parse::<ImageId>().expect("our own").to_string(), id);
        for bad in
            ["", "img_", "img", &id[..29], &format!("{id}0"), &id.to_uppercase(), &id.replace("img", "ing")]
        {
            assert!(bad.parse::<ImageId>().is_err(), "{bad}");
        }
        assert!(new_id("ing", Time(7)).parse::<IngestId>().is_ok());
        assert!(new_id("pull", Time(7)).parse::<PullId>().is_ok());
        assert!(new_id("unpack", Time(7)).parse::<UnpackId>().is_ok());
        assert!(new_id("tok", Time(7)).parse::<TokenId>().is_ok());
    }

    #[test]
    fn a_client_chooses_a_lease_id_that_fits_a_file_name() {
        for good in ["a", "nightly-build", "A.b_c:d@e+f-g", &"x".repeat(255)] {
            assert!(good.parse::<LeaseId>().is_ok(), "{good}");
        }
        for bad in ["", "a b", "a/b", "ä", "a\0", &"x".repeat(256)] {
            assert!(bad.parse::<LeaseId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn ids_sort_by_time_and_never_repeat() {
        let (early, late) = (new_id("ing", Time(1_000_000_000)), new_id("ing", Time(2_000_000_000)));
        assert!(early < late, "{early} {late}");
        assert_eq!(early.len(), 30);
        assert_ne!(new_id("ing", Time(7)), new_id("ing", Time(7)));
    }
}
