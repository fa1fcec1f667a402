-- Indexes that a task moves through less often: each move is a page of the log.

-- Without the state, which changes three times in a task's life; what is asked of ended jobs has an index of its own.
DROP INDEX tasks_job;
CREATE INDEX tasks_job ON tasks (job);
CREATE INDEX tasks_dead ON tasks (job) WHERE state = 'DEAD';

-- With the job, for a worker that runs just one.
DROP INDEX tasks_ready;
CREATE INDEX tasks_ready ON tasks (pipeline, step, priority DESC, fair, id, not_before, job) WHERE state = 'QUEUED' AND due = 1;

-- By time first: whether anything is due is asked of all pipelines at once.
DROP INDEX tasks_later;
CREATE INDEX tasks_later ON tasks (not_before, pipeline) WHERE state = 'QUEUED' AND due = 0 AND queue IS NULL;
