-- Output prefixes that whoever fed a task chose for it: no other task may be given one that is, covers or lies below it until it has ended.
-- What the host derives by itself is like no other, and is not here. A row outlives its task, and is then of no account.
CREATE TABLE prefixes (
    task   INTEGER PRIMARY KEY,
    prefix TEXT    NOT NULL
) STRICT;

CREATE INDEX prefixes_prefix ON prefixes (prefix);
