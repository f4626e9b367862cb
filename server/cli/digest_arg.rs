//! A digest as a person types it: whole, or as many of its first digits as tell it apart.

use super::context::Context;
use super::failure::{Exit, Failure};
use super::list::{Listing, Pages, What};
use crate::oci::Digest;

/// Fewer digits than this are a guess.
const FEWEST: usize = 6;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DigestArg {
    Whole(Digest),
    Prefix { algorithm: Option<String>, hex: String },
}

/// For clap: whole digests, and prefixes of six or more digits with or without their algorithm.
///
/// # Errors
/// What is wrong with it, for clap to print.
pub fn parse_digest_arg(text: &str) -> Result<DigestArg, String> {
    if let Ok(digest) = text.parse() {
        return Ok(DigestArg::Whole(digest));
    }
    let (algorithm, hex) = match text.split_once(':') {
        Some((algorithm, hex)) => (Some(algorithm), hex),
        None => (None, text),
    };
    if algorithm.is_some_and(|algorithm| !["sha256", "sha384", "sha512"].contains(&algorithm)) {
        return Err("the algorithm of a digest is sha256, sha384 or sha512".to_owned());
    }
    if hex.len() > 128 || !hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return Err("a digest is written in lower-case hexadecimal digits".to_owned());
    }
    if hex.len() < FEWEST {
        return Err(format!("give at least {FEWEST} digits of the digest"));
    }
    Ok(DigestArg::Prefix { algorithm: algorithm.map(str::to_owned), hex: hex.to_owned() })
}

impl DigestArg {
    /// The digest that is meant: a prefix is looked up in this namespace's content.
    ///
    /// # Errors
    /// `NotFound` when nothing begins so, `Usage` when several do.
    pub async fn resolve(&self, context: &Context) -> Result<String, Failure> {
        self.look_up(context, What::Content).await
    }

    async fn look_up(&self, context: &Context, what: What) -> Result<String, Failure> {
        let DigestArg::Prefix { algorithm, hex } = self else { return Ok(self.to_string()) };
        let (text, field) = (self.to_string(), what.id());
        let doing = format!("look up the digest `{text}`");
        let filters = vec![format!("{field}==\"{text}\""), filter(field, algorithm.as_deref(), hex)];
        let listing = Listing::first(3, filters);
        let found = Pages::new(&context.client, what, &listing).next().await?.unwrap_or_default();
        let ids: Vec<&str> = found.iter().filter_map(|item| item.get(field)?.as_str()).collect();
        match ids.as_slice() {
            [] => {
                let (why, hint) = (format!("no {what} begins so"), format!("orlop ls {what}"));
                Err(Failure::new(Exit::NotFound, doing, why).hint(hint))
            }
            [one] => Ok((*one).to_owned()),
            // What has the very name is meant.
            several if several.contains(&text.as_str()) => Ok(text),
            several => {
                let why = format!("it is the beginning of several: {}", several.join(", "));
                Err(Failure::usage(doing, why).hint("give more digits"))
            }
        }
    }
}

/// The key of a snapshot: as it is typed, or where that is the beginning of a digest, as lists show them, the one key that
/// begins so.
///
/// # Errors
/// `NotFound` when nothing begins so, `Usage` when several do.
pub async fn resolve_key(context: &Context, text: &str) -> Result<String, Failure> {
    match parse_digest_arg(text) {
        Ok(begun @ DigestArg::Prefix { .. }) => begun.look_up(context, What::Snapshots).await,
        Ok(DigestArg::Whole(_)) | Err(_) => Ok(text.to_owned()),
    }
}

/// Only digits and letters come in here, so nothing in the pattern needs an escape.
fn filter(field: &str, algorithm: Option<&str>, hex: &str) -> String {
    format!("{field}~=\"^{}:{hex}\"", algorithm.unwrap_or("[a-z0-9]+"))
}

impl std::fmt::Display for DigestArg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DigestArg::Whole(digest) => digest.fmt(f),
            DigestArg::Prefix { algorithm: Some(algorithm), hex } => write!(f, "{algorithm}:{hex}"),
            DigestArg::Prefix { algorithm: None, hex } => f.write_str(hex),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_six_digits_or_more_with_or_without_its_algorithm() {
        let whole = format!("sha256:{}", "a".repeat(64));
        assert!(matches!(parse_digest_arg(&whole), Ok(DigestArg::Whole(_))));
        let prefix = |algorithm: Option<&str>| {
            Ok(DigestArg::Prefix { algorithm: algorithm.map(str::to_owned), hex: "2cf24d".to_owned() })
        };
        assert_eq!(parse_digest_arg("2cf24d"), prefix(None));
        assert_eq!(parse_digest_arg("sha256:2cf24d"), prefix(Some("sha256")));
        for bad in ["2cf24", "2CF24D", "md5:2cf24d", "sha256:", "alpine", "2cf24d.*"] {
            assert!(parse_digest_arg(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_prefix_is_asked_for_from_the_beginning() {
        assert_eq!(filter("digest", None, "2cf24d"), "digest~=\"^[a-z0-9]+:2cf24d\"");
        assert_eq!(filter("key", Some("sha512"), "2cf24d"), "key~=\"^sha512:2cf24d\"");
    }
}
