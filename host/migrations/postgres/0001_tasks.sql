-- The task store: the `tasks` table is the queue as well. Times are Unix milliseconds by the server's own clock.
-- Numbers (`id`) are for joins inside this database; (tenant, task_id) is what everybody else knows a task by. All numbers
-- are BIGINT and flags are 0 and 1, as in SQLite; names sort by their bytes, whatever the language of the database.
-- No foreign keys: rows point at rows that the same transaction wrote, and a check per row costs more than it could find.

-- Numbers of jobs, groups and tasks.
CREATE SEQUENCE numbers;

CREATE TABLE jobs (
    id         BIGINT PRIMARY KEY,
    tenant     TEXT COLLATE "C" NOT NULL,
    job_id     TEXT COLLATE "C" NOT NULL,
    pipeline   TEXT COLLATE "C" NOT NULL,
    prefix     TEXT COLLATE "C" NOT NULL,
    root_task  TEXT COLLATE "C" NOT NULL,
    state      TEXT COLLATE "C" NOT NULL DEFAULT 'PROCESSING',
    -- Tasks that are not DONE, DEAD or CANCELLED, in all groups: a redriven task may stand in a group whose `then` has run.
    live       BIGINT NOT NULL DEFAULT 0,
    -- Somebody cancelled it, at some time.
    cancel_at  BIGINT,
    -- 1 while ends insert no children and wake no `then`; a redrive of the ended job takes it back.
    stopping   BIGINT NOT NULL DEFAULT 0,
    -- 'single': one root task. Fed from outside: 'open' to further root tasks, 'idle' where it was closed because none came any more
    -- (one that comes late opens it again), 'sealed' for good.
    feed       TEXT COLLATE "C" NOT NULL DEFAULT 'single',
    -- How many root tasks its feeder says there will be, and how many have come.
    expected   BIGINT,
    arrived    BIGINT NOT NULL DEFAULT 1,
    -- The broker's queue that feeds it.
    queue      TEXT COLLATE "C",
    -- Since when it is open and has no live task.
    idle_since BIGINT,
    created_at BIGINT NOT NULL,
    ended_at   BIGINT,
    UNIQUE (tenant, job_id)
);

-- Jobs whose prefixes must not overlap with that of a newcomer: live ones, and failed ones that may hold staged outputs for a redrive.
CREATE INDEX jobs_held ON jobs (prefix) WHERE state IN ('PROCESSING', 'FAILED');

CREATE INDEX jobs_idle ON jobs (idle_since) WHERE idle_since IS NOT NULL;

-- The root group of each job and one per fan-out with a `then`.
CREATE TABLE groups (
    id        BIGINT PRIMARY KEY,
    job       BIGINT NOT NULL,
    -- The task that runs once the group has no live task; none for a root group.
    then_task BIGINT,
    live      BIGINT NOT NULL DEFAULT 0,
    -- Tasks of an inner group that have no child in it: the inputs of its `then`.
    leaves    BIGINT NOT NULL DEFAULT 0
);

CREATE TABLE tasks (
    id            BIGINT PRIMARY KEY,
    job           BIGINT NOT NULL,
    grp           BIGINT NOT NULL,
    tenant        TEXT COLLATE "C" NOT NULL,
    task_id       TEXT COLLATE "C" NOT NULL,
    pipeline      TEXT COLLATE "C" NOT NULL,
    step          TEXT COLLATE "C" NOT NULL,
    key           TEXT COLLATE "C" NOT NULL,
    payload_hash  TEXT NOT NULL,
    state         TEXT COLLATE "C" NOT NULL,
    -- 1 while QUEUED here and no longer waiting for `not_before`: what is due is a range of one index. A broker's tasks are never due here.
    due           BIGINT NOT NULL,
    -- When it is, or was, ready to run.
    not_before    BIGINT NOT NULL,
    priority      BIGINT NOT NULL,
    -- Start tag: jobs of one step and priority take turns by it.
    fair          BIGINT NOT NULL,
    epoch         BIGINT NOT NULL DEFAULT 0,
    owner         TEXT COLLATE "C",
    lease_until   BIGINT,
    attempts      BIGINT NOT NULL DEFAULT 0,
    handbacks     BIGINT NOT NULL DEFAULT 0,
    crashes       BIGINT NOT NULL DEFAULT 0,
    max_attempts  BIGINT NOT NULL,
    cancel_at     BIGINT,
    parent        BIGINT,
    -- Ordinals from the root task down, eight hex digits each: sorts in fan-out order.
    path          TEXT COLLATE "C" NOT NULL,
    -- 1 while it is an input of its group's `then`.
    is_input      BIGINT NOT NULL,
    -- The group a `then` waits for.
    waits         BIGINT,
    child_count   BIGINT NOT NULL DEFAULT 0,
    outcome       TEXT,
    error         TEXT,
    progress      TEXT,
    figures       TEXT,
    -- The broker's queue that carries its message; none where this table is the queue.
    queue         TEXT COLLATE "C",
    -- When a message for it was last under way, and how often one was sent again since.
    sent_at       BIGINT,
    sends         BIGINT NOT NULL DEFAULT 0,
    -- What follows where it is given up.
    on_failure    TEXT,
    -- When it ended, until its `_attempts/` folder is known to be gone; none where there cannot be one.
    leftover      BIGINT,
    created_at    BIGINT NOT NULL,
    claimed_at    BIGINT,
    ended_at      BIGINT,
    output_prefix TEXT NOT NULL,
    manifest      TEXT,
    children      TEXT,
    UNIQUE (tenant, task_id)
) WITH (
    -- A row is written again at every claim, heartbeat and end, and the head of the line must not be searched among dead rows.
    fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.05
);

-- Apart from the rows, which are written again at every heartbeat.
CREATE TABLE messages (
    task    BIGINT PRIMARY KEY,
    message TEXT NOT NULL
);

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
    task       BIGINT NOT NULL,
    epoch      BIGINT NOT NULL,
    owner      TEXT COLLATE "C" NOT NULL,
    worker     TEXT NOT NULL,
    claimed_at BIGINT NOT NULL,
    ended_at   BIGINT,
    ended      TEXT,
    error      TEXT,
    PRIMARY KEY (task, epoch)
);

CREATE TABLE logs (
    task  BIGINT NOT NULL,
    epoch BIGINT NOT NULL,
    text  TEXT NOT NULL,
    PRIMARY KEY (task, epoch)
);

-- Virtual time of each step and priority: the highest start tag that was claimed.
CREATE TABLE lanes (
    pipeline TEXT COLLATE "C" NOT NULL,
    step     TEXT COLLATE "C" NOT NULL,
    priority BIGINT NOT NULL,
    clock    BIGINT NOT NULL,
    PRIMARY KEY (pipeline, step, priority)
);

-- The next start tag of each job in a lane; gone when the job has ended.
CREATE TABLE turns (
    job      BIGINT NOT NULL,
    step     TEXT COLLATE "C" NOT NULL,
    priority BIGINT NOT NULL,
    next     BIGINT NOT NULL,
    PRIMARY KEY (job, step, priority)
);

CREATE TABLE dead_letters (
    id        BIGINT PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    tenant    TEXT COLLATE "C" NOT NULL,
    -- The row that died; none for a newcomer that never became a task.
    task      BIGINT,
    task_id   TEXT COLLATE "C",
    job_id    TEXT COLLATE "C",
    step      TEXT COLLATE "C",
    -- Of a message that was refused on arrival: where it came from, and the hash of its body.
    queue     TEXT COLLATE "C",
    body_hash TEXT COLLATE "C",
    code      TEXT COLLATE "C" NOT NULL,
    error     TEXT NOT NULL,
    attempts  BIGINT NOT NULL,
    message   TEXT NOT NULL,
    died_at   BIGINT NOT NULL
);

CREATE INDEX dead_letters_task ON dead_letters (tenant, task_id);
CREATE INDEX dead_letters_job ON dead_letters (tenant, job_id);
-- A message that is refused again adds no second letter.
CREATE UNIQUE INDEX dead_letters_body ON dead_letters (tenant, queue, body_hash) WHERE body_hash IS NOT NULL;

-- Messages on their way to brokers: written with the end that creates the task, gone once the broker has confirmed.
CREATE TABLE outbox (
    id           BIGINT PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    -- The row it is for; none where another system reads the queue.
    task         BIGINT,
    tenant       TEXT COLLATE "C" NOT NULL,
    task_id      TEXT COLLATE "C" NOT NULL,
    queue        TEXT COLLATE "C" NOT NULL,
    not_before   BIGINT NOT NULL,
    -- Until then it is somebody's who sends it.
    leased_until BIGINT NOT NULL DEFAULT 0,
    body         TEXT NOT NULL
);

CREATE INDEX outbox_task ON outbox (task) WHERE task IS NOT NULL;
