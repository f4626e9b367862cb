//! Every kind of problem: its code, status and title, and its page at `/problems/{code}`.
//!
//! Codes are part of the contract: they are added, never changed.

use http::StatusCode;

/// One kind of problem.
#[derive(Debug, PartialEq, Eq)]
pub struct ProblemDoc {
    pub code: &'static str,
    pub status: StatusCode,
    pub title: &'static str,
    pub meaning: &'static str,
    /// What to do; also the `hint` of each such problem.
    pub remedy: &'static str,
}

/// Declares each kind once: its constant and its place in [`PROBLEMS`].
macro_rules! problems {
    ($($name:ident $code:literal $status:ident $title:literal, $meaning:literal, $remedy:literal;)*) => {
        $(
            #[doc = $meaning]
            pub const $name: &ProblemDoc = &ProblemDoc {
                code: $code,
                status: StatusCode::$status,
                title: $title,
                meaning: $meaning,
                remedy: $remedy,
            };
        )*

        /// Every kind of problem this server answers with, by status.
        pub const PROBLEMS: &[&ProblemDoc] = &[$($name),*];
    };
}

/// The kind with this code.
pub fn find(code: &str) -> Option<&'static ProblemDoc> {
    PROBLEMS.iter().copied().find(|doc| doc.code == code)
}

problems! {
    INVALID_ARGUMENT "invalid-argument" BAD_REQUEST "Invalid request",
        "A parameter, header, path or field of the request cannot be understood. Nothing was tried.",
        "Mend what `detail` says; where `field` is given it names what is at fault, and `position` the character in it, from 0.";
    UNAUTHENTICATED "unauthenticated" UNAUTHORIZED "Not authenticated",
        "This server wants a token, and the request has none that is valid.",
        "Send `Authorization: Bearer orl_…`; `orlop token create` makes a token.";
    FORBIDDEN "forbidden" FORBIDDEN "Not allowed",
        "The token does not allow this, the server's settings do not allow the registry, or a page of another site sent the request.",
        "`detail` says what is missing: a scope, a namespace, a form secret, or a page of this server.";
    NOT_FOUND "not-found" NOT_FOUND "Not found",
        "What the request names does not exist, or not in this namespace.",
        "Check the spelling, and the `namespace` parameter.";
    NO_PLATFORM "no-platform" NOT_FOUND "No such platform",
        "The image has no manifest for the platform asked for, or for that of the server where none was asked for.",
        "`available` lists the platforms it has: name one with `platform`.";
    METHOD_NOT_ALLOWED "method-not-allowed" METHOD_NOT_ALLOWED "Method not allowed",
        "The path exists and does not know this method.",
        "The `Allow` header lists the methods it knows.";
    NOT_ACCEPTABLE "not-acceptable" NOT_ACCEPTABLE "Not acceptable",
        "The answer has no form that the `Accept` header admits.",
        "Ask for one of the types that `detail` lists.";
    ALREADY_EXISTS "already-exists" CONFLICT "Already exists",
        "The name, key or id is taken.",
        "Choose another one, or change the existing one with PATCH.";
    DIGEST_MISMATCH "digest-mismatch" CONFLICT "Digest mismatch",
        "The bytes do not have the digest that was announced. They were not stored under it.",
        "Compare `expected` and `actual`. An ingest keeps its bytes until it is aborted, truncated or expires.";
    SIZE_MISMATCH "size-mismatch" CONFLICT "Size mismatch",
        "There are more or fewer bytes than were announced.",
        "Compare `expected_size` and `actual_size`; send what is missing, or begin again.";
    OFFSET_MISMATCH "offset-mismatch" CONFLICT "Offset mismatch",
        "The bytes were sent for an offset at which the ingest does not stand.",
        "Continue from `offset`, which is also in the `Upload-Offset` header.";
    CONTENT_IN_USE "content-in-use" CONFLICT "Content in use",
        "Something still refers to the content or holds it by a lease.",
        "`holders` lists who; release them first, or use `?force=true`.";
    HAS_CHILDREN "has-children" CONFLICT "Has children",
        "Other snapshots stand on this one.",
        "`children` lists the first of them; remove them first.";
    NOT_EMPTY "not-empty" CONFLICT "Not empty",
        "There is still something inside.",
        "`inside` lists what; remove it first.";
    IMAGE_INCOMPLETE "image-incomplete" CONFLICT "Image incomplete",
        "Blobs that the image needs for this are not stored here, as after a pull of one of its platforms.",
        "`missing` lists the first of them. Name a `platform` that is here (`/check` tells which), or pull the rest.";
    INVALID_STATE "invalid-state" CONFLICT "Not possible in this state",
        "What the request names is in a state that does not allow this step.",
        "Read its state, and see `detail`.";
    GONE "gone" GONE "Gone",
        "What the request wants to read on from is kept no longer: between it and what there is, something is missing.",
        "Read the state of what you follow anew, then go on from `oldest_id` - 1, or from now.";
    PRECONDITION_FAILED "precondition-failed" PRECONDITION_FAILED "Precondition failed",
        "`If-Match`, `If-None-Match` or a relative did not hold: somebody else changed it meanwhile.",
        "Read it again for its `ETag` of now, and decide anew.";
    WRITER_LOST "writer-lost" PRECONDITION_FAILED "Writer lost",
        "The writer token is not, or no longer, the writer of this ingest.",
        "Open the ingest again; it resumes with the bytes it has.";
    TOO_LARGE "too-large" PAYLOAD_TOO_LARGE "Too large",
        "The body or a part of it is larger than a limit of this server.",
        "`limit` is the limit; `/api/v1/system/info` lists all of them.";
    URI_TOO_LONG "uri-too-long" URI_TOO_LONG "Target too long",
        "The path and query together are longer than this server reads.",
        "Send fewer or shorter parameters.";
    UNSUPPORTED_MEDIA_TYPE "unsupported-media-type" UNSUPPORTED_MEDIA_TYPE "Unsupported media type",
        "The body is not of a type that this operation reads.",
        "Set `Content-Type` to what `detail` names.";
    RANGE_NOT_SATISFIABLE "range-not-satisfiable" RANGE_NOT_SATISFIABLE "Range not satisfiable",
        "No part of the ranges asked for lies within the content.",
        "`Content-Range` says how many bytes there are.";
    MISDIRECTED_REQUEST "misdirected-request" MISDIRECTED_REQUEST "Misdirected request",
        "The `Host` header names a host that this server does not go by. It refuses such requests, or any web page could \
         reach it by pointing a name at this machine.",
        "Use its address, or name the host in the setting allowed_hosts (`--allowed-hosts`); every call needs a token then.";
    VALIDATION_FAILED "validation-failed" UNPROCESSABLE_ENTITY "Validation failed",
        "The document is well-formed, and breaks a rule of its kind.",
        "`detail` names the rule.";
    NOT_A_MANIFEST "not-a-manifest" UNPROCESSABLE_ENTITY "Not a manifest",
        "The content is not an image manifest or index, so it has no children.",
        "Ask for the content's data instead.";
    NOT_AN_ARCHIVE "not-an-archive" UNPROCESSABLE_ENTITY "Not an archive",
        "The content is not the tar of a layer, plain or as gzip or zstd, so there are no files in it.",
        "Ask for the content's data instead.";
    CHUNK_DIGEST_MISMATCH "chunk-digest-mismatch" UNPROCESSABLE_ENTITY "Chunk digest mismatch",
        "The bytes of this request do not have the `Content-Digest` that came with them. None of them was kept.",
        "Send them again, from `offset`.";
    IDEMPOTENCY_KEY_REUSED "idempotency-key-reused" UNPROCESSABLE_ENTITY "Idempotency key reused",
        "The `Idempotency-Key` was used before, with another request.",
        "Use a new key for each new request.";
    INGEST_BUSY "ingest-busy" LOCKED "Ingest busy",
        "Another writer has this ingest.",
        "Try again after `Retry-After`; `offset` is where the other writer stands.";
    UPSTREAM_DENIED "upstream-denied" FAILED_DEPENDENCY "Denied by the registry",
        "The registry refused the credentials, or wants some.",
        "Check the user name, password or token for this registry.";
    UPSTREAM_NOT_FOUND "upstream-not-found" FAILED_DEPENDENCY "Not at the registry",
        "The registry does not have this repository, tag or digest.",
        "Check the reference.";
    UPSTREAM_NO_PLATFORM "upstream-no-platform" FAILED_DEPENDENCY "No such platform",
        "The image has no manifest for the platform asked for.",
        "`detail` lists the platforms it has.";
    UPSTREAM_FORBIDDEN "upstream-forbidden-address" FAILED_DEPENDENCY "Address not allowed",
        "The registry, or a place it sends to, has an address that this server may not contact.",
        "If a registry of your own network is meant, its operator can allow that: `--private-registries allow`.";
    RATE_LIMITED "rate-limited" TOO_MANY_REQUESTS "Too many requests",
        "There are more requests of this kind than the server takes at once.",
        "Try again after `Retry-After`.";
    HEADERS_TOO_LARGE "headers-too-large" REQUEST_HEADER_FIELDS_TOO_LARGE "Headers too large",
        "The headers together are larger than this server reads.",
        "Send fewer or shorter headers.";
    INTERNAL "internal" INTERNAL_SERVER_ERROR "Internal error",
        "Something failed on the server that should not have.",
        "Tell the operator the `request_id`: the server's log has the cause under it.";
    CORRUPT_CONTENT "corrupt-content" INTERNAL_SERVER_ERROR "Corrupt content",
        "The stored bytes are missing, or do not have the digest they are named by. They are not served.",
        "Store or pull the content again: that heals it.";
    UPSTREAM_UNREACHABLE "upstream-unreachable" BAD_GATEWAY "Registry unreachable",
        "There is no connection to the registry, or it broke.",
        "Check the name and the network; a retry keeps what has arrived.";
    UPSTREAM_UNTRUSTED "upstream-untrusted" BAD_GATEWAY "Registry not trusted",
        "The registry's certificate does not prove that it is the registry: it has expired, is for another name, or was \
         issued by somebody whom this system does not trust.",
        "If the registry has a CA of its own, put that into the system's trust store on the server and start the server \
         again. `insecure` takes any certificate: it is for tests.";
    UPSTREAM_RATE_LIMITED "upstream-rate-limited" BAD_GATEWAY "Limited by the registry",
        "The registry wants fewer requests.",
        "Try again later, or use credentials: most registries allow more with them.";
    UPSTREAM_SERVER_ERROR "upstream-server-error" BAD_GATEWAY "Registry failed",
        "The registry answered with an error of its own.",
        "Try again later.";
    UPSTREAM_BAD_ANSWER "upstream-bad-answer" BAD_GATEWAY "Bad answer of the registry",
        "The registry's answer breaks the protocol or contradicts itself.",
        "Tell those who run the registry.";
    UPSTREAM_MISMATCH "upstream-mismatch" BAD_GATEWAY "Wrong bytes from the registry",
        "The registry sent bytes that do not have the digest or size it promised. They were not stored.",
        "Try again; if it stays, tell those who run the registry.";
    UNAVAILABLE "unavailable" SERVICE_UNAVAILABLE "Unavailable just now",
        "A part of the service, such as the database, does not answer just now.",
        "Try again after `Retry-After`.";
    OUT_OF_SPACE "out-of-space" INSUFFICIENT_STORAGE "Out of space",
        "The server's disk, or a quota, is full.",
        "Free space: delete content or ingests that nobody needs, or make the file system larger. Ingests keep the bytes \
         they have.";
}
