//! What a plan waits for before it asks anybody.

use super::*;
use crate::registry::DockerConfig;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_that_waits_for_a_credential_ends_with_the_server() {
    let directories = [directory(), directory()];
    let [directory, other] = &directories;
    // Who opens it waits for somebody to write: so does who asks a helper that never answers.
    let pipe = other.path().join("config.json");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs");
    assert!(made.success());
    let server = Server::start_with(directory.path(), |settings| {
        settings.sources.docker = DockerConfig::new(Some(pipe.clone()));
    })
    .await;
    let planning = {
        let jobs = server.jobs.clone();
        let asked = ask("127.0.0.1:1/app:v1".to_owned());
        server.shutdown.spawn("plan", async move { jobs.plan_pull(&caller("default"), &asked).await })
    };
    // It can be opened for writing once somebody reads.
    let _writer = eventually("the configuration is being read", async || {
        tokio::net::unix::pipe::OpenOptions::new().open_sender(&pipe).ok()
    })
    .await;
    server.shutdown.begin();
    let ended = tokio::time::timeout(Duration::from_secs(10), planning).await;
    let ended = ended.expect("it does not wait on").ok().flatten().expect("no panic");
    assert!(matches!(ended, Err(Error::Unavailable { .. })), "{ended:?}");
    server.stop().await;
}
