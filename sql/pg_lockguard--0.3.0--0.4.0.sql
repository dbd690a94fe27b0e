-- complain if this script is run by psql instead of ALTER EXTENSION
\echo Use "ALTER EXTENSION pg_lockguard UPDATE" to load this file. \quit

-- More columns: cancellations, cancel_*, cancels_in_vain, spared_snapshot, spared_committing,
-- spared_no_client, stall_*.
DROP VIEW pg_stat_lockguard;
DROP FUNCTION pg_stat_lockguard();

CREATE FUNCTION pg_stat_lockguard(
    OUT statements int8,
    OUT statements_immediate int8,
    OUT statements_waited int8,
    OUT wait_time float8,
    OUT max_wait_time float8,
    OUT bursts int8,
    OUT stall_time float8,
    OUT max_stall_time float8,
    OUT timeouts_lock int8,
    OUT timeouts_total int8,
    OUT deadlocks int8,
    OUT ddl_terminations int8,
    OUT terminations int8,
    OUT rehearsals int8,
    OUT rehearsals_needless int8,
    OUT cancellations int8,
    OUT cancel_rehearsals int8,
    OUT cancel_rehearsals_needless int8,
    OUT cancels_in_vain int8,
    OUT spared_prepared int8,
    OUT spared_replication int8,
    OUT spared_background int8,
    OUT spared_superuser int8,
    OUT spared_protected int8,
    OUT spared_role int8,
    OUT spared_database int8,
    OUT spared_application int8,
    OUT spared_snapshot int8,
    OUT spared_stalled int8,
    OUT spared_committing int8,
    OUT spared_no_client int8,
    OUT spared_changed int8,
    OUT fuses_blown int8,
    OUT stall_cancels int8,
    OUT stall_ended_waits int8,
    OUT stall_terminations int8,
    OUT stall_spared int8,
    OUT looks int8,
    OUT errors int8,
    OUT events_lost int8,
    OUT waits_evicted int8,
    OUT stats_reset timestamptz)
RETURNS SETOF record
LANGUAGE C VOLATILE PARALLEL RESTRICTED ROWS 1
AS 'MODULE_PATHNAME', 'pg_lockguard_statistics';

COMMENT ON FUNCTION pg_stat_lockguard() IS
    'counters of the DDL guard and the worker since stats_reset';

CREATE VIEW pg_stat_lockguard AS
    SELECT * FROM pg_stat_lockguard();

COMMENT ON VIEW pg_stat_lockguard IS
    'counters of the DDL guard and the worker since stats_reset; times are in milliseconds';

GRANT SELECT ON pg_stat_lockguard TO PUBLIC;

-- More columns: repeats, last_at.
DROP VIEW pg_lockguard_events;
DROP FUNCTION pg_lockguard_events();

CREATE FUNCTION pg_lockguard_events(
    OUT id int8,
    OUT at timestamptz,
    OUT kind text,
    OUT pid int4,
    OUT datname name,
    OUT usename name,
    OUT application_name text,
    OUT command text,
    OUT relation text,
    OUT lock_mode text,
    OUT waited interval,
    OUT stall interval,
    OUT attempts int4,
    OUT blocker_pid int4,
    OUT blocker_usename name,
    OUT blocker_application_name text,
    OUT blocker_state text,
    OUT blocker_idle interval,
    OUT blocker_query text,
    OUT reason text,
    OUT lock_tree text,
    OUT repeats int8,
    OUT last_at timestamptz)
RETURNS SETOF record
LANGUAGE C VOLATILE PARALLEL RESTRICTED ROWS 1000
AS 'MODULE_PATHNAME', 'pg_lockguard_events';

COMMENT ON FUNCTION pg_lockguard_events() IS
    'what the DDL guard and the worker did, oldest first';

CREATE VIEW pg_lockguard_events AS
    SELECT * FROM pg_lockguard_events();

COMMENT ON VIEW pg_lockguard_events IS
    'what the DDL guard and the worker did, oldest first, from a ring in shared memory';

GRANT SELECT ON pg_lockguard_events TO PUBLIC;

-- One more column: work.
DROP VIEW pg_lockguard_progress;
DROP FUNCTION pg_lockguard_progress();

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
    OUT next_step text,
    OUT work text)
RETURNS SETOF record
LANGUAGE C VOLATILE PARALLEL RESTRICTED ROWS 10
AS 'MODULE_PATHNAME', 'pg_lockguard_progress';

COMMENT ON FUNCTION pg_lockguard_progress() IS
    'the guarded statements that wait at low priority, or do heavy work';

CREATE VIEW pg_lockguard_progress AS SELECT * FROM pg_lockguard_progress();

GRANT SELECT ON pg_lockguard_progress TO PUBLIC;

COMMENT ON VIEW pg_lockguard_progress IS
    'the guarded statements that wait at low priority, and for whom, or do heavy work';

-- What a DDL statement would do.
CREATE FUNCTION ddl_preview(
    statement text,
    with_standbys bool DEFAULT false,
    OUT step int4,
    OUT action text,
    OUT relation text,
    OUT lock_mode text,
    OUT size int8,
    OUT stops text,
    OUT held_by int4[],
    OUT longest_idle interval,
    OUT longest_xact interval,
    OUT complete bool,
    OUT advice text)
RETURNS SETOF record
LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 5
AS 'MODULE_PATHNAME', 'pg_lockguard_ddl_preview';

COMMENT ON FUNCTION ddl_preview(text, bool) IS
    'what a DDL statement would lock, rewrite and scan, and who is in its way now';

-- ---- Incidents, gauges, pictures

CREATE FUNCTION pg_lockguard_now(
    OUT sessions_waiting int4,
    OUT longest_wait float8,
    OUT roots int4,
    OUT roots_idle_in_transaction int4,
    OUT worst_root_pid int4,
    OUT worst_root_application_name text,
    OUT worst_root_sessions_behind int4,
    OUT worst_root_age float8,
    OUT statements_at_low_priority int4,
    OUT sessions_on_cycle int4)
RETURNS SETOF record
LANGUAGE C VOLATILE PARALLEL RESTRICTED ROWS 1
AS 'MODULE_PATHNAME', 'pg_lockguard_now';

COMMENT ON FUNCTION pg_lockguard_now() IS
    'gauges of lock waits at this moment; durations are in seconds';

CREATE VIEW pg_lockguard_now AS
    SELECT * FROM pg_lockguard_now();

COMMENT ON VIEW pg_lockguard_now IS
    'gauges of lock waits at this moment, one row; durations are in seconds';

GRANT SELECT ON pg_lockguard_now TO PUBLIC;

CREATE FUNCTION lock_graph(format text)
RETURNS text
LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'pg_lockguard_lock_graph';

COMMENT ON FUNCTION lock_graph(text) IS
    'who waits for whom, as a diagram in the language mermaid or dot';

CREATE FUNCTION lock_graph(format text, incident int8)
RETURNS text
LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'pg_lockguard_incident_graph';

COMMENT ON FUNCTION lock_graph(text, int8) IS
    'who waited for whom at the peak of an incident, as a diagram in the language mermaid or dot';

CREATE FUNCTION pg_lockguard_incidents(
    OUT id int8,
    OUT began timestamptz,
    OUT last_seen timestamptz,
    OUT ended timestamptz,
    OUT root_pid int4,
    OUT root_gid text,
    OUT root_datname name,
    OUT root_usename name,
    OUT root_application_name text,
    OUT root_backend_type text,
    OUT root_state text,
    OUT root_query text,
    OUT root_first_statement text,
    OUT root_statements text[],
    OUT lock_type text,
    OUT lock_object text,
    OUT mode_held text,
    OUT mode_wanted text,
    OUT waiters int4,
    OUT sessions int4,
    OUT time_waited interval,
    OUT longest_wait interval,
    OUT how_ended text,
    OUT part_of int8,
    OUT lock_tree text)
RETURNS SETOF record
LANGUAGE C VOLATILE PARALLEL RESTRICTED ROWS 200
AS 'MODULE_PATHNAME', 'pg_lockguard_incidents';

COMMENT ON FUNCTION pg_lockguard_incidents() IS
    'who kept whom waiting, oldest first, open incidents too';

CREATE VIEW pg_lockguard_incidents AS
    SELECT * FROM pg_lockguard_incidents();

COMMENT ON VIEW pg_lockguard_incidents IS
    'who kept whom waiting, oldest first, open incidents too, from a ring in shared memory';

CREATE FUNCTION pg_stat_lockguard_waits(
    OUT datname name,
    OUT lock_type text,
    OUT relid oid,
    OUT relation text,
    OUT lock_mode text,
    OUT blocker_usename name,
    OUT blocker_application_name text,
    OUT waits int8,
    OUT wait_time float8,
    OUT max_wait_time float8,
    OUT stats_reset timestamptz)
RETURNS SETOF record
LANGUAGE C VOLATILE PARALLEL RESTRICTED ROWS 1000
AS 'MODULE_PATHNAME', 'pg_lockguard_wait_statistics';

COMMENT ON FUNCTION pg_stat_lockguard_waits() IS
    'accumulated lock waits since stats_reset';

CREATE VIEW pg_stat_lockguard_waits AS
    SELECT * FROM pg_stat_lockguard_waits();

COMMENT ON VIEW pg_stat_lockguard_waits IS
    'accumulated lock waits since stats_reset, as the worker has sampled them; times are in milliseconds';

GRANT SELECT ON pg_lockguard_incidents, pg_stat_lockguard_waits TO PUBLIC;

-- Somebody else may decide for a statement that waits.
CREATE FUNCTION pg_lockguard_decide(pid int4, what text)
RETURNS bool
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'pg_lockguard_decide';

COMMENT ON FUNCTION pg_lockguard_decide(int4, text) IS
    'decides for a guarded statement that waits at low priority: give up, queue, terminate; returns whether it was heard';

-- The statements of a transaction.
CREATE FUNCTION pg_lockguard_statements(
    pid int4,
    OUT number int4,
    OUT began timestamptz,
    OUT command text,
    OUT query text,
    OUT relations text[])
RETURNS SETOF record
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED ROWS 8
AS 'MODULE_PATHNAME', 'pg_lockguard_statements';

COMMENT ON FUNCTION pg_lockguard_statements(int4) IS
    'the last statements of the present transaction of a session, oldest first';
