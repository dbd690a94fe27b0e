# The worker's process: how it starts, ends, and lives on a standby.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LockGuard;
use LockGuard::Record;
use LockGuard::Worker;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use POSIX ();
use Test::More;
use Time::HiRes qw(usleep);

my $node = start_worker_node('process', { streaming => 1 }, q{pg_lockguard.blocker_action = terminate});

subtest 'the process' => sub {
	my $worker = worker_pid($node);
	is( $node->safe_psql('postgres', "SELECT datid IS NULL FROM pg_stat_activity WHERE pid = $worker"),
		't',
		'the worker is in no database');
	$node->safe_psql('postgres', "SELECT pg_terminate_backend($worker)");
	my $next = worker_pid($node, $worker);
	wait_for_look($node);
	pass('SIGTERM: a new worker does the work');

	# The framework switches restarts off, so that a crash fails a test. This one is meant.
	$node->safe_psql('postgres', 'ALTER SYSTEM SET restart_after_crash = on');
	$node->reload;
	kill 'KILL', $next;
	$node->wait_for_log(qr/all server processes terminated; reinitializing/);
	$node->poll_query_until('postgres', 'SELECT true') or die 'the server does not come back';
	worker_pid($node, $next);
	wait_for_look($node);
	pass('SIGKILL: after the crash restart a new worker does the work');
	$node->safe_psql('postgres', 'ALTER SYSTEM SET restart_after_crash = off');
	$node->reload;

	# Also while it has nothing to do, and would sleep for ever.
	configure($node, blocker_action => 'off');
	# Whoever is on his way out would be told of the shutdown.
	await($node, 'nobody is connected', q{SELECT NOT EXISTS (SELECT FROM pg_stat_activity
		WHERE backend_type = 'client backend' AND pid <> pg_backend_pid())});
	LockGuard::dismiss_observer($node);
	my $size = -s $node->logfile;
	ok($node->stop('fast', fail_ok => 1), 'fast shutdown while the worker sleeps');
	my $log = substr(slurp_file($node->logfile), $size);
	like($log, qr/database system is shut down/, '... is orderly');
	unlike($log, qr/SIGQUIT|SIGKILL|immediate shutdown|FATAL|PANIC/, '... and needs no force');
	$node->start;
	configure($node, blocker_action => 'terminate');
	wait_for_look($node);
	$size = -s $node->logfile;
	ok($node->stop('fast', fail_ok => 1), 'fast shutdown while the worker looks');
	$log = substr(slurp_file($node->logfile), $size);
	like($log, qr/database system is shut down/, '... is orderly');
	$node->start;
};

# The process stands still while it sleeps, as on a starved machine: its sleep is over, and then it is told
# of a setting, before it has seen either.
subtest 'a reload that comes when a sleep is over' => sub {
	configure($node, blocker_action => 'off', worker_interval => '1s');
	$node->restart;
	my $table = new_table($node);
	my $holder = idle_holder($node, 'app', $table);
	my $ddl = blocked_ddl($node, $table);
	my $observer = LockGuard::observer($node);
	my $worker = worker_pid($node);
	kill 'STOP', $worker;
	my $now = $observer->value('SELECT clock_timestamp()');
	await($node, 'its sleep is over', q{SELECT clock_timestamp() > ?::timestamptz + '1.5 s'}, $now);
	configure($node, blocker_action => 'terminate');
	my $hangup = 1 << (POSIX::SIGHUP - 1);
	for (1 .. 100 * $PostgreSQL::Test::Utils::timeout_default)
	{
		my ($pending) = slurp_file("/proc/$worker/status") =~ /^ShdPnd:\s+([[:xdigit:]]+)/m;
		last if hex($pending) & $hangup;
		usleep(10_000);
	}
	kill 'CONT', $worker;
	is_deeply(verdict($holder), [ 'blocker_terminated', undef ], 'it does what the setting says');
	is(await_end($ddl), undef, '... and the statement gets its lock');
	forget_sessions($holder, $ddl);
	configure($node, worker_interval => '20ms');
};

subtest 'a standby, and its promotion' => sub {
	my $table = new_table($node);
	my $standby = start_standby($node, 'standby', 'max_standby_streaming_delay = -1');
	my $worker = worker_pid($standby);

	my $holder = idle_holder($standby, 'app', $table);
	my $writer = session($node, 'writer');
	$writer->do("ALTER TABLE $table ADD COLUMN replayed int");
	await(
		$standby, 'the startup process waits', q{
		SELECT EXISTS (SELECT FROM pg_locks l JOIN pg_stat_activity a USING (pid)
			WHERE NOT l.granted AND l.mode = 'AccessExclusiveLock' AND a.backend_type = 'startup'
			AND clock_timestamp() - l.waitstart > '300 ms')});
	ok(is_alive($holder), "standby: the startup process's wait does not count");
	is(scalar lines_about($holder), 0, '... and nothing is said');
	# A client behind it changes nothing, as one behind another background process does.
	my $reader = session($standby, 'reader', user => 'app');
	$reader->send("SELECT id FROM $table");
	await(
		$standby, 'a reader waits behind it', qq{
		SELECT EXISTS (SELECT FROM pg_locks WHERE pid = $reader->{pid} AND NOT granted
			AND clock_timestamp() - waitstart > '300 ms')});
	ok(is_alive($holder), '... nor does it with a client behind it');
	is(scalar lines_about($holder), 0, '... and nothing is said');
	unlike(slurp_file($standby->logfile), qr/LOG:  pg_lockguard: spared/, '... also of no request');
	is(worker_pid($standby), $worker, '... and the worker is the same as before');
	$holder->do('COMMIT');
	$node->wait_for_catchup($standby);
	is($reader->error, undef, '... and the reader goes on in its turn');
	forget_sessions($reader);

	$standby->promote;
	$holder->do('BEGIN');
	$holder->do("SELECT id FROM $table");
	my $ddl = blocked_ddl($standby, $table);
	my ($line) = wait_for_line($holder);
	is($line->[0], 'terminated', 'after the promotion the worker does its work');
	forget_sessions($holder, $ddl, $writer);
	unlike(slurp_file($standby->logfile), qr/PANIC|TRAP|ERROR.*pg_lockguard/, 'standby: no errors');
	$standby->stop;
};

forget_sessions();
$node->stop;
my $log = slurp_file($node->logfile);
unlike($log, qr/PANIC|TRAP:/, 'no assertion failed');
my @crashes = $log =~ /was terminated by signal/g;
is(scalar @crashes, 1, 'no crash but the one that was asked for');
done_testing();
