-- Version 1. Times are milliseconds since 1970 (UTC). Ids are never reused (AUTOINCREMENT).

CREATE TABLE models (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    hash          TEXT NOT NULL UNIQUE,
    facts         TEXT NOT NULL DEFAULT 'null',     -- JSON: name, architecture, ...; no user text
    first_seen_at INTEGER NOT NULL
);

CREATE TABLE conversations (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    title      TEXT,
    head       INTEGER REFERENCES messages(id) ON DELETE SET NULL, -- the last turn shown
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
);
CREATE INDEX conversations_head ON conversations(head);

-- Turns form trees: a branch shares the turns before it. Rows never change.
CREATE TABLE messages (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    conversation INTEGER REFERENCES conversations(id) ON DELETE SET NULL, -- where it was said
    parent       INTEGER REFERENCES messages(id),
    role         TEXT NOT NULL CHECK (role IN ('system', 'user', 'assistant')),
    content      TEXT NOT NULL,
    created_at   INTEGER NOT NULL
);
CREATE INDEX messages_parent ON messages(parent);
CREATE INDEX messages_conversation ON messages(conversation);

CREATE TABLE adapters (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    base_hash  TEXT NOT NULL,
    run        INTEGER REFERENCES runs(id),
    config     TEXT NOT NULL,   -- JSON, resolved: what training it again needs; survives forgetting
    manifest   TEXT NOT NULL,   -- JSON
    gate       TEXT,            -- JSON: the gate's report
    file       TEXT NOT NULL,   -- relative to the data folder
    file_hash  TEXT NOT NULL,
    seed       INTEGER NOT NULL,
    scale      REAL NOT NULL DEFAULT 1,
    state      TEXT NOT NULL CHECK (state IN
                   ('candidate', 'rejected', 'trial', 'promoted', 'rolled_back', 'forgotten')),
    created_at INTEGER NOT NULL
);
CREATE INDEX adapters_run ON adapters(run);

-- What an adapter was trained on. No reference to feedback: the fact outlives a forgotten event.
CREATE TABLE adapter_items (
    feedback INTEGER NOT NULL,
    adapter  INTEGER NOT NULL REFERENCES adapters(id) ON DELETE CASCADE,
    PRIMARY KEY (feedback, adapter)
) WITHOUT ROWID;
CREATE INDEX adapter_items_adapter ON adapter_items(adapter);

-- The last row of a base says which adapter it is served with; NULL is the base alone.
CREATE TABLE activations (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    base_hash TEXT NOT NULL,
    adapter   INTEGER REFERENCES adapters(id) ON DELETE CASCADE,
    reason    TEXT NOT NULL,
    at        INTEGER NOT NULL
);
CREATE INDEX activations_base ON activations(base_hash, id);
CREATE INDEX activations_adapter ON activations(adapter);

CREATE TABLE replies (
    id                INTEGER PRIMARY KEY AUTOINCREMENT,
    message           INTEGER UNIQUE REFERENCES messages(id) ON DELETE CASCADE, -- in a conversation,
    prompt_key        BLOB NOT NULL,
    replaces          INTEGER REFERENCES replies(id) ON DELETE SET NULL,
    created_at        INTEGER NOT NULL,
    text              TEXT NOT NULL,
    prompt            TEXT,                       -- or else the messages, as JSON
    -- How it was generated; all NULL for text that was handed in.
    model             INTEGER REFERENCES models(id),
    adapter           INTEGER REFERENCES adapters(id),
    template_hash     TEXT,
    prompt_offset     INTEGER,                    -- tokens before those of prompt_tokens
    prompt_tokens     BLOB,                       -- i32, little-endian
    completion_tokens BLOB,                       -- i32, little-endian
    sampling          TEXT,                       -- JSON
    stop_reason       TEXT,                       -- JSON
    usage             TEXT,                       -- JSON
    CHECK ((message IS NULL) <> (prompt IS NULL))
);
CREATE INDEX replies_prompt_key ON replies(prompt_key);
CREATE INDEX replies_replaces ON replies(replaces) WHERE replaces IS NOT NULL;
CREATE INDEX replies_adapter ON replies(adapter) WHERE adapter IS NOT NULL;

-- Which question-and-answer exchanges a prompt given as messages holds, by hash.
CREATE TABLE quotes (
    exchange BLOB NOT NULL,
    reply    INTEGER NOT NULL REFERENCES replies(id) ON DELETE CASCADE,
    PRIMARY KEY (exchange, reply)
) WITHOUT ROWID;
CREATE INDEX quotes_reply ON quotes(reply);

-- Events, only ever appended; only `forget` erases.
CREATE TABLE feedback (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    reply      INTEGER NOT NULL REFERENCES replies(id),
    kind       TEXT NOT NULL CHECK (kind IN ('up', 'down', 'edit', 'prefer', 'retry', 'withdraw')),
    body       TEXT,                              -- edit: the text; down: reasons as JSON
    other      INTEGER REFERENCES replies(id),    -- prefer: the reply not picked
    withdraws  INTEGER REFERENCES feedback(id),
    created_at INTEGER NOT NULL
);
CREATE INDEX feedback_reply ON feedback(reply);
CREATE INDEX feedback_other ON feedback(other) WHERE other IS NOT NULL;
CREATE INDEX feedback_withdraws ON feedback(withdraws) WHERE withdraws IS NOT NULL;

-- A cache: log-probabilities of a completion under the base.
CREATE TABLE reference_logps (
    completion_key BLOB NOT NULL,
    context        TEXT NOT NULL,
    reply          INTEGER NOT NULL REFERENCES replies(id) ON DELETE CASCADE,
    logps          BLOB NOT NULL,                 -- f64, little-endian, nats
    PRIMARY KEY (completion_key, context)
) WITHOUT ROWID;
CREATE INDEX reference_logps_reply ON reference_logps(reply);

CREATE TABLE runs (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    base_hash   TEXT NOT NULL,
    state       TEXT NOT NULL CHECK (state IN
                    ('running', 'paused', 'finished', 'cancelled', 'failed', 'forgotten')),
    phase       TEXT NOT NULL,
    step        INTEGER NOT NULL DEFAULT 0,
    total_steps INTEGER NOT NULL DEFAULT 0,
    config      TEXT NOT NULL,                    -- JSON, resolved
    seed        INTEGER NOT NULL,
    checkpoint  TEXT,                             -- relative to the data folder
    outcome     TEXT,                             -- JSON
    created_at  INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL
);

CREATE TABLE run_items (
    feedback INTEGER NOT NULL,
    run      INTEGER NOT NULL REFERENCES runs(id) ON DELETE CASCADE,
    PRIMARY KEY (feedback, run)
) WITHOUT ROWID;
CREATE INDEX run_items_run ON run_items(run);

CREATE TABLE run_steps (
    run     INTEGER NOT NULL REFERENCES runs(id) ON DELETE CASCADE,
    step    INTEGER NOT NULL,
    metrics TEXT NOT NULL,                        -- JSON
    PRIMARY KEY (run, step)
) WITHOUT ROWID;

-- Every decision with the numbers that made it.
CREATE TABLE decisions (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    adapter INTEGER REFERENCES adapters(id) ON DELETE CASCADE,
    run     INTEGER REFERENCES runs(id) ON DELETE CASCADE,
    kind    TEXT NOT NULL,
    numbers TEXT NOT NULL,                        -- JSON; never user text
    at      INTEGER NOT NULL
);
CREATE INDEX decisions_adapter ON decisions(adapter);
CREATE INDEX decisions_run ON decisions(run);

-- Blind votes: the adapter's reply against the base's.
CREATE TABLE votes (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    adapter         INTEGER NOT NULL REFERENCES adapters(id) ON DELETE CASCADE,
    candidate_reply INTEGER REFERENCES replies(id),
    baseline_reply  INTEGER REFERENCES replies(id),
    candidate_first INTEGER NOT NULL CHECK (candidate_first IN (0, 1)),
    outcome         INTEGER NOT NULL CHECK (outcome IN (-1, 0, 1)), -- +1: the candidate won
    at              INTEGER NOT NULL
);
CREATE INDEX votes_adapter ON votes(adapter, id);
CREATE INDEX votes_candidate ON votes(candidate_reply) WHERE candidate_reply IS NOT NULL;
CREATE INDEX votes_baseline ON votes(baseline_reply) WHERE baseline_reply IS NOT NULL;

CREATE TABLE settings (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL                           -- JSON
) WITHOUT ROWID;

-- Files that `forget` has condemned and nobody has yet confirmed as deleted.
CREATE TABLE pending_deletions (
    path TEXT PRIMARY KEY                         -- relative to the data folder
) WITHOUT ROWID;

-- A database of version 1 as that version left it. Frozen: never edited when the schema moves on.

INSERT INTO models VALUES (1, 'base', '{"architecture":"llama"}', 1700000000000);
INSERT INTO conversations VALUES (1, 'Greeting', NULL, 1700000000000, 1700000000009);
INSERT INTO messages VALUES
    (1, 1, NULL, 'user', 'Hello?', 1700000000001),
    (2, 1, 1, 'assistant', 'Hi.', 1700000000002),
    (3, 1, 1, 'assistant', 'Hi there.', 1700000000003),
    (4, 1, 3, 'user', 'How are you?', 1700000000004);
UPDATE conversations SET head = 4;
INSERT INTO runs VALUES (1, 'base', 'finished', 'gate', 24, 24, '{"beta":0.1}', 7, NULL, '{"state":"promoted"}', 1700000000005, 1700000000006);
INSERT INTO adapters VALUES (1, 'base', 1, '{"r":8}', '{"n":1}', '{"passed":true}', 'adapters/1.gguf', 'abc', 7, 0.75, 'promoted', 1700000000006);
INSERT INTO adapter_items VALUES (2, 1);
INSERT INTO activations VALUES (1, 'base', 1, 'gate', 1700000000006);
INSERT INTO replies VALUES
    (1, 2, X'5796079bf8d9d94476fed9df1e98b1c38673151eb85723b149c5c1e75689ce12', NULL, 1700000000002, 'Hi.', NULL, 1, NULL, 't', 0, X'0100000002000000', X'0100000002000000', '{"temperature":0.7,"top_k":40,"top_p":0.95,"min_p":0.05,"repetition_penalty":1.0,"repetition_window":64,"seed":18446744073709551615}', '"max_tokens"', '{"prompt_tokens":2,"reused_tokens":0,"completion_tokens":2,"first_token_ms":1.5,"decode_ms":20.0}'),
    (2, 3, X'5796079bf8d9d94476fed9df1e98b1c38673151eb85723b149c5c1e75689ce12', 1, 1700000000003, 'Hi there.', NULL, 1, NULL, 't', 0, X'0100000002000000', X'0100000002000000', '{"temperature":0.7,"top_k":40,"top_p":0.95,"min_p":0.05,"repetition_penalty":1.0,"repetition_window":64,"seed":18446744073709551615}', '"end_of_turn"', '{"prompt_tokens":2,"reused_tokens":0,"completion_tokens":2,"first_token_ms":1.5,"decode_ms":20.0}'),
    (3, NULL, X'e6e8d778dcaeafbc6f81618f7157fa7a311b24b88e2498a7b0649e9613722a2a', NULL, 1700000000004, 'One.', '[{"role":"user","content":"One or two?"}]', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
    (4, NULL, X'a5f8539c61f93f027c6aec6d3f0dcf5a6a59da6c869ce28cdcc1bf01bb168cc7', NULL, 1700000000004, 'At great length.', '[{"role":"user","content":"q"},{"role":"assistant","content":"a"},{"role":"user","content":"Say it briefly."}]', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
    (5, NULL, X'e6e8d778dcaeafbc6f81618f7157fa7a311b24b88e2498a7b0649e9613722a2a', NULL, 1700000000004, 'Two.', '[{"role":"user","content":"One or two?"}]', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO quotes VALUES (X'6e4fa71e33e253411eba54de778c535b6f604f0504dceff39226cb0d3af1594b', 4);
INSERT INTO feedback VALUES
    (1, 2, 'down', '["too long"]', NULL, NULL, 1700000000004),
    (2, 2, 'up', NULL, NULL, NULL, 1700000000004),
    (3, 4, 'up', NULL, NULL, NULL, 1700000000004),
    (4, 4, 'edit', 'Brief.', NULL, NULL, 1700000000004),
    (5, 3, 'prefer', NULL, 5, NULL, 1700000000004),
    (6, 1, 'retry', NULL, NULL, NULL, 1700000000004),
    (7, 5, 'up', NULL, NULL, NULL, 1700000000004),
    (8, 5, 'withdraw', NULL, NULL, 7, 1700000000004);
INSERT INTO reference_logps VALUES (X'abababababababababababababababababababababababababababababababab', 'base', 2, X'000000000000f8bf');
INSERT INTO run_items VALUES (2, 1);
INSERT INTO run_steps VALUES (1, 1, '{"loss":0.6931471805599453}');
INSERT INTO decisions VALUES (1, 1, 1, 'offline_gate', '{"accuracy":0.8}', 1700000000006);
INSERT INTO votes VALUES (1, 1, 2, 1, 0, 1, 1700000000007);
INSERT INTO settings VALUES ('share', '0.1');
PRAGMA user_version = 1;
