# A long statement at low priority keeps its work: a lock that turns up inside is waited for there as
# long as nobody is kept waiting by that for longer than ddl_lock_timeout; only then is it rolled back,
# and waits outside for what can be waited for outside.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LockGuard;
use LockGuard::LowPriority;
use PostgreSQL::Test::Utils;
use Test::More;

my $limit = 300; # ddl_lock_timeout, in ms
my $preload = q{shared_preload_libraries = 'pg_lockguard'};
my @settings = ("pg_lockguard.ddl_lock_timeout = $limit", q{deadlock_timeout = '1s'});
my $scene = q{
	CREATE TABLE users (id int PRIMARY KEY);
	INSERT INTO users VALUES (1);
	CREATE TABLE note (id int, n int);
	INSERT INTO note VALUES (1, 0);
	CREATE TABLE orders (id int);
	CREATE TABLE keyed (id int PRIMARY KEY);
	-- How often the statement has done its work: that is not rolled back.
	CREATE SEQUENCE runs;
	CREATE FUNCTION work(int) RETURNS int VOLATILE LANGUAGE plpgsql AS
		$$BEGIN PERFORM nextval('runs'); RETURN $1; END$$;
	CREATE FUNCTION then_lock() RETURNS event_trigger LANGUAGE plpgsql AS
		$$BEGIN EXECUTE current_setting('test.inside'); END$$;
	CREATE EVENT TRIGGER at_end ON ddl_command_end WHEN TAG IN ('ALTER TABLE') EXECUTE FUNCTION then_lock()};

my $node = start_node('long', $preload, @settings);
$node->safe_psql('postgres', $scene);

sub runs
{
	my $server = shift // $node;
	return LockGuard::observer($server)->value(q{SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM runs});
}

# What the statement does inside; what the session in the way has done, in a transaction or not, and
# how that is over; what the lock is called.
my %case = (
	'a row' => [ 'UPDATE note SET n = n + 1', 'BEGIN', 'UPDATE note SET n = n + 1', 'COMMIT', qr/^transaction \d+$/ ],
	'a transaction' => [ 'INSERT INTO keyed VALUES (2) ON CONFLICT DO NOTHING', 'BEGIN', 'INSERT INTO keyed VALUES (2)', 'ROLLBACK', qr/^transaction \d+$/ ],
	'a relation' => [ 'LOCK TABLE orders', 'BEGIN', 'SELECT FROM orders', 'COMMIT', qr/^public\.orders$/ ],
	"a transaction's advisory lock" =>
		[ 'DO $$BEGIN PERFORM pg_advisory_xact_lock(7); END$$', 'BEGIN', 'SELECT pg_advisory_xact_lock(7)', 'COMMIT', qr/^advisory lock 7$/ ],
	"a session's advisory lock" =>
		[ 'DO $$BEGIN PERFORM pg_advisory_xact_lock(7); END$$', undef, 'SELECT pg_advisory_lock(7)', 'SELECT pg_advisory_unlock(7)', qr/^advisory lock 7$/ ]);

# The statement runs, and waits inside for what that session has.
sub start_long
{
	my ($what, @before) = @_;
	my ($inside, $begin, $take) = @{ $case{$what} };
	my ($holder, $ddl) = (session($node, 'holder'), session($node, 'ddl'));
	$node->safe_psql('postgres', 'ALTER SEQUENCE runs RESTART; DELETE FROM keyed');
	$holder->do($_) for grep { defined } $begin, $take;
	$ddl->do($_) for @before;
	$ddl->do("SET test.inside = '" . $inside =~ s/'/''/gr . "'");
	$ddl->send('ALTER TABLE users ALTER id TYPE int USING work(id)');
	await($node, 'it waits inside', q{SELECT EXISTS (SELECT FROM pg_locks WHERE pid = ? AND NOT granted AND waitstart IS NOT NULL)}, $ddl->pid);
	return ($holder, $ddl);
}

for my $what (sort keys %case)
{
	my ($inside, $begin, $take, $release, $name) = @{ $case{$what} };

	subtest "$what, and nobody waits" => sub {
		my ($holder, $ddl) = start_long($what);
		await($node, 'it has waited for long', q{SELECT clock_timestamp() - waitstart > ?::interval FROM pg_locks WHERE pid = ? AND NOT granted},
			4 * $limit . 'ms', $ddl->pid);
		is(LockGuard::observer($node)->value(q{SELECT count(*) FROM pg_locks WHERE pid = ? AND granted AND mode = 'AccessExclusiveLock' AND relation = 'users'::regclass}, $ddl->pid),
			1, 'it keeps what it has');
		$holder->do($release);
		is($ddl->error, undef, 'it is done');
		is(runs(), 1, 'it has worked once');
		is_clean($ddl, $what);
		forget_sessions($holder, $ddl);
	};

	subtest "$what, and somebody waits" => sub {
		my $before = statistics($node)->{stall_ended_waits};
		my ($holder, $ddl) = start_long($what);
		my $reader = session($node, 'reader');
		$reader->send('SELECT count(*) FROM users');
		is($reader->error, undef, 'it goes on');
		await($node, 'the statement waits outside',
			q{SELECT EXISTS (SELECT FROM pg_lockguard_progress WHERE pid = ? AND phase IN ('waiting', 'backing off') AND attempt > 0)}, $ddl->pid);
		like(LockGuard::observer($node)->value('SELECT relation FROM pg_lockguard_progress WHERE pid = ?', $ddl->pid), $name, 'for that lock');
		# nextval() keeps that until the end of the transaction.
		await_nothing_locked($ddl, 'runs');
		pass('with nothing locked');
		await($node, 'the worker counts it', 'SELECT stall_ended_waits > ? FROM pg_stat_lockguard', $before);
		is(statistics($node)->{stall_ended_waits}, $before + 1, 'its wait inside is counted');
		# Not before the lock is free.
		$reader->send('SELECT pg_sleep(1)');
		is($reader->error, undef, 'a second later');
		is(runs(), 1, 'it has not worked again');
		$holder->do($release);
		is($ddl->error, undef, 'it is done');
		is(runs(), 2, 'it has worked twice');
		forget_sessions($holder, $ddl, $reader);
	};
}

subtest 'ddl_max_wait and lock_timeout bound the wait inside' => sub {
	for my $setting ('pg_lockguard.ddl_max_wait', 'lock_timeout')
	{
		my ($holder, $ddl) = start_long('a row', "SET $setting = '2s'");
		my $error = $ddl->error;
		like($error, qr/canceling statement due to lock timeout/, "$setting: it fails");
		is($ddl->sqlstate, '55P03', "$setting: by its SQLSTATE");
		like($error, qr/DETAIL:  ALTER TABLE waited (?:[2-9]\.\d|\d\d+) s for ShareLock on transaction/, "$setting: and says for what");
		is(runs(), 1, "$setting: it has worked once");
		$holder->do('COMMIT');
		forget_sessions($holder, $ddl);
	}
};

subtest 'a guarded statement inside' => sub {
	my ($holder, $ddl) = (session($node, 'holder'), session($node, 'ddl'));
	$node->safe_psql('postgres', 'ALTER SEQUENCE runs RESTART');
	$holder->do('BEGIN');
	$holder->do('SELECT FROM orders');
	$ddl->do(q{SET test.inside = 'DO $$BEGIN IF current_query() LIKE ''ALTER TABLE users%'' THEN SET LOCAL test.inside = ''SELECT 1''; ALTER TABLE orders ADD COLUMN c int; END IF; END$$'});
	$ddl->send('ALTER TABLE users ALTER id TYPE int USING work(id)');
	await($node, 'it waits inside', q{SELECT EXISTS (SELECT FROM pg_locks WHERE pid = ? AND NOT granted)}, $ddl->pid);
	await($node, 'it has waited for long', q{SELECT clock_timestamp() - waitstart > ?::interval FROM pg_locks WHERE pid = ? AND NOT granted},
		4 * $limit . 'ms', $ddl->pid);
	$holder->do('COMMIT');
	is($ddl->error, undef, 'it is done');
	is(runs(), 1, 'the outer one has worked once');
	forget_sessions($holder, $ddl);
};

my $bare = start_node('bare', q{session_preload_libraries = 'pg_lockguard'}, @settings);
$bare->safe_psql('postgres', "SET test.inside = 'SELECT 1';" . $scene);

subtest 'where the library is not preloaded ddl_lock_timeout bounds the wait inside' => sub {
	my ($holder, $ddl) = (session($bare, 'holder'), session($bare, 'ddl'));
	$holder->do('BEGIN');
	$holder->do('UPDATE note SET n = n + 1');
	$ddl->do(q{SET test.inside = 'UPDATE note SET n = n + 1'});
	$ddl->send('ALTER TABLE users ALTER id TYPE int USING work(id)');
	await($bare, 'it waits outside', q{SELECT EXISTS (SELECT FROM pg_locks WHERE pid = ? AND NOT granted AND locktype = 'virtualxid')}, $ddl->pid);
	is(runs($bare), 1, 'it has worked once');
	is(LockGuard::observer($bare)->value('SELECT count(*) FROM users'), 1, 'and has given back its lock');
	$holder->do('COMMIT');
	is($ddl->error, undef, 'it is done');
	is(runs($bare), 2, 'it has worked twice');
	forget_sessions($holder, $ddl);
};

ends_well([ $node, $bare ]);
done_testing();
