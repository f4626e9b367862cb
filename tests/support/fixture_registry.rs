//! A registry in this process that lies on demand: real enough to be pulled from, small enough to be read whole.
//!
//! It speaks plain HTTP/1.1 on a loopback port of its own and closes each connection after one answer, so that a
//! fault is exactly the bytes that are written here. It is stopped by dropping it.

#![allow(dead_code, reason = "each test target uses its own part of it")]

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

pub struct FixtureRegistry {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    accepting: JoinHandle<()>,
}

/// One request as it arrived. Header names are in lower case.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: String,
    /// With its query.
    pub path: String,
    pub headers: HashMap<String, String>,
    pub body: String,
}

/// How the next answer to a matching request is wrong.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Another status, with these headers and an empty body.
    Status(u16, Vec<(&'static str, String)>),
    /// The first byte of the body is another one.
    WrongBytes,
    /// The body lacks its last byte, and `Content-Length` says so.
    Short,
    /// More bytes than there are follow, without a `Content-Length`.
    Long,
    /// Bytes without end.
    Endless,
    /// The connection closes after this many bytes of the body.
    CutAfter(usize),
    /// Nothing more comes after this many bytes of the body, and the connection stays.
    StallAfter(usize),
    /// The body comes byte by byte, with this wait before each.
    Drip(Duration),
    /// The head comes byte by byte, with this wait before each.
    DripHead(Duration),
    /// No answer at all, and the connection stays.
    Silent,
    /// No answer at all, and the connection closes: so does one whose server has died.
    HangUp,
    /// The whole body with status 200, whatever range was asked for.
    IgnoreRange,
    /// The whole body with status 200, whatever range was asked for, and the connection closes after this many bytes of it.
    CutWhole(usize),
    /// A part that does not begin at the first byte says that it begins one byte later.
    ShiftRange,
    /// This, and the head comes byte by byte, with this wait before each.
    Late(Duration, Box<Fault>),
    /// A part of at most this many bytes, however many were asked for.
    AtMost(usize),
    /// This `Content-Range`, whatever bytes follow.
    ContentRange(String),
    /// These headers, in addition or instead.
    Headers(Vec<(&'static str, String)>),
    /// Without this header.
    Without(&'static str),
}

#[derive(Debug, Clone)]
pub enum Auth {
    /// Wants the token that `realm` (default: this registry's own `/token`) hands out, with this life in seconds.
    Token { realm: Option<String>, expires_in: u64 },
    /// Hands out tokens and takes none of them.
    TokenRejected,
    /// Wants a password and takes none.
    Basic,
    /// Wants this `user:password`.
    Password(&'static str),
}

/// Whom the token server hands tokens to; without it, to anybody.
#[derive(Debug, Clone)]
pub enum TokenFor {
    /// `user:password`, by GET.
    Password(&'static str),
    /// `user:password`, by OAuth2's POST alone.
    PostedPassword(&'static str),
    /// This refresh token, which each answer replaces by a new one.
    Refresh(String),
}

#[derive(Default)]
struct State {
    blobs: HashMap<String, Bytes>,
    /// By `repository@digest` and by `repository:tag`.
    manifests: HashMap<String, (String, Bytes)>,
    faults: Vec<Planned>,
    seen: Vec<Seen>,
    /// Pages of lists of referrers, by `repository@digest`; `None` where the registry has no such API.
    referrers: Option<HashMap<String, Vec<Vec<u8>>>>,
    /// Bytes at paths that are not the registry's own.
    files: HashMap<String, Vec<u8>>,
    /// Path and length of every body, as far as it was sent.
    sent: Vec<(String, u64)>,
    at_once: usize,
    most_at_once: usize,
    auth: Option<Auth>,
    token_for: Option<TokenFor>,
    /// The scope that its challenges name.
    scope: Option<&'static str>,
    tokens_made: usize,
    /// What each token opens, as it was asked for.
    opened_by: HashMap<String, String>,
}

struct Planned {
    method: Option<&'static str>,
    /// `Range` as it must be.
    range: Option<String>,
    part: String,
    fault: Fault,
    left: usize,
}

struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Bytes,
    ending: Ending,
}

enum Ending {
    Close,
    Stall,
    Endless,
    Drip(Duration),
}

pub fn sha256(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// A descriptor in JSON.
pub fn descriptor(media_type: &str, bytes: &[u8]) -> serde_json::Value {
    serde_json::json!({"mediaType": media_type, "digest": sha256(bytes), "size": bytes.len()})
}

impl FixtureRegistry {
    pub async fn start() -> FixtureRegistry {
        FixtureRegistry::start_at("127.0.0.1:0").await
    }

    /// At another address of this machine.
    pub async fn start_at(address: &str) -> FixtureRegistry {
        let listener = TcpListener::bind(address).await.expect("a port of this machine");
        let address = listener.local_addr().expect("the port it got");
        let state = Arc::new(Mutex::new(State::default()));
        let shared = state.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, address, shared.clone()));
            }
        });
        FixtureRegistry { address, state, accepting }
    }

    /// `127.0.0.1:port`, as it stands in a reference.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    pub fn push_blob(&self, bytes: &[u8]) -> String {
        let digest = sha256(bytes);
        self.state().blobs.insert(digest.clone(), Bytes::copy_from_slice(bytes));
        digest
    }

    /// Stores a document under its digest and, where there is one, a tag. Gives its digest.
    pub fn push_document(
        &self,
        repository: &str,
        tag: Option<&str>,
        media_type: &str,
        bytes: &[u8],
    ) -> String {
        let digest = sha256(bytes);
        let kept = (media_type.to_owned(), Bytes::copy_from_slice(bytes));
        let mut state = self.state();
        state.manifests.insert(format!("{repository}@{digest}"), kept.clone());
        if let Some(tag) = tag {
            state.manifests.insert(format!("{repository}:{tag}"), kept);
        }
        digest
    }

    /// Stores an image of these layers for one platform (`os/arch`) and gives the bytes of its manifest.
    pub fn push_image(
        &self,
        repository: &str,
        tag: Option<&str>,
        platform: &str,
        layers: &[&[u8]],
    ) -> Vec<u8> {
        let (os, architecture) = platform.split_once('/').expect("os/arch");
        let diff_ids: Vec<_> = layers.iter().map(|layer| sha256(layer)).collect();
        let config = serde_json::json!({
            "os": os, "architecture": architecture, "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = config.to_string().into_bytes();
        self.push_blob(&config);
        layers.iter().for_each(|layer| drop(self.push_blob(layer)));
        let layers: Vec<_> = layers.iter().map(|layer| descriptor(LAYER, layer)).collect();
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor(CONFIG, &config), "layers": layers,
        });
        let manifest = manifest.to_string().into_bytes();
        self.push_document(repository, tag, MANIFEST, &manifest);
        manifest
    }

    /// Stores an index over manifests, each with its platform (`os/arch`), and gives its digest.
    pub fn push_index(&self, repository: &str, tag: &str, manifests: &[(&str, &[u8])]) -> String {
        let entry = |(platform, bytes): &(&str, &[u8])| {
            let (os, architecture) = platform.split_once('/').expect("os/arch");
            let mut entry = descriptor(MANIFEST, bytes);
            entry["platform"] = serde_json::json!({"os": os, "architecture": architecture});
            entry
        };
        let entries: Vec<_> = manifests.iter().map(entry).collect();
        let index = serde_json::json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries});
        self.push_document(repository, Some(tag), INDEX, index.to_string().as_bytes())
    }

    /// Has the API of referrers from now on, and these referrers of a document: descriptors, page by page.
    pub fn list_referrers(&self, repository: &str, subject: &str, pages: &[Vec<serde_json::Value>]) {
        let page = |entries: &Vec<serde_json::Value>| {
            let list = serde_json::json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries});
            list.to_string().into_bytes()
        };
        let pages = pages.iter().map(page).collect();
        self.state().referrers.get_or_insert_default().insert(format!("{repository}@{subject}"), pages);
    }

    /// Keeps bytes at a path of their own, such as `/elsewhere/layer`; its URL.
    pub fn push_file(&self, path: &str, bytes: &[u8]) -> String {
        self.state().files.insert(path.to_owned(), bytes.to_vec());
        format!("http://{}{path}", self.address)
    }

    /// Lets the next `times` requests whose path contains `part` go wrong. Earlier plans are used up first.
    pub fn fail(&self, part: &str, fault: Fault, times: usize) {
        self.plan(Planned { method: None, range: None, part: part.to_owned(), fault, left: times });
    }

    /// The same for requests of one method only.
    pub fn fail_method(&self, method: &'static str, part: &str, fault: Fault, times: usize) {
        self.plan(Planned { method: Some(method), range: None, part: part.to_owned(), fault, left: times });
    }

    /// The same for requests with this `Range` only.
    pub fn fail_range(&self, range: &str, part: &str, fault: Fault, times: usize) {
        let range = Some(range.to_owned());
        self.plan(Planned { method: None, range, part: part.to_owned(), fault, left: times });
    }

    fn plan(&self, planned: Planned) {
        self.state().faults.push(planned);
    }

    /// Drops all plans: from now on everything goes well.
    pub fn forgive(&self) {
        self.state().faults.clear();
    }

    /// Names this scope wherever it wants a token.
    pub fn name_scope(&self, scope: &'static str) {
        self.state().scope = Some(scope);
    }

    /// Lets anybody in again.
    pub fn forget(&self) {
        self.state().auth = None;
    }

    pub fn require(&self, auth: Auth) {
        self.state().auth = Some(auth);
    }

    pub fn hand_tokens_to(&self, whom: TokenFor) {
        self.state().token_for = Some(whom);
    }

    /// All requests so far, in the order they came.
    pub fn seen(&self) -> Vec<Seen> {
        self.state().seen.clone()
    }

    /// Method and path of all requests so far.
    pub fn log(&self) -> Vec<String> {
        self.state().seen.iter().map(|seen| format!("{} {}", seen.method, seen.path)).collect()
    }

    /// The bytes of bodies that were sent to requests whose path contains `part`.
    pub fn sent(&self, part: &str) -> u64 {
        self.state().sent.iter().filter(|(path, _)| path.contains(part)).map(|(_, bytes)| bytes).sum()
    }

    /// The most requests that were being answered at one moment.
    pub fn most_at_once(&self) -> usize {
        self.state().most_at_once
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics while it holds this")
    }
}

impl Drop for FixtureRegistry {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(mut stream: TcpStream, address: SocketAddr, state: Arc<Mutex<State>>) {
    let Some(seen) = read_request(&mut stream).await else { return };
    let planned = {
        let mut state = state.lock().expect("no holder panics");
        state.seen.push(seen.clone());
        state.at_once += 1;
        state.most_at_once = state.most_at_once.max(state.at_once);
        let fits = |plan: &&mut Planned| {
            plan.left > 0
                && seen.path.contains(&plan.part)
                && plan.method.is_none_or(|m| m == seen.method)
                && plan.range.as_ref().is_none_or(|range| seen.headers.get("range") == Some(range))
        };
        state.faults.iter_mut().find(fits).map(|plan| {
            plan.left -= 1;
            plan.fault.clone()
        })
    };
    let reply = {
        let mut state = state.lock().expect("no holder panics");
        let fault = match &planned {
            Some(Fault::Late(_, fault)) => Some((**fault).clone()),
            planned => planned.clone(),
        };
        state.reply(&seen, address, &fault)
    };
    // A peer that hangs up early is what half of the tests are about.
    let mut told = Told { sent: 0, presence: Some(Presence(state.clone())) };
    let _ = match planned {
        Some(Fault::Silent) => stream.read_u8().await.map(drop),
        Some(Fault::HangUp) => Ok(()),
        Some(Fault::DripHead(wait) | Fault::Late(wait, _)) => {
            write_reply(&mut stream, &seen, reply, wait, &mut told).await
        }
        _ => write_reply(&mut stream, &seen, reply, Duration::ZERO, &mut told).await,
    };
    state.lock().expect("no holder panics").sent.push((seen.path, told.sent));
}

/// What is told of an answer on its way.
struct Told {
    sent: u64,
    presence: Option<Presence>,
}

/// A request that is being answered.
struct Presence(Arc<Mutex<State>>);

impl Drop for Presence {
    fn drop(&mut self) {
        self.0.lock().expect("no holder panics").at_once -= 1;
    }
}

/// The head of one request; `None` for anything that is not HTTP, such as the start of TLS.
async fn read_request(stream: &mut TcpStream) -> Option<Seen> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let byte = stream.read_u8().await.ok()?;
        head.push(byte);
        if !head[0].is_ascii_uppercase() || head.len() > 65_536 {
            return None;
        }
    }
    let head = String::from_utf8(head).ok()?;
    let mut lines = head.lines();
    let (method, rest) = lines.next()?.split_once(' ')?;
    let (path, _) = rest.split_once(' ')?;
    let headers = lines.filter_map(|line| line.split_once(':'));
    let headers: HashMap<String, String> =
        headers.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    let body = String::from_utf8(body).ok()?;
    Some(Seen { method: method.to_owned(), path: path.to_owned(), headers, body })
}

async fn write_reply(
    stream: &mut TcpStream,
    seen: &Seen,
    reply: Reply,
    head_wait: Duration,
    told: &mut Told,
) -> io::Result<()> {
    if seen.method == "HEAD" || reply.body.is_empty() {
        told.presence = None;
    }
    let mut head = format!("HTTP/1.1 {} Fixture\r\nConnection: close\r\n", reply.status);
    reply.headers.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
    head.push_str("\r\n");
    let whole = !head_wait.is_zero();
    for byte in head.bytes().filter(|_| whole) {
        tokio::time::sleep(head_wait).await;
        stream.write_u8(byte).await?;
    }
    if !whole {
        stream.write_all(head.as_bytes()).await?;
    }
    if let Ending::Drip(wait) = reply.ending {
        for byte in reply.body {
            tokio::time::sleep(wait).await;
            stream.write_u8(byte).await?;
            told.sent += 1;
        }
        return stream.shutdown().await;
    }
    if seen.method != "HEAD" {
        for piece in reply.body.chunks(65_536) {
            told.sent += piece.len() as u64;
            if told.sent == reply.body.len() as u64 && matches!(reply.ending, Ending::Close) {
                // Before the client can know that it has all: it must not seem to ask for more meanwhile.
                told.presence = None;
            }
            stream.write_all(piece).await?;
        }
    }
    stream.flush().await?;
    match reply.ending {
        Ending::Close | Ending::Drip(_) => stream.shutdown().await,
        Ending::Stall => stream.read_u8().await.map(drop),
        Ending::Endless => loop {
            stream.write_all(&[b'x'; 65_536]).await?;
            told.sent += 65_536;
        },
    }
}

impl State {
    fn reply(&mut self, seen: &Seen, address: SocketAddr, planned: &Option<Fault>) -> Reply {
        let path = seen.path.split('?').next().unwrap_or_default();
        if path == "/token" {
            return match self.token_for {
                Some(TokenFor::PostedPassword(_)) if seen.method == "GET" => Reply::new(404, vec![], ""),
                _ if self.may_have_token(seen) => self.token(seen, planned),
                _ => Reply::new(401, vec![], ""),
            };
        }
        if let Some(challenge) = self.challenge(seen, address)
            && !self.files.contains_key(path)
        {
            return Reply::new(401, vec![("WWW-Authenticate", challenge)], "");
        }
        if path == "/v2/" {
            return Reply::new(200, vec![("Content-Type", "application/json".to_owned())], "{}")
                .spoiled(planned);
        }
        if let Some(repository) = path.strip_prefix("/v2/").and_then(|rest| rest.strip_suffix("/tags/list"))
            && self.manifests.keys().any(|name| name.starts_with(&format!("{repository}:")))
        {
            let body = format!(r#"{{"name":"{repository}","tags":[]}}"#);
            return Reply::new(200, vec![("Content-Type", "application/json".to_owned())], body)
                .spoiled(planned);
        }
        if let Some(reply) = self.list(&seen.path) {
            return reply.spoiled(planned);
        }
        let reply = match self.find(path) {
            None => Reply::new(404, vec![], r#"{"errors":[{"code":"MANIFEST_UNKNOWN"}]}"#),
            Some((media_type, bytes)) => {
                // By digest it is in the path, and a large blob is not hashed for every part of it.
                let digest = path.rsplit_once('/').map_or(path, |(_, name)| name).to_owned();
                let digest = if digest.contains(':') { digest } else { sha256(&bytes) };
                let headers = vec![("Content-Type", media_type), ("Docker-Content-Digest", digest)];
                let ranged = !matches!(planned, Some(Fault::IgnoreRange | Fault::CutWhole(_)));
                let range = seen.headers.get("range").filter(|_| ranged);
                let most = if let Some(Fault::AtMost(most)) = planned { *most } else { usize::MAX };
                Reply::new(200, headers, bytes).ranged(range, most)
            }
        };
        reply.spoiled(planned)
    }

    fn token(&mut self, seen: &Seen, planned: &Option<Fault>) -> Reply {
        self.tokens_made += 1;
        let query = seen.path.split_once('?').map_or(&*seen.body, |(_, query)| query);
        let scope = url::form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "scope");
        let scope = scope.map(|(_, scope)| scope.into_owned()).unwrap_or_default();
        self.opened_by.insert(format!("secret-{}", self.tokens_made), scope);
        let expires_in = match &self.auth {
            Some(Auth::Token { expires_in, .. }) => *expires_in,
            Some(Auth::TokenRejected | Auth::Basic | Auth::Password(_)) | None => 60,
        };
        let made = self.tokens_made;
        let refresh = match &mut self.token_for {
            Some(TokenFor::Refresh(newest)) => {
                *newest = format!("refresh-{made}");
                format!(r#","refresh_token":"{newest}""#)
            }
            Some(TokenFor::Password(_) | TokenFor::PostedPassword(_)) | None => String::new(),
        };
        let body = format!(r#"{{"token":"secret-{made}","expires_in":{expires_in}{refresh}}}"#);
        Reply::new(200, vec![("Content-Type", "application/json".to_owned())], body).spoiled(planned)
    }

    fn may_have_token(&self, seen: &Seen) -> bool {
        let form = |name: &str| {
            let pairs = url::form_urlencoded::parse(seen.body.as_bytes());
            pairs.into_iter().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
        };
        match &self.token_for {
            None => true,
            Some(TokenFor::Password(pair)) => seen.method == "GET" && has_password(seen, pair),
            Some(TokenFor::PostedPassword(pair)) => {
                let posted =
                    form("username").zip(form("password")).map(|(user, word)| format!("{user}:{word}"));
                posted.as_deref() == Some(*pair) && form("grant_type").as_deref() == Some("password")
            }
            Some(TokenFor::Refresh(newest)) => form("refresh_token").as_ref() == Some(newest),
        }
    }

    fn challenge(&self, seen: &Seen, address: SocketAddr) -> Option<String> {
        let given = self.has_token(seen);
        let own = || format!("http://{address}/token");
        match self.auth.as_ref()? {
            Auth::Token { .. } if given => None,
            Auth::Token { realm, .. } => {
                let realm = realm.clone().unwrap_or_else(own);
                Some(match &self.scope {
                    Some(scope) => format!(r#"Bearer realm="{realm}",service="fixture",scope="{scope}""#),
                    None => format!(r#"Bearer realm="{realm}",service="fixture""#),
                })
            }
            Auth::TokenRejected => Some(format!(r#"Bearer realm="{}""#, own())),
            Auth::Password(pair) if has_password(seen, pair) => None,
            Auth::Basic | Auth::Password(_) => Some(r#"Basic realm="fixture""#.to_owned()),
        }
    }

    /// Whether the request has a token that opens its repository. One that was made elsewhere opens all of them.
    fn has_token(&self, seen: &Seen) -> bool {
        let given = seen.headers.get("authorization").and_then(|value| value.strip_prefix("Bearer "));
        let Some(token) = given.filter(|token| token.starts_with("secret-")) else { return false };
        let path = seen.path.split('?').next().unwrap_or_default();
        let rest = path.strip_prefix("/v2/").unwrap_or_default();
        let kinds = ["/manifests/", "/blobs/", "/referrers/"];
        let repository =
            kinds.iter().find_map(|kind| rest.split_once(kind)).map(|(repository, _)| repository);
        match (self.opened_by.get(token), repository) {
            (Some(scope), Some(repository)) => *scope == format!("repository:{repository}:pull"),
            (None, _) | (_, None) => true,
        }
    }

    /// A page of `/v2/<repository>/referrers/<digest>`: the one that `page` names, or the first.
    fn list(&self, target: &str) -> Option<Reply> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let (repository, subject) = path.strip_prefix("/v2/")?.split_once("/referrers/")?;
        let lists = self.referrers.as_ref()?;
        let empty =
            vec![format!(r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[]}}"#).into_bytes()];
        let pages = lists.get(&format!("{repository}@{subject}")).unwrap_or(&empty);
        let page: usize = query.strip_prefix("page=").and_then(|page| page.parse().ok()).unwrap_or(0);
        let mut headers = vec![("Content-Type", INDEX.to_owned())];
        if page + 1 < pages.len() {
            headers.push(("Link", format!(r#"<{path}?page={}>; rel="next""#, page + 1)));
        }
        Some(Reply::new(200, headers, pages[page].clone()))
    }

    /// `/v2/<repository>/manifests/<tag or digest>` and `/v2/<repository>/blobs/<digest>`.
    fn find(&self, path: &str) -> Option<(String, Bytes)> {
        if let Some(bytes) = self.files.get(path) {
            return Some(("application/octet-stream".to_owned(), bytes.clone().into()));
        }
        let rest = path.strip_prefix("/v2/")?;
        if let Some((repository, name)) = rest.split_once("/manifests/") {
            let join = if name.contains(':') { '@' } else { ':' };
            return self.manifests.get(&format!("{repository}{join}{name}")).cloned();
        }
        let (_, digest) = rest.split_once("/blobs/")?;
        let bytes = self.blobs.get(digest)?;
        Some(("application/octet-stream".to_owned(), bytes.clone()))
    }
}

/// RFC 7617: `Basic` and the pair in base 64.
fn has_password(seen: &Seen, pair: &str) -> bool {
    use base64::Engine as _;
    let expected = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair));
    seen.headers.get("authorization") == Some(&expected)
}

impl Reply {
    fn new(status: u16, headers: Vec<(&str, String)>, body: impl Into<Bytes>) -> Reply {
        let body = body.into();
        let headers = headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let length = body.len();
        let mut reply = Reply { status, headers, body, ending: Ending::Close };
        reply.set("Content-Length", length.to_string());
        reply
    }

    fn set(&mut self, name: &str, value: String) {
        self.remove(name);
        self.headers.push((name.to_owned(), value));
    }

    fn remove(&mut self, name: &str) {
        self.headers.retain(|(given, _)| !given.eq_ignore_ascii_case(name));
    }

    /// Answers `bytes=N-M`, the only form the client sends.
    fn ranged(mut self, range: Option<&String>, most: usize) -> Reply {
        let asked = range.and_then(|range| {
            let (from, to) = range.strip_prefix("bytes=")?.split_once('-')?;
            Some((from.parse::<usize>().ok()?, to.parse::<usize>().ok()?))
        });
        let whole = self.body.len();
        if let Some((from, to)) = asked.filter(|(from, _)| *from < whole) {
            let end = (to + 1).min(whole).min(from.saturating_add(most));
            self.status = 206;
            self.body = self.body.slice(from..end);
            self.set("Content-Range", format!("bytes {from}-{}/{whole}", end - 1));
            self.set("Content-Length", self.body.len().to_string());
        }
        self
    }

    fn spoiled(mut self, planned: &Option<Fault>) -> Reply {
        match planned {
            None
            | Some(
                Fault::Silent
                | Fault::HangUp
                | Fault::DripHead(_)
                | Fault::IgnoreRange
                | Fault::Late(..)
                | Fault::AtMost(_),
            ) => {}
            Some(Fault::Status(status, headers)) => {
                let headers = headers.iter().map(|(name, value)| (*name, value.clone())).collect();
                return Reply::new(*status, headers, "");
            }
            Some(Fault::WrongBytes) => {
                let mut body = self.body.to_vec();
                body.iter_mut().take(1).for_each(|byte| *byte ^= 1);
                self.body = body.into();
            }
            Some(Fault::Short) => {
                self.body.truncate(self.body.len().saturating_sub(1));
                self.set("Content-Length", self.body.len().to_string());
            }
            Some(Fault::Long) => {
                self.remove("Content-Length");
                self.body = [&self.body, &b"and more"[..]].concat().into();
            }
            Some(Fault::Endless) => {
                self.remove("Content-Length");
                self.ending = Ending::Endless;
            }
            Some(Fault::CutAfter(bytes) | Fault::CutWhole(bytes)) => self.body.truncate(*bytes),
            Some(Fault::ShiftRange) => self.headers.iter_mut().for_each(|(name, value)| {
                let first = value.strip_prefix("bytes ").filter(|_| name == "Content-Range");
                let first = first.and_then(|rest| rest.split_once('-'));
                if let Some((first, rest)) = first.filter(|(first, _)| *first != "0") {
                    let first: u64 = first.parse().expect("it is written above");
                    *value = format!("bytes {}-{rest}", first + 1);
                }
            }),
            Some(Fault::StallAfter(bytes)) => {
                self.body.truncate(*bytes);
                self.ending = Ending::Stall;
            }
            Some(Fault::Drip(wait)) => self.ending = Ending::Drip(*wait),
            Some(Fault::ContentRange(value)) => self.set("Content-Range", value.clone()),
            Some(Fault::Headers(headers)) => {
                headers.iter().for_each(|(name, value)| self.set(name, value.clone()));
            }
            Some(Fault::Without(name)) => self.remove(name),
        }
        self
    }
}
