# A statement that waits outside of a transaction block begins a new transaction once a second: that
# must not be felt by anybody.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LockGuard;
use LockGuard::LowPriority qw(await_giving_back);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node('renewed', "shared_preload_libraries = 'pg_lockguard'", "deadlock_timeout = '200ms'",
	"wal_level = 'replica'", 'max_wal_senders = 5');
$node->safe_psql(
	'postgres', q{
	CREATE TABLE users (id int);
	CREATE TABLE orders (id int);
	INSERT INTO orders VALUES (1);
	-- A lock that turns up while the table is written anew: the transaction has an id by then.
	CREATE FUNCTION needs_users(int) RETURNS int VOLATILE LANGUAGE plpgsql AS
		$$BEGIN LOCK TABLE users; RETURN $1; END$$;
});

my $reader = session($node, 'reader');

subtest 'a standby that does not answer keeps no waiting statement, nor a request to cancel it' => sub {
	$node->append_conf('postgresql.conf', "synchronous_standby_names = 'nobody'");
	$node->reload;
	my $ddl = session($node, 'ddl');
	$reader->do('BEGIN');
	$reader->do('SELECT FROM users');
	$ddl->send('ALTER TABLE orders ALTER id TYPE bigint USING needs_users(id)');
	my $xid = 'SELECT backend_xid::text FROM pg_stat_activity WHERE pid = ?';
	my $witness = session($node, 'witness');
	# Its attempt has given the transaction an id, and waits until somebody is kept waiting by it.
	await($node, 'it waits inside', q{SELECT EXISTS (SELECT FROM pg_locks WHERE pid = ? AND NOT granted)}, $ddl->pid);
	is($witness->value("SELECT ($xid) IS NOT NULL", $ddl->pid), 1, 'an attempt that leaves the transaction with an id');
	await_giving_back($ddl, 'orders', $witness);
	await($node, 'the next transaction', "SELECT ($xid) IS NULL", $ddl->pid);
	is($node->safe_psql('postgres', 'SELECT count(*) FROM pg_lockguard_progress'), 1, 'it waits on');
	$node->safe_psql('postgres', 'SELECT pg_cancel_backend(' . $ddl->pid . ')');
	like($ddl->error, qr/canceling statement due to user request/, 'and is cancelled at once');
	$reader->do('COMMIT');
	$node->append_conf('postgresql.conf', "synchronous_standby_names = ''");
	$node->reload;
};

# The catalog caches have to be filled anew for it, with what the present transaction owns.
subtest 'the words of an error that comes in a later transaction' => sub {
	my $ddl = session($node, 'ddl');
	my $waiter = session($node, 'waiter');
	$ddl->do(q{SET pg_lockguard.ddl_max_stall = '300ms'});
	$reader->do('BEGIN');
	$reader->do('SELECT FROM orders');
	$ddl->send('ALTER TABLE orders ALTER id TYPE bigint USING id + CASE WHEN pg_sleep(600)::text IS NULL THEN 1 END');
	my $transaction = q{SELECT virtualtransaction FROM pg_locks WHERE pid = ? AND locktype = 'virtualxid' AND granted};
	my $observer = LockGuard::observer($node);
	await($node, 'it waits', q{SELECT EXISTS (SELECT FROM pg_lockguard_progress WHERE pid = ?)}, $ddl->pid);
	my $first;
	1 until defined($first = $observer->value($transaction, $ddl->pid));
	await($node, 'the next transaction', "SELECT ($transaction) <> ?", $ddl->pid, $first);
	$reader->do('COMMIT');
	await($node, 'it is at work', q{SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = ?}, $ddl->pid);
	$reader->do('GRANT CREATE ON SCHEMA public TO pg_monitor');
	$waiter->send('SELECT FROM orders');
	my $error = $ddl->error;
	like($error, qr/canceling statement because it kept others waiting for too long/, 'it is cancelled');
	like($error, qr/ALTER TABLE kept 1 session waiting, .* for AccessShareLock on public\.orders;/, '... and the error says for what');
	is($waiter->error, undef, 'the other goes on');
	$ddl->do('RESET ALL');
	is($ddl->value('SELECT count(*) FROM orders'), 1, 'and so does the session');
	forget_sessions($ddl, $waiter);
};

# It looks again each time it wakes up, here for a notice that nobody wants.
subtest 'a cursor that is open all the while: the transaction is not renewed, and that is all' => sub {
	my $ddl = session($node, 'ddl');
	$ddl->do($_) for 'BEGIN', 'DECLARE held CURSOR WITH HOLD FOR SELECT id FROM orders', 'COMMIT',
		q{SET client_min_messages = 'error'}, q{SET pg_lockguard.ddl_notice_interval = '1ms'};
	$reader->do('BEGIN');
	$reader->do('SELECT FROM orders');
	$ddl->send('ALTER TABLE orders ADD noted int');
	await($node, 'two seconds', q{SELECT waited > '2 s' FROM pg_lockguard_progress WHERE pid = ?}, $ddl->pid);
	$reader->do('COMMIT');
	is($ddl->error, undef, 'it is done');
	is($ddl->value('FETCH held'), 1, 'and the cursor is as it was');
	forget_sessions($ddl);
};

ends_well([$node], qr/WARNING/);
done_testing();
