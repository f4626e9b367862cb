//! Secrets from people: from a pipe, or typed without being shown. Never from a flag, which every user of a machine can
//! read.

use std::io::{self, BufRead, IsTerminal, Read, Write};

use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, tcgetattr, tcsetattr};

use super::failure::{Exit, Failure};

/// Longest secret that is read, in bytes.
const LONGEST_BYTES: usize = 16 * 1024;

/// One line of stdin; on a terminal it is asked for, and not shown while it is typed.
///
/// # Errors
/// `Usage` when nothing comes, or too much; `Interrupted` by Ctrl-C; the failure to read.
pub fn read_secret(prompt: &str) -> Result<String, Failure> {
    let doing = format!("read the {prompt}");
    let stdin = io::stdin();
    let hidden = stdin.is_terminal().then(|| Hidden::new(prompt)).flatten();
    let read = match hidden {
        Some(_) => read_keys(stdin.lock().bytes()),
        None => read_line(stdin.lock()).map(Some),
    };
    drop(hidden);
    let Some(line) = read.map_err(|error| Failure::io(&doing, &error))? else {
        return Err(Failure::new(Exit::Interrupted, doing, "interrupted"));
    };
    match String::from_utf8(line) {
        Ok(secret) if secret.is_empty() => Err(Failure::usage(doing, "nothing came on stdin")),
        Ok(secret) if secret.len() > LONGEST_BYTES => {
            Err(Failure::usage(doing, format!("it is longer than {LONGEST_BYTES} bytes")))
        }
        Ok(secret) => Ok(secret),
        Err(_) => Err(Failure::usage(doing, "it is not UTF-8 text")),
    }
}

/// A line without its end. One that is too long is as long as one can be that still shows it.
fn read_line(input: impl BufRead) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    input.take(LONGEST_BYTES as u64 + 2).read_until(b'\n', &mut line)?;
    while line.pop_if(|byte| matches!(byte, b'\r' | b'\n')).is_some() {}
    Ok(line)
}

/// What is typed on a terminal that hands over each key and acts on none, so that nothing ends this while the terminal is
/// [`Hidden`]; `None` when it is interrupted.
fn read_keys(keys: impl Iterator<Item = io::Result<u8>>) -> io::Result<Option<Vec<u8>>> {
    const INTERRUPT: u8 = 3;
    const END: u8 = 4;
    const BACKSPACE: u8 = 8;
    const KILL_LINE: u8 = 21;
    const DELETE: u8 = 127;
    let mut typed: Vec<u8> = Vec::new();
    for key in keys {
        match key? {
            INTERRUPT => return Ok(None),
            END | b'\r' | b'\n' => break,
            // The last character, with all its bytes.
            BACKSPACE | DELETE => while typed.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {},
            KILL_LINE => typed.clear(),
            // No secret has control characters.
            0..=31 => {}
            key => typed.extend((typed.len() <= LONGEST_BYTES).then_some(key)),
        }
    }
    Ok(Some(typed))
}

/// A terminal that does not show what is typed, until this is dropped.
struct Hidden(rustix::termios::Termios);

impl Hidden {
    fn new(prompt: &str) -> Option<Hidden> {
        let before = tcgetattr(io::stdin()).ok()?;
        let mut silent = before.clone();
        // A line of the terminal's own would end after 4 KiB, and Ctrl-C would end us before it shows again what is typed.
        silent.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
        silent.special_codes[SpecialCodeIndex::VMIN] = 1;
        silent.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(io::stdin(), OptionalActions::Now, &silent).ok()?;
        let mut stderr = io::stderr().lock();
        // That nobody sees the question changes nothing.
        let _ = write!(stderr, "{prompt}: ").and_then(|()| stderr.flush());
        Some(Hidden(before))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
        let _ = writeln!(io::stderr().lock());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(keys: &[u8]) -> Option<String> {
        let read = read_keys(keys.iter().map(|key| Ok(*key))).expect("keys can be read");
        read.map(|bytes| String::from_utf8(bytes).expect("text"))
    }

    #[test]
    fn what_is_typed_can_be_mended_and_broken_off() {
        assert_eq!(typed(b"s3cret\nmore").as_deref(), Some("s3cret"));
        assert_eq!(typed("aé\u{7f}b\u{8}c\r".as_bytes()).as_deref(), Some("ac"));
        assert_eq!(typed(b"wrong\x15right\x04").as_deref(), Some("right"));
        assert_eq!(typed(b"\x7f\x1a\n").as_deref(), Some(""));
        assert_eq!(typed(b"s3cr\x03et\n"), None, "Ctrl-C is ours to act on");
    }

    #[test]
    fn a_secret_that_is_too_long_is_never_cut_to_fit() {
        let longest = "x".repeat(LONGEST_BYTES);
        let line = |text: &str| read_line(text.as_bytes()).expect("a line").len();
        assert_eq!(line(&format!("{longest}\r\n")), LONGEST_BYTES);
        assert!(line(&format!("{longest}x\n")) > LONGEST_BYTES);
        assert!(line(&longest.repeat(2)) > LONGEST_BYTES);
        assert!(typed(longest.repeat(2).as_bytes()).expect("text").len() > LONGEST_BYTES);
    }
}
