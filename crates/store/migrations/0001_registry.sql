-- Models, versions, keys, and the one table of changes: audit trail, watch feed and outbox.
CREATE TABLE incarnation (
    id INTEGER NOT NULL
) STRICT;
INSERT INTO incarnation (id) VALUES (1);

CREATE TABLE models (
    name       TEXT PRIMARY KEY,
    kind       TEXT NOT NULL,
    production TEXT NOT NULL,
    learner    INTEGER NOT NULL,
    created_ms INTEGER NOT NULL
) STRICT;

CREATE TABLE versions (
    model           TEXT NOT NULL REFERENCES models (name),
    version         TEXT NOT NULL,
    stage           TEXT NOT NULL,
    learner         INTEGER NOT NULL,
    spec            TEXT NOT NULL,
    spec_sha256     TEXT NOT NULL,
    created_ms      INTEGER NOT NULL,
    created_by      TEXT,
    PRIMARY KEY (model, version)
) STRICT;

CREATE TABLE keys (
    name       TEXT PRIMARY KEY,
    sha256     TEXT NOT NULL UNIQUE,
    scopes     TEXT NOT NULL,
    model      TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    expires_ms INTEGER,
    revoked_ms INTEGER
) STRICT;

CREATE TABLE changes (
    seq             INTEGER PRIMARY KEY,
    incarnation     INTEGER NOT NULL,
    at_ms           INTEGER NOT NULL,
    principal       TEXT,
    action          TEXT NOT NULL,
    subject         TEXT NOT NULL,
    before          TEXT,
    after           TEXT,
    why             TEXT,
    kind            TEXT NOT NULL,
    previous_sha256 TEXT NOT NULL,
    sha256          TEXT NOT NULL
) STRICT;
