//! Secrets from people: from a pipe, or typed without being shown. Never from a flag, which every user of a machine can
//! read.

use std::io::{BufRead, IsTerminal, Write};

use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use super::failure::Failure;

/// Longest secret that is read, in bytes.
const LONGEST_BYTES: u64 = 16 * 1024;

/// One line of stdin; on a terminal it is asked for, and not shown while it is typed.
///
/// # Errors
/// `Usage` when nothing comes; the failure to read.
pub fn read_secret(prompt: &str) -> Result<String, Failure> {
    let doing = format!("read the {prompt}");
    let stdin = std::io::stdin();
    let hidden = stdin.is_terminal().then(|| Hidden::new(prompt)).flatten();
    let mut line = String::new();
    let mut limited = std::io::Read::take(stdin.lock(), LONGEST_BYTES);
    limited.read_line(&mut line).map_err(|error| Failure::io(&doing, &error))?;
    drop(hidden);
    match line.trim_end_matches(['\r', '\n']) {
        "" => Err(Failure::usage(doing, "nothing came on stdin")),
        secret => Ok(secret.to_owned()),
    }
}

/// A terminal that does not show what is typed, until this is dropped.
struct Hidden(rustix::termios::Termios);

impl Hidden {
    fn new(prompt: &str) -> Option<Hidden> {
        let before = tcgetattr(std::io::stdin()).ok()?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(std::io::stdin(), OptionalActions::Now, &silent).ok()?;
        let mut stderr = std::io::stderr().lock();
        // That nobody sees the question changes nothing.
        let _ = write!(stderr, "{prompt}: ").and_then(|()| stderr.flush());
        Some(Hidden(before))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
        let _ = writeln!(std::io::stderr().lock());
    }
}
