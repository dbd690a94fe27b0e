-- complain if this script is run by psql instead of ALTER EXTENSION
\echo Use "ALTER EXTENSION pg_lockguard UPDATE" to load this file. \quit

CREATE FUNCTION pg_lockguard_progress(
    OUT pid int4,
    OUT datname name,
    OUT usename name,
    OUT command text,
    OUT relation text,
    OUT lock_mode text,
    OUT phase text,
    OUT attempt int4,
    OUT waited interval,
    OUT longest_stall interval,
    OUT holders int4[],
    OUT deadline timestamptz,
    OUT next_step text)
RETURNS SETOF record
LANGUAGE C VOLATILE PARALLEL RESTRICTED ROWS 10
AS 'MODULE_PATHNAME', 'pg_lockguard_progress';

CREATE VIEW pg_lockguard_progress AS SELECT * FROM pg_lockguard_progress();

GRANT SELECT ON pg_lockguard_progress TO PUBLIC;

COMMENT ON VIEW pg_lockguard_progress IS
    'the guarded statements that wait at low priority, and for whom';
