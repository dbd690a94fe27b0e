# A function inside a guarded statement that catches the error by which the guard ends a wait.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LockGuard;
use LockGuard::LowPriority;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node('caught_limit', "shared_preload_libraries = 'pg_lockguard'", "deadlock_timeout = '1s'");
$node->safe_psql(
	'postgres', q{
	CREATE TABLE users (id int);
	CREATE TABLE orders (id int, n int DEFAULT 0);
	INSERT INTO orders VALUES (1);
	CREATE FUNCTION goes_on(int) RETURNS int VOLATILE LANGUAGE plpgsql AS $$
	BEGIN
		LOCK TABLE users;
		RETURN 1;
	EXCEPTION WHEN query_canceled THEN RETURN -1;
	END$$;
	CREATE FUNCTION says_so(int) RETURNS int VOLATILE LANGUAGE plpgsql AS $$
	BEGIN
		LOCK TABLE users;
		RETURN 2;
	EXCEPTION WHEN query_canceled THEN RAISE 'somebody has cancelled me';
	END$$;
});

my $ddl = session($node, 'ddl');
my $reader = session($node, 'reader');
my $witness = session($node, 'witness');

for my $case ([ 'goes_on', 1, 'goes on without the lock' ], [ 'says_so', 2, 'raises an error of its own' ])
{
	my ($function, $expected, $what) = @$case;
	subtest "a function that $what when it is cancelled is run again with the lock" => sub {
		$reader->do('BEGIN');
		$reader->do('SELECT FROM users');
		$ddl->send("ALTER TABLE orders ALTER n TYPE int USING $function(n)");
		await_giving_back($ddl, 'orders', $witness);
		await($node, 'it waits', 'SELECT EXISTS (SELECT FROM pg_lockguard_progress WHERE pid = ? AND relation = ?)',
			$ddl->pid, 'public.users');
		$reader->do('COMMIT');
		is($ddl->error, undef, 'the statement is done');
		is($ddl->value('SELECT n FROM orders'), $expected, 'the function has had its lock');
	};
}

subtest 'a request to cancel the statement reaches such a function as ever' => sub {
	$reader->do('BEGIN');
	$reader->do('SELECT FROM users');
	$ddl->send('ALTER TABLE orders ALTER n TYPE int USING says_so(n)');
	await_giving_back($ddl, 'orders', $witness);
	await($node, 'it waits', 'SELECT EXISTS (SELECT FROM pg_lockguard_progress WHERE pid = ? AND relation = ?)',
		$ddl->pid, 'public.users');
	$node->safe_psql('postgres', 'SELECT pg_cancel_backend(' . $ddl->pid . ')');
	like($ddl->error, qr/canceling statement due to user request|somebody has cancelled me/, 'it ends');
	$reader->do('COMMIT');
};

ends_well([$node], qr/WARNING/);
done_testing();
