//! `orlop pull`: the jobs are the server's; this starts them, shows them, and tells how they ended.

use clap::Args;
use futures_util::StreamExt;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::context::{Context, label_map, parse_label, parse_length, say};
use super::failure::{Exit, Failure};
use super::follow::{Followed, Patience, follow};
use super::picture::{Pull, State};
use super::pulled::{Before, print_pulled};
use super::screen::{Screen, Showing};
use super::secret::read_secret;
use super::selecting::Selecting;
use super::signals::Signals;
use super::text::escape;

#[derive(Debug, Args)]
#[command(before_help = "Examples:\n  \
    orlop pull alpine:3.22\n  \
    orlop pull --platform linux/arm64 --keep 24h ghcr.io/owner/app:1.2\n  \
    orlop pull --dry-run --all-platforms debian\n  \
    orlop pull --detach localhost:5000/app && orlop pulls ls")]
pub struct PullArgs {
    /// What to pull, as in alpine, ghcr.io/owner/app:1.2 or host:5000/app@sha256:…
    #[arg(value_name = "REF", required = true)]
    references: Vec<String>,
    #[command(flatten)]
    selecting: Selecting,
    /// Only say what would be fetched, and how much of it is there
    #[arg(long, conflicts_with_all = ["detach", "cancel_on_interrupt", "progress"])]
    dry_run: bool,
    /// Keep what was pulled for so long after the pull, also if the image is removed
    #[arg(long, value_name = "TIME", value_parser = parse_length)]
    keep: Option<String>,
    /// Name of the image [default: the full reference]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Label of the job and the image; repeatable
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_label)]
    label: Vec<(String, String)>,
    /// Most requests for blobs at once [default: the server's setting]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=64))]
    max_concurrency: Option<u64>,
    /// Allow plain HTTP to the registry, and any certificate: for tests; on loopback both are allowed anyway
    #[arg(long)]
    insecure: bool,
    /// The user to pull as, whose password comes on stdin [default: what the server has for the registry]
    #[arg(long, short, value_name = "NAME")]
    user: Option<String>,
    /// What came on stdin for `user`.
    #[arg(skip)]
    password: Option<String>,
    /// Pull as anybody, without the credentials, headers and client certificates that the server has for the registry
    #[arg(long, conflicts_with = "user")]
    anonymous: bool,
    /// Remember the requests of the pull: see `orlop pulls trace`
    #[arg(long)]
    trace: bool,
    /// Start the pull, print its id, and do not follow it
    #[arg(long, conflicts_with = "cancel_on_interrupt")]
    detach: bool,
    #[command(flatten)]
    watching: Watching,
}

/// How a pull is followed.
#[derive(Debug, Args)]
pub struct Watching {
    #[command(flatten)]
    showing: Showing,
    /// Let an interrupt cancel the pulls that this command began, rather than leave them to the server
    #[arg(long)]
    cancel_on_interrupt: bool,
}

/// A pull that a command follows.
struct Begun {
    id: String,
    /// It was under way before, as somebody else's: it is not this command's to stop.
    is_joined: bool,
    before: Before,
}

/// How watching a pull ended.
enum Ended {
    /// With the job as it ended.
    Finished(Value),
    /// By a signal that leaves all of them; the jobs go on in the server.
    Detached(Exit),
    /// By a signal that cancels others; this one goes on in the server.
    Left,
}

pub async fn pull(context: &Context, mut args: PullArgs) -> Result<Exit, Failure> {
    if args.user.is_some() {
        args.password = Some(read_secret("password")?);
    }
    if args.name.is_some() && args.references.len() > 1 {
        let why = "one name cannot stand for several images";
        return Err(Failure::usage("pull several images under --name", why));
    }
    if args.dry_run {
        return plan_all(context, &args).await;
    }
    let mut signals = Signals::new()?;
    let mut outcomes = Outcomes::default();
    let mut jobs: Vec<Begun> = Vec::new();
    // All are begun before one is followed: the server works on several at once.
    for reference in &args.references {
        let before = match args.detach {
            true => Before::default(),
            false => Before::look(context, reference, args.name.as_ref()).await,
        };
        let (status, job) = match begin(context, reference, &args).await {
            Ok(begun) => begun,
            Err(failure) => {
                outcomes.add(context, failure);
                continue;
            }
        };
        let id = text(&job, "id");
        let is_own = status != StatusCode::OK || jobs.iter().any(|job| job.id == id && !job.is_joined);
        if !is_own {
            say(&format!("joined {} which is under way", escape(&id)));
        }
        if args.detach {
            context.print(&job, |job| text(job, "id"))?;
            outcomes.succeeded += 1;
        }
        jobs.push(Begun { id, is_joined: !is_own, before });
    }
    if args.detach {
        return Ok(outcomes.exit());
    }
    for (at, job) in jobs.iter().enumerate() {
        // Whoever cancels has nothing more to do with what is somebody else's.
        if signals.seen.is_some() && job.is_joined {
            say_detached(&job.id);
            continue;
        }
        match watch(context, &jobs[at..], &args.watching, &mut signals).await {
            Ok(Ended::Finished(ended)) => match settled(&ended) {
                Ok(()) => {
                    print_pulled(context, &ended, &job.before).await?;
                    outcomes.succeeded += 1;
                }
                Err(failure) => outcomes.add(context, failure),
            },
            Ok(Ended::Detached(exit)) => {
                jobs[at..].iter().for_each(|job| say_detached(&job.id));
                return Ok(exit);
            }
            Ok(Ended::Left) => say_detached(&job.id),
            Err(failure) => {
                outcomes.add(context, failure);
                if let Some(exit) = signals.seen {
                    return Ok(exit);
                }
            }
        }
    }
    // Who was interrupted ends so, however the pulls did.
    Ok(signals.seen.unwrap_or_else(|| outcomes.exit()))
}

/// Prints the plan of each pull, and starts none.
async fn plan_all(context: &Context, args: &PullArgs) -> Result<Exit, Failure> {
    let mut outcomes = Outcomes::default();
    for reference in &args.references {
        let doing = format!("plan to pull {reference}");
        let call = context.client.scoped(Method::POST, &["pulls"], doing).query("dry_run", "true");
        match call.json(&body(reference, args)).fetch().await {
            Ok(plan) => {
                context.print(&plan, super::selecting::plan_text)?;
                outcomes.succeeded += 1;
            }
            Err(failure) => outcomes.add(context, as_of_job(failure)),
        }
    }
    Ok(outcomes.exit())
}

/// A plan looks at the registry as a job does: what it could not use there is no wrong usage. What the request itself
/// has wrong is told with the field.
fn as_of_job(failure: Failure) -> Failure {
    let text =
        |name: &str| failure.problem.as_ref().and_then(|problem| problem.get(name)).and_then(Value::as_str);
    let (code, is_of_request) = (text("code").unwrap_or_default().to_owned(), text("field").is_some());
    // What a caller of the API can do helps only where the registry is at fault, or the operator's lists.
    let hint = match code.as_str() {
        "forbidden" => failure.hint.clone(),
        upstream if upstream.starts_with("upstream-") => failure.hint.clone(),
        other => Failure::hint_of_problem(other, None),
    };
    match failure.exit {
        Exit::Usage if !is_of_request && !code.is_empty() => {
            Failure { exit: Exit::of_job(&code), hint, ..failure }
        }
        _ if code.is_empty() => failure,
        _ => Failure { hint, ..failure },
    }
}

/// Follows one pull to its end: `orlop pulls logs -f`.
pub async fn rejoin(context: &Context, id: &str, watching: &Watching) -> Result<Exit, Failure> {
    let mut signals = Signals::new()?;
    // Whoever names it may stop it.
    let job = Begun { id: id.to_owned(), is_joined: false, before: Before::default() };
    match watch(context, std::slice::from_ref(&job), watching, &mut signals).await? {
        Ended::Detached(exit) => {
            say_detached(id);
            Ok(exit)
        }
        Ended::Left => Ok(signals.seen.unwrap_or(Exit::Success)),
        Ended::Finished(ended) => {
            settled(&ended)?;
            print_pulled(context, &ended, &job.before).await?;
            Ok(signals.seen.unwrap_or(Exit::Success))
        }
    }
}

pub async fn fetch(context: &Context, id: &str) -> Result<Value, Failure> {
    context.client.scoped(Method::GET, &["pulls", id], format!("get pull {id}")).fetch().await
}

pub async fn cancel(context: &Context, id: &str) -> Result<Value, Failure> {
    context.client.scoped(Method::DELETE, &["pulls", id], format!("cancel pull {id}")).fetch().await
}

/// Asks for a pull. The status tells whether it was made, or an equal one is under way.
async fn begin(context: &Context, reference: &str, args: &PullArgs) -> Result<(StatusCode, Value), Failure> {
    let doing = format!("pull {reference}");
    context.client.scoped(Method::POST, &["pulls"], doing).json(&body(reference, args)).fetch_told().await
}

fn body(reference: &str, args: &PullArgs) -> Value {
    let mut body = json!({"ref": reference, "insecure": args.insecure});
    args.selecting.write_into(&mut body);
    if let Some(keep) = &args.keep {
        body["keep"] = keep.clone().into();
    }
    if let Some(name) = &args.name {
        body["image_name"] = name.clone().into();
    }
    if let Some(most) = args.max_concurrency {
        body["max_concurrency"] = most.into();
    }
    if !args.label.is_empty() {
        body["labels"] = label_map(&args.label);
    }
    if args.anonymous {
        body["credential"] = "none".into();
    }
    if args.trace {
        body["trace"] = true.into();
    }
    if let (Some(user), Some(password)) = (&args.user, &args.password) {
        body["auth"] = json!({"username": user, "password": password});
    }
    body
}

/// Cancels pulls, all that can be. One that has just ended is past cancelling, and tells itself how it ended.
async fn cancel_all(context: &Context, jobs: impl Iterator<Item = &Begun>) -> Result<(), Failure> {
    let mut outcome = Ok(());
    for job in jobs {
        match cancel(context, &job.id).await {
            Ok(_) => {}
            Err(failure) if failure.exit == Exit::Conflict => {}
            Err(failure) => outcome = outcome.and(Err(failure)),
        }
    }
    outcome
}

/// Follows the first of these pulls to its end. An interrupt that cancels is for the others as well, which are yet to be
/// followed, but for those that were joined.
async fn watch(
    context: &Context,
    jobs: &[Begun],
    watching: &Watching,
    signals: &mut Signals,
) -> Result<Ended, Failure> {
    let (id, is_joined) = (jobs[0].id.as_str(), jobs[0].is_joined);
    let mut screen = watching.showing.screen()?;
    let mut pull = Pull { id: id.to_owned(), ..Pull::default() };
    let mut steps = std::pin::pin!(follow(&context.client, Followed::pull(id), Patience::default()));
    let mut ticks = tokio::time::interval(Screen::TICK);
    ticks.tick().await;
    loop {
        tokio::select! {
            step = steps.next() => match step {
                Some(Ok(step)) => screen.show(&mut pull, step),
                Some(Err(failure)) => {
                    screen.close(&pull);
                    return Err(failure);
                }
                None => break,
            },
            _ = ticks.tick() => screen.tick(&pull),
            exit = signals.next() => {
                let own = jobs.iter().filter(|job| !job.is_joined);
                // A second signal wants out, whatever the first one asked for.
                if !watching.cancel_on_interrupt || signals.seen.is_some() || own.clone().next().is_none() {
                    screen.close(&pull);
                    return Ok(Ended::Detached(exit));
                }
                signals.seen = Some(exit);
                say("cancelling; interrupt again to leave at once");
                cancel_all(context, own).await?;
                if is_joined {
                    screen.close(&pull);
                    return Ok(Ended::Left);
                }
            }
        }
    }
    screen.close(&pull);
    // The job in full: the events carry no more of it than they must.
    Ok(Ended::Finished(fetch(context, id).await?))
}

/// Whether a finished job did what it was for.
fn settled(job: &Value) -> Result<(), Failure> {
    let pull: Pull = serde_json::from_value(job.clone())
        .map_err(|_| Failure::new(Exit::Other, "read the pull", "the server's answer is not a pull"))?;
    let doing = format!("pull {}", pull.reference);
    let error = match (pull.state, pull.error) {
        (State::Succeeded, _) => return Ok(()),
        (State::Cancelled, _) => {
            let failure = Failure::new(Exit::Other, doing, "it was cancelled");
            return Err(failure.hint(format!("orlop pulls retry {}", pull.id)));
        }
        (State::Failed, error) => error.unwrap_or_default(),
        (State::Queued | State::Running | State::Cancelling, _) => {
            let failure = Failure::new(Exit::Unreachable, doing, "the server stopped telling how it goes");
            return Err(failure.hint(format!("orlop pulls logs -f {}", pull.id)));
        }
    };
    let mut failure = Failure::new(Exit::of_job(&error.code), doing, Failure::in_flags(&error.detail));
    let hint = Failure::hint_of_problem(&error.code, error.hint.as_deref());
    failure.hint = hint.as_deref().map(Failure::in_flags);
    failure.problem = Some(Box::new(json!({
        "type": format!("/problems/{}", error.code), "title": "The pull failed", "detail": failure.why, "code": error.code,
        "pull_id": pull.id,
    })));
    Err(failure)
}

fn say_detached(id: &str) {
    say(&format!(
        "detached: pull {id} goes on in the server\n  orlop pulls logs -f {id}    follows it again\n  \
         orlop pulls cancel {id}     stops it",
        id = escape(id)
    ));
}

fn text(value: &Value, name: &str) -> String {
    value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// Several pulls in one command: each failure is told when it comes, and the exit code sums them up.
#[derive(Default)]
struct Outcomes {
    succeeded: usize,
    failed: Vec<Exit>,
}

impl Outcomes {
    fn add(&mut self, context: &Context, failure: Failure) {
        self.failed.push(failure.exit);
        super::report(&failure, context.output, context.paint);
    }

    fn exit(&self) -> Exit {
        super::sum_up(self.succeeded + self.failed.len(), &self.failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_job_ends_the_command_by_its_code() {
        let exit = |job: Value| settled(&job).map_or_else(|failure| failure.exit.number(), |()| 0);
        assert_eq!(exit(json!({"state": "succeeded"})), 0);
        assert_eq!(exit(json!({"state": "cancelled"})), 1);
        assert_eq!(exit(json!({"state": "running"})), 7);
        let error = json!({"code": "upstream-not-found", "detail": "manifest unknown"});
        assert_eq!(exit(json!({"state": "failed", "error": error})), 11);
        let error = json!({"code": "out-of-space", "detail": "disk full"});
        assert_eq!(exit(json!({"state": "failed", "error": error})), 9);
        let error = json!({"code": "validation-failed", "detail": "indexes are nested deeper than 4 levels"});
        assert_eq!(exit(json!({"state": "failed", "error": error})), 11);
    }

    #[test]
    fn a_failed_job_speaks_of_flags_and_its_problem_has_a_title_of_its_kind() {
        let error = json!({"code": "upstream-no-platform", "detail": "there is linux/arm64",
            "hint": "ask for one of those with `platforms`"});
        let failure = settled(&json!({"id": "pull_1", "ref": "a", "state": "failed", "error": error}));
        let failure = failure.expect_err("it failed");
        assert_eq!(failure.hint.as_deref(), Some("ask for one of those with --platform"));
        let problem: Value = serde_json::from_str(&failure.json()).expect("JSON");
        assert_eq!((&problem["title"], &problem["doing"]), (&json!("The pull failed"), &json!("pull a")));
    }

    #[test]
    fn a_plan_that_cannot_use_a_document_is_no_wrong_usage() {
        let exit = |problem: Value| {
            let failure = Failure { problem: Some(Box::new(problem)), ..Failure::usage("plan", "no") };
            as_of_job(failure).exit.number()
        };
        assert_eq!(exit(json!({"code": "validation-failed"})), 11);
        assert_eq!(exit(json!({"code": "invalid-argument", "field": "ref"})), 2);
    }
}
