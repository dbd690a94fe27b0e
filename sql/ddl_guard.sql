-- The DDL guard, as far as one session can see it; who is in the way: test/tap/guard_culprits.pl.
LOAD 'pg_lockguard';
SET pg_lockguard.ddl_mode = lock_timeout;
SET pg_lockguard.ddl_lock_timeout = '2s';
SET pg_lockguard.ddl_commands = 'ALTER TABLE';
SELECT name, vartype, unit, context, boot_val, enumvals FROM pg_settings
WHERE name LIKE 'pg\_lockguard.ddl%' ORDER BY name COLLATE "C";

-- What lock_timeout is while a statement runs
CREATE TABLE guarded (id int);
INSERT INTO guarded VALUES (1);
CREATE FUNCTION probe(int) RETURNS int VOLATILE LANGUAGE plpgsql AS $$
BEGIN
    RAISE NOTICE 'lock_timeout is %', current_setting('lock_timeout');
    RETURN $1;
END $$;
SET lock_timeout = 0;
ALTER TABLE guarded ALTER id TYPE int USING probe(id);
SHOW lock_timeout;
SET lock_timeout = '1min';
ALTER TABLE guarded ALTER id TYPE int USING probe(id);
SHOW lock_timeout;
-- a stricter one of the session wins
SET lock_timeout = '1s';
ALTER TABLE guarded ALTER id TYPE int USING probe(id);
SHOW lock_timeout;
SET lock_timeout = '1min';
SET pg_lockguard.ddl_mode = off;
ALTER TABLE guarded ALTER id TYPE int USING probe(id);
SET pg_lockguard.ddl_mode = lock_timeout;

-- Restored after errors, in subtransactions and around functions
ALTER TABLE guarded ALTER id TYPE int USING probe(id) / 0;
SHOW lock_timeout;
BEGIN;
SET LOCAL lock_timeout = '2min';
SAVEPOINT s;
ALTER TABLE guarded ALTER id TYPE int USING probe(id) / 0;
ROLLBACK TO s;
SHOW lock_timeout;
ALTER TABLE guarded ALTER id TYPE int USING probe(id);
SHOW lock_timeout;
COMMIT;
SHOW lock_timeout;
DO $$
BEGIN
    BEGIN
        ALTER TABLE guarded ALTER id TYPE int USING probe(id) / 0;
    EXCEPTION WHEN division_by_zero THEN
        RAISE NOTICE 'caught: lock_timeout is %', current_setting('lock_timeout');
    END;
    ALTER TABLE guarded ALTER id TYPE int USING probe(id);
    RAISE NOTICE 'after: lock_timeout is %', current_setting('lock_timeout');
END $$;

-- Nested: ALTER TABLE in a function that ALTER TABLE calls
CREATE TABLE inner_guarded AS SELECT 1 AS id;
CREATE FUNCTION alter_inside(int) RETURNS int VOLATILE LANGUAGE plpgsql AS $$
BEGIN
    ALTER TABLE inner_guarded ALTER id TYPE int USING probe(id);
    RAISE NOTICE 'between: lock_timeout is %', current_setting('lock_timeout');
    RETURN $1;
END $$;
ALTER TABLE guarded ALTER id TYPE int USING alter_inside(id);
SHOW lock_timeout;

-- Which commands
SET pg_lockguard.ddl_commands = ' alter index,Drop Table ';
ALTER TABLE guarded ALTER id TYPE int USING probe(id);
SET pg_lockguard.ddl_commands = '';
ALTER TABLE guarded ALTER id TYPE int USING probe(id);
SET pg_lockguard.ddl_commands = 'ALTER TABLE,DROP TABLE';
ALTER TABLE guarded ALTER id TYPE int USING probe(id);
SET pg_lockguard.ddl_commands = 'ALTER TABLE, VACUUM';
SET pg_lockguard.ddl_commands = 'ALTER TABLE,,DROP TABLE';
SET pg_lockguard.ddl_commands = 'ALTER TABEL';
SET pg_lockguard.ddl_mode = polite;
\set VERBOSITY sqlstate
SET pg_lockguard.ddl_lock_timeout = 0; -- worded differently from 17 on
SET pg_lockguard.ddl_commands = 'ALTER TABLE,';
SET pg_lockguard.ddl_commands = ',';
\set VERBOSITY default

-- Not for everybody
CREATE ROLE regress_lockguard_weak;
SET ROLE regress_lockguard_weak;
SET pg_lockguard.ddl_mode = off;
SET pg_lockguard.ddl_commands = '';
SET pg_lockguard.ddl_lock_timeout = '1h';
RESET ROLE;
DROP ROLE regress_lockguard_weak;

-- Statements that commit on their way are left alone
SET pg_lockguard.ddl_commands = 'ALTER TABLE, CREATE INDEX, DROP INDEX, REINDEX, CLUSTER';
CREATE INDEX CONCURRENTLY guarded_id ON guarded (id);
REINDEX TABLE CONCURRENTLY guarded;
REINDEX TABLE guarded;
DROP INDEX CONCURRENTLY guarded_id;
CREATE TABLE parted (id int) PARTITION BY RANGE (id);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (10);
CREATE INDEX parted_id ON parted (id);
REINDEX TABLE parted;
ALTER TABLE parted DETACH PARTITION parted_1 CONCURRENTLY;
REINDEX TABLE missing;
CLUSTER missing;
SHOW lock_timeout;

DROP TABLE guarded, inner_guarded, parted, parted_1;
DROP FUNCTION probe, alter_inside;
