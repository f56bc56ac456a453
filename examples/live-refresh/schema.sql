-- The application's own tables: parents book training sessions for their children.
CREATE TABLE children (
    id         bigserial PRIMARY KEY,
    parent_id  bigint NOT NULL,
    name       text NOT NULL
);

CREATE TABLE schedules (
    id          bigserial PRIMARY KEY,
    trainer_id  bigint NOT NULL,
    title       text NOT NULL,
    starts_at   timestamptz NOT NULL
);

CREATE TABLE bookings (
    id           bigserial PRIMARY KEY,
    schedule_id  bigint NOT NULL REFERENCES schedules ON DELETE CASCADE,
    child_id     bigint REFERENCES children ON DELETE CASCADE,
    user_id      bigint NOT NULL,
    trainer_id   bigint,
    status       text NOT NULL DEFAULT 'requested'
);
CREATE INDEX ON bookings (schedule_id);
CREATE INDEX ON bookings (child_id);

CREATE TABLE trainer_availability (
    id          bigserial PRIMARY KEY,
    trainer_id  bigint NOT NULL,
    weekday     integer NOT NULL,
    hours       text NOT NULL
);

CREATE TABLE notifications (
    id       bigserial PRIMARY KEY,
    user_id  bigint NOT NULL,
    body     text NOT NULL,
    read_at  timestamptz
);
