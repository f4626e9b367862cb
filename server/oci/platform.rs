//! Platforms: how they are written, and which of an index's manifests suits one best.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::oci::descriptor::{Descriptor, null_is_empty};
use crate::oci::digest::excerpt;

/// What an image runs on. Values parsed from a specifier are in normal form; values from an index are kept
/// as written and normalised where they are compared.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Platform {
    #[serde(default)]
    pub os: String,
    #[serde(default)]
    pub architecture: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    #[serde(default, rename = "os.version", skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    #[serde(
        default,
        rename = "os.features",
        deserialize_with = "null_is_empty",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub os_features: Vec<String>,
}

with_checked_keys!(Platform, &["os", "architecture", "variant", "os.version", "os.features"]);

/// No manifest of the index runs on the platform asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoMatch {
    pub wanted: Box<Platform>,
    /// What there is instead, in document order.
    pub available: Vec<Platform>,
}

impl Platform {
    fn new(os: &str, architecture: &str, variant: &str) -> Platform {
        let (os, architecture, variant) = (os.to_owned(), architecture.to_owned(), variant.to_owned());
        let platform =
            Platform { os, architecture, variant: Some(variant), os_version: None, os_features: Vec::new() };
        platform.normalized()
    }

    /// The platform of this machine.
    pub fn host() -> Platform {
        // Rust has one name for both orders of bytes.
        let architecture = match std::env::consts::ARCH {
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            "powerpc64" => "ppc64",
            other => other,
        };
        Platform::new(std::env::consts::OS, architecture, "")
    }

    /// The same platform under the names that Go uses for systems and architectures.
    pub fn normalized(&self) -> Platform {
        let os = match self.os.to_lowercase() {
            os if os == "macos" => "darwin".to_owned(),
            os => os,
        };
        let variant = self.variant.as_deref().unwrap_or_default().to_lowercase();
        let architecture = self.architecture.to_lowercase();
        let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
            ("i386" | "x86", _) => ("386", ""),
            ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
            ("x86_64" | "x86-64" | "amd64", other) => ("amd64", other),
            ("aarch64" | "arm64", "8" | "v8" | "v8.0") => ("arm64", ""),
            ("aarch64" | "arm64", "9" | "9.0" | "v9.0") => ("arm64", "v9"),
            ("aarch64" | "arm64", other) => ("arm64", other),
            ("armhf", _) | ("arm", "" | "7") => ("arm", "v7"),
            ("armel", _) | ("arm", "6") => ("arm", "v6"),
            ("arm", "5") => ("arm", "v5"),
            ("arm", "8") => ("arm", "v8"),
            ("powerpc64le", other) => ("ppc64le", other),
            ("loongarch64", other) => ("loong64", other),
            (architecture, other) => (architecture, other),
        };
        let mut os_features = self.os_features.clone();
        os_features.sort();
        os_features.dedup();
        Platform {
            os,
            architecture: architecture.to_owned(),
            variant: (!variant.is_empty()).then(|| variant.to_owned()),
            os_version: self.os_version.clone().filter(|version| !version.is_empty()),
            os_features,
        }
    }

    /// How well `offered` suits a machine of this platform: 0 is its own kind, larger numbers are older
    /// kinds that it still runs, `None` is one that it does not run.
    pub fn rank(&self, offered: &Platform) -> Option<usize> {
        let (wanted, offered) = (self.normalized(), offered.normalized());
        let runs = wanted.os == offered.os
            && runs_version(&wanted, &offered)
            && offered.os_features.iter().all(|feature| wanted.os_features.contains(feature));
        if !runs {
            return None;
        }
        let variant = offered.variant.as_deref().unwrap_or_default();
        kinds_run_by(&wanted).iter().position(|(arch, kind)| *arch == offered.architecture && kind == variant)
    }

    /// The entries of an index that may be for this platform: of those that name theirs, the one that suits best, among
    /// equals the first. Where none of them suits, all documents that name none: their configs will tell.
    ///
    /// Attestations (`unknown/unknown`) are never among them. Blobs that are no documents are where no entry names a
    /// platform: the index is no list of platforms then.
    pub fn candidates<'a>(&self, entries: &'a [Descriptor]) -> Vec<&'a Descriptor> {
        let named = entries.iter().filter_map(|entry| Some((entry.platform.as_ref()?, entry)));
        let named = named.filter(|(platform, _)| !platform.is_attestation());
        let ranked = named.clone().filter_map(|(platform, entry)| Some((self.rank(platform)?, entry)));
        if let Some((_, best)) = ranked.min_by_key(|(rank, _)| *rank) {
            return vec![best];
        }
        let is_list = named.count() > 0;
        let silent = entries.iter().filter(|entry| entry.platform.is_none());
        silent.filter(|entry| !is_list || entry.kind().is_document()).collect()
    }

    /// The one entry of an index that is for this platform, as far as the index itself can tell.
    ///
    /// # Errors
    /// [`NoMatch`], with what there is.
    pub fn choose<'a>(&self, entries: &'a [Descriptor]) -> Result<&'a Descriptor, NoMatch> {
        if let [only] = self.candidates(entries)[..] {
            return Ok(only);
        }
        let named = entries.iter().filter_map(|entry| entry.platform.clone());
        let available = named.filter(|platform| !platform.is_attestation()).collect();
        Err(NoMatch { wanted: Box::new(self.clone()), available })
    }

    /// Whether this marks an index entry that nothing runs: build attestations are kept so.
    pub fn is_attestation(&self) -> bool {
        self.os == "unknown" && self.architecture == "unknown"
    }
}

/// Whether Windows of one version runs an image of another. Other systems do not tell versions apart.
fn runs_version(wanted: &Platform, offered: &Platform) -> bool {
    let (Some(ours), Some(theirs)) = (&wanted.os_version, &offered.os_version) else { return true };
    if wanted.os != "windows" {
        return true;
    }
    // A version of ours that is none asks for nothing.
    let Some((ours, our_build)) = windows_build(ours) else { return true };
    let Some((theirs, their_build)) = windows_build(theirs) else { return false };
    let oldest = if our_build < WINDOWS_STABLE { our_build } else { WINDOWS_STABLE };
    ours == theirs && (oldest..=our_build).contains(&their_build)
}

/// The build from which on Windows runs the images of earlier builds, down to this one (Windows Server 2022).
const WINDOWS_STABLE: u16 = 20_348;

/// `10.0.20348.169` as what must be the same, and the build.
fn windows_build(version: &str) -> Option<((u8, u8), u16)> {
    let mut parts = version.split('.');
    let mut next = || parts.next();
    let (major, minor, build) = (next()?, next()?, next()?);
    Some(((major.parse().ok()?, minor.parse().ok()?), build.parse().ok()?))
}

/// Architectures and variants that run on `wanted`, best first: containerd's order, so that both choose
/// the same manifest.
fn kinds_run_by(wanted: &Platform) -> Vec<(&str, String)> {
    let variant = wanted.variant.as_deref().unwrap_or_default();
    let mut kinds = vec![(wanted.architecture.as_str(), variant.to_owned())];
    let below: Vec<(&'static str, String)> = match wanted.architecture.as_str() {
        "amd64" => {
            let level = number_after_v(variant).clamp(1, 9);
            let older = (2..level).rev().map(|level| ("amd64", format!("v{level}")));
            let base = (level > 1).then(|| ("amd64", String::new()));
            older.chain(base).chain([("386", String::new())]).collect()
        }
        "arm" => arm_below(number_after_v(variant)).collect(),
        "arm64" => arm64_below(variant).into_iter().chain(arm_below(9)).collect(),
        // Any other runs its own kind alone.
        _ => Vec::new(),
    };
    kinds.extend(below);
    kinds
}

/// `arm/v8` (a 64-bit machine's 32-bit mode) down to `arm/v5`, all below `newest`.
fn arm_below(newest: u32) -> impl Iterator<Item = (&'static str, String)> {
    (5..newest.clamp(5, 9)).rev().map(|level| ("arm", format!("v{level}")))
}

/// The 64-bit ARM kinds that a newer one contains: v9.k has all of v8.(k+5).
fn arm64_below(variant: &str) -> Vec<(&'static str, String)> {
    let (major, minor) = variant
        .strip_prefix('v')
        .unwrap_or("8")
        .split_once('.')
        .unwrap_or((variant.strip_prefix('v').unwrap_or("8"), "0"));
    let minor: u32 = minor.parse().unwrap_or(0).min(9);
    let named = |major: u32, minor: u32| match (major, minor) {
        (8, 0) => String::new(),
        (major, 0) => format!("v{major}"),
        (major, minor) => format!("v{major}.{minor}"),
    };
    let (v9_below, v8_upto) = match major {
        "9" => (minor, Some((minor + 5).min(9))),
        "8" => (0, minor.checked_sub(1)),
        _ => (0, None),
    };
    let v9 = (0..v9_below).rev().map(|minor| ("arm64", named(9, minor)));
    let v8 = v8_upto.into_iter().flat_map(|upto| (0..=upto).rev()).map(|minor| ("arm64", named(8, minor)));
    v9.chain(v8).collect()
}

fn number_after_v(variant: &str) -> u32 {
    variant.strip_prefix('v').and_then(|v| v.parse().ok()).unwrap_or(0)
}

/// What one bare word may name: Go's systems and architectures, as containerd knows them.
const KNOWN_ARCHITECTURES: [&str; 24] = [
    "386",
    "amd64",
    "amd64p32",
    "arm",
    "arm64",
    "arm64be",
    "armbe",
    "loong64",
    "mips",
    "mips64",
    "mips64le",
    "mips64p32",
    "mips64p32le",
    "mipsle",
    "ppc",
    "ppc64",
    "ppc64le",
    "riscv",
    "riscv64",
    "s390",
    "s390x",
    "sparc",
    "sparc64",
    "wasm",
];

const KNOWN_SYSTEMS: [&str; 18] = [
    "aix",
    "android",
    "darwin",
    "dragonfly",
    "freebsd",
    "hurd",
    "illumos",
    "ios",
    "js",
    "linux",
    "nacl",
    "netbsd",
    "openbsd",
    "plan9",
    "solaris",
    "wasip1",
    "windows",
    "zos",
];

impl FromStr for Platform {
    type Err = Error;

    /// `os[(version[+feature…])]/arch[/variant]`; one bare word is a system if it names one, else an
    /// architecture, the other half being this machine's.
    fn from_str(text: &str) -> Result<Platform> {
        let wrong = |why: &str| {
            Error::invalid(format!(
                "`{}` is not a platform: {why} (write os/arch or os/arch/variant, as in linux/arm64/v8)",
                excerpt(text)
            ))
        };
        let host = Platform::host();
        let parts: Vec<&str> = text.split('/').collect();
        let (system, arch, variant) = match parts.as_slice() {
            [word] => {
                let system = Platform::new(word.split('(').next().unwrap_or_default(), "", "").os;
                let known_arch = Platform::new("", word, "").architecture;
                if KNOWN_SYSTEMS.contains(&system.as_str()) {
                    (*word, host.architecture.as_str(), "")
                } else if KNOWN_ARCHITECTURES.contains(&known_arch.as_str()) {
                    (host.os.as_str(), *word, "")
                } else {
                    return Err(wrong("it names no system and no architecture that is known"));
                }
            }
            [system, arch] => (*system, *arch, ""),
            [system, arch, variant] if !variant.is_empty() => (*system, *arch, *variant),
            _ => return Err(wrong("it has too many parts, or an empty one")),
        };
        let (os, version) = match system.split_once('(') {
            None => (system, None),
            Some((os, rest)) => (os, Some(rest.strip_suffix(')').ok_or_else(|| wrong("a `)` is missing"))?)),
        };
        let plain = |part: &str| part.bytes().all(|c| c.is_ascii_alphanumeric() || b"_.-".contains(&c));
        if os.is_empty() || arch.is_empty() || ![os, arch, variant].into_iter().all(plain) {
            return Err(wrong("its parts are letters, digits, `_`, `.` and `-`"));
        }
        let mut platform = Platform::new(os, arch, variant);
        if let Some(version) = version {
            let unescaped = |piece: &str| {
                unescape(piece).ok_or_else(|| {
                    wrong("its version and features are letters, digits, `_`, `.`, `-` and escapes such as `%2B`")
                })
            };
            let mut pieces = version.split('+').map(unescaped);
            platform.os_version = pieces.next().transpose()?;
            platform.os_features = pieces.collect::<Result<_>>()?;
            if platform.os_features.iter().any(String::is_empty) {
                return Err(wrong("a feature has no name"));
            }
        }
        Ok(platform.normalized())
    }
}

/// The signs that a version or a feature may not have as they are: they would end it.
const ESCAPED: [char; 5] = ['%', '+', '(', ')', '/'];

fn escape(text: &str) -> String {
    let piece = |c: char| match ESCAPED.contains(&c) {
        true => format!("%{:02X}", u32::from(c)),
        false => c.to_string(),
    };
    text.chars().map(piece).collect()
}

/// The text that was escaped; `None` for signs that it may not have, and for escapes that are none.
fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let (byte, after) = match (first, after) {
            (b'%', [high, low, after @ ..]) => {
                let digits = [*high, *low];
                let digits = std::str::from_utf8(&digits).ok().filter(|d| !d.starts_with('+'))?;
                (u8::from_str_radix(digits, 16).ok()?, after)
            }
            (c, after) if c.is_ascii_alphanumeric() || b"_.-".contains(c) => (*c, after),
            _ => return None,
        };
        bytes.push(byte);
        rest = after;
    }
    String::from_utf8(bytes).ok().filter(|text| !text.contains(char::is_control))
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.os)?;
        if self.os_version.is_some() || !self.os_features.is_empty() {
            write!(f, "({}", escape(self.os_version.as_deref().unwrap_or_default()))?;
            self.os_features.iter().try_for_each(|feature| write!(f, "+{}", escape(feature)))?;
            f.write_str(")")?;
        }
        write!(f, "/{}", self.architecture)?;
        self.variant.iter().filter(|v| !v.is_empty()).try_for_each(|variant| write!(f, "/{variant}"))
    }
}

impl NoMatch {
    /// How it ends where there is nothing to choose from.
    pub const NONE_AT_ALL: &str = "the index names no platform at all";
}

impl fmt::Display for NoMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A list longer than a person reads helps nobody.
        const SHOWN: usize = 20;
        write!(f, "there is no manifest for {}", self.wanted)?;
        if self.available.is_empty() {
            return write!(f, "; {}", NoMatch::NONE_AT_ALL);
        }
        let name = |platform: &Platform| excerpt(&platform.normalized().to_string());
        let mut names: Vec<String> = self.available.iter().map(name).collect();
        names.dedup();
        write!(f, "; there is {}", names[..names.len().min(SHOWN)].join(", "))?;
        if names.len() > SHOWN { write!(f, " and {} more", names.len() - SHOWN) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests;
