# Whatever is sent to a statement that waits at low priority arrives, also in the very moment in
# which one of the guard's own timers strikes: statement_timeout, cancel requests. And nothing of
# the guard's own arrives later, elsewhere.
#
# LOCKGUARD_STRESS says how many cancel requests, timeouts and pauses are aimed at that moment (default
# 500 each).
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LockGuard;
use LockGuard::LowPriority;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $node = start_node('interrupts', "shared_preload_libraries = 'pg_lockguard'", "deadlock_timeout = '200ms'");
$node->safe_psql('postgres', 'CREATE TABLE users (id int); CREATE TABLE a (id int PRIMARY KEY); INSERT INTO a VALUES (1);
	CREATE TABLE b (id int REFERENCES a)');

my $reader = session($node, 'reader');
my $ddl = session($node, 'ddl');
my $witness = session($node, 'witness');

# Stops the process until so much time has gone by since it began its statement.
sub pause_until
{
	my ($session, $age, $meanwhile) = @_;
	kill 'STOP', $session->pid;
	$meanwhile->() if $meanwhile;
	await($node, "$age of a pause",
		'SELECT clock_timestamp() - query_start > ?::interval FROM pg_stat_activity WHERE pid = ?', $age, $session->pid);
	kill 'CONT', $session->pid;
	return;
}

# Stops the processes for 2 ms, and lets them run for up to 3.
my @stopped;
sub pause_shortly
{
	@stopped = map { $_->pid } @_;
	kill STOP => @stopped;
	usleep(2000);
	kill CONT => @stopped;
	@stopped = ();
	usleep(rand 3000);
	return;
}

END
{
	kill CONT => @stopped; # the server could not be shut down
}

sub await_sleep
{
	my $session = shift;
	await($node, $session->name . ' sleeps on a transaction',
		"SELECT EXISTS (SELECT FROM pg_locks WHERE pid = ? AND NOT granted AND locktype = 'virtualxid')", $session->pid);
	return;
}

subtest 'statement_timeout strikes together with a timer of the guard' => sub {
	read_and_idle($reader);
	# Time enough to come to wait.
	$ddl->do("SET statement_timeout = '3s'");
	$ddl->send('ALTER TABLE users ADD COLUMN c int');
	await_sleep($ddl);
	pause_until($ddl, '3500 ms');
	like($ddl->error, qr/canceling statement due to statement timeout/, 'it ends the statement');
	is($ddl->sqlstate, '57014', 'by its SQLSTATE');
	$ddl->do('RESET statement_timeout');
	$reader->do('COMMIT');
};

subtest 'a cancel request comes together with a timer of the guard' => sub {
	read_and_idle($reader);
	$ddl->send('ALTER TABLE users ADD COLUMN c int');
	await_sleep($ddl);
	pause_until($ddl, '1500 ms', sub { $witness->value('SELECT pg_cancel_backend(?)', $ddl->pid) });
	like($ddl->error, qr/canceling statement due to user request/, 'it ends the statement');
	is($ddl->sqlstate, '57014', 'by its SQLSTATE');
	$reader->do('COMMIT');
};

subtest 'inside the statement, while it waits for a lock that was not known' => sub {
	$witness->do(q{CREATE FUNCTION touch() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM FROM users; END $$});
	$witness->do('CREATE EVENT TRIGGER touching ON ddl_command_end EXECUTE FUNCTION touch()');
	for my $case ([ 'statement timeout', sub { $ddl->do("SET statement_timeout = '3s'") }, '3500 ms', undef ],
		[ 'user request', sub { }, '1500 ms', sub { $witness->value('SELECT pg_cancel_backend(?)', $ddl->pid) } ])
	{
		my ($what, $before, $age, $meanwhile) = @$case;
		$reader->do('BEGIN');
		$reader->do('LOCK TABLE users');
		$before->();
		$ddl->send('ALTER TABLE a ADD COLUMN c int');
		await($node, 'it waits inside',
			"SELECT EXISTS (SELECT FROM pg_locks WHERE pid = ? AND NOT granted)", $ddl->pid);
		pause_until($ddl, $age, $meanwhile);
		like($ddl->error, qr/canceling statement due to $what/, "$what ends it");
		$ddl->do('RESET statement_timeout');
		$reader->do('COMMIT');
	}
	$witness->do('DROP EVENT TRIGGER touching; DROP FUNCTION touch()');
};

subtest 'the lock is granted while the process stands still' => sub {
	$witness->do('DROP TABLE b');
	$witness->do('CREATE TABLE b (id int REFERENCES a)');
	$reader->do('BEGIN');
	$reader->do('INSERT INTO a VALUES (2)');
	$ddl->do('SET pg_lockguard.ddl_lock_timeout = 100');
	$ddl->send('ALTER TABLE b DROP CONSTRAINT b_id_fkey');
	await($node, 'it waits', 'SELECT EXISTS (SELECT FROM pg_locks WHERE pid = ? AND NOT granted)', $ddl->pid);
	kill 'STOP', $ddl->pid;
	$reader->do('COMMIT');
	$witness->do('SELECT count(*) FROM lock_tree()');
	await($node, 'a pause', "SELECT clock_timestamp() - query_start > '1 s' FROM pg_stat_activity WHERE pid = ?", $ddl->pid);
	kill 'CONT', $ddl->pid;
	is($ddl->error, undef, 'it goes on');
	$ddl->do('RESET pg_lockguard.ddl_lock_timeout');
	# What struck in that moment would be served now.
	is($ddl->value('SELECT count(*) FROM generate_series(1, 100000)'), 100000, 'and nothing is left of it');
};

# The timer that has ended a wait strikes once more before the end of the wait has been dealt with.
subtest 'the process stands still in the moment in which the guard has ended a wait' => sub {
	read_and_idle($reader);
	my @sessions = map { session($node, "paused_$_") } 1 .. 8;
	for my $session (@sessions)
	{
		# A wait each millisecond.
		$session->do('SET pg_lockguard.ddl_notice_interval = 1');
		$session->send(add_column());
	}
	await_low_priority(@sessions);
	for (1 .. 2 * ($ENV{LOCKGUARD_STRESS} || 500))
	{
		pause_shortly(@sessions);
	}
	$reader->do('COMMIT');
	is_deeply([ map { $_->error } @sessions ], [ (undef) x @sessions ], 'none is cancelled by that');
	forget_sessions(@sessions);
};

subtest 'the process stands still, and meanwhile statement_timeout strikes as well' => sub {
	$node->safe_psql('postgres', "ALTER SYSTEM SET deadlock_timeout = '5ms'; SELECT pg_reload_conf()");
	read_and_idle($reader);
	my @sessions = map { session($node, "paused_$_") } 1 .. 8;
	for my $session (@sessions)
	{
		$session->do('SET pg_lockguard.ddl_notice_interval = 1');
		$session->set_statement_timeout(30);
	}
	my ($ended, %told) = (0);
	my $count = 2 * ($ENV{LOCKGUARD_STRESS} || 500);
	my $deadline = time() + $PostgreSQL::Test::Utils::timeout_default + $count / 20;
	while ($ended < $count && time() < $deadline)
	{
		for my $session (grep { !$_->{sent} } @sessions)
		{
			$session->send(add_column());
		}
		pause_shortly(@sessions);
		for my $session (grep { $_->{sent} && $_->ready } @sessions)
		{
			my ($message) = ($session->error // 'none') =~ /(canceling statement due to \w+ \w+|none)/;
			$told{$message}++;
			$ended++;
		}
	}
	$_->error for grep { $_->{sent} } @sessions;
	cmp_ok($ended, '>=', $count, 'each statement ends');
	is_deeply([ keys %told ], ['canceling statement due to statement timeout'], 'each is told of its timeout') or diag(explain(\%told));
	$reader->do('COMMIT');
	forget_sessions(@sessions);
};

subtest 'many, aimed at the moment' => sub {
	my $count = $ENV{LOCKGUARD_STRESS} || 500;
	$node->safe_psql('postgres', "ALTER SYSTEM SET deadlock_timeout = '20ms'; SELECT pg_reload_conf()");
	read_and_idle($reader);
	my @sessions = map { session($node, "target_$_") } 1 .. 8;
	for my $session (@sessions)
	{
		$session->do("SET pg_lockguard.ddl_lock_timeout = '1h'");
		$session->value('SHOW deadlock_timeout') eq '20ms' or die 'not reloaded';
	}
	my ($ended, $lost, %states, %told) = (0, 0);
	my $left = 2 * $count;
	my $deadline = time() + $PostgreSQL::Test::Utils::timeout_default + $count / 20;
	# The first sleep of a statement ends at deadlock_timeout, 20 ms after its beginning.
	my $aim = sub { 0.017 + rand(0.006) };
	while ($left > 0 || grep { $_->{sent} } @sessions)
	{
		my $now = time();
		last if $now > $deadline;
		for my $session (@sessions)
		{
			if (!$session->{sent})
			{
				next if $left-- <= 0;
				my $by_cancel = $left % 2;
				$session->set_statement_timeout($by_cancel ? 0 : 18 + int(rand(5)));
				$session->send('ALTER TABLE users ADD COLUMN c int');
				$session->{cancel_at} = $by_cancel ? time() + $aim->() : undef;
				$session->{cancelled_at} = undef;
			}
			elsif ($session->{cancel_at} && $now >= $session->{cancel_at})
			{
				$session->{cancelled_at} = time();
				kill 'INT', $session->pid;
				$session->{cancel_at} = undef;
			}
			elsif (!$session->{cancel_at} && $session->ready)
			{
				my $expected = defined $session->{cancelled_at} ? 'user request' : 'statement timeout';
				my $error = $session->error // 'no error';
				$told{$error}++ if $error !~ /canceling statement due to $expected/;
				$states{ $session->sqlstate }++;
				$ended++;
			}
			elsif ($session->{cancelled_at} && $now - $session->{cancelled_at} > 10)
			{
				# PostgreSQL drops a request that comes before the statement, as it may where the machine is slow.
				$lost += $witness->value('SELECT extract(epoch FROM query_start) < ? FROM pg_stat_activity WHERE pid = ?',
					$session->{cancelled_at}, $session->pid);
				$session->{cancel_at} = $now;
			}
		}
		usleep(200);
	}
	is($lost, 0, 'no cancel request is lost');
	is($ended, 2 * $count, 'each of them has ended its statement');
	is_deeply([ keys %states ], ['57014'], 'as a cancelled one');
	is_deeply(\%told, {}, 'and has been told why');
	$reader->do('COMMIT');
};

ends_well($node);
done_testing();
