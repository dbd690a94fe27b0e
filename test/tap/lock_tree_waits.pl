# lock_tree(): every kind of wait, with what is waited for and who is in the way.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LockGuard;
use LockGuard::Tree;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_tree_node('waits');
my $observer = LockGuard::observer($node);

$observer->do(q{CREATE SCHEMA "Odd Schema"; CREATE TABLE "Odd Schema"."Odd ""Table" (id int)});
$observer->do(q{CREATE DATABASE latin1 ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0});
$node->safe_psql('latin1', 'CREATE EXTENSION pg_lockguard');

# Until the session waits for this advisory lock of two keys.
sub await_advisory
{
	my ($session, $classid, $objid) = @_;
	await($node, $session->name . " waits for advisory lock ($classid, $objid)",
		q{SELECT EXISTS (SELECT FROM pg_locks WHERE pid = ? AND NOT granted AND locktype = 'advisory'
			AND classid = ? AND objid = ?)}, $session->pid, $classid, $objid);
	return;
}

is($observer->value('SHOW shared_preload_libraries'), '', 'the library is not preloaded');
is($observer->value('SELECT count(*) FROM lock_tree()'), '0', 'nothing waits: no row');

subtest 'a reader, an ALTER TABLE, and those behind it' => sub {
	my ($reader, $alter, $second, $third) = sessions($node, qw(reader alter second third));
	$reader->do('BEGIN; SELECT FROM users');
	is($observer->value('SELECT count(*) FROM lock_tree()'), '0', 'a lock alone: no row');
	settle($node, $alter->send('ALTER TABLE users ADD COLUMN m int'));
	settle($node, $alter, $second->send('SELECT FROM users'));
	settle($node, $alter, $second, $third->send('INSERT INTO users VALUES (0)'));
	shows($node, 'a reader, an ALTER TABLE, and those behind it', [ @edges, @wait ], <<~EOT);
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
};

subtest 'rows that were changed, one behind the other' => sub {
	my ($a, $b, $c, $d) = sessions($node, qw(a b c d));
	$a->do('BEGIN; UPDATE users SET n = 1 WHERE id = 1');
	$b->do('BEGIN; UPDATE users SET n = 1 WHERE id = 2');
	$c->do('BEGIN; UPDATE users SET n = 1 WHERE id = 3');
	settle($node, $d->send('UPDATE users SET n = 1 WHERE id = 3'));
	settle($node, $c->send('UPDATE users SET n = 1 WHERE id = 2'));
	settle($node, $b->send('UPDATE users SET n = 1 WHERE id = 1'), $c, $d);
	shows($node, 'a chain of row locks', [ @edges, @wait ], <<~EOT);
		a | - | - | 3 | - | - | - | -
		└─ b | a | a | 2 | transactionid | transaction N | ShareLock | ExclusiveLock
		   └─ c | b | b | 1 | transactionid | transaction N | ShareLock | ExclusiveLock
		      └─ d | c | c | 0 | transactionid | transaction N | ShareLock | ExclusiveLock
		EOT
	forget_sessions();
};

subtest 'the queue for one row' => sub {
	my ($holder, $first, $second, $third) = sessions($node, qw(holder first second third));
	$holder->do('BEGIN; UPDATE users SET n = 2 WHERE id = 1');
	for my $waiter ($first, $second, $third)
	{
		settle($node, $waiter->send('UPDATE users SET n = 3 WHERE id = 1'));
	}
	my $tuple = $observer->value(q{SELECT format('tuple (%s,%s) of public.users', page, tuple)
		FROM pg_locks WHERE locktype = 'tuple' LIMIT 1});
	shows($node, 'the queue of a tuple', [ @edges, @wait ], <<~EOT);
		holder | - | - | 3 | - | - | - | -
		└─ first | holder | holder | 2 | transactionid | transaction N | ShareLock | ExclusiveLock
		   └─ second | first | first | 1 | tuple | $tuple | ExclusiveLock | ExclusiveLock
		      └─ third | first,second | first | 0 | tuple | $tuple | ExclusiveLock | ExclusiveLock
		EOT
	forget_sessions();
};

subtest 'CREATE INDEX CONCURRENTLY' => sub {
	my ($old, $writer, $index, $drop) = sessions($node, qw(old writer index drop));
	$old->do('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM t3');
	$writer->do('BEGIN; INSERT INTO t1 VALUES (1)');
	settle($node, $index->send('CREATE INDEX CONCURRENTLY t1_id ON t1 (id)'));
	shows($node, 'CREATE INDEX CONCURRENTLY behind a writer', [ @edges, @wait ], <<~EOT);
		writer | - | - | 1 | - | - | - | -
		└─ index | writer | writer | 0 | virtualxid | virtual transaction N | ShareLock | ExclusiveLock
		EOT
	$writer->do('COMMIT');
	await($node, 'CREATE INDEX waits for the old snapshot', q{SELECT EXISTS (
		SELECT FROM pg_locks w JOIN pg_locks h USING (virtualxid)
		WHERE NOT w.granted AND h.granted AND h.pid = ?)}, $old->pid);
	settle($node, $index, $drop->send('DROP TABLE t1'));
	shows($node, 'CREATE INDEX CONCURRENTLY behind an old snapshot', [ @edges, @wait ], <<~EOT);
		old | - | - | 2 | - | - | - | -
		└─ index | old | old | 1 | virtualxid | virtual transaction N | ShareLock | ExclusiveLock
		   └─ drop | index | index | 0 | relation | public.t1 | AccessExclusiveLock | ShareUpdateExclusiveLock
		EOT
	forget_sessions();
	$observer->do('DROP TABLE t1; CREATE TABLE t1 (id int)');
};

subtest 'schemas, roles, databases' => sub {
	my ($create, $drop, $again) = sessions($node, qw(create drop again));
	$observer->do('CREATE SCHEMA s; CREATE ROLE r');
	$create->do('BEGIN; CREATE TABLE s.new (id int)');
	settle($node, $drop->send('DROP SCHEMA s'));
	settle($node, $drop, $again->send('CREATE TABLE s.newer (id int)'));
	shows($node, 'objects: a schema', [ @edges, @wait ], <<~EOT);
		create | - | - | 2 | - | - | - | -
		└─ drop | create | create | 1 | object | schema s | AccessExclusiveLock | AccessShareLock
		   └─ again | drop | - | 0 | object | schema s | AccessShareLock | AccessExclusiveLock
		EOT
	is( $observer->value(q{SELECT bool_and(database = (SELECT oid FROM pg_database WHERE datname = 'postgres')
			AND relation IS NULL) FROM lock_tree() WHERE depth > 0}),
		1, 'an object has a database and no relation');
	forget_sessions();

	my $role = $observer->value(q{SELECT oid FROM pg_roles WHERE rolname = 'r'});
	my ($drop_role, $grant) = sessions($node, qw(drop_role grant));
	$drop_role->do('BEGIN; DROP ROLE r');
	settle($node, $grant->send('GRANT SELECT ON users TO r'));
	shows($node, 'objects: a role', [ @edges, @wait ], <<~EOT);
		drop_role | - | - | 1 | - | - | - | -
		└─ grant | drop_role | drop_role | 0 | object | object $role of pg_authid | AccessShareLock | AccessExclusiveLock
		EOT
	is($observer->value('SELECT database FROM lock_tree() WHERE depth > 0'), 0, 'a shared object: database 0');
	forget_sessions();

	my ($comment, $rename) = sessions($node, qw(comment rename));
	$comment->do(q{BEGIN; COMMENT ON DATABASE other IS 'another'});
	settle($node, $rename->send('ALTER DATABASE other RENAME TO yet_another'));
	shows($node, 'objects: a database', [ @edges, @wait ], <<~EOT);
		comment | - | - | 1 | - | - | - | -
		└─ rename | comment | comment | 0 | object | database other | AccessExclusiveLock | ShareUpdateExclusiveLock
		EOT
	forget_sessions();
};

subtest 'advisory locks' => sub {
	my ($h1, $h2, $h3, $h4, $w1, $w2, $w3, $w4) = sessions($node, qw(h1 h2 h3 h4 w1 w2 w3 w4));
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
};

# The speculative insertion, led as in PostgreSQL's isolation test insert-conflict-specconflict.
subtest 'a row that is being inserted, with ON CONFLICT' => sub {
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
	my ($controller, $s1, $s2) = sessions($node, qw(controller s1 s2));
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
	shows($node, 'a speculative token', [ @edges, @wait ], <<~EOT =~ s/TOKEN/speculative token 1 of transaction N/r);
		controller | - | - | 2 | - | - | - | -
		└─ s2 | controller | controller | 1 | advisory | advisory lock (2, 4) | ExclusiveLock | ExclusiveLock
		   └─ s1 | s2 | s2 | 0 | spectoken | TOKEN | ShareLock | ExclusiveLock
		EOT
	forget_sessions();
	$observer->do('DROP TABLE upserted');
};

subtest 'safe snapshots' => sub {
	my ($writer, $other, $deferrable, $plain, $alter) = sessions($node, qw(writer other deferrable plain alter));
	$writer->do('BEGIN ISOLATION LEVEL SERIALIZABLE; INSERT INTO t1 VALUES (1)');
	$other->do('BEGIN ISOLATION LEVEL SERIALIZABLE; INSERT INTO t1 VALUES (1)');
	$deferrable->do('BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE; LOCK TABLE t2 IN ACCESS SHARE MODE');
	settle($node, $deferrable->send('SELECT FROM t2'));
	settle($node, $alter->send('ALTER TABLE t2 ADD COLUMN x int'), $deferrable);
	shows($node, 'a safe snapshot', [ @edges, @wait, qw(wait_event) ], <<~EOT);
		writer | - | - | 2 | - | - | - | - | ClientRead
		└─ deferrable | other,writer | other,writer | 1 | safesnapshot | safe snapshot | - | - | SafeSnapshot
		   └─ alter | deferrable | deferrable | 0 | relation | public.t2 | AccessExclusiveLock | AccessShareLock | relation
		other | - | - | 2 | - | - | - | - | ClientRead
		EOT
	$_->do('COMMIT') for $writer, $other;
	is(await_end($deferrable), undef, 'it gets its snapshot');
	forget_sessions();

	($writer, $deferrable) = sessions($node, qw(writer deferrable));
	$writer->do(q{BEGIN ISOLATION LEVEL SERIALIZABLE; INSERT INTO t1 VALUES (1); PREPARE TRANSACTION 'serial'});
	$deferrable->do('BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE');
	settle($node, $deferrable->send('SELECT FROM t2'));
	# Which of the prepared ones it is, PostgreSQL does not tell.
	shows($node, 'a safe snapshot behind a prepared transaction', [ @edges, 'lock_type' ], <<~EOT);
		0 | - | - | 1 | -
		└─ deferrable | 0 | 0 | 0 | safesnapshot
		EOT
	$observer->do(q{ROLLBACK PREPARED 'serial'});
	forget_sessions();
};

# A page: the clean-up of a GIN index holds its metapage. The operator class's comparison makes it
# stop there.
subtest 'the clean-up of a GIN index' => sub {
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
	my ($controller, $clean, $wait) = sessions($node, qw(controller clean wait));
	$controller->do('BEGIN; SELECT pg_advisory_xact_lock(77)');
	settle($node, $clean->send(q{SELECT gin_clean_pending_list('tagged_tags')}));
	settle($node, $clean, $wait->send(q{SELECT gin_clean_pending_list('tagged_tags')}));
	shows($node, 'a page', [ @edges, @wait ], <<~EOT);
		controller | - | - | 2 | - | - | - | -
		└─ clean | controller | controller | 1 | advisory | advisory lock 77 | ShareLock | ExclusiveLock
		   └─ wait | clean | clean | 0 | page | page 0 of public.tagged_tags | ExclusiveLock | ExclusiveLock
		EOT
	$controller->do('COMMIT');
	is_deeply([ await_end($clean, $wait) ], [ undef, undef ], 'they clean up');
	forget_sessions();
	$observer->do('DROP TABLE tagged');
};

# VACUUM holds the lock on the database's frozen ids while it waits for pg_database.
subtest 'VACUUM, and a shared catalog' => sub {
	my ($locker, $vacuum, $wait) = sessions($node, qw(locker vacuum wait));
	$locker->do('BEGIN; LOCK TABLE pg_database IN SHARE MODE');
	settle($node, $vacuum->send('VACUUM t1'));
	settle($node, $vacuum, $wait->send('VACUUM t2'));
	my $database = $observer->value(q{SELECT oid FROM pg_database WHERE datname = 'postgres'});
	shows($node, 'frozen ids, and a shared relation', [ @edges, @wait, 'database', 'relation' ], <<~EOT);
		locker | - | - | 2 | - | - | - | - | - | -
		└─ vacuum | locker | locker | 1 | relation | pg_catalog.pg_database | RowExclusiveLock | ShareLock | 0 | 1262
		   └─ wait | vacuum | vacuum | 0 | frozenid | frozen ids of database $database | ExclusiveLock | ExclusiveLock | $database | -
		EOT
	forget_sessions();
};

subtest 'another database' => sub {
	my ($holder, $waiter) = (session($node, 'holder', dbname => 'other'), session($node, 'waiter', dbname => 'other'));
	my ($here, $shared) = sessions($node, qw(here shared));
	$holder->do('CREATE TABLE elsewhere (id int)');
	$holder->do('BEGIN; LOCK TABLE elsewhere; LOCK TABLE pg_shdescription; SELECT pg_advisory_xact_lock(7)');
	settle($node, $waiter->send('SELECT FROM elsewhere'));
	my ($database, $relation) = map { $observer->value("SELECT $_ FROM lock_tree() WHERE depth = 1") } qw(database relation);
	is($database, $observer->value(q{SELECT oid FROM pg_database WHERE datname = 'other'}), 'the other database');
	settle($node, $waiter, $shared->send('SELECT FROM pg_shdescription'));
	shows($node, 'locks of another database', [ qw(datname lock_object) ], <<~EOT);
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
};

subtest 'names that need quotes' => sub {
	my ($holder, $waiter) = sessions($node, qw(holder waiter));
	$holder->do('BEGIN; LOCK TABLE "Odd Schema"."Odd ""Table"');
	settle($node, $waiter->send('SELECT FROM "Odd Schema"."Odd ""Table"'));
	shows($node, 'a name that needs quotes', ['lock_object'], <<~EOT);
		holder | -
		└─ waiter | "Odd Schema"."Odd ""Table"
		EOT
	forget_sessions();
};

ends_well($node);
done_testing();
