# pg_lockguard.ddl_on_timeout = terminate: whom a statement ends whose patience is over, and whom
# not.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LockGuard;
use LockGuard::LowPriority;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node('eviction', "shared_preload_libraries = 'pg_lockguard'", "deadlock_timeout = '200ms'");
$node->safe_psql(
	'postgres', q{
	CREATE ROLE owner LOGIN;
	CREATE ROLE other LOGIN;
	CREATE TABLE big AS SELECT i AS id FROM generate_series(1, 20000) i;
	ANALYZE big;
	GRANT SELECT ON big TO other;
	CREATE TABLE owned (id int);
	ALTER TABLE owned OWNER TO owner;
	GRANT SELECT ON owned TO PUBLIC;
});

my $ddl = session($node, 'ddl');
my $witness = session($node, 'witness');
$ddl->do("SET pg_lockguard.ddl_max_wait = '100ms'; SET pg_lockguard.ddl_on_timeout = terminate");

# Whom the statements of $ddl have ended.
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
	freeze($node, $frozen);
	# A time in which it is seen there.
	$ddl->do("SET pg_lockguard.ddl_lock_timeout = '3s'");
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

subtest 'the session in the way is ended, and told why' => sub {
	my $victim = session($node, 'victim', user => 'other');
	read_and_idle($victim, 'owned');
	my $log = -s $node->logfile;
	$ddl->send(add_column('owned'));
	is($ddl->error, undef, 'ddl_on_timeout = terminate: it gets its lock');
	my $pid = $ddl->pid;
	$victim->send('SELECT 1');
	like(
		$victim->error,
		qr/DETAIL:  pg_lockguard: ended by PID $pid, whose ALTER TABLE waited \S+ m?s for AccessExclusiveLock on relation \d+ \(pg_lockguard\.ddl_on_timeout = terminate\)/,
		'the victim is told why');
	my $victim_pid = $victim->pid;
	like(slurp_file($node->logfile, $log),
		qr/LOG:  pg_lockguard: terminated PID $victim_pid, which held a lock for which PID $pid \(ALTER TABLE\) waited/,
		'and so is the log');
	is_clean($ddl, 'after ddl_on_timeout = terminate');
	forget_sessions($victim);
};

# Settings are the superuser's, the right is checked all the same.
subtest 'not by a role that may not end the session' => sub {
	$node->safe_psql('postgres',
		"ALTER ROLE owner SET pg_lockguard.ddl_max_wait = '100ms'; ALTER ROLE owner SET pg_lockguard.ddl_on_timeout = terminate");
	my $reader = session($node, 'reader');
	my $owner = session($node, 'owner', user => 'owner');
	my $victim = session($node, 'victim', user => 'other');
	read_and_idle($victim, 'owned');
	$owner->send(add_column('owned'));
	my ($error, $pid) = ($owner->error, $victim->pid);
	is($owner->sqlstate, '55P03', 'a role that may not end the session gets the error');
	like($error, qr/Blocked by PID $pid \(app "victim", user other\)/, 'which names the session');
	unlike($error, qr/SELECT count/, 'but not what others may not see');
	is($victim->value('SELECT 1'), 1, 'the session lives');

	$node->safe_psql('postgres', 'GRANT pg_signal_backend TO owner');
	$owner->send(add_column('owned'));
	is($owner->error, undef, 'with pg_signal_backend it may');
	$victim->send('SELECT 1');
	like($victim->error, qr/terminating connection/, 'the session has ended');

	# Never a superuser's.
	read_and_idle($reader, 'owned');
	$owner->send(add_column('owned'));
	like($owner->error, qr/lock timeout/, "a superuser's session is not ended");
	is($reader->value('SELECT 1'), 1, "the superuser's session lives");
	$reader->do('COMMIT');
	forget_sessions($owner, $victim, $reader);
	$node->safe_psql('postgres', 'ALTER ROLE owner RESET ALL; REVOKE pg_signal_backend FROM owner');
};

ends_well($node);
done_testing();
