//! Docker's `config.json`: the credentials that `docker login` left (Docker, "docker login"), read anew for each pull.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;

use base64::Engine as _;
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::error::{Error, Result};
use crate::limits;
use crate::registry::credential::{Credential, Secret};

/// Under what names Docker keeps what is for Docker Hub.
const HUB: &str = "registry-1.docker.io";
const HUB_KEYS: [&str; 3] = ["https://index.docker.io/v1/", "index.docker.io", "docker.io"];

/// The file, or none.
#[derive(Debug, Clone, Default)]
pub struct DockerConfig(Option<PathBuf>);

#[derive(Deserialize, Default)]
#[serde(default)]
struct File {
    auths: BTreeMap<String, Entry>,
    #[serde(rename = "credHelpers")]
    helpers: BTreeMap<String, String>,
    #[serde(rename = "credsStore")]
    store: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    /// `user:password` in base 64.
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

/// What a helper answers (docker-credential-helpers, "get").
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Helped {
    username: String,
    secret: String,
}

impl DockerConfig {
    pub fn new(path: Option<PathBuf>) -> DockerConfig {
        DockerConfig(path)
    }

    /// The credential for `authority` (`host[:port]`); `None` when there is none for it.
    ///
    /// # Errors
    /// `Invalid` when the file or a helper's answer cannot be used; nothing of either is repeated.
    pub async fn find(&self, authority: &str) -> Result<Option<Credential>> {
        let Some(path) = &self.0 else { return Ok(None) };
        let unusable = |why: &str| Error::invalid(format!("the Docker configuration cannot be used: {why}"));
        let file = match read(path).await {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unusable(&error.kind().to_string())),
        };
        let file: File =
            serde_json::from_slice(&file).map_err(|_| unusable("it is not what Docker writes"))?;
        let names = names_of(authority);
        let helper = names.iter().find_map(|name| file.helpers.get(name)).or(file.store.as_ref());
        let found = match helper {
            Some(helper) => ask_helper(helper, &names[0]).await.map_err(|why| unusable(&why))?,
            None => None,
        };
        let found = match found {
            Some(found) => Some(found),
            None => match file.auths.iter().find(|(key, _)| names.contains(&host_of(key))) {
                Some((_, entry)) => entry.credential().map_err(unusable)?,
                None => None,
            },
        };
        found.map(Credential::check).transpose()
    }
}

/// The names under which Docker may keep what is for `authority`; the first is what a helper is asked for.
fn names_of(authority: &str) -> Vec<String> {
    match authority {
        HUB => HUB_KEYS.map(str::to_owned).into_iter().chain([HUB.to_owned()]).collect(),
        other => vec![other.to_owned()],
    }
}

/// `https://host:port/v1/` is how older versions wrote `host:port`. Docker Hub's key stays as it is.
fn host_of(key: &str) -> String {
    if HUB_KEYS.contains(&key) {
        return key.to_owned();
    }
    let bare = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    bare.split('/').next().unwrap_or_default().to_ascii_lowercase()
}

async fn read(path: &PathBuf) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    tokio::fs::File::open(path).await?.take(limits::DOCKER_CONFIG_BYTES).read_to_end(&mut bytes).await?;
    Ok(bytes)
}

impl Entry {
    fn credential(&self) -> Result<Option<Credential>, &'static str> {
        if !self.registrytoken.is_empty() {
            return Ok(Some(Credential::RegistryToken { token: Secret::new(&self.registrytoken) }));
        }
        if !self.identitytoken.is_empty() {
            return Ok(Some(Credential::IdentityToken { token: Secret::new(&self.identitytoken) }));
        }
        if self.auth.is_empty() {
            let (username, password) = (self.username.clone(), Secret::new(&self.password));
            let empty = username.is_empty() || self.password.is_empty();
            return Ok((!empty).then_some(Credential::Password { username, password }));
        }
        const BAD: &str = "an `auth` in it is not a user and a password";
        let bytes = base64::engine::general_purpose::STANDARD.decode(self.auth.trim()).map_err(|_| BAD)?;
        let text = String::from_utf8(bytes).map_err(|_| BAD)?;
        let (username, password) = text.split_once(':').ok_or(BAD)?;
        let password = Secret::new(password.trim_end_matches('\0'));
        Ok(Some(Credential::Password { username: username.to_owned(), password }))
    }
}

/// Runs `docker-credential-<name> get`. That it knows nothing is not an error.
async fn ask_helper(name: &str, server: &str) -> Result<Option<Credential>, String> {
    let plain = !name.is_empty() && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_');
    if !plain {
        return Err("a helper's name in it is not one".to_owned());
    }
    let told = format!("the helper docker-credential-{name}");
    let answer = tokio::time::timeout(limits::CREDENTIAL_HELPER_TIME, run_helper(name, server)).await;
    let answer = answer.map_err(|_| format!("{told} did not answer in time"))?;
    let (bytes, succeeded) = answer.map_err(|error| format!("{told}: {}", error.kind()))?;
    if !succeeded {
        // Its words say whether it knows nothing or failed; they are not for others' eyes.
        let text = String::from_utf8_lossy(&bytes);
        return if text.contains("not found") { Ok(None) } else { Err(format!("{told} failed")) };
    }
    let helped: Helped = serde_json::from_slice(&bytes).map_err(|_| format!("{told} gave no credential"))?;
    let secret = Secret::new(helped.secret);
    Ok(Some(match helped.username.as_str() {
        "<token>" => Credential::IdentityToken { token: secret },
        _ => Credential::Password { username: helped.username, password: secret },
    }))
}

async fn run_helper(name: &str, server: &str) -> io::Result<(Vec<u8>, bool)> {
    let mut child = tokio::process::Command::new(format!("docker-credential-{name}"))
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(server.as_bytes()).await?;
    }
    let mut bytes = Vec::new();
    if let Some(output) = child.stdout.take() {
        output.take(limits::DOCKER_CONFIG_BYTES).read_to_end(&mut bytes).await?;
    }
    Ok((bytes, child.wait().await?.success()))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn find(text: &str, authority: &str) -> Result<Option<Credential>> {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("config.json");
        std::fs::write(&path, text).expect("a file");
        DockerConfig::new(Some(path)).find(authority).await
    }

    fn password(username: &str, password: &str) -> Option<Credential> {
        Some(Credential::Password { username: username.into(), password: Secret::new(password) })
    }

    #[tokio::test]
    async fn each_form_of_an_entry_is_read() {
        let text = r#"{"auths": {
            "https://index.docker.io/v1/": {"auth": "bWU6czNjcmV0"},
            "r.io:5000": {"username": "you", "password": "w0rd"},
            "https://old.io/v1/": {"auth": "bWU6YTpi"},
            "t.io": {"identitytoken": "refresh"},
            "u.io": {"registrytoken": "bearer"},
            "empty.io": {}
        }, "HttpHeaders": {"x": "y"}}"#;
        assert_eq!(find(text, "registry-1.docker.io").await.expect("read"), password("me", "s3cret"));
        assert_eq!(find(text, "r.io:5000").await.expect("read"), password("you", "w0rd"));
        assert_eq!(find(text, "old.io").await.expect("read"), password("me", "a:b"));
        let token = |text| Secret::new(text);
        let refresh = Some(Credential::IdentityToken { token: token("refresh") });
        assert_eq!(find(text, "t.io").await.expect("read"), refresh);
        let bearer = Some(Credential::RegistryToken { token: token("bearer") });
        assert_eq!(find(text, "u.io").await.expect("read"), bearer);
        for unknown in ["empty.io", "r.io", "docker.io.evil.io"] {
            assert_eq!(find(text, unknown).await.expect("read"), None, "{unknown}");
        }
        let absent = DockerConfig::new(Some("/nonexistent/config.json".into()));
        assert_eq!(absent.find("r.io").await.expect("no file"), None);
        assert_eq!(DockerConfig::default().find("r.io").await.expect("not told to"), None);
    }

    #[tokio::test]
    async fn what_cannot_be_used_is_told_without_being_repeated() {
        for bad in [
            r#"{"auths": {"r.io": {"auth": "s3cret"}}}"#,
            r#"{"auths": {"r.io": {"auth": "czNjcmV0"}}}"#,
            r#"{"auths": "s3cret"}"#,
            r#"{"credHelpers": {"r.io": "../s3cret"}}"#,
            r#"{"credsStore": "no-such-helper-s3cre"}"#,
        ] {
            let error = find(bad, "r.io").await.expect_err(bad).to_string();
            assert!(!error.contains("s3cret") && error.contains("Docker configuration"), "{error}");
        }
    }
}
