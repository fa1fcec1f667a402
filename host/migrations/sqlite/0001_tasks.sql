-- The task store: the `tasks` table is the queue as well. Times are Unix milliseconds by SQLite's own clock.
-- No foreign keys: rows point at rows that the same transaction wrote, and a check per row costs more than it could find.
-- Numbers (`id`) are for joins inside this file; (tenant, task_id) is what everybody else knows a task by.

CREATE TABLE jobs (
    id         INTEGER PRIMARY KEY,
    tenant     TEXT    NOT NULL,
    job_id     TEXT    NOT NULL,
    pipeline   TEXT    NOT NULL,
    prefix     TEXT    NOT NULL,
    root_task  TEXT    NOT NULL,
    state      TEXT    NOT NULL DEFAULT 'PROCESSING',
    -- Tasks that are not DONE, DEAD or CANCELLED, in all groups: a redriven task may stand in a group whose `then` has run.
    live       INTEGER NOT NULL DEFAULT 0,
    -- Somebody cancelled it, at some time.
    cancel_at  INTEGER,
    -- 1 while ends insert no children and wake no `then`; a redrive of the ended job takes it back.
    stopping   INTEGER NOT NULL DEFAULT 0,
    -- 'single': one root task. Fed from outside: 'open' to further root tasks, 'idle' where it was closed because none came any more
    -- (one that comes late opens it again), 'sealed' for good.
    feed       TEXT    NOT NULL DEFAULT 'single',
    -- How many root tasks its feeder says there will be, and how many have come.
    expected   INTEGER,
    arrived    INTEGER NOT NULL DEFAULT 1,
    -- The broker's queue that feeds it.
    queue      TEXT,
    -- Since when it is open and has no live task.
    idle_since INTEGER,
    created_at INTEGER NOT NULL,
    ended_at   INTEGER,
    UNIQUE (tenant, job_id)
) STRICT;

-- Jobs whose prefixes must not overlap with that of a newcomer: live ones, and failed ones that may hold staged outputs for a redrive.
CREATE INDEX jobs_held ON jobs (prefix) WHERE state IN ('PROCESSING', 'FAILED');

CREATE INDEX jobs_idle ON jobs (idle_since) WHERE idle_since IS NOT NULL;

-- The root group of each job and one per fan-out with a `then`.
CREATE TABLE groups (
    id        INTEGER PRIMARY KEY,
    job       INTEGER NOT NULL,
    -- The task that runs once the group has no live task; none for a root group.
    then_task INTEGER,
    live      INTEGER NOT NULL DEFAULT 0,
    -- Tasks of an inner group that have no child in it: the inputs of its `then`.
    leaves    INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE tasks (
    id            INTEGER PRIMARY KEY,
    job           INTEGER NOT NULL,
    grp           INTEGER NOT NULL,
    tenant        TEXT    NOT NULL,
    task_id       TEXT    NOT NULL,
    pipeline      TEXT    NOT NULL,
    step          TEXT    NOT NULL,
    key           TEXT    NOT NULL,
    payload_hash  TEXT    NOT NULL,
    state         TEXT    NOT NULL,
    -- 1 while QUEUED here and no longer waiting for `not_before`: what is due is a range of one index. A broker's tasks are never due here.
    due           INTEGER NOT NULL,
    -- When it is, or was, ready to run.
    not_before    INTEGER NOT NULL,
    priority      INTEGER NOT NULL,
    -- Start tag: jobs of one step and priority take turns by it.
    fair          INTEGER NOT NULL,
    epoch         INTEGER NOT NULL DEFAULT 0,
    owner         TEXT,
    lease_until   INTEGER,
    attempts      INTEGER NOT NULL DEFAULT 0,
    handbacks     INTEGER NOT NULL DEFAULT 0,
    crashes       INTEGER NOT NULL DEFAULT 0,
    max_attempts  INTEGER NOT NULL,
    cancel_at     INTEGER,
    parent        INTEGER,
    -- Ordinals from the root task down, eight hex digits each: sorts in fan-out order.
    path          TEXT    NOT NULL,
    -- 1 while it is an input of its group's `then`.
    is_input      INTEGER NOT NULL,
    -- The group a `then` waits for.
    waits         INTEGER,
    child_count   INTEGER NOT NULL DEFAULT 0,
    outcome       TEXT,
    error         TEXT,
    progress      TEXT,
    figures       TEXT,
    -- The broker's queue that carries its message; none where this table is the queue.
    queue         TEXT,
    -- When a message for it was last under way, and how often one was sent again since.
    sent_at       INTEGER,
    sends         INTEGER NOT NULL DEFAULT 0,
    -- What follows where it is given up.
    on_failure    TEXT,
    -- When it ended, until its `_attempts/` folder is known to be gone; none where there cannot be one.
    leftover      INTEGER,
    created_at    INTEGER NOT NULL,
    claimed_at    INTEGER,
    ended_at      INTEGER,
    output_prefix TEXT    NOT NULL,
    -- Large columns last: SQLite reads a row from its beginning.
    manifest      TEXT,
    children      TEXT,
    UNIQUE (tenant, task_id)
) STRICT;

-- Apart from the rows, which are written again at every heartbeat.
CREATE TABLE messages (
    task    INTEGER PRIMARY KEY,
    message TEXT    NOT NULL
) STRICT;

CREATE INDEX tasks_ready ON tasks (pipeline, step, priority DESC, fair, id, not_before) WHERE state = 'QUEUED' AND due = 1;
CREATE INDEX tasks_later ON tasks (pipeline, not_before) WHERE state = 'QUEUED' AND due = 0 AND queue IS NULL;
CREATE INDEX tasks_broker ON tasks (queue, sent_at) WHERE state = 'QUEUED' AND queue IS NOT NULL;
CREATE INDEX tasks_waiting ON tasks (pipeline) WHERE state = 'WAITING';
CREATE INDEX tasks_running ON tasks (lease_until, pipeline) WHERE state = 'PROCESSING';
CREATE INDEX tasks_committed ON tasks (lease_until, pipeline) WHERE state = 'COMMITTED';
CREATE INDEX tasks_leftover ON tasks (leftover) WHERE leftover IS NOT NULL;
CREATE INDEX tasks_inputs ON tasks (grp, path) WHERE is_input = 1;
CREATE INDEX tasks_job ON tasks (job, state);

-- Every lease that was ever given, and how it ended.
CREATE TABLE claims (
    task       INTEGER NOT NULL,
    epoch      INTEGER NOT NULL,
    owner      TEXT    NOT NULL,
    worker     TEXT    NOT NULL,
    claimed_at INTEGER NOT NULL,
    ended_at   INTEGER,
    ended      TEXT,
    error      TEXT,
    PRIMARY KEY (task, epoch)
) STRICT, WITHOUT ROWID;

CREATE TABLE logs (
    task  INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    text  TEXT    NOT NULL,
    PRIMARY KEY (task, epoch)
) STRICT;

-- Virtual time of each step and priority: the highest start tag that was claimed.
CREATE TABLE lanes (
    pipeline TEXT    NOT NULL,
    step     TEXT    NOT NULL,
    priority INTEGER NOT NULL,
    clock    INTEGER NOT NULL,
    PRIMARY KEY (pipeline, step, priority)
) STRICT, WITHOUT ROWID;

-- The next start tag of each job in a lane; gone when the job has ended.
CREATE TABLE turns (
    job      INTEGER NOT NULL,
    step     TEXT    NOT NULL,
    priority INTEGER NOT NULL,
    next     INTEGER NOT NULL,
    PRIMARY KEY (job, step, priority)
) STRICT, WITHOUT ROWID;

CREATE TABLE dead_letters (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant   TEXT    NOT NULL,
    -- The row that died; none for a newcomer that never became a task.
    task     INTEGER,
    task_id  TEXT,
    job_id   TEXT,
    step     TEXT,
    -- Of a message that was refused on arrival: where it came from, and the hash of its body.
    queue     TEXT,
    body_hash TEXT,
    code     TEXT    NOT NULL,
    error    TEXT    NOT NULL,
    attempts INTEGER NOT NULL,
    message  TEXT    NOT NULL,
    died_at  INTEGER NOT NULL
) STRICT;

CREATE INDEX dead_letters_task ON dead_letters (tenant, task_id);
CREATE INDEX dead_letters_job ON dead_letters (tenant, job_id);
-- A message that is refused again adds no second letter.
CREATE UNIQUE INDEX dead_letters_body ON dead_letters (tenant, queue, body_hash) WHERE body_hash IS NOT NULL;

-- Messages on their way to brokers: written with the end that creates the task, gone once the broker has confirmed.
CREATE TABLE outbox (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    -- The row it is for; none where another system reads the queue.
    task         INTEGER,
    tenant       TEXT    NOT NULL,
    task_id      TEXT    NOT NULL,
    queue        TEXT    NOT NULL,
    not_before   INTEGER NOT NULL,
    -- Until then it is somebody's who sends it.
    leased_until INTEGER NOT NULL DEFAULT 0,
    body         TEXT    NOT NULL
) STRICT;

CREATE INDEX outbox_task ON outbox (task) WHERE task IS NOT NULL;
