-- A changed definition takes over the changes that nobody has told yet without touching their rows: however many wait, the
-- table that is watched is locked for as long as it takes to replace some functions.

-- The generations before this one whose changes this definition tells as well. Rows of table change that belong to no
-- generation, present or former, are deleted unread.
ALTER TABLE items_listen.watch ADD COLUMN former integer[] NOT NULL DEFAULT '{}';

-- The newest version of this schema that the daemon's program knows. One that knows no more than 6 would delete changes of
-- former generations: while there is such a daemon, they are given the new generation's number, row by row.
ALTER TABLE items_listen.instance ADD COLUMN schema_version integer NOT NULL DEFAULT 6;
