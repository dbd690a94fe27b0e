# pg_lockguard.ddl_mode = low_priority: a statement that waits outside of the lock queues. That nobody
# waits behind it, what it shows and what may change meanwhile, and what does not wait so.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LockGuard;
use LockGuard::LowPriority;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node(
	'waits',
	"shared_preload_libraries = 'pg_lockguard'",
	"deadlock_timeout = '200ms'",
	'log_lock_waits = on');

$node->safe_psql(
	'postgres', q{
	CREATE ROLE owner LOGIN;
	CREATE ROLE other LOGIN;
	GRANT ALL ON SCHEMA public TO owner, other;
	CREATE TABLE users (id int PRIMARY KEY, name text);
	INSERT INTO users SELECT i, 'user ' || i FROM generate_series(1, 100) i;
	CREATE TABLE orders (id int PRIMARY KEY);
	CREATE TABLE owned (id int);
	ALTER TABLE owned OWNER TO owner;
	GRANT SELECT ON owned TO PUBLIC;
	CREATE TABLE probed (id int);
	INSERT INTO probed VALUES (1);
	CREATE FUNCTION probe(int) RETURNS int VOLATILE LANGUAGE plpgsql AS $$
	BEGIN
		RAISE NOTICE 'lock_timeout is %', current_setting('lock_timeout');
		RETURN $1;
	END $$;
});

my $reader = session($node, 'reader');
my $ddl = session($node, 'ddl');
my $witness = session($node, 'witness');
$witness->do("SET statement_timeout = '20s'");

subtest 'it waits, and nobody waits behind it' => sub {
	read_and_idle($reader);
	$ddl->send(add_column());
	await_low_priority($ddl);

	is($witness->value('SELECT count(*) FROM users'), 100, 'a reader does not wait behind it');
	$witness->do("UPDATE users SET name = name WHERE id = 1");
	pass('nor does a writer');
	is( $witness->value(
			"SELECT count(*) FROM pg_locks WHERE relation = 'users'::regclass AND pid = ?", $ddl->pid),
		0, 'it neither holds nor awaits the lock');

	my ($row) = $witness->rows('SELECT * FROM pg_lockguard_progress');
	# Now and then it looks.
	($row) = $witness->rows('SELECT * FROM pg_lockguard_progress') while $row && $row->{phase} eq 'trying';
	is_deeply(
		{ map { $_ => $row->{$_} } qw(pid datname usename command relation lock_mode phase holders deadline) },
		{   pid => $ddl->pid,
			datname => 'postgres',
			usename => $witness->value('SELECT current_user'),
			command => 'ALTER TABLE',
			relation => 'public.users',
			lock_mode => 'AccessExclusiveLock',
			phase => 'waiting',
			holders => [ $reader->pid ],
			deadline => undef,
		},
		'pg_lockguard_progress says what it waits for');
	cmp_ok($row->{attempt}, '>=', 1, 'attempts are counted');
	is($row->{longest_stall}, '00:00:00', 'nobody was kept waiting');
	like($row->{next_step}, qr/^tries again when a holder's transaction ends; looks again within \S+ m?s$/,
		'the next step in words');

	is( tree($node, qw(blocked_by held_by lock_type lock_object lock_mode blocker_mode)),
		"reader | - | - | - | - | - | -\n"
		  . "└─ ddl | reader | reader | relation | public.users | AccessExclusiveLock | AccessShareLock\n",
		'lock_tree() has it under the session that it waits for, with the lock that it is after');
	is($witness->value("SELECT count(*) FROM lock_tree() WHERE deadlock"), 0, 'no deadlock is seen');

	await($node, 'no snapshot',
		'SELECT backend_xmin IS NULL AND backend_xid IS NULL FROM pg_stat_activity WHERE pid = ?', $ddl->pid);
	pass('it holds no snapshot and no transaction id');

	$reader->do('COMMIT');
	is($ddl->error, undef, 'it goes when the reader has gone');
	is($witness->value("SELECT count(*) FROM pg_attribute WHERE attrelid = 'users'::regclass AND attname = 'c1'"),
		1, 'and has done its work');
	is_clean($ddl, 'after success');
};

# Wherever the lock of the session in the way stands: in a slot of that session, in the lock table, or in
# a lock table that is too full to be searched at a glance. An attempt would be in vain, and would give
# the transaction an id.
subtest 'a lock is seen without an attempt' => sub {
	for my $case (
		[ 'in the table' => 'LOCK TABLE users IN SHARE UPDATE EXCLUSIVE MODE' ],
		[ 'in the table beside many others' =>
			'SELECT pg_advisory_xact_lock(i) FROM generate_series(1, 5000) i; LOCK TABLE users IN SHARE UPDATE EXCLUSIVE MODE' ],
		[ 'in a slot beside a table with many others' =>
			'SELECT pg_advisory_xact_lock(i) FROM generate_series(1, 5000) i; SELECT FROM users LIMIT 1' ])
	{
		my ($name, $take) = @$case;
		$reader->do('BEGIN');
		$reader->do($take);
		$ddl->send(add_column());
		await_low_priority($ddl);
		is($witness->value('SELECT backend_xid FROM pg_stat_activity WHERE pid = ?', $ddl->pid),
			undef, "a lock $name is seen without an attempt");
		$reader->do('COMMIT');
		is($ddl->error, undef, "... and waited for");
	}
};

# With a transaction id of its own: so has a prepared transaction, which it is not to be taken for.
subtest 'a session that has written' => sub {
	$reader->do(q{BEGIN; UPDATE users SET name = name WHERE id = 1});
	$ddl->send(add_column());
	await_low_priority($ddl);
	is(tree($node, qw(blocked_by blocker_mode gid)), "reader | - | - | -\n└─ ddl | reader | RowExclusiveLock | -\n", 'lock_tree() has it as any other');
	$reader->do('COMMIT');
	is($ddl->error, undef, '... and it is waited for');
};

subtest 'with nothing in the way' => sub {
	$ddl->do(add_column());
	is_clean($ddl, 'with nothing in the way');
};

subtest 'what is logged' => sub {
	my $log = -s $node->logfile;
	read_and_idle($reader);
	$ddl->send(add_column());
	await($node, 'deadlock_timeout', "SELECT EXISTS (SELECT FROM pg_lockguard_progress WHERE waited > '1s')");
	$reader->do('COMMIT');
	is($ddl->error, undef, 'a wait that is logged');
	my ($pid, $holder) = ($ddl->pid, $reader->pid);
	my $text = slurp_file($node->logfile, $log);
	is( scalar(() = $text =~
			/LOG:  process $pid still waits at low priority for AccessExclusiveLock on relation \d+ of database \d+ after \d+\.\d{3} ms\n.*DETAIL:  Process holding the lock: $holder\./g
		),
		1,
		'one line after deadlock_timeout');
	is( scalar(() = $text =~
			/LOG:  process $pid acquired AccessExclusiveLock on relation \d+ of database \d+ at low priority after \d+\.\d{3} ms\n/g
		),
		1,
		'one line at the end');
	unlike($text, qr/still waiting for ShareLock on virtual transaction/, 'none for each sleep');
};

subtest 'temporary tables are left alone' => sub {
	$ddl->do("SET lock_timeout = '1min'; SET client_min_messages = notice");
	my $noticed = '';
	local $SIG{__WARN__} = sub { $noticed .= $_[0] };
	$ddl->do('CREATE TEMP TABLE mine (id int); INSERT INTO mine VALUES (1)');
	$ddl->{dbh}->{PrintWarn} = 1;
	$ddl->do('ALTER TABLE mine ALTER id TYPE int USING probe(id)');
	like($noticed, qr/lock_timeout is 1min/, 'a temporary table is left alone');
	$noticed = '';
	$ddl->do('ALTER TABLE probed ALTER id TYPE int USING probe(id)');
	like($noticed, qr/lock_timeout is 1min/, 'in another the waits are watched from outside');
	$ddl->{dbh}->{PrintWarn} = 0;
	$ddl->do('RESET ALL');
	is_clean($ddl, 'after a temporary table');
};

subtest 'NOWAIT, and transactions that only read' => sub {
	$ddl->do("SET pg_lockguard.ddl_commands = 'LOCK TABLE, ALTER TABLE'");
	$ddl->send('LOCK TABLE users');
	like($ddl->error, qr/LOCK TABLE can only be used in transaction blocks/,
		'LOCK TABLE outside of a transaction is what it is');
	read_and_idle($reader);
	$ddl->do('BEGIN');
	$ddl->send('LOCK TABLE users NOWAIT');
	like($ddl->error, qr/could not obtain lock on relation "users"/, 'NOWAIT does not wait');
	$ddl->do('ROLLBACK');
	$ddl->do('BEGIN READ ONLY');
	$ddl->send(add_column());
	like($ddl->error, qr/cannot execute ALTER TABLE in a read-only transaction/, 'nor does a read-only transaction');
	$ddl->do('ROLLBACK');
	# But it may REINDEX and CLUSTER.
	$ddl->do("SET pg_lockguard.ddl_commands = 'all'; SET default_transaction_read_only = on");
	for my $statement ('REINDEX TABLE users', 'CLUSTER users USING users_pkey')
	{
		$reader->do('LOCK TABLE users IN ROW EXCLUSIVE MODE');
		$ddl->send($statement);
		await_low_priority($ddl);
		$witness->do('INSERT INTO users SELECT WHERE false');
		$reader->do('COMMIT; BEGIN');
		is($ddl->error, undef, "$statement where transactions are read-only: at low priority");
	}
	$reader->do('COMMIT');
	$ddl->do('RESET ALL');
};

# It has no client and no patience, and PostgreSQL words its cancel requests differently.
subtest 'DDL of a function that an autovacuum worker runs is as without the guard' => sub {
	$witness->do(q{
		CREATE FUNCTION alters(id int) RETURNS int LANGUAGE plpgsql AS $$
		BEGIN
			IF (SELECT backend_type = 'autovacuum worker' FROM pg_stat_activity WHERE pid = pg_backend_pid()) THEN
				ALTER TABLE public.users ALTER id SET DEFAULT 7;
			END IF;
			RETURN id;
		END $$;
		CREATE FUNCTION seems_immutable(id int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$
		BEGIN
			RETURN public.alters(id);
		END $$;
		CREATE TABLE indexed (id int) WITH (autovacuum_analyze_threshold = 0, autovacuum_analyze_scale_factor = 0);
		CREATE INDEX ON indexed (seems_immutable(id))});
	read_and_idle($reader);
	my $log = -s $node->logfile;
	$witness->do('INSERT INTO indexed VALUES (1)');
	$node->safe_psql('postgres', q{ALTER SYSTEM SET autovacuum_naptime = '1s'; ALTER SYSTEM SET autovacuum = on; SELECT pg_reload_conf()});
	await($node, 'the worker stands in the queue', q{SELECT EXISTS (SELECT FROM pg_stat_activity JOIN pg_locks USING (pid)
		WHERE backend_type = 'autovacuum worker' AND NOT granted AND relation = 'users'::regclass AND waitstart < clock_timestamp() - interval '700 ms')});
	$reader->do('COMMIT');
	await($node, 'it has done its work', q{SELECT last_autoanalyze IS NOT NULL FROM pg_stat_user_tables WHERE relname = 'indexed'});
	unlike(slurp_file($node->logfile, $log), qr/ERROR:.*autovacuum/, 'it was not cancelled');
	$node->safe_psql('postgres', q{ALTER SYSTEM RESET autovacuum; ALTER SYSTEM RESET autovacuum_naptime; SELECT pg_reload_conf()});
	$witness->do('DROP TABLE indexed; DROP FUNCTION seems_immutable; DROP FUNCTION alters');
};

subtest 'who may not have the lock does not get to wait for it' => sub {
	my $other = session($node, 'other', user => 'other');
	read_and_idle($reader, 'owned');
	for my $statement (
		'ALTER TABLE owned ADD COLUMN x int',
		'ALTER TABLE users ADD COLUMN x int, DROP COLUMN name',
		'ALTER TABLE owned RENAME TO mine',
		'ALTER TABLE owned SET SCHEMA pg_catalog')
	{
		$other->send($statement);
		like($other->error, qr/must be owner of table/, "$statement: PostgreSQL's own error, at once");
		is($other->sqlstate, '42501', "$statement: its SQLSTATE");
		is_clean($other, $statement);
	}
	$reader->do('COMMIT');
	forget_sessions($other);
};

subtest 'the relation is altered, dropped, replaced' => sub {
	for my $case (
		[   'renamed',
			'ALTER TABLE thing RENAME TO thing_2', qr/relation "thing" does not exist/,
			'DROP TABLE thing_2' ],
		[ 'dropped', 'DROP TABLE thing', qr/relation "thing" does not exist/, '' ],
		[   're-owned',
			'ALTER TABLE thing OWNER TO other', qr/must be owner of table thing/,
			'DROP TABLE thing' ],
		[   'made a view of',
			'DROP TABLE thing; CREATE VIEW thing AS SELECT 1 AS id; ALTER VIEW thing OWNER TO owner',
			qr/ALTER action ADD COLUMN cannot be performed on relation "thing"/, 'DROP VIEW thing' ])
	{
		my ($name, $change, $expected, $drop) = @$case;
		my $owner = session($node, 'owner', user => 'owner');
		$owner->do('CREATE TABLE thing (id int)');
		$reader->do('SET pg_lockguard.ddl_mode = off');
		read_and_idle($reader, 'thing');
		$owner->send('ALTER TABLE thing ADD COLUMN added int');
		await_low_priority($owner);
		$reader->do($_) for split /; /, $change;
		$reader->do('COMMIT');
		like($owner->error, $expected, "$name while it waits");
		is_clean($owner, "$name while it waits");
		$witness->do($drop) if $drop;
		forget_sessions($owner);
	}
};

subtest 'the relation is made anew' => sub {
	$witness->do('CREATE TABLE thing (id int)');
	read_and_idle($reader, 'thing');
	$ddl->send('ALTER TABLE thing ADD COLUMN added int');
	await_low_priority($ddl);
	$reader->do('ALTER TABLE thing RENAME TO former');
	$reader->do('CREATE TABLE thing (id int)');
	$reader->do('COMMIT');
	is($ddl->error, undef, 'recreated while it waits');
	is($witness->value("SELECT attrelid::regclass FROM pg_attribute WHERE attname = 'added'"),
		'thing', 'the name counts, as in PostgreSQL');
	$witness->do('DROP TABLE thing, former');
	$reader->do('RESET ALL');
};

subtest 'a lock that is given back early, and prepared transactions' => sub {
	$reader->do('BEGIN');
	$reader->do('SAVEPOINT s');
	$reader->do('SELECT count(*) FROM users');
	$ddl->send(add_column());
	await_low_priority($ddl);
	$reader->do('ROLLBACK TO s');
	is($ddl->error, undef, 'ROLLBACK TO SAVEPOINT releases the lock');
	$reader->do('COMMIT');

	$reader->do('BEGIN');
	$reader->do('INSERT INTO users (id) VALUES (1000)');
	$reader->do("PREPARE TRANSACTION 'forgotten'");
	$ddl->send(add_column());
	await_low_priority($ddl);
	is_deeply([ map { $_->{holders} } $witness->rows('SELECT holders FROM pg_lockguard_progress') ],
		[ [0] ], 'a prepared transaction is a holder without a pid');
	is( tree($node, qw(blocked_by gid blocker_mode)),
		"forgotten | - | forgotten | -\n└─ ddl | 0 | - | RowExclusiveLock\n",
		'and the root of the tree');
	$witness->do("COMMIT PREPARED 'forgotten'");
	is($ddl->error, undef, 'it goes when the prepared transaction has ended');

	$reader->do('BEGIN');
	$reader->do('INSERT INTO users (id) VALUES (1001)');
	$reader->do("PREPARE TRANSACTION 'left'");
	$ddl->do("SET pg_lockguard.ddl_max_wait = '100ms'; SET pg_lockguard.ddl_on_timeout = terminate");
	$ddl->send(add_column());
	like($ddl->error, qr/Blocked by prepared transaction "left"/, 'a prepared transaction can not be terminated');
	$witness->do("ROLLBACK PREPARED 'left'");
	$ddl->do('RESET ALL');
};

ends_well($node);
done_testing();
