//! `orlop serve` as a process of its own, which may be killed.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::Duration;

use http::Method;
use rustix::process::{Pid, Signal, kill_process};

use super::command::Background;
use super::request::Request;

/// The user that owns nothing.
const NOBODY: u32 = 65_534;

/// What root may do to files of any mode, taken away.
const POWERS: &str = "-dac_override,-dac_read_search";

const LIMIT: Duration = Duration::from_secs(60);

pub struct Served {
    process: Background,
    /// Told when all of the log is written.
    logged: Mutex<mpsc::Receiver<()>>,
    pub address: SocketAddr,
    client: reqwest::Client,
}

impl Served {
    /// Starts the built binary on a data directory; returns when it serves. Its log goes to `<directory>.log`.
    pub fn start(directory: &Path, settings: &[(&str, &str)]) -> Served {
        Served::start_with_log(directory, &directory.with_extension("log"), settings)
    }

    /// As [`Served::start`], without root's right to pass over the modes of files.
    pub fn start_unprivileged(directory: &Path, settings: &[(&str, &str)]) -> Served {
        let mut command = Command::new("/usr/bin/setpriv");
        if rustix::process::geteuid().is_root() {
            command.args(["--inh-caps", POWERS, "--bounding-set", POWERS]);
        }
        command.arg(env!("CARGO_BIN_EXE_orlop"));
        Served::start_by(command, directory, &directory.with_extension("log"), settings)
    }

    /// As [`Served::start`], as a user who may do nothing in particular. The directory is made theirs; only root can do that.
    pub fn start_as_nobody(directory: &Path, settings: &[(&str, &str)]) -> Served {
        let above = directory.parent().expect("a directory is in one");
        let open =
            |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("opened");
        open(above, 0o711);
        fs::create_dir_all(directory).expect("made");
        open(directory, 0o700);
        chown(directory, Some(NOBODY), Some(NOBODY)).expect("given away, which only root can do");
        // Where the binary stands they may not go.
        let binary = above.join("orlop");
        let built = env!("CARGO_BIN_EXE_orlop");
        if !binary.exists() {
            fs::hard_link(built, &binary).or_else(|_| fs::copy(built, &binary).map(drop)).expect("a binary");
        }
        let mut command = Command::new("/usr/bin/setpriv");
        let user = NOBODY.to_string();
        command.args(["--reuid", &user, "--regid", &user, "--clear-groups"]).arg(binary);
        Served::start_by(command, directory, &directory.with_extension("log"), settings)
    }

    /// As [`Served::start`], with the log in a file of the caller's choice.
    pub fn start_with_log(directory: &Path, log: &Path, settings: &[(&str, &str)]) -> Served {
        Served::start_by(Command::new(env!("CARGO_BIN_EXE_orlop")), directory, log, settings)
    }

    /// As [`Served::start`], where programs are found in this directory first.
    pub fn start_with_path(directory: &Path, programs: &Path, settings: &[(&str, &str)]) -> Served {
        let mut command = Command::new("/usr/bin/env");
        command.arg(format!("PATH={}:/usr/bin:/bin", programs.display())).arg(env!("CARGO_BIN_EXE_orlop"));
        Served::start_by(command, directory, &directory.with_extension("log"), settings)
    }

    fn start_by(mut command: Command, directory: &Path, log: &Path, settings: &[(&str, &str)]) -> Served {
        command.args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(directory);
        // Nothing of the environment of the tests is a setting of the server.
        command.env_clear();
        for (key, value) in settings {
            command.env(format!("ORLOP_{}", key.to_ascii_uppercase()), value);
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the built binary starts");
        let said = BufReader::new(child.stderr.take().expect("stderr is piped"));
        let (sender, told) = mpsc::channel();
        let (written, logged) = mpsc::channel();
        let kept_in = log.to_owned();
        thread::spawn(move || {
            let mut kept = String::new();
            for line in said.lines().map_while(Result::ok) {
                kept.push_str(&line);
                kept.push('\n');
                let _ = fs::write(&kept_in, &kept);
                let address = line.split("UI    http://").nth(1).and_then(|rest| rest.split('/').next());
                let _ = address.map(|address| sender.send(address.to_owned()));
            }
            let _ = written.send(());
        });
        let process = Background(child);
        let address = told
            .recv_timeout(LIMIT)
            .unwrap_or_else(|_| panic!("no server: {}", fs::read_to_string(log).unwrap_or_default()));
        let client = reqwest::Client::builder().no_proxy().timeout(LIMIT).build().expect("a client");
        Served { process, logged: Mutex::new(logged), address: address.parse().expect("an address"), client }
    }

    pub fn request(&self, method: Method, path: impl Into<String>) -> Request {
        Request::new(self.client.clone(), self.address, method, path.into())
    }

    /// kill -9. The process is reaped when this value goes.
    pub fn kill_now(&self) {
        kill_process(Pid::from_child(&self.process.0), Signal::KILL).expect("the process is ours");
    }

    /// SIGTERM; how the process ended.
    pub fn terminate(mut self) -> std::process::ExitStatus {
        let child = &mut self.process.0;
        kill_process(Pid::from_child(child), Signal::TERM).expect("the process is ours");
        let status = child.wait().expect("a child can be waited for");
        // Its last words are in the log then, unless something that it has started still holds its stderr.
        let _ = self.logged.get_mut().expect("nobody holds it").recv_timeout(LIMIT);
        status
    }
}
