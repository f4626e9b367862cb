//! Docker's file as it is found, and helpers of every kind.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;

use super::*;

async fn find(text: &str, authority: &str) -> Result<Option<Credential>> {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("config.json");
    fs::write(&path, text).expect("a file");
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

/// A helper that runs this script.
fn helper(directory: &Path, script: &str) -> String {
    let path = directory.join("docker-credential-test");
    // By a process of its own: no child of another test holds the file open for writing while it is run.
    let mut install = std::process::Command::new("install");
    install.args(["-m", "755", "/dev/stdin"]).arg(&path).stdin(Stdio::piped());
    let mut installing = install.spawn().expect("install runs");
    let mut input = installing.stdin.take().expect("its input");
    write!(input, "#!/bin/sh\n{script}\n").expect("the script");
    drop(input);
    assert!(installing.wait().expect("its end").success());
    path.to_str().expect("a path").to_owned()
}

async fn ask(script: &str) -> Result<Option<Credential>, String> {
    let directory = tempfile::tempdir().expect("a directory");
    ask_program(&helper(directory.path(), script), "r.io", limits::CREDENTIAL_HELPER_TIME).await
}

#[tokio::test]
async fn a_helper_is_asked_for_the_server_on_its_input_and_answers_a_password_or_a_token() {
    let answer = r#"read server; printf '{"ServerURL":"%s","Username":"%s","Secret":"%s"}' "$server" "$1-$server" w0rd"#;
    assert_eq!(ask(answer).await, Ok(password("get-r.io", "w0rd")));
    let token = r#"echo '{"Username":"<token>","Secret":"refresh"}'"#;
    let refresh = Credential::IdentityToken { token: Secret::new("refresh") };
    assert_eq!(ask(token).await, Ok(Some(refresh)));
    let unknown = "echo credentials not found in native keychain; exit 1";
    assert_eq!(ask(unknown).await, Ok(None));
}

#[tokio::test]
async fn a_helper_need_not_read_what_it_is_asked_for() {
    for _ in 0..20 {
        let deaf = r#"exec <&-; echo '{"Username":"me","Secret":"s3cret"}'"#;
        assert_eq!(ask(deaf).await, Ok(password("me", "s3cret")));
    }
}

#[tokio::test]
async fn what_a_helper_says_that_is_no_credential_is_told_without_being_repeated() {
    for (script, words) in [
        ("echo s3cret", "gave no credential"),
        ("printf '\\0\\033\\377'", "gave no credential"),
        ("true", "gave no credential"),
        (r#"echo '{"Username":"s3cret"}'"#, "gave no credential"),
        ("echo s3cret; exit 1", "failed"),
        ("kill -9 $$", "failed"),
        // More than is read: it is told to stop by its pipe, and ends or not.
        ("exec yes s3cret", "failed"),
        ("head -c 2000000 /dev/zero; exit 0", "gave no credential"),
    ] {
        let error = ask(script).await.expect_err(script);
        assert!(error.ends_with(words) && !error.contains("s3cret"), "{script}: {error}");
    }
}

/// A helper that says when it has begun, then hangs together with a child of its own. Who reads on hears that all of them
/// are gone, or that one was left alone.
const HANGING: &str = "exec 9>told; echo begun >&9; (sleep 20; echo left alone >&9) & wait";

type Answered = Result<Option<Credential>, String>;

/// Runs the hanging helper for `time`, or until `end` after it has begun; its answer, and what it said after that.
async fn hang(time: Duration, end: impl Future<Output = ()>) -> (Option<Answered>, String) {
    let directory = tempfile::tempdir().expect("a directory");
    let pipe = directory.path().join("told");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs").success());
    let program = helper(directory.path(), &format!("cd {}; {HANGING}", directory.path().display()));
    let begun = tokio::task::spawn_blocking(move || {
        let mut told = BufReader::new(fs::File::open(pipe).expect("a pipe"));
        let mut line = String::new();
        told.read_line(&mut line).expect("its first words");
        (told, line)
    });
    let mut asking = Box::pin(ask_program(&program, "r.io", time));
    let (mut told, line) = tokio::select! {
        answer = &mut asking => panic!("it hangs: {answer:?}"),
        told = begun => told.expect("no panic"),
    };
    assert_eq!(line, "begun\n");
    let answer = tokio::select! {
        answer = asking => Some(answer),
        () = end => None,
    };
    let rest = tokio::task::spawn_blocking(move || {
        let mut rest = String::new();
        told.read_to_string(&mut rest).map(|_| rest)
    });
    (answer, rest.await.expect("no panic").expect("its last words"))
}

#[tokio::test]
async fn a_helper_that_hangs_is_given_up_after_its_time_with_all_that_it_has_started() {
    let (answer, left) = hang(Duration::from_secs(2), std::future::pending()).await;
    let error = answer.expect("its time is over").expect_err("no answer");
    assert!(error.ends_with("docker-credential-test did not answer in time"), "{error}");
    assert_eq!(left, "");
}

#[tokio::test]
async fn a_helper_whom_nobody_waits_for_any_more_is_gone_with_all_that_it_has_started() {
    assert_eq!(hang(limits::CREDENTIAL_HELPER_TIME, std::future::ready(())).await, (None, String::new()));
}

#[tokio::test]
async fn what_a_helper_leaves_behind_on_purpose_stays() {
    let directory = tempfile::tempdir().expect("a directory");
    let pipe = directory.path().join("told");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs").success());
    // An agent that waits for us: it lets go of the helper's output, as agents do.
    let agent = format!(
        "(echo stays >{}) >/dev/null & echo '{{\"Username\":\"me\",\"Secret\":\"s3cret\"}}'",
        pipe.display()
    );
    let program = helper(directory.path(), &agent);
    assert_eq!(
        ask_program(&program, "r.io", limits::CREDENTIAL_HELPER_TIME).await,
        Ok(password("me", "s3cret"))
    );
    let said = tokio::task::spawn_blocking(move || fs::read_to_string(pipe)).await.expect("no panic");
    assert_eq!(said.expect("its words"), "stays\n");
}
