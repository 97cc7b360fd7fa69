-- Version 2: the reward head of a base, and blind side-by-sides.

CREATE TABLE heads (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    base_hash  TEXT NOT NULL UNIQUE,
    head       TEXT NOT NULL,                     -- JSON
    created_at INTEGER NOT NULL
);

-- What a head was fitted on. Without any of it, the head goes.
CREATE TABLE head_items (
    feedback INTEGER NOT NULL,
    head     INTEGER NOT NULL REFERENCES heads(id) ON DELETE CASCADE,
    PRIMARY KEY (feedback, head)
) WITHOUT ROWID;
CREATE INDEX head_items_head ON head_items(head);

-- Two replies to one prompt, shown without saying who wrote which. NULL adapters are the base alone.
CREATE TABLE matches (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    base_hash     TEXT NOT NULL,
    left_adapter  INTEGER REFERENCES adapters(id) ON DELETE CASCADE,
    right_adapter INTEGER REFERENCES adapters(id) ON DELETE CASCADE,
    left_reply    INTEGER NOT NULL REFERENCES replies(id),
    right_reply   INTEGER NOT NULL REFERENCES replies(id),
    seed          INTEGER NOT NULL,               -- of the sides
    choice        TEXT CHECK (choice IN ('left', 'right', 'tie', 'both_bad')), -- NULL: nobody has voted
    created_at    INTEGER NOT NULL,
    voted_at      INTEGER
);
CREATE INDEX matches_base ON matches(base_hash, id);
CREATE INDEX matches_left_reply ON matches(left_reply);
CREATE INDEX matches_right_reply ON matches(right_reply);
CREATE INDEX matches_left_adapter ON matches(left_adapter) WHERE left_adapter IS NOT NULL;
CREATE INDEX matches_right_adapter ON matches(right_adapter) WHERE right_adapter IS NOT NULL;
