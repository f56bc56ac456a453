SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;
CREATE SCHEMA items_listen;
CREATE FUNCTION items_listen.alert_mark_read() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    IF (to_jsonb(new) - 'read_at') IS DISTINCT FROM (to_jsonb(old) - 'read_at') THEN
        RAISE EXCEPTION 'only read_at of an alert may be changed'
            USING ERRCODE = 'feature_not_supported', HINT = 'UPDATE … SET read_at = now() marks it read.';
    END IF;
    IF new.read_at IS NULL THEN
        DELETE FROM items_listen.alert_read WHERE episode = old.id;
    ELSE
        INSERT INTO items_listen.alert_read (episode, read_at, read_seq)
        VALUES (old.id, new.read_at, old.unread_seq)
        ON CONFLICT (episode) DO UPDATE SET read_at = excluded.read_at, read_seq = excluded.read_seq;
    END IF;
    RETURN new;
END
$$;
CREATE FUNCTION items_listen.watch_1_delete() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
#variable_conflict use_column
DECLARE
    _keys  text[];
    _rows  bigint[];
    _error text;
BEGIN
    BEGIN
        SELECT array_agg(d.key), array_agg(d.rows) INTO _keys, _rows
        FROM (SELECT r.key AS key, -count(*) AS rows
              FROM (SELECT jsonb_build_array("tenant_id")::text AS key FROM old_rows WHERE (
status = 'open'
)) AS r
              GROUP BY 1) AS d;
    EXCEPTION WHEN OTHERS THEN
        _error := SQLSTATE;
    END;
    IF _error IS NOT NULL THEN
        INSERT INTO items_listen.marker (watch, reason, sqlstate) VALUES (1, 'broken', _error);
    ELSIF _keys IS NOT NULL THEN
        INSERT INTO items_listen.journal (generation, key, rows)
        SELECT 1, k.key, k.rows FROM unnest(_keys, _rows) AS k (key, rows);
    ELSE
        RETURN NULL;
    END IF;
    IF (CASE WHEN pg_try_advisory_lock_shared(5260204369063706624 | 'items_listen'::regnamespace::oid::bigint)
             THEN NOT pg_advisory_unlock_shared(5260204369063706624 | 'items_listen'::regnamespace::oid::bigint)
             ELSE true END) THEN
        NOTIFY items_listen;
    END IF;
    RETURN NULL;
END
$$;
CREATE FUNCTION items_listen.watch_1_insert() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
#variable_conflict use_column
DECLARE
    _keys  text[];
    _rows  bigint[];
    _error text;
BEGIN
    BEGIN
        SELECT array_agg(d.key), array_agg(d.rows) INTO _keys, _rows
        FROM (SELECT r.key AS key, count(*) AS rows
              FROM (SELECT jsonb_build_array("tenant_id")::text AS key FROM new_rows WHERE (
status = 'open'
)) AS r
              GROUP BY 1) AS d;
    EXCEPTION WHEN OTHERS THEN
        _error := SQLSTATE;
    END;
    IF _error IS NOT NULL THEN
        INSERT INTO items_listen.marker (watch, reason, sqlstate) VALUES (1, 'broken', _error);
    ELSIF _keys IS NOT NULL THEN
        INSERT INTO items_listen.journal (generation, key, rows)
        SELECT 1, k.key, k.rows FROM unnest(_keys, _rows) AS k (key, rows);
    ELSE
        RETURN NULL;
    END IF;
    IF (CASE WHEN pg_try_advisory_lock_shared(5260204369063706624 | 'items_listen'::regnamespace::oid::bigint)
             THEN NOT pg_advisory_unlock_shared(5260204369063706624 | 'items_listen'::regnamespace::oid::bigint)
             ELSE true END) THEN
        NOTIFY items_listen;
    END IF;
    RETURN NULL;
END
$$;
CREATE FUNCTION items_listen.watch_1_truncate() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    INSERT INTO items_listen.marker (watch, reason) VALUES (1, 'truncate');
    IF (CASE WHEN pg_try_advisory_lock_shared(5260204369063706624 | 'items_listen'::regnamespace::oid::bigint)
             THEN NOT pg_advisory_unlock_shared(5260204369063706624 | 'items_listen'::regnamespace::oid::bigint)
             ELSE true END) THEN
        NOTIFY items_listen;
    END IF;
    RETURN NULL;
END
$$;
CREATE FUNCTION items_listen.watch_1_update() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
#variable_conflict use_column
DECLARE
    _keys  text[];
    _rows  bigint[];
    _error text;
BEGIN
    BEGIN
        -- A row that moves to another key, or in or out of the condition, is one less here and one more there.
        SELECT array_agg(d.key), array_agg(d.rows) INTO _keys, _rows
        FROM (SELECT r.key AS key, sum(r.n) AS rows
              FROM (SELECT jsonb_build_array("tenant_id")::text AS key, 1 AS n FROM new_rows WHERE (
status = 'open'
)
                    UNION ALL
                    SELECT jsonb_build_array("tenant_id")::text AS key, -1 AS n FROM old_rows WHERE (
status = 'open'
)) AS r
              GROUP BY 1
              HAVING sum(r.n) <> 0) AS d;
    EXCEPTION WHEN OTHERS THEN
        _error := SQLSTATE;
    END;
    IF _error IS NOT NULL THEN
        INSERT INTO items_listen.marker (watch, reason, sqlstate) VALUES (1, 'broken', _error);
    ELSIF _keys IS NOT NULL THEN
        INSERT INTO items_listen.journal (generation, key, rows)
        SELECT 1, k.key, k.rows FROM unnest(_keys, _rows) AS k (key, rows);
    ELSE
        RETURN NULL;
    END IF;
    IF (CASE WHEN pg_try_advisory_lock_shared(5260204369063706624 | 'items_listen'::regnamespace::oid::bigint)
             THEN NOT pg_advisory_unlock_shared(5260204369063706624 | 'items_listen'::regnamespace::oid::bigint)
             ELSE true END) THEN
        NOTIFY items_listen;
    END IF;
    RETURN NULL;
END
$$;
SET default_tablespace = '';
SET default_table_access_method = heap;
CREATE TABLE items_listen.alert_read (
    episode uuid NOT NULL,
    read_at timestamp with time zone NOT NULL,
    read_seq bigint NOT NULL
);
CREATE TABLE items_listen.episode (
    id uuid NOT NULL,
    watch text NOT NULL,
    key jsonb NOT NULL,
    severity text NOT NULL,
    peak text NOT NULL,
    count bigint NOT NULL,
    threshold bigint,
    percent bigint,
    message text,
    raised_at timestamp with time zone NOT NULL,
    changed_at timestamp with time zone NOT NULL,
    resolved_at timestamp with time zone,
    reason text NOT NULL,
    unread_seq bigint NOT NULL
)
WITH (fillfactor='80');
CREATE VIEW items_listen.alert AS
 SELECT e.id,
    e.watch,
    e.key,
    e.severity,
    e.peak,
    e.count,
    e.threshold,
    e.percent,
    e.message,
    e.raised_at,
    e.changed_at,
    e.resolved_at,
    e.reason,
        CASE
            WHEN (r.read_seq = e.unread_seq) THEN r.read_at
            ELSE NULL::timestamp with time zone
        END AS read_at,
    e.unread_seq
   FROM (items_listen.episode e
     LEFT JOIN items_listen.alert_read r ON ((r.episode = e.id)));
CREATE TABLE items_listen.cluster (
    only_row boolean DEFAULT true NOT NULL,
    system_identifier bigint NOT NULL,
    allow_publication boolean DEFAULT false NOT NULL,
    CONSTRAINT cluster_only_row_check CHECK (only_row)
);
CREATE TABLE items_listen.count (
    watch integer NOT NULL,
    key text NOT NULL COLLATE pg_catalog."C",
    rows bigint NOT NULL,
    sum numeric DEFAULT 0 NOT NULL,
    dirty smallint NOT NULL,
    severity smallint DEFAULT 0 NOT NULL,
    episode uuid,
    breach_since timestamp with time zone,
    clear_since timestamp with time zone,
    said_at timestamp with time zone,
    deadline timestamp with time zone,
    last_at timestamp with time zone,
    CONSTRAINT count_severity_check CHECK (((severity >= 0) AND (severity <= 3)))
)
WITH (fillfactor='70', autovacuum_vacuum_scale_factor='0.05', autovacuum_vacuum_cost_delay='0');
CREATE TABLE items_listen.delivery (
    id bigint NOT NULL,
    event_id uuid NOT NULL,
    endpoint text NOT NULL,
    watch text NOT NULL,
    key text NOT NULL COLLATE pg_catalog."C",
    channels text[] NOT NULL,
    event text NOT NULL,
    body text NOT NULL,
    state text DEFAULT 'pending'::text NOT NULL,
    attempts integer DEFAULT 0 NOT NULL,
    due_at timestamp with time zone NOT NULL,
    lease uuid,
    lease_until timestamp with time zone,
    leased_by uuid,
    created_at timestamp with time zone NOT NULL,
    settled_at timestamp with time zone,
    reason text,
    status integer,
    answer text,
    CONSTRAINT delivery_check CHECK (((state = 'pending'::text) = (settled_at IS NULL))),
    CONSTRAINT delivery_check1 CHECK (((lease IS NULL) = (lease_until IS NULL))),
    CONSTRAINT delivery_state_check CHECK ((state = ANY (ARRAY['pending'::text, 'delivered'::text, 'dead'::text, 'superseded'::text])))
)
WITH (fillfactor='80', autovacuum_vacuum_scale_factor='0.02', autovacuum_vacuum_cost_delay='0');
ALTER TABLE items_listen.delivery ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME items_listen.delivery_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE items_listen.endpoint (
    name text NOT NULL,
    state text DEFAULT 'ok'::text NOT NULL,
    reason text,
    until timestamp with time zone,
    last_success_at timestamp with time zone,
    last_error text,
    CONSTRAINT endpoint_state_check CHECK ((state = ANY (ARRAY['ok'::text, 'backing_off'::text, 'paused'::text])))
);
CREATE TABLE items_listen.event (
    id uuid NOT NULL,
    episode uuid,
    seq bigint NOT NULL,
    watch text NOT NULL,
    key jsonb NOT NULL,
    transition text NOT NULL,
    reason text,
    severity text NOT NULL,
    previous text,
    count bigint NOT NULL,
    threshold bigint,
    percent bigint,
    message text,
    at timestamp with time zone NOT NULL
);
CREATE SEQUENCE items_listen.generation
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
CREATE TABLE items_listen.instance (
    id uuid NOT NULL,
    host text NOT NULL,
    pid integer NOT NULL,
    process text NOT NULL,
    version text NOT NULL,
    config_hash text NOT NULL,
    watches text[] NOT NULL,
    endpoints text[] NOT NULL,
    ready boolean DEFAULT false NOT NULL,
    doorbell text NOT NULL,
    started_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    beat_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
)
WITH (fillfactor='50');
CREATE TABLE items_listen.journal (
    xid xid8 DEFAULT pg_current_xact_id() NOT NULL,
    generation integer NOT NULL,
    rows bigint NOT NULL,
    sum numeric,
    key text NOT NULL COLLATE pg_catalog."C"
)
WITH (autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='10000', autovacuum_vacuum_insert_scale_factor='0', autovacuum_vacuum_insert_threshold='100000', autovacuum_vacuum_cost_delay='0');
ALTER TABLE ONLY items_listen.journal REPLICA IDENTITY FULL;
CREATE TABLE items_listen.marker (
    watch integer NOT NULL,
    reason text NOT NULL,
    sqlstate text,
    at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT marker_reason_check CHECK ((reason = ANY (ARRAY['install'::text, 'truncate'::text, 'broken'::text, 'coverage'::text, 'recount'::text])))
);
ALTER TABLE ONLY items_listen.marker REPLICA IDENTITY FULL;
CREATE TABLE items_listen.schema_history (
    version integer NOT NULL,
    name character varying(255),
    applied_on character varying(255),
    checksum character varying(255)
);
CREATE SEQUENCE items_listen.seq
    START WITH 1
    INCREMENT BY 8
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
CREATE TABLE items_listen.watch (
    id integer NOT NULL,
    name text NOT NULL,
    source text NOT NULL,
    relation text,
    key_columns text[] NOT NULL,
    definition text NOT NULL,
    generation integer NOT NULL,
    policy text NOT NULL,
    events text[] DEFAULT '{}'::text[] NOT NULL,
    covered oid[] DEFAULT '{}'::oid[] NOT NULL,
    baseline boolean DEFAULT false NOT NULL,
    error text,
    error_at timestamp with time zone,
    installed_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT watch_source_check CHECK ((source = ANY (ARRAY['table'::text, 'query'::text, 'notify'::text])))
);
CREATE SEQUENCE items_listen.watch_id
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
CREATE TABLE public.orders (
    id integer NOT NULL,
    tenant_id integer,
    status text DEFAULT 'open'::text NOT NULL
);
CREATE SEQUENCE public.orders_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.orders_id_seq OWNED BY public.orders.id;
ALTER TABLE ONLY public.orders ALTER COLUMN id SET DEFAULT nextval('public.orders_id_seq'::regclass);
INSERT INTO items_listen.alert_read VALUES ('01a1ff78-0c55-7300-9e5b-b72a0463e1dc', '2026-11-21 18:57:00.001389+00', 2);
INSERT INTO items_listen.cluster VALUES (true, 7710700751711760286, false);
INSERT INTO items_listen.count VALUES (1, '[1]', 20, 0, 0, 1, '01a1ff78-0c55-7300-9e5b-b72a0463e1dc', NULL, NULL, '2026-11-21 18:56:59.989405+00', NULL, '2026-11-21 18:56:59.989405+00');
INSERT INTO items_listen.count VALUES (1, '[2]', 30, 0, 0, 3, '01a1ff78-0c55-7300-9e5b-b72b09650685', NULL, NULL, '2026-11-21 18:56:59.997902+00', NULL, '2026-11-21 18:56:59.997902+00');
INSERT INTO items_listen.count VALUES (1, '[4]', 20, 0, 0, 1, '01a1ff78-0c63-71da-81de-f6789ed55880', NULL, NULL, '2026-11-21 18:57:00.003728+00', NULL, '2026-11-21 18:57:00.003728+00');
INSERT INTO items_listen.count VALUES (1, '[5]', 20, 0, 0, 1, '01a1ff78-0c6f-74bf-a244-3570bf6d8be3', NULL, NULL, '2026-11-21 18:57:00.015648+00', NULL, '2026-11-21 18:57:00.015648+00');
INSERT INTO items_listen.delivery OVERRIDING SYSTEM VALUE VALUES (1, '01a1ff78-0c56-7358-be48-85de7c9d35fb', 'main', 'orders', '[1]', '{private-tenant.1.orders}', 'orders.many', '{"name":"orders.many","channels":["private-tenant.1.orders"],"data":"{\"id\":\"01a1ff78-0c56-7358-be48-85de7c9d35fb\",\"alert\":\"01a1ff78-0c55-7300-9e5b-b72a0463e1dc\",\"seq\":2,\"watch\":\"orders\",\"key\":{\"tenant_id\":1},\"transition\":\"raised\",\"reason\":\"reading\",\"severity\":\"warning\",\"previous\":\"info\",\"count\":20,\"threshold\":20,\"percent\":100,\"compare\":\">=\",\"message\":\"orders {\\\"tenant_id\\\": 1} at 20 of 20\",\"row\":null,\"at\":\"2026-11-21T18:56:59.989405Z\",\"unread_count\":3}"}', 'delivered', 1, '2026-11-21 18:56:59.99188+00', NULL, NULL, NULL, '2026-11-21 18:56:59.99188+00', '2026-11-21 18:56:59.997322+00', NULL, 200, '{}');
INSERT INTO items_listen.delivery OVERRIDING SYSTEM VALUE VALUES (2, '01a1ff78-0c56-7358-be48-85df00cb05ff', 'main', 'orders', '[2]', '{private-tenant.2.orders}', 'orders.many', '{"name":"orders.many","channels":["private-tenant.2.orders"],"data":"{\"id\":\"01a1ff78-0c56-7358-be48-85df00cb05ff\",\"alert\":\"01a1ff78-0c55-7300-9e5b-b72b09650685\",\"seq\":10,\"watch\":\"orders\",\"key\":{\"tenant_id\":2},\"transition\":\"raised\",\"reason\":\"reading\",\"severity\":\"warning\",\"previous\":\"info\",\"count\":20,\"threshold\":20,\"percent\":100,\"compare\":\">=\",\"message\":\"orders {\\\"tenant_id\\\": 2} at 20 of 20\",\"row\":null,\"at\":\"2026-11-21T18:56:59.989405Z\",\"unread_count\":3}"}', 'delivered', 1, '2026-11-21 18:56:59.99188+00', NULL, NULL, NULL, '2026-11-21 18:56:59.99188+00', '2026-11-21 18:56:59.997383+00', NULL, 200, '{}');
INSERT INTO items_listen.delivery OVERRIDING SYSTEM VALUE VALUES (3, '01a1ff78-0c56-7358-be48-85e07b77665b', 'main', 'orders', '[3]', '{private-tenant.3.orders}', 'orders.many', '{"name":"orders.many","channels":["private-tenant.3.orders"],"data":"{\"id\":\"01a1ff78-0c56-7358-be48-85e07b77665b\",\"alert\":\"01a1ff78-0c55-7300-9e5b-b72c3b263f81\",\"seq\":18,\"watch\":\"orders\",\"key\":{\"tenant_id\":3},\"transition\":\"raised\",\"reason\":\"reading\",\"severity\":\"warning\",\"previous\":\"info\",\"count\":21,\"threshold\":20,\"percent\":105,\"compare\":\">=\",\"message\":\"orders {\\\"tenant_id\\\": 3} at 21 of 20\",\"row\":null,\"at\":\"2026-11-21T18:56:59.989405Z\",\"unread_count\":3}"}', 'delivered', 1, '2026-11-21 18:56:59.99188+00', NULL, NULL, NULL, '2026-11-21 18:56:59.99188+00', '2026-11-21 18:56:59.99739+00', NULL, 200, '{}');
INSERT INTO items_listen.delivery OVERRIDING SYSTEM VALUE VALUES (4, '01a1ff78-0c5e-77c3-89ab-465937e58e03', 'main', 'orders', '[2]', '{private-tenant.2.orders}', 'orders.many', '{"name":"orders.many","channels":["private-tenant.2.orders"],"data":"{\"id\":\"01a1ff78-0c5e-77c3-89ab-465937e58e03\",\"alert\":\"01a1ff78-0c55-7300-9e5b-b72b09650685\",\"seq\":26,\"watch\":\"orders\",\"key\":{\"tenant_id\":2},\"transition\":\"escalated\",\"reason\":\"reading\",\"severity\":\"critical\",\"previous\":\"warning\",\"count\":30,\"threshold\":20,\"percent\":150,\"compare\":\">=\",\"message\":\"orders {\\\"tenant_id\\\": 2} at 30 of 20\",\"row\":null,\"at\":\"2026-11-21T18:56:59.997902Z\",\"unread_count\":3}"}', 'delivered', 1, '2026-11-21 18:56:59.999459+00', NULL, NULL, NULL, '2026-11-21 18:56:59.999459+00', '2026-11-21 18:57:00.003316+00', NULL, 200, '{}');
INSERT INTO items_listen.delivery OVERRIDING SYSTEM VALUE VALUES (5, '01a1ff78-0c5e-77c3-89ab-465aa7c53ee1', 'main', 'orders', '[3]', '{private-tenant.3.orders}', 'orders.many', '{"name":"orders.many","channels":["private-tenant.3.orders"],"data":"{\"id\":\"01a1ff78-0c5e-77c3-89ab-465aa7c53ee1\",\"alert\":\"01a1ff78-0c55-7300-9e5b-b72c3b263f81\",\"seq\":34,\"watch\":\"orders\",\"key\":{\"tenant_id\":3},\"transition\":\"resolved\",\"reason\":\"reading\",\"severity\":\"info\",\"previous\":\"warning\",\"count\":0,\"threshold\":20,\"percent\":0,\"compare\":\">=\",\"message\":\"orders {\\\"tenant_id\\\": 3} at 0 of 20\",\"row\":null,\"at\":\"2026-11-21T18:56:59.997902Z\",\"unread_count\":3}"}', 'delivered', 1, '2026-11-21 18:56:59.999459+00', NULL, NULL, NULL, '2026-11-21 18:56:59.999459+00', '2026-11-21 18:57:00.003352+00', NULL, 200, '{}');
INSERT INTO items_listen.delivery OVERRIDING SYSTEM VALUE VALUES (6, '01a1ff78-0c64-70ac-b8f6-8236d225c951', 'main', 'orders', '[4]', '{private-tenant.4.orders}', 'orders.many', '{"name":"orders.many","channels":["private-tenant.4.orders"],"data":"{\"id\":\"01a1ff78-0c64-70ac-b8f6-8236d225c951\",\"alert\":\"01a1ff78-0c63-71da-81de-f6789ed55880\",\"seq\":42,\"watch\":\"orders\",\"key\":{\"tenant_id\":4},\"transition\":\"raised\",\"reason\":\"reading\",\"severity\":\"warning\",\"previous\":\"info\",\"count\":20,\"threshold\":20,\"percent\":100,\"compare\":\">=\",\"message\":\"orders {\\\"tenant_id\\\": 4} at 20 of 20\",\"row\":null,\"at\":\"2026-11-21T18:57:00.003728Z\",\"unread_count\":3}"}', 'dead', 1, '2026-11-21 18:57:00.004852+00', NULL, NULL, NULL, '2026-11-21 18:57:00.004852+00', '2026-11-21 18:57:00.007191+00', 'rejected', 422, '{}');
INSERT INTO items_listen.delivery OVERRIDING SYSTEM VALUE VALUES (7, '01a1ff78-0c70-728e-82cf-fa4bc56c0387', 'main', 'orders', '[5]', '{private-tenant.5.orders}', 'orders.many', '{"name":"orders.many","channels":["private-tenant.5.orders"],"data":"{\"id\":\"01a1ff78-0c70-728e-82cf-fa4bc56c0387\",\"alert\":\"01a1ff78-0c6f-74bf-a244-3570bf6d8be3\",\"seq\":50,\"watch\":\"orders\",\"key\":{\"tenant_id\":5},\"transition\":\"raised\",\"reason\":\"reading\",\"severity\":\"warning\",\"previous\":\"info\",\"count\":20,\"threshold\":20,\"percent\":100,\"compare\":\">=\",\"message\":\"orders {\\\"tenant_id\\\": 5} at 20 of 20\",\"row\":null,\"at\":\"2026-11-21T18:57:00.015648Z\",\"unread_count\":4}"}', 'pending', 3, '2026-11-21 18:57:01.006556+00', NULL, NULL, NULL, '2026-11-21 18:57:00.016851+00', NULL, 'server', 503, '{}');
INSERT INTO items_listen.endpoint VALUES ('main', 'backing_off', 'server', '2026-11-21 18:57:00.965128+00', '2026-11-21 18:56:59.998114+00', '{}');
INSERT INTO items_listen.episode VALUES ('01a1ff78-0c55-7300-9e5b-b72a0463e1dc', 'orders', '{"tenant_id": 1}', 'warning', 'warning', 20, 20, 100, 'orders {"tenant_id": 1} at 20 of 20', '2026-11-21 18:56:59.989405+00', '2026-11-21 18:56:59.989405+00', NULL, 'reading', 2);
INSERT INTO items_listen.episode VALUES ('01a1ff78-0c55-7300-9e5b-b72b09650685', 'orders', '{"tenant_id": 2}', 'critical', 'critical', 30, 20, 150, 'orders {"tenant_id": 2} at 30 of 20', '2026-11-21 18:56:59.989405+00', '2026-11-21 18:56:59.997902+00', NULL, 'reading', 26);
INSERT INTO items_listen.episode VALUES ('01a1ff78-0c55-7300-9e5b-b72c3b263f81', 'orders', '{"tenant_id": 3}', 'info', 'warning', 0, 20, 0, 'orders {"tenant_id": 3} at 0 of 20', '2026-11-21 18:56:59.989405+00', '2026-11-21 18:56:59.997902+00', '2026-11-21 18:56:59.997902+00', 'reading', 18);
INSERT INTO items_listen.episode VALUES ('01a1ff78-0c63-71da-81de-f6789ed55880', 'orders', '{"tenant_id": 4}', 'warning', 'warning', 20, 20, 100, 'orders {"tenant_id": 4} at 20 of 20', '2026-11-21 18:57:00.003728+00', '2026-11-21 18:57:00.003728+00', NULL, 'reading', 42);
INSERT INTO items_listen.episode VALUES ('01a1ff78-0c6f-74bf-a244-3570bf6d8be3', 'orders', '{"tenant_id": 5}', 'warning', 'warning', 20, 20, 100, 'orders {"tenant_id": 5} at 20 of 20', '2026-11-21 18:57:00.015648+00', '2026-11-21 18:57:00.015648+00', NULL, 'reading', 50);
INSERT INTO items_listen.event VALUES ('01a1ff78-0c56-7358-be48-85de7c9d35fb', '01a1ff78-0c55-7300-9e5b-b72a0463e1dc', 2, 'orders', '{"tenant_id": 1}', 'raised', 'reading', 'warning', 'info', 20, 20, 100, 'orders {"tenant_id": 1} at 20 of 20', '2026-11-21 18:56:59.989405+00');
INSERT INTO items_listen.event VALUES ('01a1ff78-0c56-7358-be48-85df00cb05ff', '01a1ff78-0c55-7300-9e5b-b72b09650685', 10, 'orders', '{"tenant_id": 2}', 'raised', 'reading', 'warning', 'info', 20, 20, 100, 'orders {"tenant_id": 2} at 20 of 20', '2026-11-21 18:56:59.989405+00');
INSERT INTO items_listen.event VALUES ('01a1ff78-0c56-7358-be48-85e07b77665b', '01a1ff78-0c55-7300-9e5b-b72c3b263f81', 18, 'orders', '{"tenant_id": 3}', 'raised', 'reading', 'warning', 'info', 21, 20, 105, 'orders {"tenant_id": 3} at 21 of 20', '2026-11-21 18:56:59.989405+00');
INSERT INTO items_listen.event VALUES ('01a1ff78-0c5e-77c3-89ab-465937e58e03', '01a1ff78-0c55-7300-9e5b-b72b09650685', 26, 'orders', '{"tenant_id": 2}', 'escalated', 'reading', 'critical', 'warning', 30, 20, 150, 'orders {"tenant_id": 2} at 30 of 20', '2026-11-21 18:56:59.997902+00');
INSERT INTO items_listen.event VALUES ('01a1ff78-0c5e-77c3-89ab-465aa7c53ee1', '01a1ff78-0c55-7300-9e5b-b72c3b263f81', 34, 'orders', '{"tenant_id": 3}', 'resolved', 'reading', 'info', 'warning', 0, 20, 0, 'orders {"tenant_id": 3} at 0 of 20', '2026-11-21 18:56:59.997902+00');
INSERT INTO items_listen.event VALUES ('01a1ff78-0c64-70ac-b8f6-8236d225c951', '01a1ff78-0c63-71da-81de-f6789ed55880', 42, 'orders', '{"tenant_id": 4}', 'raised', 'reading', 'warning', 'info', 20, 20, 100, 'orders {"tenant_id": 4} at 20 of 20', '2026-11-21 18:57:00.003728+00');
INSERT INTO items_listen.event VALUES ('01a1ff78-0c70-728e-82cf-fa4bc56c0387', '01a1ff78-0c6f-74bf-a244-3570bf6d8be3', 50, 'orders', '{"tenant_id": 5}', 'raised', 'reading', 'warning', 'info', 20, 20, 100, 'orders {"tenant_id": 5} at 20 of 20', '2026-11-21 18:57:00.015648+00');
INSERT INTO items_listen.journal VALUES ('765', 1, 20, NULL, '[6]');
INSERT INTO items_listen.schema_history VALUES (1, 'journal_count_outbox', '2026-11-21T18:56:59.855986445Z', '12965448834126054872');
INSERT INTO items_listen.watch VALUES (1, 'orders', 'table', '"public"."orders"', '{tenant_id}', '"public"."orders" / (
status = ''open''
) / jsonb_build_array("tenant_id")::text / r.key / 38565fca5953', 1, '1fd90694570d', '{insert,delete,update,truncate}', '{16386}', false, NULL, NULL, '2026-11-21 18:56:59.894656+00');
INSERT INTO public.orders VALUES (1, 1, 'open');
INSERT INTO public.orders VALUES (2, 1, 'open');
INSERT INTO public.orders VALUES (3, 1, 'open');
INSERT INTO public.orders VALUES (4, 1, 'open');
INSERT INTO public.orders VALUES (5, 1, 'open');
INSERT INTO public.orders VALUES (6, 1, 'open');
INSERT INTO public.orders VALUES (7, 1, 'open');
INSERT INTO public.orders VALUES (8, 1, 'open');
INSERT INTO public.orders VALUES (9, 1, 'open');
INSERT INTO public.orders VALUES (10, 1, 'open');
INSERT INTO public.orders VALUES (11, 1, 'open');
INSERT INTO public.orders VALUES (12, 1, 'open');
INSERT INTO public.orders VALUES (13, 1, 'open');
INSERT INTO public.orders VALUES (14, 1, 'open');
INSERT INTO public.orders VALUES (15, 1, 'open');
INSERT INTO public.orders VALUES (16, 1, 'open');
INSERT INTO public.orders VALUES (17, 1, 'open');
INSERT INTO public.orders VALUES (18, 1, 'open');
INSERT INTO public.orders VALUES (19, 1, 'open');
INSERT INTO public.orders VALUES (20, 1, 'open');
INSERT INTO public.orders VALUES (21, 2, 'open');
INSERT INTO public.orders VALUES (22, 2, 'open');
INSERT INTO public.orders VALUES (23, 2, 'open');
INSERT INTO public.orders VALUES (24, 2, 'open');
INSERT INTO public.orders VALUES (25, 2, 'open');
INSERT INTO public.orders VALUES (26, 2, 'open');
INSERT INTO public.orders VALUES (27, 2, 'open');
INSERT INTO public.orders VALUES (28, 2, 'open');
INSERT INTO public.orders VALUES (29, 2, 'open');
INSERT INTO public.orders VALUES (30, 2, 'open');
INSERT INTO public.orders VALUES (31, 2, 'open');
INSERT INTO public.orders VALUES (32, 2, 'open');
INSERT INTO public.orders VALUES (33, 2, 'open');
INSERT INTO public.orders VALUES (34, 2, 'open');
INSERT INTO public.orders VALUES (35, 2, 'open');
INSERT INTO public.orders VALUES (36, 2, 'open');
INSERT INTO public.orders VALUES (37, 2, 'open');
INSERT INTO public.orders VALUES (38, 2, 'open');
INSERT INTO public.orders VALUES (39, 2, 'open');
INSERT INTO public.orders VALUES (40, 2, 'open');
INSERT INTO public.orders VALUES (62, 2, 'open');
INSERT INTO public.orders VALUES (63, 2, 'open');
INSERT INTO public.orders VALUES (64, 2, 'open');
INSERT INTO public.orders VALUES (65, 2, 'open');
INSERT INTO public.orders VALUES (66, 2, 'open');
INSERT INTO public.orders VALUES (67, 2, 'open');
INSERT INTO public.orders VALUES (68, 2, 'open');
INSERT INTO public.orders VALUES (69, 2, 'open');
INSERT INTO public.orders VALUES (70, 2, 'open');
INSERT INTO public.orders VALUES (71, 2, 'open');
INSERT INTO public.orders VALUES (72, 4, 'open');
INSERT INTO public.orders VALUES (73, 4, 'open');
INSERT INTO public.orders VALUES (74, 4, 'open');
INSERT INTO public.orders VALUES (75, 4, 'open');
INSERT INTO public.orders VALUES (76, 4, 'open');
INSERT INTO public.orders VALUES (77, 4, 'open');
INSERT INTO public.orders VALUES (78, 4, 'open');
INSERT INTO public.orders VALUES (79, 4, 'open');
INSERT INTO public.orders VALUES (80, 4, 'open');
INSERT INTO public.orders VALUES (81, 4, 'open');
INSERT INTO public.orders VALUES (82, 4, 'open');
INSERT INTO public.orders VALUES (83, 4, 'open');
INSERT INTO public.orders VALUES (84, 4, 'open');
INSERT INTO public.orders VALUES (85, 4, 'open');
INSERT INTO public.orders VALUES (86, 4, 'open');
INSERT INTO public.orders VALUES (87, 4, 'open');
INSERT INTO public.orders VALUES (88, 4, 'open');
INSERT INTO public.orders VALUES (89, 4, 'open');
INSERT INTO public.orders VALUES (90, 4, 'open');
INSERT INTO public.orders VALUES (91, 4, 'open');
INSERT INTO public.orders VALUES (92, 5, 'open');
INSERT INTO public.orders VALUES (93, 5, 'open');
INSERT INTO public.orders VALUES (94, 5, 'open');
INSERT INTO public.orders VALUES (95, 5, 'open');
INSERT INTO public.orders VALUES (96, 5, 'open');
INSERT INTO public.orders VALUES (97, 5, 'open');
INSERT INTO public.orders VALUES (98, 5, 'open');
INSERT INTO public.orders VALUES (99, 5, 'open');
INSERT INTO public.orders VALUES (100, 5, 'open');
INSERT INTO public.orders VALUES (101, 5, 'open');
INSERT INTO public.orders VALUES (102, 5, 'open');
INSERT INTO public.orders VALUES (103, 5, 'open');
INSERT INTO public.orders VALUES (104, 5, 'open');
INSERT INTO public.orders VALUES (105, 5, 'open');
INSERT INTO public.orders VALUES (106, 5, 'open');
INSERT INTO public.orders VALUES (107, 5, 'open');
INSERT INTO public.orders VALUES (108, 5, 'open');
INSERT INTO public.orders VALUES (109, 5, 'open');
INSERT INTO public.orders VALUES (110, 5, 'open');
INSERT INTO public.orders VALUES (111, 5, 'open');
INSERT INTO public.orders VALUES (112, 6, 'open');
INSERT INTO public.orders VALUES (113, 6, 'open');
INSERT INTO public.orders VALUES (114, 6, 'open');
INSERT INTO public.orders VALUES (115, 6, 'open');
INSERT INTO public.orders VALUES (116, 6, 'open');
INSERT INTO public.orders VALUES (117, 6, 'open');
INSERT INTO public.orders VALUES (118, 6, 'open');
INSERT INTO public.orders VALUES (119, 6, 'open');
INSERT INTO public.orders VALUES (120, 6, 'open');
INSERT INTO public.orders VALUES (121, 6, 'open');
INSERT INTO public.orders VALUES (122, 6, 'open');
INSERT INTO public.orders VALUES (123, 6, 'open');
INSERT INTO public.orders VALUES (124, 6, 'open');
INSERT INTO public.orders VALUES (125, 6, 'open');
INSERT INTO public.orders VALUES (126, 6, 'open');
INSERT INTO public.orders VALUES (127, 6, 'open');
INSERT INTO public.orders VALUES (128, 6, 'open');
INSERT INTO public.orders VALUES (129, 6, 'open');
INSERT INTO public.orders VALUES (130, 6, 'open');
INSERT INTO public.orders VALUES (131, 6, 'open');
SELECT pg_catalog.setval('items_listen.delivery_id_seq', 7, true);
SELECT pg_catalog.setval('items_listen.generation', 1, true);
SELECT pg_catalog.setval('items_listen.seq', 49, true);
SELECT pg_catalog.setval('items_listen.watch_id', 1, true);
SELECT pg_catalog.setval('public.orders_id_seq', 131, true);
ALTER TABLE ONLY items_listen.alert_read
    ADD CONSTRAINT alert_read_pkey PRIMARY KEY (episode);
ALTER TABLE ONLY items_listen.cluster
    ADD CONSTRAINT cluster_pkey PRIMARY KEY (only_row);
ALTER TABLE ONLY items_listen.count
    ADD CONSTRAINT count_pkey PRIMARY KEY (watch, key);
ALTER TABLE ONLY items_listen.delivery
    ADD CONSTRAINT delivery_pkey PRIMARY KEY (id);
ALTER TABLE ONLY items_listen.endpoint
    ADD CONSTRAINT endpoint_pkey PRIMARY KEY (name);
ALTER TABLE ONLY items_listen.episode
    ADD CONSTRAINT episode_pkey PRIMARY KEY (id);
ALTER TABLE ONLY items_listen.event
    ADD CONSTRAINT event_pkey PRIMARY KEY (id);
ALTER TABLE ONLY items_listen.instance
    ADD CONSTRAINT instance_pkey PRIMARY KEY (id);
ALTER TABLE ONLY items_listen.schema_history
    ADD CONSTRAINT schema_history_pkey PRIMARY KEY (version);
ALTER TABLE ONLY items_listen.watch
    ADD CONSTRAINT watch_generation_key UNIQUE (generation);
ALTER TABLE ONLY items_listen.watch
    ADD CONSTRAINT watch_name_key UNIQUE (name);
ALTER TABLE ONLY items_listen.watch
    ADD CONSTRAINT watch_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.orders
    ADD CONSTRAINT orders_pkey PRIMARY KEY (id);
CREATE INDEX count_deadline ON items_listen.count USING btree (deadline) WHERE (deadline IS NOT NULL);
CREATE INDEX count_dirty ON items_listen.count USING btree (watch) WHERE (dirty > 0);
CREATE INDEX count_open ON items_listen.count USING btree (watch, severity) WHERE (severity > 0);
CREATE INDEX delivery_dead ON items_listen.delivery USING btree (endpoint, id) WHERE (state = 'dead'::text);
CREATE INDEX delivery_due ON items_listen.delivery USING btree (endpoint, due_at, id) WHERE (state = 'pending'::text);
CREATE INDEX delivery_lane ON items_listen.delivery USING btree (endpoint, watch, key, id) WHERE (state = 'pending'::text);
CREATE INDEX episode_watch ON items_listen.episode USING btree (watch, raised_at);
CREATE INDEX event_watch ON items_listen.event USING btree (watch, seq);
CREATE INDEX journal_xid ON items_listen.journal USING btree (xid);
CREATE TRIGGER alert_mark_read INSTEAD OF UPDATE ON items_listen.alert FOR EACH ROW EXECUTE FUNCTION items_listen.alert_mark_read();
CREATE TRIGGER items_listen_1_delete AFTER DELETE ON public.orders REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION items_listen.watch_1_delete();
CREATE TRIGGER items_listen_1_insert AFTER INSERT ON public.orders REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION items_listen.watch_1_insert();
CREATE TRIGGER items_listen_1_truncate AFTER TRUNCATE ON public.orders FOR EACH STATEMENT EXECUTE FUNCTION items_listen.watch_1_truncate();
CREATE TRIGGER items_listen_1_update AFTER UPDATE ON public.orders REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION items_listen.watch_1_update();
REVOKE ALL ON FUNCTION items_listen.alert_mark_read() FROM PUBLIC;
REVOKE ALL ON FUNCTION items_listen.watch_1_delete() FROM PUBLIC;
REVOKE ALL ON FUNCTION items_listen.watch_1_insert() FROM PUBLIC;
REVOKE ALL ON FUNCTION items_listen.watch_1_truncate() FROM PUBLIC;
REVOKE ALL ON FUNCTION items_listen.watch_1_update() FROM PUBLIC;
