//! Every limit, in one place, with its reason.
//!
//! Nothing a peer sends may grow without bound: each queue, body, header, count, retry and wait that it can
//! influence is held to one of these. `/api/v1/system/info` prints the whole table.

use std::time::Duration;

use serde::Serialize;

/// One limit as the documentation and `/api/v1/system/info` show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Limit {
    pub name: &'static str,
    /// In `unit`s.
    pub value: u64,
    pub unit: &'static str,
    pub reason: &'static str,
}

/// Declares each limit once: the constant code uses, its documentation, and its row in [`ALL`].
macro_rules! limits {
    ($($name:ident $text:literal: $type:ident = $value:expr, $unit:literal, $reason:literal;)*) => {
        $(
            #[doc = $reason]
            pub const $name: $type = limits!(@constant $type, $value);
        )*

        /// Every limit of this server, in reading order.
        pub const ALL: &[Limit] = &[$(Limit {
            name: $text,
            value: limits!(@number $type, $name),
            unit: $unit,
            reason: $reason,
        }),*];
    };
    (@constant Duration, $value:expr) => { Duration::from_secs($value) };
    (@constant $type:ident, $value:expr) => { $value };
    (@number Duration, $name:ident) => { $name.as_secs() };
    (@number $type:ident, $name:ident) => { $name as u64 };
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const TIB: u64 = 1 << 40;

limits! {
    // Connections and requests.
    CONNECTIONS "connections": usize = 4_096, "connections",
        "More wait in the kernel's queue: an accepted connection costs a descriptor and memory.";
    HEADER_BYTES "header_bytes": usize = 32 * KIB as usize, "bytes",
        "A request's line and headers together; beyond it 431.";
    URI_BYTES "uri_bytes": usize = 8 * KIB as usize, "bytes",
        "The target of a request; beyond it 414.";
    READ_BUFFER_BYTES "read_buffer_bytes": usize = 128 * KIB as usize, "bytes",
        "Read at once from one connection: larger than the headers may be, or bodies would arrive in small pieces.";
    HEADER_COUNT "header_count": usize = 100, "headers",
        "Header lines of one request; beyond it 431.";
    HEADER_TIMEOUT "header_timeout": Duration = 10, "seconds",
        "From the first byte of a request to the end of its headers, or slow clients hold connections for nothing.";
    HANDSHAKE_TIMEOUT "handshake_timeout": Duration = 10, "seconds",
        "A TLS handshake that takes longer is not a client.";
    IDLE_TIMEOUT "idle_timeout": Duration = 60, "seconds",
        "A connection kept alive between two requests.";
    PACE_WINDOW "pace_window": Duration = 30, "seconds",
        "The time spent waiting for the peer over which the minimum rate is measured.";
    PACE_BYTES "pace_bytes": u64 = 30 * KIB, "bytes",
        "A peer that moves less than this in one window of waiting (1 KiB/s) is cut off.";
    HTTP2_STREAMS "http2_streams": u32 = 128, "streams",
        "Requests in flight on one HTTP/2 connection.";
    HTTP2_RESETS "http2_resets": usize = 32, "resets",
        "Streams reset before they were accepted; a peer that resets faster is flooding.";
    RANGES "ranges": usize = 16, "ranges",
        "Ranges of one request: many overlapping ranges turn a small request into a large answer.";
    REQUEST_ID_BYTES "request_id_bytes": usize = 128, "bytes",
        "A longer X-Request-Id is replaced by one of ours.";
    REQUEST_WAIT "request_wait": Duration = 60, "seconds",
        "The longest `wait=` a request may ask for; proxies give up soon after.";
    UNAVAILABLE_RETRY "unavailable_retry": Duration = 5, "seconds",
        "The Retry-After of a 503: a restarted database is back by then.";
    READY_KEPT "ready_kept": Duration = 1, "seconds",
        "How long an answer of /readyz is told again: anybody may ask, and each look writes to the disk.";
    JSON_BODY_BYTES "json_body_bytes": usize = MIB as usize, "bytes",
        "A JSON request body, which is held in memory.";
    FORM_BYTES "form_bytes": usize = 8 * KIB as usize, "bytes",
        "A form of the pages, which is held in memory: a token and the form's secret, with room to spare.";
    JSON_DEPTH "json_depth": usize = 64, "levels",
        "Nesting of a JSON document: the parser works on the stack.";
    LIST_PAGE "list_page": usize = 1_000, "items",
        "The largest page of a list; a page is held in memory.";
    LIST_PAGE_DEFAULT "list_page_default": usize = 100, "items",
        "The page of a list that names no limit.";
    LIST_BYTES "list_bytes": usize = 4 * MIB as usize, "bytes",
        "A page ends with the item that reaches this: one item may have 64 labels, or 4,096 blobs of a pull.";
    FILTER_BYTES "filter_bytes": usize = 4 * KIB as usize, "bytes",
        "The text of one filter; all of a request together are held to `uri_bytes`.";
    FILTERS "filters": usize = 16, "filters",
        "`filter` parameters of one request, and `label` parameters as well: each is a look at every item.";
    FILTER_SELECTORS "filter_selectors": usize = 64, "selectors",
        "Selectors in all filters of one request: each is a look at every item of the list.";
    FILTER_PATTERNS "filter_patterns": usize = 8, "patterns",
        "Regular expressions in all filters of one request: each may take 1 MiB.";
    PATTERN_BYTES "pattern_bytes": usize = 256, "bytes",
        "A regular expression in a filter; matching is linear, compiling is not free.";
    CURSOR_BYTES "cursor_bytes": usize = 8 * KIB as usize, "bytes",
        "An opaque list cursor, which carries the last sort key; it must fit the target of a request.";
    IDEMPOTENCY_KEY_BYTES "idempotency_key_bytes": usize = 255, "bytes",
        "The text of an Idempotency-Key.";
    IDEMPOTENCY_TIME "idempotency_time": Duration = 24 * 3_600, "seconds",
        "How long the answer to an Idempotency-Key is remembered.";

    // Event streams.
    EVENT_CLIENTS "event_clients": usize = 64, "clients",
        "Event streams open at once; each holds a queue.";
    EVENT_QUEUE "event_queue": usize = 8_192, "events",
        "Events of a pull kept for slow readers, who are told to start afresh beyond it: more than all its blobs and documents at once.";
    EVENT_HEARTBEAT "event_heartbeat": Duration = 15, "seconds",
        "A comment in a silent event stream, so that proxies keep it and dead readers are found.";
    EVENTS_KEPT "events_kept": u64 = 100_000, "events",
        "Events kept to be read again; the oldest beyond it are dropped, so that the log does not outgrow what it tells of.";
    EVENTS_TIME "events_time": Duration = 7 * 86_400, "seconds",
        "How long an event is kept: a reader that was away over a weekend goes on where it was.";
    EVENT_LABELS_BYTES "event_labels_bytes": usize = 4 * KIB as usize, "bytes",
        "Labels told in an event, as JSON; larger ones are left out, for a record may have 256 KiB of them.";

    // Names and labels.
    NAMESPACE_BYTES "namespace_bytes": usize = 76, "bytes",
        "A namespace's name, as in containerd.";
    REF_BYTES "ref_bytes": usize = 1_024, "bytes",
        "An ingest's ref, chosen by its client.";
    REFERENCE_BYTES "reference_bytes": usize = 1_024, "bytes",
        "An image's name or reference.";
    ID_BYTES "id_bytes": usize = 255, "bytes",
        "A lease id or snapshot key that the client chose: it must fit a file name.";
    MEDIA_TYPE_BYTES "media_type_bytes": usize = 255, "bytes",
        "A media type: RFC 6838 allows 127 characters on each side of the slash.";
    LABEL_BYTES "label_bytes": usize = 4_096, "bytes",
        "A label's key and value together, as in containerd.";
    LABELS "labels": usize = 64, "labels",
        "Labels on one record, so that a record stays small enough to list.";
    TOKEN_NAME_BYTES "token_name_bytes": usize = 255, "bytes",
        "The name of a token, which is for people.";
    TOKEN_NAMESPACES "token_namespaces": usize = 100, "namespaces",
        "What one token may name; one without a limit names none.";

    // Content and ingests.
    BLOB_BYTES "blob_bytes": u64 = TIB, "bytes",
        "The default of the setting max_blob_size.";
    INGESTS "ingests": usize = 10_000, "ingests",
        "Ingests open at once in one namespace; each is a directory and a row.";
    WRITER_TTL "writer_ttl": Duration = 600, "seconds",
        "The longest writer_ttl: a writer that is gone must not hold an ingest for long.";
    FINISHING_TIME "finishing_time": Duration = 5, "seconds",
        "How long a new writer waits for one whose request has ended and whose bytes are being synced.";
    MANIFEST_BYTES "manifest_bytes": u64 = 4 * MIB, "bytes",
        "A manifest or index, which is held in memory; the size registries accept.";
    INDEX_DEPTH "index_depth": usize = 4, "levels",
        "Indexes inside indexes.";
    INDEX_ENTRIES "index_entries": usize = 1_000, "manifests",
        "Manifests of one index.";
    MANIFEST_LAYERS "manifest_layers": usize = 512, "layers",
        "Layers of one manifest; overlay file systems take fewer.";
    HISTORY_STEPS "history_steps": usize = 4_096, "steps",
        "Build steps that the config of an image may list, each a line of an answer.";
    IMAGE_BLOBS "image_blobs": usize = 16_384, "blobs",
        "What the manifests of one image may name together, when it is looked through as a whole.";
    IMAGE_DOCUMENT_BYTES "image_document_bytes": u64 = 16 * MIB, "bytes",
        "The manifests of one image together, which are held in memory while it is looked through.";
    USAGE_REFERENCES "usage_references": usize = 200_000, "references",
        "What is followed from the blobs of one image to the images that share them; beyond it the answer says so.";
    USAGE_SHARERS "usage_sharers": usize = 100, "images",
        "Images that the usage of one image names, those that share the most.";
    INDEX_WAIT "index_wait": Duration = 5, "seconds",
        "How long the answer to a change of names waits for index.json; a disk that is slower writes it afterwards.";
    IMPORTS "imports": usize = 8, "imports",
        "Archives that are read at once; each may hold a decoder's window and a manifest. Beyond it 429.";
    REFUSED_BODY_BYTES "refused_body_bytes": u64 = 256 * MIB, "bytes",
        "What is read on of an archive that is refused: a client that is still sending would not hear why.";
    ARCHIVE_ENTRIES "archive_entries": usize = 20_000, "entries",
        "Entries of an archive that is imported; their names are held in memory.";
    ARCHIVE_PATH_BYTES "archive_path_bytes": usize = 1_024, "bytes",
        "The path of one entry; an image layout has none beyond 141.";
    ARCHIVE_HEADER_BYTES "archive_header_bytes": u64 = MIB, "bytes",
        "Headers between two files of an archive, long names and pax records among them: they are held in memory.";
    ARCHIVE_WINDOW "archive_window": u64 = 8 * MIB, "bytes",
        "What a zstd decoder looks back on, which it holds in memory: what RFC 8878 (3.1.1.1.2) wants decoders to have.";
    ARCHIVE_SHELF_BYTES "archive_shelf_bytes": u64 = 4 * MIB, "bytes",
        "Files of an archive, together, that are most likely of no use: they are held in memory until it is known.";
    ARCHIVE_LINKS "archive_links": usize = 8, "links",
        "Links of an archive that lead to links.";
    LAYOUT_FILE_BYTES "layout_file_bytes": u64 = 4 * KIB, "bytes",
        "The file oci-layout of an archive, which is one short line.";
    CONFIG_FILE_BYTES "config_file_bytes": u64 = MIB, "bytes",
        "The configuration file.";

    // Pulls.
    PULLS "pulls": usize = 4, "pulls",
        "The default of the setting pull_concurrency.";
    PULL_LAYERS "pull_layers": usize = 8, "blobs",
        "The default of the setting layer_concurrency.";
    BLOB_PARTS "blob_parts": usize = 4, "parts",
        "The default of the setting blob_concurrency.";
    PART_BYTES "part_bytes": u64 = 8 * MIB, "bytes",
        "A part of a large blob: longer ones leave less to share out, shorter ones cost more requests.";
    PARTS_AHEAD_BYTES "parts_ahead_bytes": u64 = 1024 * MIB, "bytes",
        "How far the parts of a blob may run ahead of its beginning: all that is ahead is read back to be hashed.";
    PULL_MAX_CONCURRENCY "pull_max_concurrency": usize = 64, "requests",
        "The largest max_concurrency of a pull.";
    HOST_REQUESTS "host_requests": usize = 16, "requests",
        "The default of the setting host_concurrency.";
    TOTAL_REQUESTS "total_requests": usize = 64, "requests",
        "The default of the setting request_concurrency.";
    PULL_QUEUE "pull_queue": usize = 1_000, "pulls",
        "Pulls waiting for their turn; beyond it 429.";
    PULL_PLATFORMS "pull_platforms": usize = 32, "platforms",
        "Platforms of one pull; each may cost a manifest.";
    PULL_BLOBS "pull_blobs": usize = 4_096, "blobs",
        "Configs and layers of one pull, whose picture is held in memory and in its row.";
    PULL_TRACE "pull_trace": usize = 1_000, "requests",
        "Requests that the trace of a pull remembers, the last ones; they stand in its row.";
    PULL_DOCUMENTS "pull_documents": usize = 1_024, "documents",
        "Indexes and manifests of one pull, of referrers as well: each is a request to the registry.";
    PULL_ENTRIES "pull_entries": usize = 4_096, "entries",
        "Entries of all indexes of one pull together: indexes may hold indexes.";
    PULL_CONFIG_BYTES "pull_config_bytes": u64 = 4 * MIB, "bytes",
        "An image config that is read for its platform; a longer one is fetched, and objects to no platform.";
    PULL_EMBEDDED_BYTES "pull_embedded_bytes": usize = 4 * MIB as usize, "bytes",
        "Blobs that descriptors carry along, kept until they are stored; what is beyond it is fetched as any blob.";
    REFERRERS "referrers": usize = 32, "referrers",
        "Referrers of one document that are pulled with it: each takes a label of its record.";
    REFERRER_PAGES "referrer_pages": usize = 8, "pages",
        "Pages of one list of referrers.";
    REFERRER_DEPTH "referrer_depth": usize = 2, "levels",
        "Referrers of referrers: a signature of a list of parts, and no further.";
    REFERRER_TYPES "referrer_types": usize = 16, "types",
        "Artifact types that one pull may name.";
    FOREIGN_URLS "foreign_urls": usize = 4, "urls",
        "Places tried for one foreign layer.";
    PLANS "plans": usize = 8, "plans",
        "Pulls that are only planned, at once; each holds documents in memory. Beyond it 429.";
    PLAN_TIME "plan_time": Duration = 60, "seconds",
        "How long a plan may take, tries and waits included: its client waits for it.";
    LAYER_WAIT "layer_wait": Duration = 5, "seconds",
        "How long a request waits for a layer that is read for the first time; then it is told to ask again.";
    UNPACKS "unpacks": usize = 2, "layers",
        "Layers that are unpacked at once, each by two threads: more would only wait for each other's disk.";
    UNPACK_JOBS "unpack_jobs": usize = 4, "jobs",
        "Unpacks of stored images at once; `unpacks` holds for the layers of all of them.";
    UNPACK_QUEUE "unpack_queue": usize = 1_000, "jobs",
        "Unpacks waiting for their turn; beyond it 429.";
    LAYER_ENTRIES "layer_entries": usize = 500_000, "entries",
        "Entries of one layer, which are held in memory while it is unpacked: layers of language packages have 200,000.";
    SPARSE_FILE_BYTES "sparse_file_bytes": u64 = 8 * TIB, "bytes",
        "A file of a layer with its holes: file systems have none beyond 16 TiB.";
    UNPACKED_BYTES "unpacked_bytes": u64 = 16 << 30, "bytes",
        "One layer without its compression.";
    UNPACK_RATIO "unpack_ratio": u64 = 1_000, "to one",
        "How much larger than its compressed bytes a layer or an archive may become: beyond it, it is a bomb.";
    UNPACK_RATIO_AFTER "unpack_ratio_after": u64 = 64 * MIB, "bytes",
        "Bytes of a layer or an archive to which the ratio is not applied: small layers of zeros are real.";
    CHECKPOINT_SPACING_BYTES "checkpoint_spacing_bytes": u64 = 4 * MIB, "bytes",
        "Unpacked bytes from one place to the next from which a gzip layer can be read on: more cost a read, fewer room.";
    CHECKPOINTS "checkpoints": usize = 512, "places",
        "Such places of one layer, each with up to 32 KiB in memory until all are made; then every second is let go.";
    REDIRECTS "redirects": usize = 5, "redirects",
        "Redirects followed for one request to a registry.";
    REGISTRIES "registries": usize = 1_000, "registries",
        "Registries with settings of their own; they are listed whole.";
    REGISTRY_MIRRORS "registry_mirrors": usize = 16, "hosts",
        "Mirrors of one registry: each may cost a request, and a wait, before the next is asked.";
    REGISTRY_HEADERS "registry_headers": usize = 32, "headers",
        "Headers that are sent to one host of a registry.";
    REGISTRY_TOKEN_HOSTS "registry_token_hosts": usize = 16, "hosts",
        "Token servers that may have the credential of one host.";
    REGISTRY_HEADER_BYTES "registry_header_bytes": usize = 8 * KIB as usize, "bytes",
        "The value of one such header: hosts take no longer ones.";
    REGISTRY_CONNECT_TIME "registry_connect_time": Duration = 300, "seconds",
        "The longest connect_timeout of a host: pulls wait for it.";
    REGISTRY_TOKENS "registry_tokens": usize = KIB as usize, "tokens",
        "Tokens of registries that are kept, one for each repository in use.";
    REGISTRY_TOKEN_TIME "registry_token_time": Duration = 3_600, "seconds",
        "How long such a token is kept at most, whatever its maker says.";
    REGISTRY_TOKEN_BYTES "registry_token_bytes": usize = 64 * KIB as usize, "bytes",
        "The answer of a token server: tokens of real registries have up to about 5,000 bytes.";
    CREDENTIAL_BYTES "credential_bytes": usize = 16 * KIB as usize, "bytes",
        "A user name, password or token for a registry: those of cloud registries have up to about 5,000.";
    CHALLENGE_PARAMETER_BYTES "challenge_parameter_bytes": usize = KIB as usize, "bytes",
        "A scope or a service that a registry names, and that is repeated to its token server.";
    PEM_BYTES "pem_bytes": usize = 256 * KIB as usize, "bytes",
        "Certificates and keys in one field of a registry's settings, or in one file of a hosts directory.";
    UPSTREAM_RETRY_AFTER "upstream_retry_after": Duration = 300, "seconds",
        "The longest Retry-After of a registry that is obeyed.";
    UPSTREAM_ALERT_WAIT "upstream_alert_wait": Duration = 2, "seconds",
        "How long a registry that has hung up on us is listened to for whether it wants a certificate.";
    PULL_LOG "pull_log": usize = 100, "lines",
        "What is kept of the words that were said of a pull: the last of them.";
    PULL_LOG_LINE "pull_log_line": usize = 500, "characters",
        "One of these lines: it may repeat what a stranger wrote.";
    UPSTREAM_PACE_BYTES "upstream_pace_bytes": u64 = 64 * KIB, "bytes",
        "What a registry must send within a minute of waiting: with less it has stalled, and is asked anew.";
    FOLLOW_TIME "follow_time": Duration = 30, "seconds",
        "How long a pull follows another, of another registry, that gets next to nothing of a blob that both want.";
    FOLLOWED_BYTES "followed_bytes": u64 = 256 * KIB, "bytes",
        "What that other pull must get meanwhile to be followed on.";
    UPSTREAM_CONNECT_TIME "upstream_connect_time": Duration = 10, "seconds",
        "How long a connection to a registry may take, TLS included, unless its settings say another time.";
    UPSTREAM_HEADER_TIME "upstream_header_time": Duration = 30, "seconds",
        "How long a registry may take until the head of an answer, for each redirect anew.";
    UPSTREAM_STALL_TIME "upstream_stall_time": Duration = 60, "seconds",
        "How long is waited for the bytes of a body, in which some must come: `upstream_pace_bytes`.";
    UPSTREAM_BODY_TIME "upstream_body_time": Duration = 300, "seconds",
        "How long a whole document, token or error may take, however steadily it comes: somebody waits for it.";
    UPSTREAM_TRIES "upstream_tries": u32 = 5, "tries",
        "Tries in a row for one document or blob, of a registry that has not answered yet: a name that was never right is told soon.";
    UPSTREAM_TRIES_ONCE_ANSWERED "upstream_tries_once_answered": u32 = 11, "tries",
        "The same of a registry that has answered: it will be back. With the usual waits that is some minutes.";
    UPSTREAM_WAIT "upstream_wait": Duration = 30, "seconds",
        "The longest wait between two tries that no registry asked for.";
    UPSTREAM_ERROR_BYTES "upstream_error_bytes": usize = 16 * KIB as usize, "bytes",
        "What is read of a registry's refusal for its code, which is a courtesy.";
    UPSTREAM_HOST_BYTES "upstream_host_bytes": usize = 255, "bytes",
        "The name of a host as it is told: one in DNS has no more, and a stranger's URL may.";
    UPSTREAM_URL_BYTES "upstream_url_bytes": usize = KIB as usize, "bytes",
        "A URL as it is told: a stranger redirects to one of any length.";
    UPSTREAM_CLIENTS "upstream_clients": usize = 64, "clients",
        "HTTP clients kept, one for each set of certificates and addresses in use; each holds connections.";
    UPSTREAM_IDLE_CONNECTIONS "upstream_idle_connections": usize = 10, "connections",
        "Connections to one host kept for the next request: the layers of a pull share them.";
    UPSTREAM_IDLE_TIME "upstream_idle_time": Duration = 30, "seconds",
        "How long such a connection is kept: a registry closes it as well.";
    TRACE_HEADER_BYTES "trace_header_bytes": usize = 512, "bytes",
        "The value of a header in a trace: it is a stranger's text.";
    REGISTRY_ENDPOINTS "registry_endpoints": usize = 32, "hosts",
        "Hosts that one pull asks, those of a hosts directory as well, which may list any number.";
    PROBE_ADDRESSES "probe_addresses": usize = 4, "addresses",
        "Addresses of one host that a test tries, one after the other: a name may have hundreds, and each may cost a wait.";
    PLAIN_HOSTS "plain_hosts": usize = 256, "hosts",
        "Hosts remembered to have no TLS, where none is needed.";
    PLAIN_HOST_TIME "plain_host_time": Duration = 3_600, "seconds",
        "How long that is remembered: a host may get a certificate.";
    RANGELESS_REGISTRIES "rangeless_registries": usize = 256, "registries",
        "Registries remembered to ignore ranges.";
    RANGELESS_TIME "rangeless_time": Duration = 3_600, "seconds",
        "How long that is remembered: it may have been a proxy on the way.";
    DOCKER_CONFIG_BYTES "docker_config_bytes": u64 = MIB, "bytes",
        "Docker's configuration file, and the answer of a credential helper: both are held in memory.";
    CREDENTIAL_HELPER_TIME "credential_helper_time": Duration = 30, "seconds",
        "How long a credential helper may take: some of them ask a cloud.";
    PLAN_WAIT "plan_wait": Duration = 5, "seconds",
        "The longest wait between two tries of a plan, whose client waits as well.";
    PULL_TRIES "pull_tries": u32 = 10, "tries",
        "Tries in a row of a step of a pull when a part of this service does not answer: two minutes, with the usual waits.";
    INGEST_BUSY_TRIES "ingest_busy_tries": u32 = 30, "tries",
        "How often a pull asks, once a second, for an ingest that somebody else writes.";
    PULL_PROGRESS_BYTES "pull_progress_bytes": u64 = 64 * KIB, "bytes",
        "What a broken download must have gained for its retries to be counted afresh.";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_limit_has_a_name_of_its_own_and_a_reason() {
        let names: BTreeSet<_> = ALL.iter().map(|limit| limit.name).collect();
        assert_eq!(names.len(), ALL.len());
        for limit in ALL {
            assert!(limit.value > 0 && limit.reason.ends_with('.'), "{}", limit.name);
        }
        let header_timeout = ALL.iter().find(|limit| limit.name == "header_timeout").expect("listed");
        assert_eq!(header_timeout.value, HEADER_TIMEOUT.as_secs());
    }
}
