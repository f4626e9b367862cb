//! A real registry: Debian's docker-registry on a free port of loopback, with nothing in it yet.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;
use std::{fs, thread};

use tempfile::TempDir;

use super::command::{Background, run};

/// How long starting, and copying a small image, may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

#[derive(Debug)]
pub struct DockerRegistry {
    // Before the directory: a field declared first is dropped first.
    _process: Background,
    directory: TempDir,
    address: SocketAddr,
}

impl DockerRegistry {
    pub fn start() -> DockerRegistry {
        DockerRegistry::start_with(None, "", "")
    }

    /// One over the files of another, with more in the section `http` and with sections of its own, in YAML's braces.
    pub fn start_with(of: Option<&DockerRegistry>, http: &str, more: &str) -> DockerRegistry {
        DockerRegistry::start_by(Command::new("docker-registry"), "127.0.0.1", of, http, more)
    }

    /// One on an address of a network namespace, for root alone.
    pub fn start_in(namespace: &str, address: &str) -> DockerRegistry {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace, "docker-registry"]);
        DockerRegistry::start_by(command, address, None, "", "")
    }

    fn start_by(
        mut command: Command,
        address: &str,
        of: Option<&DockerRegistry>,
        http: &str,
        more: &str,
    ) -> DockerRegistry {
        let directory = tempfile::tempdir().expect("a directory for the registry");
        let config = directory.path().join("config.yml");
        let root = of.map_or_else(|| directory.path().join("data"), DockerRegistry::data_directory);
        // Port 0, so the system picks a free one and no other process can take it meanwhile.
        let text = format!(
            "version: 0.1\nlog: {{level: info, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: '{}'}}, delete: {{enabled: true}}}}\n\
             http: {{addr: '{address}:0'{http}}}\n\
             compatibility: {{schema1: {{enabled: true}}}}\n{more}\n",
            root.display()
        );
        fs::write(&config, text).expect("the registry's configuration is written");
        let mut child = command
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // A later version would look for somebody to send traces to.
            .env("OTEL_TRACES_EXPORTER", "none")
            .spawn()
            .expect("docker-registry starts: apt-get install docker-registry");
        let log = BufReader::new(child.stderr.take().expect("stderr is piped"));
        let process = Background(child);
        let address = wait_for_address(log);
        DockerRegistry { _process: process, directory, address }
    }

    /// `host:port`, as references and `docker://` names begin.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Pushes a blob.
    pub async fn push_blob(&self, repository: &str, bytes: &[u8]) {
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        let uploads = format!("http://{}/v2/{repository}/blobs/uploads/", self.address);
        let opened = client.post(uploads).send().await.expect("an answer");
        let place = opened.headers()["location"].to_str().expect("a URL").to_owned();
        let digest = super::image::sha256(bytes);
        let put = client.put(place).query(&[("digest", digest)]).body(bytes.to_vec()).send().await;
        assert_eq!(put.expect("an answer").status().as_u16(), 201);
    }

    /// Pushes a document under a tag or its digest.
    pub async fn push_document(&self, repository: &str, name: &str, media_type: &str, bytes: &[u8]) {
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        let place = format!("http://{}/v2/{repository}/manifests/{name}", self.address);
        let put = client.put(place).header("Content-Type", media_type).body(bytes.to_vec()).send().await;
        let answer = put.expect("an answer");
        let status = answer.status().as_u16();
        assert_eq!(status, 201, "{}", answer.text().await.unwrap_or_default());
    }

    /// The document under a name, in the form of this media type.
    pub async fn fetch_document(&self, repository: &str, name: &str, media_type: &str) -> Vec<u8> {
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        let place = format!("http://{}/v2/{repository}/manifests/{name}", self.address);
        let answer = client.get(place).header("Accept", media_type).send().await.expect("an answer");
        assert_eq!(answer.headers()["content-type"].to_str().expect("a text"), media_type);
        answer.bytes().await.expect("a body").to_vec()
    }

    /// Where the registry keeps its files, for a test that damages them.
    pub fn data_directory(&self) -> PathBuf {
        self.directory.path().join("data")
    }
}

/// The address that the registry says it listens on. The rest of its log is read to its end, so that it
/// never stops on a full pipe.
fn wait_for_address(log: impl BufRead + Send + 'static) -> SocketAddr {
    let (sender, address) = mpsc::channel();
    thread::spawn(move || {
        for line in log.lines().map_while(Result::ok) {
            if let Some((_, rest)) = line.split_once("listening on ") {
                let _ = sender.send(rest.split(['"', ' ', ',']).next().and_then(|text| text.parse().ok()));
            }
        }
    });
    let address = address.recv_timeout(LIMIT).expect("docker-registry says where it listens");
    address.expect("an address and a port")
}

/// Copies an image with skopeo, over plain HTTP where it goes over the network: `oci:DIR:NAME`,
/// `docker://HOST:PORT/NAME:TAG`, …, every platform of it.
#[track_caller]
pub fn skopeo_copy(source: &str, destination: &str) {
    let mut command = Command::new("skopeo");
    command.args(["--insecure-policy", "copy", "--all", "--quiet"]);
    command.args(["--src-tls-verify=false", "--dest-tls-verify=false", source, destination]);
    run(&mut command, LIMIT).expect_success();
}
