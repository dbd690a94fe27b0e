# Tools that poll for the end of all transactions that they have seen, while they hold what a
# guarded statement waits for: pg_repack. What it does is done here by its SQL.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LockGuard;
use LockGuard::LowPriority;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node('pollers', "shared_preload_libraries = 'pg_lockguard'", "deadlock_timeout = '200ms'",
	"wal_level = 'replica'");
$node->safe_psql('postgres', 'CREATE TABLE users (id int); CREATE TABLE orders (id int)');

my $ddl = session($node, 'ddl');
my $reader = session($node, 'reader');

# The two connections of the tool.
my $main = session($node, 'main');
my $holder = session($node, 'holder');

sub begin_to_hold
{
	$main->do("SELECT pg_advisory_lock(16185446, (-2147483648 + 'users'::regclass::oid::bigint)::int)");
	$holder->do('BEGIN ISOLATION LEVEL READ COMMITTED');
	$holder->do('LOCK TABLE users IN ACCESS SHARE MODE');
	return;
}

# The transactions that it is going to wait for.
sub transactions_now
{
	return $main->value(
		q{SELECT array_agg(virtualtransaction) FROM pg_locks
		WHERE locktype = 'virtualxid' AND pid NOT IN (pg_backend_pid(), ?)}, $holder->pid);
}

sub await_their_end
{
	my $vxids = shift;
	await($node, 'the end of all transactions that were there',
		q{SELECT NOT EXISTS (SELECT FROM pg_locks WHERE locktype = 'virtualxid' AND virtualtransaction = ANY(?))}, $vxids);
	return;
}

sub end_to_hold
{
	$holder->do('COMMIT');
	$main->do('SELECT pg_advisory_unlock_all()');
	return;
}

subtest 'the tool comes first' => sub {
	begin_to_hold();
	$ddl->send('ALTER TABLE users ADD COLUMN c1 int');
	await_low_priority($ddl);
	my $vxids = transactions_now();
	my $started = $main->value('SELECT xact_start FROM pg_stat_activity WHERE pid = ?', $ddl->pid);
	await_their_end($vxids);
	pass('it sees their end, though the statement goes on waiting');
	ok(!$ddl->ready, 'which it does');
	is($main->value('SELECT xact_start FROM pg_stat_activity WHERE pid = ?', $ddl->pid),
		$started, 'as in one transaction');
	is($main->value('SELECT count(*) FROM lock_tree() WHERE pid = ?', $ddl->pid), 1, 'lock_tree() shows it');
	end_to_hold();
	is($ddl->error, undef, 'then the statement is done');
};

subtest 'the statement comes first' => sub {
	$reader->do('BEGIN');
	$reader->do('SELECT FROM users');
	$ddl->send('ALTER TABLE users ADD COLUMN c2 int');
	await_low_priority($ddl);
	begin_to_hold();
	my $vxids = transactions_now();
	$reader->do('COMMIT');
	await_their_end($vxids);
	pass('the tool sees the end of all that were there');
	end_to_hold();
	is($ddl->error, undef, 'then the statement is done');
};

subtest 'the extended protocol' => sub {
	begin_to_hold();
	my $pgbench_script = $node->basedir . '/alter.sql';
	append_to_file($pgbench_script, "ALTER TABLE users ADD COLUMN c3 int;\n");
	for my $protocol (qw(extended prepared))
	{
		my $pgbench = IPC::Run::start(
			[ 'pgbench', '-n', '-t', '1', '-M', $protocol, '-f', $pgbench_script, $node->connstr('postgres') ],
			'>', \my $out, '2>', \my $err);
		await($node, 'it waits at low priority', 'SELECT EXISTS (SELECT FROM pg_lockguard_progress)');
		await_their_end(transactions_now());
		end_to_hold();
		$pgbench->finish;
		like($out, qr{processed: 1/1}, "$protocol: done");
		$main->do('ALTER TABLE users DROP COLUMN c3');
		begin_to_hold();
	}
	end_to_hold();
};

subtest 'statement_timeout counts from the beginning' => sub {
	begin_to_hold();
	$ddl->do("SET statement_timeout = '2500ms'");
	$ddl->send('ALTER TABLE users ADD COLUMN c4 int');
	like($ddl->error, qr/canceling statement due to statement timeout/, 'though the transaction was another by then');
	$ddl->do('RESET statement_timeout');
	end_to_hold();
};

SKIP:
{
	skip 'transaction_timeout is of 17', 1 if $main->value('SHOW server_version_num') < 170000;
	subtest 'transaction_timeout too' => sub {
		begin_to_hold();
		my $doomed = session($node, 'doomed');
		$doomed->do("SET transaction_timeout = '2500ms'");
		$doomed->send('ALTER TABLE users ADD COLUMN c4 int');
		like($doomed->error, qr/terminating connection due to transaction timeout/, 'it ends the session');
		forget_sessions($doomed);
		end_to_hold();
	};
}

subtest 'in a transaction block there is no way out' => sub {
	$ddl->do('BEGIN');
	$ddl->do('SELECT FROM orders');
	begin_to_hold();
	$ddl->send('ALTER TABLE users ADD COLUMN c5 int');
	my $error = $ddl->error;
	is($ddl->sqlstate, '55P03', 'the statement fails');
	my $pid = $holder->pid;
	like($error, qr/DETAIL:  .*PID $pid is of pg_repack, which waits for this transaction to end\./s, 'and says why');
	like($error, qr/HINT:  Roll back, and run the statement outside of a transaction block/, 'and what to do');
	$ddl->do('ROLLBACK');
	end_to_hold();

	# Who else reads the table is not of it.
	begin_to_hold();
	$ddl->do('BEGIN');
	$reader->do('BEGIN');
	$reader->do('SELECT FROM users');
	$ddl->send('ALTER TABLE users ADD COLUMN c5 int');
	await($node, 'its patience', "SELECT EXISTS (SELECT FROM pg_lockguard_progress WHERE waited > '1 s')");
	end_to_hold();
	$reader->do('COMMIT');
	is($ddl->error, undef, 'a reader that began later, while the tool works, is waited for');
	$ddl->do('ROLLBACK');
	begin_to_hold();

	# A transaction that began later is not waited for, and waits.
	$ddl->do('BEGIN');
	$ddl->send('ALTER TABLE users ADD COLUMN c5 int');
	await($node, 'its patience', "SELECT EXISTS (SELECT FROM pg_lockguard_progress WHERE waited > '1 s')");
	end_to_hold();
	is($ddl->error, undef, 'one that began later waits');
	$ddl->do('ROLLBACK');
};

subtest 'nor where a cursor WITH HOLD is open' => sub {
	$ddl->do('BEGIN');
	$ddl->do('DECLARE kept CURSOR WITH HOLD FOR SELECT 1');
	$ddl->do('COMMIT');
	$reader->do('BEGIN');
	$reader->do('SELECT FROM users');
	$ddl->send('ALTER TABLE users ADD COLUMN c6 int');
	await_low_priority($ddl);
	begin_to_hold();
	$reader->do('COMMIT');
	my $pid = $holder->pid;
	like($ddl->error, qr/DETAIL:  .*PID $pid is of pg_repack/s, 'it fails and says why');
	end_to_hold();
	$ddl->do('CLOSE kept');
};

ends_well([$node], qr/WARNING/);
done_testing();
