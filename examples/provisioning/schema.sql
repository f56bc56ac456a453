-- The application's own tables: a worker provisions servers step by step, and runs tasks on them.
CREATE TABLE servers (
    id          bigserial PRIMARY KEY,
    name        text NOT NULL,
    status      text NOT NULL DEFAULT 'pending',
    step        integer NOT NULL DEFAULT 0,
    log         text NOT NULL DEFAULT '',
    updated_at  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE tasks (
    id           bigserial PRIMARY KEY,
    server_id    bigint NOT NULL REFERENCES servers ON DELETE CASCADE,
    name         varchar(60) NOT NULL,
    status       varchar(20) NOT NULL DEFAULT 'running',
    exit_code    integer,
    output       text NOT NULL DEFAULT '',
    finished_at  timestamptz
);
