-- Unpacks of stored images, as jobs: what was asked for, and how it stands. `digest` is that of the manifest, once it is
-- known.
CREATE TABLE unpacks (
    id          TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    namespace   TEXT COLLATE "C" NOT NULL,
    request     TEXT   NOT NULL,
    state       TEXT COLLATE "C" NOT NULL
                CHECK (state IN ('queued', 'running', 'cancelling', 'succeeded', 'failed', 'cancelled')),
    digest      TEXT COLLATE "C",
    lease       TEXT COLLATE "C" NOT NULL,
    error       TEXT,
    detail      TEXT   NOT NULL,
    created_at  BIGINT NOT NULL,
    started_at  BIGINT,
    finished_at BIGINT
);
CREATE INDEX unpacks_by_created ON unpacks (namespace, created_at, id);
CREATE INDEX unpacks_unfinished ON unpacks (state) WHERE finished_at IS NULL;
