//! Docker's `config.json`: the credentials that `docker login` left (Docker, "docker login"), read anew for each pull.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

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
    ask_program(&format!("docker-credential-{name}"), server, limits::CREDENTIAL_HELPER_TIME).await
}

async fn ask_program(program: &str, server: &str, time: Duration) -> Result<Option<Credential>, String> {
    let told = format!("the helper {program}");
    let answer = tokio::time::timeout(time, run_helper(program, server)).await;
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

/// A helper at work, with whatever it has started: if nobody waits for its end, all of them are killed.
struct Helper(Child);

impl Drop for Helper {
    fn drop(&mut self) {
        // One that was waited for has no id, and what it has left behind on purpose stays: an agent, for instance.
        if let Some(group) = self.0.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
            // None of them may be left, which is as good.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

async fn run_helper(program: &str, server: &str) -> io::Result<(Vec<u8>, bool)> {
    let mut command = Command::new(program);
    command.arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut helper = Helper(command.process_group(0).kill_on_drop(true).spawn()?);
    if let Some(mut input) = helper.0.stdin.take() {
        match input.write_all(server.as_bytes()).await {
            // It has no need to read what it is asked for.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            written => written?,
        }
    }
    let mut bytes = Vec::new();
    if let Some(output) = helper.0.stdout.take() {
        output.take(limits::DOCKER_CONFIG_BYTES).read_to_end(&mut bytes).await?;
    }
    Ok((bytes, helper.0.wait().await?.success()))
}

#[cfg(test)]
mod tests;
