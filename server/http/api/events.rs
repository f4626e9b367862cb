//! `/api/v1/events`: what happened, as a page of what is kept, or as it happens.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use axum::response::sse;
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use tokio_util::sync::CancellationToken;

use super::lists::{Asked, JSON, NDJSON};
use super::streams::{self, EVENT_STREAM, Heart, LAST_EVENT_ID, Place};
use crate::error::{Error, Result, with_causes};
use crate::events::{Event, Topic};
use crate::http::AppState;
use crate::http::accept::Accept;
use crate::http::access::Identity;
use crate::http::error::{ApiError, ApiResult};
use crate::http::params::{Params, header, namespace_of};
use crate::store::filter::{Filter, Schema};
use crate::store::lists::{EVENTS, Wanted};
use crate::store::{Follower, Reach};

/// `GET /api/v1/events`
pub async fn list_or_follow(
    State(state): State<AppState>,
    identity: Identity,
    asked: Asked,
) -> ApiResult<Response> {
    let wish = Wish::of(&asked.params, &identity)?;
    match Accept::of(&asked.headers).choose(&[JSON, EVENT_STREAM, NDJSON]) {
        Some(JSON) => page(&state, &asked, &wish).await,
        Some(form) => stream(state, identity, &asked, wish, form).await,
        None => {
            let offered = "application/json, text/event-stream, application/x-ndjson";
            Err(ApiError::NotAcceptable { offered })
        }
    }
}

async fn page(state: &AppState, asked: &Asked, wish: &Wish) -> ApiResult<Response> {
    let namespace = wish.namespace.as_deref();
    let (query, _) = asked.params.list(&EVENTS, namespace)?;
    let wanted = Wanted::default().topic_prefix(wish.topic.as_deref());
    let page = state.store.list_events(namespace, &query, wanted, wish.after).await;
    Ok(asked.page(&query, page.map_err(|error| error.in_field("after"))?))
}

async fn stream(
    state: AppState,
    identity: Identity,
    asked: &Asked,
    wish: Wish,
    form: &str,
) -> ApiResult<Response> {
    for name in ["sort", "limit", "cursor"] {
        if asked.params.one(name)?.is_some() {
            let reason = format!("`{name}` is of a page, and this is a stream: Accept: application/json");
            return Err(Error::invalid_field(name, reason).into());
        }
    }
    let filters: Vec<&str> = asked.params.all("filter").collect();
    let filter = Filter::parse(&filters, &Schema::EVENTS)?;
    // A browser that comes back repeats the address that it was given, and says by the header what it has seen since.
    let last_seen = position(header(&asked.headers, LAST_EVENT_ID)?);
    let last_seen = last_seen.map_err(|error| error.in_field("Last-Event-ID"))?;
    let field = if last_seen.is_some() { "Last-Event-ID" } else { "after" };
    let follower = state.store.follow_events(last_seen.or(wish.after)).await;
    let follower = follower.map_err(|error| error.in_field(field))?;
    let place = Place::take(&state)?;
    let news = follow(state, identity, follower, wish, filter);
    Ok(match form {
        NDJSON => streams::lines(place, news.map(line)),
        _ => streams::frames(place, news.map(frame)),
    })
}

/// Which events are asked for, in any form.
struct Wish {
    /// None: of all.
    namespace: Option<String>,
    topic: Option<String>,
    after: Option<i64>,
}

impl Wish {
    fn of(params: &Params, identity: &Identity) -> ApiResult<Wish> {
        let after = position(params.one("after")?).map_err(|error| error.in_field("after"))?;
        let topic = topic_prefix(params)?.map(str::to_owned);
        Ok(Wish { namespace: namespace(params, identity)?, topic, after })
    }

    fn wants(&self, event: &Event) -> bool {
        self.namespace.as_ref().is_none_or(|namespace| *namespace == event.namespace)
            && self.topic.as_ref().is_none_or(|prefix| event.topic.starts_with(prefix))
    }
}

/// The namespace whose events are asked for; none for those of all, which only who reaches all may see.
fn namespace(params: &Params, identity: &Identity) -> ApiResult<Option<String>> {
    if !params.flag("all_namespaces")? {
        return Ok(Some(namespace_of(params, identity)?.to_owned()));
    }
    if params.one("namespace")?.is_some() {
        let reason = "either one `namespace` or `all_namespaces`";
        return Err(Error::invalid_field("all_namespaces", reason).into());
    }
    match identity.reach() {
        Reach::Everywhere => Ok(None),
        Reach::Only(_) => {
            Err(ApiError::Forbidden { reason: "the token does not reach all namespaces".to_owned() })
        }
    }
}

/// With what the topics begin that are asked for. One with which none begins is a mistake.
fn topic_prefix(params: &Params) -> Result<Option<&str>> {
    let prefix = params.one("topic")?;
    match prefix {
        Some(prefix) if Topic::ALL.iter().all(|topic| !topic.as_str().starts_with(prefix)) => {
            let known: Vec<&str> = Topic::ALL.iter().map(|topic| topic.as_str()).collect();
            let reason = format!("no topic begins so: there are {}", known.join(", "));
            Err(Error::invalid_field("topic", reason))
        }
        prefix => Ok(prefix),
    }
}

/// The id of an event, or 0 for the place before the first.
fn position(text: Option<&str>) -> Result<Option<i64>> {
    let Some(text) = text else { return Ok(None) };
    let digits = (1..=19).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(id) if digits => Ok(Some(id)),
        _ => Err(Error::invalid("the id of an event is a whole number from 0 to 2^63 - 1")),
    }
}

/// What a stream says.
enum News {
    Event(Event),
    /// Both sides are there. Every event up to this id was looked at.
    Alive(i64),
}

fn frame(news: News) -> sse::Event {
    match news {
        News::Event(event) => {
            sse::Event::default().id(event.id.to_string()).event(&event.topic).data(to_json(&event))
        }
        // An id without data is no event: the browser only notes where it is, however long nothing that it wants happens.
        News::Alive(id) => sse::Event::default().comment("").id(id.to_string()),
    }
}

/// One event a line; an empty line now and then.
fn line(news: News) -> Bytes {
    match news {
        News::Event(event) => Bytes::from(to_json(&event) + "\n"),
        News::Alive(_) => Bytes::from_static(b"\n"),
    }
}

fn to_json(event: &Event) -> String {
    serde_json::to_string(event).expect("texts and numbers are JSON")
}

/// A stream at work. It holds one batch of events, which all readers at its place share, and reads the next only when
/// that one is on its way: a reader that is slow holds back nobody, and nothing is gathered for it.
struct Reader {
    soft: CancellationToken,
    heart: Heart,
    follower: Follower,
    wish: Wish,
    filter: Filter,
    batch: Arc<[Event]>,
    told: usize,
}

/// Everything that is wanted, until the server stops, the credential is none any more, or the reader is so slow that
/// what it has not read was dropped: then it finds that out when it comes back.
fn follow(
    state: AppState,
    identity: Identity,
    follower: Follower,
    wish: Wish,
    filter: Filter,
) -> impl Stream<Item = News> + Send + 'static {
    let soft = state.shutdown.soft().clone();
    let heart = Heart::new(state, identity).beat_at_once();
    let reader = Reader { soft, heart, follower, wish, filter, batch: Arc::default(), told: 0 };
    stream::unfold(reader, |mut reader| async move {
        match reader.next().await {
            Ok(news) => news.map(|news| (news, reader)),
            Err(Error::Gone { .. }) => {
                tracing::debug!("An event stream fell behind what is kept");
                None
            }
            Err(error) => {
                tracing::warn!("An event stream broke off: {}", with_causes(&error));
                None
            }
        }
    })
}

impl Reader {
    async fn next(&mut self) -> Result<Option<News>> {
        loop {
            while let Some(event) = self.batch.get(self.told) {
                self.told += 1;
                if self.wish.wants(event) && self.filter.matches(event) {
                    return Ok(Some(News::Event(event.clone())));
                }
            }
            tokio::select! {
                biased;
                () = self.soft.cancelled() => return Ok(None),
                () = self.heart.beat() => {
                    let goes_on = self.heart.may_go_on().await?;
                    return Ok(goes_on.then(|| News::Alive(self.follower.position())));
                }
                batch = self.follower.next() => (self.batch, self.told) = (batch?, 0),
            }
        }
    }
}
