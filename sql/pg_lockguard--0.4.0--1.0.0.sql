-- complain if this script is run by psql instead of ALTER EXTENSION
\echo Use "ALTER EXTENSION pg_lockguard UPDATE" to load this file. \quit

-- The objects of 1.0.0 are those of 0.4.0. What was said of some of them was not all, or not clear.

COMMENT ON FUNCTION pg_stat_lockguard_reset() IS
    'sets the counters of pg_stat_lockguard back to zero, and empties pg_stat_lockguard_waits';

COMMENT ON COLUMN pg_lockguard_now.statements_at_low_priority IS 'statements that wait at low priority, or run after such a wait: rows of pg_lockguard_progress, but not those that do heavy work without having waited; null where the library is not preloaded';

COMMENT ON VIEW pg_lockguard_progress IS
    'the guarded statements that wait at low priority, with those whom they wait for, and those that do heavy work';

COMMENT ON COLUMN pg_stat_lockguard.deadlocks IS 'deadlocks of statements at low priority';

COMMENT ON COLUMN pg_stat_lockguard.stall_terminations IS 'sessions ended by ddl_max_stall, idle in the transaction, or waiting for their client';
