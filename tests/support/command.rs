//! Commands with an end: what they said, and never a test that hangs on them.

use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// A command that ended by itself.
#[derive(Debug)]
pub struct Ran {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
    shown: String,
}

impl Ran {
    /// What it printed, when it exited with 0.
    #[track_caller]
    pub fn expect_success(self) -> String {
        assert!(self.status.success(), "{}: {}\n{}{}", self.shown, self.status, self.stdout, self.stderr);
        self.stdout
    }
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
            let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
            Ran { status: output.status, stdout: text(&output.stdout), stderr: text(&output.stderr), shown }
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
