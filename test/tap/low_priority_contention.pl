# Statements at low priority where many are about: tables without a gap, guarded statements among
# themselves, autovacuum in the way, the worker that ends who blocks them; and what is left of many.
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
	'contention',
	"shared_preload_libraries = 'pg_lockguard'",
	"deadlock_timeout = '300ms'",
	'max_prepared_transactions = 10',
	'autovacuum = on',
	"autovacuum_naptime = '1s'",
	"pg_lockguard.worker_interval = '50ms'");

$node->safe_psql(
	'postgres', q{
	CREATE ROLE app LOGIN;
	CREATE TABLE busy (id int PRIMARY KEY, n int) WITH (autovacuum_enabled = off);
	INSERT INTO busy SELECT i, 0 FROM generate_series(1, 100) i;
	CREATE TABLE quiet (id int) WITH (autovacuum_enabled = off);
	GRANT ALL ON busy, quiet TO PUBLIC;
	CREATE TABLE parted (id int) PARTITION BY RANGE (id);
	CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (10);
	CREATE TABLE parted_2 PARTITION OF parted FOR VALUES FROM (10) TO (20);
});

my $ddl = session($node, 'ddl');
my $witness = session($node, 'witness');

# Until pg_lockguard_progress has a row of that kind.
sub await_progress
{
	my ($what, $condition, @values) = @_;
	await($node, $what, "SELECT EXISTS (SELECT FROM pg_lockguard_progress WHERE $condition)", @values);
	return;
}

subtest 'readers without a gap' => sub {
	my $load = start_load($node, 12, "BEGIN;\nSELECT count(*) FROM busy;\nSELECT pg_sleep(0.02);\nCOMMIT;\n");
	for my $round (1 .. 3)
	{
		$ddl->send(add_column('busy'));
		is($ddl->error, undef, "readers without a gap: done ($round)");
	}
	stop_load($load);
};

# Each of them holds the table and its partitions.
subtest 'readers of a partitioned table without a gap do not starve a statement' => sub {
	# Only so that it fails, where it would never come to an end.
	$ddl->do("SET pg_lockguard.ddl_max_wait = '30s'");
	my $log = -s $node->logfile;
	my $load = start_load($node, 12, "BEGIN;\nSELECT count(*) FROM parted;\nSELECT pg_sleep(0.02);\nCOMMIT;\n");
	for my $round (1 .. 3)
	{
		$ddl->send("ALTER TABLE parted ADD COLUMN c$round int");
		is($ddl->error, undef, "done ($round)");
	}
	stop_load($load);
	unlike(slurp_file($node->logfile, $log), qr/WARNING/, 'no warning');
	$ddl->do('RESET ALL');
};

subtest 'writers without a gap, and one that sits idle' => sub {
	my $load = start_load($node, 8,
		"\\set id random(1, 100)\nBEGIN;\nUPDATE busy SET n = n + 1 WHERE id = :id;\nSELECT pg_sleep(0.01);\nCOMMIT;\n");
	my $idler = session($node, 'idler');
	$idler->do('BEGIN');
	$idler->do('SELECT FROM busy');
	$ddl->send(add_column('busy'));
	await_progress('a number of attempts', 'attempt > 3');
	my $stall = $witness->value('SELECT longest_stall FROM pg_lockguard_progress');
	is($stall, '00:00:00', 'no burst while one of the holders sits idle');
	is($witness->value("SELECT count(*) FROM pg_lockguard_progress WHERE ? = ANY(holders)", $idler->pid),
		1, 'which is among the holders');
	$idler->do('COMMIT');
	is($ddl->error, undef, 'writers without a gap: done after the idle one has gone');
	stop_load($load);
	forget_sessions($idler);
};

# Each holder outlasts it.
subtest 'a burst that is the last resort is bounded' => sub {
	my $load = start_load($node, 6, "\\sleep 20 ms\nBEGIN;\nSELECT count(*) FROM busy;\nSELECT pg_sleep(0.4);\nCOMMIT;\n");
	$ddl->do("SET pg_lockguard.ddl_lock_timeout = '50ms'; SET pg_lockguard.ddl_max_wait = '2s'");
	$ddl->send(add_column('busy'));
	my $error = $ddl->error;
	if (defined $error)
	{
		like($error, qr/canceling statement due to lock timeout/, 'transactions beyond the burst: patience ends');
	}
	else { pass('transactions beyond the burst: there was a gap') }
	$ddl->do('RESET ALL');
	stop_load($load);
};

subtest 'ten statements for one table' => sub {
	my $holder = session($node, 'holder');
	$holder->do('BEGIN');
	$holder->do('SELECT FROM quiet');
	my @crowd = map { session($node, "crowd_$_") } 1 .. 10;
	$_->send(add_column('quiet')) for @crowd;
	await($node, 'ten of them wait', "SELECT count(*) = 10 FROM pg_lockguard_progress WHERE phase = 'waiting'");
	$witness->do("SET statement_timeout = '20s'");
	is($witness->value('SELECT count(*) FROM quiet'), 0, 'ten guarded statements: nobody waits behind them');
	is($witness->value('SELECT count(*) FROM lock_tree() WHERE blocked_by = ARRAY[?::int]', $holder->pid),
		10, 'all of them hang under the holder');
	is($witness->value('SELECT blocks FROM lock_tree() WHERE depth = 0'), 10, 'which blocks ten');
	$holder->do('COMMIT');
	my @errors = grep { defined } await_end(@crowd);
	is("@errors", '', 'all ten are done');
	is( $witness->value("SELECT count(*) FROM pg_attribute WHERE attrelid = 'quiet'::regclass AND attname ~ '^c[0-9]'"),
		10, 'and all ten columns are there');
	forget_sessions($holder, @crowd);
};

subtest 'the worker ends who blocks them' => sub {
	my $idler = session($node, 'idler', user => 'app');
	$idler->do('BEGIN');
	$idler->do('SELECT FROM quiet');
	my $log = -s $node->logfile;
	$ddl->send(add_column('quiet'));
	await_progress('it waits', "phase = 'waiting'");
	configure($node, blocker_min_idle => '100ms', blocker_min_wait => '100ms', blocker_action => 'terminate');
	is($ddl->error, undef, 'the worker ends an idle session that blocks a statement at low priority');
	my ($pid, $blocked) = ($idler->pid, $ddl->pid);
	is_logged($node, qr/LOG:  pg_lockguard: terminated PID $pid .* while blocking PID $blocked \(ALTER TABLE, AccessExclusiveLock on relation \d+\)/,
		'and says so', $log);
	configure($node, blocker_action => 'off');
	forget_sessions($idler);
};

# A table that an autovacuum worker is slow with.
sub start_vacuum
{
	my ($table, $options) = @_;
	$node->safe_psql(
		'postgres', qq{
		CREATE TABLE $table (id int, filler text) WITH (autovacuum_enabled = off);
		INSERT INTO $table SELECT i, repeat('x', 100) FROM generate_series(1, 20000) i;
		DELETE FROM $table WHERE id % 2 = 0;
		ALTER TABLE $table SET (autovacuum_enabled = on, autovacuum_vacuum_threshold = 1,
			autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_cost_delay = 100,
			autovacuum_vacuum_cost_limit = 1 $options)});
	await($node, "autovacuum of $table",
		q{SELECT EXISTS (SELECT FROM pg_stat_activity JOIN pg_locks USING (pid) WHERE backend_type = 'autovacuum worker'
			AND relation = ?::regclass AND mode = 'ShareUpdateExclusiveLock' AND granted)}, $table);
	return;
}

subtest 'a worker gives way' => sub {
	start_vacuum('vacuumed', '');
	my $log = -s $node->logfile;
	$ddl->send(add_column('vacuumed'));
	is($ddl->error, undef, 'an autovacuum worker gives way');
	like(slurp_file($node->logfile, $log), qr/ERROR:  canceling autovacuum task/, 'because it was cancelled');
	$node->safe_psql('postgres', 'DROP TABLE vacuumed');
};

# The table is 100 000 transactions old.
subtest 'a worker against wraparound does not' => sub {
	$node->safe_psql(
		'postgres', q{
		CREATE TABLE burnt (id int);
		CREATE TABLE old (id int, filler text) WITH (autovacuum_enabled = off);
		INSERT INTO old SELECT i, repeat('x', 100) FROM generate_series(1, 20000) i;
		DO $$ BEGIN FOR i IN 1..100100 LOOP
			BEGIN
				INSERT INTO burnt VALUES (1);
			EXCEPTION WHEN OTHERS THEN RAISE;
			END;
		END LOOP; END $$;
		ALTER TABLE old SET (autovacuum_enabled = off, autovacuum_freeze_max_age = 100000, autovacuum_freeze_table_age = 0,
			autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1)});
	await($node, 'autovacuum against wraparound',
		q{SELECT EXISTS (SELECT FROM pg_stat_activity JOIN pg_locks USING (pid) WHERE query LIKE '%public.old (to prevent wraparound)'
			AND relation = 'old'::regclass AND mode = 'ShareUpdateExclusiveLock' AND granted)});
	$ddl->send(add_column('old'));
	await_low_priority($ddl);
	await_progress('the progress row says so',
		q{pid = ? AND next_step LIKE 'waits for an autovacuum worker against wraparound, which does not give way%'}, $ddl->pid);
	pass('against wraparound: the progress row says so');
	$witness->value('SELECT pg_cancel_backend(?)', $ddl->pid);
	like($ddl->error, qr/canceling statement due to user request/, 'cancelled');
	$ddl->do("SET pg_lockguard.ddl_max_wait = '600ms'");
	$ddl->send(add_column('old'));
	my $error = $ddl->error;
	like($error, qr/Blocked by autovacuum worker PID \d+ .*against wraparound/, 'and so does the error');
	like($error, qr/HINT:  This autovacuum worker works against transaction ID wraparound and does not give way/,
		'with a hint');
	$ddl->do("SET pg_lockguard.ddl_on_timeout = terminate; SET pg_lockguard.ddl_max_wait = '300ms'");
	$ddl->send(add_column('old'));
	like($ddl->error, qr/against wraparound/, 'nor is it ended');
	$ddl->do('RESET ALL');
};

subtest 'many statements leave no memory behind' => sub {
	my $holder = session($node, 'holder');
	$ddl->do("SET lock_timeout = '3ms'");
	# Half of them in vain.
	my $run = sub {
		for my $i (1 .. $_[0])
		{
			$ddl->do("ALTER TABLE quiet ALTER id SET STATISTICS $i");
			$holder->do('BEGIN');
			$holder->do('LOCK TABLE quiet IN SHARE UPDATE EXCLUSIVE MODE');
			eval { $ddl->do("ALTER TABLE quiet ALTER id SET STATISTICS $i"); fail('it must fail') };
			$holder->do('COMMIT');
		}
	};
	# All but the caches. 18 replaced the name of the parent by numbers.
	my $cached = $node->pg_version >= 18
	  ? q{path && ARRAY(SELECT path[level] FROM c WHERE name = 'CacheMemoryContext')}
	  : q{'CacheMemoryContext' IN (name, parent)};
	my $memory = sub {
		return $ddl->value("WITH c AS MATERIALIZED (SELECT * FROM pg_backend_memory_contexts)
			SELECT sum(total_bytes) FROM c WHERE ($cached) IS NOT TRUE");
	};
	$run->(20);
	$memory->();
	my $before = $memory->();
	$run->(150);
	is($memory->(), $before, 'they leave no memory behind');
	is($ddl->value("SELECT count(*) FROM pg_backend_memory_contexts WHERE name LIKE 'pg_lockguard%'"),
		0, 'nor a memory context');
	$ddl->do('RESET ALL');
	forget_sessions($holder);
};

# A slot of a prepared transaction is made anew for each of them, under no lock that a look takes.
subtest 'transactions that are being prepared all the time, while holders are looked for' => sub {
	my $load = start_load($node, 4,
		"\\set gid random(1, 1000000000)\nBEGIN;\nINSERT INTO quiet VALUES (1);\nPREPARE TRANSACTION ':gid';\nCOMMIT PREPARED ':gid';\n");
	my $altered = start_load($node, 2, "ALTER TABLE quiet SET (fillfactor = 90);\nSELECT count(holders) FROM pg_lockguard_progress;\n");
	my $before = $witness->value('SELECT statements FROM pg_stat_lockguard');
	await($node, 'many statements', 'SELECT statements > ? FROM pg_stat_lockguard', $before + 3000);
	stop_load($altered);
	stop_load($load);
};

ends_well($node);
done_testing();
