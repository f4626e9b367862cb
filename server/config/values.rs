//! From the text of a setting to its checked value.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use super::{DatabaseUrl, Gathered, Given, Kind, SETTINGS, Shown, Source, TlsFiles};
use crate::clock::parse_duration;
use crate::error::{Error, Result};
use crate::oci::Rule;

/// The gathered texts, each asked for by its key.
pub struct Values(Gathered);

impl Values {
    pub fn new(gathered: Gathered) -> Values {
        Values(gathered)
    }

    fn given(&self, key: &'static str) -> &Given {
        self.0.get(key).expect("every setting is gathered, if only as its default")
    }

    /// The setting's text, or `None` where it is empty.
    fn present(&self, key: &'static str) -> Option<&Given> {
        Some(self.given(key)).filter(|given| !given.text.trim().is_empty())
    }

    pub fn parse<T>(&self, key: &'static str, parse: impl Fn(&str) -> Result<T>) -> Result<T> {
        let given = self.given(key);
        parse(given.text.trim()).map_err(|error| at_fault(key, given, &error.to_string()))
    }

    /// The URL itself or the content of the file that holds it, whichever has the stronger source.
    pub fn database_url(&self) -> Result<Option<DatabaseUrl>> {
        let (url, file) = (self.present("database_url"), self.present("database_url_file"));
        let (key, given, text) = match (url, file) {
            (None, None) => return Ok(None),
            (Some(url), Some(file)) if url.source == file.source => {
                let reason = format!("says the same thing as {}: give one of them", url.place);
                return Err(at_fault("database_url_file", file, &reason));
            }
            (Some(url), Some(file)) if url.source < file.source => ("database_url", url, url.text.clone()),
            (Some(url), None) => ("database_url", url, url.text.clone()),
            (_, Some(file)) => {
                let text = std::fs::read_to_string(file.text.trim())
                    .map_err(|e| at_fault("database_url_file", file, &format!("cannot be read: {e}")))?;
                ("database_url_file", file, text)
            }
        };
        let text = text.trim();
        // The text may hold a password also when it is not a URL: the message does not repeat it.
        match url::Url::parse(text) {
            Ok(url) if ["postgres", "postgresql"].contains(&url.scheme()) => {
                Ok(Some(DatabaseUrl(text.to_owned())))
            }
            Ok(_) | Err(_) => {
                Err(at_fault(key, given, "must be a URL like postgres://user:password@host/database"))
            }
        }
    }

    pub fn tls(&self) -> Result<Option<TlsFiles>> {
        match (self.present("tls_cert"), self.present("tls_key")) {
            (None, None) => Ok(None),
            (Some(cert), Some(key)) => {
                Ok(Some(TlsFiles { cert: cert.text.trim().into(), key: key.text.trim().into() }))
            }
            (Some(cert), None) => Err(at_fault("tls_cert", cert, "needs tls_key as well")),
            (None, Some(key)) => Err(at_fault("tls_key", key, "needs tls_cert as well")),
        }
    }

    pub fn shown(&self) -> Vec<Shown> {
        let shown = |setting: &super::Setting| {
            let Given { text, source, place } = self.given(setting.key).clone();
            let value = match setting.kind {
                Kind::Secret => redacted(&text),
                Kind::Text | Kind::Switch | Kind::List => text,
            };
            Shown { key: setting.key, value, source, place }
        };
        SETTINGS.iter().map(shown).collect()
    }
}

fn at_fault(key: &'static str, given: &Given, reason: &str) -> Error {
    match given.source {
        Source::Flag | Source::Environment => Error::invalid_field(key, format!("{}: {reason}", given.place)),
        Source::File | Source::Default => {
            Error::invalid_field(key, format!("{}: `{key}` {reason}", given.place))
        }
    }
}

/// A database URL without its password, wherever in it that stands; anything else is not shown at all.
pub fn redacted(text: &str) -> String {
    let hidden = || "[redacted]".to_owned();
    if text.is_empty() {
        return String::new();
    }
    let Ok(mut url) = url::Url::parse(text.trim()) else { return hidden() };
    if url.password().is_some() && url.set_password(Some("***")).is_err() {
        return hidden();
    }
    // Of the parameters only the names: libpq takes a password there too.
    if url.query().is_some() {
        let names: Vec<String> = url.query_pairs().map(|(name, _)| name.into_owned()).collect();
        url.query_pairs_mut().clear().extend_pairs(names.iter().map(|name| (name, "***")));
    }
    url.to_string()
}

pub fn address(text: &str) -> Result<SocketAddr> {
    if let Some(port) = text.strip_prefix("localhost:").and_then(|port| port.parse().ok()) {
        return Ok((Ipv4Addr::LOCALHOST, port).into());
    }
    text.parse().map_err(|_| {
        Error::invalid(format!(
            "`{text}` is not an address with a port: write 127.0.0.1:7070, [::1]:7070, or 0.0.0.0:7070 for all"
        ))
    })
}

pub fn path(text: &str) -> Result<PathBuf> {
    match text {
        "" => Err(Error::invalid("must name a path")),
        path => Ok(path.into()),
    }
}

/// Host names as they stand in a `Host` header, without a port.
pub fn hosts(text: &str) -> Result<Vec<String>> {
    let parse = |name: &str| {
        let plain = !name.contains(['/', '@', '*']) && !name.contains(char::is_whitespace);
        match name.parse::<http::uri::Authority>() {
            Ok(authority) if plain && authority.port().is_none() => Ok(name.to_ascii_lowercase()),
            Ok(_) | Err(_) => Err(Error::invalid(format!("`{name}` is not a host name without a port"))),
        }
    };
    listed(text).map(parse).collect()
}

/// Rules for registries.
pub fn rules(text: &str) -> Result<Vec<Rule>> {
    listed(text).map(str::parse).collect()
}

/// The parts of a list.
pub fn listed(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty())
}

pub fn log_filter(text: &str) -> Result<String> {
    match EnvFilter::try_new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(Error::invalid(format!("`{text}` is not a log filter: {error}"))),
    }
}

/// A length of time that is not zero.
pub fn some_time(text: &str) -> Result<Duration> {
    match parse_duration(text)? {
        Duration::ZERO => Err(Error::invalid("must be longer than nothing")),
        length => Ok(length),
    }
}

pub fn switch(text: &str) -> Result<bool> {
    one_of(text, &[("true", true), ("false", false), ("1", true), ("0", false)])
}

pub fn count(text: &str, most: usize) -> Result<usize> {
    match text.parse() {
        Ok(count) if (1..=most).contains(&count) => Ok(count),
        Ok(_) | Err(_) => Err(Error::invalid(format!("`{text}` is not a whole number from 1 to {most}"))),
    }
}

pub fn one_of<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T> {
    if let Some((_, value)) = choices.iter().find(|(name, _)| *name == text) {
        return Ok(*value);
    }
    let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
    Err(Error::invalid(format!("`{text}` is not one of {}", names.join(", "))))
}

/// Bytes as people write them: `4096`, `512MiB`, `1 TiB`, and `GB` for powers of ten.
pub fn size(text: &str) -> Result<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: Option<u64> = match unit.trim() {
        "" | "B" => Some(1),
        "kB" | "KB" => Some(1_000),
        "MB" => Some(1_000_000),
        "GB" => Some(1_000_000_000),
        "TB" => Some(1_000_000_000_000),
        "KiB" => Some(1 << 10),
        "MiB" => Some(1 << 20),
        "GiB" => Some(1 << 30),
        "TiB" => Some(1 << 40),
        _ => None,
    };
    let bytes =
        number.parse::<u64>().ok().zip(factor).and_then(|(number, factor)| number.checked_mul(factor));
    // SQL keeps sizes in 63 bits.
    bytes.filter(|bytes| (1..=i64::MAX as u64).contains(bytes)).ok_or_else(|| {
        Error::invalid(format!(
            "`{text}` is not a size in bytes: write a number with a unit, as in 512MiB or 1TiB"
        ))
    })
}
