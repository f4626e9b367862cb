//! What event streams have in common: how many there may be, the two forms that they come in, and that none of them
//! outlives the credential that asked for it.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode};
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Interval, MissedTickBehavior};

use super::lists::NDJSON;
use crate::error::{Error, Result, with_causes};
use crate::http::AppState;
use crate::http::accept::Accept;
use crate::http::access::{Identity, still_holds};
use crate::http::error::{ApiError, ApiResult};
use crate::http::params::header;
use crate::jobs::{EventBody, Follow, JobEvent, Jobs};
use crate::limits;

pub const EVENT_STREAM: &str = "text/event-stream";
/// The header by which a browser says what it has seen.
pub const LAST_EVENT_ID: &str = "last-event-id";

/// How long a browser waits before it asks again.
const RETRY: Duration = Duration::from_millis(2000);

/// A place among the event streams that may be open at once, counted for as long as it lives.
pub struct Place {
    _permit: OwnedSemaphorePermit,
    open: Gauge,
}

impl Place {
    /// # Errors
    /// `TooMany` when every place is taken.
    pub fn take(state: &AppState) -> ApiResult<Place> {
        let permit = state.event_places.clone().try_acquire_owned().map_err(|_| {
            ApiError::from(Error::TooMany {
                what: "event streams",
                limit: limits::EVENT_CLIENTS,
                retry_after: Duration::from_secs(5),
            })
        })?;
        let open = state.metrics.http.event_clients.clone();
        open.inc();
        Ok(Place { _permit: permit, open })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.dec();
    }
}

/// The beat of a stream. It goes on however much is told: one that is never silent must end with its credential too.
pub struct Heart {
    state: AppState,
    identity: Identity,
    beats: Interval,
}

impl Heart {
    pub fn new(state: AppState, identity: Identity) -> Heart {
        let mut beats = tokio::time::interval(limits::EVENT_HEARTBEAT);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        beats.reset();
        Heart { state, identity, beats }
    }

    /// The first beat comes now.
    pub fn beat_at_once(mut self) -> Heart {
        self.beats.reset_immediately();
        self
    }

    /// Waits for the next beat. To give the wait up loses none.
    pub async fn beat(&mut self) {
        self.beats.tick().await;
    }

    /// Whether whoever reads still may; to be asked at each beat.
    ///
    /// # Errors
    /// `Unavailable` when nobody can say.
    pub async fn may_go_on(&self) -> Result<bool> {
        still_holds(&self.state, &self.identity).await
    }
}

/// What a stream says.
pub enum Said<T> {
    Event(T),
    /// Both sides are there.
    Alive,
}

/// `events`, and that both sides are there, for as long as the credential that asked for them is one.
pub fn beating<T>(
    heart: Heart,
    events: impl Stream<Item = T> + Send + Unpin + 'static,
) -> impl Stream<Item = Said<T>> + Send + 'static
where
    T: Send + 'static,
{
    stream::unfold((heart, events), |(mut heart, mut events)| async move {
        let said = tokio::select! {
            biased;
            () = heart.beat() => match heart.may_go_on().await {
                Ok(true) => Said::Alive,
                Ok(false) => return None,
                Err(error) => {
                    tracing::warn!("An event stream broke off: {}", with_causes(&error));
                    return None;
                }
            },
            event = events.next() => Said::Event(event?),
        };
        Some((said, (heart, events)))
    })
}

/// The events of a job, in the form that the request asks for. `follow` finds them, from those on that were seen.
///
/// # Errors
/// `NotAcceptable`; `TooMany`; what `follow` says.
pub async fn tell_job<B, F>(
    state: AppState,
    identity: Identity,
    headers: &HeaderMap,
    follow: impl FnOnce(Jobs, Option<String>) -> F,
) -> ApiResult<Response>
where
    B: EventBody + Send + 'static,
    F: Future<Output = Result<Follow<B>>>,
{
    let form = Accept::of(headers).choose(&[EVENT_STREAM, NDJSON]);
    let form = form.ok_or(ApiError::NotAcceptable { offered: "text/event-stream, application/x-ndjson" })?;
    let last_seen = header(headers, LAST_EVENT_ID)?.map(str::to_owned);
    let (place, events) = match follow(state.jobs.clone(), last_seen).await? {
        // The end was seen: to a browser this says that there is nothing more to ask for.
        Follow::Finished => return Ok(StatusCode::NO_CONTENT.into_response()),
        Follow::Stream(events) => (Place::take(&state)?, events),
    };
    let said = beating(Heart::new(state, identity), events);
    Ok(match form {
        NDJSON => lines(place, said.map(line)),
        _ => frames(place, said.map(frame)),
    })
}

fn frame<B: EventBody>(said: Said<JobEvent<B>>) -> Event {
    match said {
        Said::Event(event) => {
            Event::default().id(event.id.to_string()).event(event.name()).data(event.data())
        }
        Said::Alive => Event::default().comment(""),
    }
}

/// One event a line; an empty line now and then.
fn line<B: EventBody>(said: Said<JobEvent<B>>) -> Bytes {
    match said {
        Said::Event(event) => {
            Bytes::from(serde_json::to_string(&event).expect("texts and numbers are JSON") + "\n")
        }
        Said::Alive => Bytes::from_static(b"\n"),
    }
}

/// Server-sent events (WHATWG HTML, section 9.2).
pub fn frames(place: Place, events: impl Stream<Item = Event> + Send + 'static) -> Response {
    let first = stream::once(async { Event::default().retry(RETRY) });
    let frames = first.chain(held(place, events)).map(Ok::<_, Infallible>);
    unbuffered(Sse::new(frames).into_response())
}

/// One JSON object a line.
pub fn lines(place: Place, lines: impl Stream<Item = Bytes> + Send + 'static) -> Response {
    let body = Body::from_stream(held(place, lines).map(Ok::<_, Infallible>));
    let mut response = body.into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(NDJSON));
    unbuffered(response)
}

/// The stream, which gives its place back when it ends.
fn held<T>(place: Place, events: impl Stream<Item = T>) -> impl Stream<Item = T> {
    events.map(move |event| {
        let _held = &place;
        event
    })
}

fn unbuffered(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // A proxy that gathers answers would hold events back until the stream is over.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}
