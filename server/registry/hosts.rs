//! Hosts directories as containerd has them: `<dir>/<registry>/hosts.toml`, read anew for each pull, so that a change
//! needs no restart (containerd, docs/hosts.md).

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use toml::Value;
use url::Url;

use crate::error::{Error, Result};
use crate::limits;
use crate::registry::credential::Secret;
use crate::registry::endpoint::Capability;
use crate::registry::settings::{ClientCertificate, HostSettings, RegistrySettings};

/// The directory for registries that have none of their own.
const FOR_ALL: &str = "_default";
const FILE: &str = "hosts.toml";

/// What a directory says of a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub settings: RegistrySettings,
    /// Whether the directory is that registry's own, not the one for all.
    pub named: bool,
}

/// The directories, in the order in which they are looked into.
#[derive(Debug, Clone, Default)]
pub struct HostsDirs(Vec<PathBuf>);

impl HostsDirs {
    pub fn new(directories: Vec<PathBuf>) -> HostsDirs {
        HostsDirs(directories)
    }

    /// What the first directory that knows `registry` (`host[:port]`) says of it. It reads files: not for a thread that
    /// must not wait.
    ///
    /// # Errors
    /// `Invalid`, naming the file and the line; a file that cannot be read is never passed over.
    pub fn find(&self, registry: &str) -> Result<Option<Found>> {
        for directory in &self.0 {
            for (name, named) in names_of(registry) {
                let directory = directory.join(&name);
                if !directory.is_dir() {
                    continue;
                }
                let settings = read(&directory).map_err(|why| in_file(&name, &why))?;
                if let Some(settings) = settings {
                    let settings = settings.check().map_err(|error| in_file(&name, &with_field(&error)))?;
                    return Ok(Some(Found { settings, named }));
                }
            }
        }
        Ok(None)
    }

    /// The registries that the directories name, each once, in the order of their names.
    pub fn names(&self) -> Vec<String> {
        let mut names = std::collections::BTreeSet::new();
        for entry in self.0.iter().filter_map(|directory| fs::read_dir(directory).ok()).flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.path().is_dir() && !name.starts_with('.') {
                // `host_port_` is how a port is written where a colon cannot be.
                let port = name.strip_suffix('_').and_then(|rest| rest.rsplit_once('_'));
                names.insert(port.map_or_else(|| name.clone(), |(host, port)| format!("{host}:{port}")));
            }
            if names.len() >= limits::REGISTRIES {
                break;
            }
        }
        names.into_iter().collect()
    }
}

/// The names of its directory, the best first. A registry's name is text of the reference grammar: no path.
fn names_of(registry: &str) -> impl Iterator<Item = (String, bool)> {
    let with_port = registry.rsplit_once(':').filter(|(_, port)| port.bytes().all(|c| c.is_ascii_digit()));
    let underscored = with_port.map(|(host, port)| format!("{host}_{port}_"));
    let own = underscored.into_iter().chain([registry.to_owned()]).map(|name| (name, true));
    own.chain([(FOR_ALL.to_owned(), false)])
}

fn in_file(name: &str, why: &str) -> Error {
    Error::invalid(format!("the hosts file of `{name}` cannot be used: {why}"))
}

fn with_field(error: &Error) -> String {
    match error {
        Error::Invalid(invalid) => match &invalid.field {
            Some(field) => format!("{field}: {}", invalid.reason),
            None => invalid.reason.clone(),
        },
        other => other.to_string(),
    }
}

/// `hosts.toml`, or the certificates that Docker would find there; `None` for a directory with neither.
fn read(directory: &Path) -> Result<Option<RegistrySettings>, String> {
    match read_text(&directory.join(FILE)) {
        Ok(text) => parse(&text, directory).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => read_certificates(directory),
        Err(error) => Err(format!("{FILE}: {error}")),
    }
}

/// A file of at most the size that such files have.
fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    fs::File::open(path)?.take(limits::PEM_BYTES as u64 + 1).read_to_string(&mut text)?;
    match text.len() > limits::PEM_BYTES {
        true => Err(io::Error::new(io::ErrorKind::FileTooLarge, "the file is too long")),
        false => Ok(text),
    }
}

/// `*.crt` are certificate authorities; `x.cert` is ours and `x.key` its key (Docker, "Verify repository client with
/// certificates").
fn read_certificates(directory: &Path) -> Result<Option<RegistrySettings>, String> {
    let mut server = HostSettings::default();
    let entries = fs::read_dir(directory).map_err(|error| error.to_string())?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in &paths {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => server.ca.push(read_pem(path)?),
            Some("cert") => server.client = Some(read_pair(path, &path.with_extension("key"))?),
            Some(_) | None => {}
        }
    }
    let found = !server.ca.is_empty() || server.client.is_some();
    Ok(found.then(|| RegistrySettings { server, mirrors: Vec::new() }))
}

fn read_pem(path: &Path) -> Result<String, String> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    read_text(path).map_err(|error| format!("{name}: {error}"))
}

fn read_pair(certificate: &Path, key: &Path) -> Result<ClientCertificate, String> {
    Ok(ClientCertificate { certificate: read_pem(certificate)?, key: Secret::new(read_pem(key)?) })
}

/// One table of the file. What we do not know is passed over, as containerd does: its files may say more.
#[derive(Deserialize)]
struct Table {
    server: Option<String>,
    capabilities: Option<Vec<String>>,
    ca: Option<Texts>,
    client: Option<Value>,
    #[serde(default)]
    skip_verify: bool,
    #[serde(default)]
    header: BTreeMap<String, Texts>,
    #[serde(default)]
    override_path: bool,
    dial_timeout: Option<String>,
    /// In the order of the file.
    #[serde(default)]
    host: toml::Table,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Texts {
    One(String),
    Many(Vec<String>),
}

impl Texts {
    fn into_vec(self) -> Vec<String> {
        match self {
            Texts::One(text) => vec![text],
            Texts::Many(texts) => texts,
        }
    }
}

fn parse(text: &str, directory: &Path) -> Result<RegistrySettings, String> {
    let mut root: Table = toml::from_str(text).map_err(|error| one_line(&error))?;
    let mut mirrors = Vec::new();
    for (url, table) in std::mem::take(&mut root.host) {
        let table: Table = table.try_into().map_err(|error| format!("host `{url}`: {}", one_line(&error)))?;
        mirrors
            .push(settings_of(table, Some(&url), directory).map_err(|why| format!("host `{url}`: {why}"))?);
    }
    let server = root.server.take();
    Ok(RegistrySettings { server: settings_of(root, server.as_deref(), directory)?, mirrors })
}

/// The parser's message without the picture of the line.
fn one_line(error: &toml::de::Error) -> String {
    error.message().to_owned()
}

fn settings_of(table: Table, url: Option<&str>, directory: &Path) -> Result<HostSettings, String> {
    let url = url.filter(|url| !url.is_empty()).map(parse_url).transpose()?;
    let capabilities = match table.capabilities {
        None => Capability::ALL.into(),
        Some(names) => names.iter().map(|name| parse_capability(name)).collect::<Result<_, _>>()?,
    };
    let paths = table.ca.map(Texts::into_vec).unwrap_or_default();
    let ca = paths.iter().map(|path| read_pem(&directory.join(path))).collect::<Result<_, _>>()?;
    let headers = table
        .header
        .into_iter()
        .map(|(name, values)| (name, values.into_vec().into_iter().map(Secret::new).collect::<Vec<_>>()));
    Ok(HostSettings {
        url,
        capabilities,
        ca,
        client: table.client.map(|value| parse_client(value, directory)).transpose()?.flatten(),
        skip_verify: table.skip_verify,
        headers: headers.collect(),
        override_path: table.override_path,
        connect_timeout: table.dial_timeout.as_deref().map(parse_time).transpose()?,
        ..HostSettings::default()
    })
}

fn parse_url(text: &str) -> Result<Url, String> {
    let text = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    Url::parse(&text).map_err(|_| "a URL that is none".to_owned())
}

fn parse_capability(name: &str) -> Result<Capability, String> {
    let found = Capability::ALL.into_iter().find(|capability| capability.as_str() == name);
    found.ok_or_else(|| format!("`{}` is no capability: pull, resolve, push, referrers", name.escape_debug()))
}

fn parse_time(text: &str) -> Result<Duration, String> {
    crate::clock::parse_duration(text).map_err(|error| format!("dial_timeout: {error}"))
}

/// A file with both, a pair of files, or a list of such; the first pair is ours to use.
fn parse_client(value: Value, directory: &Path) -> Result<Option<ClientCertificate>, String> {
    let strange = || "client: give a file, a pair of files, or a list of pairs".to_owned();
    let path = |value: &Value| value.as_str().map(|path| directory.join(path));
    match &value {
        Value::String(file) => {
            let file = directory.join(file);
            read_pair(&file, &file).map(Some)
        }
        Value::Array(list) => match list.first() {
            None => Ok(None),
            // A list of files, each with both in it.
            Some(first @ Value::String(_)) => {
                let file = path(first).ok_or_else(strange)?;
                read_pair(&file, &file).map(Some)
            }
            Some(Value::Array(pair)) => match pair.as_slice() {
                [both] => {
                    let file = path(both).ok_or_else(strange)?;
                    read_pair(&file, &file).map(Some)
                }
                [certificate, key] => {
                    let (certificate, key) =
                        (path(certificate).ok_or_else(strange)?, path(key).ok_or_else(strange)?);
                    match key == directory.join("") {
                        true => read_pair(&certificate, &certificate).map(Some),
                        false => read_pair(&certificate, &key).map(Some),
                    }
                }
                _ => Err(strange()),
            },
            Some(_) => Err(strange()),
        },
        _ => Err(strange()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(files: &[(&str, &str)]) -> (tempfile::TempDir, HostsDirs) {
        let root = tempfile::tempdir().expect("a directory");
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
            fs::write(path, text).expect("a file");
        }
        let dirs = HostsDirs::new(vec![root.path().to_owned()]);
        (root, dirs)
    }

    fn own() -> (String, String) {
        let key = rcgen::KeyPair::generate().expect("a key");
        let certificate = rcgen::CertificateParams::new(["r.io".to_owned()]).expect("params");
        (certificate.self_signed(&key).expect("a certificate").pem(), key.serialize_pem())
    }

    #[test]
    fn a_file_is_read_as_containerd_reads_it() {
        let (certificate, key) = own();
        let text = r#"
server = "https://registry-1.docker.io"
future_key = "is passed over"

[host."https://z.example.com"]
  capabilities = ["pull", "resolve"]
  ca = "ca.pem"
  client = [["own.pem", "own.key"]]
  [host."https://z.example.com".header]
    x-key = ["s3cret", "two"]
    x-one = "one"

[host."http://a.example.com:5000/v2/hub"]
  capabilities = ["pull"]
  override_path = true
  skip_verify = true
  dial_timeout = "5s"
"#;
        let (_root, dirs) = directory(&[
            ("docker.io/hosts.toml", text),
            ("docker.io/ca.pem", &certificate),
            ("docker.io/own.pem", &certificate),
            ("docker.io/own.key", &key),
        ]);
        let found = dirs.find("docker.io").expect("a good file").expect("found");
        assert!(found.named);
        let RegistrySettings { server, mirrors } = found.settings;
        assert_eq!(server.url.expect("a server").as_str(), "https://registry-1.docker.io/");
        let [z, a] = &mirrors[..] else { panic!("in the order of the file: {mirrors:?}") };
        assert_eq!(z.url.as_ref().expect("a URL").host_str(), Some("z.example.com"));
        assert_eq!(z.capabilities, [Capability::Pull, Capability::Resolve].into());
        assert_eq!((z.ca.len(), z.client.is_some(), z.headers["x-key"].len()), (1, true, 2));
        assert_eq!(z.headers["x-one"], [Secret::new("one")]);
        assert!(a.override_path && a.skip_verify);
        assert_eq!(a.connect_timeout, Some(Duration::from_secs(5)));
    }

    #[test]
    fn the_nearest_directory_is_the_one() {
        let server = |name: &str| format!("server = \"https://{name}\"\n");
        let (_root, dirs) = directory(&[
            ("r.io_5000_/hosts.toml", &server("underscored")),
            ("r.io:5000/hosts.toml", &server("colon")),
            ("q.io:5000/hosts.toml", &server("q")),
            ("_default/hosts.toml", &server("all")),
        ]);
        for (registry, host, named) in [
            ("r.io:5000", "underscored", true),
            ("q.io:5000", "q", true),
            ("r.io", "all", false),
            ("docker.io", "all", false),
        ] {
            let found = dirs.find(registry).expect("good files").expect("found");
            let url = found.settings.server.url.expect("a server");
            assert_eq!((url.host_str(), found.named), (Some(host), named), "{registry}");
        }
        assert_eq!(dirs.names(), ["_default", "q.io:5000", "r.io:5000"]);
        let (_other, none) = directory(&[("x/y", "")]);
        assert_eq!(none.find("r.io").expect("nothing there"), None);
    }

    #[test]
    fn certificates_are_found_where_docker_would_look() {
        let (certificate, key) = own();
        let (_root, dirs) = directory(&[
            ("r.io/ca.crt", &certificate),
            ("r.io/me.cert", &certificate),
            ("r.io/me.key", &key),
            ("r.io/readme.txt", "x"),
        ]);
        let server = dirs.find("r.io").expect("good files").expect("found").settings.server;
        assert_eq!((server.ca.len(), server.client.is_some()), (1, true));
    }

    #[test]
    fn a_file_that_cannot_be_used_is_never_passed_over() {
        for (text, words) in [
            ("server = ", "docker.io"),
            ("server = \"ftp://x\"", "server.url"),
            ("[host.\"https://m\"]\ncapabilities = [\"fly\"]", "`fly` is no capability"),
            ("ca = \"not-there.pem\"", "not-there.pem"),
            ("[host.\"https://m\"]\nclient = 7", "client"),
        ] {
            let (_root, dirs) = directory(&[("docker.io/hosts.toml", text)]);
            let error = dirs.find("docker.io").expect_err(text).to_string();
            assert!(error.contains(words) && error.contains("docker.io"), "{text}: {error}");
        }
    }
}
