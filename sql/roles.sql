-- Roles that were there before are used as they are. What of them would void the separation ends the script here, and nothing is
-- created or granted; what weakens it is a warning, and a matter for whoever knows why it is so.
DECLARE
    f record;
    void text[] := '{}';
BEGIN
    FOR f IN
        WITH RECURSIVE given (part, ord, name) AS (
            VALUES ('owner', 1, {owner}), ('daemon', 2, {daemon}), ('application', 3, {application})
        ),
        r AS (
            SELECT g.part, g.ord, format('%I (the %s)', p.rolname, g.part) AS who, p.*
            FROM given g JOIN pg_roles p ON p.rolname = g.name
        ),
        -- Superusers are members of everything: that they are is said once.
        plain AS (SELECT * FROM r WHERE NOT rolsuper),
        tree (relid, root) AS (
            SELECT t.oid, t.oid FROM unnest({watched}) AS w (name), to_regclass(w.name) AS t (oid) WHERE t.oid IS NOT NULL
            UNION
            SELECT i.inhrelid, t.root FROM tree t JOIN pg_inherits i ON i.inhparent = t.relid
        ),
        watched AS (
            SELECT c.oid, c.relowner, c.relrowsecurity, t.root::regclass::text AS root
            FROM tree t JOIN pg_class c ON c.oid = t.relid
        )
        SELECT true AS voids, r.ord, format('%s is a superuser: %s', r.who, CASE r.part
                   WHEN 'owner' THEN 'where, sum and value would run as a superuser in each writer''s statement'
                   ELSE 'no right that it lacks would keep it from anything' END) AS what
        FROM r WHERE r.rolsuper
        UNION ALL
        SELECT current_setting('server_version_num')::int < 160000 AND r.part <> 'owner', r.ord,
               format('%s has CREATEROLE: %s', r.who, CASE WHEN current_setting('server_version_num')::int < 160000
                   THEN 'until PostgreSQL 15 it may make itself a member of the owner'
                   ELSE 'it may make roles, and change those that it has ADMIN OPTION on' END)
        FROM plain r WHERE r.rolcreaterole
        UNION ALL
        SELECT false, r.ord, format('%s has REPLICATION: it may read everything in this server''s databases', r.who)
        FROM plain r WHERE r.rolreplication
        UNION ALL
        SELECT false, r.ord, format('%s has BYPASSRLS: %s', r.who, CASE r.part
                   WHEN 'daemon' THEN 'nothing that is watched here has row level security, so it needs none of it'
                   ELSE 'no row level security holds for it, and nothing here needs that' END)
        FROM plain r WHERE r.rolbypassrls
          AND NOT (r.part = 'daemon' AND ({asks} OR EXISTS (SELECT FROM watched w WHERE w.relrowsecurity)))
        UNION ALL
        SELECT false, r.ord, format('%s may log in: whoever does may change schema, tables and functions', r.who)
        FROM plain r WHERE r.part = 'owner' AND r.rolcanlogin
        UNION ALL
        SELECT false, r.ord, format('%s may not log in, and the daemon connects as it: ALTER ROLE %I LOGIN', r.who, r.rolname)
        FROM plain r WHERE r.part = 'daemon' AND NOT r.rolcanlogin
        UNION ALL
        SELECT r.ord > other.ord, r.ord, format('%s is a member of %s%s: %s', r.who, other.who,
                   CASE WHEN other.part = 'owner' AND pg_has_role(r.oid, current_user, 'MEMBER') THEN ', as whoever runs this becomes' ELSE '' END,
                   CASE WHEN other.part = 'owner' THEN 'what only the owner may do, it may'
                        WHEN r.part = 'application' THEN 'it may write journal, counts and outbox'
                        WHEN r.part = 'owner' THEN 'what runs in writers'' statements as the owner has its rights'
                        ELSE 'the daemon has its rights as well' END)
        FROM plain r JOIN r AS other ON other.oid <> r.oid AND pg_has_role(r.oid, other.oid, 'MEMBER')
        UNION ALL
        SELECT g.rolname <> 'pg_read_all_data' AND (r.part = 'application' OR g.rolname <> 'pg_write_all_data'), r.ord,
               format('%s is a member of %s: %s', r.who, g.rolname, CASE g.rolname
                   WHEN 'pg_read_all_data' THEN 'it may read every table'
                   WHEN 'pg_write_all_data' THEN 'it may write every table, ours too'
                   ELSE 'with the server''s files or programs it may become a superuser' END)
        FROM plain r JOIN pg_roles g ON pg_has_role(r.oid, g.oid, 'MEMBER') AND g.rolname IN ('pg_read_all_data', 'pg_write_all_data',
            'pg_read_server_files', 'pg_write_server_files', 'pg_execute_server_program')
        UNION ALL
        SELECT false, r.ord, format('%s owns %s, or is a member of who does: %s', r.who, string_agg(DISTINCT w.root, ', '), CASE r.part
                   WHEN 'owner' THEN 'what runs in writers'' statements as the owner may change these tables'
                   WHEN 'daemon' THEN 'it may change them and their triggers'
                   ELSE 'it may disable our triggers there, and have code of its own run as the owner and as the daemon' END)
        FROM plain r JOIN watched w ON pg_has_role(r.oid, w.relowner, 'MEMBER') GROUP BY r.who, r.ord, r.part
        UNION ALL
        SELECT false, r.ord, format('%s may write %s, which it need not', r.who, string_agg(DISTINCT w.root, ', '))
        FROM plain r JOIN watched w ON has_table_privilege(r.oid, w.oid, 'INSERT, UPDATE, DELETE, TRUNCATE, TRIGGER')
        WHERE r.part <> 'application' AND NOT pg_has_role(r.oid, w.relowner, 'MEMBER')
          AND NOT pg_has_role(r.oid, 'pg_write_all_data', 'MEMBER') GROUP BY r.who, r.ord
        UNION ALL
        SELECT false, r.ord, format('%s owns the database, or is a member of who does: it may drop it, and say what its sessions begin with', r.who)
        FROM plain r JOIN pg_database d ON d.datname = current_database() AND pg_has_role(r.oid, d.datdba, 'MEMBER')
        ORDER BY 2, 3
    LOOP
        IF f.voids THEN
            void := void || f.what;
        ELSE
            RAISE WARNING '%', f.what;
        END IF;
    END LOOP;
    IF void <> '{}' THEN
        RAISE EXCEPTION 'these roles would not protect from one another: %', array_to_string(void, '; ')
            USING HINT = 'Take that from them, or print the script for other roles: --owner, --daemon, --application.';
    END IF;
END;
