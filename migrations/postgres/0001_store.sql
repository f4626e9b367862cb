-- What orlop knows about what it stores.
--
-- One text for both databases but for the types of bytes and of text that is ordered: digests and names sort by
-- their bytes everywhere. Times are microseconds since the Unix epoch, sizes are bytes, labels and other documents
-- are JSON text, and a boolean is 0 or 1.

-- Facts about this store as a whole: its instance, so that two data directories never share one database.
CREATE TABLE meta (
    name  TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    value TEXT   NOT NULL
);

CREATE TABLE namespaces (
    name       TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    labels     TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);

-- The bytes, once: a row in state `stored` implies the file of that name. `deleting` is set before the file goes,
-- `missing` when a start finds no file, `corrupt` when the bytes do not match their name.
CREATE TABLE blobs (
    digest     TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    size       BIGINT NOT NULL CHECK (size >= 0),
    state      TEXT   NOT NULL CHECK (state IN ('stored', 'deleting', 'missing', 'corrupt')),
    created_at BIGINT NOT NULL
);
CREATE INDEX blobs_not_stored ON blobs (state, digest) WHERE state <> 'stored';

-- A namespace's record of a blob.
CREATE TABLE content (
    namespace  TEXT COLLATE "C" NOT NULL,
    digest     TEXT COLLATE "C" NOT NULL REFERENCES blobs (digest),
    size       BIGINT NOT NULL,
    media_type TEXT COLLATE "C",
    labels     TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (namespace, digest)
);
CREATE INDEX content_by_digest ON content (digest);
CREATE INDEX content_by_size ON content (namespace, size, digest);
CREATE INDEX content_by_created ON content (namespace, created_at, digest);
CREATE INDEX content_by_updated ON content (namespace, updated_at, digest);

-- What refers to what: from the bytes of manifests (label `manifest`, `config`, `layer`, …) and from
-- containerd's `containerd.io/gc.ref.*` labels (label: the label's own key).
CREATE TABLE edges (
    namespace  TEXT COLLATE "C" NOT NULL,
    parent     TEXT COLLATE "C" NOT NULL,
    child_type TEXT COLLATE "C" NOT NULL,
    child      TEXT COLLATE "C" NOT NULL,
    label      TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (namespace, parent, child_type, child, label)
);
CREATE INDEX edges_by_child ON edges (namespace, child_type, child);

CREATE TABLE images (
    id          TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    namespace   TEXT COLLATE "C" NOT NULL,
    name        TEXT COLLATE "C" NOT NULL,
    media_type  TEXT COLLATE "C" NOT NULL,
    digest      TEXT COLLATE "C" NOT NULL,
    size        BIGINT NOT NULL,
    annotations TEXT   NOT NULL,
    labels      TEXT   NOT NULL,
    created_at  BIGINT NOT NULL,
    updated_at  BIGINT NOT NULL,
    UNIQUE (namespace, name)
);
CREATE INDEX images_by_digest ON images (namespace, digest);
CREATE INDEX images_by_created ON images (namespace, created_at, id);
CREATE INDEX images_by_updated ON images (namespace, updated_at, id);

-- `expires_at` without a value: never. A lease holds nothing from the microsecond it expires.
CREATE TABLE leases (
    namespace  TEXT COLLATE "C" NOT NULL,
    id         TEXT COLLATE "C" NOT NULL,
    kind       TEXT   NOT NULL CHECK (kind IN ('user', 'grace', 'pull')),
    flat       BIGINT NOT NULL CHECK (flat IN (0, 1)),
    labels     TEXT   NOT NULL,
    expires_at BIGINT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (namespace, id)
);
CREATE INDEX leases_by_expiry ON leases (expires_at);
CREATE INDEX leases_by_created ON leases (namespace, created_at, id);

CREATE TABLE lease_resources (
    namespace TEXT COLLATE "C" NOT NULL,
    lease     TEXT COLLATE "C" NOT NULL,
    type      TEXT COLLATE "C" NOT NULL CHECK (type IN ('content', 'ingest', 'snapshot', 'image')),
    id        TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (namespace, lease, type, id),
    FOREIGN KEY (namespace, lease) REFERENCES leases (namespace, id) ON DELETE CASCADE
);
CREATE INDEX lease_resources_by_id ON lease_resources (namespace, type, id);

-- A write that is not committed. `durable_offset` bytes are on disk for certain, and `hash_state` is the running
-- hash of exactly those; after another boot nothing beyond them is trusted.
CREATE TABLE ingests (
    id              TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    namespace       TEXT COLLATE "C" NOT NULL,
    ref             TEXT COLLATE "C" NOT NULL,
    total           BIGINT,
    expected_digest TEXT COLLATE "C",
    media_type      TEXT COLLATE "C",
    labels          TEXT   NOT NULL,
    lease           TEXT COLLATE "C",
    shared          BIGINT NOT NULL CHECK (shared IN (0, 1)),
    durable_offset  BIGINT NOT NULL,
    hash_algorithm  TEXT   NOT NULL,
    hash_state      BYTEA,
    boot            TEXT   NOT NULL,
    started_at      BIGINT NOT NULL,
    updated_at      BIGINT NOT NULL,
    expires_at      BIGINT NOT NULL,
    UNIQUE (namespace, ref)
);
CREATE INDEX ingests_by_expiry ON ingests (expires_at);
CREATE INDEX ingests_by_started ON ingests (namespace, started_at, id);
CREATE INDEX ingests_by_expected ON ingests (expected_digest);

-- A pull is a row first, a task second. `detail` is the picture of its blobs and progress as last written.
CREATE TABLE pulls (
    id          TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    namespace   TEXT COLLATE "C" NOT NULL,
    ref         TEXT COLLATE "C" NOT NULL,
    request     TEXT   NOT NULL,
    state       TEXT COLLATE "C" NOT NULL
                CHECK (state IN ('queued', 'running', 'cancelling', 'succeeded', 'failed', 'cancelled')),
    phase       TEXT COLLATE "C" NOT NULL,
    attempt     BIGINT NOT NULL,
    image_name  TEXT COLLATE "C" NOT NULL,
    digest      TEXT COLLATE "C",
    lease       TEXT COLLATE "C" NOT NULL,
    labels      TEXT   NOT NULL,
    error       TEXT,
    detail      TEXT   NOT NULL,
    created_at  BIGINT NOT NULL,
    started_at  BIGINT,
    finished_at BIGINT
);
CREATE INDEX pulls_by_created ON pulls (namespace, created_at, id);
CREATE INDEX pulls_unfinished ON pulls (state) WHERE finished_at IS NULL;

-- A token's secret is shown once; its digest is what is stored.
CREATE TABLE tokens (
    id            TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    name          TEXT COLLATE "C" NOT NULL,
    secret_digest TEXT COLLATE "C" NOT NULL UNIQUE,
    scopes        TEXT   NOT NULL,
    namespaces    TEXT   NOT NULL,
    created_at    BIGINT NOT NULL,
    expires_at    BIGINT,
    last_used_at  BIGINT
);

-- A browser's session: a cookie that stands for a token, and the secret its forms carry.
CREATE TABLE sessions (
    secret_digest TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    token         TEXT COLLATE "C" NOT NULL REFERENCES tokens (id) ON DELETE CASCADE,
    csrf          TEXT   NOT NULL,
    expires_at    BIGINT NOT NULL
);

-- What a POST with an Idempotency-Key answered, for as long as the key is remembered.
CREATE TABLE idempotency (
    namespace   TEXT COLLATE "C" NOT NULL,
    key         TEXT COLLATE "C" NOT NULL,
    fingerprint TEXT   NOT NULL,
    resource    TEXT   NOT NULL,
    created_at  BIGINT NOT NULL,
    PRIMARY KEY (namespace, key)
);
CREATE INDEX idempotency_by_age ON idempotency (created_at);
