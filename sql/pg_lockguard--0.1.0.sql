-- complain if this script is run by psql instead of CREATE EXTENSION
\echo Use "CREATE EXTENSION pg_lockguard" to load this file. \quit

CREATE FUNCTION lock_tree(
    OUT tree text,
    OUT pid int4,
    OUT depth int4,
    OUT root_pid int4,
    OUT path int4[],
    OUT blocked_by int4[],
    OUT held_by int4[],
    OUT blocks int4,
    OUT wait_age interval,
    OUT lock_type text,
    OUT lock_object text,
    OUT lock_mode text,
    OUT blocker_mode text,
    OUT database oid,
    OUT relation oid,
    OUT state text,
    OUT xact_age interval,
    OUT state_age interval,
    OUT wait_event_type text,
    OUT wait_event text,
    OUT datname name,
    OUT usename name,
    OUT application_name text,
    OUT client_addr inet,
    OUT backend_type text,
    OUT gid text,
    OUT deadlock bool,
    OUT query text)
RETURNS SETOF record
LANGUAGE C VOLATILE PARALLEL RESTRICTED ROWS 100
AS 'MODULE_PATHNAME', 'pg_lockguard_lock_tree';

COMMENT ON FUNCTION lock_tree() IS
    'who waits for a heavyweight lock and who blocks whom, from the root cause down';
