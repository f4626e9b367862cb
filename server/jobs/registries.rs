//! How registries are reached: what operators wrote down, by the API or in files, and what a pull brings along.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use sha2::{Digest as _, Sha256};
use url::Url;

use crate::clock::Time;
use crate::error::{Conflict, Doing, Error, Result};
use crate::id::hex;
use crate::jobs::Jobs;
use crate::jobs::event::LogLevel;
use crate::jobs::request::CredentialUse;
use crate::jobs::run::{Ended, Job};
use crate::jobs::trace::TraceLine;
use crate::oci::{Reference, Rules};
use crate::registry::{
    Capability, ClientCertificate, Credential, DockerConfig, Endpoint, Found, HostSettings, HostsDirs, Probe,
    RegistrySettings, Repository, Secret, Told, Trace, Transport,
};
use crate::store::{Expected, IfMatch, StoredRegistry, tag_of};

/// The name of the settings that are for registries without any of their own.
const FOR_ALL: &str = "_default";

/// What of the server's configuration says how registries are reached.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    pub hosts: Arc<HostsDirs>,
    pub docker: DockerConfig,
    pub rules: Arc<Rules>,
}

/// New settings of a registry, as a client sends them.
#[derive(Debug, Clone, Default)]
pub struct RegistryChange {
    pub server: HostChange,
    pub mirrors: Vec<HostChange>,
}

/// New settings of one host. A secret that is not mentioned stays as it is.
#[derive(Debug, Clone, Default)]
pub struct HostChange {
    pub url: Option<Url>,
    /// `None`: all.
    pub capabilities: Option<BTreeSet<Capability>>,
    pub ca: Vec<String>,
    pub client_certificate: Option<String>,
    pub client_key: Change<Secret>,
    pub skip_verify: bool,
    pub headers: Change<BTreeMap<String, Vec<Secret>>>,
    pub override_path: bool,
    pub connect_timeout: Option<Duration>,
    pub credential: Change<Credential>,
    pub token_hosts: Vec<String>,
}

/// What becomes of something that is written and never read.
#[derive(Debug, Clone, Default)]
pub enum Change<T> {
    #[default]
    Keep,
    Remove,
    Set(T),
}

impl<T> Change<T> {
    fn over(self, before: Option<T>) -> Option<T> {
        match self {
            Change::Keep => before,
            Change::Remove => None,
            Change::Set(new) => Some(new),
        }
    }
}

impl RegistryChange {
    fn over(self, before: Option<RegistrySettings>) -> Result<RegistrySettings> {
        let before = before.unwrap_or_default();
        let server = self.server.over(Some(&before.server), "server").map_err(own_field)?;
        let mut mirrors = Vec::new();
        for (at, mirror) in self.mirrors.into_iter().enumerate() {
            let same = before.mirrors.iter().find(|old| is_same_host(old, &mirror));
            mirrors.push(mirror.over(same, &format!("mirrors[{at}]"))?);
        }
        RegistrySettings { server, mirrors }.check().map_err(own_field)
    }
}

/// The fields of the registry's own host stand at the top of what a client sends.
fn own_field(error: Error) -> Error {
    match error {
        Error::Invalid(mut invalid) => {
            let own = invalid.field.as_deref().and_then(|field| field.strip_prefix("server."));
            invalid.field = own.map(str::to_owned).or(invalid.field);
            Error::Invalid(invalid)
        }
        other => other,
    }
}

/// Secrets are for the host that they were given for: another URL is another host. A slash at its end makes no other, for
/// it is not shown.
fn is_same_host(before: &HostSettings, now: &HostChange) -> bool {
    before.url.clone().map(without_slash) == now.url.clone().map(without_slash)
}

fn without_slash(mut url: Url) -> Url {
    let path = url.path().trim_end_matches('/').to_owned();
    url.set_path(&path);
    url
}

impl HostChange {
    fn over(self, before: Option<&HostSettings>, field: &str) -> Result<HostSettings> {
        let before = before.filter(|before| is_same_host(before, &self));
        let old_key = before.and_then(|host| host.client.clone()).map(|own| own.key);
        let wrong = |part: &str, why: &str| Err(Error::invalid_field(format!("{field}.{part}"), why));
        let client = match (self.client_certificate, self.client_key) {
            (None, Change::Set(_)) => {
                return wrong("client_certificate", "a client's key is of no use without its certificate");
            }
            (None, Change::Keep | Change::Remove) => None,
            (Some(certificate), key) => match key.over(old_key) {
                Some(key) => Some(ClientCertificate { certificate, key }),
                None => return wrong("client_key", "a client certificate needs its key"),
            },
        };
        Ok(HostSettings {
            url: self.url.map(without_slash),
            capabilities: self.capabilities.unwrap_or_else(|| Capability::ALL.into()),
            ca: self.ca,
            client,
            skip_verify: self.skip_verify,
            headers: self.headers.over(before.map(|host| host.headers.clone())).unwrap_or_default(),
            override_path: self.override_path,
            connect_timeout: self.connect_timeout,
            credential: self.credential.over(before.and_then(|host| host.credential.clone())),
            token_hosts: self.token_hosts,
        })
    }
}

/// The settings of a registry as they may be shown.
#[derive(Debug, Clone, Serialize)]
pub struct RegistryView {
    pub host: String,
    pub source: RegistrySource,
    /// Whether the settings can be opened: not so when they were sealed in another data directory.
    pub readable: bool,
    #[serde(flatten)]
    pub server: HostView,
    pub mirrors: Vec<HostView>,
    pub created_at: Option<Time>,
    pub updated_at: Option<Time>,
}

impl RegistryView {
    /// Names this state of the settings. A file has none but what it says.
    pub fn tag(&self) -> String {
        self.updated_at.map_or_else(
            || {
                let shown = serde_json::to_vec(self).expect("texts are JSON");
                hex(&Sha256::digest(shown)[..16])
            },
            tag_of,
        )
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RegistrySource {
    Api,
    File,
}

/// One host as it may be shown.
#[derive(Debug, Clone, Serialize)]
pub struct HostView {
    pub url: Option<String>,
    pub capabilities: BTreeSet<Capability>,
    pub ca: Vec<String>,
    pub client_certificate: Option<String>,
    pub skip_verify: bool,
    /// Without their values.
    pub header_names: Vec<String>,
    pub override_path: bool,
    /// In seconds.
    pub connect_timeout: Option<f64>,
    pub credential: Option<CredentialView>,
    pub token_hosts: Vec<String>,
}

/// That there is a credential, and for whom.
#[derive(Debug, Clone, Serialize)]
pub struct CredentialView {
    pub kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
}

impl HostView {
    fn of(host: &HostSettings) -> HostView {
        HostView {
            url: host.url.as_ref().map(|url| url.as_str().trim_end_matches('/').to_owned()),
            capabilities: host.capabilities.clone(),
            ca: host.ca.clone(),
            client_certificate: host.client.as_ref().map(|own| own.certificate.clone()),
            skip_verify: host.skip_verify,
            header_names: host.headers.keys().cloned().collect(),
            override_path: host.override_path,
            connect_timeout: host.connect_timeout.map(|time| time.as_secs_f64()),
            credential: host.credential.as_ref().map(CredentialView::of),
            token_hosts: host.token_hosts.clone(),
        }
    }
}

impl CredentialView {
    fn of(credential: &Credential) -> CredentialView {
        let (kind, username) = match credential {
            Credential::Password { username, .. } => ("password", Some(username.clone())),
            Credential::IdentityToken { .. } => ("identity_token", None),
            Credential::RegistryToken { .. } => ("registry_token", None),
        };
        CredentialView { kind, username }
    }
}

fn view_of(host: String, source: RegistrySource, settings: Option<&RegistrySettings>) -> RegistryView {
    let nothing = RegistrySettings::default();
    let shown = settings.unwrap_or(&nothing);
    RegistryView {
        host,
        source,
        readable: settings.is_some(),
        server: HostView::of(&shown.server),
        mirrors: shown.mirrors.iter().map(HostView::of).collect(),
        created_at: None,
        updated_at: None,
    }
}

fn view_of_stored(stored: &StoredRegistry) -> RegistryView {
    let settings = read_settings(stored).ok();
    RegistryView {
        created_at: Some(stored.created_at),
        updated_at: Some(stored.updated_at),
        ..view_of(stored.host.clone(), RegistrySource::Api, settings.as_ref())
    }
}

/// # Errors
/// `Invalid` when they were sealed in another data directory, or written by another version.
fn read_settings(stored: &StoredRegistry) -> Result<RegistrySettings> {
    let host = &stored.host;
    let Some(text) = &stored.settings else {
        return Err(Error::invalid(format!(
            "the settings of registry {host} were sealed in another data directory: put them again, with their secrets, \
             or bring back its secret.key"
        )));
    };
    serde_json::from_str(text).map_err(|_| {
        Error::invalid(format!("the settings of registry {host} are of another version: put them again"))
    })
}

/// A registry's name as references have it: `docker.io` for Docker Hub by any of its names.
fn parse_name(host: &str) -> Result<String> {
    if host == FOR_ALL {
        return Ok(host.to_owned());
    }
    let named = host.contains(['.', ':', '[']) || host == "localhost";
    let parsed = format!("{host}/x").parse::<Reference>().ok().filter(|_| named && !host.contains('/'));
    let wrong = || {
        let reason = "a registry is host or host:port, as in ghcr.io, or _default for those without settings";
        Error::invalid_field("host", reason)
    };
    Ok(parsed.ok_or_else(wrong)?.host().to_owned())
}

impl Jobs {
    /// Every registry that has settings, of the API and of files, in the order of their names. Where both know one, the
    /// API's count and are shown.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn list_registries(&self) -> Result<Vec<RegistryView>> {
        let stored = self.0.store.list_registries().await?;
        let mut all: BTreeMap<String, RegistryView> =
            stored.iter().map(|stored| (stored.host.clone(), view_of_stored(stored))).collect();
        for name in self.on_files(HostsDirs::names).await? {
            // Another directory than a registry's is looked for by nobody.
            if all.contains_key(&name) || parse_name(&name).ok().as_ref() != Some(&name) {
                continue;
            }
            if let Some(view) = self.view_of_file(&name).await? {
                all.insert(name, view);
            }
        }
        Ok(all.into_values().collect())
    }

    /// What the directory of this name says, if there is one.
    async fn view_of_file(&self, name: &str) -> Result<Option<RegistryView>> {
        let settings = match self.find_in_files(name).await {
            Ok(found) => match found.filter(|found| found.named || name == FOR_ALL) {
                Some(found) => Some(found.settings),
                None => return Ok(None),
            },
            // Which of the directories it is that cannot be used, a test or a pull tells.
            Err(Error::Invalid(_)) => {
                let wanted = name.to_owned();
                if !self.on_files(move |hosts| Ok(hosts.names()?.contains(&wanted))).await? {
                    return Ok(None);
                }
                None
            }
            Err(error) => return Err(error),
        };
        Ok(Some(view_of(name.to_owned(), RegistrySource::File, settings.as_ref())))
    }

    /// # Errors
    /// `Invalid` for what is no registry's name, or a hosts directory that cannot be listed; `NotFound`; `Unavailable`.
    pub async fn find_registry(&self, host: &str) -> Result<RegistryView> {
        let host = parse_name(host)?;
        if let Some(stored) = self.0.store.find_registry(&host).await? {
            return Ok(view_of_stored(&stored));
        }
        self.view_of_file(&host).await?.ok_or_else(|| Error::not_found("registry", &host))
    }

    /// Writes settings; whether they are the first of the API for that registry.
    ///
    /// # Errors
    /// `Invalid` with the field; `PreconditionFailed`; `Conflict` (state) with too many, or when the settings that stand
    /// cannot be read and `expected` does not name them; `Unavailable`.
    pub async fn put_registry(
        &self,
        host: &str,
        change: RegistryChange,
        expected: Expected,
    ) -> Result<(RegistryView, bool)> {
        let host = parse_name(host)?;
        let for_all = host == FOR_ALL;
        let insists = matches!(expected, Expected::Match(IfMatch::Any | IfMatch::Tags(_)));
        let merge = Box::new(move |before: Option<StoredRegistry>| {
            let before = match before.map(|stored| read_settings(&stored)) {
                Some(Ok(settings)) => Some(settings),
                // What cannot be read is lost with this change.
                Some(Err(_)) if insists => None,
                Some(Err(error)) => {
                    let reason = format!("{error}; a change with `If-Match` replaces them, secrets and all");
                    return Err(Error::Conflict(Conflict::State { reason }));
                }
                None => None,
            };
            let settings = change.over(before)?;
            if for_all {
                settings.check_for_all().map_err(own_field)?;
            }
            Ok(serde_json::to_string(&settings).expect("texts are JSON"))
        });
        let (stored, is_new) = self.0.store.put_registry(&host, expected, merge).await?;
        Ok((view_of_stored(&stored), is_new))
    }

    /// # Errors
    /// `Invalid`; `NotFound`; `PreconditionFailed`; `Unavailable`.
    pub async fn delete_registry(&self, host: &str, if_match: IfMatch) -> Result<()> {
        self.0.store.delete_registry(&parse_name(host)?, if_match).await
    }

    /// Tries each host of a registry, with settings or without, as a pull would.
    ///
    /// # Errors
    /// `Invalid` for the name of the registry or the repository; `Refused` by the operator's lists; `Unavailable`.
    pub async fn test_registry(&self, host: &str, repository: Option<&str>) -> Result<Vec<Probe>> {
        let host = parse_name(host)?;
        if host == FOR_ALL {
            return Err(Error::invalid_field("host", "_default is for every registry: name one to test"));
        }
        let wrong = |error: Error| error.in_field("repository");
        if repository.is_some_and(|name| name.contains([':', '@'])) {
            return Err(wrong(Error::invalid(
                "a repository is named without a tag or digest, as in owner/app",
            )));
        }
        let reference: Reference = format!("{host}/{}", repository.unwrap_or("x")).parse().map_err(wrong)?;
        let endpoints = self.endpoints(&reference, Transport::Verified, Own::Configured).await?;
        // As it is asked for: Docker Hub's `alpine` is `library/alpine`.
        let repository = repository.map(|_| reference.repository());
        let probes = endpoints.iter().map(|endpoint| self.0.registry.probe(endpoint, repository));
        Ok(futures_util::future::join_all(probes).await)
    }

    /// Where `reference` is asked, in order, and with which credentials.
    ///
    /// # Errors
    /// `Refused` by the operator's lists; `Invalid` for a file that cannot be used, or settings that were sealed in
    /// another data directory; `Unavailable`.
    pub(super) async fn endpoints(
        &self,
        reference: &Reference,
        transport: Transport,
        own: Own,
    ) -> Result<Vec<Endpoint>> {
        self.0.settings.sources.rules.check(reference)?;
        let addresses = self.0.settings.addresses;
        let mut endpoints = match self.settings_for(reference.host()).await? {
            Some(found) => found.settings.endpoints(reference, addresses, found.named),
            None => vec![Endpoint::of(reference, Transport::Verified, addresses)],
        };
        for endpoint in &mut endpoints {
            let credential = match (&own, endpoint.is_mirror()) {
                (Own::Nobody, _) | (Own::Given(_), false) => None,
                (Own::Given(_) | Own::Configured, _) => match endpoint.credential() {
                    Some(configured) => Some(configured.clone()),
                    None => self.credential_for(endpoint.authority(), reference).await?,
                },
            };
            endpoint.set_credential(credential);
            if transport == Transport::Insecure && !endpoint.is_mirror() {
                endpoint.be_insecure();
            }
            // Its own goes along however it is sent: whoever pulls has decided both.
            if let (Own::Given(credential), false) = (&own, endpoint.is_mirror()) {
                endpoint.set_credential(Some(credential.clone()));
            }
        }
        Ok(endpoints)
    }

    /// The API before files, the registry's own before those for all.
    async fn settings_for(&self, name: &str) -> Result<Option<Found>> {
        if let Some(settings) = self.stored_settings(name).await? {
            return Ok(Some(Found { settings, named: true }));
        }
        let in_files = self.find_in_files(name).await?;
        if in_files.as_ref().is_some_and(|found| found.named) {
            return Ok(in_files);
        }
        if let Some(settings) = self.stored_settings(FOR_ALL).await? {
            return Ok(Some(Found { settings, named: false }));
        }
        if let Some(found) = &in_files {
            let in_file =
                |error| Error::invalid(format!("the hosts file of `{FOR_ALL}` cannot be used: {error}"));
            found.settings.check_for_all().map_err(in_file)?;
        }
        Ok(in_files)
    }

    /// A mirror's credential may be written down under its own name.
    async fn credential_for(&self, authority: &str, reference: &Reference) -> Result<Option<Credential>> {
        if authority != reference.api_host()
            && let Some(settings) = self.stored_settings(authority).await?
            && settings.server.are_for(authority)
            && let Some(credential) = settings.server.credential
        {
            return Ok(Some(credential));
        }
        self.0.settings.sources.docker.find(authority).await
    }

    async fn stored_settings(&self, name: &str) -> Result<Option<RegistrySettings>> {
        let Some(stored) = self.0.store.find_registry(name).await? else { return Ok(None) };
        read_settings(&stored).map(Some)
    }

    async fn find_in_files(&self, name: &str) -> Result<Option<Found>> {
        let name = name.to_owned();
        self.on_files(move |hosts| hosts.find(&name)).await
    }

    /// Looks into the hosts directories, on a thread that may block.
    async fn on_files<T: Send + 'static>(
        &self,
        look: impl FnOnce(&HostsDirs) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let hosts = self.0.settings.sources.hosts.clone();
        self.0.shutdown.spawn_blocking("look into the hosts directories", move || look(&hosts)).await?
    }
}

/// The credential of a pull itself.
#[derive(Debug, Clone)]
pub(super) enum Own {
    /// None: what is configured counts.
    Configured,
    /// None, and nothing that is configured either.
    Nobody,
    Given(Credential),
}

impl Own {
    /// That a credential is brought for nothing: the settings name another host in place of the one that it is for.
    fn unused(&self, reference: &Reference, endpoints: &[Endpoint]) -> Option<String> {
        let host = reference.host();
        let is_unused = matches!(self, Own::Given(_)) && endpoints.iter().all(Endpoint::is_mirror);
        is_unused.then(|| {
            format!("the credential of this pull is for {host} itself, and its settings ask other hosts: it is not used")
        })
    }
}

impl Job {
    /// The repository of this pull, by the settings of this moment.
    pub async fn repository(&self) -> Result<Repository, Ended> {
        let transport = if self.request.insecure { Transport::Insecure } else { Transport::Verified };
        let reference = &self.request.reference;
        let own = self.own_credential().await?;
        let endpoints = self.jobs.endpoints(reference, transport, own.clone()).await?;
        if let Some(told) = own.unused(reference, &endpoints) {
            self.live.log(self.jobs.0.clock.now(), LogLevel::Warn, told);
        }
        Ok(self.jobs.0.registry.repository(reference, endpoints, self.tracer()))
    }

    async fn own_credential(&self) -> Result<Own> {
        match (&self.request.auth, self.request.credential) {
            (None, CredentialUse::Configured) => Ok(Own::Configured),
            (None, CredentialUse::None) => Ok(Own::Nobody),
            (Some(_), _) => {
                let text = self.jobs.0.store.find_pull_credential(&self.id).await?;
                let gone = || Error::invalid("the credential of this pull is no longer kept: give it again");
                let credential = serde_json::from_str(&text.ok_or_else(gone)?);
                credential.doing("read the credential of a pull").map(Own::Given)
            }
        }
    }

    /// Who listens to the requests of this pull: its log, and its trace where one is wanted.
    fn tracer(&self) -> Trace {
        let (live, clock, wanted) = (self.live.clone(), self.jobs.0.clock.clone(), self.request.trace);
        Trace::to(move |told| {
            if let Told::Fallback { from, to, reason } = &told {
                live.log(clock.now(), LogLevel::Warn, format!("{from} does not help: {reason}; asking {to}"));
            }
            if let Some(line) = TraceLine::of(&told, clock.now()).filter(|_| wanted) {
                live.change(|record| record.detail.trace.get_or_insert_default().push(line));
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::AddressPolicy;

    #[test]
    fn a_credential_that_is_sent_nowhere_is_told_of() {
        let reference: Reference = "r.io/a".parse().expect("a reference");
        let given = Own::Given(Credential::RegistryToken { token: Secret::new("s3cret") });
        let at = |url: &str| {
            let server = HostSettings { url: Some(url.parse().expect("a URL")), ..HostSettings::default() };
            let settings = RegistrySettings { server, mirrors: Vec::new() };
            settings.endpoints(&reference, AddressPolicy::Private, true)
        };
        let told = given.unused(&reference, &at("https://elsewhere.io")).expect("it is not used");
        assert!(told.contains("r.io itself") && !told.contains("s3cret"), "{told}");
        assert_eq!(given.unused(&reference, &at("https://r.io/proxy")), None);
        assert_eq!(Own::Configured.unused(&reference, &at("https://elsewhere.io")), None);
    }
}
