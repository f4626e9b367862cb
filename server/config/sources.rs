//! Where settings come from: flags, environment, file, defaults.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde::Serialize;
use toml::de::{DeTable, DeValue};

use super::{Gathered, Given, Kind, SETTINGS, Setting};
use crate::error::{Error, Result};
use crate::limits;

/// Where a value came from, the strongest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    Flag,
    Environment,
    File,
    Default,
}

impl Source {
    pub fn as_str(self) -> &'static str {
        match self {
            Source::Flag => "flag",
            Source::Environment => "environment",
            Source::File => "file",
            Source::Default => "default",
        }
    }
}

/// The flags of `orlop serve`, made from [`SETTINGS`]: to be flattened into a command.
#[derive(Debug, Clone, Default)]
pub struct ServeArgs {
    /// `--config`
    pub config: Option<PathBuf>,
    given: BTreeMap<&'static str, String>,
}

impl clap::Args for ServeArgs {
    fn augment_args(command: Command) -> Command {
        let config = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .value_parser(clap::value_parser!(PathBuf))
            .help("Configuration file, also ORLOP_CONFIG [default: $XDG_CONFIG_HOME/orlop/config.toml, else /etc/orlop/config.toml]");
        SETTINGS.iter().fold(command.arg(config), |command, setting| command.arg(argument(setting)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

fn argument(setting: &'static Setting) -> Arg {
    let default = match setting.default {
        "" => String::new(),
        default => format!(" [default: {default}]"),
    };
    let arg = Arg::new(setting.key)
        .long(setting.key.replace('_', "-"))
        .value_name(setting.value_name)
        .help(format!("{}{default}", setting.help));
    match setting.kind {
        Kind::Text | Kind::Secret => arg,
        Kind::List => arg.action(ArgAction::Append),
        Kind::Switch => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
    }
}

impl clap::FromArgMatches for ServeArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut args = ServeArgs::default();
        args.update_from_arg_matches(matches)?;
        Ok(args)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.config = matches.get_one::<PathBuf>("config").cloned();
        for setting in SETTINGS {
            if let Some(texts) = matches.get_many::<String>(setting.key) {
                self.given.insert(setting.key, texts.cloned().collect::<Vec<_>>().join(","));
            }
        }
        Ok(())
    }
}

/// Each setting's text from the strongest source that names it.
pub fn gather(
    args: &ServeArgs,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Gathered> {
    let environment = utf8(environment)?;
    refuse_unknown_variables(&environment)?;
    let mut gathered: Gathered = SETTINGS
        .iter()
        .map(|setting| {
            let text = setting.default.to_owned();
            (setting.key, Given { text, source: Source::Default, place: "default".to_owned() })
        })
        .collect();
    if let Some(path) = file_path(args, &environment) {
        gathered.extend(read_file(&path)?);
    }
    for setting in SETTINGS {
        let place = setting.variable();
        // An empty variable is an unset one: compose files and units cannot leave a variable out.
        if let Some(text) = environment.get(&place).filter(|text| !text.is_empty()) {
            gathered.insert(setting.key, Given { text: text.clone(), source: Source::Environment, place });
        }
        if let Some(text) = args.given.get(setting.key) {
            let given = Given { text: text.clone(), source: Source::Flag, place: setting.flag() };
            gathered.insert(setting.key, given);
        }
    }
    Ok(gathered)
}

/// The variables that are text; one of ours that is not is an error.
fn utf8(environment: impl IntoIterator<Item = (OsString, OsString)>) -> Result<BTreeMap<String, String>> {
    let mut texts = BTreeMap::new();
    for (name, value) in environment {
        let Ok(name) = name.into_string() else { continue };
        match value.into_string() {
            Ok(value) => drop(texts.insert(name, value)),
            Err(_) if name.starts_with("ORLOP_") => {
                return Err(Error::invalid_field(&name, format!("{name} is not UTF-8 text")));
            }
            Err(_) => {}
        }
    }
    Ok(texts)
}

/// Variables that are ours and not settings of the server. The last is for the compose file alone, and may stand in the
/// environment of whoever uses that.
const OTHER_VARIABLES: &[&str] = &[
    "ORLOP_CONFIG",
    "ORLOP_SERVER",
    "ORLOP_TOKEN",
    "ORLOP_TOKEN_FILE",
    "ORLOP_NAMESPACE",
    "ORLOP_PROGRESS",
    "ORLOP_POSTGRES_PASSWORD",
];

/// Refuses a variable that begins like ours and is none, for a command that asks a server: one that is misspelt would
/// be passed over, and another server asked.
///
/// # Errors
/// `Invalid`, naming the variable.
pub fn check_variables(names: impl IntoIterator<Item = OsString>) -> Result<()> {
    let names = names.into_iter().filter_map(|name| name.into_string().ok());
    refuse_unknown_variables(&names.map(|name| (name, String::new())).collect())
}

fn refuse_unknown_variables(environment: &BTreeMap<String, String>) -> Result<()> {
    let settings: Vec<String> = SETTINGS.iter().map(Setting::variable).collect();
    let known: Vec<&str> =
        settings.iter().map(String::as_str).chain(OTHER_VARIABLES.iter().copied()).collect();
    for name in environment.keys() {
        if !name.starts_with("ORLOP_") || known.contains(&name.as_str()) || is_service_link(name) {
            continue;
        }
        let reason = format!("{name} is not a setting{}", did_you_mean(name, &known));
        return Err(Error::invalid_field(name, reason));
    }
    Ok(())
}

/// Whether Kubernetes made this variable. It gives every pod `<SERVICE>_SERVICE_HOST`, `<SERVICE>_SERVICE_PORT…` and the
/// older `<SERVICE>_PORT…` for each service of the namespace, so a service called `orlop`, or `orlop-…`, would
/// otherwise keep the server from starting.
fn is_service_link(name: &str) -> bool {
    const LINK: &str =
        "^ORLOP_(.+_)?(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$";
    regex::Regex::new(LINK).expect("the pattern is a constant, and a test runs it").is_match(name)
}

/// The file that was asked for, which must then exist, or the first of the usual places that does.
fn file_path(args: &ServeArgs, environment: &BTreeMap<String, String>) -> Option<PathBuf> {
    let named = |name: &str| environment.get(name).filter(|text| !text.is_empty()).map(PathBuf::from);
    if let Some(path) = args.config.clone().or_else(|| named("ORLOP_CONFIG")) {
        return Some(path);
    }
    let user = named("XDG_CONFIG_HOME").or_else(|| named("HOME").map(|home| home.join(".config")));
    let user = user.map(|directory| directory.join("orlop/config.toml"));
    user.into_iter().chain([PathBuf::from("/etc/orlop/config.toml")]).find(|path| path.is_file())
}

fn read_file(path: &Path) -> Result<Gathered> {
    let shown = path.display();
    let unreadable = |reason: String| Error::invalid_field("config", format!("{shown}: {reason}"));
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|e| unreadable(e.to_string()))?;
    let most = limits::CONFIG_FILE_BYTES;
    let read = file.take(most + 1).read_to_string(&mut text).map_err(|e| unreadable(e.to_string()))?;
    if read as u64 > most {
        return Err(unreadable(format!("larger than {most} bytes")));
    }
    let table = DeTable::parse(&text).map_err(|e| {
        let line = e.span().map_or(1, |span| line_of(&text, span.start));
        unreadable(format!("line {line}: {}", e.message()))
    })?;
    let known: Vec<&str> = SETTINGS.iter().map(|setting| setting.key).collect();
    let mut gathered = Gathered::new();
    for (key, value) in table.get_ref() {
        let line = line_of(&text, key.span().start);
        let Some(setting) = SETTINGS.iter().find(|setting| setting.key == key.get_ref()) else {
            let suggestion = did_you_mean(key.get_ref(), &known);
            return Err(unreadable(format!("line {line}: `{}` is not a setting{suggestion}", key.get_ref())));
        };
        let text = value_text(setting, value.get_ref())
            .map_err(|reason| unreadable(format!("line {line}: `{}` {reason}", setting.key)))?;
        gathered.insert(
            setting.key,
            Given { text, source: Source::File, place: format!("{shown}, line {line}") },
        );
    }
    Ok(gathered)
}

fn line_of(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}

/// A value of the file as it would be written in a flag.
fn value_text(setting: &Setting, value: &DeValue<'_>) -> Result<String, String> {
    match (setting.kind, value) {
        (_, DeValue::String(text)) => Ok(text.to_string()),
        (Kind::Text, DeValue::Integer(number)) => Ok(number.as_str().to_owned()),
        (Kind::Switch, DeValue::Boolean(on)) => Ok(on.to_string()),
        (Kind::List, DeValue::Array(items)) => {
            let texts: Option<Vec<&str>> = items.iter().map(|item| item.get_ref().as_str()).collect();
            texts.map(|texts| texts.join(",")).ok_or_else(|| "must be an array of strings".to_owned())
        }
        (Kind::Switch, other) => Err(format!("must be true or false, not {}", other.type_str())),
        (Kind::List, other) => Err(format!("must be an array of strings, not {}", other.type_str())),
        (Kind::Text | Kind::Secret, other) => Err(format!("must be a string, not {}", other.type_str())),
    }
}

/// `; did you mean …?` for the known word that is most like this one, if one is like it at all.
fn did_you_mean(word: &str, known: &[&str]) -> String {
    const ALIKE: f64 = 0.7;
    known
        .iter()
        .map(|known| (strsim::normalized_damerau_levenshtein(word, known), known))
        .filter(|(likeness, _)| *likeness >= ALIKE)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map_or_else(String::new, |(_, known)| format!("; did you mean `{known}`?"))
}
