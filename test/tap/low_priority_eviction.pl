# pg_lockguard.ddl_on_timeout = terminate: whom a statement ends whose patience is over, and whom
# not.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LockGuard;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node('eviction', "shared_preload_libraries = 'pg_lockguard'", "deadlock_timeout = '200ms'");
$node->safe_psql(
	'postgres', q{
	CREATE ROLE other LOGIN;
	CREATE TABLE big AS SELECT i AS id FROM generate_series(1, 20000) i;
	ANALYZE big;
	GRANT SELECT ON big TO other;
});

my $ddl = session($node, 'ddl');
my $witness = session($node, 'witness');
$ddl->do("SET pg_lockguard.ddl_max_wait = '100ms'; SET pg_lockguard.ddl_on_timeout = terminate");

sub ended_by_ddl
{
	return map { $_->{blocker_pid} }
	  $witness->rows("SELECT blocker_pid FROM pg_lockguard_events WHERE kind = 'ddl_blocker_terminated' AND pid = ? ORDER BY id",
		$ddl->pid);
}

subtest 'a parallel query is one session' => sub {
	my $query = session($node, 'query', user => 'other');
	$query->do('SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0');
	$query->do('SET max_parallel_workers_per_gather = 4');
	$query->send('SELECT count(*) FROM big WHERE pg_sleep(0.01) IS NOT NULL');
	await($node, 'the parallel workers hold the lock',
		"SELECT count(*) > 1 FROM pg_locks WHERE relation = 'big'::regclass AND granted");
	$ddl->send('ALTER TABLE big ADD COLUMN c1 int');
	is($ddl->error, undef, 'the statement gets its lock');
	like($query->error, qr/terminating connection/, 'the session has ended');
	is_deeply([ ended_by_ddl() ], [ $query->pid ], 'its leader was ended, once');
	forget_sessions($query);
};

subtest 'a holder that does not die at once' => sub {
	my $log = -s $node->logfile;
	my $frozen = session($node, 'frozen', user => 'other');
	my $late = session($node, 'late', user => 'other');
	$frozen->do('BEGIN');
	$frozen->do('SELECT FROM big LIMIT 1');
	kill 'STOP', $frozen->pid;
	$ddl->do("SET pg_lockguard.ddl_lock_timeout = '300ms'");
	$ddl->send('ALTER TABLE big ADD COLUMN c2 int');
	await($node, 'the statement stands in the queue',
		"SELECT EXISTS (SELECT FROM pg_locks WHERE pid = ? AND NOT granted AND relation = 'big'::regclass)", $ddl->pid);
	$late->do('BEGIN');
	is($late->value('SELECT count(*) FROM big WHERE id = 1'), 1, 'who comes later waits behind it, and reads then');
	like($ddl->error, qr/canceling statement due to lock timeout/, 'it stands there for ddl_lock_timeout, and fails');
	is($late->value('SELECT 1'), 1, 'who came later lives');
	$late->do('COMMIT');
	is(scalar(grep { $_ == $frozen->pid } ended_by_ddl()), 1, 'the holder was ended once');
	is(scalar(grep { $_ == $late->pid } ended_by_ddl()), 0, 'and nobody else');
	is(scalar(() = slurp_file($node->logfile, $log) =~ /LOG:  pg_lockguard: terminated PID/g), 1, 'which is logged once');
	kill 'CONT', $frozen->pid;
	forget_sessions($frozen, $late);
	$ddl->do('RESET pg_lockguard.ddl_lock_timeout');
};

subtest 'all, or nobody' => sub {
	my $mortal = session($node, 'mortal', user => 'other');
	my $prepared = session($node, 'prepared');
	$prepared->do('BEGIN');
	$prepared->do('LOCK TABLE big IN ACCESS SHARE MODE');
	$prepared->do("PREPARE TRANSACTION 'stays'");
	$mortal->do('BEGIN');
	$mortal->do('SELECT FROM big LIMIT 1');
	$ddl->send('ALTER TABLE big ADD COLUMN c3 int');
	like($ddl->error, qr/prepared transaction "stays"/, 'where one may not be ended, the statement fails');
	is($mortal->value('SELECT 1'), 1, 'and nobody is ended');
	$witness->do("ROLLBACK PREPARED 'stays'");
	forget_sessions($mortal, $prepared);
};

forget_sessions();
$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP:|terminated by signal/, 'no crash');

done_testing();
