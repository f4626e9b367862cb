//! How registries are reached: what operators wrote down, by the API or in files, and what a pull brings along.

mod change;
mod view;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use change::{Change, HostChange, RegistryChange};
pub use view::RegistryView;

use crate::error::{Conflict, Doing, Error, Result};
use crate::jobs::Jobs;
use crate::jobs::event::LogLevel;
use crate::jobs::request::CredentialUse;
use crate::jobs::run::{Ended, Job, unless};
use crate::jobs::trace::TraceLine;
use crate::oci::{Reference, Rules};
use crate::registry::{
    Credential, DockerConfig, Endpoint, Found, HostsDirs, Probe, RegistrySettings, Repository, Told, Trace,
    Transport,
};
use crate::store::{Expected, IfMatch, StoredRegistry};
use change::own_field;
use view::{RegistrySource, view_of, view_of_stored};

/// The name of the settings that are for registries without any of their own.
const FOR_ALL: &str = "_default";
/// Of a credential that came with a pull, and cannot be had.
pub(super) const CREDENTIAL_GONE: &str =
    "the credential of this pull is no longer kept, or was sealed in another data directory: give it again";

/// What of the server's configuration says how registries are reached.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    pub hosts: Arc<HostsDirs>,
    pub docker: DockerConfig,
    pub rules: Arc<Rules>,
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
        let rules = &self.0.settings.sources.rules;
        match repository {
            Some(_) => rules.check(&reference)?,
            None => rules.check_registry(&reference)?,
        }
        let endpoints = self.known_endpoints(&reference, Transport::Verified, Own::Configured).await?;
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
        self.known_endpoints(reference, transport, own).await
    }

    /// The same, of what the lists allow.
    async fn known_endpoints(
        &self,
        reference: &Reference,
        transport: Transport,
        own: Own,
    ) -> Result<Vec<Endpoint>> {
        let addresses = self.0.settings.addresses;
        let mut endpoints = match self.settings_for(reference.host()).await? {
            Some(found) => found.settings.endpoints(reference, addresses, found.named),
            None => vec![Endpoint::of(reference, addresses)],
        };
        for endpoint in &mut endpoints {
            if let Own::Nobody = own {
                endpoint.withhold_secrets("the pull goes as anybody: nothing is shown that is configured");
            }
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
        // A credential helper may take its time, and the pull may stop meanwhile.
        let asking = self.jobs.endpoints(reference, transport, own.clone());
        let endpoints = unless(&self.live.stop, asking).await??;
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
                let gone = || Error::invalid(CREDENTIAL_GONE);
                let credential = serde_json::from_str(&text.ok_or_else(gone)?);
                credential.doing("read the credential of a pull").map(Own::Given)
            }
        }
    }

    /// Who listens to the requests of this pull: its log, and its trace where one is wanted.
    fn tracer(&self) -> Trace {
        let (live, clock, wanted) = (self.live.clone(), self.jobs.0.clock.clone(), self.request.trace);
        Trace::to(move |told| match told {
            Told::Fallback { from, to, reason } => {
                let message = format!("{from} does not help: {reason}; asking {to}");
                live.log(clock.now(), LogLevel::Warn, message);
            }
            Told::Exchange(exchange) if wanted => {
                let line = TraceLine::of(exchange, clock.now());
                live.change(|record| record.detail.trace.get_or_insert_default().push(line));
            }
            Told::Body(received) if wanted => {
                live.change(|record| record.detail.trace.get_or_insert_default().note_body(received));
            }
            Told::Exchange(_) | Told::Body(_) => {}
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{AddressPolicy, HostSettings, Secret};

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
