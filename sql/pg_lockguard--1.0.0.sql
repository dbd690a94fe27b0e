-- complain if this script is run by psql instead of CREATE EXTENSION
\echo Use "CREATE EXTENSION pg_lockguard" to load this file. \quit

-- Everything that version 1.0.0 has, as the update scripts that lead to it make it: test/tap/extension_versions.pl
-- compares the two.

-- ---- Who waits for whom

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

-- ---- Statements that wait at low priority

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
    'the guarded statements that wait at low priority, with those whom they wait for, and those that do heavy work';

COMMENT ON COLUMN pg_lockguard_progress.pid IS 'process id of the session';
COMMENT ON COLUMN pg_lockguard_progress.datname IS 'its database';
COMMENT ON COLUMN pg_lockguard_progress.usename IS 'its role';
COMMENT ON COLUMN pg_lockguard_progress.command IS 'command tag';
COMMENT ON COLUMN pg_lockguard_progress.relation IS 'what it waits for: a name where it is of the viewer''s database, else OIDs; null where nobody has seen for which lock an attempt failed';
COMMENT ON COLUMN pg_lockguard_progress.lock_mode IS 'the mode that it wants; null likewise';
COMMENT ON COLUMN pg_lockguard_progress.phase IS 'trying, waiting, backing off, queued, running or terminating';
COMMENT ON COLUMN pg_lockguard_progress.attempt IS 'attempts that have failed so far';
COMMENT ON COLUMN pg_lockguard_progress.waited IS 'time since it began';
COMMENT ON COLUMN pg_lockguard_progress.longest_stall IS 'the longest that it stood in a queue: nobody was kept waiting by that for longer';
COMMENT ON COLUMN pg_lockguard_progress.holders IS 'process ids of those who hold the lock; 0 for a prepared transaction';
COMMENT ON COLUMN pg_lockguard_progress.deadline IS 'when its patience ends; null without a limit';
COMMENT ON COLUMN pg_lockguard_progress.next_step IS 'what comes next, in words';
COMMENT ON COLUMN pg_lockguard_progress.work IS 'the heavy work that it has begun, the latest; null where there is none';

-- ---- The record

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

COMMENT ON COLUMN pg_lockguard_events.id IS 'counts from 1; missing ones have been overwritten or lost';
COMMENT ON COLUMN pg_lockguard_events.at IS 'when it happened, the first time';
COMMENT ON COLUMN pg_lockguard_events.kind IS 'what happened, such as ddl_waited, blocker_terminated, stall_cancelled';
COMMENT ON COLUMN pg_lockguard_events.pid IS 'process id of the session that waited; the columns up to attempts are about it';
COMMENT ON COLUMN pg_lockguard_events.datname IS 'its database';
COMMENT ON COLUMN pg_lockguard_events.usename IS 'its role';
COMMENT ON COLUMN pg_lockguard_events.application_name IS 'its application';
COMMENT ON COLUMN pg_lockguard_events.command IS 'its command tag, such as ALTER TABLE';
COMMENT ON COLUMN pg_lockguard_events.relation IS 'what it waited for: a name where it is of the viewer''s database, else OIDs';
COMMENT ON COLUMN pg_lockguard_events.lock_mode IS 'the mode that it wanted';
COMMENT ON COLUMN pg_lockguard_events.waited IS 'how long it had waited';
COMMENT ON COLUMN pg_lockguard_events.stall IS 'the longest that others could be kept waiting behind it';
COMMENT ON COLUMN pg_lockguard_events.attempts IS 'attempts that had failed';
COMMENT ON COLUMN pg_lockguard_events.blocker_pid IS 'process id of who was in the way; 0 for a prepared transaction';
COMMENT ON COLUMN pg_lockguard_events.blocker_usename IS 'its role';
COMMENT ON COLUMN pg_lockguard_events.blocker_application_name IS 'its application';
COMMENT ON COLUMN pg_lockguard_events.blocker_state IS 'its state, for whom pg_stat_activity shows that';
COMMENT ON COLUMN pg_lockguard_events.blocker_idle IS 'how long it had been idle; null where it was not';
COMMENT ON COLUMN pg_lockguard_events.blocker_query IS 'its query, for whom pg_stat_activity shows that; at most 511 bytes';
COMMENT ON COLUMN pg_lockguard_events.reason IS 'why it was spared, why a fuse held, how a rehearsal ended, who has decided';
COMMENT ON COLUMN pg_lockguard_events.lock_tree IS 'the tree of that moment; at most 2 kB';
COMMENT ON COLUMN pg_lockguard_events.repeats IS 'how often it has happened again';
COMMENT ON COLUMN pg_lockguard_events.last_at IS 'when last; all columns but id and at are of that time';

GRANT SELECT ON pg_lockguard_events TO PUBLIC;

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

COMMENT ON COLUMN pg_stat_lockguard.statements IS 'guarded statements begun';
COMMENT ON COLUMN pg_stat_lockguard.statements_immediate IS 'of these, those that never waited';
COMMENT ON COLUMN pg_stat_lockguard.statements_waited IS 'of these, those that waited at low priority';
COMMENT ON COLUMN pg_stat_lockguard.wait_time IS 'how long statements waited, in milliseconds';
COMMENT ON COLUMN pg_stat_lockguard.max_wait_time IS 'the longest of these waits, in milliseconds';
COMMENT ON COLUMN pg_stat_lockguard.bursts IS 'times that a statement stood in a lock''s queue';
COMMENT ON COLUMN pg_stat_lockguard.stall_time IS 'how long others could be kept waiting by that, in milliseconds';
COMMENT ON COLUMN pg_stat_lockguard.max_stall_time IS 'the longest of these times, in milliseconds';
COMMENT ON COLUMN pg_stat_lockguard.timeouts_lock IS 'statements ended by lock_timeout or ddl_lock_timeout';
COMMENT ON COLUMN pg_stat_lockguard.timeouts_total IS 'statements ended by ddl_max_wait';
COMMENT ON COLUMN pg_stat_lockguard.deadlocks IS 'deadlocks of statements at low priority';
COMMENT ON COLUMN pg_stat_lockguard.ddl_terminations IS 'sessions ended by guarded statements';
COMMENT ON COLUMN pg_stat_lockguard.terminations IS 'sessions ended by the worker';
COMMENT ON COLUMN pg_stat_lockguard.rehearsals IS 'sessions that the worker would have ended';
COMMENT ON COLUMN pg_stat_lockguard.rehearsals_needless IS 'of these, those that then ceased to block by themselves';
COMMENT ON COLUMN pg_stat_lockguard.cancellations IS 'statements cancelled by the worker';
COMMENT ON COLUMN pg_stat_lockguard.cancel_rehearsals IS 'statements that the worker would have cancelled';
COMMENT ON COLUMN pg_stat_lockguard.cancel_rehearsals_needless IS 'of these, those that then ended by themselves';
COMMENT ON COLUMN pg_stat_lockguard.cancels_in_vain IS 'of the cancelled, those whose session still had the lock';
COMMENT ON COLUMN pg_stat_lockguard.spared_prepared IS 'blockers spared: a prepared transaction';
COMMENT ON COLUMN pg_stat_lockguard.spared_replication IS 'blockers spared: a replication connection';
COMMENT ON COLUMN pg_stat_lockguard.spared_background IS 'blockers spared: a background process';
COMMENT ON COLUMN pg_stat_lockguard.spared_superuser IS 'blockers spared: a superuser''s session';
COMMENT ON COLUMN pg_stat_lockguard.spared_protected IS 'blockers spared: pg_lockguard.protected is on';
COMMENT ON COLUMN pg_stat_lockguard.spared_role IS 'blockers spared by exempt_roles';
COMMENT ON COLUMN pg_stat_lockguard.spared_database IS 'blockers spared by exempt_databases';
COMMENT ON COLUMN pg_stat_lockguard.spared_application IS 'blockers spared by exempt_applications';
COMMENT ON COLUMN pg_stat_lockguard.spared_snapshot IS 'blockers spared: the transaction has exported or imported a snapshot';
COMMENT ON COLUMN pg_stat_lockguard.spared_stalled IS 'blockers spared: the session waits for its client in the middle of a statement';
COMMENT ON COLUMN pg_stat_lockguard.spared_committing IS 'blockers spared: the commit waits for synchronous standbys';
COMMENT ON COLUMN pg_stat_lockguard.spared_no_client IS 'blockers spared: a background process alone is blocked, and no client waits behind that';
COMMENT ON COLUMN pg_stat_lockguard.spared_changed IS 'blockers that had gone on, or released the lock, at the very moment of the signal';
COMMENT ON COLUMN pg_stat_lockguard.fuses_blown IS 'times that a fuse kept the worker from acting';
COMMENT ON COLUMN pg_stat_lockguard.stall_cancels IS 'statements cancelled by ddl_max_stall';
COMMENT ON COLUMN pg_stat_lockguard.stall_ended_waits IS 'waits for locks that turned up inside a statement, ended because others were kept waiting';
COMMENT ON COLUMN pg_stat_lockguard.stall_terminations IS 'sessions ended by ddl_max_stall, idle in the transaction, or waiting for their client';
COMMENT ON COLUMN pg_stat_lockguard.stall_spared IS 'such sessions that were left alone';
COMMENT ON COLUMN pg_stat_lockguard.looks IS 'looks of the worker';
COMMENT ON COLUMN pg_stat_lockguard.errors IS 'errors of the worker';
COMMENT ON COLUMN pg_stat_lockguard.events_lost IS 'events that were not recorded';
COMMENT ON COLUMN pg_stat_lockguard.waits_evicted IS 'rows of pg_stat_lockguard_waits that made room for others';
COMMENT ON COLUMN pg_stat_lockguard.stats_reset IS 'since when all of this is counted';

GRANT SELECT ON pg_stat_lockguard TO PUBLIC;

CREATE FUNCTION pg_stat_lockguard_reset()
RETURNS void
LANGUAGE C VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'pg_lockguard_statistics_reset';

COMMENT ON FUNCTION pg_stat_lockguard_reset() IS
    'sets the counters of pg_stat_lockguard back to zero, and empties pg_stat_lockguard_waits';

REVOKE ALL ON FUNCTION pg_stat_lockguard_reset() FROM PUBLIC;

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

COMMENT ON COLUMN pg_lockguard_now.sessions_waiting IS 'sessions that wait for a lock, in a queue or at low priority, or for a safe snapshot';
COMMENT ON COLUMN pg_lockguard_now.longest_wait IS 'the longest of these waits, in seconds';
COMMENT ON COLUMN pg_lockguard_now.roots IS 'those who keep others waiting and wait for nobody';
COMMENT ON COLUMN pg_lockguard_now.roots_idle_in_transaction IS 'of these, those that are idle in their transaction; null where the reader may not see the state of one';
COMMENT ON COLUMN pg_lockguard_now.worst_root_pid IS 'process id of the root with the most sessions behind it; 0 for a prepared transaction, null where nobody waits';
COMMENT ON COLUMN pg_lockguard_now.worst_root_application_name IS 'its application';
COMMENT ON COLUMN pg_lockguard_now.worst_root_sessions_behind IS 'sessions that wait behind it, directly or through others';
COMMENT ON COLUMN pg_lockguard_now.worst_root_age IS 'seconds since its transaction began, or was prepared, for whom pg_stat_activity shows that';
COMMENT ON COLUMN pg_lockguard_now.statements_at_low_priority IS 'statements that wait at low priority, or run after such a wait: rows of pg_lockguard_progress, but not those that do heavy work without having waited; null where the library is not preloaded';
COMMENT ON COLUMN pg_lockguard_now.sessions_on_cycle IS 'sessions that wait in a ring';

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

COMMENT ON COLUMN pg_lockguard_incidents.id IS 'counts from 1';
COMMENT ON COLUMN pg_lockguard_incidents.began IS 'when the first of those behind the root began to wait';
COMMENT ON COLUMN pg_lockguard_incidents.last_seen IS 'the latest look that saw somebody wait behind it';
COMMENT ON COLUMN pg_lockguard_incidents.ended IS 'the first look that did not; null while it is open';
COMMENT ON COLUMN pg_lockguard_incidents.root_pid IS 'process id of the root; 0 for a prepared transaction';
COMMENT ON COLUMN pg_lockguard_incidents.root_gid IS 'identifier of a prepared transaction';
COMMENT ON COLUMN pg_lockguard_incidents.root_datname IS 'the root''s database';
COMMENT ON COLUMN pg_lockguard_incidents.root_usename IS 'its role';
COMMENT ON COLUMN pg_lockguard_incidents.root_application_name IS 'its application';
COMMENT ON COLUMN pg_lockguard_incidents.root_backend_type IS 'its kind of process, for whom pg_stat_activity shows that';
COMMENT ON COLUMN pg_lockguard_incidents.root_state IS 'its state at the peak, likewise';
COMMENT ON COLUMN pg_lockguard_incidents.root_query IS 'its query at the peak, likewise; at most 511 bytes';
COMMENT ON COLUMN pg_lockguard_incidents.root_first_statement IS 'which of its statements touched the relation first, as far as track_statements keeps them';
COMMENT ON COLUMN pg_lockguard_incidents.root_statements IS 'the last statements of its transaction at the peak, as far as track_statements keeps them';
COMMENT ON COLUMN pg_lockguard_incidents.lock_type IS 'type of what the one that waited longest waited for, at the peak';
COMMENT ON COLUMN pg_lockguard_incidents.lock_object IS 'what that was: a name where it is of the viewer''s database, else OIDs';
COMMENT ON COLUMN pg_lockguard_incidents.mode_held IS 'what the root held of it';
COMMENT ON COLUMN pg_lockguard_incidents.mode_wanted IS 'what was wanted';
COMMENT ON COLUMN pg_lockguard_incidents.waiters IS 'sessions behind the root, directly or through others, at the peak';
COMMENT ON COLUMN pg_lockguard_incidents.sessions IS 'sessions that have waited behind it, each once';
COMMENT ON COLUMN pg_lockguard_incidents.time_waited IS 'all of their waits together';
COMMENT ON COLUMN pg_lockguard_incidents.longest_wait IS 'the longest of their waits';
COMMENT ON COLUMN pg_lockguard_incidents.how_ended IS 'released, waiters gave up, terminated, cancelled, deadlock, became part of, unknown; null while it is open';
COMMENT ON COLUMN pg_lockguard_incidents.part_of IS 'the other incident, where it became part of one';
COMMENT ON COLUMN pg_lockguard_incidents.lock_tree IS 'the tree at the peak';

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

COMMENT ON COLUMN pg_stat_lockguard_waits.datname IS 'database of the sessions that waited';
COMMENT ON COLUMN pg_stat_lockguard_waits.lock_type IS 'type of what they waited for, as in pg_locks';
COMMENT ON COLUMN pg_stat_lockguard_waits.relid IS 'the relation, where it is about one';
COMMENT ON COLUMN pg_stat_lockguard_waits.relation IS 'its name, where it is of the viewer''s database';
COMMENT ON COLUMN pg_stat_lockguard_waits.lock_mode IS 'the mode that they wanted';
COMMENT ON COLUMN pg_stat_lockguard_waits.blocker_usename IS 'role of those that they waited behind';
COMMENT ON COLUMN pg_stat_lockguard_waits.blocker_application_name IS 'their application; at most 61 bytes';
COMMENT ON COLUMN pg_stat_lockguard_waits.waits IS 'waits that were seen';
COMMENT ON COLUMN pg_stat_lockguard_waits.wait_time IS 'how long they waited in all, in milliseconds, as sampled by the worker';
COMMENT ON COLUMN pg_stat_lockguard_waits.max_wait_time IS 'the longest wait, in milliseconds, as far as it was seen';
COMMENT ON COLUMN pg_stat_lockguard_waits.stats_reset IS 'since when all of this is counted';

GRANT SELECT ON pg_lockguard_incidents, pg_stat_lockguard_waits TO PUBLIC;

-- Somebody else may decide for a statement that waits.
CREATE FUNCTION pg_lockguard_decide(pid int4, what text)
RETURNS bool
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'pg_lockguard_decide';

COMMENT ON FUNCTION pg_lockguard_decide(int4, text) IS
    'decides for a guarded statement that waits at low priority: give up, queue, terminate; returns whether it was heard';

-- ---- What a DDL statement would do
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
