//! `orlop registry`: how the server reaches registries.

use std::path::PathBuf;

use clap::Subcommand;
use reqwest::{Method, StatusCode};
use serde_json::{Map, Value, json};

use super::client::{Call, refused};
use super::context::{Careful, Context, Output, say, write_line};
use super::failure::{Exit, Failure};
use super::secret::read_secret;
use super::text::{escape, table, to_pretty_json};

#[derive(Debug, Subcommand)]
pub enum RegistryCommand {
    /// List registries with settings, without their secrets
    #[command(alias = "list")]
    Ls,
    /// Show how one registry is reached
    Get { host: String },
    /// Replace the settings of a registry with those of a JSON file; secrets it does not mention stay
    #[command(before_help = "Examples:\n  \
        echo '{\"mirrors\": [{\"url\": \"https://mirror.example.com\"}]}' | orlop registry put docker.io -")]
    Put {
        host: String,
        /// The settings, as `PUT /api/v1/registries/{host}` takes them; `-` is stdin
        file: PathBuf,
    },
    /// Give the server a credential for a registry, and try it; the password comes on stdin
    #[command(before_help = "Examples:\n  \
        orlop registry login ghcr.io -u ci\n  \
        orlop registry login registry.example.com --token < token")]
    Login {
        host: String,
        /// The user, whose password comes on stdin
        #[arg(long, short, value_name = "NAME", required_unless_present = "token")]
        user: Option<String>,
        /// What comes on stdin is a bearer token
        #[arg(long, conflicts_with = "user")]
        token: bool,
    },
    /// Take the credential of a registry away from the server
    Logout { host: String },
    /// Forget all settings of registries
    #[command(alias = "delete")]
    Rm {
        #[arg(required = true, value_name = "HOST")]
        hosts: Vec<String>,
        #[command(flatten)]
        careful: Careful,
    },
    /// Try a registry, step by step: name, port, certificate, API, credential
    #[command(before_help = "Examples:\n  orlop registry test ghcr.io --repository owner/app")]
    Test {
        host: String,
        /// Try the credential for this repository
        #[arg(long, value_name = "NAME")]
        repository: Option<String>,
    },
}

pub async fn registry(context: &Context, command: RegistryCommand) -> Result<Exit, Failure> {
    match command {
        RegistryCommand::Ls => {
            let all = call(context, Method::GET, &[], "list registries").fetch().await?;
            context.print(&all, list)?;
        }
        RegistryCommand::Get { host } => {
            let found =
                call(context, Method::GET, &[&host], format!("look at registry {host}")).fetch().await?;
            write_line(&to_pretty_json(&found))?;
        }
        RegistryCommand::Put { host, file } => put(context, &host, &read_settings(&file)?).await?,
        RegistryCommand::Login { host, user, token: _ } => {
            let credential = match user {
                Some(user) => json!({"username": user, "password": read_secret("password")?}),
                None => json!({"token": read_secret("token")?}),
            };
            return login(context, &host, credential).await;
        }
        RegistryCommand::Logout { host } => logout(context, &host).await?,
        RegistryCommand::Rm { hosts, careful } => {
            return super::for_each(context, &hosts, async |host| remove(context, host, &careful).await)
                .await;
        }
        RegistryCommand::Test { host, repository } => return test(context, &host, repository).await,
    }
    Ok(Exit::Success)
}

/// Registries are the server's, not a namespace's.
fn call<'c>(context: &'c Context, method: Method, rest: &[&str], doing: impl Into<String>) -> Call<'c> {
    let path: Vec<&str> = ["api", "v1", "registries"].into_iter().chain(rest.iter().copied()).collect();
    context.client.call(method, &path, doing)
}

fn list(all: &Value) -> String {
    let items = all.get("items").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let row = |item: &Value| {
        let text = |pointer: &str| item.pointer(pointer).and_then(Value::as_str).unwrap_or("-").to_owned();
        let mirrors = item.get("mirrors").and_then(Value::as_array).map_or(0, Vec::len).to_string();
        let who = match item.pointer("/credential/username").or(item.pointer("/credential/kind")) {
            Some(who) => who.as_str().unwrap_or_default().to_owned(),
            None => "-".to_owned(),
        };
        vec![text("/host"), text("/source"), text("/url"), mirrors, who, notes(item)]
    };
    let rows: Vec<Vec<String>> = items.iter().map(row).collect();
    table(&["HOST", "SOURCE", "URL", "MIRRORS", "CREDENTIAL", "NOTES"], &rows)
}

/// What else is worth a word of how a registry is reached.
fn notes(item: &Value) -> String {
    if item.get("readable") == Some(&Value::Bool(false)) {
        return "cannot be read".to_owned();
    }
    let has = |name: &str| match item.get(name) {
        Some(Value::Array(all)) => !all.is_empty(),
        Some(Value::Bool(is_set)) => *is_set,
        Some(Value::Null) | None => false,
        Some(_) => true,
    };
    let words = [
        ("client_certificate", "client certificate"),
        ("header_names", "headers"),
        ("ca", "own CA"),
        ("skip_verify", "any certificate"),
    ];
    let said: Vec<&str> = words.into_iter().filter(|(name, _)| has(name)).map(|(_, words)| words).collect();
    if said.is_empty() { "-".to_owned() } else { said.join(", ") }
}

fn read_settings(file: &PathBuf) -> Result<Value, Failure> {
    let doing = format!("read the settings in {}", file.display());
    let text = match file.to_str() {
        Some("-") => std::io::read_to_string(std::io::stdin()),
        _ => std::fs::read_to_string(file),
    };
    let text = text.map_err(|error| Failure::io(&doing, &error))?;
    // The parser's words would repeat a part of the text, which may be a secret.
    serde_json::from_str(&text).map_err(|_| Failure::usage(doing, "this is not JSON"))
}

async fn put(context: &Context, host: &str, settings: &Value) -> Result<(), Failure> {
    let call = call(context, Method::PUT, &[host], format!("change registry {host}"));
    let stored = call.json(settings).fetch().await?;
    context.print(&stored, |stored| text(stored, "host"))
}

/// Everything but the credential stays as it is, also if somebody else changes it meanwhile. A credential that does not let
/// us in, or that nobody could try, is stored all the same: that is a finding.
async fn login(context: &Context, host: &str, credential: Value) -> Result<Exit, Failure> {
    let doing = format!("change the credential of registry {host}");
    let (mut settings, condition) = match find(context, host, &doing).await? {
        Some((found, tag)) => (own_settings(&found, &doing)?, ("if-match", tag)),
        None => {
            refuse_to_leave_default(context, &doing).await?;
            (json!({}), ("if-none-match", "*".to_owned()))
        }
    };
    settings["credential"] = credential;
    replace(context, host, doing, &settings, condition).await?;
    let (exit, said) = try_login(context, host).await;
    say(&escape(&said));
    Ok(exit)
}

/// What came of a try with the credential that is stored now. That it fails takes nothing back: the registry may be away.
async fn try_login(context: &Context, host: &str) -> (Exit, String) {
    match ask_for_test(context, host, None).await {
        Ok(tested) => login_words(&tested),
        Err(failure) => {
            let why = failure.why;
            (Exit::Findings, format!("stored, and not tried: {why}; try with `orlop registry test {host}`"))
        }
    }
}

/// The registry's own host has the last word, for mirrors have credentials of their own.
fn login_words(tested: &Value) -> (Exit, String) {
    let hosts = tested.get("hosts").and_then(Value::as_array);
    let last_step =
        |host: &Value| host.get("steps").and_then(Value::as_array).and_then(|steps| steps.last().cloned());
    let Some(step) = hosts.and_then(|hosts| hosts.last()).and_then(last_step) else {
        return (Exit::Findings, "stored, and not tried".to_owned());
    };
    let said = |name: &str| step.get(name).and_then(Value::as_str).unwrap_or_default();
    match step.get("ok") {
        Some(Value::Bool(true)) => (Exit::Success, format!("stored, and tried: {}", said("detail"))),
        _ => (Exit::Findings, format!("stored, and a try fails at {}: {}", said("step"), said("detail"))),
    }
}

/// Settings that were nothing but the credential go with it: they would still stand before those of `_default`.
async fn logout(context: &Context, host: &str) -> Result<(), Failure> {
    let doing = format!("take away the credential of registry {host}");
    let Some((found, tag)) = find(context, host, &doing).await? else {
        return Err(Failure::new(Exit::NotFound, doing, "it has no settings"));
    };
    let mut settings = own_settings(&found, &doing)?;
    if says_nothing_else(&found) {
        call(context, Method::DELETE, &[host], doing).header("if-match", &tag).send().await?;
        return write_line(&escape(host));
    }
    settings["credential"] = Value::Null;
    replace(context, host, doing, &settings, ("if-match", tag)).await
}

/// The settings as they are shown, and their tag; `None` where there are none.
async fn find(context: &Context, host: &str, doing: &str) -> Result<Option<(Value, String)>, Failure> {
    let response = call(context, Method::GET, &[host], doing).raw().await?;
    match response.status() {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND => return Ok(None),
        _ => return Err(refused(response, doing.to_owned()).await),
    }
    let tag = response.headers().get("etag").and_then(|tag| tag.to_str().ok()).unwrap_or_default().to_owned();
    let found = response.json().await;
    let found = found.map_err(|_| Failure::new(Exit::Other, doing, "the answer is not JSON"))?;
    Ok(Some((found, tag)))
}

async fn replace(
    context: &Context,
    host: &str,
    doing: String,
    settings: &Value,
    (condition, tag): (&'static str, String),
) -> Result<(), Failure> {
    let call = call(context, Method::PUT, &[host], doing).json(settings).header(condition, &tag);
    let stored = call.fetch().await?;
    context.print(&stored, |stored| text(stored, "host"))
}

/// What is to be sent back, if a change of the credential alone is possible.
fn own_settings(found: &Value, doing: &str) -> Result<Value, Failure> {
    let refuse = |why: &str, hint: &str| Err(Failure::new(Exit::Conflict, doing, why).hint(hint));
    if text(found, "source") != "api" {
        let why = "its settings are in a file of the server's: the API's would replace them";
        return refuse(why, "write the whole settings with `orlop registry put`");
    }
    if found.get("readable") == Some(&Value::Bool(false)) {
        let why = "its settings cannot be read: a change would lose them";
        return refuse(why, "`orlop registry rm`, and then write them anew with `orlop registry put`");
    }
    Ok(settings_of(found))
}

/// With settings of its own a registry would no longer be reached by those of `_default`, and mirrors that all pulls are
/// to take would be left without a word.
async fn refuse_to_leave_default(context: &Context, doing: &str) -> Result<(), Failure> {
    let Some((found, _)) = find(context, "_default", doing).await? else { return Ok(()) };
    let unread = found.get("readable") == Some(&Value::Bool(false));
    let mirrors = found.get("mirrors").and_then(Value::as_array).map_or(0, Vec::len);
    if !unread && mirrors == 0 && found.get("url").is_none_or(Value::is_null) {
        return Ok(());
    }
    let why = "it is reached by the mirrors of `_default`: settings of its own would take their place";
    Err(Failure::new(Exit::Conflict, doing, why)
        .hint("write its whole settings with `orlop registry put`: the mirrors, if it is to keep them, and the credential"))
}

/// Whether there is nothing in these settings but a credential, if that.
fn says_nothing_else(found: &Value) -> bool {
    let is_usual = |(name, value): (&String, &Value)| match value {
        Value::Null => true,
        Value::Bool(is_set) => !is_set || name == "readable",
        // All of them is what a host is asked for unless something else is said.
        Value::Array(all) if name == "capabilities" => all.len() >= 3,
        Value::Array(all) => all.is_empty(),
        _ => matches!(name.as_str(), "host" | "source" | "credential" | "created_at" | "updated_at"),
    };
    found.as_object().is_some_and(|found| found.iter().all(is_usual))
}

/// What a PUT takes of what a GET gives: the secrets are not in it, and so they stay.
fn settings_of(shown: &Value) -> Value {
    let host = |shown: &Value| {
        let mut settings = Map::new();
        for name in
            ["url", "capabilities", "ca", "client_certificate", "skip_verify", "override_path", "token_hosts"]
        {
            let said = shown.get(name).filter(|value| !value.is_null());
            settings.extend(said.map(|value| (name.to_owned(), value.clone())));
        }
        if let Some(seconds) = shown.get("connect_timeout").and_then(Value::as_f64) {
            settings.insert("connect_timeout".to_owned(), format!("{}s", seconds.ceil()).into());
        }
        Value::Object(settings)
    };
    let mut settings = host(shown);
    let mirrors = shown.get("mirrors").and_then(Value::as_array).into_iter().flatten();
    settings["mirrors"] = mirrors.map(host).collect();
    settings
}

async fn remove(context: &Context, host: &str, careful: &Careful) -> Result<(), Failure> {
    let doing = format!("forget the settings of registry {host}");
    if !careful.go_on(&doing)? {
        return Ok(());
    }
    call(context, Method::DELETE, &[host], doing).send().await?;
    write_line(&escape(host))
}

async fn ask_for_test(context: &Context, host: &str, repository: Option<String>) -> Result<Value, Failure> {
    let body = match repository {
        Some(repository) => json!({"repository": repository}),
        None => json!({}),
    };
    let call = call(context, Method::POST, &[host, "test"], format!("try registry {host}"));
    call.json(&body).fetch().await
}

async fn test(context: &Context, host: &str, repository: Option<String>) -> Result<Exit, Failure> {
    let tested = ask_for_test(context, host, repository).await?;
    context.print(&tested, steps)?;
    let ok = tested.get("ok").and_then(Value::as_bool) == Some(true);
    if !ok && context.output == Output::Text {
        say("no host of this registry lets a pull in");
    }
    Ok(if ok { Exit::Success } else { Exit::Upstream })
}

fn steps(tested: &Value) -> String {
    let mut rows = Vec::new();
    for host in tested.get("hosts").and_then(Value::as_array).into_iter().flatten() {
        for step in host.get("steps").and_then(Value::as_array).into_iter().flatten() {
            let took = step.get("duration_ms").and_then(Value::as_u64).unwrap_or(0);
            let outcome = if step.get("ok") == Some(&Value::Bool(true)) { "ok" } else { "failed" };
            let (name, detail) = (text(step, "step"), text(step, "detail"));
            rows.push(vec![text(host, "host"), name, outcome.to_owned(), format!("{took} ms"), detail]);
        }
    }
    table(&["HOST", "STEP", "OUTCOME", "TIME", "DETAIL"], &rows)
}

fn text(value: &Value, name: &str) -> String {
    escape(value.get(name).and_then(Value::as_str).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown() -> Value {
        json!({
            "host": "r.io", "source": "api", "readable": true, "url": null,
            "capabilities": ["pull", "resolve", "referrers"], "ca": [], "client_certificate": null,
            "skip_verify": false, "header_names": [], "override_path": false, "connect_timeout": null,
            "credential": {"kind": "password", "username": "me"}, "token_hosts": [], "mirrors": [],
            "created_at": "2026-11-21T10:00:00.123456Z", "updated_at": "2026-11-21T10:00:00.123456Z",
        })
    }

    #[test]
    fn what_is_shown_can_be_put_again_without_its_secrets() {
        let mut found = shown();
        found["connect_timeout"] = json!(5.0);
        found["header_names"] = json!(["X"]);
        found["mirrors"] =
            json!([{"url": "https://m.io", "capabilities": ["pull"], "connect_timeout": null}]);
        let settings = settings_of(&found);
        assert_eq!(settings["connect_timeout"], "5s");
        assert_eq!(settings["mirrors"][0], json!({"url": "https://m.io", "capabilities": ["pull"]}));
        for gone in ["credential", "header_names", "host", "source", "url", "client_certificate"] {
            assert_eq!(settings.get(gone), None, "{gone}");
        }
    }

    #[test]
    fn a_list_says_what_else_there_is_and_what_cannot_be_read() {
        let mut found = shown();
        found["client_certificate"] = json!("PEM");
        found["skip_verify"] = json!(true);
        assert_eq!(
            (notes(&shown()), notes(&found)),
            ("-".into(), "client certificate, any certificate".into())
        );
        found["readable"] = json!(false);
        let listed = list(&json!({"items": [found]}));
        assert!(
            listed.lines().nth(1).is_some_and(|line| line.ends_with("me          cannot be read")),
            "{listed}"
        );
    }

    #[test]
    fn settings_that_are_nothing_but_a_credential_are_told_from_others() {
        assert!(says_nothing_else(&shown()));
        for (name, value) in [
            ("url", json!("https://r.io")),
            ("capabilities", json!(["pull"])),
            ("skip_verify", json!(true)),
            ("header_names", json!(["X"])),
            ("connect_timeout", json!(5.0)),
            ("mirrors", json!([{}])),
        ] {
            let mut found = shown();
            found[name] = value;
            assert!(!says_nothing_else(&found), "{name}");
        }
    }
}
