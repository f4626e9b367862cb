//! How a command ends: its exit code, and what it says when it could not do what was asked.

use std::fmt::Write as _;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::text::{escape, to_json};
use crate::error::{Conflict, Error, UpstreamKind, with_causes};

/// The exit codes, part of the interface: a code never changes its meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Success,
    /// Any failure that has no code of its own.
    Other,
    /// Wrong usage: a flag, a name, a value that cannot be.
    Usage,
    /// Some of what was asked for was done.
    Partly,
    NotFound,
    /// The state of what is there does not allow it.
    Conflict,
    /// Not authenticated, or not allowed.
    Denied,
    /// No answer from the server: not there, too slow, not trusted, or not ready.
    Unreachable,
    /// Bytes that are not what they are named.
    Integrity,
    /// Out of space, over a quota or limit, or too many requests.
    Exhausted,
    /// It is done, and something was found that somebody may want to act on.
    Findings,
    /// A job failed at the registry.
    Upstream,
    /// Ended by SIGINT.
    Interrupted,
    /// Ended by SIGTERM.
    Terminated,
}

impl Exit {
    pub fn number(self) -> u8 {
        match self {
            Exit::Success => 0,
            Exit::Other => 1,
            Exit::Usage => 2,
            Exit::Partly => 3,
            Exit::NotFound => 4,
            Exit::Conflict => 5,
            Exit::Denied => 6,
            Exit::Unreachable => 7,
            Exit::Integrity => 8,
            Exit::Exhausted => 9,
            Exit::Findings => 10,
            Exit::Upstream => 11,
            Exit::Interrupted => 130,
            Exit::Terminated => 143,
        }
    }

    /// By the stable `code` of a problem or of a failed job; an unknown one goes by its HTTP status.
    pub fn of_problem(code: &str, status: u16) -> Exit {
        match code {
            "not-found" | "no-platform" => Exit::NotFound,
            "invalid-argument" | "validation-failed" | "not-a-manifest" | "range-not-satisfiable" => {
                Exit::Usage
            }
            "already-exists"
            | "offset-mismatch"
            | "content-in-use"
            | "not-empty"
            | "image-incomplete"
            | "invalid-state"
            | "ingest-busy"
            | "precondition-failed"
            | "writer-lost"
            | "idempotency-key-reused" => Exit::Conflict,
            "unauthenticated" | "forbidden" | "misdirected-request" => Exit::Denied,
            "digest-mismatch"
            | "size-mismatch"
            | "chunk-digest-mismatch"
            | "corrupt-content"
            | "upstream-mismatch" => Exit::Integrity,
            "rate-limited" | "out-of-space" | "too-large" => Exit::Exhausted,
            "unavailable" => Exit::Unreachable,
            upstream if upstream.starts_with("upstream-") => Exit::Upstream,
            _ => Exit::of_status(status),
        }
    }

    /// By the `code` of a failed job. Of the request the server has thought well when it took the job: what cannot be
    /// understood or used later is a document of the registry's, or of the server's own settings.
    pub fn of_job(code: &str) -> Exit {
        match code {
            "invalid-argument" | "validation-failed" | "not-a-manifest" => Exit::Upstream,
            other => Exit::of_problem(other, 0),
        }
    }

    fn of_status(status: u16) -> Exit {
        match status {
            400 | 416 | 422 => Exit::Usage,
            401 | 403 | 421 => Exit::Denied,
            404 | 410 => Exit::NotFound,
            409 | 412 | 423 => Exit::Conflict,
            413 | 429 | 507 => Exit::Exhausted,
            502..=504 => Exit::Unreachable,
            _ => Exit::Other,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.number())
    }
}

/// Why a command failed, in words for a person and as a problem for a program.
#[derive(Debug, Clone)]
pub struct Failure {
    pub exit: Exit,
    /// What was being done to what.
    pub doing: String,
    pub why: String,
    /// What would help.
    pub hint: Option<String>,
    /// The server's name for the request, to find it in its log.
    pub request_id: Option<String>,
    /// The server's own problem object, where it sent one.
    pub problem: Option<Box<Value>>,
    /// Nobody reads any more: there is nothing to say and nobody to say it to.
    pub silent: bool,
}

impl Failure {
    pub fn new(exit: Exit, doing: impl Into<String>, why: impl Into<String>) -> Failure {
        Failure {
            exit,
            doing: doing.into(),
            why: why.into(),
            hint: None,
            request_id: None,
            problem: None,
            silent: false,
        }
    }

    pub fn usage(doing: impl Into<String>, why: impl Into<String>) -> Failure {
        Failure::new(Exit::Usage, doing, why)
    }

    /// What to try, in the words of the command line. The server's own hint is for callers of its API: it stands where
    /// there is nothing better to say.
    pub fn hint_of_problem(code: &str, of_server: Option<&str>) -> Option<String> {
        let ours = match code {
            "invalid-argument"
            | "validation-failed"
            | "already-exists"
            | "range-not-satisfiable"
            | "invalid-state" => {
                return None;
            }
            "unauthenticated" => {
                "put a token in ORLOP_TOKEN, or its file in --token-file (orlop token create)"
            }
            // What the operator's lists do not allow, no token does.
            "forbidden" if of_server.is_some_and(|hint| hint.contains("denied_registries")) => {
                return of_server.map(str::to_owned);
            }
            "forbidden" => "a token that may do this, in ORLOP_TOKEN or --token-file (orlop token create)",
            "not-found" => "check the spelling, and --namespace",
            "no-platform" if of_server.is_some_and(|hint| hint.contains("without `platform`")) => {
                "leave --platform out: nothing of the image names one"
            }
            "no-platform" => "one of those, with --platform",
            "image-incomplete" => {
                "orlop image check tells what is here; --platform OS/ARCH for one that is, or pull the rest"
            }
            "upstream-untrusted" => {
                "give the server the registry's CA, as `ca` in its settings (orlop registry put); --insecure is for tests"
            }
            _ => return of_server.map(str::to_owned),
        };
        Some(ours.to_owned())
    }

    /// Text of the server's about a pull, with the flags of the command line in place of the API's fields.
    pub fn in_flags(text: &str) -> String {
        const FLAGS: [(&str, &str); 13] = [
            ("`all_metadata`", "--all-metadata"),
            ("`all_platforms`", "--all-platforms"),
            ("`auth`", "-u NAME"),
            ("`convert_schema1`", "--convert-schema1"),
            ("`foreign_layers`", "--foreign-layers"),
            ("`image_name`", "--name"),
            ("`insecure`", "--insecure"),
            ("`keep`", "--keep"),
            ("`metadata_only`", "--metadata-only"),
            ("`platforms`", "--platform"),
            ("`referrer_types`", "--referrer-type"),
            ("`referrers`", "--referrers"),
            ("`trace`", "--trace"),
        ];
        FLAGS.iter().fold(text.to_owned(), |text, (field, flag)| text.replace(field, flag))
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = Some(hint.into());
        self
    }

    /// A failed read or write on this machine. A reader that went away (`orlop ls | head`) is no news to it.
    pub fn io(doing: impl Into<String>, error: &std::io::Error) -> Failure {
        let exit = match error.kind() {
            std::io::ErrorKind::NotFound => Exit::NotFound,
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Exit::Exhausted,
            _ => Exit::Other,
        };
        let mut failure = Failure::new(exit, doing, error.to_string());
        failure.silent = error.kind() == std::io::ErrorKind::BrokenPipe;
        failure
    }

    /// An error of this program's own rooms, for the commands that work without a server.
    pub fn local(doing: impl Into<String>, error: &Error) -> Failure {
        let exit = match error {
            Error::NotFound { .. } | Error::NoPlatform { .. } | Error::Gone { .. } => Exit::NotFound,
            Error::Invalid(_) | Error::Unprocessable(_) => Exit::Usage,
            Error::Conflict(Conflict::DigestMismatch { .. } | Conflict::SizeMismatch { .. })
            | Error::Corrupt { .. } => Exit::Integrity,
            Error::AlreadyExists { .. }
            | Error::Conflict(_)
            | Error::Busy { .. }
            | Error::Refused { .. }
            | Error::PreconditionFailed { .. }
            | Error::WriterLost => Exit::Conflict,
            Error::TooLarge { .. } | Error::TooMany { .. } | Error::OutOfSpace { .. } => Exit::Exhausted,
            Error::Unavailable { .. } => Exit::Unreachable,
            Error::Upstream(upstream) if upstream.kind == UpstreamKind::Mismatch => Exit::Integrity,
            Error::Upstream(_) => Exit::Upstream,
            Error::Internal { .. } => Exit::Other,
        };
        Failure::new(exit, doing, with_causes(error))
    }

    /// At most three lines: what failed, why, what to try. Only a refusal that spells out its own ways out is longer.
    pub fn text(&self) -> String {
        let mut text = format!("error: {}\n", escape(&self.doing));
        let why: Vec<String> = self.why.lines().map(escape).collect();
        text.push_str(&format!("  {}", why.join("\n  ")));
        if let Some(id) = &self.request_id {
            let _ = write!(text, " (request {})", escape(id));
        }
        if let Some(id) = self.problem.as_ref().and_then(|problem| problem["pull_id"].as_str()) {
            let _ = write!(text, " (pull {})", escape(id));
        }
        if let Some(hint) = &self.hint {
            let _ = write!(text, "\n  try: {}", escape(hint));
        }
        text
    }

    /// One problem object (RFC 9457): the server's own, or one in its likeness, which has no `status` where no answer had
    /// one; with what was being done and the exit code in either.
    pub fn json(&self) -> String {
        let mut problem = self.problem.as_deref().cloned().unwrap_or_else(|| {
            let code = match self.exit {
                Exit::Unreachable => "unreachable",
                Exit::Usage => "invalid-argument",
                Exit::NotFound => "not-found",
                Exit::Integrity => "digest-mismatch",
                Exit::Success
                | Exit::Other
                | Exit::Partly
                | Exit::Conflict
                | Exit::Denied
                | Exit::Exhausted
                | Exit::Findings
                | Exit::Upstream
                | Exit::Interrupted
                | Exit::Terminated => "failed",
            };
            json!({"type": "about:blank", "title": "The command failed", "detail": self.why, "code": code})
        });
        if let Value::Object(members) = &mut problem {
            members.insert("doing".to_owned(), self.doing.clone().into());
            members.insert("exit_code".to_owned(), self.exit.number().into());
            if let Some(hint) = &self.hint {
                members.entry("hint").or_insert_with(|| hint.clone().into());
            }
        }
        to_json(&problem)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_problem_code_has_the_exit_code_of_the_table() {
        let table = [
            ("not-found", 404, 4),
            ("invalid-argument", 400, 2),
            ("ingest-busy", 423, 5),
            ("unauthenticated", 401, 6),
            ("unavailable", 503, 7),
            ("corrupt-content", 500, 8),
            ("out-of-space", 507, 9),
            ("upstream-denied", 0, 11),
            ("upstream-mismatch", 0, 8),
            ("internal", 500, 1),
            ("a-code-of-tomorrow", 409, 5),
            ("a-code-of-tomorrow", 418, 1),
        ];
        for (code, status, exit) in table {
            assert_eq!(Exit::of_problem(code, status).number(), exit, "{code} {status}");
        }
    }

    #[test]
    fn what_a_job_could_not_use_is_no_wrong_usage() {
        for code in ["invalid-argument", "validation-failed", "not-a-manifest", "upstream-bad-answer"] {
            assert_eq!(Exit::of_job(code).number(), 11, "{code}");
        }
        assert_eq!(Exit::of_job("out-of-space").number(), 9);
    }

    #[test]
    fn a_hint_helps_in_the_case_there_is() {
        let lists = "the server's settings denied_registries and allowed_registries decide";
        assert_eq!(Failure::hint_of_problem("forbidden", Some(lists)).as_deref(), Some(lists));
        let token =
            Failure::hint_of_problem("forbidden", Some("`detail` says what is missing")).expect("a hint");
        assert!(token.contains("ORLOP_TOKEN"), "{token}");
        for code in ["upstream-forbidden-address", "upstream-no-platform", "invalid-state"] {
            assert_eq!(Failure::hint_of_problem(code, None), None, "{code}");
        }
    }

    #[test]
    fn what_the_api_calls_a_field_is_a_flag_here() {
        let told = Failure::in_flags("with `convert_schema1`, or one of those with `platforms`; `x` stays");
        assert_eq!(told, "with --convert-schema1, or one of those with --platform; `x` stays");
    }

    #[test]
    fn a_failure_is_three_lines_and_never_speaks_to_the_terminal() {
        let mut failure =
            Failure::new(Exit::NotFound, "get image `\u{1b}[2J`", "no such image").hint("orlop ls images");
        failure.request_id = Some("req-1".to_owned());
        assert_eq!(
            failure.text(),
            "error: get image `\\x1b[2J`\n  no such image (request req-1)\n  try: orlop ls images"
        );
    }

    #[test]
    fn under_json_a_failure_is_one_problem_object() {
        let failure = Failure::new(Exit::Unreachable, "ask for its health", "nothing listens there");
        let problem: Value = serde_json::from_str(&failure.json()).expect("JSON");
        assert_eq!(problem["code"], "unreachable");
        assert_eq!((&problem["exit_code"], &problem["doing"]), (&json!(7), &json!("ask for its health")));
        assert_eq!(problem["title"], "The command failed", "one title for one type");
        assert_eq!(failure.json().lines().count(), 1);
    }
}
