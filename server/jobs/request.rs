//! What a pull is asked to do: checked once, when it comes, and then remembered in its row.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::limits;
use crate::oci::{Platform, Reference};
use crate::registry::Credential;
use crate::store::labels::{self, Labels};
use crate::store::{Caller, Reach, check_image_name};

/// A pull as a client asks for it.
#[derive(Debug, Clone, Default)]
pub struct PullRequest {
    /// As a person writes it.
    pub reference: String,
    /// As `os/architecture[/variant]`; none means the server's own.
    pub platforms: Vec<String>,
    /// Whether plain HTTP is allowed beyond loopback.
    pub insecure: bool,
    /// `None`: the full reference.
    pub image_name: Option<String>,
    pub labels: Labels,
    /// How long after its end the pull's lease goes on.
    pub keep: Option<Duration>,
    /// The credential for the registry itself, in place of what is configured.
    pub auth: Option<Credential>,
    pub credential: CredentialUse,
    /// Whether its requests are remembered.
    pub trace: bool,
}

/// Whether a pull uses the credential that is configured for its registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CredentialUse {
    #[default]
    Configured,
    /// It goes as anybody.
    None,
}

/// A checked request, with all that the job needs to run again after a restart. Equal requests have equal JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Request {
    pub reference: Reference,
    pub platforms: Vec<String>,
    pub insecure: bool,
    pub image_name: String,
    pub labels: Labels,
    pub keep_micros: Option<u64>,
    /// The lease that the caller named in place of one of the pull's own.
    pub lease: Option<String>,
    /// Where the caller may look for bytes: a pull borrows nothing that its caller could not read. `None`: everywhere.
    pub reach: Option<Vec<String>>,
    /// Marks the credential that came along, which is kept apart and sealed: pulls with different ones are not equal.
    #[serde(default)]
    pub auth: Option<String>,
    #[serde(default)]
    pub credential: CredentialUse,
    #[serde(default)]
    pub trace: bool,
}

impl Request {
    /// # Errors
    /// `Invalid` with the field at fault.
    pub fn check(caller: &Caller, asked: &PullRequest) -> Result<Request> {
        let reference: Reference = asked.reference.parse().map_err(|error: Error| error.in_field("ref"))?;
        if asked.reference.len() > limits::REFERENCE_BYTES {
            let reason = format!("a reference has at most {} bytes", limits::REFERENCE_BYTES);
            return Err(Error::invalid_field("ref", reason));
        }
        if asked.platforms.len() > limits::PULL_PLATFORMS {
            let reason = format!("a pull takes at most {} platforms", limits::PULL_PLATFORMS);
            return Err(Error::invalid_field("platforms", reason));
        }
        let mut platforms = Vec::new();
        for text in &asked.platforms {
            let platform = check_platform(text)?.to_string();
            if !platforms.contains(&platform) {
                platforms.push(platform);
            }
        }
        if asked.keep.is_some_and(|keep| keep.is_zero()) {
            return Err(Error::invalid_field("keep", "a lease lives longer than no time at all"));
        }
        if asked.keep.is_some() && caller.lease.is_some() {
            let reason =
                "the lease that the request names keeps the image; `keep` is for a lease of the pull's own";
            return Err(Error::invalid_field("keep", reason));
        }
        if let Some(auth) = &asked.auth {
            if asked.credential == CredentialUse::None {
                let reason = "a pull that goes as anybody takes no credential along";
                return Err(Error::invalid_field("auth", reason));
            }
            auth.clone().check().map_err(|error| error.in_field("auth"))?;
        }
        let image_name = asked.image_name.clone().unwrap_or_else(|| reference.to_string());
        check_image_name(&image_name).map_err(|_| {
            let reason =
                format!("an image name has 1 to {} bytes and no control characters", limits::REFERENCE_BYTES);
            Error::invalid_field("image_name", reason)
        })?;
        Ok(Request {
            reference,
            platforms,
            insecure: asked.insecure,
            image_name,
            labels: labels::new_labels(asked.labels.clone())?,
            keep_micros: asked.keep.map(|keep| u64::try_from(keep.as_micros()).unwrap_or(u64::MAX)),
            lease: caller.lease.clone(),
            reach: match &caller.reach {
                Reach::Everywhere => None,
                Reach::Only(names) => Some(names.clone()),
            },
            auth: None,
            credential: asked.credential,
            trace: asked.trace,
        })
    }

    /// What a row remembers.
    ///
    /// # Errors
    /// `Internal` when the row was written by another version, or damaged.
    pub fn from_json(text: &str) -> Result<Request> {
        use crate::error::Doing;
        serde_json::from_str(text).doing("read the request of a pull")
    }

    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("texts by text are JSON")
    }

    /// The platforms to look for in an index: those asked for, or this machine's.
    ///
    /// # Errors
    /// `Invalid` for a row that is damaged.
    pub fn wanted(&self) -> Result<Vec<Platform>> {
        if self.platforms.is_empty() {
            return Ok(vec![Platform::host()]);
        }
        self.platforms.iter().map(|text| text.parse()).collect()
    }

    pub fn keep(&self) -> Option<Duration> {
        self.keep_micros.map(Duration::from_micros)
    }

    /// On whose behalf the job works, and under which lease.
    pub fn caller(&self, namespace: &str, lease: &str) -> Caller {
        Caller {
            namespace: namespace.to_owned(),
            lease: Some(lease.to_owned()),
            reach: self.reach.clone().map_or(Reach::Everywhere, Reach::Only),
        }
    }
}

/// A platform in full: `linux` or `arm64` alone could mean more than one thing.
fn check_platform(text: &str) -> Result<Platform> {
    const LONGEST_BYTES: usize = 128;
    let part = |part: &str| {
        !part.is_empty() && part.bytes().all(|c| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'-'))
    };
    let parts = text.split('/');
    let fine =
        text.len() <= LONGEST_BYTES && matches!(parts.clone().count(), 2 | 3) && parts.clone().all(part);
    if !fine {
        let reason = "a platform is os/architecture or os/architecture/variant, as in linux/arm/v7";
        return Err(Error::invalid_field("platforms", reason));
    }
    text.parse().map_err(|error: Error| error.in_field("platforms"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(asked: PullRequest, lease: Option<&str>) -> Result<Request> {
        let lease = lease.map(str::to_owned);
        Request::check(&Caller { namespace: "default".into(), lease, reach: Reach::Everywhere }, &asked)
    }

    fn field(asked: PullRequest, lease: Option<&str>) -> String {
        match check(asked, lease) {
            Err(Error::Invalid(invalid)) => invalid.field.expect("a field"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_image_is_named_by_its_full_reference_and_a_request_survives_its_row() {
        let asked = PullRequest {
            reference: "alpine".into(),
            platforms: vec!["linux/arm64/v8".into(), "linux/arm64".into()],
            ..PullRequest::default()
        };
        let request = check(asked, None).expect("a good request");
        assert_eq!(request.image_name, "docker.io/library/alpine:latest");
        assert_eq!(request.platforms, ["linux/arm64"]);
        let again = Request::from_json(&request.to_json()).expect("its own JSON");
        assert_eq!(again.to_json(), request.to_json());
    }

    #[test]
    fn each_refusal_names_its_field() {
        let asked = |reference: &str| PullRequest { reference: reference.into(), ..PullRequest::default() };
        assert_eq!(field(asked("no spaces"), None), "ref");
        for bad in ["amd64", "linux/", "Linux/amd64", "linux/arm/v7/x", "windows(10.0)/amd64"] {
            assert_eq!(field(PullRequest { platforms: vec![bad.into()], ..asked("a") }, None), "platforms");
        }
        assert_eq!(field(PullRequest { image_name: Some("a\n".into()), ..asked("a") }, None), "image_name");
        let keep = Some(Duration::from_secs(1));
        assert_eq!(field(PullRequest { keep, ..asked("a") }, Some("mine")), "keep");
        assert_eq!(field(PullRequest { keep: Some(Duration::ZERO), ..asked("a") }, None), "keep");
    }
}
