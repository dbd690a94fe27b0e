-- What every picture of lock_tree() must fulfil, as functions that return one line for each fault.
-- The tests load this file into a database in which pg_lockguard is created.

-- Which modes conflict: "Table-Level Locks" in PostgreSQL's manual.
CREATE TABLE mode_strength (mode text PRIMARY KEY, strength int);
INSERT INTO mode_strength VALUES
	('AccessShareLock', 1), ('RowShareLock', 2), ('RowExclusiveLock', 3),
	('ShareUpdateExclusiveLock', 4), ('ShareLock', 5), ('ShareRowExclusiveLock', 6),
	('ExclusiveLock', 7), ('AccessExclusiveLock', 8);
CREATE TABLE mode_conflict (wanted text, held text, PRIMARY KEY (wanted, held));
INSERT INTO mode_conflict
	SELECT w.mode, h.mode
	FROM (VALUES (1, '{8}'::int[]), (2, '{7,8}'), (3, '{5,6,7,8}'), (4, '{4,5,6,7,8}'),
			(5, '{3,4,6,7,8}'), (6, '{3,4,5,6,7,8}'), (7, '{2,3,4,5,6,7,8}'), (8, '{1,2,3,4,5,6,7,8}'))
			c (wanted, held)
		JOIN mode_strength w ON w.strength = c.wanted
		JOIN mode_strength h ON h.strength = ANY (c.held);

-- The drawing that belongs to rows of these depths and pids, down to 20 levels.
CREATE FUNCTION drawn(depths int[], pids int[]) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
	result text[] := '{}';
	line text;
	more boolean;
	n int := coalesce(cardinality(depths), 0);
	k int;
BEGIN
	FOR i IN 1 .. n LOOP
		line := '';
		FOR level IN 1 .. depths[i] LOOP
			-- Has the row at this level, at or above row i, another sibling below?
			more := false;
			k := i + 1;
			WHILE k <= n AND depths[k] >= level LOOP
				IF depths[k] = level THEN
					more := true;
					EXIT;
				END IF;
				k := k + 1;
			END LOOP;
			line := line || CASE
				WHEN level < depths[i] THEN CASE WHEN more THEN '│  ' ELSE '   ' END
				ELSE CASE WHEN more THEN '├─ ' ELSE '└─ ' END END;
		END LOOP;
		result := result || (line || pids[i]);
	END LOOP;
	RETURN result;
END $$;

-- What must hold at any moment, whatever moves meanwhile: the rows of one picture agree.
CREATE FUNCTION contradictions() RETURNS SETOF text LANGUAGE sql AS $$
	WITH t AS MATERIALIZED (
		SELECT row_number() OVER () AS n, count(*) OVER () AS total, * FROM lock_tree()
	), s AS (
		SELECT *, lag(path) OVER (ORDER BY n) AS path_above, path[depth] AS parent,
			coalesce((SELECT min(u.n) FROM t u WHERE u.n > t.n AND u.depth <= t.depth), total + 1)
				- n - 1 AS rows_below
		FROM t
	), fault (fault, n) AS (
		SELECT 'a pid twice', n FROM (SELECT n, pid, count(*) OVER (PARTITION BY pid) AS times FROM t) d
			WHERE pid <> 0 AND times > 1
		UNION ALL SELECT 'a column that is never null is', n FROM s
			WHERE num_nulls(tree, pid, depth, root_pid, path, blocked_by, held_by, blocks, deadlock) > 0
		UNION ALL SELECT 'a blocker without a row', n FROM s
			WHERE NOT blocked_by <@ (SELECT array_agg(pid) FROM t)
		UNION ALL SELECT 'blocked by itself', n FROM s WHERE pid = ANY (blocked_by)
		UNION ALL SELECT 'held_by has more than blocked_by', n FROM s
			WHERE NOT held_by <@ blocked_by OR cardinality(held_by) > cardinality(blocked_by)
		UNION ALL SELECT 'neither waits nor blocks', n FROM s WHERE blocked_by = '{}' AND blocks = 0
		UNION ALL SELECT 'a root that is blocked, off a cycle', n FROM s
			WHERE depth = 0 AND blocked_by <> '{}' AND NOT deadlock
		UNION ALL SELECT 'not a root, though not blocked', n FROM s WHERE depth > 0 AND blocked_by = '{}'
		UNION ALL SELECT 'under somebody who does not block it', n FROM s
			WHERE depth > 0 AND (parent = ANY (blocked_by)) IS NOT TRUE
		UNION ALL SELECT 'path and depth differ', n FROM s WHERE cardinality(path) <> depth + 1
		UNION ALL SELECT 'path and pid differ', n FROM s WHERE path[depth + 1] IS DISTINCT FROM pid
		UNION ALL SELECT 'path and root_pid differ', n FROM s WHERE path[1] IS DISTINCT FROM root_pid
		UNION ALL SELECT 'out of order', n FROM s
			WHERE depth > 0 AND path[1:depth] IS DISTINCT FROM path_above[1:depth]
		UNION ALL SELECT 'fewer blocked than drawn below', n FROM s WHERE blocks < rows_below
		UNION ALL SELECT 'more blocked than there are', n FROM s WHERE blocks > total - 1
		UNION ALL SELECT 'not under the deepest blocker', n FROM s
			WHERE NOT deadlock AND depth
				IS DISTINCT FROM coalesce((SELECT max(u.depth) + 1 FROM t u WHERE u.pid = ANY (s.blocked_by)), 0)
		UNION ALL SELECT 'a wait without its columns', n FROM s
			WHERE blocked_by <> '{}' AND lock_type <> 'safesnapshot'
				AND num_nulls(lock_type, lock_object, lock_mode, wait_age) > 0
		UNION ALL SELECT 'a wait without a type', n FROM s WHERE blocked_by <> '{}' AND lock_type IS NULL
		UNION ALL SELECT 'a wait for a safe snapshot', n FROM s
			WHERE lock_type = 'safesnapshot' AND (lock_object IS DISTINCT FROM 'safe snapshot'
				OR num_nonnulls(lock_mode, blocker_mode, database, relation) > 0)
		UNION ALL SELECT 'no wait, but its columns', n FROM s
			WHERE blocked_by = '{}'
				AND num_nonnulls(lock_type, lock_object, lock_mode, wait_age, database, relation) > 0
		UNION ALL SELECT 'blocker_mode', n FROM s
			WHERE (blocker_mode IS NULL) <> (depth = 0) AND lock_type IS DISTINCT FROM 'safesnapshot'
		UNION ALL SELECT 'a negative age', n FROM s
			WHERE least(wait_age, xact_age, state_age) < interval '0'
		UNION ALL SELECT 'a prepared transaction with a pid, or a session without', n FROM s
			WHERE pid = 0 AND num_nonnulls(state, state_age, query, application_name, client_addr,
					backend_type, wait_event_type, wait_event) > 0
				OR pid <> 0 AND gid IS NOT NULL
		UNION ALL SELECT 'the drawing', min(n) FROM t
			HAVING max(depth) <= 20
				AND array_agg(tree ORDER BY n)
					<> drawn(array_agg(depth ORDER BY n), array_agg(pid ORDER BY n))
	)
	SELECT format('%s: row %s: %s', fault, n, s) FROM fault JOIN s USING (n)
$$;

-- What must hold while nothing moves: the picture is what pg_locks, pg_stat_activity and
-- pg_blocking_pids() say. For a reader who may see everything.
CREATE FUNCTION falsehoods() RETURNS SETOF text LANGUAGE sql AS $$
	WITH RECURSIVE t AS MATERIALIZED (
		SELECT row_number() OVER () AS n, count(*) OVER () AS total,
			* FROM lock_tree()
	), a AS MATERIALIZED (
		SELECT coalesce(leader_pid, pid) AS leader, * FROM pg_stat_activity
	), l AS MATERIALIZED (
		SELECT coalesce(a.leader, l.pid, 0) AS leader,
			(l.locktype, l.database, l.relation, l.page, l.tuple, l.virtualxid, l.transactionid,
				l.classid, l.objid, l.objsubid)::text AS tag, l.*
		FROM pg_locks l LEFT JOIN a ON a.pid = l.pid
	), safe AS MATERIALIZED (
		SELECT pid, pg_safe_snapshot_blocking_pids(pid) AS blockers
		FROM a WHERE wait_event = 'SafeSnapshot'
	), waiter AS (
		SELECT leader AS pid FROM l WHERE NOT granted
		UNION SELECT pid FROM safe WHERE blockers <> '{}'
	), edge AS (
		SELECT DISTINCT pid AS waiter, unnest(blocked_by) AS blocker FROM t
	), reach (blocker, waiter) AS (
		SELECT blocker, waiter FROM edge
		UNION SELECT r.blocker, e.waiter FROM reach r JOIN edge e ON e.blocker = r.waiter
	), holder AS (
		SELECT w.leader AS waiter, h.leader AS pid, max(c.strength) AS strength
		FROM l w JOIN l h ON h.tag = w.tag AND h.granted AND h.leader <> w.leader
			JOIN mode_conflict m ON m.wanted = w.mode AND m.held = h.mode
			JOIN mode_strength c ON c.mode = h.mode
		WHERE NOT w.granted
		GROUP BY 1, 2
	), s AS (
		SELECT t.*, path[depth] AS parent,
			(SELECT max(u.n) FROM t u WHERE u.n < t.n AND u.depth = t.depth - 1) AS parent_row,
			(SELECT count(*) FROM l WHERE NOT granted AND leader = t.pid) AS waits,
			coalesce(a.xact_start, p.prepared) AS xact_start,
			coalesce((SELECT min(u.n) FROM t u WHERE u.n > t.n AND u.depth <= t.depth), total + 1)
				- n - 1 AS rows_below
		FROM t LEFT JOIN a ON a.pid = t.pid LEFT JOIN pg_prepared_xacts p USING (gid)
	), fault (fault, n) AS (
		SELECT 'blocked_by is not pg_blocking_pids()', n FROM s
			WHERE s.waits > 0 AND backend_type IS DISTINCT FROM 'startup'
				AND (SELECT array_agg(DISTINCT p ORDER BY p) FROM unnest(blocked_by) p)
				IS DISTINCT FROM (SELECT array_agg(DISTINCT p ORDER BY p) FROM unnest(pg_blocking_pids(s.pid)) p)
		UNION ALL SELECT 'blocked_by of a safe-snapshot wait', n FROM s JOIN safe ON safe.pid = s.pid
			WHERE NOT (blockers <@ blocked_by AND blocked_by <@ blockers)
				OR lock_type IS DISTINCT FROM 'safesnapshot' OR held_by <> blocked_by
		UNION ALL SELECT 'held_by', n FROM s
			WHERE s.waits > 0
				AND (SELECT array_agg(DISTINCT p ORDER BY p) FROM unnest(held_by) p)
				IS DISTINCT FROM (SELECT array_agg(h.pid ORDER BY h.pid) FROM holder h WHERE h.waiter = s.pid)
		UNION ALL SELECT 'not a waiter', n FROM s
			WHERE blocked_by <> '{}' AND pid NOT IN (SELECT pid FROM waiter)
		UNION ALL SELECT 'the wait', n
			FROM s JOIN l ON l.leader = s.pid AND NOT l.granted
			WHERE s.waits = 1
				-- Up to 15, pg_locks shows a speculative token's transaction as its database.
				AND (s.lock_type, s.lock_mode, s.database, s.relation) IS DISTINCT FROM (l.locktype, l.mode,
					CASE WHEN l.locktype <> 'spectoken' THEN l.database END, l.relation)
		UNION ALL SELECT 'wait_age', n
			FROM s JOIN l ON l.leader = s.pid AND NOT l.granted
			WHERE s.waits = 1
				AND (s.wait_age BETWEEN statement_timestamp() - l.waitstart - interval '1 ms'
					AND clock_timestamp() - l.waitstart) IS NOT TRUE
		UNION ALL SELECT 'lock_object', n
			FROM s JOIN l ON l.leader = s.pid AND NOT l.granted
				LEFT JOIN pg_class c ON c.oid = l.relation
					AND l.database IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
				LEFT JOIN pg_namespace ns ON ns.oid = c.relnamespace
				CROSS JOIN LATERAL (SELECT CASE WHEN ns.oid IS NOT NULL
					THEN format('%I.%I', ns.nspname, c.relname)
					ELSE format('relation %s of database %s', l.relation, l.database) END AS rel) r
			WHERE s.waits = 1 AND s.lock_object IS DISTINCT FROM CASE l.locktype
				WHEN 'relation' THEN rel
				WHEN 'extend' THEN 'extension of ' || rel
				WHEN 'page' THEN format('page %s of %s', l.page, rel)
				WHEN 'tuple' THEN format('tuple (%s,%s) of %s', l.page, l.tuple, rel)
				WHEN 'transactionid' THEN 'transaction ' || l.transactionid
				WHEN 'virtualxid' THEN 'virtual transaction ' || l.virtualxid
				WHEN 'spectoken' THEN CASE WHEN l.transactionid IS NULL
					THEN format('speculative token %s of transaction %s', l.classid, l.database)
					ELSE format('speculative token %s of transaction %s', l.objid, l.transactionid) END
				ELSE s.lock_object END
		UNION ALL SELECT 'blocker_mode', n
			FROM s LEFT JOIN l ON l.leader = s.pid AND NOT l.granted
				LEFT JOIN holder h ON h.waiter = s.pid AND h.pid = s.parent
				LEFT JOIN mode_strength m ON m.strength = h.strength
				LEFT JOIN l p ON p.leader = s.parent AND NOT p.granted
			WHERE s.waits = 1 AND s.depth > 0
				AND (s.parent <> 0 OR (SELECT count(*) FROM t WHERE pid = 0) = 1)
				AND s.blocker_mode IS DISTINCT FROM coalesce(m.mode, p.mode)
		UNION ALL SELECT 'not as in pg_stat_activity', n FROM s JOIN a ON a.pid = s.pid
			WHERE (s.state, s.wait_event_type, s.wait_event, s.datname, s.usename, s.application_name,
					s.client_addr, s.backend_type, s.query)
				IS DISTINCT FROM (a.state, a.wait_event_type, a.wait_event, a.datname, a.usename,
					a.application_name, a.client_addr, a.backend_type, a.query)
		UNION ALL SELECT 'no such session', n FROM s
			WHERE pid <> 0 AND pid NOT IN (SELECT pid FROM a WHERE leader = pid)
		UNION ALL SELECT 'xact_age', n FROM s JOIN a ON a.pid = s.pid
			WHERE (s.xact_age IS NULL) <> (a.xact_start IS NULL)
				OR (s.xact_age BETWEEN statement_timestamp() - a.xact_start - interval '1 ms'
					AND clock_timestamp() - a.xact_start) IS FALSE
		UNION ALL SELECT 'state_age', n FROM s JOIN a ON a.pid = s.pid
			WHERE (s.state_age IS NULL) <> (a.state_change IS NULL)
				OR (s.state_age BETWEEN statement_timestamp() - a.state_change - interval '1 ms'
					AND clock_timestamp() - a.state_change) IS FALSE
		UNION ALL SELECT 'prepared transaction', n FROM s LEFT JOIN pg_prepared_xacts p ON p.gid = s.gid
			-- Of one that only a wait for a safe snapshot knows, nothing is known but that it is there.
			WHERE s.pid = 0 AND (s.gid IS NOT NULL OR s.pid IN (SELECT h.pid FROM holder h))
				AND (p.gid IS NULL
					OR (s.xact_age BETWEEN statement_timestamp() - p.prepared - interval '1 ms'
						AND clock_timestamp() - p.prepared) IS NOT TRUE
					OR s.datname IS DISTINCT FROM p.database OR s.usename IS DISTINCT FROM p.owner)
		UNION ALL SELECT 'a prepared transaction twice', n
			FROM (SELECT n, gid, count(*) OVER (PARTITION BY gid) AS times FROM t) d
			WHERE gid IS NOT NULL AND times > 1
		UNION ALL SELECT 'blocks', n FROM s
			WHERE (pid <> 0 OR (SELECT count(*) FROM t WHERE pid = 0) = 1)
				AND blocks <> (SELECT count(*) FROM reach r WHERE r.blocker = s.pid AND r.waiter <> s.pid)
		UNION ALL SELECT 'deadlock', n FROM s
			WHERE deadlock <> EXISTS (SELECT FROM reach r WHERE r.blocker = s.pid AND r.waiter = s.pid)
		UNION ALL SELECT 'not under the blocker that frees it last', n FROM s
			WHERE depth > 0 AND NOT deadlock
				AND (0 <> ALL (blocked_by) OR (SELECT count(*) FROM t WHERE pid = 0) = 1)
				AND parent IS DISTINCT FROM (SELECT u.pid FROM s u WHERE u.pid = ANY (s.blocked_by)
					ORDER BY u.depth DESC, u.xact_start NULLS LAST, u.pid LIMIT 1)
		UNION ALL SELECT 'the order of siblings', n
			FROM (SELECT n,
					row_number() OVER (PARTITION BY parent_row ORDER BY n) AS place,
					row_number() OVER (PARTITION BY parent_row
						ORDER BY rows_below DESC, xact_start NULLS LAST, pid) AS due
				FROM s) d
			WHERE place <> due
	)
	SELECT format('%s: row %s: %s', fault, n, s) FROM fault JOIN s USING (n)
	UNION ALL SELECT 'a waiter is missing: ' || pid FROM waiter WHERE pid NOT IN (SELECT pid FROM t)
	UNION ALL SELECT contradictions()
$$;
