//! References: how people name an image at a registry, in Docker's way of writing them
//! (grammar: OCI distribution spec, "Pulling manifests"; defaults: Docker's).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use url::Host;

use crate::error::{Error, Result};
use crate::oci::digest::{Digest, excerpt};

/// Longest `host/repository` taken, in bytes: what Docker and containerd take.
pub const LONGEST_NAME_BYTES: usize = 255;
/// Longest tag, in bytes (distribution spec).
pub const LONGEST_TAG_BYTES: usize = 128;
/// The tag that is meant when a reference names neither a tag nor a digest.
pub const DEFAULT_TAG: &str = "latest";

/// Said of a digest, or of its digits, in place of a name: Docker Hub is not asked for `library/sha256`.
const DIGEST_ALONE: &str = "this is a digest, which needs a repository: name@sha256:…";

/// Docker Hub's name, and the host that answers for it.
const HUB: &str = "docker.io";
const HUB_API: &str = "registry-1.docker.io";
/// All of its names: the one, that of the host, and the older one.
const HUB_NAMES: [&str; 3] = [HUB, HUB_API, "index.docker.io"];
/// Where Docker Hub keeps the images that are named by one word.
const HUB_OFFICIAL: &str = "library/";

/// A parsed reference. Prints in its full form: `docker.io/library/alpine:latest`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    host: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// The registry's name, `host[:port]` in lower case: part of the image's name.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The `host[:port]` that speaks for the registry: the same, except for Docker Hub.
    pub fn api_host(&self) -> &str {
        if self.host == HUB { HUB_API } else { &self.host }
    }

    /// The repository in the registry: safe as the path of a URL, for its grammar knows no `..`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, which decides where a tag stands beside it.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The same repository at exactly this digest.
    pub fn at(&self, digest: Digest) -> Reference {
        Reference { digest: Some(digest), ..self.clone() }
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Reference> {
        let wrong =
            |why: &str| Error::invalid(format!("`{}` is not an image reference: {why}", excerpt(text)));
        if text.is_empty() {
            return Err(wrong("it is empty"));
        }
        if text.contains("://") {
            return Err(wrong("leave out the scheme, as in registry.example.com/app:1.2"));
        }
        if is_host_and_port(text) {
            let shown = excerpt(text);
            let why = format!(
                "it names a host and its port, and no repository there ({shown}/REPOSITORY; of Docker Hub, \
                 docker.io/library/{shown})"
            );
            return Err(wrong(&why));
        }
        if text.parse::<Digest>().is_ok() {
            return Err(wrong(DIGEST_ALONE));
        }
        let (rest, digest) = match text.split_once('@') {
            None => (text, None),
            Some((rest, digest)) => (rest, Some(digest.parse::<Digest>()?)),
        };
        // A colon before the last slash belongs to a port.
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if let Some(tag) = tag {
            check_tag(tag)?;
        }
        let (host, repository) = split_host(name);
        let (host, repository) = in_full(host, repository).map_err(wrong)?;
        check_host(&host).map_err(wrong)?;
        check_repository(&repository).map_err(wrong)?;
        if host.len() + 1 + repository.len() > LONGEST_NAME_BYTES {
            return Err(wrong("host and repository are longer than 255 bytes"));
        }
        let tag = match (tag, &digest) {
            (None, None) => Some(DEFAULT_TAG),
            (tag, _) => tag,
        };
        Ok(Reference { host, repository, tag: tag.map(str::to_owned), digest })
    }
}

/// Whether it is `127.0.0.1:5000`, which would read as the image `127.0.0.1` of Docker Hub with the tag `5000`: nobody means
/// that.
fn is_host_and_port(text: &str) -> bool {
    let Some((host, port)) = text.split_once(':') else { return false };
    let is_port = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    is_port && !host.contains('/') && (host.contains('.') || host == "localhost")
}

/// The host in front, if there is one: the first component is a host when it cannot be a user's name.
fn split_host(name: &str) -> (Option<&str>, &str) {
    match name.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':', '[']) || first == "localhost" => (Some(first), rest),
        _ => (None, name),
    }
}

/// Host and repository with Docker's defaults filled in.
fn in_full(host: Option<&str>, repository: &str) -> Result<(String, String), &'static str> {
    if host.is_none() && repository.len() == 64 && repository.bytes().all(|c| c.is_ascii_hexdigit()) {
        return Err(DIGEST_ALONE);
    }
    let host = host.unwrap_or(HUB).to_ascii_lowercase();
    if !HUB_NAMES.contains(&host.as_str()) {
        return Ok((host, repository.to_owned()));
    }
    let official = if repository.contains('/') { "" } else { HUB_OFFICIAL };
    Ok((HUB.to_owned(), format!("{official}{repository}")))
}

/// Who is asked where `host[:port]` is named, however it is spelt: Docker Hub has one name, an address is its numbers, and
/// the ports that are tried without being written are none. Rules are judged by it; images keep the name they were given.
pub(super) fn spell_out(host: &str) -> (String, Option<u16>) {
    // A colon within brackets is the address's own.
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, port.parse().ok()),
        _ => (host, None),
    };
    let name = match Host::parse(name) {
        Ok(Host::Ipv4(address)) => address.to_string(),
        Ok(Host::Ipv6(address)) => address.to_canonical().to_string(),
        Ok(Host::Domain(name)) => name,
        Err(_) => name.to_owned(),
    };
    let name = if HUB_NAMES.contains(&name.as_str()) { HUB.to_owned() } else { name };
    (name, port.filter(|port| !matches!(port, 80 | 443)))
}

/// A host name, an IPv4 address or a bracketed IPv6 address, and perhaps a port.
fn check_host(host: &str) -> Result<(), &'static str> {
    let (name, port) = match host.strip_prefix('[') {
        Some(bracketed) => {
            let (address, rest) = bracketed.split_once(']').ok_or("the `]` of its host is missing")?;
            address.parse::<std::net::Ipv6Addr>().map_err(|_| "its host is not an IPv6 address")?;
            ("ipv6", if rest.is_empty() { None } else { Some(rest.strip_prefix(':').unwrap_or("")) })
        }
        None => host.split_once(':').map_or((host, None), |(name, port)| (name, Some(port))),
    };
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-')
    };
    if !name.split('.').all(label) {
        return Err("its host is not a host name");
    }
    // `parse` alone would take a sign in front.
    let numbered = |port: &str| {
        port.bytes().all(|c| c.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|number| number > 0)
    };
    if !port.is_none_or(numbered) {
        return Err("its port is not a number from 1 to 65535");
    }
    Ok(())
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/…)*` of the distribution spec.
fn check_repository(repository: &str) -> Result<(), &'static str> {
    if repository.bytes().any(|c| c.is_ascii_uppercase()) {
        return Err("the repository must be in lower case");
    }
    if repository.split('/').all(is_component) {
        return Ok(());
    }
    Err("each part of the repository is lower-case letters and digits, joined by one of . _ __ -")
}

fn is_component(component: &str) -> bool {
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let separators = component.split(word).filter(|between| !between.is_empty());
    component.starts_with(word)
        && component.ends_with(word)
        && separators.into_iter().all(|s| matches!(s, "." | "_" | "__") || s.bytes().all(|c| c == b'-'))
}

/// Refuses what cannot be a tag: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`.
///
/// # Errors
/// `Invalid`, with what a tag is.
pub fn check_tag(tag: &str) -> Result<()> {
    let word = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
    let good = tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|c| word(c) || c == b'.' || c == b'-')
        && tag.len() <= LONGEST_TAG_BYTES;
    if good {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "`{}` is not a tag: up to 128 letters, digits, `_`, `.` and `-`, not starting with `.` or `-`",
        excerpt(tag)
    )))
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)?;
        self.tag.iter().try_for_each(|tag| write!(f, ":{tag}"))?;
        self.digest.iter().try_for_each(|digest| write!(f, "@{digest}"))
    }
}

impl Serialize for Reference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Reference, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn references_are_read_as_docker_reads_them() {
        for (written, full) in [
            ("alpine", "docker.io/library/alpine:latest"),
            ("alpine:3.20", "docker.io/library/alpine:3.20"),
            ("user/app:tag", "docker.io/user/app:tag"),
            ("docker.io/alpine", "docker.io/library/alpine:latest"),
            ("index.docker.io/library/alpine", "docker.io/library/alpine:latest"),
            ("registry-1.docker.io/alpine", "docker.io/library/alpine:latest"),
            ("localhost/app", "localhost/app:latest"),
            ("localhost:5000/a/b/c:v1.0", "localhost:5000/a/b/c:v1.0"),
            ("GHCR.io/org/app__x:T", "ghcr.io/org/app__x:T"),
            ("[::1]:5000/app", "[::1]:5000/app:latest"),
            ("127.0.0.1:5000/a---b", "127.0.0.1:5000/a---b:latest"),
            ("my.app:v1", "docker.io/library/my.app:v1"),
            ("a:5000", "docker.io/library/a:5000"),
            ("docker.io/library/127.0.0.1:5000", "docker.io/library/127.0.0.1:5000"),
        ] {
            assert_eq!(written.parse::<Reference>().expect(written).to_string(), full);
        }
        let pinned: Reference = format!("r.io/p:t@{DIGEST}").parse().expect("pinned");
        assert_eq!((pinned.tag(), pinned.digest().map(Digest::as_str)), (Some("t"), Some(DIGEST)));
        let bare: Reference = format!("r.io/p@{DIGEST}").parse().expect("bare digest");
        assert_eq!((bare.tag(), bare.to_string()), (None, format!("r.io/p@{DIGEST}")));
    }

    #[test]
    fn who_is_asked_is_the_same_however_it_is_spelt() {
        for (spelling, name, port) in [
            ("ghcr.io", "ghcr.io", None),
            ("ghcr.io:443", "ghcr.io", None),
            ("ghcr.io:0443", "ghcr.io", None),
            ("ghcr.io:80", "ghcr.io", None),
            ("ghcr.io:5000", "ghcr.io", Some(5000)),
            ("registry-1.docker.io:443", "docker.io", None),
            ("2130706433:5000", "127.0.0.1", Some(5000)),
            ("0x7f.1", "127.0.0.1", None),
            ("0177.0.0.1", "127.0.0.1", None),
            ("[0:0::1]:5000", "::1", Some(5000)),
            ("[::1]", "::1", None),
            ("[::ffff:10.0.0.1]", "10.0.0.1", None),
            ("xn--", "xn--", None),
        ] {
            assert_eq!(spell_out(spelling), (name.to_owned(), port), "{spelling}");
        }
    }

    #[test]
    fn docker_hub_is_asked_at_the_host_that_answers_for_it() {
        let hub: Reference = "alpine".parse().expect("alpine");
        assert_eq!((hub.host(), hub.api_host()), ("docker.io", "registry-1.docker.io"));
        let other: Reference = "quay.io/a/b".parse().expect("quay");
        assert_eq!(other.api_host(), "quay.io");
    }

    #[test]
    fn a_reference_never_smuggles_a_path_a_query_or_a_credential() {
        for hostile in [
            "",
            "/",
            ":",
            "@",
            "a/../b",
            "r.io/../etc",
            "r.io/a//b",
            "r.io/a/",
            "r.io/.a",
            "r.io/a.",
            "a..b",
            "r.io/a?x=y",
            "r.io/a#b",
            "r.io/a%2fb",
            "https://r.io/a",
            "u:p@r.io/a",
            "r.io/a b",
            "r.io/a\n",
            "r.io/A",
            "MyUser/app",
            "r.io:0/a",
            "r.io:65536/a",
            "r.io:+80/a",
            "r.io:/a",
            "r.io:80:80/a",
            "-r.io/a",
            "r-.io/a",
            "r..io/a",
            ".io/a",
            "[::1/a",
            "[zz]:1/a",
            "[::1]x/a",
            "r.io/a:",
            "r.io/a:.t",
            "r.io/a:t/../b",
            "r.io/a@sha256:00",
            "r.io/a@../x",
            "r.io/é",
            "r_.io/a",
            "a___b",
            "a_.b",
        ] {
            assert!(hostile.parse::<Reference>().is_err(), "{hostile:?}");
        }
        for digest in [&DIGEST[7..], DIGEST, &format!("sha512:{}", "0".repeat(128))] {
            let refused = digest.parse::<Reference>().expect_err(digest).to_string();
            assert!(refused.contains("needs a repository: name@sha256:…"), "{refused}");
        }
        for image in ["sha256", "sha256:00", "sha256/app:v1", "r.io/sha256:v1"] {
            image.parse::<Reference>().expect(image);
        }
    }

    #[test]
    fn names_and_tags_have_the_lengths_that_registries_take() {
        let repository = "a".repeat(LONGEST_NAME_BYTES - "r.io/".len());
        format!("r.io/{repository}").parse::<Reference>().expect("the longest name");
        assert!(format!("r.io/{repository}a").parse::<Reference>().is_err());
        let tag = "t".repeat(LONGEST_TAG_BYTES);
        format!("r.io/a:{tag}").parse::<Reference>().expect("the longest tag");
        assert!(format!("r.io/a:{tag}t").parse::<Reference>().is_err());
    }

    proptest! {
        #[test]
        fn a_reference_is_the_reference_it_prints(
            text in "[a-z]{1,5}\\.[a-z]{2}(:[1-9][0-9]{1,3})?/[a-z0-9]{1,4}((\\.|_|__|-{1,3})[a-z0-9]{1,3}){0,2}(/[a-z]{1,4}){0,2}(:[A-Za-z0-9_][A-Za-z0-9._-]{0,10})?"
        ) {
            let parsed: Reference = text.parse().expect("made by the grammar");
            prop_assert_eq!(&parsed, &parsed.to_string().parse::<Reference>().expect("its own text"));
        }

        #[test]
        fn no_text_makes_the_reference_parser_panic(text in "[a-z./:@\\[\\]é-]{0,40}") {
            if let Ok(parsed) = text.parse::<Reference>() {
                prop_assert!(!parsed.to_string().contains(".."));
            }
        }
    }
}
