//! Pulls from real registries that do not let everybody in: passwords, signed tokens, certificates of their own.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use serde_json::{Value, json};

use crate::support::app::{On, TestApp};
use crate::support::docker_registry::{DockerRegistry, skopeo_copy};
use crate::support::image::{Image, Kind};
use crate::support::token_server::TokenServer;

/// `ci` with the password `s3cret`, as bcrypt writes it.
const HTPASSWD: &str = "ci:$2y$04$QJ00q5fBta3laC7bSWyPqeQ0q4l7ZVzi6OJO4/yUyNzKwo8A.goEi\n";

/// A registry with `cargo/rope:v1` in it, which others may serve in their ways.
async fn filled(directory: &Path) -> DockerRegistry {
    let image = Image::multi_platform(Kind::Oci, &["linux/amd64"]).await;
    let registry = DockerRegistry::start();
    let name = format!("docker://{}/cargo/rope:v1", registry.host());
    skopeo_copy(&image.write_dir(&directory.join("image")), &name);
    registry
}

/// The outcome of a pull of that image: its state, and its error's code.
async fn pull(app: &TestApp, registry: &DockerRegistry, image_name: &str) -> (String, String) {
    let reference = format!("{}/cargo/rope:v1", registry.host());
    let asked = json!({"ref": reference, "platforms": ["linux/amd64"], "image_name": image_name});
    let made = app.post("/api/v1/pulls").json(asked).await.expect(202);
    let pull = app.get(format!("{}?wait=60s", made.place())).await.expect(200).json();
    let text = |pointer: &str| pull.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    (text("/state"), text("/error/code"))
}

async fn put(app: &TestApp, registry: &DockerRegistry, settings: Value) {
    let answer = app.put(format!("/api/v1/registries/{}", registry.host())).json(settings).await;
    assert!(matches!(answer.status, 200 | 201), "{answer}");
}

fn outcome(state: &str, code: &str) -> (String, String) {
    (state.to_owned(), code.to_owned())
}

/// A certificate authority, and what it gives to a server and to a client.
struct Authority {
    root: String,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "Harbour");
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("an issuer");
        Authority { root: issuer.pem(), issuer }
    }

    /// A certificate and its key, in PEM.
    fn issue(&self, name: &str, usage: ExtendedKeyUsagePurpose) -> (String, String) {
        let mut params = CertificateParams::new([name.to_owned()]).expect("a name");
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        (certificate.pem(), key.serialize_pem())
    }

    /// The `tls` part of a registry's configuration, its files in `directory`.
    fn tls(&self, directory: &Path, clients: bool) -> String {
        let (certificate, key) = self.issue("127.0.0.1", ExtendedKeyUsagePurpose::ServerAuth);
        let write = |name: &str, text: &str| -> PathBuf {
            let path = directory.join(name);
            fs::write(&path, text).expect("a file");
            path
        };
        let (certificate, key) = (write("server.pem", &certificate), write("server.key", &key));
        let clients = match clients {
            true => format!(", clientcas: ['{}']", write("clients.pem", &self.root).display()),
            false => String::new(),
        };
        format!(", tls: {{certificate: '{}', key: '{}'{clients}}}", certificate.display(), key.display())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_with_passwords_lets_in_who_knows_one() {
    let directory = tempfile::tempdir().expect("a directory");
    let plain = filled(directory.path()).await;
    let htpasswd = directory.path().join("htpasswd");
    fs::write(&htpasswd, HTPASSWD).expect("a file");
    let auth = format!("auth: {{htpasswd: {{realm: harbour, path: '{}'}}}}", htpasswd.display());
    let registry = DockerRegistry::start_with(Some(&plain), "", &auth);
    let docker = directory.path().join("config.json");
    fs::write(&docker, json!({"auths": {}}).to_string()).expect("a file");
    let app = TestApp::with(On::Sqlite, &[("docker_config", docker.to_str().expect("a path"))]).await;

    assert_eq!(pull(&app, &registry, "nobody").await, outcome("failed", "upstream-denied"));
    put(&app, &registry, json!({"credential": {"username": "ci", "password": "wrong"}})).await;
    assert_eq!(pull(&app, &registry, "wrong").await, outcome("failed", "upstream-denied"));
    put(&app, &registry, json!({"credential": {"username": "ci", "password": "s3cret"}})).await;
    assert_eq!(pull(&app, &registry, "right").await, outcome("succeeded", ""));

    // And once more by what `docker login` left.
    app.delete(format!("/api/v1/registries/{}", registry.host())).await.expect(204);
    let auths = json!({"auths": {(registry.host()): {"auth": "Y2k6czNjcmV0"}}});
    fs::write(&docker, auths.to_string()).expect("a file");
    assert_eq!(pull(&app, &registry, "docker").await, outcome("succeeded", ""));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_with_a_token_server_lets_in_whom_that_lets_in() {
    let directory = tempfile::tempdir().expect("a directory");
    let plain = filled(directory.path()).await;
    let bundle = directory.path().join("bundle.pem");
    let tokens = TokenServer::start(&bundle, "ci:s3cret", Duration::from_secs(300)).await;
    let registry = DockerRegistry::start_with(Some(&plain), "", &tokens.auth(&bundle));
    let app = TestApp::with(On::Sqlite, &[]).await;
    let credential = json!({"credential": {"username": "ci", "password": "s3cret"}});

    put(&app, &registry, credential).await;
    assert_eq!(pull(&app, &registry, "unknown realm").await, outcome("failed", "upstream-denied"));
    assert!(tokens.asked().is_empty(), "a realm on another host gets nothing unasked");
    let known = json!({"token_hosts": [tokens.address.to_string()]});
    put(&app, &registry, known).await;
    assert_eq!(pull(&app, &registry, "known realm").await, outcome("succeeded", ""));
    assert_eq!(tokens.asked(), ["repository:cargo/rope:pull"], "one token for one repository");
    let tested = app.post(format!("/api/v1/registries/{}/test", registry.host()));
    let tested = tested.json(json!({"repository": "cargo/rope"})).await.expect(200).json();
    assert_eq!(tested["ok"], true, "{tested}");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_with_a_certificate_of_its_own_is_trusted_when_it_is_configured() {
    let directory = tempfile::tempdir().expect("a directory");
    let plain = filled(directory.path()).await;
    let (authority, stranger) = (Authority::new(), Authority::new());
    let registry = DockerRegistry::start_with(Some(&plain), &authority.tls(directory.path(), false), "");
    let hosts = directory.path().join("hosts");
    fs::create_dir(&hosts).expect("a directory");
    let app = TestApp::with(On::Sqlite, &[("hosts_dir", hosts.to_str().expect("a path"))]).await;

    put(&app, &registry, json!({"ca": [stranger.root]})).await;
    assert_eq!(pull(&app, &registry, "stranger").await, outcome("failed", "upstream-untrusted"));
    let test = format!("/api/v1/registries/{}/test", registry.host());
    let tested = app.post(test.clone()).await.expect(200).json();
    let last = tested["hosts"][0]["steps"].as_array().expect("steps").last().expect("a step").clone();
    assert_eq!((&last["step"], &last["ok"]), (&json!("tls"), &json!(false)), "{tested}");
    put(&app, &registry, json!({"ca": [stranger.root], "skip_verify": true})).await;
    assert_eq!(pull(&app, &registry, "anybody").await, outcome("succeeded", ""));
    put(&app, &registry, json!({"ca": [authority.root]})).await;
    assert_eq!(pull(&app, &registry, "harbour").await, outcome("succeeded", ""));
    assert_eq!(app.post(test).await.expect(200).json()["ok"], true);

    // The same by a file, which is read without a restart.
    app.delete(format!("/api/v1/registries/{}", registry.host())).await.expect(204);
    let own = hosts.join(registry.host().replace(':', "_") + "_");
    fs::create_dir_all(&own).expect("a directory");
    for (root, expected) in [
        (&stranger.root, outcome("failed", "upstream-untrusted")),
        (&authority.root, outcome("succeeded", "")),
    ] {
        fs::write(own.join("ca.pem"), root).expect("a file");
        fs::write(own.join("hosts.toml"), "ca = \"ca.pem\"\n").expect("a file");
        assert_eq!(pull(&app, &registry, &format!("file {}", expected.0)).await, expected);
    }
    let shown = app.get(format!("/api/v1/registries/{}", registry.host())).await.expect(200).json();
    assert_eq!(shown["source"], "file");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_wants_a_client_certificate_gets_ours() {
    let directory = tempfile::tempdir().expect("a directory");
    let plain = filled(directory.path()).await;
    let authority = Authority::new();
    let registry = DockerRegistry::start_with(Some(&plain), &authority.tls(directory.path(), true), "");
    let app = TestApp::with(On::Sqlite, &[]).await;
    put(&app, &registry, json!({"ca": [authority.root]})).await;
    let asked = json!({"ref": format!("{}/cargo/rope:v1", registry.host()), "trace": true});
    let made = app.post("/api/v1/pulls").json(asked).await.expect(202);
    let nobody = app.get(format!("{}?wait=60s", made.place())).await.expect(200).json();
    let error = &nobody["error"];
    assert_eq!((&nobody["state"], &error["code"]), (&json!("failed"), &json!("upstream-denied")), "{nobody}");
    assert!(
        error["detail"].as_str().is_some_and(|said| said.contains("wants a client certificate")),
        "{error}"
    );
    assert!(error["hint"].as_str().is_some_and(|hint| hint.contains("`client_key`")), "{error}");
    let (certificate, key) = authority.issue("orlop", ExtendedKeyUsagePurpose::ClientAuth);
    let ours = json!({"ca": [authority.root], "client_certificate": certificate, "client_key": key});
    put(&app, &registry, ours).await;
    assert_eq!(pull(&app, &registry, "ours").await, outcome("succeeded", ""));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_serves_what_the_registry_cannot() {
    let directory = tempfile::tempdir().expect("a directory");
    let mirror = filled(directory.path()).await;
    let empty = DockerRegistry::start();
    let app = TestApp::with(On::Sqlite, &[]).await;
    let mirrors =
        |first: String| json!({"mirrors": [{"url": first}, {"url": format!("http://{}", mirror.host())}]});
    put(&app, &empty, mirrors("http://127.0.0.1:1".to_owned())).await;
    let reference = format!("{}/cargo/rope:v1", empty.host());
    let asked = json!({"ref": reference, "platforms": ["linux/amd64"], "trace": true});
    let made = app.post("/api/v1/pulls").json(asked).await.expect(202);
    let pull = app.get(format!("{}?wait=60s", made.place())).await.expect(200).json();
    assert_eq!(pull["state"], "succeeded", "{pull}");
    let trace = app.get(format!("{}/trace", made.place())).await.expect(200).json();
    let urls = trace["items"].as_array().expect("a list").iter().map(|line| line["url"].as_str());
    let hosts: Vec<&str> = urls.map(|url| url.expect("a URL").split('/').nth(2).expect("a host")).collect();
    assert_eq!(hosts[0], "127.0.0.1:1", "the mirrors are asked in their order");
    assert!(hosts[1..].iter().all(|host| *host == mirror.host()), "one that failed is asked last: {hosts:?}");
    let images = app.get("/api/v1/images").await.expect(200).json();
    assert_eq!(images["items"][0]["name"], reference, "the image goes by its own name");
    app.stop().await;
}
