-- lock_tree(), as far as one session can show it: what it is declared as, that it is empty where
-- nothing waits, and the ways of calling it. The rest needs several sessions: test/isolation and
-- test/tap.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pg_lockguard;
RESET client_min_messages;

SELECT ordinality AS n, name, format_type(type, NULL) AS type
  FROM pg_proc, unnest(proargnames, proallargtypes) WITH ORDINALITY AS c (name, type, ordinality)
  WHERE oid = 'lock_tree'::regproc ORDER BY 1;
SELECT proretset, provolatile, proparallel, proisstrict, prosecdef, pronargs FROM pg_proc
  WHERE oid = 'lock_tree'::regproc;
-- Everybody may call it.
SELECT has_function_privilege('pg_read_all_stats', 'lock_tree()', 'execute') AS may_call,
    proacl IS NULL AS as_public
  FROM pg_proc WHERE oid = 'lock_tree'::regproc;

-- Restricted to this database: another's sessions may be waiting meanwhile.
CREATE VIEW here AS SELECT * FROM lock_tree() WHERE datname = current_database();
SELECT * FROM here;
SELECT count(*) FROM here;

-- Locks that nobody waits for are no business of it.
BEGIN;
CREATE TABLE held (id int);
LOCK TABLE held;
SELECT pg_advisory_xact_lock(4711);
SELECT count(*) FROM here;
SAVEPOINT s;
SELECT count(*) FROM here;
ROLLBACK TO s;
SELECT count(*) FROM here;
COMMIT;

BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY;
SELECT count(*) FROM here;
COMMIT;

BEGIN;
DECLARE c SCROLL CURSOR FOR SELECT * FROM here;
FETCH ALL FROM c;
FETCH BACKWARD ALL FROM c;
COMMIT;

PREPARE look AS SELECT count(*) FROM here;
EXECUTE look;
EXECUTE look;
SELECT count(*) FROM here a FULL JOIN here b USING (pid);
SELECT count(*) FROM generate_series(1, 3) g LEFT JOIN LATERAL (SELECT * FROM here WHERE g > 0) t ON false;
SELECT count(*) FROM (SELECT (lock_tree()).datname) t WHERE datname = current_database();

CREATE FUNCTION count_here() RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
  RETURN (SELECT count(*) FROM here);
END $$;
SELECT count_here();
DO $$
DECLARE
  r record;
BEGIN
  FOR r IN SELECT * FROM here LOOP
    RAISE NOTICE '%', r;
  END LOOP;
END $$;

-- The extension can be moved, and what uses it follows.
CREATE SCHEMA elsewhere;
ALTER EXTENSION pg_lockguard SET SCHEMA elsewhere;
SELECT count(*) FROM here;
SELECT count(*) FROM elsewhere.lock_tree() WHERE datname = current_database();
\set VERBOSITY sqlstate
SELECT count(*) FROM lock_tree();
\set VERBOSITY default
DROP FUNCTION count_here();
DROP VIEW here;
DROP EXTENSION pg_lockguard;
CREATE EXTENSION pg_lockguard SCHEMA elsewhere;
SELECT count(*) FROM elsewhere.lock_tree() WHERE datname = current_database();

DROP SCHEMA elsewhere CASCADE;
DROP TABLE held;
