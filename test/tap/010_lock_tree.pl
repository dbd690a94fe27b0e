# lock_tree(): every kind of wait, every column and rule, and every way of calling it. The server
# does not preload the library.
#
# tree() gives the picture with names instead of pids, as in the text of each test; faults() checks
# the same picture, column by column, against pg_locks, pg_stat_activity and pg_blocking_pids().
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use LockGuard;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node('tree', 'max_connections = 150');
my $observer = LockGuard::observer($node);

my @wait = qw(lock_type lock_object lock_mode blocker_mode);
my @edges = qw(blocked_by held_by blocks);

# The picture, and nothing to object to.
sub shows
{
	my ($what, $columns, $expected) = @_;
	is(tree($node, @$columns), $expected, $what);
	is(LockGuard::faults($node), '', "$what: true");
	return;
}

# New sessions with these names.
sub sessions { return map { session($node, $_) } @_; }

# Until the session waits for this advisory lock of two keys.
sub await_advisory
{
	my ($session, $classid, $objid) = @_;
	await($node, $session->name . " waits for advisory lock ($classid, $objid)",
		q{SELECT EXISTS (SELECT FROM pg_locks WHERE pid = ? AND NOT granted AND locktype = 'advisory'
			AND classid = ? AND objid = ?)}, $session->pid, $classid, $objid);
	return;
}

$observer->do(q{
	CREATE TABLE users (id int PRIMARY KEY, n int DEFAULT 0);
	INSERT INTO users SELECT generate_series(1, 50);
	CREATE TABLE t1 (id int);
	CREATE TABLE t2 (id int);
	CREATE TABLE t3 (id int);
	CREATE SCHEMA "Odd Schema";
	CREATE TABLE "Odd Schema"."Odd ""Table" (id int);
});
$observer->do('CREATE DATABASE other');
$observer->do(q{CREATE DATABASE latin1 ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0});
$node->safe_psql('latin1', 'CREATE EXTENSION pg_lockguard');

is($observer->value('SHOW shared_preload_libraries'), '', 'the library is not preloaded');
is($observer->value('SELECT count(*) FROM lock_tree()'), '0', 'nothing waits: no row');

# ---------------------------------------------------------------------------------------------
# Kinds of waits

{
	my ($reader, $alter, $second, $third) = sessions(qw(reader alter second third));
	$reader->do('BEGIN; SELECT FROM users');
	is($observer->value('SELECT count(*) FROM lock_tree()'), '0', 'a lock alone: no row');
	settle($node, $alter->send('ALTER TABLE users ADD COLUMN m int'));
	settle($node, $alter, $second->send('SELECT FROM users'));
	settle($node, $alter, $second, $third->send('INSERT INTO users VALUES (0)'));
	shows('a reader, an ALTER TABLE, and those behind it', [ @edges, @wait ], <<~EOT);
		reader | - | - | 3 | - | - | - | -
		└─ alter | reader | reader | 2 | relation | public.users | AccessExclusiveLock | AccessShareLock
		   ├─ second | alter | - | 0 | relation | public.users | AccessShareLock | AccessExclusiveLock
		   └─ third | alter | - | 0 | relation | public.users | RowExclusiveLock | AccessExclusiveLock
		EOT
	is( $node->safe_psql('latin1',
			q{SELECT regexp_replace(tree, '\d+', 'pid') FROM lock_tree()}),
		"pid\n`- pid\n   |- pid\n   `- pid",
		'drawn in ASCII where the encoding of the database has no other strokes');
	is(tree($node, qw(depth root_pid path state wait_event_type wait_event query deadlock)), <<~EOT,
		reader | 0 | reader | reader | idle in transaction | Client | ClientRead | BEGIN; SELECT FROM users | 0
		└─ alter | 1 | reader | reader>alter | active | Lock | relation | ALTER TABLE users ADD COLUMN m int | 0
		   ├─ second | 2 | reader | reader>alter>second | active | Lock | relation | SELECT FROM users | 0
		   └─ third | 2 | reader | reader>alter>third | active | Lock | relation | INSERT INTO users VALUES (0) | 0
		EOT
		'place, state and query');
	is(tree($node, qw(datname application_name client_addr backend_type gid)), <<~EOT, 'who it is');
		reader | postgres | reader | - | client backend | -
		└─ alter | postgres | alter | - | client backend | -
		   ├─ second | postgres | second | - | client backend | -
		   └─ third | postgres | third | - | client backend | -
		EOT
	$reader->do('COMMIT');
	is_deeply([ await_end($alter, $second, $third) ], [ undef, undef, undef ], 'they all go');
	is($observer->value('SELECT count(*) FROM lock_tree()'), '0', 'and the tree is empty');
	forget_sessions();
}

{
	my ($a, $b, $c, $d) = sessions(qw(a b c d));
	$a->do('BEGIN; UPDATE users SET n = 1 WHERE id = 1');
	$b->do('BEGIN; UPDATE users SET n = 1 WHERE id = 2');
	$c->do('BEGIN; UPDATE users SET n = 1 WHERE id = 3');
	settle($node, $d->send('UPDATE users SET n = 1 WHERE id = 3'));
	settle($node, $c->send('UPDATE users SET n = 1 WHERE id = 2'));
	settle($node, $b->send('UPDATE users SET n = 1 WHERE id = 1'), $c, $d);
	shows('a chain of row locks', [ @edges, @wait ], <<~EOT);
		a | - | - | 3 | - | - | - | -
		└─ b | a | a | 2 | transactionid | transaction N | ShareLock | ExclusiveLock
		   └─ c | b | b | 1 | transactionid | transaction N | ShareLock | ExclusiveLock
		      └─ d | c | c | 0 | transactionid | transaction N | ShareLock | ExclusiveLock
		EOT
	forget_sessions();
}

{
	my ($holder, $first, $second, $third) = sessions(qw(holder first second third));
	$holder->do('BEGIN; UPDATE users SET n = 2 WHERE id = 1');
	for my $waiter ($first, $second, $third)
	{
		settle($node, $waiter->send('UPDATE users SET n = 3 WHERE id = 1'));
	}
	my $tuple = $observer->value(q{SELECT format('tuple (%s,%s) of public.users', page, tuple)
		FROM pg_locks WHERE locktype = 'tuple' LIMIT 1});
	shows('the queue of a tuple', [ @edges, @wait ], <<~EOT);
		holder | - | - | 3 | - | - | - | -
		└─ first | holder | holder | 2 | transactionid | transaction N | ShareLock | ExclusiveLock
		   └─ second | first | first | 1 | tuple | $tuple | ExclusiveLock | ExclusiveLock
		      └─ third | first,second | first | 0 | tuple | $tuple | ExclusiveLock | ExclusiveLock
		EOT
	forget_sessions();
}

{
	my ($old, $writer, $index, $drop) = sessions(qw(old writer index drop));
	$old->do('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM t3');
	$writer->do('BEGIN; INSERT INTO t1 VALUES (1)');
	settle($node, $index->send('CREATE INDEX CONCURRENTLY t1_id ON t1 (id)'));
	shows('CREATE INDEX CONCURRENTLY behind a writer', [ @edges, @wait ], <<~EOT);
		writer | - | - | 1 | - | - | - | -
		└─ index | writer | writer | 0 | virtualxid | virtual transaction N | ShareLock | ExclusiveLock
		EOT
	$writer->do('COMMIT');
	await($node, 'CREATE INDEX waits for the old snapshot', q{SELECT EXISTS (
		SELECT FROM pg_locks w JOIN pg_locks h USING (virtualxid)
		WHERE NOT w.granted AND h.granted AND h.pid = ?)}, $old->pid);
	settle($node, $index, $drop->send('DROP TABLE t1'));
	shows('CREATE INDEX CONCURRENTLY behind an old snapshot', [ @edges, @wait ], <<~EOT);
		old | - | - | 2 | - | - | - | -
		└─ index | old | old | 1 | virtualxid | virtual transaction N | ShareLock | ExclusiveLock
		   └─ drop | index | index | 0 | relation | public.t1 | AccessExclusiveLock | ShareUpdateExclusiveLock
		EOT
	forget_sessions();
	$observer->do('DROP TABLE t1; CREATE TABLE t1 (id int)');
}

{
	my ($create, $drop, $again) = sessions(qw(create drop again));
	$observer->do('CREATE SCHEMA s; CREATE ROLE r');
	$create->do('BEGIN; CREATE TABLE s.new (id int)');
	settle($node, $drop->send('DROP SCHEMA s'));
	settle($node, $drop, $again->send('CREATE TABLE s.newer (id int)'));
	shows('objects: a schema', [ @edges, @wait ], <<~EOT);
		create | - | - | 2 | - | - | - | -
		└─ drop | create | create | 1 | object | schema s | AccessExclusiveLock | AccessShareLock
		   └─ again | drop | - | 0 | object | schema s | AccessShareLock | AccessExclusiveLock
		EOT
	is( $observer->value(q{SELECT bool_and(database = (SELECT oid FROM pg_database WHERE datname = 'postgres')
			AND relation IS NULL) FROM lock_tree() WHERE depth > 0}),
		1, 'an object has a database and no relation');
	forget_sessions();

	my $role = $observer->value(q{SELECT oid FROM pg_roles WHERE rolname = 'r'});
	my ($drop_role, $grant) = sessions(qw(drop_role grant));
	$drop_role->do('BEGIN; DROP ROLE r');
	settle($node, $grant->send('GRANT SELECT ON users TO r'));
	shows('objects: a role', [ @edges, @wait ], <<~EOT);
		drop_role | - | - | 1 | - | - | - | -
		└─ grant | drop_role | drop_role | 0 | object | object $role of pg_authid | AccessShareLock | AccessExclusiveLock
		EOT
	is($observer->value('SELECT database FROM lock_tree() WHERE depth > 0'), 0, 'a shared object: database 0');
	forget_sessions();

	my ($comment, $rename) = sessions(qw(comment rename));
	$comment->do(q{BEGIN; COMMENT ON DATABASE other IS 'another'});
	settle($node, $rename->send('ALTER DATABASE other RENAME TO yet_another'));
	shows('objects: a database', [ @edges, @wait ], <<~EOT);
		comment | - | - | 1 | - | - | - | -
		└─ rename | comment | comment | 0 | object | database other | AccessExclusiveLock | ShareUpdateExclusiveLock
		EOT
	forget_sessions();
}

{
	my ($h1, $h2, $h3, $h4, $w1, $w2, $w3, $w4) = sessions(qw(h1 h2 h3 h4 w1 w2 w3 w4));
	$h1->do('SELECT pg_advisory_lock(-4711)');
	$h2->do('BEGIN; SELECT pg_advisory_xact_lock_shared(9223372036854775807)');
	$h3->do('SELECT pg_advisory_lock(1, -2)');
	$h4->do('BEGIN; SELECT pg_advisory_xact_lock_shared(-2147483648, 2147483647)');
	settle($node, $w1->send('SELECT pg_advisory_lock(-4711)'));
	settle($node, $w2->send('SELECT pg_advisory_lock(9223372036854775807)'));
	settle($node, $w3->send('SELECT pg_advisory_xact_lock_shared(1, -2)'));
	settle($node, $w4->send('SELECT pg_advisory_xact_lock(-2147483648, 2147483647)'));
	is(LockGuard::faults($node), '', 'advisory locks: true');
	# Without a transaction, a holder comes after those that have one.
	is(tree($node, @wait), <<~EOT, 'advisory locks');
		h2 | - | - | - | -
		└─ w2 | advisory | advisory lock 9223372036854775807 | ExclusiveLock | ShareLock
		h4 | - | - | - | -
		└─ w4 | advisory | advisory lock (-2147483648, 2147483647) | ExclusiveLock | ShareLock
		h1 | - | - | - | -
		└─ w1 | advisory | advisory lock -4711 | ExclusiveLock | ExclusiveLock
		h3 | - | - | - | -
		└─ w3 | advisory | advisory lock (1, -2) | ShareLock | ExclusiveLock
		EOT
	is( $observer->value(q{SELECT bool_and(database = (SELECT oid FROM pg_database WHERE datname = 'postgres')
			AND relation IS NULL) FROM lock_tree() WHERE depth > 0}),
		1, 'an advisory lock has a database and no relation');
	is( $observer->value('SELECT bool_and(xact_age IS NULL AND state = $$idle$$) FROM lock_tree() WHERE pid IN (?, ?)',
			$h1->pid, $h3->pid),
		1, 'a session that holds a lock without a transaction: idle, no xact_age');
	forget_sessions();
}

# The speculative insertion, led as in PostgreSQL's isolation test insert-conflict-specconflict.
{
	$observer->do(q{
		CREATE FUNCTION lock_123(text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$
		BEGIN
			IF pg_try_advisory_xact_lock(current_setting('spec.session')::int, 1) THEN
				PERFORM pg_advisory_xact_lock(current_setting('spec.session')::int, 2);
			ELSE
				PERFORM pg_advisory_xact_lock(current_setting('spec.session')::int, 3);
			END IF;
			RETURN $1;
		END $$;
		CREATE FUNCTION lock_4(text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$
		BEGIN
			PERFORM pg_advisory_xact_lock(current_setting('spec.session')::int, 4);
			RETURN $1;
		END $$;
		CREATE TABLE upserted (key text, data text);
		SET spec.session = 1;
		CREATE UNIQUE INDEX ON upserted (lock_123(key));
		CREATE INDEX ON upserted (lock_4(key));
	});
	my ($controller, $s1, $s2) = sessions(qw(controller s1 s2));
	$controller->do('SELECT pg_advisory_lock(sess, lock)
		FROM generate_series(1, 2) a (sess), generate_series(1, 3) b (lock)');
	$s1->do('SET spec.session = 1');
	$s2->do('SET spec.session = 2');
	my $upsert = q{INSERT INTO upserted VALUES ('k1') ON CONFLICT (lock_123(key)) DO UPDATE SET data = 'x'};
	$_->send($upsert) for $s1, $s2;
	await_advisory($s1, 1, 3);
	await_advisory($s2, 2, 3);
	$controller->do('SELECT pg_advisory_unlock(1, 1), pg_advisory_unlock(2, 1),
		pg_advisory_unlock(1, 3), pg_advisory_unlock(2, 3)');
	await_advisory($s1, 1, 2);
	await_advisory($s2, 2, 2);
	$controller->do('SELECT pg_advisory_lock(2, 4), pg_advisory_unlock(2, 2)');
	await_advisory($s2, 2, 4);
	$controller->do('SELECT pg_advisory_unlock(1, 2)');
	await($node, 'a speculative token is waited for',
		q{SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'spectoken' AND NOT granted)});
	settle($node, $s1, $s2);
	shows('a speculative token', [ @edges, @wait ], <<~EOT =~ s/TOKEN/speculative token 1 of transaction N/r);
		controller | - | - | 2 | - | - | - | -
		└─ s2 | controller | controller | 1 | advisory | advisory lock (2, 4) | ExclusiveLock | ExclusiveLock
		   └─ s1 | s2 | s2 | 0 | spectoken | TOKEN | ShareLock | ExclusiveLock
		EOT
	forget_sessions();
	$observer->do('DROP TABLE upserted');
}

{
	my ($writer, $other, $deferrable, $plain, $alter) = sessions(qw(writer other deferrable plain alter));
	$writer->do('BEGIN ISOLATION LEVEL SERIALIZABLE; INSERT INTO t1 VALUES (1)');
	$other->do('BEGIN ISOLATION LEVEL SERIALIZABLE; INSERT INTO t1 VALUES (1)');
	$deferrable->do('BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE; LOCK TABLE t2 IN ACCESS SHARE MODE');
	settle($node, $deferrable->send('SELECT FROM t2'));
	settle($node, $alter->send('ALTER TABLE t2 ADD COLUMN x int'), $deferrable);
	shows('a safe snapshot', [ @edges, @wait, qw(wait_event) ], <<~EOT);
		writer | - | - | 2 | - | - | - | - | ClientRead
		└─ deferrable | other,writer | other,writer | 1 | safesnapshot | safe snapshot | - | - | SafeSnapshot
		   └─ alter | deferrable | deferrable | 0 | relation | public.t2 | AccessExclusiveLock | AccessShareLock | relation
		other | - | - | 2 | - | - | - | - | ClientRead
		EOT
	$_->do('COMMIT') for $writer, $other;
	is(await_end($deferrable), undef, 'it gets its snapshot');
	forget_sessions();

	($writer, $deferrable) = sessions(qw(writer deferrable));
	$writer->do(q{BEGIN ISOLATION LEVEL SERIALIZABLE; INSERT INTO t1 VALUES (1); PREPARE TRANSACTION 'serial'});
	$deferrable->do('BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE');
	settle($node, $deferrable->send('SELECT FROM t2'));
	# Which of the prepared ones it is, PostgreSQL does not tell.
	shows('a safe snapshot behind a prepared transaction', [ @edges, 'lock_type' ], <<~EOT);
		0 | - | - | 1 | -
		└─ deferrable | 0 | 0 | 0 | safesnapshot
		EOT
	$observer->do(q{ROLLBACK PREPARED 'serial'});
	forget_sessions();
}

# A page: the clean-up of a GIN index holds its metapage. The operator class's comparison makes it
# stop there.
{
	$observer->do(q{
		CREATE FUNCTION slow_compare(int, int) RETURNS int IMMUTABLE STRICT LANGUAGE plpgsql AS $$
		BEGIN
			PERFORM pg_advisory_xact_lock_shared(77);
			RETURN btint4cmp($1, $2);
		END $$;
		CREATE OPERATOR CLASS slow_ops FOR TYPE int4[] USING gin AS
			OPERATOR 1 && (anyarray, anyarray), OPERATOR 2 @> (anyarray, anyarray),
			FUNCTION 1 slow_compare(int, int),
			FUNCTION 2 ginarrayextract(anyarray, internal, internal),
			FUNCTION 3 ginqueryarrayextract(anyarray, internal, smallint, internal, internal, internal, internal),
			FUNCTION 4 ginarrayconsistent(internal, smallint, anyarray, int, internal, internal, internal, internal),
			STORAGE int4;
		CREATE TABLE tagged (tags int[]);
		CREATE INDEX tagged_tags ON tagged USING gin (tags slow_ops);
		INSERT INTO tagged VALUES ('{1}'), ('{2}');
	});
	my ($controller, $clean, $wait) = sessions(qw(controller clean wait));
	$controller->do('BEGIN; SELECT pg_advisory_xact_lock(77)');
	settle($node, $clean->send(q{SELECT gin_clean_pending_list('tagged_tags')}));
	settle($node, $clean, $wait->send(q{SELECT gin_clean_pending_list('tagged_tags')}));
	shows('a page', [ @edges, @wait ], <<~EOT);
		controller | - | - | 2 | - | - | - | -
		└─ clean | controller | controller | 1 | advisory | advisory lock 77 | ShareLock | ExclusiveLock
		   └─ wait | clean | clean | 0 | page | page 0 of public.tagged_tags | ExclusiveLock | ExclusiveLock
		EOT
	$controller->do('COMMIT');
	is_deeply([ await_end($clean, $wait) ], [ undef, undef ], 'they clean up');
	forget_sessions();
	$observer->do('DROP TABLE tagged');
}

# VACUUM holds the lock on the database's frozen ids while it waits for pg_database.
{
	my ($locker, $vacuum, $wait) = sessions(qw(locker vacuum wait));
	$locker->do('BEGIN; LOCK TABLE pg_database IN SHARE MODE');
	settle($node, $vacuum->send('VACUUM t1'));
	settle($node, $vacuum, $wait->send('VACUUM t2'));
	my $database = $observer->value(q{SELECT oid FROM pg_database WHERE datname = 'postgres'});
	shows('frozen ids, and a shared relation', [ @edges, @wait, 'database', 'relation' ], <<~EOT);
		locker | - | - | 2 | - | - | - | - | - | -
		└─ vacuum | locker | locker | 1 | relation | pg_catalog.pg_database | RowExclusiveLock | ShareLock | 0 | 1262
		   └─ wait | vacuum | vacuum | 0 | frozenid | frozen ids of database $database | ExclusiveLock | ExclusiveLock | $database | -
		EOT
	forget_sessions();
}

{
	my ($holder, $waiter) = (session($node, 'holder', dbname => 'other'), session($node, 'waiter', dbname => 'other'));
	my ($here, $shared) = sessions(qw(here shared));
	$holder->do('CREATE TABLE elsewhere (id int)');
	$holder->do('BEGIN; LOCK TABLE elsewhere; LOCK TABLE pg_shdescription; SELECT pg_advisory_xact_lock(7)');
	settle($node, $waiter->send('SELECT FROM elsewhere'));
	my ($database, $relation) = map { $observer->value("SELECT $_ FROM lock_tree() WHERE depth = 1") } qw(database relation);
	is($database, $observer->value(q{SELECT oid FROM pg_database WHERE datname = 'other'}), 'the other database');
	settle($node, $waiter, $shared->send('SELECT FROM pg_shdescription'));
	shows('locks of another database', [ qw(datname lock_object) ], <<~EOT);
		holder | other | -
		├─ waiter | other | relation $relation of database $database
		└─ shared | postgres | pg_catalog.pg_shdescription
		EOT
	forget_sessions($waiter);
	$waiter = session($node, 'waiter', dbname => 'other');
	settle($node, $waiter->send('SELECT pg_advisory_lock(7)'));
	is( $observer->value('SELECT lock_object FROM lock_tree() WHERE pid = ?', $waiter->pid),
		"advisory lock 7 of database $database", 'an advisory lock of another database');
	forget_sessions();
}

{
	my ($holder, $waiter) = sessions(qw(holder waiter));
	$holder->do('BEGIN; LOCK TABLE "Odd Schema"."Odd ""Table"');
	settle($node, $waiter->send('SELECT FROM "Odd Schema"."Odd ""Table"'));
	shows('a name that needs quotes', ['lock_object'], <<~EOT);
		holder | -
		└─ waiter | "Odd Schema"."Odd ""Table"
		EOT
	forget_sessions();
}

# ---------------------------------------------------------------------------------------------
# Several blockers

{
	# The oldest transaction is the highest pid's.
	my @by_pid = sort { $a->pid <=> $b->pid } sessions(qw(x y z));
	my $waiter = session($node, 'waiter');
	$_->do('BEGIN; LOCK TABLE t1 IN ACCESS SHARE MODE') for reverse @by_pid;
	my ($x, $y, $z) = map { $_->name } reverse @by_pid;
	settle($node, $waiter->send('BEGIN; LOCK TABLE t1'));
	shows('equally deep: under the oldest transaction', \@edges, <<~EOT);
		$x | - | - | 1
		└─ waiter | x,y,z | x,y,z | 0
		$y | - | - | 1
		$z | - | - | 1
		EOT
	forget_sessions();

	# Without transactions, the lowest pid counts; a transaction is older than none.
	@by_pid = sort { $a->pid <=> $b->pid } sessions(qw(x y z));
	$waiter = session($node, 'waiter');
	$_->do('SELECT pg_advisory_lock_shared(5)') for reverse @by_pid;
	($x, $y, $z) = map { $_->name } @by_pid;
	settle($node, $waiter->send('SELECT pg_advisory_lock(5)'));
	shows('without transactions: under the lowest pid', \@edges, <<~EOT);
		$x | - | - | 1
		└─ waiter | x,y,z | x,y,z | 0
		$y | - | - | 1
		$z | - | - | 1
		EOT
	$by_pid[2]->do('BEGIN');
	settle($node, $waiter);
	shows('with one: under that', \@edges, <<~EOT);
		$z | - | - | 1
		└─ waiter | x,y,z | x,y,z | 0
		$x | - | - | 1
		$y | - | - | 1
		EOT
	forget_sessions();
}

{
	# "both" waits for old, which is free to go, and for young, which waits for the root.
	my ($root, $old, $young, $both) = sessions(qw(root old young both));
	$old->do('BEGIN; LOCK TABLE t1 IN ACCESS SHARE MODE');
	$root->do('BEGIN; LOCK TABLE t2');
	$young->do('BEGIN; LOCK TABLE t1 IN ROW SHARE MODE');
	settle($node, $young->send('SELECT FROM t2'));
	settle($node, $young, $both->send('BEGIN; LOCK TABLE t1'));
	shows('under the deepest', [ @edges, 'depth', 'path', 'root_pid', 'blocker_mode' ], <<~EOT);
		root | - | - | 2 | 0 | root | root | -
		└─ young | root | root | 1 | 1 | root>young | root | AccessExclusiveLock
		   └─ both | old,young | old,young | 0 | 2 | root>young>both | root | RowShareLock
		old | - | - | 1 | 0 | old | old | -
		EOT
	forget_sessions();
}

{
	# The parent holds several modes, and some that do not conflict.
	my ($holder, $share, $row) = sessions(qw(holder share row));
	$holder->do('BEGIN; LOCK TABLE t1 IN ROW SHARE MODE; LOCK TABLE t1 IN ROW EXCLUSIVE MODE;
		LOCK TABLE t1 IN SHARE UPDATE EXCLUSIVE MODE');
	settle($node, $share->send('BEGIN; LOCK TABLE t1 IN SHARE MODE'));
	settle($node, $share, $row->send('BEGIN; LOCK TABLE t1 IN ROW EXCLUSIVE MODE'));
	shows('held and queued modes', [ @edges, @wait ], <<~EOT);
		holder | - | - | 2 | - | - | - | -
		└─ share | holder | holder | 1 | relation | public.t1 | ShareLock | ShareUpdateExclusiveLock
		   └─ row | share | - | 0 | relation | public.t1 | RowExclusiveLock | ShareLock
		EOT
	forget_sessions();

	# Who holds and queues ahead counts as a holder.
	my ($other, $upgrade, $last) = sessions(qw(other upgrade last));
	$upgrade->do('BEGIN; LOCK TABLE t1 IN ROW EXCLUSIVE MODE');
	$other->do('BEGIN; LOCK TABLE t1 IN ACCESS SHARE MODE');
	settle($node, $upgrade->send('LOCK TABLE t1'));
	settle($node, $upgrade, $last->send('BEGIN; LOCK TABLE t1 IN SHARE MODE'));
	shows('a holder that also queues', [ @edges, @wait ], <<~EOT);
		other | - | - | 2 | - | - | - | -
		└─ upgrade | other | other | 1 | relation | public.t1 | AccessExclusiveLock | AccessShareLock
		   └─ last | upgrade | upgrade | 0 | relation | public.t1 | ShareLock | RowExclusiveLock
		EOT
	forget_sessions();
}

{
	my ($one, $two, $three, $w1, $w2, $w3, $w4, $w5) = sessions(qw(one two three w1 w2 w3 w4 w5));
	$one->do('BEGIN; LOCK TABLE t1');
	$two->do('BEGIN; LOCK TABLE t2');
	$three->do('BEGIN; LOCK TABLE t3');
	settle($node, $w1->send('SELECT FROM t1'));
	settle($node, $w2->send('SELECT FROM t3'));
	settle($node, $w3->send('SELECT FROM t2'));
	$w4->do('SELECT pg_advisory_lock(4)');
	settle($node, $w4->send('SELECT FROM t2'));
	settle($node, $w1, $w2, $w3, $w4, $w5->send('SELECT pg_advisory_lock(4)'));
	shows('the largest first, then the oldest', \@edges, <<~EOT);
		two | - | - | 3
		├─ w4 | two | two | 1
		│  └─ w5 | w4 | w4 | 0
		└─ w3 | two | two | 0
		one | - | - | 1
		└─ w1 | one | one | 0
		three | - | - | 1
		└─ w2 | three | three | 0
		EOT
	forget_sessions();
}

# A chain of 45 sessions, and more holders of one lock than a look at it expects.
{
	my @chain = sessions(map { sprintf 'c%02d', $_ } 0 .. 45);
	$chain[$_]->do("BEGIN; SELECT pg_advisory_xact_lock($_)") for 0 .. $#chain;
	settle($node, $chain[$_]->send('SELECT pg_advisory_xact_lock(' . ($_ - 1) . ')')) for 1 .. $#chain;
	my @rows = split /\n/, tree($node, 'depth', 'blocks');
	is(scalar @rows, 46, 'a long chain');
	is($rows[0], 'c00 | 0 | 45', 'a long chain: its root');
	is($rows[20], ' ' x 57 . '└─ c20 | 20 | 25', 'a long chain: drawn in full down to 20');
	is($rows[21], '…20 └─ c21 | 21 | 24', 'a long chain: 20 levels left out');
	is($rows[22], '…20    └─ c22 | 22 | 23', 'a long chain: and from there again');
	is($rows[45], '…40 ' . ' ' x 12 . '└─ c45 | 45 | 0', 'a long chain: 40 levels left out');
	is(LockGuard::faults($node), '', 'a long chain: true');
	forget_sessions();

	my @readers = sessions(map { sprintf 'r%02d', $_ } 1 .. 90);
	my $waiter = session($node, 'waiter');
	$_->do('BEGIN; SELECT FROM t1') for @readers;
	settle($node, $waiter->send('BEGIN; LOCK TABLE t1'));
	is( $observer->value('SELECT cardinality(held_by) FROM lock_tree() WHERE pid = ?', $waiter->pid),
		90, '90 holders of one lock');
	is($observer->value('SELECT count(*) FROM lock_tree()'), 91, '90 holders of one lock: a row each');
	is(LockGuard::faults($node), '', '90 holders of one lock: true');
	forget_sessions();
}

# ---------------------------------------------------------------------------------------------
# Parallel queries

{
	$observer->do(q{
		CREATE TABLE large AS SELECT generate_series(1, 20000) AS id;
		ANALYZE large;
		CREATE FUNCTION look_behind(int) RETURNS bigint PARALLEL SAFE LANGUAGE plpgsql AS $$
		BEGIN
			RETURN (SELECT count(*) FROM t1);
		END $$;
	});
	my ($locker, $leader, $alter) = sessions(qw(locker leader alter));
	$leader->do('SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
		SET max_parallel_workers_per_gather = 2; SET parallel_leader_participation = off');
	my $query = 'SELECT sum(look_behind(id)) FROM large WHERE id <= 2';
	like(join("\n", map { values %$_ } $leader->rows("EXPLAIN $query")), qr/Workers Planned: 2/, 'a parallel query');
	$locker->do('BEGIN; LOCK TABLE t1');
	$leader->send($query);
	await($node, 'the workers wait', q{SELECT count(*) > 0
		FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE NOT granted AND leader_pid = ?}, $leader->pid);
	settle($node, $leader, $alter->send('BEGIN; LOCK TABLE large'));
	shows('workers wait, leader and workers hold', [ @edges, @wait, 'wait_event', 'backend_type' ], <<~EOT);
		locker | - | - | 2 | - | - | - | - | ClientRead | client backend
		└─ leader | locker | locker | 1 | relation | public.t1 | AccessShareLock | AccessExclusiveLock | ExecuteGather | client backend
		   └─ alter | leader | leader | 0 | relation | public.large | AccessExclusiveLock | AccessShareLock | relation | client backend
		EOT
	$locker->do('COMMIT');
	is_deeply([ await_end($leader, $alter) ], [ undef, undef ], 'they go');
	forget_sessions();

	($locker, $leader) = sessions(qw(locker leader));
	$leader->do('SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
		SET max_parallel_workers_per_gather = 2');
	$locker->do('BEGIN; LOCK TABLE t1');
	$leader->send('SELECT sum(look_behind(id)) FROM large');
	# Leader and workers, as many as have got a row.
	await($node, 'leader and worker wait', q{SELECT count(*) = 3
		FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE NOT granted AND coalesce(leader_pid, pid) = ?},
		$leader->pid);
	settle($node, $leader);
	shows('leader and workers wait', [ @edges, @wait, 'wait_event' ], <<~EOT);
		locker | - | - | 1 | - | - | - | - | ClientRead
		└─ leader | locker | locker | 0 | relation | public.t1 | AccessShareLock | AccessExclusiveLock | relation
		EOT
	forget_sessions();
}

# ---------------------------------------------------------------------------------------------
# Prepared transactions

{
	my ($one, $two, $waiter, $elsewhere) =
	  (sessions(qw(one two waiter)), session($node, 'elsewhere', dbname => 'other'));
	$one->do(q{BEGIN; LOCK TABLE t1 IN SHARE MODE; PREPARE TRANSACTION 'first "gid"'});
	$two->do(q{BEGIN; LOCK TABLE t1 IN SHARE MODE; INSERT INTO users VALUES (100); PREPARE TRANSACTION 'second'});
	forget_sessions($one, $two);
	settle($node, $waiter->send('INSERT INTO t1 VALUES (1)'));
	my @columns = (@edges, 'gid', 'path', 'root_pid', 'state', 'query', 'datname', 'application_name', 'backend_type');
	shows('two prepared transactions', \@columns, <<~EOT);
		first "gid" | - | - | 1 | first "gid" | 0 | 0 | - | - | postgres | - | -
		└─ waiter | 0,0 | 0,0 | 0 | - | 0>waiter | 0 | active | INSERT INTO t1 VALUES (1) | postgres | waiter | client backend
		second | - | - | 1 | second | 0 | 0 | - | - | postgres | - | -
		EOT
	is( $observer->value('SELECT array_agg(tree ORDER BY gid) FROM lock_tree() WHERE pid = 0')->[0],
		'0', 'drawn as 0');
	$observer->do(q{COMMIT PREPARED 'first "gid"'});
	settle($node, $waiter);
	shows('the second one', [ @edges, @wait, 'gid' ], <<~EOT);
		second | - | - | 1 | - | - | - | - | second
		└─ waiter | 0 | 0 | 0 | relation | public.t1 | RowExclusiveLock | ShareLock | -
		EOT

	# One of another database, and rows.
	$elsewhere->do(q{BEGIN; LOCK TABLE pg_shdescription; PREPARE TRANSACTION 'elsewhere'});
	my ($shared, $insert) = sessions(qw(shared insert));
	settle($node, $shared->send('SELECT FROM pg_shdescription'));
	settle($node, $shared, $insert->send('INSERT INTO users VALUES (100)'));
	shows('a prepared transaction of another database', [ @edges, @wait, 'datname' ], <<~EOT);
		second | - | - | 2 | - | - | - | - | postgres
		├─ waiter | 0 | 0 | 0 | relation | public.t1 | RowExclusiveLock | ShareLock | postgres
		└─ insert | 0 | 0 | 0 | transactionid | transaction N | ShareLock | ExclusiveLock | postgres
		elsewhere | - | - | 1 | - | - | - | - | other
		└─ shared | 0 | 0 | 0 | relation | pg_catalog.pg_shdescription | AccessShareLock | AccessExclusiveLock | postgres
		EOT

	forget_sessions();
	$observer->do(q{ROLLBACK PREPARED 'second'});
	session($node, 'rollback', dbname => 'other')->do(q{ROLLBACK PREPARED 'elsewhere'});
	forget_sessions();
}

# ---------------------------------------------------------------------------------------------
# Deadlocks, as long as they stand

{
	my ($a, $b, $c, $d) = sessions(qw(a b c d));
	$a->do('BEGIN; LOCK TABLE t1');
	$b->do('BEGIN; LOCK TABLE t2');
	settle($node, $a->send('SELECT FROM t2'));
	settle($node, $a, $b->send('SELECT FROM t1'));
	settle($node, $a, $b, $c->send('BEGIN; LOCK TABLE t1'));
	settle($node, $a, $b, $c, $d->send('SELECT FROM t1'));
	shows('a deadlock', [ @edges, 'deadlock', 'depth', 'blocker_mode' ], <<~EOT);
		a | b | b | 3 | 1 | 0 | -
		└─ b | a | a | 3 | 1 | 1 | AccessExclusiveLock
		   └─ c | a,b | a | 1 | 0 | 2 | AccessShareLock
		      └─ d | a,c | a | 0 | 0 | 3 | AccessExclusiveLock
		EOT
	forget_sessions();
}

{
	# Three on a cycle; the entrance is the one that is blocked from outside.
	my ($a, $b, $c, $outside) = sessions(qw(a b c outside));
	$a->do('BEGIN; SELECT pg_advisory_xact_lock(1)');
	$b->do('BEGIN; SELECT pg_advisory_xact_lock(2)');
	$c->do('BEGIN; SELECT pg_advisory_xact_lock_shared(3)');
	$outside->do('BEGIN; SELECT pg_advisory_xact_lock_shared(3)');
	settle($node, $a->send('SELECT pg_advisory_xact_lock(2)'));
	settle($node, $b->send('SELECT pg_advisory_xact_lock(3)'));
	settle($node, $a, $b, $c->send('SELECT pg_advisory_xact_lock(1)'));
	shows('a deadlock of three, blocked from outside', [ @edges, 'deadlock' ], <<~EOT);
		outside | - | - | 3 | 0
		└─ b | c,outside | c,outside | 2 | 1
		   └─ a | b | b | 2 | 1
		      └─ c | a | a | 2 | 1
		EOT
	$observer->value('SELECT pg_cancel_backend(?)', $b->pid);
	like(await_end($b), qr/canceling statement/, 'one gives up');
	$b->do('ROLLBACK');
	is(await_end($a), undef, 'another goes on');
	settle($node, $c);
	shows('and the rest is no deadlock', [ @edges, 'deadlock' ], <<~EOT);
		a | - | - | 1 | 0
		└─ c | a | a | 0 | 0
		EOT
	forget_sessions();
}

# ---------------------------------------------------------------------------------------------
# Ways of calling it

{
	my ($holder, $waiter) = sessions(qw(holder waiter));
	$holder->do('BEGIN; LOCK TABLE t1');
	settle($node, $waiter->send('SELECT FROM t1'));
	my $caller = session($node, 'caller');

	$caller->do('BEGIN READ ONLY');
	is($caller->value('SELECT count(*) FROM lock_tree()'), 2, 'in a read-only transaction');
	$caller->do('ROLLBACK; BEGIN ISOLATION LEVEL SERIALIZABLE');
	is($caller->value('SELECT count(*) FROM lock_tree()'), 2, 'in a serializable transaction');
	$caller->do('SAVEPOINT s');
	is($caller->value('SELECT count(*) FROM lock_tree()'), 2, 'in a subtransaction');
	eval { $caller->do('SELECT 1 / (SELECT count(*) - 2 FROM lock_tree())') };
	like($@, qr/division by zero/, 'an error after it');
	$caller->do('ROLLBACK TO s');
	is($caller->value('SELECT count(*) FROM lock_tree()'), 2, 'and again');
	is( $caller->value(q{SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid()
			AND relation = ANY ('{pg_namespace,pg_authid,pg_database}'::regclass[])}),
		0, 'no lock on a catalog is kept');
	$caller->do('ROLLBACK');

	is($caller->value('SELECT count(*) FROM lock_tree() a JOIN lock_tree() b USING (pid)'), 2, 'twice in one query');
	is($caller->value('SELECT count(*) FROM generate_series(1, 3) g, LATERAL (SELECT * FROM lock_tree() WHERE g > 0) t'),
		6, 'again for each row');
	is($caller->value('SELECT count(*) FROM (SELECT (lock_tree()).pid) t'), 2, 'in a select list');
	is($caller->value('SELECT pid FROM lock_tree() LIMIT 1'), $holder->pid, 'with a limit');
	is($caller->value('SELECT max(ordinality) FROM lock_tree() WITH ORDINALITY'), 2, 'with ordinality');
	$caller->do(q{
		CREATE FUNCTION first_root() RETURNS int LANGUAGE plpgsql AS $$
		DECLARE
			r record;
		BEGIN
			FOR r IN SELECT * FROM lock_tree() LOOP
				RETURN r.pid;
			END LOOP;
		END $$;
		CREATE FUNCTION roots() RETURNS SETOF int LANGUAGE sql STABLE AS 'SELECT pid FROM lock_tree() WHERE depth = 0';
		CREATE SCHEMA ops;
		CREATE VIEW ops.locks AS SELECT * FROM lock_tree();
		CREATE TABLE ops.history AS SELECT now() AS at, * FROM lock_tree();
	});
	is($caller->value('SELECT first_root()'), $holder->pid, 'in a function that stops half-way');
	is($caller->value('SELECT roots()'), $holder->pid, 'in an SQL function');
	is($caller->value('SELECT count(*) FROM ops.locks'), 2, 'in a view');
	is($caller->value('SELECT count(*) FROM ops.history'), 2, 'kept in a table');

	$caller->do('BEGIN; DECLARE c SCROLL CURSOR WITH HOLD FOR SELECT pid, pg_backend_pid() FROM lock_tree()');
	is($caller->value('FETCH c'), $holder->pid, 'a cursor');
	is($caller->value('FETCH c'), $waiter->pid, 'a cursor: the second row');
	is($caller->value('FETCH PRIOR c'), $holder->pid, 'a cursor: and back');
	$caller->do('COMMIT');
	$holder->do('COMMIT');
	is(await_end($waiter), undef, 'the waiter goes');
	is($caller->value('FETCH NEXT c'), $waiter->pid, 'a held cursor keeps its rows');
	is($caller->value('SELECT count(*) FROM lock_tree()'), 0, 'and the tree is empty');
	$caller->do('CLOSE c');

	# The caller itself is the culprit.
	$caller->do('BEGIN; LOCK TABLE t1');
	settle($node, $waiter->send('SELECT FROM t1'));
	my ($row) = $caller->rows('SELECT pid, blocks, state, query FROM lock_tree() WHERE depth = 0 /* me */');
	is_deeply($row, { pid => $caller->pid, blocks => 1, state => 'active',
			query => 'SELECT pid, blocks, state, query FROM lock_tree() WHERE depth = 0 /* me */' },
		'the caller is the root');
	shows('the caller is the root, seen by another', [ @edges ], <<~EOT);
		caller | - | - | 1
		└─ waiter | caller | caller | 0
		EOT
	$caller->do('ROLLBACK');

	# The extension moves, and goes.
	$caller->do('BEGIN; ALTER EXTENSION pg_lockguard SET SCHEMA ops');
	is($caller->value('SELECT count(*) FROM ops.lock_tree()'), 0, 'in another schema');
	is($caller->value('SELECT count(*) FROM ops.locks'), 0, 'the view follows');
	$caller->do('ROLLBACK; BEGIN; DROP EXTENSION pg_lockguard CASCADE; CREATE EXTENSION pg_lockguard SCHEMA ops');
	is($caller->value('SELECT count(*) FROM ops.lock_tree()'), 0, 'created in another schema');
	is( $caller->value(q{SELECT count(*) FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
			WHERE e.extname = 'pg_lockguard' AND d.deptype = 'e' AND d.classid = 'pg_proc'::regclass
				AND d.objid = 'ops.lock_tree'::regproc}),
		1, 'and its own');
	$caller->do('ROLLBACK');
	forget_sessions();
}

# Another version's declaration: an error, no crash.
{
	my $caller = session($node, 'caller');
	eval { $caller->do(q{
		CREATE FUNCTION old_tree(OUT tree text, OUT pid int) RETURNS SETOF record LANGUAGE c
			AS '$libdir/pg_lockguard', 'pg_lockguard_lock_tree';
		SELECT * FROM old_tree()}) };
	is($caller->{dbh}->state, '55000', 'another version of the SQL declaration');
	like($@, qr/DETAIL:  The function has 2 columns.*HINT:  Run ALTER EXTENSION/s, 'says what to do');
	forget_sessions();
}

# A look never waits for a lock, not even for the catalogs that names come from.
{
	$observer->do('CREATE ROLE viewer LOGIN IN ROLE pg_monitor; CREATE ROLE plain LOGIN');
	my ($holder, $waiter, $catalogs) = sessions(qw(holder waiter catalogs));
	my @viewers = map { session($node, $_->[0], user => $_->[1]) }
	  [ 'superuser', $observer->value('SELECT current_user') ], [ 'pg_monitor', 'viewer' ], [ 'unprivileged', 'plain' ];
	for my $viewer (@viewers)
	{
		$viewer->do(q{SET lock_timeout = '5s';
			PREPARE look AS SELECT lock_object, datname, usename FROM lock_tree() WHERE depth = 1});
		$viewer->rows('EXECUTE look');
	}
	$holder->do('BEGIN; LOCK TABLE t1');
	settle($node, $waiter->send('SELECT FROM t1'));
	my ($oid, $database) = map { $observer->value("SELECT $_ FROM lock_tree() WHERE depth = 1") } qw(relation database);
	my $user = $observer->value('SELECT current_user');
	my $named = { lock_object => 'public.t1', datname => 'postgres', usename => $user };
	my $numbered = { %$named, lock_object => "relation $oid of database $database" };
	my $nameless = { lock_object => 'public.t1', datname => undef, usename => undef };
	for my $case (
		[ 'pg_class', $numbered ], [ 'pg_namespace', $numbered ], [ 'pg_authid', $nameless ],
		[ 'pg_database', $nameless ], [ 'pg_auth_members', $named ])
	{
		my ($catalog, $expected) = @$case;
		# Nobody knows any more what he knew about roles.
		$observer->do('GRANT pg_signal_backend TO viewer, plain') if $catalog eq 'pg_auth_members';
		$catalogs->do("BEGIN; LOCK TABLE $catalog");
		for my $viewer (@viewers)
		{
			my @rows = eval { $viewer->rows('EXECUTE look') };
			is($@, '', $viewer->name . " looks while $catalog is locked");
			is_deeply(\@rows, [$expected], $viewer->name . ": what is known while $catalog is locked");
		}
		$catalogs->do('ROLLBACK');
	}
	is_deeply([ $viewers[0]->rows('EXECUTE look') ], [$named], 'and again with names');
	forget_sessions();
}

like(slurp_file($node->logfile), qr/statement: /, 'there is a server log');
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'no crash in it');
$node->stop;
done_testing();
