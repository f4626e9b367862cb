//! Hosts directories as containerd has them: `<dir>/<registry>/hosts.toml`, read anew for each pull, so that a change
//! needs no restart (containerd, docs/hosts.md).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use toml::Value;
use url::Url;

use crate::error::{Error, Result};
use crate::limits;
use crate::oci::digest::excerpt;
use crate::registry::credential::Secret;
use crate::registry::endpoint::{Capability, authority_of};
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

    /// Whether each of them is there and can be listed: one that is not would be missed only by the pulls that it was to
    /// lead elsewhere.
    ///
    /// # Errors
    /// `Invalid`, naming the directory.
    pub fn check(self) -> Result<HostsDirs> {
        match self.0.iter().find_map(|root| fs::read_dir(root).err().map(|error| (root, error))) {
            None => Ok(self),
            Some((root, error)) => Err(Error::invalid_field(
                "hosts_dir",
                format!("cannot look into {}: {error}", root.display()),
            )),
        }
    }

    /// What the first directory that knows `registry` (`host[:port]`) says of it: nothing special, when it holds no
    /// file. It reads files: not for a thread that must not wait.
    ///
    /// # Errors
    /// `Invalid`, naming the directory and the file, and the line of what is not TOML or of another type; no text of the
    /// file is repeated. Only what is not there is passed over: anything else might have named a mirror past which
    /// nothing may be pulled.
    pub fn find(&self, registry: &str) -> Result<Option<Found>> {
        for root in &self.0 {
            // It was there at the start.
            fs::metadata(root).map_err(|error| unreadable(&error))?;
            for (name, named) in names_of(registry) {
                let directory = root.join(&name);
                if !is_directory(&directory).map_err(|error| in_file(&name, &error.to_string()))? {
                    continue;
                }
                let settings = read(&directory).map_err(|why| in_file(&name, &why))?;
                let settings = settings.check().map_err(|error| in_file(&name, &with_field(&error)))?;
                return Ok(Some(Found { settings, named }));
            }
        }
        Ok(None)
    }

    /// The registries that the directories name, each once, in the order of their names.
    ///
    /// # Errors
    /// `Invalid` for a directory that cannot be listed.
    pub fn names(&self) -> Result<Vec<String>> {
        let mut names = BTreeSet::new();
        for root in &self.0 {
            for entry in fs::read_dir(root).map_err(|error| unreadable(&error))? {
                let entry = entry.map_err(|error| unreadable(&error))?;
                let name = entry.file_name().to_string_lossy().into_owned();
                // One that cannot be looked into counts: whoever looks for it is told so.
                if name.starts_with('.') || !is_directory(&entry.path()).unwrap_or(true) {
                    continue;
                }
                // `host_port_` is how a port is written where a colon cannot be.
                let port = name.strip_suffix('_').and_then(|rest| rest.rsplit_once('_'));
                names.insert(port.map_or_else(|| name.clone(), |(host, port)| format!("{host}:{port}")));
                if names.len() >= limits::REGISTRIES {
                    return Ok(names.into_iter().collect());
                }
            }
        }
        Ok(names.into_iter().collect())
    }
}

fn is_directory(path: &Path) -> io::Result<bool> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(metadata.is_dir()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// The names of its directory, the best first. A registry's name is text of the reference grammar: no path.
fn names_of(registry: &str) -> impl Iterator<Item = (String, bool)> {
    let with_port = registry.rsplit_once(':').filter(|(_, port)| port.bytes().all(|c| c.is_ascii_digit()));
    let underscored = with_port.map(|(host, port)| format!("{host}_{port}_"));
    let own = underscored.into_iter().chain([registry.to_owned()]).map(|name| (name, true));
    own.chain([(FOR_ALL.to_owned(), false)])
}

fn unreadable(error: &io::Error) -> Error {
    Error::invalid(format!("a hosts directory of the server cannot be looked into: {error}"))
}

fn in_file(name: &str, why: &str) -> Error {
    Error::invalid(format!("the hosts file of `{name}` cannot be used: {why}"))
}

fn with_field(error: &Error) -> String {
    match error {
        Error::Invalid(invalid) => match &invalid.field {
            Some(field) => format!("{}: {}", in_words_of_file(field), invalid.reason),
            None => invalid.reason.clone(),
        },
        other => other.to_string(),
    }
}

/// A field of the settings, as the file calls it.
fn in_words_of_file(field: &str) -> String {
    match field.strip_suffix("client_certificate") {
        Some("server.") => "client".to_owned(),
        Some(of) => format!("{of}client"),
        None => field.to_owned(),
    }
}

/// `hosts.toml`, or the certificates that Docker would find there. A directory with neither says that there is nothing to
/// say, and ends the search as it does for containerd.
fn read(directory: &Path) -> Result<RegistrySettings, String> {
    match read_text(&directory.join(FILE)) {
        Ok(text) => parse(&text, directory).map_err(|why| format!("{FILE}{why}")),
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

/// `*.crt` are certificate authorities; the first `x.cert` is ours and `x.key` its key (Docker, "Verify repository client
/// with certificates"), which may stand in the same file.
fn read_certificates(directory: &Path) -> Result<RegistrySettings, String> {
    let mut server = HostSettings::default();
    let entries = fs::read_dir(directory).map_err(|error| error.to_string())?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in &paths {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => server.ca.push(read_pem(path)?),
            Some("cert") if server.client.is_none() => {
                let key = path.with_extension("key");
                let key = if paths.contains(&key) { &key } else { path };
                server.client = Some(read_pair(path, key)?);
            }
            Some(_) | None => {}
        }
    }
    Ok(RegistrySettings { server, mirrors: Vec::new() })
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
    #[serde(default)]
    host: Hosts,
}

/// Tables by their URLs, in the order of the file.
#[derive(Default)]
struct Hosts(Vec<(String, Table)>);

impl<'de> Deserialize<'de> for Hosts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Hosts, D::Error> {
        struct Tables;

        impl<'de> Visitor<'de> for Tables {
            type Value = Hosts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table for each host")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut tables: A) -> Result<Hosts, A::Error> {
                let mut hosts = Vec::new();
                while let Some(host) = tables.next_entry()? {
                    hosts.push(host);
                }
                Ok(Hosts(hosts))
            }
        }

        deserializer.deserialize_map(Tables)
    }
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a text or a list of texts")]
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

/// What is wrong comes with its place, to be put behind the name of the file.
fn parse(text: &str, directory: &Path) -> Result<RegistrySettings, String> {
    let mut root: Table = toml::from_str(text).map_err(|error| stopped_at(&error, text))?;
    let mut mirrors = Vec::new();
    for (at, (url, table)) in std::mem::take(&mut root.host.0).into_iter().enumerate() {
        let mirror = settings_of(table, Some(&url), directory);
        mirrors.push(mirror.map_err(|why| format!(", {}: {why}", shown_host(&url, at)))?);
    }
    let server = root.server.take();
    let server = settings_of(root, server.as_deref(), directory).map_err(|why| format!(": {why}"))?;
    Ok(RegistrySettings { server, mirrors })
}

/// Where the parser stopped, and what it looked for. What it found there may be a secret, and is not repeated.
fn stopped_at(error: &toml::de::Error, text: &str) -> String {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    // The end of its words is its own: what was found comes first.
    let expected = error.message().rsplit_once("expected ");
    let why = expected.map_or_else(|| "cannot be read".to_owned(), |(_, what)| format!("expected {what}"));
    format!(", line {line}, column {column}: {why}")
}

/// A host as it may be told: its URL is as it was written, with whatever secret in it.
fn shown_host(url: &str, at: usize) -> String {
    match parse_url(url) {
        Ok(url) if url.has_host() => format!("host `{}`", authority_of(&url)),
        Ok(_) | Err(_) => format!("host number {}", at + 1),
    }
}

fn settings_of(table: Table, url: Option<&str>, directory: &Path) -> Result<HostSettings, String> {
    let url = url.filter(|url| !url.is_empty()).map(parse_url).transpose()?;
    let capabilities = match table.capabilities.unwrap_or_default().as_slice() {
        [] => Capability::ALL.into(),
        names => names.iter().map(|name| parse_capability(name)).collect::<Result<_, _>>()?,
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
        connect_timeout: table.dial_timeout.as_deref().map(parse_time).transpose()?.flatten(),
        ..HostSettings::default()
    })
}

fn parse_url(text: &str) -> Result<Url, String> {
    let text = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    Url::parse(&text).map_err(|_| "a URL that is none".to_owned())
}

fn parse_capability(name: &str) -> Result<Capability, String> {
    let found = Capability::ALL.into_iter().find(|known| known.as_str().eq_ignore_ascii_case(name));
    found.ok_or_else(|| format!("`{}` is no capability: pull, resolve, push, referrers", excerpt(name)))
}

/// A length of time as Go reads it (`time.ParseDuration`): `5s`, `500ms`, `1m30.5s`. None at all is no limit of the file's.
fn parse_time(text: &str) -> Result<Option<Duration>, String> {
    const UNITS: [(&str, f64); 8] = [
        ("ns", 1e-9),
        ("us", 1e-6),
        ("µs", 1e-6),
        ("μs", 1e-6),
        ("ms", 1e-3),
        ("s", 1.0),
        ("m", 60.0),
        ("h", 3600.0),
    ];
    let wrong = || "dial_timeout: a length of time is as in 5s, 500ms or 1m30s".to_owned();
    let in_number = |c: char| c.is_ascii_digit() || c == '.';
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest.is_empty() {
        return Err(wrong());
    }
    let mut seconds = 0.0;
    while !rest.is_empty() && rest != "0" {
        let (number, after) = rest.split_at(rest.find(|c| !in_number(c)).ok_or_else(wrong)?);
        let (unit, next) = after.split_at(after.find(in_number).unwrap_or(after.len()));
        let (_, factor) = UNITS.into_iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
        seconds += number.parse::<f64>().map_err(|_| wrong())? * factor;
        rest = next;
    }
    let length = Duration::try_from_secs_f64(seconds).map_err(|_| wrong())?;
    Ok(Some(length).filter(|length| !length.is_zero()))
}

/// A file with both a certificate and its key; or a list of such files and of pairs, of which the first is ours to use.
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
        assert_eq!(dirs.names().expect("names"), ["_default", "q.io:5000", "r.io:5000"]);
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
    fn a_certificate_that_is_not_taken_is_named_as_in_the_file() {
        use crate::registry::settings::tests::{KEY_OF_VERSION_1, VERSION_1};
        let both = format!("{VERSION_1}{KEY_OF_VERSION_1}");
        for (text, place) in [
            ("client = \"both.pem\"", "client"),
            ("[host.\"https://m\"]\nclient = \"both.pem\"", "mirrors[0].client"),
        ] {
            let (_root, dirs) = directory(&[("r.io/hosts.toml", text), ("r.io/both.pem", &both)]);
            let error = dirs.find("r.io").expect_err(text).to_string();
            let told = format!("cannot be used: {place}: an X.509 certificate of version 1 is not taken");
            assert!(error.contains(&told), "{error}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_used_is_never_passed_over() {
        for (text, words) in [
            ("server = ", "docker.io"),
            ("server = \"ftp://x\"", "server.url"),
            ("[host.\"https://m\"]\ncapabilities = [\"fly\"]", "`fly` is no capability"),
            ("ca = \"not-there.pem\"", "not-there.pem"),
            ("[host.\"https://m\"]\nclient = 7", "client"),
            ("dial_timeout = \"soon\"", "hosts.toml: dial_timeout"),
        ] {
            let (_root, dirs) = directory(&[("docker.io/hosts.toml", text)]);
            let error = dirs.find("docker.io").expect_err(text).to_string();
            assert!(error.contains(words) && error.contains("docker.io"), "{text}: {error}");
        }
    }

    #[test]
    fn what_a_parser_stumbles_over_is_not_repeated() {
        for (text, place) in [
            ("\nheader = \"Authorization: Basic s3cret\"", "hosts.toml, line 2, column 10: expected "),
            (
                "[host.\"https://m\".header]\n  x = {s3cret = \"s3cret\"}",
                "hosts.toml, line 2, column 7: expected a text",
            ),
            (
                "skip_verify = \"s3cret, expected s3cret\"",
                "hosts.toml, line 1, column 15: expected a boolean",
            ),
            ("x = s3cret", "hosts.toml, line 1, column 5: "),
            ("host = \"s3cret\"", "hosts.toml, line 1, column 8: expected a table for each host"),
            (
                "[host.\"https://u:s3cret@m:5000\"]\ndial_timeout = \"s3cret\"",
                "hosts.toml, host `m:5000`: dial",
            ),
            ("[host.\"https:// s3cret\"]", "hosts.toml, host number 1: "),
        ] {
            let (_root, dirs) = directory(&[("r.io/hosts.toml", text)]);
            let error = dirs.find("r.io").expect_err(text).to_string();
            assert!(error.contains(place) && !error.contains("s3cret"), "{text}: {error}");
        }
    }

    #[test]
    fn what_containerd_takes_is_taken() {
        let text = |line: &str| format!("[host.\"https://m\"]\n{line}");
        let mirror = |line: &str| {
            let (_root, dirs) = directory(&[("r.io/hosts.toml", &text(line))]);
            dirs.find("r.io").expect(line).expect("found").settings.mirrors.remove(0)
        };
        assert_eq!(mirror("capabilities = []").capabilities, Capability::ALL.into());
        assert_eq!(mirror("capabilities = [\"Pull\"]").capabilities, [Capability::Pull].into());
        for (written, milliseconds) in
            [("500ms", 500), ("1.5s", 1500), ("1m0.25s", 60_250), ("250000µs", 250)]
        {
            let time = mirror(&format!("dial_timeout = \"{written}\"")).connect_timeout;
            assert_eq!(time, Some(Duration::from_millis(milliseconds)), "{written}");
        }
        assert_eq!(mirror("dial_timeout = \"0\"").connect_timeout, None);
        for wrong in ["", "5", "-5s", "s", "1..5s", "5 s", "1d"] {
            assert!(parse_time(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_first_certificate_is_ours_and_may_hold_its_key() {
        let ((first, first_key), (second, second_key)) = (own(), own());
        let both = format!("{first}{first_key}");
        let (_root, dirs) =
            directory(&[("r.io/a.cert", &both), ("r.io/b.cert", &second), ("r.io/b.key", &second_key)]);
        let client = dirs.find("r.io").expect("good files").expect("found").settings.server.client;
        assert_eq!(client.expect("a certificate").certificate, both);
    }

    #[test]
    fn a_directory_that_cannot_be_looked_into_is_not_passed_over() {
        let (root, dirs) = directory(&[("_default/hosts.toml", "server = \"https://all\"")]);
        let own = root.path().join("r.io");
        // Whoever runs the tests may look into any directory, but not into this.
        std::os::unix::fs::symlink(&own, &own).expect("a link to itself");
        let error = dirs.find("r.io").expect_err("not `_default`").to_string();
        assert!(error.contains("`r.io`"), "{error}");
        assert_eq!(dirs.names().expect("names"), ["_default", "r.io"]);
        drop(root);
        dirs.find("r.io").expect_err("the whole directory is gone");
        dirs.names().expect_err("the whole directory is gone");
        let error = dirs.check().expect_err("the whole directory is gone");
        assert!(
            matches!(error, Error::Invalid(ref invalid) if invalid.field.as_deref() == Some("hosts_dir"))
        );
    }

    #[test]
    fn a_directory_of_its_own_without_files_ends_the_search() {
        let (root, dirs) = directory(&[("_default/hosts.toml", "server = \"https://all\"")]);
        fs::create_dir(root.path().join("r.io")).expect("a directory");
        let found = dirs.find("r.io").expect("nothing wrong").expect("found");
        assert_eq!(found, Found { settings: RegistrySettings::default(), named: true });
    }
}
