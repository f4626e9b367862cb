//! HTTP by hand, over a socket: what no client would send, and requests that stop in the middle.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::request::Answer;

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(60);

pub struct RawConnection {
    stream: TcpStream,
    read: Vec<u8>,
}

/// A request whose head is sent, and whose body is being sent.
pub struct SlowRequest {
    connection: RawConnection,
    method: &'static str,
    path: String,
}

impl RawConnection {
    pub async fn open(address: SocketAddr) -> RawConnection {
        let stream = TcpStream::connect(address).await.expect("the server accepts");
        stream.set_nodelay(true).expect("a connected socket");
        RawConnection { stream, read: Vec::new() }
    }

    /// Sends bytes; that the server has hung up already is not an error.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref()).await;
    }

    /// Says that nothing more will be sent.
    pub async fn send_end(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    /// The status of the next answer, when it has no body whatever its Content-Length says.
    pub async fn head_answer(&mut self) -> Option<u16> {
        let (status, _) =
            timeout(LIMIT, self.read_head()).await.expect("the server answers or hangs up in time")?;
        Some(status)
    }

    /// The next answer; `None` when the server hung up instead.
    pub async fn answer(&mut self) -> Option<Answer> {
        timeout(LIMIT, self.read_answer()).await.expect("the server answers or hangs up in time")
    }

    async fn read_head(&mut self) -> Option<(u16, HeaderMap)> {
        loop {
            let end = loop {
                match find(&self.read, b"\r\n\r\n") {
                    Some(end) => break end,
                    None => self.fill().await?,
                }
            };
            let head: Vec<u8> = self.read.drain(..end + 4).collect();
            let (status, headers) = parse_head(&head);
            // 100 Continue only announces the answer.
            if status >= 200 {
                return Some((status, headers));
            }
        }
    }

    async fn read_answer(&mut self) -> Option<Answer> {
        let (status, headers) = self.read_head().await?;
        let length = headers.get("content-length").map(|value| value.to_str().expect("a number").parse());
        let length: usize = length.map_or(0, |length| length.expect("Content-Length is a number"));
        while self.read.len() < length {
            self.fill().await?;
        }
        let body: Vec<u8> = self.read.drain(..length).collect();
        Some(Answer { status, headers, body: body.into() })
    }

    async fn fill(&mut self) -> Option<()> {
        let mut buffer = [0; 16 << 10];
        match self.stream.read(&mut buffer).await {
            Ok(0) | Err(_) => None,
            Ok(read) => {
                self.read.extend_from_slice(&buffer[..read]);
                Some(())
            }
        }
    }

    /// Waits until the server hangs up; everything that it said before.
    pub async fn until_closed(mut self) -> Vec<u8> {
        timeout(LIMIT, async { while self.fill().await.is_some() {} })
            .await
            .expect("the server hangs up in time");
        self.read
    }

    /// Sends a head that announces `length` bytes of body, and keeps the rest for later.
    pub async fn begin(
        mut self,
        method: &'static str,
        path: &str,
        headers: &[(&str, &str)],
        length: u64,
    ) -> SlowRequest {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        self.send(head).await;
        SlowRequest { connection: self, method, path: path.to_owned() }
    }
}

impl SlowRequest {
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.connection.send(bytes).await;
    }

    /// The answer, which must fit the contract; `None` when the server hung up instead.
    pub async fn answer(mut self) -> Option<Answer> {
        let answer = self.connection.answer().await?;
        answer.must_fit(self.method, &self.path);
        Some(answer)
    }

    /// Hangs up in the middle.
    pub fn hang_up(self) {}
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

fn parse_head(head: &[u8]) -> (u16, HeaderMap) {
    let text = std::str::from_utf8(head).expect("the head of an answer is text");
    let mut lines = text.trim_end().split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).expect("a status line");
    let field = |line: &str| {
        let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("a header line: {line:?}"));
        (name.parse::<HeaderName>().expect("a name"), HeaderValue::from_str(value).expect("a value"))
    };
    let mut headers = HeaderMap::new();
    for (name, value) in lines.map(field) {
        headers.append(name, value);
    }
    (status, headers)
}

/// Bytes that are the same for the same seed, and unlike each other otherwise.
pub fn noise(seed: u64, size: usize) -> Bytes {
    // SplitMix64: small, and good enough to be no pattern that anything here could take advantage of.
    let mut state = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend_from_slice(&(word ^ (word >> 31)).to_le_bytes());
    }
    bytes.truncate(size);
    bytes.into()
}
