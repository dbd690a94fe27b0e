# Statements inside of a guarded one, and statements that need no subtransaction, because nobody else
# can be in their way or their transaction has their locks already.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LockGuard;
use LockGuard::LowPriority;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node('nesting', "shared_preload_libraries = 'pg_lockguard'", "deadlock_timeout = '200ms'",
	"pg_lockguard.ddl_lock_timeout = '200ms'");
$node->safe_psql(
	'postgres', q{
	CREATE TABLE users (id int PRIMARY KEY);
	CREATE TABLE orders (id int);
	CREATE FUNCTION alter_orders() RETURNS event_trigger LANGUAGE plpgsql AS $$
	BEGIN
		IF current_query() !~ 'orders' THEN
			ALTER TABLE orders ADD COLUMN IF NOT EXISTS nested int;
		END IF;
	END $$;
});

my $reader = session($node, 'reader');
my $ddl = session($node, 'ddl');
my $witness = session($node, 'witness');

# How many transaction ids a transaction of $ddl takes.
sub ids_taken
{
	my $work = shift;
	my $before = $witness->value('SELECT pg_current_xact_id()::text::bigint');
	$work->();
	return $witness->value('SELECT pg_current_xact_id()::text::bigint') - $before - 1;
}

subtest 'a nested statement does not wait patiently while the outer one has its locks for good' => sub {
	$witness->do(q{CREATE EVENT TRIGGER nesting ON ddl_command_end WHEN TAG IN ('ALTER TABLE') EXECUTE FUNCTION alter_orders()});

	# In the queue, after ddl_max_wait.
	$ddl->do("SET pg_lockguard.ddl_max_wait = '50ms'; SET pg_lockguard.ddl_on_timeout = queue");
	my $users_reader = session($node, 'users_reader');
	$users_reader->do('BEGIN');
	$users_reader->do('SELECT FROM users');
	read_and_idle($reader, 'orders');
	$ddl->send('ALTER TABLE users ADD COLUMN c1 int');
	await($node, 'it queues', "SELECT EXISTS (SELECT FROM pg_locks WHERE pid = ? AND NOT granted AND relation = 'users'::regclass)",
		$ddl->pid);
	$users_reader->do('COMMIT');
	like($ddl->error, qr/DETAIL:  ALTER TABLE waited \S+ m?s for AccessExclusiveLock on public\.orders\. Blocked by PID/,
		'in the queue: it gives up after ddl_lock_timeout');
	is($ddl->sqlstate, '55P03', 'by its SQLSTATE');
	$ddl->do('RESET ALL');

	# A temporary table.
	$ddl->do('CREATE TEMP TABLE mine (id int)');
	$ddl->send('ALTER TABLE mine ADD COLUMN c1 int');
	like($ddl->error, qr/AccessExclusiveLock on public\.orders\. Blocked by PID/, 'a temporary table: the same');
	is($witness->value(q{SELECT sum(1 + repeats) FROM pg_lockguard_events WHERE kind = 'ddl_timeout' AND pid = ?}, $ddl->pid),
		2, 'both are in the record');

	$reader->do('COMMIT');
	$witness->do('DROP EVENT TRIGGER nesting');
	forget_sessions($users_reader);
};

subtest 'what this transaction has created, or has locked, needs no subtransaction' => sub {
	my $taken = ids_taken(sub {
		$ddl->do('BEGIN');
		$ddl->do('CREATE TABLE fresh (id int)');
		$ddl->do("ALTER TABLE fresh ADD COLUMN c$_ int") for 1 .. 20;
		$ddl->do('ALTER TABLE users ADD COLUMN IF NOT EXISTS first int');
		$ddl->do("ALTER TABLE users ALTER first SET DEFAULT $_") for 1 .. 20;
		$ddl->do('COMMIT');
	});
	is($taken, 2, 'a transaction id for it, and one for the first statement on an old table');

	$taken = ids_taken(sub {
		$ddl->do('BEGIN');
		$ddl->do('CREATE TEMP TABLE passing (id int)');
		$ddl->do("ALTER TABLE passing ADD COLUMN c$_ int") for 1 .. 20;
		$ddl->do('ROLLBACK');
	});
	is($taken, 1, 'none for a temporary table');
};

subtest 'a lock that turns up inside of such a statement' => sub {
	$witness->do(q{CREATE FUNCTION lock_orders(int) RETURNS int VOLATILE LANGUAGE plpgsql AS
		$$ BEGIN LOCK TABLE orders; RETURN $1; END $$});
	read_and_idle($reader, 'orders');
	$ddl->do('BEGIN');
	$ddl->do('CREATE TABLE fresh2 AS SELECT 1 AS id');
	$ddl->send('ALTER TABLE fresh2 ALTER id TYPE int USING lock_orders(id)');
	like($ddl->error, qr/DETAIL:  ALTER TABLE waited (?:[2-9]\d\d ms|\S+ s) for AccessExclusiveLock on public\.orders\. Blocked by PID/,
		'is waited for by ddl_lock_timeout');
	is($ddl->sqlstate, '55P03', 'by its SQLSTATE');
	$ddl->do('ROLLBACK');
	$reader->do('COMMIT');

	# Another relation of such a statement is waited for as ever.
	read_and_idle($reader, 'users');
	$ddl->do('BEGIN');
	$ddl->do('CREATE TABLE fresh3 (user_id int)');
	$ddl->send('ALTER TABLE fresh3 ADD FOREIGN KEY (user_id) REFERENCES users');
	is($ddl->error, undef, 'a reader is not in the way of a foreign key');
	$ddl->do('ROLLBACK');
	$reader->do('COMMIT');
	$reader->do('BEGIN');
	$reader->do('INSERT INTO users VALUES (1)');
	$ddl->do('BEGIN');
	$ddl->do('CREATE TABLE fresh3 (user_id int)');
	$ddl->send('ALTER TABLE fresh3 ADD FOREIGN KEY (user_id) REFERENCES users');
	await($node, 'it waits at low priority',
		q{SELECT EXISTS (SELECT FROM pg_lockguard_progress WHERE pid = ? AND relation = 'public.users' AND waited > '500 ms')}, $ddl->pid);
	$reader->do('COMMIT');
	is($ddl->error, undef, 'the other relation is waited for at low priority');
	$ddl->do('COMMIT');
};

subtest 'a lock that a parallel worker waits for' => sub {
	$witness->do(q{
		CREATE TABLE big AS SELECT i AS id FROM generate_series(1, 5000) i;
		-- Workers read orders; the leader leaves something to do to them, until one of them waits.
		CREATE FUNCTION slow(int) RETURNS int IMMUTABLE PARALLEL SAFE LANGUAGE plpgsql AS $$
		BEGIN
			IF (SELECT leader_pid FROM pg_stat_activity WHERE pid = pg_backend_pid()) IS NOT NULL THEN
				PERFORM FROM public.orders; -- from 17 on an index is built without the search path
			ELSE
				WHILE EXISTS (SELECT FROM pg_locks WHERE relation = 'public.orders'::regclass AND mode = 'AccessExclusiveLock' AND granted)
					AND NOT EXISTS (SELECT FROM pg_locks WHERE relation = 'public.orders'::regclass AND NOT granted) LOOP
					PERFORM pg_sleep(0.001);
				END LOOP;
			END IF;
			RETURN $1;
		END $$});
	$ddl->do("SET pg_lockguard.ddl_commands = 'CREATE INDEX'; SET min_parallel_table_scan_size = 0");
	$ddl->do('SET max_parallel_maintenance_workers = 4');
	$reader->do('BEGIN');
	$reader->do('LOCK TABLE orders');
	$ddl->send('CREATE INDEX big_slow ON big (slow(id))');
	await($node, 'a worker waits',
		'SELECT EXISTS (SELECT FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE leader_pid = ? AND NOT granted)', $ddl->pid);
	# Only where somebody waits for the table is that for too long.
	$witness->do('DELETE FROM big WHERE id < 0');
	await($node, 'an attempt has ended so',
		'SELECT EXISTS (SELECT FROM pg_lockguard_progress WHERE pid = ? AND attempt > 0)', $ddl->pid);
	ok(!$ddl->ready, 'the statement goes on');
	$reader->do('COMMIT');
	is($ddl->error, undef, 'and is done when the lock is free');
	$ddl->do('RESET ALL');
};

ends_well($node);
done_testing();
