//! What event streams have in common: how many there may be, and the two forms that they come in.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http::HeaderValue;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::OwnedSemaphorePermit;

use super::lists::NDJSON;
use crate::error::Error;
use crate::http::AppState;
use crate::http::error::{ApiError, ApiResult};
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

/// Server-sent events (WHATWG HTML, section 9.2). With `heartbeat`, a comment in the silence between them.
pub fn frames(
    place: Place,
    events: impl Stream<Item = Event> + Send + 'static,
    heartbeat: Option<KeepAlive>,
) -> Response {
    let first = stream::once(async { Event::default().retry(RETRY) });
    let frames = first.chain(held(place, events)).map(Ok::<_, Infallible>);
    unbuffered(match heartbeat {
        Some(heartbeat) => Sse::new(frames).keep_alive(heartbeat).into_response(),
        None => Sse::new(frames).into_response(),
    })
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
