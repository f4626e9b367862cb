//! Settings of registries as they may be shown: whether there are secrets, and for whom, and never which.

use std::collections::BTreeSet;

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::read_settings;
use crate::clock::Time;
use crate::id::hex;
use crate::registry::{Capability, Credential, HostSettings, RegistrySettings};
use crate::store::{StoredRegistry, tag_of};

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
    /// Without `push`: nothing is pushed.
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
            capabilities: host.capabilities.iter().copied().filter(|c| *c != Capability::Push).collect(),
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

/// `None` for settings that cannot be read.
pub(super) fn view_of(
    host: String,
    source: RegistrySource,
    settings: Option<&RegistrySettings>,
) -> RegistryView {
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

pub(super) fn view_of_stored(stored: &StoredRegistry) -> RegistryView {
    let settings = read_settings(stored).ok();
    RegistryView {
        created_at: Some(stored.created_at),
        updated_at: Some(stored.updated_at),
        ..view_of(stored.host.clone(), RegistrySource::Api, settings.as_ref())
    }
}
