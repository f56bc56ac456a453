-- The application's own table.
CREATE TABLE items (
    id         bigserial PRIMARY KEY,
    name       text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- The application's own trigger, which tells whoever listens how many items there are. config.toml needs it;
-- config-table.toml does not, and it may then be dropped.
CREATE FUNCTION tell_item_count() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('item_count', (SELECT count(*) FROM items)::text);
    RETURN NULL;
END
$$;
CREATE TRIGGER tell_item_count AFTER INSERT OR DELETE ON items
    FOR EACH STATEMENT EXECUTE FUNCTION tell_item_count();
