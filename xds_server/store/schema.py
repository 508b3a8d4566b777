"""The journal's tables."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

VERSION: Final = 8
"""Goes into `user_version`. A change of the tables raises it and brings a migration from the version before."""

APPLICATION_ID: Final = 0x53524E53  # "SRNS": tells the file from any other SQLite database

TABLES: Final = """
CREATE TABLE rollouts (
    rollout TEXT PRIMARY KEY,
    service TEXT NOT NULL,
    baseline TEXT NOT NULL,
    canary TEXT NOT NULL,
    state TEXT NOT NULL,
    started_unix_ns INTEGER NOT NULL,
    finished_unix_ns INTEGER,
    outcome TEXT NOT NULL,          -- JSON: segment to phase
    who TEXT NOT NULL,
    reason TEXT NOT NULL
);
CREATE UNIQUE INDEX one_running_rollout_a_service ON rollouts (service) WHERE finished_unix_ns IS NULL;
CREATE TABLE decisions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at_unix_ns INTEGER NOT NULL,
    service TEXT NOT NULL,
    rollout TEXT NOT NULL,
    segment TEXT NOT NULL,
    verdict TEXT NOT NULL,
    tier TEXT NOT NULL,
    split_before_bp INTEGER NOT NULL,
    split_after_bp INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    reason TEXT NOT NULL,
    detail_json TEXT NOT NULL,
    who TEXT NOT NULL,
    in_force_unix_ns INTEGER NOT NULL,
    observed_only INTEGER NOT NULL
);
CREATE INDEX decisions_by_segment ON decisions (service, segment, generation);
CREATE INDEX decisions_by_rollout ON decisions (rollout, id);
CREATE INDEX decisions_awaiting_force ON decisions (service, generation)
    WHERE in_force_unix_ns = 0 AND observed_only = 0;
CREATE INDEX decisions_by_service ON decisions (service, id);
CREATE TABLE splits (
    service TEXT PRIMARY KEY,
    rollout TEXT NOT NULL,
    generation INTEGER NOT NULL,
    segments TEXT NOT NULL          -- JSON: segment to [baseline, canary or null, canary_bp], in matching order
);
CREATE TABLE engine_states (
    rollout TEXT PRIMARY KEY,
    payload BLOB NOT NULL,
    at_unix_ns INTEGER NOT NULL
);
CREATE TABLE rejections (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at_unix_ns INTEGER NOT NULL,
    node TEXT NOT NULL,
    type TEXT NOT NULL,
    version TEXT NOT NULL,
    message TEXT NOT NULL
);
CREATE TABLE secrets (
    name TEXT PRIMARY KEY,
    value BLOB NOT NULL
);
"""

MIGRATIONS: Final[Mapping[int, str]] = MappingProxyType(
    {
        1: """
CREATE TABLE excluded_nodes (       -- Envoys that no increase waits for
    node TEXT PRIMARY KEY,
    at_unix_ns INTEGER NOT NULL,
    who TEXT NOT NULL,
    reason TEXT NOT NULL
);
""",
        2: """
CREATE TABLE registrations (
    lease TEXT PRIMARY KEY,
    service TEXT NOT NULL,
    version TEXT NOT NULL,
    host TEXT NOT NULL,
    port INTEGER NOT NULL,
    asked_s REAL NOT NULL,
    since_unix_ns INTEGER NOT NULL,
    is_stale INTEGER NOT NULL,
    UNIQUE (service, host, port)
);
CREATE TABLE known_endpoints (      -- what a version's list or file said last
    service TEXT NOT NULL,
    version TEXT NOT NULL,
    endpoints TEXT NOT NULL,        -- JSON: [host, port] of each
    PRIMARY KEY (service, version)
);
""",
        3: """
CREATE TABLE learned_tables (       -- who is in which learned segment
    service TEXT NOT NULL,
    version INTEGER NOT NULL,
    at_unix_ns INTEGER NOT NULL,
    who TEXT NOT NULL,
    what TEXT NOT NULL,             -- in words: what was done
    names TEXT NOT NULL,            -- JSON: name, description, at_unix_ns, who, reason of each
    is_waiting INTEGER NOT NULL,    -- for a rollout to end
    people BLOB,                    -- user hashes, little-endian, in ascending order; NULL: a newer table has come
    places BLOB,                    -- a byte each: which of the names
    PRIMARY KEY (service, version)
);
""",
        4: """
CREATE TABLE profiles (             -- what is usual in a segment
    service TEXT NOT NULL,
    segment TEXT NOT NULL,
    version INTEGER NOT NULL,
    trained_unix_ns INTEGER NOT NULL,
    sessions INTEGER NOT NULL,
    why TEXT NOT NULL,              -- schedule, drift, more sessions, or who asked for it
    payload BLOB,                   -- of the newest versions only
    PRIMARY KEY (service, segment, version)
);
CREATE TABLE people (               -- what is remembered of keyed hashes, and how they were clustered last
    service TEXT PRIMARY KEY,
    at_unix_ns INTEGER NOT NULL,
    payload BLOB NOT NULL,
    clustering BLOB
);
""",
        5: """
CREATE TABLE policy_values (        -- what the policy `learned` has learnt on the job
    service TEXT PRIMARY KEY,
    at_unix_ns INTEGER NOT NULL,
    payload TEXT NOT NULL           -- JSON: the artefact's values, and which shipped ones they are learnt from
);
""",
        6: """
ALTER TABLE rollouts ADD COLUMN attributes TEXT NOT NULL DEFAULT '{}';
CREATE TABLE tapes (                -- rollouts of which it is kept what they were given, tick by tick
    rollout TEXT PRIMARY KEY,
    began_unix_ns INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    is_full INTEGER NOT NULL
);
CREATE TABLE tape_events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    rollout TEXT NOT NULL,
    at_unix_ns INTEGER NOT NULL,
    kind TEXT NOT NULL,
    payload BLOB NOT NULL
);
CREATE INDEX tape_events_by_rollout ON tape_events (rollout, id);
CREATE TABLE imported_rollouts (    -- deployments that other tools have recorded
    rollout TEXT PRIMARY KEY,
    service TEXT NOT NULL,
    at_unix_ns INTEGER NOT NULL,    -- when they were imported
    who TEXT NOT NULL,
    payload BLOB NOT NULL
);
CREATE TABLE labels (               -- what operators say of rollouts: bad, good or unknown
    rollout TEXT PRIMARY KEY,
    at_unix_ns INTEGER NOT NULL,
    verdict TEXT NOT NULL,
    who TEXT NOT NULL,
    reason TEXT NOT NULL
);
""",
        7: """
CREATE TABLE artefacts (            -- models that were trained
    kind TEXT NOT NULL,
    version INTEGER NOT NULL,
    trained_unix_ns INTEGER NOT NULL,
    fingerprint TEXT NOT NULL,      -- of the data
    scores TEXT NOT NULL,           -- JSON: on what was held out
    payload BLOB,                   -- of the newest versions, and of the one that serves
    is_serving INTEGER NOT NULL,
    served_unix_ns INTEGER NOT NULL, -- when it began to serve last; 0: never
    why TEXT NOT NULL,
    PRIMARY KEY (kind, version)
);
CREATE UNIQUE INDEX one_serving_artefact_a_kind ON artefacts (kind) WHERE is_serving = 1;
CREATE TABLE releases (             -- what the failure model is trained on, besides rollouts and decisions
    rollout TEXT PRIMARY KEY,
    first TEXT                      -- JSON: what its first minutes showed
);
""",
    }
)
"""From each version to the next one. `TABLES` are those of version 1."""
