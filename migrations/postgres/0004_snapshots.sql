-- Snapshots: file systems, layer on layer. A row implies its directory, `snapshots/<id>` of the data directory; a view
-- has one as well, and nothing in it.
--
-- `form` says who owns the files there: `real` as the layers say, `ours` where that was not possible. `opaque` is 1
-- where nothing of the parents shows through. `size` and `inodes` are those of a committed snapshot itself.
CREATE TABLE snapshots (
    namespace  TEXT COLLATE "C" NOT NULL,
    key        TEXT COLLATE "C" NOT NULL,
    id         TEXT COLLATE "C" NOT NULL UNIQUE,
    kind       TEXT   NOT NULL CHECK (kind IN ('active', 'view', 'committed')),
    parent     TEXT COLLATE "C",
    diff_id    TEXT COLLATE "C",
    form       TEXT   NOT NULL CHECK (form IN ('real', 'ours')),
    opaque     BIGINT NOT NULL CHECK (opaque IN (0, 1)),
    size       BIGINT NOT NULL,
    inodes     BIGINT NOT NULL,
    labels     TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (namespace, key),
    FOREIGN KEY (namespace, parent) REFERENCES snapshots (namespace, key)
);
CREATE INDEX snapshots_by_parent ON snapshots (namespace, parent);
CREATE INDEX snapshots_by_size ON snapshots (namespace, size, key);
CREATE INDEX snapshots_by_created ON snapshots (namespace, created_at, key);
CREATE INDEX snapshots_by_updated ON snapshots (namespace, updated_at, key);
