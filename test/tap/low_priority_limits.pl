# How the wait of a statement at low priority ends: by its limits, whatever is sent to it, and by
# deadlocks.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LockGuard;
use LockGuard::LowPriority;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node(
	'limits',
	"shared_preload_libraries = 'pg_lockguard'",
	"deadlock_timeout = '200ms'");

$node->safe_psql(
	'postgres', q{
	CREATE TABLE users (id int PRIMARY KEY, name text);
	INSERT INTO users SELECT i, 'user ' || i FROM generate_series(1, 100) i;
	CREATE TABLE orders (id int PRIMARY KEY);
});

my $reader = session($node, 'reader');
my $ddl = session($node, 'ddl');
my $witness = session($node, 'witness');
$witness->do("SET statement_timeout = '20s'");

subtest 'lock_timeout and ddl_max_wait' => sub {
	for my $case (
		[ "SET lock_timeout = '300ms'", '300ms', 'the session lock_timeout' ],
		[ "SET pg_lockguard.ddl_max_wait = '300ms'", '0', 'ddl_max_wait' ],
		[   "SET lock_timeout = '1h'; SET pg_lockguard.ddl_max_wait = '300ms'",
			'1h', 'ddl_max_wait below lock_timeout' ],
		[   "SET lock_timeout = '300ms'; SET pg_lockguard.ddl_max_wait = '1h'; SET pg_lockguard.ddl_on_timeout = queue",
			'300ms', 'lock_timeout below ddl_max_wait, which ends in an error at any rate' ])
	{
		my ($settings, $lock_timeout, $name) = @$case;
		$ddl->do($settings);
		read_and_idle($reader);
		$ddl->send(add_column());
		my $error = $ddl->error;
		my $pid = $reader->pid;
		is($ddl->sqlstate, '55P03', "$name ends the wait");
		like($error, qr/canceling statement due to lock timeout/, "$name: the message");
		like($error,
			qr/DETAIL:  ALTER TABLE waited (?:[3-9]\d\d ms|\S+ s) for AccessExclusiveLock on public\.users\. Blocked by PID $pid \(app "reader", user \w+, idle in transaction for [^)]+\): SELECT count\(\*\) FROM users/,
			"$name: the culprit is named");
		like($error, qr/HINT:  Commit or roll back the transaction of PID $pid/, "$name: and what to do");
		is_clean($ddl, $name, $lock_timeout);
		$reader->do('COMMIT');
		$ddl->do('RESET ALL');
	}
};

subtest 'a timeout or a cancel request ends it at once' => sub {
	for my $case (
		[   'statement_timeout', '57014', qr/canceling statement due to statement timeout/,
			sub { } ],
		[   'a cancel request', '57014', qr/canceling statement due to user request/,
			sub { $witness->value('SELECT pg_cancel_backend(?)', $ddl->pid) } ])
	{
		my ($name, $sqlstate, $message, $strike) = @$case;
		for my $block (0, 1)
		{
			my $where = $block ? 'in a transaction' : 'in autocommit';
			$ddl->do("SET lock_timeout = '1h'");
			read_and_idle($reader);
			if ($block)
			{
				$ddl->do('BEGIN');
				$ddl->do("SET LOCAL lock_timeout = '2h'");
				$ddl->do('SAVEPOINT s');
			}
			$ddl->do("SET statement_timeout = '500ms'") if $name eq 'statement_timeout';
			$ddl->send(add_column());
			await_low_priority($ddl) if $name ne 'statement_timeout';
			$strike->();
			my $error = $ddl->error;
			like($error, $message, "$name $where ends the wait");
			my $holder = $reader->pid;
			like($error, qr/DETAIL:  ALTER TABLE waited \S+ m?s for AccessExclusiveLock on public\.users\. Blocked by PID $holder \(.*\nHINT:  .*pg_terminate_backend\($holder\)/,
				"$name $where: the error names the culprit");
			is($ddl->sqlstate, $sqlstate, "$name $where: its SQLSTATE");
			if ($block)
			{
				$ddl->do('ROLLBACK TO s');
				is($ddl->value('SHOW lock_timeout'), '2h', "$name: the transaction has its settings");
				$ddl->do('INSERT INTO orders VALUES (1)');
				$ddl->do('COMMIT');
				is($ddl->value('DELETE FROM orders RETURNING id'), 1, "$name: the transaction goes on");
			}
			$ddl->do('RESET statement_timeout');
			is_clean($ddl, "$name $where", '1h');
			$reader->do('COMMIT');
			$ddl->do('RESET ALL');
		}
	}
};

subtest 'it is terminated' => sub {
	my $doomed = session($node, 'doomed');
	read_and_idle($reader);
	$doomed->send(add_column());
	await_low_priority($doomed);
	$witness->value('SELECT pg_terminate_backend(?)', $doomed->pid);
	like($doomed->error, qr/terminating connection due to administrator command/, 'it can be terminated');
	await($node, 'the end of the session',
		'SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = ?)', $doomed->pid);
	is($witness->value('SELECT count(*) FROM pg_lockguard_progress'), 0,
		'terminated: what it published is not believed any more');
	forget_sessions($doomed);
	$reader->do('COMMIT');
};

subtest 'ddl_on_timeout = queue' => sub {
	$ddl->do("SET pg_lockguard.ddl_max_wait = '100ms'; SET pg_lockguard.ddl_on_timeout = queue");
	read_and_idle($reader);
	$ddl->send(add_column());
	await($node, 'it queues',
		"SELECT EXISTS (SELECT FROM pg_locks WHERE pid = ? AND NOT granted AND locktype = 'relation')", $ddl->pid);
	is($witness->value('SELECT count(*) FROM pg_lockguard_progress'), 0, 'in the queue it is as any other');
	my $before = statistics($node);
	await($node, 'some time there', "SELECT EXISTS (SELECT FROM pg_locks WHERE pid = ? AND NOT granted AND waitstart < clock_timestamp() - interval '100 ms')", $ddl->pid);
	$reader->do('COMMIT');
	is($ddl->error, undef, 'ddl_on_timeout = queue: it gets its lock in the queue');
	my $after = statistics($node);
	is($after->{bursts} - $before->{bursts}, 1, 'which counts as a stay there');
	cmp_ok($after->{stall_time} - $before->{stall_time}, '>=', 100, 'that others could be kept waiting by');
	cmp_ok($after->{max_stall_time}, '>=', 100, 'and is the longest');
	is($witness->value(q{SELECT stall >= '100 ms' FROM pg_lockguard_events WHERE kind = 'ddl_acquired' AND pid = ? ORDER BY id DESC LIMIT 1}, $ddl->pid), 1,
		'the event says so, too');
	is_clean($ddl, 'after ddl_on_timeout = queue');

	# With a lock_timeout that is longer than ddl_max_wait, the queue is for the rest of it.
	$ddl->do("SET lock_timeout = '300ms'");
	read_and_idle($reader);
	$ddl->send(add_column());
	like($ddl->error, qr/canceling statement due to lock timeout.*Blocked by PID/s, 'lock_timeout bounds the queue');
	is_clean($ddl, 'queue and lock_timeout', '300ms');
	$reader->do('COMMIT');
	$ddl->do('RESET ALL');
};

subtest 'in a transaction that others wait for' => sub {
	my $waiter = session($node, 'waiter');
	$ddl->do("SET pg_lockguard.ddl_lock_timeout = '300ms'");
	read_and_idle($reader);
	$ddl->do('BEGIN');
	$ddl->do('LOCK TABLE orders IN ACCESS EXCLUSIVE MODE');
	$ddl->send(add_column());
	await_low_priority($ddl);
	$waiter->send('SELECT count(*) FROM orders');
	my $error = $ddl->error;
	is($ddl->sqlstate, '55P03', 'it fails once it has kept somebody waiting for too long');
	like(
		$error,
		qr/DETAIL:  ALTER TABLE waited \S+ m?s for AccessExclusiveLock on public\.users, while 1 session waited for locks of its transaction, for up to \d[\d.]* m?s\. Blocked by PID/,
		'and says how many sessions that were');
	like($error, qr/HINT:  Roll back and retry the whole transaction/, 'and what to do');
	is($waiter->error, undef, 'whom it kept waiting goes on');
	$ddl->do('ROLLBACK');
	is_clean($ddl, 'after politeness');
	$reader->do('COMMIT');
	$ddl->do('RESET ALL');

	# Patience is endless where nobody waits behind.
	$ddl->do("SET pg_lockguard.ddl_lock_timeout = '20ms'");
	read_and_idle($reader);
	$ddl->do('BEGIN');
	$ddl->do('LOCK TABLE orders IN ACCESS EXCLUSIVE MODE');
	$ddl->send(add_column());
	await($node, 'many looks', "SELECT EXISTS (SELECT FROM pg_lockguard_progress WHERE waited > '500ms')");
	$reader->do('COMMIT');
	is($ddl->error, undef, 'it may wait as long as it keeps nobody waiting');
	$ddl->do('COMMIT');
	$ddl->do('RESET ALL');
	forget_sessions($waiter);
};

subtest 'deadlocks, from either side, guarded or not' => sub {
	for my $case ([ 'low_priority', 'low_priority' ], [ 'low_priority', 'off' ], [ 'off', 'low_priority' ])
	{
		my @modes = @$case;
		my $name = "deadlock of $modes[0] and $modes[1]";
		my $before = statistics($node)->{deadlocks};
		my @party = (session($node, 'first'), session($node, 'second'));
		my @table = ('users', 'orders');
		for my $i (0, 1)
		{
			$party[$i]->do("SET pg_lockguard.ddl_mode = $modes[$i]");
			$party[$i]->do('BEGIN');
			$party[$i]->do("SELECT count(*) FROM $table[$i]");
		}
		$party[0]->send(add_column($table[1]));
		if ($modes[0] eq 'off') { settle($node, $party[0]) }
		else { await_low_priority($party[0]) }
		$party[1]->send(add_column($table[0]));
		await($node, "$name: somebody's end",
			"SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = ANY(?) AND state = 'idle in transaction (aborted)')",
			[ map { $_->pid } @party ]);
		my $lost = $witness->value("SELECT state = 'idle in transaction (aborted)' FROM pg_stat_activity WHERE pid = ?",
			$party[0]->pid);
		my ($loser, $winner) = $lost ? @party : reverse @party;
		like($loser->error, qr/deadlock detected/, "$name is detected");
		is($loser->sqlstate, '40P01', "$name: its SQLSTATE");
		$loser->do('ROLLBACK');
		my $told = $modes[ $lost ? 0 : 1 ] eq 'off' ? 0 : 1;
		is(statistics($node)->{deadlocks} - $before, $told, "$name: is counted where its loser is guarded");
		is($witness->value("SELECT count(*) FROM pg_lockguard_events WHERE kind = 'ddl_deadlock' AND pid = ? AND reason = 'the statement has failed'", $loser->pid),
			$told, "$name: so it is recorded");
		is($winner->error, undef, "$name: the other goes on");
		$winner->do('ROLLBACK');
		is_clean($_, $name) for @party;
		forget_sessions(@party);
	}
};

# In autocommit.
subtest 'a deadlock by way of a lock of the session itself' => sub {
	my $locker = session($node, 'locker');
	$ddl->do('SELECT pg_advisory_lock(1)');
	read_and_idle($locker);
	$locker->send('SELECT pg_advisory_lock(1)');
	settle($node, $locker);
	$ddl->send(add_column());
	# The statement comes to its end either way: it loses, or goes on when the other has lost.
	my $error = $ddl->error;
	like($error // $locker->error, qr/deadlock detected/, 'a deadlock by way of a session-level lock is detected');
	if (defined $error)
	{
		# In autocommit, the lock stays with the session that loses.
		$ddl->do('SELECT pg_advisory_unlock_all()');
		is($locker->error, undef, 'the other goes on');
	}
	else { is($ddl->value('SELECT 1'), '1', 'the other goes on') }
	$ddl->do('SELECT pg_advisory_unlock_all()');
	$locker->do('ROLLBACK');
	forget_sessions($locker);
};

subtest 'who waits for this very transaction is not waited for' => sub {
	$ddl->do('BEGIN; SELECT count(*) FROM users');
	$witness->do('SET pg_lockguard.ddl_mode = off');
	$witness->send('BEGIN; LOCK TABLE users; COMMIT');
	await($node, 'the plain statement waits', q{SELECT wait_event_type = 'Lock' AND now() - state_change > '600ms' FROM pg_stat_activity WHERE pid = ?}, $witness->pid);
	$ddl->do("SET LOCAL lock_timeout = '15s'");
	$ddl->do(add_column());
	pass('as in plain PostgreSQL, it goes before those in the queue');
	$ddl->do('COMMIT');
	is($witness->error, undef, 'who waited goes on');
	$witness->do('RESET pg_lockguard.ddl_mode');
};

ends_well($node);
done_testing();
