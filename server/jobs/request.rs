//! What a pull is asked to do: checked once, when it comes, and then remembered in its row.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::parse_duration;
use crate::error::{Error, Result};
use crate::limits;
use crate::oci::digest::excerpt;
use crate::oci::{Platform, Reference};
use crate::registry::Credential;
use crate::store::labels::{self, Labels};
use crate::store::{Caller, PullRow, Reach, check_image_name};

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
    /// How long after its end the pull's lease goes on, as people write it: `24h`.
    pub keep: Option<String>,
    /// The credential for the registry itself, in place of what is configured.
    pub auth: Option<Credential>,
    pub credential: CredentialUse,
    /// Whether its requests are remembered.
    pub trace: bool,
    pub selection: Selection,
    /// The most requests for blobs at once; `None`: the setting.
    pub max_concurrency: Option<u64>,
}

/// Whether a pull uses the credential that is configured for its registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CredentialUse {
    #[default]
    Configured,
    /// It goes as anybody: neither with a credential, nor with headers or certificates that may stand for one.
    None,
}

/// What of an image a pull takes, beside its platforms.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Selection {
    /// Every entry of every index, attestations included.
    pub all_platforms: bool,
    /// Documents and configs, and no layers.
    pub metadata_only: bool,
    /// Documents and configs of every platform, layers of those asked for.
    pub all_metadata: bool,
    /// The manifests that refer to what is pulled.
    pub referrers: bool,
    /// Only those of these artifact types; none means any.
    pub referrer_types: Vec<String>,
    pub foreign_layers: ForeignLayers,
    /// Whether a manifest of Docker's schema 1 is turned into an OCI manifest.
    pub convert_schema1: bool,
    /// Whether the layers become snapshots.
    pub unpack: bool,
    /// What of the layers stays once they are.
    pub layer_blobs: LayerBlobs,
}

/// What becomes of the blobs of layers that are unpacked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LayerBlobs {
    #[default]
    Keep,
    /// They go, but for those that something else needs.
    Drop,
}

/// What is done about layers whose distribution is restricted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ForeignLayers {
    #[default]
    Skip,
    /// They are fetched from the registry, or else from where the image says that they are.
    Fetch,
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
    /// Not written where it was not asked for: such requests are equal to those of an earlier version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_concurrency: Option<usize>,
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
    /// Left out where it is the usual one: a row that was written before there was a choice is equal to one of now.
    #[serde(default, skip_serializing_if = "is_usual")]
    pub selection: Selection,
}

fn is_usual(selection: &Selection) -> bool {
    *selection == Selection::default()
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
            let platform = check_platform("platforms", text)?.to_string();
            if !platforms.contains(&platform) {
                platforms.push(platform);
            }
        }
        let selection = check_selection(&asked.selection, &platforms)?;
        let keep_micros = check_keep(asked.keep.as_deref(), caller)?;
        if let Some(auth) = &asked.auth {
            if asked.credential == CredentialUse::None {
                let reason = "a pull that goes as anybody takes no credential along";
                return Err(Error::invalid_field("auth", reason));
            }
            auth.clone().check().map_err(|error| error.in_field("auth"))?;
        }
        let max_concurrency = asked.max_concurrency.map(check_concurrency).transpose()?;
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
            keep_micros,
            max_concurrency,
            lease: caller.lease.clone(),
            reach: match &caller.reach {
                Reach::Everywhere => None,
                Reach::Only(names) => Some(names.clone()),
            },
            auth: None,
            credential: asked.credential,
            trace: asked.trace,
            selection,
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

    /// What the columns of a row say of a request that cannot be read.
    pub fn of_columns(row: &PullRow) -> Request {
        let unknown = || "unknown.invalid/unknown".parse().expect("a reference: it is written here");
        Request {
            reference: row.reference.parse().unwrap_or_else(|_: Error| unknown()),
            platforms: Vec::new(),
            insecure: false,
            image_name: row.image_name.clone(),
            labels: labels::from_json(&row.labels),
            keep_micros: None,
            max_concurrency: None,
            lease: None,
            reach: None,
            auth: None,
            credential: CredentialUse::default(),
            trace: false,
            selection: Selection::default(),
        }
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

/// How long a job's own lease goes on after it, in microseconds.
pub(super) fn check_keep(asked: Option<&str>, caller: &Caller) -> Result<Option<u64>> {
    let Some(text) = asked else { return Ok(None) };
    let keep = parse_duration(text).ok().filter(|keep| !keep.is_zero()).ok_or_else(|| {
        let shown = excerpt(text);
        let reason = "is a length of time from 1s to ten years, as in 90s, 15m, 24h or 7d";
        Error::invalid_field("keep", format!("`keep` {reason}; `{shown}` is none"))
    })?;
    if caller.lease.is_some() {
        let reason =
            "the lease that the request names keeps the image; `keep` is for a lease of the job's own";
        return Err(Error::invalid_field("keep", reason));
    }
    Ok(Some(u64::try_from(keep.as_micros()).unwrap_or(u64::MAX)))
}

fn check_concurrency(asked: u64) -> Result<usize> {
    let most = limits::PULL_MAX_CONCURRENCY;
    usize::try_from(asked).ok().filter(|asked| (1..=most).contains(asked)).ok_or_else(|| {
        Error::invalid_field("max_concurrency", format!("a pull makes 1 to {most} requests at once"))
    })
}

/// A platform that something may run on, as the field of this name asks for it.
pub(super) fn check_platform(field: &str, text: &str) -> Result<Platform> {
    const LONGEST_BYTES: usize = 128;
    let refused = |reason: &str| Error::invalid_field(field, reason);
    if text.len() > LONGEST_BYTES {
        return Err(refused("a platform is not so long a text: write os/architecture, as in linux/arm64"));
    }
    let platform: Platform = text.parse().map_err(|error: Error| error.in_field(field))?;
    if platform.is_attestation() {
        return Err(refused(
            "nothing runs on unknown/unknown: what has that platform comes with `all_platforms` or `all_metadata`",
        ));
    }
    Ok(platform)
}

/// The selection with its types in one order, without those that stand there twice.
fn check_selection(asked: &Selection, platforms: &[String]) -> Result<Selection> {
    let refuse = |field: &str, reason: &str| Err(Error::invalid_field(field, reason));
    if asked.all_platforms && !platforms.is_empty() {
        return refuse("all_platforms", "either all platforms are asked for, or those in `platforms`");
    }
    if asked.convert_schema1 && asked.metadata_only {
        return refuse(
            "convert_schema1",
            "to convert a manifest its layers are needed, which `metadata_only` leaves out",
        );
    }
    if asked.unpack && asked.metadata_only {
        return refuse(
            "unpack",
            "to unpack an image its layers are needed, which `metadata_only` leaves out",
        );
    }
    if asked.layer_blobs == LayerBlobs::Drop && !asked.unpack {
        return refuse("layer_blobs", "layers are dropped once they are unpacked, which `unpack` asks for");
    }
    if !asked.referrer_types.is_empty() && !asked.referrers {
        return refuse(
            "referrer_types",
            "it says which of the `referrers` are meant, and these are not asked for",
        );
    }
    let mut selection = asked.clone();
    selection.referrer_types.sort();
    selection.referrer_types.dedup();
    if selection.referrer_types.len() > limits::REFERRER_TYPES {
        let reason = format!("a pull names at most {} artifact types", limits::REFERRER_TYPES);
        return refuse("referrer_types", &reason);
    }
    for artifact_type in &selection.referrer_types {
        labels::check_media_type(artifact_type)
            .map_err(|error| Error::invalid_field("referrer_types", error.to_string()))?;
    }
    Ok(selection)
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
    fn platforms_are_written_as_containerd_takes_them() {
        let written = ["arm64", "Linux/AMD64", "windows(10.0.17763+win32k)/amd64", "linux/arm/v7"];
        let platforms = written.map(str::to_owned).to_vec();
        let asked = PullRequest { reference: "alpine".into(), platforms, ..PullRequest::default() };
        let os = Platform::host().os;
        assert_eq!(
            check(asked, None).expect("a good request").platforms,
            [&format!("{os}/arm64"), "linux/amd64", "windows(10.0.17763+win32k)/amd64", "linux/arm/v7"]
        );
    }

    #[test]
    fn a_row_from_before_there_was_a_choice_is_equal_to_one_of_now() {
        let asked = PullRequest { reference: "alpine".into(), ..PullRequest::default() };
        let usual = check(asked.clone(), None).expect("a good request").to_json();
        assert!(!usual.contains("selection"), "{usual}");
        assert_eq!(Request::from_json(&usual).expect("its own JSON").selection, Selection::default());
        let types = ["b/b", "a/a", "b/b"].map(str::to_owned).to_vec();
        let selection = Selection { referrers: true, referrer_types: types, ..Selection::default() };
        let request = check(PullRequest { selection, ..asked }, None).expect("a good request");
        let again = Request::from_json(&request.to_json()).expect("its own JSON");
        assert_eq!(again.selection.referrer_types, ["a/a", "b/b"]);
        // A later field is one that an earlier row does not have.
        let partly = usual.replacen('{', r#"{"selection":{"metadata_only":true},"#, 1);
        assert!(Request::from_json(&partly).expect("a row").selection.metadata_only);
    }

    #[test]
    fn each_refusal_names_its_field() {
        let asked = |reference: &str| PullRequest { reference: reference.into(), ..PullRequest::default() };
        assert_eq!(field(asked("no spaces"), None), "ref");
        for bad in
            ["beos", "linux/", "linux/arm/v7/x", "windows(10.0/amd64", "unknown/unknown", &"a/".repeat(99)]
        {
            assert_eq!(field(PullRequest { platforms: vec![bad.into()], ..asked("a") }, None), "platforms");
        }
        let of = |platforms: &[&str], selection: Selection| {
            let platforms = platforms.iter().map(|&platform| platform.to_owned()).collect();
            field(PullRequest { platforms, selection, ..asked("a") }, None)
        };
        let usual = Selection::default;
        assert_eq!(of(&["linux"], Selection { all_platforms: true, ..usual() }), "all_platforms");
        let converting = Selection { metadata_only: true, convert_schema1: true, ..usual() };
        assert_eq!(of(&[], converting), "convert_schema1");
        let types = |types: &[&str]| types.iter().map(|&kind| kind.to_owned()).collect();
        let unasked = Selection { referrer_types: types(&["a/b"]), ..usual() };
        assert_eq!(of(&[], unasked), "referrer_types");
        let many = (0..=limits::REFERRER_TYPES).map(|number| format!("a/{number}")).collect();
        for bad in [types(&["sbom"]), types(&[""]), many] {
            let selection = Selection { referrers: true, referrer_types: bad, ..usual() };
            assert_eq!(of(&[], selection), "referrer_types");
        }
        assert_eq!(field(PullRequest { image_name: Some("a\n".into()), ..asked("a") }, None), "image_name");
        let keep = Some("1s".to_owned());
        assert_eq!(field(PullRequest { keep, ..asked("a") }, Some("mine")), "keep");
        assert_eq!(field(PullRequest { keep: Some("0s".to_owned()), ..asked("a") }, None), "keep");
        for bad in [0, 65, u64::MAX] {
            let asked = PullRequest { max_concurrency: Some(bad), ..asked("a") };
            assert_eq!(field(asked, None), "max_concurrency");
        }
    }
}
