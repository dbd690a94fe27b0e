# Who is kept waiting by a statement at low priority, and since when: its own transaction's locks are
# in their way, and that ends the statement after ddl_lock_timeout; others wait by design.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LockGuard;
use LockGuard::LowPriority;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $limit = 0.5; # s
my $node = start_node(
	'kept',
	"shared_preload_libraries = 'pg_lockguard'",
	"pg_lockguard.ddl_lock_timeout = '${limit}s'");
$node->safe_psql(
	'postgres', q{
	CREATE TABLE busy (id int);
	CREATE TABLE rows (id int PRIMARY KEY, n int);
	INSERT INTO rows SELECT i, 0 FROM generate_series(1, 9) i;
	CREATE TABLE other (id int);
});

# A reader of the table `busy`, and behind it a statement at low priority, in a transaction that has
# done these things before; or in none, where they begin with no BEGIN.
sub start_ddl
{
	my @before = @_;
	my ($reader, $ddl) = (session($node, 'reader'), session($node, 'ddl'));
	read_and_idle($reader, 'busy');
	$ddl->do($_) for @before;
	$ddl->send(add_column('busy'));
	await_low_priority($ddl);
	return ($reader, $ddl);
}

# Until the session has waited in a queue for three times as long as anybody may be kept waiting.
sub await_long_wait
{
	my $session = shift;
	await($node, $session->name . ' has waited for long',
		q{SELECT EXISTS (SELECT FROM pg_locks WHERE pid = ? AND clock_timestamp() - waitstart > ?::interval)},
		$session->pid, 3 * $limit . 's');
	return;
}

# The statement still waits, and is done when the reader has gone.
sub goes_on
{
	my ($reader, $ddl) = @_;
	ok(!$ddl->ready, 'the statement waits on');
	$reader->do('COMMIT');
	is($ddl->error, undef, 'and is done when its lock is free');
	return;
}

# The statement fails, and not before it was so long after that time.
sub fails_in_time
{
	my ($ddl, $since) = @_;
	my $error = $ddl->error;
	my $after = time - $since;
	like($error, qr/canceling statement due to lock timeout/, 'the statement fails');
	like($error, qr/while 1 session waited/, 'and says whom it has kept waiting');
	cmp_ok($after, '>=', $limit, 'not before ddl_lock_timeout');
	return;
}

for my $case (
	[ 'an advisory lock of the session', 'SELECT pg_advisory_lock(1)' ],
	[ 'an advisory lock of the transaction', 'BEGIN', 'SELECT pg_advisory_xact_lock(1)' ])
{
	my ($what, @before) = @$case;
	subtest "a second migration runner that waits for $what" => sub {
		my ($reader, $ddl) = start_ddl(@before);
		my $runner = session($node, 'runner');
		$runner->send('SELECT pg_advisory_lock(1)');
		await_long_wait($runner);
		goes_on($reader, $ddl);
		forget_sessions($reader, $ddl, $runner);
	};
}

subtest 'who waits for the second runner' => sub {
	my ($reader, $ddl) = start_ddl('SELECT pg_advisory_lock(1)');
	my ($runner, $client) = (session($node, 'runner'), session($node, 'client'));
	$runner->do('BEGIN');
	$runner->do('LOCK TABLE other');
	$runner->send('SELECT pg_advisory_lock(1)');
	$client->send('SELECT FROM other');
	await_long_wait($client);
	goes_on($reader, $ddl);
	forget_sessions($reader, $ddl, $runner, $client);
};

subtest 'CREATE INDEX CONCURRENTLY that waits for the end of the transaction' => sub {
	my ($reader, $ddl) = start_ddl('BEGIN', 'INSERT INTO other VALUES (1)');
	my $creator = session($node, 'creator');
	$creator->send("CREATE INDEX CONCURRENTLY other_id ON other (id)");
	await_long_wait($creator);
	goes_on($reader, $ddl);
	$ddl->do('COMMIT');
	is($creator->error, undef, 'the index is created afterwards');
	forget_sessions($reader, $ddl, $creator);
};

for my $case (
	[ 'a row that the transaction has changed', 'UPDATE rows SET n = 1 WHERE id = 1', 'UPDATE rows SET n = 2 WHERE id = 1' ],
	[ 'a row behind who waits for it', 'UPDATE rows SET n = 1 WHERE id = 1', 'DELETE FROM rows WHERE id = 1' ],
	[ 'a key that it has inserted', 'INSERT INTO rows VALUES (10)', 'INSERT INTO rows VALUES (10)' ],
	[ 'a relation that it has locked', 'LOCK TABLE other IN EXCLUSIVE MODE', 'INSERT INTO other VALUES (1)' ])
{
	my ($what, $locking, $waiting) = @$case;
	subtest "a client that waits for $what" => sub {
		my ($reader, $ddl) = start_ddl('BEGIN', $locking);
		my $client = session($node, 'client');
		my $since = time;
		$client->send($waiting);
		fails_in_time($ddl, $since);
		$ddl->do('ROLLBACK');
		is($client->error, undef, 'and the client goes on');
		forget_sessions($reader, $ddl, $client);
	};
}

subtest 'who has waited for something else for long, and then comes to stand behind the statement' => sub {
	my ($between, $client) = (session($node, 'between'), session($node, 'client'));
	$between->do('BEGIN');
	$between->do('UPDATE rows SET n = 1 WHERE id = 2');
	$client->send('UPDATE rows SET n = 2 WHERE id = 2');
	my ($reader, $ddl) = start_ddl('BEGIN', 'LOCK TABLE other');
	await_long_wait($client);
	my $since = time;
	$between->send('SELECT FROM other');
	my $error = $ddl->error;
	my $after = time - $since;
	like($error, qr/while 2 sessions waited/, 'the statement fails for both');
	cmp_ok($after, '>=', $limit, 'not before ddl_lock_timeout');
	$ddl->do('ROLLBACK');
	is($between->error, undef, 'the first goes on');
	forget_sessions($reader, $ddl, $between, $client);
};

subtest 'who waits at low priority itself' => sub {
	my ($reader, $ddl) = start_ddl('BEGIN', 'LOCK TABLE other IN SHARE MODE');
	my ($polite, $client) = (session($node, 'polite'), session($node, 'client'));
	$polite->do("SET pg_lockguard.ddl_lock_timeout = '1h'");
	$polite->do('BEGIN');
	$polite->do('UPDATE rows SET n = 1 WHERE id = 3');
	$polite->send('ALTER TABLE other ADD COLUMN polite int');
	await_low_priority($polite);
	await($node, 'for long', 'SELECT waited > ?::interval FROM pg_lockguard_progress WHERE pid = ?', 3 * $limit . 's', $polite->pid);
	ok(!$ddl->ready, 'does not count');

	my $since = time;
	$client->send('UPDATE rows SET n = 2 WHERE id = 3');
	fails_in_time($ddl, $since);
	$ddl->do('ROLLBACK');
	is($polite->error, undef, 'but a client that waits for it does');
	forget_sessions($reader, $ddl, $polite, $client);
};

ends_well($node);
done_testing();
