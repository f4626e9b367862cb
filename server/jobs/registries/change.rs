//! New settings of a registry, and what becomes of the secrets of those that stand.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use url::Url;

use crate::error::{Error, Result};
use crate::registry::{Capability, ClientCertificate, Credential, HostSettings, RegistrySettings, Secret};

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
    /// As [`Change::Keep`], where the client says that there is one.
    KeepShown,
    Remove,
    Set(T),
}

impl<T> Change<T> {
    /// Whether it is to stay, and is not there.
    fn misses(&self, before: Option<&T>) -> bool {
        matches!(self, Change::KeepShown) && before.is_none()
    }

    fn over(self, before: Option<T>) -> Option<T> {
        match self {
            Change::Keep | Change::KeepShown => before,
            Change::Remove => None,
            Change::Set(new) => Some(new),
        }
    }
}

impl RegistryChange {
    /// # Errors
    /// `Invalid` with the field.
    pub(super) fn over(self, before: Option<RegistrySettings>) -> Result<RegistrySettings> {
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
pub(super) fn own_field(error: Error) -> Error {
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
            (None, Change::Keep | Change::KeepShown | Change::Remove) => None,
            (Some(certificate), key) => match key.over(old_key) {
                Some(key) => Some(ClientCertificate { certificate, key }),
                None => return wrong("client_key", "a client certificate needs its key"),
            },
        };
        let old_headers = before.map(|host| host.headers.clone()).filter(|headers| !headers.is_empty());
        let old_credential = before.and_then(|host| host.credential.clone());
        let unknown = "it is shown without its secret, and none is kept for this host: give it";
        if self.headers.misses(old_headers.as_ref()) {
            return wrong("headers", unknown);
        }
        if self.credential.misses(old_credential.as_ref()) {
            return wrong("credential", unknown);
        }
        Ok(HostSettings {
            url: self.url.map(without_slash),
            capabilities: self.capabilities.unwrap_or_else(|| Capability::ALL.into()),
            ca: self.ca,
            client,
            skip_verify: self.skip_verify,
            headers: self.headers.over(old_headers).unwrap_or_default(),
            override_path: self.override_path,
            connect_timeout: self.connect_timeout,
            credential: self.credential.over(old_credential),
            token_hosts: self.token_hosts,
        })
    }
}
