//! Commands with an end: what they said, and never a test that hangs on them.

use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::app::TestApp;

/// How long a command of ours may take.
const LIMIT: Duration = Duration::from_secs(60);

/// A command that ended by itself.
#[derive(Debug)]
pub struct Ran {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
    /// What it printed, as it is.
    pub bytes: Vec<u8>,
    shown: String,
}

impl Ran {
    /// What it printed, when it exited with 0.
    #[track_caller]
    pub fn expect_success(self) -> String {
        assert!(self.status.success(), "{}: {}\n{}{}", self.shown, self.status, self.stdout, self.stderr);
        self.stdout
    }

    #[track_caller]
    pub fn exit_code(&self) -> i32 {
        self.status.code().expect("it ended by itself")
    }
}

/// Runs a command of ours to its end beside the server, which needs this thread's runtime.
pub async fn orlop(app: &TestApp, words: &[&str]) -> Ran {
    orlop_with(&[("ORLOP_SERVER", &format!("http://{}", app.address()))], words).await
}

pub async fn orlop_with(variables: &[(&str, &str)], words: &[&str]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_orlop"));
    command.env_clear().envs(variables.iter().copied()).args(words);
    tokio::task::spawn_blocking(move || run(&mut command, LIMIT)).await.expect("it ran")
}

/// Runs a command to its end with nothing on its standard input.
///
/// Panics when it cannot be started, and when it is still running after `limit`: then it is killed.
#[track_caller]
pub fn run(command: &mut Command, limit: Duration) -> Ran {
    let shown = format!("{command:?}");
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start {shown}: {error}"));
    let pid = rustix::process::Pid::from_child(&child);
    let (sender, ended) = mpsc::channel();
    thread::spawn(move || sender.send(child.wait_with_output()));
    match ended.recv_timeout(limit) {
        Ok(output) => {
            let output = output.expect("the output of a child can be read");
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
            Ran { status: output.status, stdout, stderr, bytes: output.stdout, shown }
        }
        Err(_) => {
            // Not reaped yet, or its end would have come through the channel: the pid is still its own.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            panic!("{shown} did not end within {limit:?}");
        }
    }
}

/// A process that runs beside the test and is killed with it, by its pid.
#[derive(Debug)]
pub struct Background(pub Child);

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
