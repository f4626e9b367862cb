//! What can go wrong, in the store's own words.
//!
//! A variant exists only if a caller acts on it. Nothing here knows HTTP: `http/error.rs` holds the one
//! table from these variants to a status and a stable code. Absence below `store/` is `Ok(None)`.

use std::fmt;
use std::io;
use std::time::Duration;

/// The error a foreign library gave, kept apart from our own words about it.
pub type Source = Box<dyn std::error::Error + Send + Sync + 'static>;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug)]
pub enum Error {
    /// The thing is not there, or not in the caller's namespace.
    NotFound { what: &'static str, id: String },
    /// No manifest of the image runs on the platform asked for; which there are.
    NoPlatform { wanted: String, available: Vec<String> },
    /// The name, key or id is taken.
    AlreadyExists { what: &'static str, id: String },
    /// The request cannot be understood; nothing was tried.
    Invalid(Invalid),
    /// The request is understood and cannot be done as it stands.
    Unprocessable(Unprocessable),
    /// The request collides with the state of what it names.
    Conflict(Conflict),
    /// Another writer has the ingest; `offset` is where it stands.
    Busy { offset: u64, retry_after: Duration },
    /// The operator's rules do not allow it, whoever asks.
    Refused { reason: String },
    /// What was to be read on from is kept no longer; `oldest` is the id of the oldest that may be.
    Gone { what: &'static str, oldest: i64 },
    /// `If-Match` and its relatives did not hold.
    PreconditionFailed { reason: String },
    /// The writer token is not (or no longer) the ingest's writer.
    WriterLost,
    /// More than a named limit allows.
    TooLarge { what: &'static str, limit: u64 },
    /// As many are under way or wait as a named limit allows; later there is room again.
    TooMany { what: &'static str, limit: usize, retry_after: Duration },
    /// The disk, or a quota, is full.
    OutOfSpace { doing: String, source: Source },
    /// A part of the service does not answer just now; trying again later helps.
    Unavailable { what: &'static str, source: Option<Source> },
    /// The stored bytes are not there, or are not what they are named.
    Corrupt { digest: String, reason: String },
    /// A registry answered badly, or not at all.
    Upstream(Upstream),
    /// Anything else: a defect, or a machine that misbehaves.
    Internal { doing: String, source: Option<Source> },
}

/// What of a request cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    pub reason: String,
    /// The field, parameter or header at fault, where one can be named.
    pub field: Option<String>,
    /// Where in the text of a filter or pattern, in characters from 0.
    pub position: Option<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unprocessable {
    /// The document is well-formed and breaks a rule of its kind.
    ValidationFailed { reason: String },
    /// The blob is not an image manifest or index.
    NotAManifest { digest: String, reason: String },
    /// The blob is not the tar of a layer.
    NotAnArchive { digest: String, reason: String },
    /// A chunk does not have the digest that came with it; none of it counts.
    ChunkDigestMismatch { expected: String, actual: String, offset: u64 },
    /// The `Idempotency-Key` was used before with another request.
    IdempotencyKeyReused,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Conflict {
    DigestMismatch {
        expected: String,
        actual: String,
    },
    SizeMismatch {
        expected: u64,
        actual: u64,
    },
    OffsetMismatch {
        expected: u64,
        provided: u64,
    },
    /// The blob is referenced or leased; each holder in words that say where to look.
    ContentInUse {
        digest: String,
        holders: Vec<Holder>,
    },
    /// Other snapshots stand on this one; the keys of the first of them.
    HasChildren {
        key: String,
        children: Vec<String>,
    },
    /// The namespace, lease or other container still has something inside.
    NotEmpty {
        what: &'static str,
        id: String,
        inside: Vec<String>,
    },
    /// Blobs that the image needs for this are not stored here: how many, and the first of them.
    Incomplete {
        count: usize,
        missing: Vec<String>,
    },
    /// The state does not allow the step (a finished job cannot be cancelled).
    State {
        reason: String,
    },
}

/// Who keeps a blob: `kind` is `image`, `lease`, `content`, `ingest` or `pull`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Holder {
    pub kind: String,
    pub id: String,
    pub name: Option<String>,
}

/// A registry's failure in words a person can act on. Never carries a credential or a query string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    pub kind: UpstreamKind,
    /// `host[:port]` asked, without user info.
    pub host: String,
    pub reason: String,
    /// The status the registry answered with, if it answered.
    pub status: Option<u16>,
    /// How long the registry asks to be left alone, if it said so.
    pub retry_after: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UpstreamKind {
    /// No connection, or it broke: worth another try.
    Unreachable,
    /// It broke before the first new byte, and no server there goes on in the middle: another try may get further.
    CutShort,
    /// Its certificate does not prove that it is the registry: somebody must act.
    Untrusted,
    /// 401 or 403.
    Denied,
    /// It wants a credential, and there is none for it.
    CredentialWanted,
    /// The credential that was sent is not taken.
    CredentialRefused,
    /// A token is to be had at a host that nobody has named: no credential goes there.
    TokenHostUnknown,
    /// It wants a certificate of ours, or another one than it gets.
    CertificateWanted,
    /// The registry does not have it.
    NotFound,
    /// The registry does not have a blob of an image whose manifest it gave.
    PartMissing,
    /// 429, or 503 with a wait.
    RateLimited,
    /// 5xx: worth another try.
    ServerError,
    /// The answer breaks the protocol or lies: another try will not help.
    BadAnswer,
    /// The bytes do not have the digest or size that was promised.
    Mismatch,
    /// No manifest for the platform asked for.
    NoPlatform,
    /// The address is one of a private network, which the operator has not allowed.
    PrivateAddress,
    /// The place may not be asked, whatever its address is or whoever allows it.
    Forbidden,
}

impl Error {
    pub fn invalid(reason: impl Into<String>) -> Error {
        Error::Invalid(Invalid { reason: reason.into(), field: None, position: None })
    }

    pub fn invalid_field(field: impl Into<String>, reason: impl Into<String>) -> Error {
        Error::Invalid(Invalid { reason: reason.into(), field: Some(field.into()), position: None })
    }

    pub fn invalid_at(position: usize, reason: impl Into<String>) -> Error {
        Error::Invalid(Invalid { reason: reason.into(), field: None, position: Some(position) })
    }

    pub fn not_found(what: &'static str, id: impl fmt::Display) -> Error {
        Error::NotFound { what, id: id.to_string() }
    }

    pub fn already_exists(what: &'static str, id: impl fmt::Display) -> Error {
        Error::AlreadyExists { what, id: id.to_string() }
    }

    /// A defect without a foreign cause: say what was being done.
    pub fn internal(doing: impl Into<String>) -> Error {
        Error::Internal { doing: doing.into(), source: None }
    }

    /// The same error with `field` named, where it is an `Invalid` that names none yet.
    pub fn in_field(mut self, field: &str) -> Error {
        if let Error::Invalid(invalid) = &mut self {
            invalid.field.get_or_insert_with(|| field.to_owned());
        }
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NotFound { what, id } => write!(f, "{what} `{id}` not found"),
            Error::NoPlatform { wanted, available } => {
                write!(f, "the image has no manifest for {wanted}; ")?;
                match available.as_slice() {
                    [] => f.write_str("it names no platform at all"),
                    available => write!(f, "it has {}", available.join(", ")),
                }
            }
            Error::AlreadyExists { what, id } => write!(f, "{what} `{id}` already exists"),
            Error::Invalid(invalid) => f.write_str(&invalid.reason),
            Error::Unprocessable(reason) => reason.fmt(f),
            Error::Conflict(conflict) => conflict.fmt(f),
            Error::Busy { offset, .. } => {
                write!(f, "the ingest has another writer, which stands at offset {offset}")
            }
            Error::Gone { what, oldest } => {
                write!(
                    f,
                    "some {what} after this place are kept no longer: the oldest has the id {oldest} or a larger one"
                )
            }
            Error::Refused { reason } | Error::PreconditionFailed { reason } => f.write_str(reason),
            Error::WriterLost => f.write_str("the writer token is not this ingest's writer: open it again"),
            Error::TooLarge { what, limit } => write!(f, "{what} is larger than the limit of {limit} bytes"),
            Error::TooMany { what, limit, .. } => {
                write!(f, "{limit} {what} are under way or wait already, which is the limit")
            }
            Error::OutOfSpace { doing, .. } => write!(f, "out of space: {doing}"),
            Error::Unavailable { what, .. } => write!(f, "{what} is not available just now"),
            Error::Corrupt { digest, reason } => write!(f, "stored content {digest} is damaged: {reason}"),
            Error::Upstream(upstream) => write!(f, "{}: {}", upstream.host, upstream.reason),
            Error::Internal { doing, .. } => f.write_str(doing),
        }
    }
}

impl fmt::Display for Unprocessable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unprocessable::ValidationFailed { reason } => f.write_str(reason),
            Unprocessable::NotAManifest { digest, reason } => {
                write!(f, "{digest} is not an image manifest or index: {reason}")
            }
            Unprocessable::NotAnArchive { digest, reason } => {
                write!(f, "{digest} is not the archive of a layer: {reason}")
            }
            Unprocessable::ChunkDigestMismatch { expected, actual, .. } => {
                write!(f, "the chunk has the digest {actual}, not {expected}; none of it was kept")
            }
            Unprocessable::IdempotencyKeyReused => {
                f.write_str("this Idempotency-Key was used before with another request")
            }
        }
    }
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Conflict::DigestMismatch { expected, actual } => {
                write!(f, "the bytes have the digest {actual}, not {expected}")
            }
            Conflict::SizeMismatch { expected, actual } => {
                write!(f, "there are {actual} bytes, not {expected}")
            }
            Conflict::OffsetMismatch { expected, provided } => {
                write!(f, "the ingest stands at offset {expected}, not {provided}")
            }
            Conflict::ContentInUse { digest, holders } => {
                write!(f, "{digest} is kept by {} other(s)", holders.len())
            }
            Conflict::HasChildren { key, children } => {
                write!(f, "{} other snapshot(s) stand on `{key}`", children.len())
            }
            Conflict::NotEmpty { what, id, .. } => write!(f, "{what} `{id}` is not empty"),
            Conflict::Incomplete { count, .. } => {
                write!(f, "{count} blob(s) that the image needs are not stored here")
            }
            Conflict::State { reason } => f.write_str(reason),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        let source = match self {
            Error::OutOfSpace { source, .. } => Some(source),
            Error::Unavailable { source, .. } | Error::Internal { source, .. } => source.as_ref(),
            Error::NotFound { .. }
            | Error::NoPlatform { .. }
            | Error::AlreadyExists { .. }
            | Error::Invalid(_)
            | Error::Unprocessable(_)
            | Error::Conflict(_)
            | Error::Busy { .. }
            | Error::Refused { .. }
            | Error::Gone { .. }
            | Error::PreconditionFailed { .. }
            | Error::WriterLost
            | Error::TooLarge { .. }
            | Error::TooMany { .. }
            | Error::Corrupt { .. }
            | Error::Upstream(_) => None,
        };
        source.map(|s| &**s as _)
    }
}

/// An error and all its causes on one line, for the log.
pub fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text.push_str(": ");
        text.push_str(&source.to_string());
        cause = source.source();
    }
    text
}

/// Says what was being done to what when a foreign call failed.
pub trait Doing<T> {
    /// # Errors
    /// The failure as an [`Error`], with the foreign error as its source.
    fn doing(self, what: impl Into<String>) -> Result<T>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, what: impl Into<String>) -> Result<T> {
        self.map_err(|source| {
            let doing = what.into();
            match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    Error::OutOfSpace { doing, source: source.into() }
                }
                io::ErrorKind::ReadOnlyFilesystem => Error::Unavailable {
                    what: "the data directory (read-only file system)",
                    source: Some(source.into()),
                },
                _ => Error::Internal { doing, source: Some(source.into()) },
            }
        })
    }
}

impl<T> Doing<T> for std::result::Result<T, rustix::io::Errno> {
    fn doing(self, what: impl Into<String>) -> Result<T> {
        self.map_err(io::Error::from).doing(what)
    }
}

impl<T> Doing<T> for serde_json::Result<T> {
    fn doing(self, what: impl Into<String>) -> Result<T> {
        self.map_err(|source| Error::Internal { doing: what.into(), source: Some(source.into()) })
    }
}
