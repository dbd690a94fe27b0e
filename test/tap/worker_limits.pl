# When the worker acts: not before the limits, when somebody is due, and not too often.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LockGuard;
use LockGuard::Record;
use LockGuard::Worker;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_worker_node('limits', q{pg_lockguard.blocker_action = off});
my $observer = LockGuard::observer($node);

# What is measured here can only be longer than the limit, never shorter.

# Seconds from a moment that a query returns to the worker's line about the holder.
sub seconds_until_ended
{
	my ($holder, $since) = @_;
	my ($line) = wait_for_line($holder);
	return $line->[2] - $since;
}

sub idle_since
{
	my ($session) = @_;
	return $node->safe_psql('postgres',
		"SELECT extract(epoch FROM state_change) FROM pg_stat_activity WHERE pid = $session->{pid}");
}

sub waits_since
{
	my ($session) = @_;
	return $node->safe_psql('postgres',
		"SELECT extract(epoch FROM waitstart) FROM pg_locks WHERE pid = $session->{pid} AND NOT granted"
	);
}

subtest 'blocker_min_idle and blocker_min_wait' => sub {
	# The log's clock is cut to milliseconds.
	my $tick = 0.001;

	# Nobody is ended before all is as it shall be, however slow the machine.
	configure($node, blocker_action => 'off', blocker_min_idle => '1500ms', blocker_min_wait => 0);
	my ($one, $two) = (new_table($node), new_table($node));
	my @holders = (idle_holder($node, 'app', $one), idle_holder($node, 'app', $two));
	my @ddl = (blocked_ddl($node, $one), blocked_ddl($node, $two));
	my $first_idle_since = idle_since($holders[1]);
	# The second one is active once more, and so becomes younger than the first.
	await($node, 'time passes',
		"SELECT clock_timestamp() - to_timestamp($first_idle_since) > '500 ms'");
	$holders[1]->do('SELECT 1');
	my @idle_since = map { idle_since($_) } @holders;
	cmp_ok($idle_since[1], '>', $first_idle_since, 'min_idle: it counts from the last activity');
	configure($node, blocker_action => 'terminate');
	for my $i (0, 1)
	{
		cmp_ok(seconds_until_ended($holders[$i], $idle_since[$i]) + $tick,
			'>=', 1.5, "min_idle: $holders[$i]{name} has been idle so long");
	}
	forget_sessions(@holders, @ddl);

	configure($node, blocker_min_idle => 0, blocker_min_wait => '1500ms');
	my $table = new_table($node);
	my $holder = idle_holder($node, 'app', $table);
	my $ddl = blocked_ddl($node, $table);
	cmp_ok(seconds_until_ended($holder, waits_since($ddl)) + $tick,
		'>=', 1.5, 'min_wait: the request has waited so long');
	forget_sessions($holder, $ddl);

	# Both at once: idle for a moment at the end of a long wait.
	configure($node, blocker_min_idle => '4s', blocker_min_wait => '4s');
	$table = new_table($node);
	$holder = idle_holder($node, 'app', $table);
	$ddl = blocked_ddl($node, $table);
	my $waits_since = waits_since($ddl);
	await($node, 'time passes', "SELECT clock_timestamp() - to_timestamp($waits_since) > '800 ms'");
	$holder->do('SELECT 1');
	my $idle_since = idle_since($holder);
	cmp_ok($idle_since - $waits_since, '>', 0.8, 'idle since long after the wait began');
	cmp_ok(seconds_until_ended($holder, $idle_since) + $tick, '>=', 4, 'both limits count');
	forget_sessions($holder, $ddl);
	configure($node, blocker_min_idle => 0, blocker_min_wait => 0);
};

subtest 'worker_interval, and a reload' => sub {
	# Asleep for an hour: the reload itself wakes it, and the new interval counts from then on.
	configure($node, worker_interval => '1h');
	# It has read that when its looks have come to an end.
	for (my $before = -1; ;)
	{
		my $looks = $observer->value('SELECT looks FROM pg_stat_lockguard, pg_sleep(0.5)');
		last if $looks == $before;
		$before = $looks;
	}
	my $table = new_table($node);
	my $holder = idle_holder($node, 'app', $table);
	my $ddl = blocked_ddl($node, $table);
	await($node, 'the statement waits for 300 ms',
		"SELECT clock_timestamp() - waitstart > '300 ms' FROM pg_locks WHERE pid = $ddl->{pid} AND NOT granted"
	);
	ok(is_alive($holder), 'worker_interval: an hour is not over yet');
	configure($node, worker_interval => '20ms');
	wait_for_line($holder);
	wait_for_look($node);
	pass('worker_interval: reloaded');
	forget_sessions($holder, $ddl);

	my ($out, $err);
	isnt($node->psql('postgres', 'SET pg_lockguard.blocker_action = off', stderr => \$err),
		0, 'a session cannot switch the worker off');
	like($err, qr/cannot be changed now/, '... and is told so');
};

subtest 'it looks when somebody is due' => sub {
	# The reload makes it look once; it knows then when the session will be due.
	configure($node, blocker_action => 'off', blocker_min_idle => '700ms', worker_interval => '1h');
	my ($holder, $ddl) = conflict($node, 'app');
	settle($node, $ddl);
	configure($node, blocker_action => 'terminate');
	is_deeply(verdict($holder), [ 'blocker_terminated', undef ],
		'it looks when somebody is due, not an hour later');
	is(await_end($ddl), undef, '... and the statement gets its lock');
	configure($node, blocker_min_idle => 0, worker_interval => '20ms');
};

# The reasons of the fuses that have blown since that event.
sub fuses
{
	my ($since) = @_;
	return @{ $observer->{dbh}->selectcol_arrayref(
			"SELECT reason FROM pg_lockguard_events WHERE kind = 'fuse_blown' AND id > $since ORDER BY id") };
}

subtest 'two sessions for the same request' => sub {
	# Two holders of one relation: the second one is not ended for the same request within min_wait.
	configure($node, blocker_action => 'off', blocker_min_wait => '3s');
	my $table = new_table($node);
	my @holders = map { idle_holder($node, 'app', $table) } 1 .. 2;
	my $ddl = blocked_ddl($node, $table);
	my $before = newest_id($node);
	my $start = $observer->value('SELECT extract(epoch FROM clock_timestamp())');
	configure($node, blocker_action => 'terminate');
	is(await_end($ddl), undef, 'two holders: the statement gets its lock');
	await($node, 'both are recorded',
		"SELECT count(*) >= 2 FROM pg_lockguard_events WHERE kind = 'blocker_terminated' AND id > $before");
	my @times = @{ $observer->{dbh}->selectcol_arrayref(
			"SELECT extract(epoch FROM at) FROM pg_lockguard_events WHERE kind = 'blocker_terminated' AND id > $before ORDER BY id") };
	is(scalar @times, 2, '... when both are ended');
	cmp_ok($times[1] - $start, '>=', 3, '... not within blocker_min_wait');
	is_deeply(
		[ fuses($before) ],
		[ 'another blocker of the same request was dealt with less than pg_lockguard.blocker_min_wait (3000 ms) ago' ],
		'... which is said once');

	forget_sessions(@holders, $ddl);
};

subtest 'max_terminations_per_minute' => sub {
	my $before = newest_id($node);
	# Two a minute. The limit counts those above as well: they are younger than a minute.
	my $blown = statistics($node)->{fuses_blown};
	configure($node, blocker_min_wait => 0, max_terminations_per_minute => 2);
	my @pairs = map { [ conflict($node, 'app') ] } 1 .. 3;
	settle($node, map { $_->[1] } @pairs);
	await($node, 'the fuse is blown', "SELECT EXISTS (SELECT FROM pg_lockguard_events WHERE kind = 'fuse_blown' AND id > $before)");
	is_deeply([ fuses($before) ], ['pg_lockguard.max_terminations_per_minute (2) has been reached'],
		'the fuse holds, and says so once for three');
	is(statistics($node)->{fuses_blown}, $blown + 1, '... and is counted');
	# A rehearsal has fuses of its own.
	skip_events($pairs[0][0]);
	configure($node, blocker_action => 'log');
	is_deeply(verdict($pairs[0][0]), [ 'blocker_logged', undef ], '... in a rehearsal it does not hold');
	configure($node, blocker_action => 'terminate', max_terminations_per_minute => 1000);
	is(await_end($_->[1]), undef, 'with a larger limit they are ended') for @pairs;
	forget_sessions();
};

subtest 'settings with a fault in them are refused' => sub {
	my $err;
	for my $case (
		[ q{exempt_roles = 'a,,b'}, qr/DETAIL:  The list has a fault in its syntax\..*HINT:  Separate names by commas/s ],
		[ q{exempt_databases = '"a'}, qr/DETAIL:  The list has a fault in its syntax/ ],
		[ q{exempt_applications = 'a,'}, qr/DETAIL:  A pattern is empty\..*HINT:  Separate patterns by commas/s ],
		[ q{exempt_applications = '"a'}, qr/DETAIL:  A quoted pattern does not end/ ],
		[ q{max_terminations_per_minute = 1001}, qr/outside the valid range/ ],
		[ q{log_events = 'some'}, qr/HINT:  Available values: none, actions, all/ ],
		[ q{events_max = 1}, qr/outside the valid range/ ])
	{
		my ($setting, $error) = @$case;
		isnt($node->psql('postgres', "ALTER SYSTEM SET pg_lockguard.$setting", stderr => \$err),
			0, "$setting is refused");
		like($err, $error, '... with a reason');
	}
};

subtest 'who may set what' => sub {
	is_deeply(
		$observer->{dbh}->selectall_arrayref(q{SELECT name, context FROM pg_settings
			WHERE name ~ '^pg_lockguard\.(exempt|protected|max|log|events|blocker_stalled)' ORDER BY name}),
		[
			[ 'pg_lockguard.blocker_stalled_clients', 'sighup' ],
			[ 'pg_lockguard.events_max', 'postmaster' ],
			[ 'pg_lockguard.exempt_applications', 'sighup' ],
			[ 'pg_lockguard.exempt_databases', 'sighup' ],
			[ 'pg_lockguard.exempt_roles', 'sighup' ],
			[ 'pg_lockguard.log_events', 'sighup' ],
			[ 'pg_lockguard.log_incidents', 'sighup' ],
			[ 'pg_lockguard.max_terminations_per_minute', 'sighup' ],
			[ 'pg_lockguard.protected', 'superuser' ],
		],
		'who may set what');
};

ends_well($node);
done_testing();
