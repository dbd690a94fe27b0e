# Where statements at low priority run: in functions, transactions, pipelines, and around event
# triggers.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use IPC::Run ();
use LockGuard;
use LockGuard::LowPriority;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node(
	'statements',
	"shared_preload_libraries = 'pg_lockguard'",
	"deadlock_timeout = '200ms'");

$node->safe_psql(
	'postgres', q{
	CREATE TABLE users (id int PRIMARY KEY, name text);
	INSERT INTO users SELECT i, 'user ' || i FROM generate_series(1, 100) i;
	CREATE TABLE orders (id int PRIMARY KEY);
});

my $reader = session($node, 'reader');
my $ddl = session($node, 'ddl');
my $witness = session($node, 'witness');
$witness->do("SET statement_timeout = '20s'");

subtest 'functions, DO blocks, procedures, transactions, pipelines' => sub {
	# Functions, DO blocks, procedures
	$ddl->do(q{
		CREATE FUNCTION alter_users(name text) RETURNS void LANGUAGE plpgsql AS $$
		BEGIN
			EXECUTE format('ALTER TABLE users ADD COLUMN %I int', name);
		END $$});
	$ddl->do(q{
		CREATE PROCEDURE alter_twice(first text, second text) LANGUAGE plpgsql AS $$
		BEGIN
			EXECUTE format('ALTER TABLE users ADD COLUMN %I int', first);
			COMMIT;
			EXECUTE format('ALTER TABLE users ADD COLUMN %I int', second);
		END $$});
	for my $statement (
		q{SELECT alter_users('f1')},
		q{DO $$ BEGIN ALTER TABLE users ADD COLUMN d1 int; END $$},
		q{DO $$ BEGIN BEGIN ALTER TABLE users ADD COLUMN d2 int; EXCEPTION WHEN OTHERS THEN RAISE; END; END $$},
		q{CALL alter_twice('p1', 'p2')},
		q{BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1; ALTER TABLE users ADD COLUMN r1 int; COMMIT},
		q{BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT 1; ALTER TABLE users ADD COLUMN s1 int; COMMIT},
		q{ALTER TABLE users ADD COLUMN m1 int; ALTER TABLE users ADD COLUMN m2 int})
	{
		read_and_idle($reader);
		$ddl->send($statement);
		await_low_priority($ddl);
		is($witness->value('SELECT count(*) >= 100 FROM users'), 1, "$statement: nobody waits behind it");
		$reader->do('COMMIT');
		is($ddl->error, undef, "$statement: done");
		is_clean($ddl, $statement);
	}

	# An EXCEPTION block catches the error, and goes on in a sound transaction.
	read_and_idle($reader);
	$ddl->send(q{DO $$
		BEGIN
			SET LOCAL lock_timeout = '100ms';
			BEGIN
				ALTER TABLE users ADD COLUMN never int;
			EXCEPTION WHEN lock_not_available THEN
				INSERT INTO orders VALUES (2);
			END;
			BEGIN
				ALTER TABLE users ADD COLUMN never int;
			EXCEPTION WHEN lock_not_available THEN
				INSERT INTO orders VALUES (3);
			END;
			ALTER TABLE orders ADD COLUMN after_all int;
		END $$});
	is($ddl->error, undef, 'caught twice in EXCEPTION blocks');
	is($ddl->value('SELECT count(after_all) + count(*) FROM orders'), 2, 'and the rest is done');
	is_clean($ddl, 'after EXCEPTION blocks');
	$reader->do('COMMIT');

	# The extended protocol: prepared statements and pipelines.
	my $script = $node->basedir . '/pipeline.sql';
	append_to_file($script, "\\startpipeline\nINSERT INTO orders VALUES (10);\nALTER TABLE users ADD COLUMN pl1 int;\n"
		  . "ALTER TABLE users ADD COLUMN pl2 int;\n\\endpipeline\n");
	for my $protocol ('extended', 'prepared')
	{
		read_and_idle($reader);
		my $pgbench = IPC::Run::start(
			[ 'pgbench', '-n', '-t', '1', '-M', $protocol, '-f', $script, $node->connstr('postgres') ],
			'>', \my $out, '2>', \my $err);
		await($node, 'the pipeline waits',
			"SELECT EXISTS (SELECT FROM pg_lockguard_progress WHERE phase = 'waiting')");
		is($witness->value('SELECT count(*) >= 100 FROM users'), 1, "$protocol pipeline: nobody waits behind it");
		$reader->do('COMMIT');
		$pgbench->finish;
		like($out, qr{processed: 1/1}, "$protocol pipeline: done");
		is($witness->value('SELECT count(*) FROM pg_lockguard_progress'), 0, "$protocol pipeline: nothing published");
		$witness->do('ALTER TABLE users DROP COLUMN pl1, DROP COLUMN pl2');
		$witness->do('DELETE FROM orders');
	}
};

subtest 'event triggers' => sub {
	$witness->do(q{
		CREATE TABLE seen (event text);
		CREATE FUNCTION note_event() RETURNS event_trigger LANGUAGE plpgsql AS $$
		BEGIN
			INSERT INTO seen VALUES (tg_event || ' ' || tg_tag);
		END $$;
		CREATE EVENT TRIGGER at_start ON ddl_command_start EXECUTE FUNCTION note_event();
		CREATE EVENT TRIGGER at_end ON ddl_command_end EXECUTE FUNCTION note_event()});
	$witness->do('DELETE FROM seen');
	read_and_idle($reader);
	$ddl->send(add_column());
	await_low_priority($ddl);
	$reader->do('COMMIT');
	is($ddl->error, undef, 'with event triggers');
	is($witness->value("SELECT string_agg(event, ', ') FROM seen"),
		'ddl_command_start ALTER TABLE, ddl_command_end ALTER TABLE',
		'what they did in vain is gone: each has fired once');

	# What an event trigger alters in turn does not wait for its own.
	$witness->do(q{
		DROP EVENT TRIGGER at_start;
		CREATE OR REPLACE FUNCTION note_event() RETURNS event_trigger LANGUAGE plpgsql AS $$
		BEGIN
			IF current_query() LIKE 'ALTER TABLE users%' AND NOT EXISTS (SELECT FROM seen WHERE event = 'nested') THEN
				INSERT INTO seen VALUES ('nested');
				ALTER TABLE orders ADD COLUMN nested int;
			END IF;
		END $$});
	read_and_idle($reader, 'orders');
	$ddl->send(add_column());
	await_giving_back($ddl, 'users', $witness);
	await($node, 'it waits for the lock of the statement inside',
		"SELECT EXISTS (SELECT FROM pg_lockguard_progress WHERE phase = 'waiting' AND relation = 'public.orders')");
	is($witness->value('SELECT count(*) >= 100 FROM users'), 1, 'and has given its own back meanwhile');
	$reader->do('COMMIT');
	is($ddl->error, undef, 'both are done');
	is_clean($ddl, 'after a nested statement');
	$witness->do('DROP EVENT TRIGGER at_end');
};

# Of a row, and of a session that is in no transaction.
subtest 'locks of other kinds inside the statement' => sub {
	for my $case (
		[   'a row lock', 'UPDATE note SET text = text',
			'BEGIN', 'UPDATE note SET text = text', 'COMMIT', 'transaction %' ],
		[   'an advisory lock', 'PERFORM pg_advisory_xact_lock(7)',
			'SELECT 1', 'SELECT pg_advisory_lock(7)', 'SELECT pg_advisory_unlock(7)', 'advisory lock 7' ])
	{
		my ($name, $inside, $begin, $take, $release, $object) = @$case;
		$witness->do(qq{
			CREATE TABLE IF NOT EXISTS note AS SELECT 'x' AS text;
			CREATE FUNCTION take_lock() RETURNS event_trigger LANGUAGE plpgsql AS \$\$ BEGIN $inside; END \$\$});
		$witness->do(q{CREATE EVENT TRIGGER at_end ON ddl_command_end WHEN TAG IN ('ALTER TABLE') EXECUTE FUNCTION take_lock()});
		$reader->do($begin);
		$reader->do($take);
		$ddl->send(add_column());
		await_giving_back($ddl, 'users', $witness);
		await($node, "it waits for $name",
			'SELECT EXISTS (SELECT FROM pg_lockguard_progress WHERE relation LIKE ? AND attempt > 1)', $object);
		is($witness->value('SELECT count(*) >= 100 FROM users'), 1, "$name: it does not keep its own locks for long");
		$reader->do($release);
		is($ddl->error, undef, "$name: done when it is free");
		is_clean($ddl, $name);
		$witness->do('DROP EVENT TRIGGER at_end; DROP FUNCTION take_lock');
	}
};

# Their files are known by a map that no subtransaction may change.
subtest 'catalogs that others are found by' => sub {
	$ddl->do(q{SET pg_lockguard.ddl_commands = 'all'});
	for my $statement ('REINDEX TABLE pg_class', 'REINDEX INDEX pg_class_oid_index', 'REINDEX TABLE pg_database',
		'CLUSTER pg_class USING pg_class_oid_index', 'REINDEX TABLE pg_constraint')
	{
		ok(eval { $ddl->do($statement); 1 }, $statement) or diag($@);
	}
	$reader->do('BEGIN; LOCK TABLE pg_proc IN SHARE UPDATE EXCLUSIVE MODE');
	$ddl->send('REINDEX TABLE pg_proc');
	like($ddl->error, qr/lock timeout.*for ShareLock on pg_catalog\.pg_proc/s, 'it does not stand in a queue for long');
	$reader->do('COMMIT');
	$ddl->do('RESET pg_lockguard.ddl_commands');
};

ends_well($node);
done_testing();
