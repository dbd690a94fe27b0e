# What is told of a statement that has waited at low priority: how long, and when, in the record, the
# counters, the server log and pg_stat_statements.
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
	'account',
	"shared_preload_libraries = 'pg_stat_statements, pg_lockguard'",
	"deadlock_timeout = '20ms'",
	'log_lock_waits = on');
$node->safe_psql(
	'postgres', q{
	CREATE EXTENSION pg_stat_statements;
	CREATE TABLE users (id int);
	INSERT INTO users VALUES (1);
	CREATE TABLE note (id int);
	-- Holds the statement up in its work until an advisory lock can be had; advisory locks are polled
	-- for here, because a wait for one would be a wait for a lock.
	CREATE FUNCTION work(int) RETURNS int VOLATILE LANGUAGE plpgsql AS $$
	BEGIN
		WHILE NOT pg_try_advisory_xact_lock_shared(1) LOOP PERFORM pg_sleep(0.01); END LOOP;
		RETURN $1;
	END $$;
});

my $reader = session($node, 'reader');
my $ddl = session($node, 'ddl');
my $gate = session($node, 'gate');
my $witness = session($node, 'witness');

sub await_wait
{
	my $least = shift;
	await($node, "$least of waiting",
		'SELECT EXISTS (SELECT FROM pg_lockguard_progress WHERE pid = ? AND waited > ?::interval)', $ddl->pid, $least);
	return;
}

sub log_lines
{
	my ($from, $pattern) = @_;
	my $log = slurp_file($node->logfile, $from);
	return scalar(() = $log =~ /$pattern/g);
}

subtest 'the wait is told when it ends, and without the work' => sub {
	my $pid = $ddl->pid;
	my $log = -s $node->logfile;
	$gate->do('SELECT pg_advisory_lock(1)');
	read_and_idle($reader);
	$ddl->send('ALTER TABLE users ALTER id TYPE int USING work(id)');
	await_wait('300 ms');
	$reader->do('COMMIT');
	await($node, 'the record has it while the statement works',
		"SELECT EXISTS (SELECT FROM pg_lockguard_events WHERE kind = 'ddl_acquired' AND pid = ?)", $pid);
	ok(!$ddl->ready, 'which it does');
	is(log_lines($log, qr/LOG:  process $pid acquired AccessExclusiveLock on relation \d+ of database \d+ at low priority after/),
		1, 'so has the log');
	my $told = $witness->value("SELECT waited FROM pg_lockguard_events WHERE kind = 'ddl_acquired' AND pid = ?", $pid);
	await($node, 'work that lasts longer than the wait',
		q{SELECT clock_timestamp() - query_start > 2 * ?::interval + '1 s' FROM pg_stat_activity WHERE pid = ?}, $told, $pid);
	$gate->do('SELECT pg_advisory_unlock_all()');
	is($ddl->error, undef, 'it is done');
	is($witness->value("SELECT count(*) FROM pg_lockguard_events WHERE kind = 'ddl_acquired' AND pid = ?", $pid),
		1, 'it is told once');
	is( $witness->value("SELECT abs(wait_time - ?) < 1000 FROM pg_stat_lockguard",
			1000 * $witness->value("SELECT extract(epoch FROM ?::interval)", $told)),
		1, 'the counters have the wait alone');
};

subtest 'a line in the log after deadlock_timeout, and one at the end' => sub {
	my $pid = $ddl->pid;
	my $log = -s $node->logfile;
	read_and_idle($reader);
	$ddl->send('ALTER TABLE users ADD COLUMN c1 int');
	await_wait('1 s');
	$reader->do('COMMIT');
	is($ddl->error, undef, 'the statement has waited for long');
	is(log_lines($log, qr/LOG:  process $pid /), 2, 'two lines in all');
	is(log_lines($log, qr/LOG:  process $pid still waits at low priority for AccessExclusiveLock/), 1, 'it waits');
	is(log_lines($log, qr/LOG:  process $pid acquired AccessExclusiveLock .* at low priority after/), 1, 'it has its lock');
};

subtest 'with ddl_on_timeout = queue' => sub {
	my $pid = $ddl->pid;
	my $log = -s $node->logfile;
	$ddl->do("SET pg_lockguard.ddl_max_wait = '100ms'; SET pg_lockguard.ddl_on_timeout = queue");
	$gate->do('SELECT pg_advisory_lock(1)');
	read_and_idle($reader);
	$ddl->send('ALTER TABLE users ALTER id TYPE int USING work(id)');
	await($node, 'it queues',
		"SELECT EXISTS (SELECT FROM pg_locks WHERE pid = ? AND NOT granted AND relation = 'users'::regclass)", $pid);
	$reader->do('COMMIT');
	await($node, 'the log has the end of the wait', q{SELECT pg_read_file(?) ~ ?},
		$node->logfile, "process $pid acquired AccessExclusiveLock on relation \\d+ of database \\d+ in its queue after");
	ok(!$ddl->ready, 'while the statement works');
	$gate->do('SELECT pg_advisory_unlock_all()');
	is($ddl->error, undef, 'it is done');
	is(log_lines($log, qr/process $pid acquired .* at low priority/), 0, 'it did not get its lock at low priority');
	$ddl->do('RESET ALL');
};

subtest 'pg_stat_statements counts a statement that needed several attempts' => sub {
	$witness->do(q{CREATE FUNCTION lock_note() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN LOCK TABLE note; END $$});
	$witness->do('CREATE EVENT TRIGGER locking ON ddl_command_end EXECUTE FUNCTION lock_note()');
	$reader->do('BEGIN');
	$reader->do('SELECT FROM note');
	$ddl->send('ALTER TABLE users ADD COLUMN c2 int');
	await_giving_back($ddl, 'users', $witness);
	await($node, 'an attempt has run and failed',
		q{SELECT EXISTS (SELECT FROM pg_lockguard_progress WHERE pid = ? AND relation = 'public.note')}, $ddl->pid);
	$reader->do('COMMIT');
	is($ddl->error, undef, 'it is done');
	is($witness->value("SELECT sum(calls) FROM pg_stat_statements WHERE query = 'ALTER TABLE users ADD COLUMN c2 int'"),
		1, 'one call');
	$witness->do('DROP EVENT TRIGGER locking; DROP FUNCTION lock_note()');
};

ends_well($node);
done_testing();
