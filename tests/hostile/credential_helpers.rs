//! Docker's credential helpers: programs of others, which may say anything, and may never end.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use tokio::task::{JoinHandle, spawn_blocking};

use crate::support::command::run;
use crate::support::fixture_registry::{Auth, FixtureRegistry};
use crate::support::served::Served;

const PULLS: &str = "/api/v1/pulls";
const LIMIT: Duration = Duration::from_secs(60);

/// A helper that tells `told` when it begins, then hangs together with a child of its own. Who reads on hears that all of
/// them are gone, or that one was left alone.
const HANGING: &str = "exec 9>told; echo begun >&9; (sleep 20; echo left alone >&9) & wait";

/// A registry with `app:v1` for whoever has the password, and a directory for what a server needs to get it.
struct Harbour {
    registry: FixtureRegistry,
    directory: tempfile::TempDir,
}

impl Harbour {
    async fn make() -> Harbour {
        let registry = FixtureRegistry::start().await;
        registry.push_image("app", Some("v1"), "linux/amd64", &[b"layer"]);
        registry.require(Auth::Password("ci:s3cret"));
        let directory = tempfile::tempdir().expect("a directory");
        let helpers = json!({"credHelpers": {registry.host(): "test"}});
        fs::write(directory.path().join("config.json"), helpers.to_string()).expect("a file");
        fs::create_dir(directory.path().join("bin")).expect("a directory");
        Harbour { registry, directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Lets the helper be this script.
    fn help(&self, script: &str) {
        let text = format!("#!/bin/sh\ncd {}\n{script}\n", self.directory.path().display());
        let mut install = Command::new("install");
        install.args(["-m", "755", "/dev/stdin"]).arg(self.path("bin/docker-credential-test"));
        let mut installing = install.stdin(Stdio::piped()).spawn().expect("install runs");
        installing.stdin.take().expect("its input").write_all(text.as_bytes()).expect("the script");
        assert!(installing.wait().expect("its end").success());
    }

    /// Makes the pipe of a hanging helper, and waits for it to begin; what there is to read on.
    fn listen(&self) -> JoinHandle<BufReader<fs::File>> {
        let pipe = self.path("told");
        run(Command::new("mkfifo").arg(&pipe), LIMIT).expect_success();
        spawn_blocking(move || {
            let mut told = BufReader::new(fs::File::open(pipe).expect("a pipe"));
            let mut line = String::new();
            told.read_line(&mut line).expect("its first words");
            assert_eq!(line, "begun\n");
            told
        })
    }

    fn serve(&self) -> Served {
        let config = self.path("config.json").to_str().expect("a path").to_owned();
        Served::start_with_path(&self.path("data"), &self.path("bin"), &[("docker_config", &config)])
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("data.log")).expect("a log")
    }

    async fn begin(&self, served: &Served) -> String {
        let asked = json!({"ref": format!("{}/app:v1", self.registry.host()), "platforms": ["linux/amd64"]});
        served.request(Method::POST, PULLS).json(asked).await.expect(202).place().to_owned()
    }
}

/// What a hanging helper says after it has begun, until none of its processes is left.
fn listen_on(mut told: BufReader<fs::File>) -> JoinHandle<String> {
    spawn_blocking(move || {
        let mut rest = String::new();
        told.read_to_string(&mut rest).expect("its last words");
        rest
    })
}

async fn end(served: &Served, pull: &str) -> Value {
    served.request(Method::GET, format!("{pull}?wait=60s")).await.expect(200).json()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_helper_on_the_path_of_the_server_lets_a_pull_in() {
    let harbour = Harbour::make().await;
    harbour.help(r#"cat >asked; echo " $*" >>asked; echo '{"Username":"ci","Secret":"s3cret"}'"#);
    let served = harbour.serve();
    let pulled = end(&served, &harbour.begin(&served).await).await;
    assert_eq!(pulled["state"], "succeeded", "{pulled}");
    let asked = fs::read_to_string(harbour.path("asked")).expect("what it was asked");
    assert_eq!(asked, format!("{} get\n", harbour.registry.host()));
    let basic = |seen: &crate::support::fixture_registry::Seen| {
        seen.headers.get("authorization").is_some_and(|value| value == "Basic Y2k6czNjcmV0")
    };
    assert!(harbour.registry.seen().iter().skip(1).all(basic), "after the first question");
    assert!(served.terminate().success());
    assert!(!harbour.log().contains("s3cret"), "{}", harbour.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_helper_says_that_is_no_credential_fails_the_pull_and_is_repeated_nowhere() {
    let harbour = Harbour::make().await;
    let served = harbour.serve();
    for (script, words) in [
        ("echo s3cret", "docker-credential-test gave no credential"),
        (r#"echo '{"Username":"ci","Secret":["s3cret"]}'"#, "docker-credential-test gave no credential"),
        (r#"printf '{"Username":"ci","Secret":"s3cret\\r\\nX: y","Extra":\033}'"#, "gave no credential"),
        ("echo s3cret >&2; echo s3cret; exit 3", "docker-credential-test failed"),
        ("exec yes s3cret", "docker-credential-test failed"),
        ("head -c 300000000 /dev/zero | tr '\\0' s; exit 0", "docker-credential-test gave no credential"),
    ] {
        harbour.help(script);
        let failed = end(&served, &harbour.begin(&served).await).await;
        assert_eq!(failed["error"]["code"], "invalid-argument", "{script}: {failed}");
        let detail = failed["error"]["detail"].as_str().expect("words");
        assert!(detail.contains(words), "{script}: {detail}");
        assert!(!failed.to_string().contains("s3cret"), "{script}: {failed}");
    }
    fs::remove_file(harbour.path("bin/docker-credential-test")).expect("there was one");
    let failed = end(&served, &harbour.begin(&served).await).await;
    assert_eq!(failed["error"]["code"], "invalid-argument", "{failed}");
    assert_eq!(harbour.registry.log(), [""; 0], "nobody is asked without what was configured");
    let content = served.request(Method::GET, "/api/v1/content").await.expect(200).json();
    assert_eq!(content["items"], json!([]));
    assert!(served.terminate().success());
    assert!(!harbour.log().contains("s3cret"), "{}", harbour.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_that_waits_for_a_helper_can_be_cancelled_and_takes_it_along() {
    let harbour = Harbour::make().await;
    harbour.help(HANGING);
    let begun = harbour.listen();
    let served = harbour.serve();
    let pull = harbour.begin(&served).await;
    let left = listen_on(begun.await.expect("it begins"));
    served.request(Method::DELETE, pull.clone()).await.expect(202);
    assert_eq!(end(&served, &pull).await["state"], "cancelled");
    assert_eq!(left.await.expect("no panic"), "", "nothing that it has started is left");
    assert_eq!(harbour.registry.log(), [""; 0]);
    assert!(served.terminate().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stops_takes_a_hanging_helper_along_and_asks_the_next_one() {
    let harbour = Harbour::make().await;
    harbour.help(HANGING);
    let begun = harbour.listen();
    let served = harbour.serve();
    let pull = harbour.begin(&served).await;
    let left = listen_on(begun.await.expect("it begins"));
    assert!(served.terminate().success());
    assert_eq!(left.await.expect("no panic"), "", "nothing that it has started is left");
    harbour.help(r#"echo '{"Username":"ci","Secret":"s3cret"}'"#);
    let served = harbour.serve();
    let pulled = end(&served, &pull).await;
    assert_eq!((&pulled["state"], &pulled["attempt"]), (&json!("succeeded"), &json!(2)), "{pulled}");
    assert!(served.terminate().success());
}
