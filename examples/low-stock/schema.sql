-- The application's own table.
CREATE TABLE items (
    id         bigserial PRIMARY KEY,
    name       text NOT NULL,
    sku        text NOT NULL,
    quantity   integer NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now()
);

-- The application's own notifications. Only config-own-table.toml uses them: in the two others items_listen.alert,
-- which items-listen keeps, is the inbox.
CREATE TABLE notifications (
    id         bigserial PRIMARY KEY,
    item_id    bigint NOT NULL REFERENCES items ON DELETE CASCADE,
    message    text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    read_at    timestamptz
);
