# Orders that come in the very moment in which a statement ends: whatever they hit, it is the statement
# that kept others waiting, and nothing that the session does afterwards.
#
# LOCKGUARD_STRESS is the number of rounds of each subtest (default 150); at most 500 of those that send an order
# hundreds of times in each.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LockGuard;
use LockGuard::Stall;
use List::Util qw(min);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $rounds = $ENV{LOCKGUARD_STRESS} || 150;
my $floods = min($rounds, 500);
my $node = start_stall_node('race', q{pg_lockguard.ddl_max_stall = '15ms'}, q{pg_lockguard.blocker_action = off});
$node->safe_psql(
	'postgres', q{
	CREATE FUNCTION brief(int) RETURNS int VOLATILE LANGUAGE plpgsql AS
		$$BEGIN PERFORM pg_sleep(0.01 + random() * 0.04); RETURN $1; END$$});

my ($ddl, $reader) = map { session($node, $_) } qw(ddl reader);
my $brief = 'ALTER TABLE busy ALTER id TYPE int USING brief(id)';

# What the session does next must not fail.
sub goes_on
{
	my $what = shift;
	return if eval { $ddl->do('SELECT 1'); 1 };
	fail("$what: the next statement is hit: $@");
	return;
}

# Whatever order there is comes hundreds of times, until that session is done.
sub flood_until_ready
{
	my ($pid, $session) = @_;
	my $deadline = time() + $PostgreSQL::Test::Utils::timeout_default;
	until ($session->ready)
	{
		die $session->name . ' is not done' if time() > $deadline;
		kill USR2 => $pid for 1 .. 100;
		usleep(20);
	}
	return;
}

for my $mode ('low_priority', 'lock_timeout')
{
	subtest "$mode: the statement itself" => sub {
		$ddl->do("SET pg_lockguard.ddl_mode = $mode");
		my ($ended, $done, @other) = (0, 0);
		for (1 .. $rounds)
		{
			$ddl->send($brief);
			$reader->send('SELECT * FROM busy');
			my $error = $ddl->error;
			if (!defined $error) { $done++ }
			elsif ($error =~ /$message/) { $ended++ }
			else { push @other, $error }
			goes_on($mode);
			defined and push @other, $_ for $reader->error;
		}
		is_deeply(\@other, [], 'no other error');
		is($ended + $done, $rounds, 'each has come to an end');
		note("$ended ended, $done done");
		cmp_ok($ended, '>', 0, 'some were in time to be ended');
	};
}

# The sender repeats an order that has not been followed yet, and the process may have stood still until then.
subtest 'an order that comes once more while the first is followed' => sub {
	$ddl->do('SET pg_lockguard.ddl_mode = low_priority');
	my ($ended, $done, @other) = (0, 0);
	for (1 .. $floods)
	{
		my $pid = $ddl->pid;
		$ddl->send($brief);
		$reader->send('SELECT * FROM busy');
		# The order stays where it is for as long as the statement.
		flood_until_ready($pid, $ddl);
		my $error = $ddl->error;
		if (!defined $error) { $done++ }
		elsif ($error =~ /$message/) { $ended++ }
		else { push @other, $error }
		goes_on('again');
		defined and push @other, $_ for $reader->error;
	}
	is_deeply(\@other, [], 'no other error');
	is($ended + $done, $floods, 'each has come to an end');
	note("$ended ended, $done done");
	cmp_ok($ended, '>', 0, 'some were in time to be ended');
};

# Nobody can wait for what it has locked any more, and it waits for the rest outside.
subtest 'an order to end a wait that comes once more while the first is followed' => sub {
	my $holder = session($node, 'holder');
	$holder->do('CREATE FUNCTION reads_other(int) RETURNS int VOLATILE LANGUAGE plpgsql AS $$BEGIN PERFORM FROM other; RETURN $1; END$$');
	$ddl->do($_) for 'SET pg_lockguard.ddl_max_stall = 0', q{SET pg_lockguard.ddl_lock_timeout = '20ms'};
	my @errors;
	for (1 .. $floods)
	{
		my $pid = $ddl->pid;
		$holder->do('BEGIN; LOCK TABLE other');
		$ddl->send('ALTER TABLE busy ALTER id TYPE int USING reads_other(id)');
		await($node, 'it waits inside', q{SELECT EXISTS (SELECT FROM pg_locks WHERE pid = ? AND NOT granted AND relation = 'other'::regclass)}, $pid);
		$reader->send('SELECT * FROM busy');
		flood_until_ready($pid, $reader);
		$holder->do('COMMIT');
		push @errors, grep { defined } $reader->error, $ddl->error;
	}
	is_deeply(\@errors, [], 'it is done, when it has all its locks');
	$ddl->do($_) for 'RESET pg_lockguard.ddl_max_stall', 'RESET pg_lockguard.ddl_lock_timeout';
	forget_sessions($holder);
};

subtest 'what the transaction does later' => sub {
	$ddl->do('SET pg_lockguard.ddl_mode = low_priority');
	my ($ended, $done, $commits, @other) = (0, 0, 0);
	for (1 .. $rounds)
	{
		$ddl->do('BEGIN');
		$ddl->do('ALTER TABLE busy ALTER id SET DEFAULT 1');
		$reader->send('SELECT * FROM busy');
		$ddl->send('SELECT brief(1)');
		my $error = $ddl->error;
		# An order that comes too late for the statement hits the COMMIT, which belongs to the transaction too.
		# Where the transaction has been lost already, COMMIT ends it, without an error.
		if (!eval { $ddl->do('COMMIT'); 1 })
		{
			push @other, "at COMMIT: $@" if defined $error || $@ !~ /$message/;
			$error //= $@;
			$commits++;
			$ddl->do('ROLLBACK');
		}
		if (!defined $error) { $done++ }
		elsif ($error =~ /$message/) { $ended++ }
		else { push @other, $error }
		goes_on('later');
		defined and push @other, $_ for $reader->error;
	}
	is_deeply(\@other, [], 'no other error');
	is($ended + $done, $rounds, 'each has come to an end');
	note("$ended ended, $commits of them at COMMIT, $done done");
};

subtest 'a cancel request that comes at the same time is not lost' => sub {
	my $canceller = session($node, 'canceller');
	my ($ended, $cancelled, @other) = (0, 0);
	for (1 .. $rounds)
	{
		$ddl->send('ALTER TABLE busy ALTER id TYPE int USING gate(id)');
		await_lock($ddl, 'busy');
		$reader->send('SELECT * FROM busy');
		$canceller->send('SELECT pg_sleep(0.01 + random() * 0.01), pg_cancel_backend(' . $ddl->pid . ')');
		my $error = $ddl->error // 'it was done';
		if ($error =~ /$message/) { $ended++ }
		elsif ($error =~ /due to user request/) { $cancelled++ }
		else { push @other, $error }
		$canceller->error;
		# The request may have come after the end: then it is for nobody.
		$reader->error;
		goes_on('cancelled');
	}
	is_deeply(\@other, [], 'no other error');
	is($ended + $cancelled, $rounds, 'each has come to an end');
	note("$ended ended by the limit, $cancelled by the request");
};

# The next one takes its place among the processes, and where pids are few, its pid.
subtest 'a session that leaves, and the one that comes after it' => sub {
	configure($node, blocker_action => 'terminate', max_terminations_per_minute => 1000);
	$node->safe_psql('postgres', 'ALTER TABLE busy OWNER TO app');
	my ($told, %pids, @other) = (0);
	for (1 .. $rounds)
	{
		my $leaver = LockGuard::Session->new($node, 'leaver', user => 'app');
		$leaver->do('BEGIN');
		$leaver->do('ALTER TABLE busy ALTER id SET DEFAULT 1');
		$reader->send('SELECT * FROM busy');
		usleep(12_000 + rand 30_000);
		if (!eval { $leaver->do('ROLLBACK') if rand() < 0.3; 1 }) { $told++ }
		$leaver->{dbh}->disconnect;
		if (!eval {
				my $next = LockGuard::Session->new($node, 'next', user => 'app');
				$next->do($_) for 'BEGIN', 'SELECT FROM other', 'SELECT pg_sleep(0.003)', 'COMMIT';
				$pids{ $next->pid }++;
				$next->{dbh}->disconnect;
				1;
			})
		{
			push @other, $@;
		}
		defined and push @other, $_ for $reader->error;
	}
	is_deeply(\@other, [], 'no other error');
	my $sent = statistics($node)->{stall_terminations};
	note("$sent signals, $told seen by those they were for; " . ($rounds - keys %pids) . ' came with a pid that had been');
	cmp_ok($sent, '>', 0, 'some were in time to be ended');
};

ends_well($node);
done_testing();
