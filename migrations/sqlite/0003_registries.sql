-- How registries are reached. The settings hold credentials and keys: they are sealed with the key of the data
-- directory, which no database ever sees.
CREATE TABLE registries (
    host       TEXT NOT NULL PRIMARY KEY,
    sealed     TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);

-- The credential that came with one pull, sealed likewise, for as long as the pull may need it.
CREATE TABLE pull_credentials (
    pull   TEXT NOT NULL PRIMARY KEY REFERENCES pulls (id) ON DELETE CASCADE,
    sealed TEXT   NOT NULL
);
