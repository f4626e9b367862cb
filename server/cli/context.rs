//! What every command has at hand: the server, and how to talk to the person.

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::Value;

use super::client::{Client, Echo};
use super::failure::Failure;
use super::progress::Size;
use super::text::{escape, to_pretty_json};

/// The flags of every command that asks a server.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Server and output")]
pub struct Global {
    /// Server to ask [env: ORLOP_SERVER] [default: http://127.0.0.1:7070]
    #[arg(long, global = true, value_name = "URL")]
    pub server: Option<String>,
    /// File that holds the token; ORLOP_TOKEN holds the token itself
    #[arg(long, global = true, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Namespace to work in [env: ORLOP_NAMESPACE] [default: default]
    #[arg(long, global = true, value_name = "NAME")]
    pub namespace: Vec<String>,
    /// Print JSON, with the field names of the REST API
    #[arg(long, global = true)]
    pub json: bool,
    /// Colours; also NO_COLOR, CLICOLOR_FORCE and TERM=dumb
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub color: When,
    /// Show each request as a curl command on stderr
    #[arg(long, global = true)]
    pub print_curl: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum When {
    Auto,
    Always,
    Never,
}

const DEFAULT_SERVER: &str = "http://127.0.0.1:7070";

pub struct Context {
    pub client: Client,
    pub output: Output,
    pub paint: Paint,
}

/// The form of what goes to stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    Text,
    Json,
}

/// Whether stderr and stdout take colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paint {
    Plain,
    Colour,
}

impl Context {
    /// # Errors
    /// `Usage` for a server, token or namespace that cannot be used.
    pub fn new(global: &Global) -> Result<Context, Failure> {
        let echo = if global.print_curl { Echo::Curl } else { Echo::Silent };
        let token = token(global)?;
        let server = global.server.clone().map(Ok).or_else(|| text_of("ORLOP_SERVER"));
        let server = server.transpose()?.unwrap_or_else(|| DEFAULT_SERVER.to_owned());
        let client = Client::new(&server, token.as_deref(), namespace(global)?, echo)?;
        Ok(Context { client, output: global.output(), paint: global.paint() })
    }

    /// Prints a value as JSON, or as the text that `text` makes of it.
    ///
    /// # Errors
    /// When stdout cannot be written.
    pub fn print(&self, value: &Value, text: impl FnOnce(&Value) -> String) -> Result<(), Failure> {
        match self.output {
            Output::Json => write_line(&to_pretty_json(value)),
            Output::Text => write_line(&text(value)),
        }
    }
}

impl Global {
    pub fn output(&self) -> Output {
        if self.json { Output::Json } else { Output::Text }
    }

    /// `--color` wins over NO_COLOR, that over CLICOLOR_FORCE, and that over what the terminal is.
    pub fn paint(&self) -> Paint {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty() && value != "0");
        let colour = match self.color {
            When::Always => true,
            When::Never => false,
            When::Auto if std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) => false,
            When::Auto if set("CLICOLOR_FORCE") => true,
            When::Auto => std::io::stderr().is_terminal() && !is_dumb(),
        };
        if colour { Paint::Colour } else { Paint::Plain }
    }
}

impl Paint {
    pub fn error(self, text: &str) -> String {
        match (self, text.strip_prefix("error:")) {
            (Paint::Colour, Some(rest)) => format!("\x1b[1;31merror:\x1b[0m{rest}"),
            (Paint::Colour | Paint::Plain, _) => text.to_owned(),
        }
    }

    pub fn bold(self, text: &str) -> String {
        match self {
            Paint::Colour => format!("\x1b[1m{text}\x1b[0m"),
            Paint::Plain => text.to_owned(),
        }
    }
}

pub fn is_dumb() -> bool {
    std::env::var_os("TERM").is_some_and(|term| term == "dumb")
}

/// An empty variable is an unset one: compose files and units cannot leave a variable out.
fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// A variable that is text.
pub fn text_of(name: &str) -> Option<Result<String, Failure>> {
    let text = variable(name)?.into_string();
    Some(text.map_err(|_| Failure::usage(format!("read {name}"), "it is not UTF-8 text")))
}

/// A flag before the environment; the token itself is never a flag, for every user of a machine can read those.
fn token(global: &Global) -> Result<Option<String>, Failure> {
    let read = |path: PathBuf| {
        let doing = format!("read the token in {}", path.display());
        let text = std::fs::read_to_string(&path).map_err(|e| Failure::io(&doing, &e))?;
        match text.trim() {
            "" => Err(Failure::usage(doing, "the file is empty")),
            token => Ok(Some(token.to_owned())),
        }
    };
    if let Some(path) = global.token_file.clone() {
        return read(path);
    }
    match (text_of("ORLOP_TOKEN"), variable("ORLOP_TOKEN_FILE")) {
        (Some(token), _) => token.map(|token| Some(token.trim().to_owned())),
        (None, Some(path)) => read(path.into()),
        (None, None) => Ok(None),
    }
}

fn namespace(global: &Global) -> Result<Option<String>, Failure> {
    match global.namespace.as_slice() {
        [] => text_of("ORLOP_NAMESPACE").transpose(),
        [one] => Ok(Some(one.clone())),
        [_, ..] => Err(Failure::usage("choose a namespace", "--namespace stands there more than once")),
    }
}

/// Writes to stdout, where the data goes.
///
/// # Errors
/// When it cannot be written; silently when nobody reads any more.
pub fn write_line(text: &str) -> Result<(), Failure> {
    let line = if text.is_empty() || text.ends_with('\n') { text.to_owned() } else { format!("{text}\n") };
    let mut out = std::io::stdout().lock();
    out.write_all(line.as_bytes()).and_then(|()| out.flush()).map_err(|e| Failure::io("write to stdout", &e))
}

/// Says something to the person, on stderr. That nobody hears it changes nothing.
pub fn say(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// The size of the terminal behind stderr; the classic one where it does not tell.
pub fn terminal_size() -> Size {
    match rustix::termios::tcgetwinsize(std::io::stderr()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => {
            Size { rows: size.ws_row.into(), columns: size.ws_col.into() }
        }
        Ok(_) | Err(_) => Size { rows: 24, columns: 80 },
    }
}

/// How a command that removes something is to go about it.
#[derive(Debug, Clone, Args)]
pub struct Careful {
    /// Do not ask
    #[arg(long, short = 'y')]
    pub yes: bool,
    /// Only say what would be done
    #[arg(long)]
    pub dry_run: bool,
}

impl Careful {
    /// Whether to go on with `what`, as in "remove image `a`": asks on a terminal, and elsewhere needs `--yes`.
    ///
    /// # Errors
    /// `Usage` where nobody can be asked and `--yes` is not given.
    pub fn go_on(&self, what: &str) -> Result<bool, Failure> {
        if self.dry_run {
            write_line(&format!("would {}", escape(what)))?;
            return Ok(false);
        }
        if self.yes {
            return Ok(true);
        }
        if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
            let why = "it cannot be undone, and there is no terminal to ask on";
            return Err(Failure::usage(what, why).hint("--yes, or --dry-run to see what would be done"));
        }
        let _ = write!(std::io::stderr().lock(), "{}? [y/N] ", escape(what));
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer).map_err(|e| Failure::io(what, &e))?;
        Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
    }
}

/// A label as it is written on the command line.
///
/// # Errors
/// What is wrong with it, for clap to print.
pub fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() && !value.is_empty() => Ok((key.to_owned(), value.to_owned())),
        Some(_) | None => Err("a label is KEY=VALUE, neither of them empty".to_owned()),
    }
}

/// A length of time as the API takes it, checked here so that the mistake is found before anything is sent.
///
/// # Errors
/// What is wrong with it, for clap to print.
pub fn parse_length(text: &str) -> Result<String, String> {
    match crate::clock::parse_duration(text) {
        Ok(length) if length.is_zero() => Err(format!("`{text}` is no time at all: give a second or more")),
        Ok(_) => Ok(text.trim().to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

pub fn label_map(labels: &[(String, String)]) -> Value {
    labels
        .iter()
        .map(|(key, value)| (key.clone(), Value::from(value.clone())))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_a_key_and_a_value() {
        let pair = |a: &str, b: &str| Ok((a.to_owned(), b.to_owned()));
        assert_eq!(parse_label("team=harbour"), pair("team", "harbour"));
        assert_eq!(parse_label("a.b/c=x=y"), pair("a.b/c", "x=y"));
        for bad in ["team", "=x", "team=", ""] {
            assert!(parse_label(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_length_of_time_is_some_time() {
        assert_eq!(parse_length("24h"), Ok("24h".to_owned()));
        assert_eq!(parse_length("0s"), Err("`0s` is no time at all: give a second or more".to_owned()));
        let long = "99999999999h";
        assert_eq!(parse_length(long), Err(format!("`{long}` is longer than ten years")));
    }

    #[test]
    fn where_nobody_can_be_asked_a_removal_needs_a_yes() {
        let careful = |yes, dry_run| Careful { yes, dry_run }.go_on("remove image `a`");
        assert!(careful(true, false).expect("no need to ask"));
        assert!(!careful(true, true).expect("nothing to do"));
    }
}
