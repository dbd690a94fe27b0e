# pg_lockguard.blocker_action: what the worker does about a session that blocks ALTER TABLE and is
# idle in transaction, and what the session and the server log are told.
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

my $node = start_worker_node('actions', q{pg_lockguard.blocker_action = off});

subtest 'off, log, terminate' => sub {
	my $table = new_table($node);
	configure($node, blocker_action => 'off', blocker_min_idle => 0, blocker_min_wait => 0);
	my $holder = idle_holder($node, 'app', $table);
	my $ddl = blocked_ddl($node, $table);

	# Long enough for ten looks, if it did look.
	await($node, 'the statement waits for 300 ms',
		"SELECT clock_timestamp() - waitstart > '300 ms' FROM pg_locks WHERE pid = $ddl->{pid} AND NOT granted"
	);
	is(scalar lines_about($holder), 0, 'off: nothing is said');
	ok(is_alive($holder), 'off: nobody is ended');

	configure($node, blocker_action => 'log');
	my @lines = wait_for_line($holder);
	is($lines[0][0], 'would terminate', 'log: it says what it would do');

	# Each newcomer's line stands for one more look.
	my @newcomers;
	for (1 .. 3)
	{
		my $other = new_table($node);
		my $newcomer = idle_holder($node, 'app', $other);
		push @newcomers, $newcomer, blocked_ddl($node, $other);
		wait_for_line($newcomer);
	}
	is(scalar lines_about($holder), 1, 'log: once, not with each look');
	ok(is_alive($_), "log: $_->{name} goes on") for $holder, @newcomers;

	# Another period of idleness is another case.
	$holder->do('SELECT 1');
	@lines = wait_for_line($holder, 2);
	is($lines[1][0], 'would terminate', 'log: again after the session has been active');

	$holder->do('COMMIT');
	is($ddl->error, undef, 'log: the session commits, the statement gets its lock');

	# From log to terminate: what has been said does not protect.
	configure($node, blocker_action => 'terminate');
	for my $newcomer (grep { $_->{name} =~ /^holder/ } @newcomers)
	{
		@lines = wait_for_line($newcomer, 2);
		is_deeply(
			[ map { $_->[0] } @lines ],
			[ 'would terminate', 'terminated' ],
			"terminate: $newcomer->{name} is ended, and that is one line");
		wait_gone($newcomer);
	}
	is($_->error, undef, 'terminate: the statement gets its lock') for grep { $_->{name} =~ /^ddl/ } @newcomers;
	forget_sessions(@newcomers, $holder, $ddl);
};

subtest 'what the client reads, and the server log' => sub {
	my $table = new_table($node);
	my $relation = $node->safe_psql('postgres', "SELECT '$table'::regclass::oid");
	my $holder = idle_holder($node, 'app', $table, name => 'reader');
	$holder->do(q{SELECT 'a secret'});
	# The command is named that waits, not the one that the text begins with.
	my $ddl = blocked_ddl($node, $table, before => '/* release 7 */ BEGIN; SET LOCAL work_mem = 64; ');
	my ($line) = wait_for_line($holder);
	wait_gone($holder);

	my $error = $holder->send('SELECT 1')->error;
	like($error, qr/FATAL:  terminating connection due to administrator command$/m,
		'the client reads FATAL');
	like(
		$error,
		qr/^DETAIL:  pg_lockguard: idle in transaction for \d[\d.]* \w+ while blocking PID $ddl->{pid} \(ALTER TABLE, AccessExclusiveLock on relation $relation\) for \d[\d.]* \w+\.$/m,
		'... and why');
	like($error, qr/^HINT:  The transaction was rolled back\. \S/m, '... and what to do');

	is($line->[0], 'terminated', 'the server log has a line');
	like($line->[1], qr/user app\b/, '... with the role');
	like($line->[1], qr/database postgres\b/, '... the database');
	like($line->[1], qr/app "reader"/, '... the application');
	like($line->[1], qr/idle in transaction for \d/, '... the idle time');
	like($line->[1], qr/blocking PID $ddl->{pid}\b.*ALTER TABLE.*AccessExclusiveLock/,
		'... and whom it blocked');
	unlike($line->[1], qr/secret/, "... and not the victim's query");
	is(scalar lines_about($holder), 1, '... one line');
	forget_sessions($ddl, $holder);
};

# Another reason for the same FATAL gets no explanation of ours.
subtest 'pg_terminate_backend()' => sub {
	my $ended = session($node, 'ended', user => 'app');
	$ended->do('BEGIN');
	$node->safe_psql('postgres', "SELECT pg_terminate_backend($ended->{pid}, 60000)");
	my $error = $ended->send('SELECT 1')->error;
	like($error, qr/terminating connection due to administrator command/,
		'pg_terminate_backend(): the client reads FATAL');
	unlike($error, qr/pg_lockguard/, '... with no word of ours');
	forget_sessions($ended);
};

ends_well($node);
done_testing();
