-- Version 3: rankings. A new kind of event takes a new table, since a CHECK cannot be changed.

CREATE TABLE feedback_2 (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    reply      INTEGER NOT NULL REFERENCES replies(id),
    kind       TEXT NOT NULL CHECK (kind IN ('up', 'down', 'edit', 'prefer', 'rank', 'retry', 'withdraw')),
    body       TEXT,                              -- edit: the text; down: reasons as JSON
    other      INTEGER REFERENCES replies(id),    -- prefer: the reply not picked
    withdraws  INTEGER REFERENCES feedback_2(id),
    created_at INTEGER NOT NULL
);
INSERT INTO feedback_2 SELECT id, reply, kind, body, other, withdraws, created_at FROM feedback ORDER BY id;
-- Ids of erased events are not given again.
DELETE FROM sqlite_sequence WHERE name = 'feedback_2';
INSERT INTO sqlite_sequence (name, seq) SELECT 'feedback_2', seq FROM sqlite_sequence WHERE name = 'feedback';
DROP TABLE feedback;
ALTER TABLE feedback_2 RENAME TO feedback;
CREATE INDEX feedback_reply ON feedback(reply);
CREATE INDEX feedback_other ON feedback(other) WHERE other IS NOT NULL;
CREATE INDEX feedback_withdraws ON feedback(withdraws) WHERE withdraws IS NOT NULL;

-- Of an event of kind 'rank', which is on the best reply: the others, in order.
CREATE TABLE ranked (
    feedback INTEGER NOT NULL REFERENCES feedback(id) ON DELETE CASCADE,
    place    INTEGER NOT NULL CHECK (place > 0),  -- 1 is the second best
    reply    INTEGER NOT NULL REFERENCES replies(id),
    PRIMARY KEY (feedback, place)
) WITHOUT ROWID;
CREATE INDEX ranked_reply ON ranked(reply);
