-- What happened, in the order in which it may be read: written in the transaction of the change that it tells of.
--
-- An id is never given twice, also when every event has been dropped. `data` is a JSON object, its fields are those of
-- the topic; `time` is in microseconds since the Unix epoch. That everything up to an id has been dropped is a fact of
-- the store, `events_dropped` in `meta`: a gap alone may be a transaction that was undone.
CREATE TABLE events (
    id        BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    namespace TEXT COLLATE "C" NOT NULL,
    topic     TEXT COLLATE "C" NOT NULL,
    subject   TEXT COLLATE "C" NOT NULL,
    data      TEXT   NOT NULL,
    time      BIGINT NOT NULL
);
CREATE INDEX events_by_namespace ON events (namespace, id);
