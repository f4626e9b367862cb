//! Refusals that are heard: a client that is still sending when its connection is closed may never read the answer.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use axum::body::{Body, BodyDataStream};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};

use crate::limits;

/// A body that is handed to somebody else, and can still be read on when they want no more of it.
#[derive(Clone)]
pub struct SharedBody(Arc<Mutex<BodyDataStream>>);

impl SharedBody {
    pub fn new(body: Body) -> SharedBody {
        SharedBody(Arc::new(Mutex::new(body.into_data_stream())))
    }

    /// Reads on to the end, or to [`limits::REFUSED_BODY_BYTES`]; past them the client has to do with a closed
    /// connection.
    pub async fn read_on(mut self) {
        let mut left = limits::REFUSED_BODY_BYTES;
        while let Some(Ok(bytes)) = self.next().await {
            let Some(rest) = left.checked_sub(bytes.len() as u64) else { return };
            left = rest;
        }
    }
}

impl Stream for SharedBody {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).poll_next_unpin(context)
    }
}
