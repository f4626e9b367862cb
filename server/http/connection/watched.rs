//! What reports to the watch: the stream of a connection, the bodies that arrive and those that leave.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use prometheus_client::metrics::counter::Counter;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{DRAINED, InFlight, Moment, Watch};

/// The stream of a connection, under watch.
pub struct WatchedStream<S> {
    stream: S,
    watch: Watch,
}

impl<S> WatchedStream<S> {
    pub fn new(stream: S, watch: Watch) -> WatchedStream<S> {
        WatchedStream { stream, watch }
    }

    fn wrote<T>(&self, outcome: &Poll<io::Result<T>>, bytes: impl Fn(&T) -> usize) {
        let mut state = self.watch.state();
        let timing = state.timing;
        match outcome {
            Poll::Pending => state.written.wait(Moment::now),
            Poll::Ready(Ok(written)) => {
                state.written.rest(Moment::now);
                state.written.moved(bytes(written), &timing, Moment::now);
                state.taken.moved(bytes(written), &timing, Moment::now);
            }
            Poll::Ready(Err(_)) => {}
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WatchedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        let new = &buf.filled()[before..];
        if !new.is_empty() {
            self.watch.state().received(new, Moment::now());
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WatchedStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.wrote(&polled, |written| *written);
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.wrote(&polled, |written| *written);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        self.wrote(&polled, |()| 0);
        polled
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.wrote(&polled, |()| 0);
        polled
    }
}

/// A request's body, whose bytes are counted and whose reader's waiting is under watch.
pub struct ArrivingBody<B: Body> {
    body: B,
    watch: Watch,
    received: Counter,
}

impl<B: Body> ArrivingBody<B> {
    pub fn new(body: B, watch: Watch, received: Counter) -> ArrivingBody<B> {
        ArrivingBody { body, watch, received }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for ArrivingBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        let mut state = self.watch.state();
        match &polled {
            Poll::Pending => state.read.wait(Moment::now),
            Poll::Ready(_) => state.read.rest(Moment::now),
        }
        drop(state);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            self.received.inc_by(frame.data_ref().map_or(0, Bytes::len) as u64);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B: Body> Drop for ArrivingBody<B> {
    fn drop(&mut self) {
        let mut state = self.watch.state();
        state.read.rest(Moment::now);
        let left = self.body.size_hint().upper().unwrap_or(u64::MAX);
        state.unread = !self.body.is_end_stream() && left > DRAINED;
    }
}

/// An answer's body, which keeps its request in flight until it is gone.
///
/// hyper asks for a frame when there is room for it. So between a frame and the next question the peer is awaited;
/// in HTTP/2 it can hold up a stream that way while the connection itself takes bytes.
pub struct LeavingBody<B> {
    body: B,
    in_flight: InFlight,
}

impl<B> LeavingBody<B> {
    pub fn new(body: B, in_flight: InFlight) -> LeavingBody<B> {
        LeavingBody { body, in_flight }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for LeavingBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        self.in_flight.0.state().taken.rest(Moment::now);
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(_))) = &polled {
            self.in_flight.0.state().taken.wait(Moment::now);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
