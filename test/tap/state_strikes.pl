# The guard ends a wait, a statement or a preview of its session by a cancellation of its own. Something else strikes while
# the error of that is on its way: each is still told by its own name, and nothing is lost.
#
# LOCKGUARD_BOUNDARY names the module built from test/boundary (scripts/test builds it): it has a
# function that takes its time to fail.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LockGuard;
use LockGuard::LowPriority;
use LockGuard::Stall;
use PostgreSQL::Test::Utils;
use Test::More;

my $module = $ENV{LOCKGUARD_BOUNDARY}
  or die "set LOCKGUARD_BOUNDARY to test/boundary/lockguard_boundary.so\n";

# Who ends a wait is the session itself where nobody watches for it.
my %node = (
	'watched' => start_stall_node('strikes', q{pg_lockguard.blocker_action = off}),
	'by itself' => start_stall_node(
		'strikes_alone', q{shared_preload_libraries = ''}, q{session_preload_libraries = 'pg_lockguard'}));
for my $node (values %node)
{
	$node->safe_psql(
		'postgres', qq{
		CREATE TABLE another ();
		CREATE FUNCTION boundary_keep_one_handler() RETURNS void AS '$module' LANGUAGE C;
		CREATE FUNCTION boundary_handle_sigint() RETURNS int AS '$module' LANGUAGE C;
		CREATE FUNCTION boundary_run_handling_sigint(text, bool) RETURNS void AS '$module' LANGUAGE C;
		CREATE FUNCTION boundary_fail_slowly(regclass, regclass) RETURNS void AS '$module' LANGUAGE C;
		CREATE FUNCTION fails_slowly(int, first regclass DEFAULT 'other', second regclass DEFAULT NULL) RETURNS int VOLATILE
			LANGUAGE plpgsql AS \$\$BEGIN PERFORM boundary_fail_slowly(first, second); RETURN \$1; END\$\$});
}
my (%ddl, %holder, %reader);
for my $where (keys %node)
{
	($ddl{$where}, $holder{$where}, $reader{$where}) = map { session($node{$where}, $_) } qw(ddl holder reader);
}

# How the wait of the statement for the table that the holder has is ended. With the SIGUSR2 of the watcher it is given
# up, or the statement is ended, after others have been kept waiting; by itself a session gives up a wait sooner.
my $give_up = [ q{ddl_lock_timeout = '20ms'}, 'ddl_max_stall = 0' ];
my $end = [ q{ddl_lock_timeout = '30s'}, "ddl_max_stall = $limit" ];
my %first = (
	'the wait is given up' => { settings => $give_up },
	'the statement is ended' => { settings => $end, error => qr/$message/ },
	'the statement is ended, in the queue' => { settings => [ 'ddl_mode = lock_timeout', @$end ], error => qr/$message/ });

# What comes then, and the error that tells of it.
my %second = (
	'statement_timeout' => { timeout => '2s', error => qr/due to statement timeout/ },
	'a cancel request' => { cancel => 1, error => qr/due to user request/ },
	'the statement is ended' => { settings => ["ddl_max_stall = $limit"] });

# Until the error is on its way.
sub await_error
{
	my $session = shift;
	await($session->node, 'its error is on the way',
		q{SELECT wait_event = 'Extension' FROM pg_stat_activity WHERE pid = ?}, $session->pid);
	return;
}

sub strike_twice
{
	my ($where, $first, $second) = @_;
	my ($ddl, $holder, $reader) = ($ddl{$where}, $holder{$where}, $reader{$where});
	$holder->do('BEGIN; LOCK TABLE other');
	$ddl->do("SET pg_lockguard.$_") for @{ $first->{settings} }, @{ $second->{settings} // [] };
	$ddl->do("SET statement_timeout = '$second->{timeout}'") if $second->{timeout};
	$ddl->send('ALTER TABLE busy ALTER id TYPE int USING fails_slowly(id)');
	# A timeout may come before it can be seen.
	$second->{timeout} ? await($ddl->node, 'it has its lock', q{
		SELECT state <> 'active' OR EXISTS (SELECT FROM pg_locks WHERE pid = $1 AND relation = 'busy'::regclass AND granted)
		FROM pg_stat_activity WHERE pid = $1}, $ddl->pid) : await_lock($ddl, 'busy');
	$reader->send('SELECT * FROM busy');
	if (!$second->{timeout})
	{
		await_error($ddl);
		kill INT => $ddl->pid if $second->{cancel};
	}
	if (!$first->{error} && !$second->{error})
	{
		# What has been asked for is done with the wait: it has given back what it had, and waits outside.
		is($reader->error, undef, 'others are let through');
		$holder->do('COMMIT');
		is($ddl->error, undef, 'it goes on, and is done when it has all its locks');
	}
	else
	{
		my $error = $ddl->error;
		# A timeout may come first.
		my @told = grep { defined } $first->{error} // $second->{error}, $second->{timeout} ? $second->{error} : undef;
		ok((grep { $error =~ $_ } @told), 'it is told what has ended it') or diag($error);
		is($ddl->sqlstate, '57014', 'by its SQLSTATE');
		is($reader->error, undef, 'others are let through');
		$holder->do('COMMIT');
	}
	$ddl->do('RESET ALL');
	is($ddl->value('SELECT count(*) FROM generate_series(1, 100000)'), 100000, 'and nothing is left of it');
	return;
}

for my $where (sort keys %node)
{
	for my $what (sort keys %first)
	{
		for my $then (sort keys %second)
		{
			subtest "$where: $what, then $then" => sub { strike_twice($where, $first{$what}, $second{$then}) };
		}
	}
}

# A wait for a lock in the course of the error itself, with interrupts held off, is one that the limit ends as well.
for my $case ([ 'the wait is given up', $give_up, q{'other'}, undef ],
	[ 'the statement is ended', [ @$give_up, "ddl_max_stall = $limit" ], 'NULL', qr/$message/ ])
{
	my ($what, $settings, $waits_for, $error) = @$case;
	subtest "by itself: $what, then another wait" => sub {
		my ($ddl, $holder, $reader) = map { $_->{'by itself'} } \%ddl, \%holder, \%reader;
		$holder->do('BEGIN; LOCK TABLE other, another');
		$ddl->do("SET pg_lockguard.$_") for @$settings;
		$ddl->send("ALTER TABLE busy ALTER id TYPE int USING fails_slowly(id, $waits_for, 'another')");
		await_lock($ddl, 'busy');
		$reader->send('SELECT * FROM busy');
		await($ddl->node, 'it has waited for longer than the limit of an attempt', q{
			SELECT EXISTS (SELECT FROM pg_locks
				WHERE pid = ? AND relation = 'another'::regclass AND clock_timestamp() - waitstart > '500 ms')}, $ddl->pid);
		$holder->do('COMMIT');
		my $told = $ddl->error;
		defined $error ? like($told, $error, 'it is told') : is($told, undef, 'it goes on');
		is($reader->error, undef, 'others are let through');
		$ddl->do('RESET ALL');
		is($ddl->value('SELECT count(*) FROM generate_series(1, 100000)'), 100000, 'and nothing is left of it');
	};
}

$_->safe_psql(
	'postgres', q{
	-- Runs the statement, and goes on where it is cancelled.
	CREATE FUNCTION catches(statement text) RETURNS text LANGUAGE plpgsql AS $$
	BEGIN
		EXECUTE statement;
		RETURN 'done';
	EXCEPTION WHEN query_canceled THEN
		RETURN sqlerrm;
	END $$;
	CREATE FUNCTION sleeps(int, name text) RETURNS int VOLATILE LANGUAGE plpgsql AS
		$$BEGIN PERFORM set_config('application_name', name, true), pg_sleep(60); RETURN $1; END$$}) for values %node;

sub await_name
{
	my ($session, $name) = @_;
	await($session->node, "it is $name", 'SELECT application_name = ? FROM pg_stat_activity WHERE pid = ?', $name, $session->pid);
	return;
}

for my $mode ('low_priority', 'lock_timeout')
{
	subtest "$mode: an end that a function has caught, a cancel request that it has caught, and an end" => sub {
		my ($ddl, $reader) = map { $_->{'by itself'} } \%ddl, \%reader;
		$ddl->do("SET pg_lockguard.$_") for @$end, "ddl_mode = $mode";
		$ddl->do(q{CREATE OR REPLACE FUNCTION thrice(int) RETURNS int VOLATILE LANGUAGE plpgsql AS
			$$BEGIN PERFORM catches('SELECT pg_sleep(60)'), catches('SELECT pg_cancel_backend(pg_backend_pid()), pg_sleep(60)'), pg_sleep(60);
				RETURN $1; END$$});
		$ddl->send('ALTER TABLE busy ALTER id TYPE int USING thrice(id)');
		await_lock($ddl, 'busy');
		$reader->send('SELECT * FROM busy');
		like($ddl->error, qr/$message/, 'it is told what has ended it at last');
		is($reader->error, undef, 'others are let through');
		$ddl->do('RESET ALL');
	};
}

# The statement waits, or works, until it is cancelled.
sub is_cancelled
{
	my ($ddl, $statement, $what) = @_;
	$ddl->send($statement);
	await($ddl->node, 'it waits', 'SELECT wait_event IS NOT NULL AND query = ? FROM pg_stat_activity WHERE pid = ?', $statement, $ddl->pid);
	kill INT => $ddl->pid;
	like($ddl->error, qr/due to user request/, "$what: $statement");
	return;
}

subtest 'a cancel request for a statement that waits, after one that was ended' => sub {
	my ($ddl, $holder, $reader) = map { $_->{watched} } \%ddl, \%holder, \%reader;
	$ddl->do("SET pg_lockguard.$_") for @$end;
	$ddl->send(q{ALTER TABLE busy ALTER id TYPE int USING sleeps(id, 'first')});
	await_lock($ddl, 'busy');
	$reader->send('SELECT * FROM busy');
	like($ddl->error, qr/$message/, 'the one is ended');
	is($reader->error, undef, 'others are let through');
	read_and_idle($holder, 'busy');
	is_cancelled($ddl, add_column('busy'), 'the other is cancelled');

	# The same within one statement: what its function has caught is over when it waits outside.
	$holder->do('COMMIT; BEGIN; LOCK TABLE other');
	$ddl->do("SET pg_lockguard.$_") for @$give_up, @$end[1];
	$ddl->do(q{CREATE FUNCTION fails_itself(int) RETURNS int VOLATILE LANGUAGE plpgsql AS
		$$BEGIN PERFORM catches('SELECT FROM other'), catches('SELECT pg_sleep(60)'); RAISE EXCEPTION 'odd'; END$$});
	$ddl->send('ALTER TABLE busy ALTER id TYPE int USING fails_itself(id)');
	# Else, where it comes to its wait too late, it is ended for the reader before it can give that up.
	await($ddl->node, 'it waits for the other table',
		q{SELECT EXISTS (SELECT FROM pg_locks WHERE pid = ? AND relation = 'other'::regclass AND NOT granted)}, $ddl->pid);
	$reader->send('SELECT * FROM busy');
	is($reader->error, undef, 'others are let through, again');
	await_low_priority($ddl);
	kill INT => $ddl->pid;
	like($ddl->error, qr/due to user request/, 'it is told of the request');
	$holder->do('COMMIT');
	$ddl->do('RESET ALL');
};

# What has ended a wait is told apart from what was served before. A cancel request of the user's that a function has caught
# is not lost with an attempt that is rolled back; the statement's own would come again.
for my $case ([ 'its own cancel request', 'SELECT pg_cancel_backend(pg_backend_pid()), pg_sleep(60)', 0, undef ],
	[ 'a cancel request', q{SELECT sleeps(1, 'caught')}, 1, qr/due to user request/ ])
{
	my ($what, $statement, $cancel, $error) = @$case;
	for my $where (sort keys %node)
	{
		subtest "$where: $what that a function has caught, then the wait is given up" => sub {
			my ($ddl, $holder, $reader) = map { $_->{$where} } \%ddl, \%holder, \%reader;
			$ddl->do("SET pg_lockguard.$_") for @$give_up;
			$ddl->do(q{CREATE OR REPLACE FUNCTION waits(int, statement text) RETURNS int VOLATILE LANGUAGE plpgsql AS
				$$BEGIN PERFORM catches(statement); PERFORM FROM other; RETURN $1; END$$});
			$holder->do('BEGIN; LOCK TABLE other');
			$ddl->send("ALTER TABLE busy ALTER id TYPE int USING waits(id, \$\$$statement\$\$)");
			if ($cancel)
			{
				await_name($ddl, 'caught');
				kill INT => $ddl->pid;
			}
			# By itself it gives up the wait, and its lock, whether others wait or not.
			await_lock($ddl, 'busy') if $where eq 'watched';
			$reader->send('SELECT * FROM busy');
			is($reader->error, undef, 'others are let through');
			$holder->do('COMMIT') unless $cancel;
			my $told = $ddl->error;
			$cancel ? like($told, $error, 'it is told of the request') : is($told, undef, 'it goes on');
			$holder->do('COMMIT') if $cancel;
			$ddl->do('RESET ALL');
		};
	}
}

# Another library, loaded later, handles the signal before ours.
for my $as ('PostgreSQL 15', 'PostgreSQL 17')
{
	subtest "somebody else handles cancel requests as well, by the ways of $as" => sub {
		my $node = $node{watched};
		my ($ddl, $holder) = (session($node, 'chained'), $holder{watched});
		$ddl->do('SELECT boundary_keep_one_handler()') if $as eq 'PostgreSQL 17';
		$ddl->do(add_column('another'));
		$ddl->do('SELECT boundary_handle_sigint()');
		read_and_idle($holder, 'busy');
		my $seen = 0;
		for my $statement ('SELECT pg_sleep(60)', add_column('busy'), 'SELECT pg_sleep(60)', add_column('busy'))
		{
			is_cancelled($ddl, $statement, 'it is cancelled');
			is($ddl->value('SELECT boundary_handle_sigint()'), ++$seen, 'and the other one was called, once');
		}
		$holder->do('COMMIT');
		forget_sessions($ddl);
	};

	# The language's is there while the function runs, and not afterwards.
	for my $first ('before', 'never before')
	{
		for my $pass_on ('true', 'false')
		{
			subtest "a language that does so while it runs, and passes it on: $pass_on; a guarded statement has run $first; $as" => sub {
				my $node = $node{watched};
				my ($ddl, $holder, $reader) = (session($node, 'lingual'), $holder{watched}, $reader{watched});
				$ddl->do('SELECT boundary_keep_one_handler()') if $as eq 'PostgreSQL 17';
				$ddl->do(add_column('another')) if $first eq 'before';
				for my $more (1, 10)
				{
					for (1 .. $more)
					{
						$ddl->do(sprintf q{SELECT boundary_run_handling_sigint('%s', %s)}, add_column('another'), $pass_on);
						is_cancelled($ddl, 'SELECT pg_sleep(60)', 'after it') if $more == 1;
						$ddl->do(add_column('another'));
					}
					is_cancelled($ddl, 'SELECT pg_sleep(60)', 'after a guarded statement');
					$ddl->do(q{SET statement_timeout = '200ms'});
					$ddl->send('SELECT pg_sleep(60)');
					like($ddl->error, qr/due to statement timeout/, 'statement_timeout');
					$ddl->set_statement_timeout(0);
				}
				# Whom a signal is from is known as before.
				$ddl->do("SET pg_lockguard.$_") for @$give_up;
				$holder->do('BEGIN; LOCK TABLE other');
				$ddl->send('ALTER TABLE busy ALTER id TYPE int USING waits(id, $$SELECT pg_cancel_backend(pg_backend_pid()), pg_sleep(60)$$)');
				await_lock($ddl, 'busy');
				$reader->send('SELECT * FROM busy');
				is($reader->error, undef, 'others are let through');
				$holder->do('COMMIT');
				is($ddl->error, undef, 'it goes on');
				forget_sessions($ddl);
			};
		}
	}
}

# The first guarded statement of the session has run there, and then others, none of them the client's own.
subtest 'a language that has restored the handler of the server' => sub {
	my ($ddl, $holder) = (session($node{'by itself'}, 'restored'), $holder{'by itself'});
	$ddl->do(sprintf q{SELECT boundary_run_handling_sigint('%s', false)}, add_column('another'));
	$ddl->do("SET pg_lockguard.$_") for @$give_up;
	$holder->do('BEGIN; LOCK TABLE other');
	$ddl->do(q{CREATE FUNCTION catches_and_sleeps(int) RETURNS int VOLATILE LANGUAGE plpgsql AS
		$$BEGIN PERFORM catches('SELECT FROM other'), sleeps(1, 'asleep'); RETURN $1; END$$});
	$ddl->send('DO $$BEGIN ALTER TABLE busy ALTER id TYPE int USING catches_and_sleeps(id); END$$');
	await_name($ddl, 'asleep');
	kill INT => $ddl->pid;
	like($ddl->error, qr/due to user request/, 'a cancel request is not taken for the end of a wait that a function has caught');
	$holder->do('COMMIT');
	forget_sessions($ddl);
};

subtest 'a language that has restored our handler' => sub {
	my $ddl = session($node{'by itself'}, 'restored');
	$ddl->do('SELECT boundary_handle_sigint()');
	$ddl->do('DO $$BEGIN ' . add_column('another') . '; END$$');
	$ddl->do(q{SELECT boundary_run_handling_sigint('SELECT 1', true)});
	$ddl->do(add_column('another'));
	is_cancelled($ddl, 'SELECT pg_sleep(60)', 'it is cancelled');
	is($ddl->value('SELECT boundary_handle_sigint()'), 1, 'and the library was called');
	forget_sessions($ddl);
};

subtest 'a preview' => sub {
	my ($node, $ddl, $holder, $reader) = map { $_->{'by itself'} } \%node, \%ddl, \%holder, \%reader;
	$node->safe_psql(
		'postgres', q{
		CREATE TABLE parts (id int) PARTITION BY RANGE (id);
		CREATE TABLE small AS SELECT 1 AS id;
		CREATE FUNCTION slow(int) RETURNS int LANGUAGE plpgsql AS $$BEGIN PERFORM pg_sleep(60); RETURN $1; END$$;
		CREATE FUNCTION rewrites() RETURNS int VOLATILE LANGUAGE plpgsql AS
			$$BEGIN ALTER TABLE small ALTER id TYPE int USING slow(id); RETURN 0; END$$});
	my $preview =
	  q{SELECT string_agg(x::text, ' ') FROM ddl_preview('CREATE TABLE p1 PARTITION OF parts FOR VALUES FROM (%s) TO (1000)') x};
	$ddl->do(q{SET pg_lockguard.preview_max_hold = '500ms'});
	# A watched statement inside of it can be cut for a reason of its own.
	$ddl->do('SET pg_lockguard.ddl_mode = lock_timeout');
	$ddl->do('SET pg_lockguard.ddl_heavy = refuse');
	like($ddl->value(sprintf $preview, 'rewrites()'), qr/preview_max_hold/, 'its time is over inside of another statement');
	$ddl->do('RESET ALL');
	$holder->do('BEGIN; LOCK TABLE other');
	$ddl->do(q{SET pg_lockguard.preview_max_hold = '500ms'});
	like($ddl->value(sprintf $preview, 'fails_slowly(0)'), qr/other/, 'its time is over when it has met a lock');
	$ddl->do(q{SET pg_lockguard.preview_max_hold = '10s'});
	$ddl->do(q{SET statement_timeout = '1s'});
	$ddl->send(sprintf $preview, 'fails_slowly(0)');
	like($ddl->error, qr/due to statement timeout/, 'statement_timeout when it has met a lock');
	$ddl->do('RESET statement_timeout');
	$ddl->send(sprintf $preview, 'fails_slowly(0)');
	await_error($ddl);
	kill INT => $ddl->pid;
	like($ddl->error, qr/due to user request/, 'a cancel request when it has met a lock');
	$holder->do('COMMIT');

	$holder->do('BEGIN; LOCK TABLE other, another');
	$ddl->send(sprintf "CREATE TABLE result AS $preview", q{fails_slowly(0, ''other'', ''another'')});
	await($node, 'it has met another lock', q{
		SELECT EXISTS (SELECT FROM pg_locks
			WHERE pid = ? AND relation = 'another'::regclass AND clock_timestamp() - waitstart > '500 ms')}, $ddl->pid);
	$holder->do('COMMIT');
	is($ddl->error, undef, 'it has met a lock, and another in the course of that error');
	like($ddl->value('SELECT string_agg FROM result'), qr/public\.other,[^)]*A lock is not free/, 'it tells of the first');
	$ddl->do('DROP TABLE result');

	$ddl->do(q{SET pg_lockguard.preview_max_hold = '500ms'});
	$ddl->do(q{CREATE FUNCTION catches_twice() RETURNS int VOLATILE LANGUAGE plpgsql AS
		$$BEGIN PERFORM catches('SELECT pg_sleep(60)'), pg_sleep(60); RETURN 0; END$$});
	like($ddl->value(sprintf $preview, 'catches_twice()'), qr/preview_max_hold/, 'its time is over, also where a function has caught that');

	# A statement inside of it that keeps others waiting.
	$ddl->do("SET pg_lockguard.$_") for @$end, 'ddl_mode = lock_timeout', 'ddl_heavy = refuse';
	$ddl->do(q{CREATE FUNCTION catches_end(seconds int) RETURNS int VOLATILE LANGUAGE plpgsql AS
		$$BEGIN PERFORM catches('ALTER TABLE busy ALTER id TYPE int USING slow(id)'), pg_sleep(seconds); RETURN 0; END$$});
	for my $case ([ 0, '30s', qr/parts/ ], [ 60, '5s', qr/preview_max_hold/ ])
	{
		my ($seconds, $max_hold, $expected) = @$case;
		$ddl->do("SET pg_lockguard.preview_max_hold = '$max_hold'");
		$ddl->send(sprintf "CREATE TABLE result AS $preview", "catches_end($seconds)");
		await_lock($ddl, 'busy');
		$reader->send('SELECT * FROM busy');
		is($ddl->error, undef, "a function has caught the end of a statement inside of it, and goes on for $seconds s");
		is($reader->error, undef, 'others are let through');
		like($ddl->value('SELECT string_agg FROM result'), $expected, 'it says what it has seen');
		$ddl->do('DROP TABLE result');
	}
	$ddl->do('RESET ALL');
};

ends_well($_) for values %node;
done_testing();
