# The DDL guard, pg_lockguard.ddl_mode = low_priority: a statement that waits outside of the lock
# queues. That nobody waits behind it, what it shows meanwhile, and each way in which a wait ends.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LockGuard;
use LockGuard::LowPriority qw(await_giving_back);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node(
	'patient',
	"shared_preload_libraries = 'pg_lockguard'",
	"deadlock_timeout = '200ms'",
	'log_lock_waits = on');

$node->safe_psql(
	'postgres', q{
	CREATE ROLE owner LOGIN;
	CREATE ROLE other LOGIN;
	GRANT ALL ON SCHEMA public TO owner, other;
	CREATE TABLE users (id int PRIMARY KEY, name text);
	INSERT INTO users SELECT i, 'user ' || i FROM generate_series(1, 100) i;
	CREATE TABLE orders (id int PRIMARY KEY);
	CREATE TABLE owned (id int);
	ALTER TABLE owned OWNER TO owner;
	GRANT SELECT ON owned TO PUBLIC;
	CREATE TABLE probed (id int);
	INSERT INTO probed VALUES (1);
	CREATE FUNCTION probe(int) RETURNS int VOLATILE LANGUAGE plpgsql AS $$
	BEGIN
		RAISE NOTICE 'lock_timeout is %', current_setting('lock_timeout');
		RETURN $1;
	END $$;
});

my $reader = session($node, 'reader');
my $ddl = session($node, 'ddl');
my $witness = session($node, 'witness');
$witness->do("SET statement_timeout = '20s'");

my $columns = 0;

# Another column each time.
sub add_column
{
	my $table = shift // 'users';
	$columns++;
	return "ALTER TABLE $table ADD COLUMN c$columns int";
}

# A transaction that has read the table and sits idle.
sub read_and_idle
{
	my ($session, $table) = @_;
	$session->do('BEGIN');
	$session->do('SELECT count(*) FROM ' . ($table // 'users'));
	return;
}

sub await_patience
{
	my ($session, $phase) = @_;
	await($node, $session->name . ' waits at low priority',
		'SELECT EXISTS (SELECT FROM pg_lockguard_progress WHERE pid = ? AND phase = ?)',
		$session->pid, $phase // 'waiting');
	return;
}

sub sqlstate { return $_[0]->{dbh}->state }

# What must be left of a wait, however it ended, in a session that is idle now: nothing.
sub is_clean
{
	my ($session, $name) = @_;
	is($witness->value('SELECT count(*) FROM pg_lockguard_progress'), 0, "$name: nothing is published");
	is($witness->value("SELECT count(*) FROM pg_locks WHERE pid = ? AND locktype <> 'virtualxid'", $session->pid),
		0, "$name: no lock is left");
	is($session->value('SHOW lock_timeout'), $_[2] // '0', "$name: lock_timeout is as before");
	return;
}

# ---- It waits, and nobody waits behind it

read_and_idle($reader);
$ddl->send(add_column());
await_patience($ddl);

is($witness->value('SELECT count(*) FROM users'), 100, 'a reader does not wait behind it');
$witness->do("UPDATE users SET name = name WHERE id = 1");
pass('nor does a writer');
is( $witness->value(
		"SELECT count(*) FROM pg_locks WHERE relation = 'users'::regclass AND pid = ?", $ddl->pid),
	0, 'it neither holds nor awaits the lock');

my ($row) = $witness->rows('SELECT * FROM pg_lockguard_progress');
is_deeply(
	{ map { $_ => $row->{$_} } qw(pid datname usename command relation lock_mode phase holders deadline) },
	{   pid => $ddl->pid,
		datname => 'postgres',
		usename => $witness->value('SELECT current_user'),
		command => 'ALTER TABLE',
		relation => 'public.users',
		lock_mode => 'AccessExclusiveLock',
		phase => 'waiting',
		holders => [ $reader->pid ],
		deadline => undef,
	},
	'pg_lockguard_progress says what it waits for');
cmp_ok($row->{attempt}, '>=', 1, 'attempts are counted');
is($row->{longest_stall}, '00:00:00', 'nobody was kept waiting');
like($row->{next_step}, qr/^tries again when a holder's transaction ends; looks again within \d+ ms$/,
	'the next step in words');

is( tree($node, qw(blocked_by held_by lock_type lock_object lock_mode blocker_mode)),
	"reader | - | - | - | - | - | -\n"
	  . "└─ ddl | reader | reader | relation | public.users | AccessExclusiveLock | AccessShareLock\n",
	'lock_tree() has it under the session that it waits for, with the lock that it is after');
is($witness->value("SELECT count(*) FROM lock_tree() WHERE deadlock"), 0, 'no deadlock is seen');

is( $witness->value(
		'SELECT backend_xmin IS NULL AND backend_xid IS NULL FROM pg_stat_activity WHERE pid = ?', $ddl->pid),
	1, 'it holds no snapshot and no transaction id');

$reader->do('COMMIT');
is($ddl->error, undef, 'it goes when the reader has gone');
is($witness->value("SELECT count(*) FROM pg_attribute WHERE attrelid = 'users'::regclass AND attname = 'c1'"),
	1, 'and has done its work');
is_clean($ddl, 'after success');

# Wherever the lock of the session in the way stands: in a slot of that session, in the lock table,
# or in a lock table that is too full to be searched at a glance. An attempt would be in vain, and
# would give the transaction an id.
for my $case (
	[ 'in the table' => 'LOCK TABLE users IN SHARE UPDATE EXCLUSIVE MODE' ],
	[ 'in the table beside many others' =>
		'SELECT pg_advisory_xact_lock(i) FROM generate_series(1, 5000) i; LOCK TABLE users IN SHARE UPDATE EXCLUSIVE MODE' ],
	[ 'in a slot beside a table with many others' =>
		'SELECT pg_advisory_xact_lock(i) FROM generate_series(1, 5000) i; SELECT FROM users LIMIT 1' ])
{
	my ($name, $take) = @$case;
	$reader->do('BEGIN');
	$reader->do($take);
	$ddl->send(add_column());
	await_patience($ddl);
	is($witness->value('SELECT backend_xid FROM pg_stat_activity WHERE pid = ?', $ddl->pid),
		undef, "a lock $name is seen without an attempt");
	$reader->do('COMMIT');
	is($ddl->error, undef, "... and waited for");
}

# Nothing in the way.
$ddl->do(add_column());
is_clean($ddl, 'with nothing in the way');

# ---- Limits

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
	is(sqlstate($ddl), '55P03', "$name ends the wait");
	like($error, qr/canceling statement due to lock timeout/, "$name: the message");
	like($error,
		qr/DETAIL:  ALTER TABLE waited (3\d\d|4\d\d) ms for AccessExclusiveLock on public\.users\. Blocked by PID $pid \(app "reader", user \w+, idle in transaction for [^)]+\): SELECT count\(\*\) FROM users/,
		"$name: the culprit is named");
	like($error, qr/HINT:  Commit or roll back the transaction of PID $pid/, "$name: and what to do");
	is_clean($ddl, $name, $lock_timeout);
	$reader->do('COMMIT');
	$ddl->do('RESET ALL');
}

# ---- Each other way in which a wait ends at once, in autocommit and in a transaction

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
		await_patience($ddl) if $name ne 'statement_timeout';
		$strike->();
		like($ddl->error, $message, "$name $where ends the wait");
		is(sqlstate($ddl), $sqlstate, "$name $where: its SQLSTATE");
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

{
	my $doomed = session($node, 'doomed');
	read_and_idle($reader);
	$doomed->send(add_column());
	await_patience($doomed);
	$witness->value('SELECT pg_terminate_backend(?)', $doomed->pid);
	like($doomed->error, qr/terminating connection due to administrator command/, 'it can be terminated');
	await($node, 'the end of the session',
		'SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = ?)', $doomed->pid);
	is($witness->value('SELECT count(*) FROM pg_lockguard_progress'), 0,
		'terminated: what it published is not believed any more');
	forget_sessions($doomed);
	$reader->do('COMMIT');
}

# ---- ddl_on_timeout

{
	$ddl->do("SET pg_lockguard.ddl_max_wait = '100ms'; SET pg_lockguard.ddl_on_timeout = queue");
	read_and_idle($reader);
	$ddl->send(add_column());
	await($node, 'it queues',
		"SELECT EXISTS (SELECT FROM pg_locks WHERE pid = ? AND NOT granted AND locktype = 'relation')", $ddl->pid);
	is($witness->value('SELECT count(*) FROM pg_lockguard_progress'), 0, 'in the queue it is as any other');
	$reader->do('COMMIT');
	is($ddl->error, undef, 'ddl_on_timeout = queue: it gets its lock in the queue');
	is_clean($ddl, 'after ddl_on_timeout = queue');

	# With a lock_timeout that is longer than ddl_max_wait, the queue is for the rest of it.
	$ddl->do("SET lock_timeout = '300ms'");
	read_and_idle($reader);
	$ddl->send(add_column());
	like($ddl->error, qr/canceling statement due to lock timeout.*Blocked by PID/s, 'lock_timeout bounds the queue');
	is_clean($ddl, 'queue and lock_timeout', '300ms');
	$reader->do('COMMIT');
	$ddl->do('RESET ALL');
}

{
	my $victim = session($node, 'victim', user => 'other');
	$ddl->do("SET pg_lockguard.ddl_max_wait = '100ms'; SET pg_lockguard.ddl_on_timeout = terminate");
	read_and_idle($victim, 'owned');
	my $log = -s $node->logfile;
	$ddl->send(add_column('owned'));
	is($ddl->error, undef, 'ddl_on_timeout = terminate: it gets its lock');
	my $pid = $ddl->pid;
	$victim->send('SELECT 1');
	like(
		$victim->error,
		qr/DETAIL:  pg_lockguard: ended by PID $pid, whose ALTER TABLE waited \d+ ms for AccessExclusiveLock on relation \d+ \(pg_lockguard\.ddl_on_timeout = terminate\)/,
		'the victim is told why');
	my $victim_pid = $victim->pid;
	like(slurp_file($node->logfile, $log),
		qr/LOG:  pg_lockguard: terminated PID $victim_pid, which held a lock for which PID $pid \(ALTER TABLE\) waited/,
		'and so is the log');
	is_clean($ddl, 'after ddl_on_timeout = terminate');
	$ddl->do('RESET ALL');
	forget_sessions($victim);
}

# Not for a role that may not do it: settings are the superuser's, the right is checked all the same.
{
	$node->safe_psql('postgres',
		"ALTER ROLE owner SET pg_lockguard.ddl_max_wait = '100ms'; ALTER ROLE owner SET pg_lockguard.ddl_on_timeout = terminate");
	my $owner = session($node, 'owner', user => 'owner');
	my $victim = session($node, 'victim', user => 'other');
	read_and_idle($victim, 'owned');
	$owner->send(add_column('owned'));
	my ($error, $pid) = ($owner->error, $victim->pid);
	is(sqlstate($owner), '55P03', 'a role that may not end the session gets the error');
	like($error, qr/Blocked by PID $pid \(app "victim", user other\)/, 'which names the session');
	unlike($error, qr/SELECT count/, 'but not what others may not see');
	is($victim->value('SELECT 1'), 1, 'the session lives');

	$node->safe_psql('postgres', 'GRANT pg_signal_backend TO owner');
	$owner->send(add_column('owned'));
	is($owner->error, undef, 'with pg_signal_backend it may');
	$victim->send('SELECT 1');
	like($victim->error, qr/terminating connection/, 'the session has ended');

	# Never a superuser's.
	read_and_idle($reader, 'owned');
	$owner->send(add_column('owned'));
	like($owner->error, qr/lock timeout/, "a superuser's session is not ended");
	is($reader->value('SELECT 1'), 1, "the superuser's session lives");
	$reader->do('COMMIT');
	forget_sessions($owner, $victim);
	$node->safe_psql('postgres', 'ALTER ROLE owner RESET ALL; REVOKE pg_signal_backend FROM owner');
}

# ---- Who may not have the lock does not get to wait for it

{
	my $other = session($node, 'other', user => 'other');
	read_and_idle($reader, 'owned');
	for my $statement (
		'ALTER TABLE owned ADD COLUMN x int',
		'ALTER TABLE users ADD COLUMN x int, DROP COLUMN name',
		'ALTER TABLE owned RENAME TO mine',
		'ALTER TABLE owned SET SCHEMA pg_catalog')
	{
		$other->send($statement);
		like($other->error, qr/must be owner of table/, "$statement: PostgreSQL's own error, at once");
		is(sqlstate($other), '42501', "$statement: its SQLSTATE");
		is_clean($other, $statement);
	}
	$reader->do('COMMIT');
	forget_sessions($other);
}

# ---- The relation changes while it waits

for my $case (
	[   'renamed',
		'ALTER TABLE thing RENAME TO thing_2', qr/relation "thing" does not exist/,
		'DROP TABLE thing_2' ],
	[ 'dropped', 'DROP TABLE thing', qr/relation "thing" does not exist/, '' ],
	[   're-owned',
		'ALTER TABLE thing OWNER TO other', qr/must be owner of table thing/,
		'DROP TABLE thing' ],
	[   'made a view of',
		'DROP TABLE thing; CREATE VIEW thing AS SELECT 1 AS id; ALTER VIEW thing OWNER TO owner',
		qr/ALTER action ADD COLUMN cannot be performed on relation "thing"/, 'DROP VIEW thing' ])
{
	my ($name, $change, $expected, $drop) = @$case;
	my $owner = session($node, 'owner', user => 'owner');
	$owner->do('CREATE TABLE thing (id int)');
	$reader->do('SET pg_lockguard.ddl_mode = off');
	read_and_idle($reader, 'thing');
	$owner->send('ALTER TABLE thing ADD COLUMN added int');
	await_patience($owner);
	$reader->do($_) for split /; /, $change;
	$reader->do('COMMIT');
	like($owner->error, $expected, "$name while it waits");
	is_clean($owner, "$name while it waits");
	$witness->do($drop) if $drop;
	forget_sessions($owner);
}

{
	$witness->do('CREATE TABLE thing (id int)');
	read_and_idle($reader, 'thing');
	$ddl->send('ALTER TABLE thing ADD COLUMN added int');
	await_patience($ddl);
	$reader->do('ALTER TABLE thing RENAME TO former');
	$reader->do('CREATE TABLE thing (id int)');
	$reader->do('COMMIT');
	is($ddl->error, undef, 'recreated while it waits');
	is($witness->value("SELECT attrelid::regclass FROM pg_attribute WHERE attname = 'added'"),
		'thing', 'the name counts, as in PostgreSQL');
	$witness->do('DROP TABLE thing, former');
	$reader->do('RESET ALL');
}

# ---- Locks that are given back before the transaction ends, and transactions without a session

{
	$reader->do('BEGIN');
	$reader->do('SAVEPOINT s');
	$reader->do('SELECT count(*) FROM users');
	$ddl->send(add_column());
	await_patience($ddl);
	$reader->do('ROLLBACK TO s');
	is($ddl->error, undef, 'ROLLBACK TO SAVEPOINT releases the lock');
	$reader->do('COMMIT');

	$reader->do('BEGIN');
	$reader->do('INSERT INTO users (id) VALUES (1000)');
	$reader->do("PREPARE TRANSACTION 'forgotten'");
	$ddl->send(add_column());
	await_patience($ddl);
	is_deeply([ map { $_->{holders} } $witness->rows('SELECT holders FROM pg_lockguard_progress') ],
		[ [0] ], 'a prepared transaction is a holder without a pid');
	is( tree($node, qw(blocked_by gid blocker_mode)),
		"forgotten | - | forgotten | -\n└─ ddl | 0 | - | RowExclusiveLock\n",
		'and the root of the tree');
	$witness->do("COMMIT PREPARED 'forgotten'");
	is($ddl->error, undef, 'it goes when the prepared transaction has ended');

	$reader->do('BEGIN');
	$reader->do('INSERT INTO users (id) VALUES (1001)');
	$reader->do("PREPARE TRANSACTION 'left'");
	$ddl->do("SET pg_lockguard.ddl_max_wait = '100ms'; SET pg_lockguard.ddl_on_timeout = terminate");
	$ddl->send(add_column());
	like($ddl->error, qr/Blocked by prepared transaction "left"/, 'a prepared transaction can not be terminated');
	$witness->do("ROLLBACK PREPARED 'left'");
	$ddl->do('RESET ALL');
}

# ---- In a transaction that others wait for

{
	my $waiter = session($node, 'waiter');
	$ddl->do("SET pg_lockguard.ddl_lock_timeout = '300ms'");
	read_and_idle($reader);
	$ddl->do('BEGIN');
	$ddl->do('LOCK TABLE orders IN ACCESS EXCLUSIVE MODE');
	$ddl->send(add_column());
	await_patience($ddl);
	$waiter->send('SELECT count(*) FROM orders');
	my $error = $ddl->error;
	is(sqlstate($ddl), '55P03', 'it fails once it has kept somebody waiting for too long');
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
}

# ---- Deadlocks: from either side, guarded or not

for my $case ([ 'low_priority', 'low_priority' ], [ 'low_priority', 'off' ], [ 'off', 'low_priority' ])
{
	my @modes = @$case;
	my $name = "deadlock of $modes[0] and $modes[1]";
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
	else { await_patience($party[0]) }
	$party[1]->send(add_column($table[0]));
	await($node, "$name: somebody's end",
		"SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = ANY(?) AND state = 'idle in transaction (aborted)')",
		[ map { $_->pid } @party ]);
	my $lost = $witness->value("SELECT state = 'idle in transaction (aborted)' FROM pg_stat_activity WHERE pid = ?",
		$party[0]->pid);
	my ($loser, $winner) = $lost ? @party : reverse @party;
	like($loser->error, qr/deadlock detected/, "$name is detected");
	is(sqlstate($loser), '40P01', "$name: its SQLSTATE");
	$loser->do('ROLLBACK');
	is($winner->error, undef, "$name: the other goes on");
	$winner->do('ROLLBACK');
	is_clean($_, $name) for @party;
	forget_sessions(@party);
}

# A lock of the session itself, in autocommit.
{
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
}

# ---- What is logged

{
	my $log = -s $node->logfile;
	read_and_idle($reader);
	$ddl->send(add_column());
	await($node, 'deadlock_timeout', "SELECT EXISTS (SELECT FROM pg_lockguard_progress WHERE waited > '1s')");
	$reader->do('COMMIT');
	is($ddl->error, undef, 'a wait that is logged');
	my ($pid, $holder) = ($ddl->pid, $reader->pid);
	my $text = slurp_file($node->logfile, $log);
	is( scalar(() = $text =~
			/LOG:  process $pid still waits at low priority for AccessExclusiveLock on relation \d+ of database \d+ after \d+\.\d{3} ms\n.*DETAIL:  Process holding the lock: $holder\./g
		),
		1,
		'one line after deadlock_timeout');
	is( scalar(() = $text =~
			/LOG:  process $pid acquired AccessExclusiveLock on relation \d+ of database \d+ at low priority after \d+\.\d{3} ms\n/g
		),
		1,
		'one line at the end');
	unlike($text, qr/still waiting for ShareLock on virtual transaction/, 'none for each sleep');
}

# ---- Where statements run

{
	# Functions, DO blocks, procedures
	$ddl->do(q{
		CREATE FUNCTION alter_users(name text) RETURNS void LANGUAGE plpgsql AS $$
		BEGIN
			EXECUTE format('ALTER TABLE users ADD COLUMN %I int', name);
		END $$});
	$ddl->do(q{
		CREATE PROCEDURE alter_twice(first text, second text) LANGUAGE plpgsql AS $$
		BEGIN
			EXECUTE format('ALTER TABLE users ADD COLUMN %I int', first);
			COMMIT;
			EXECUTE format('ALTER TABLE users ADD COLUMN %I int', second);
		END $$});
	for my $statement (
		q{SELECT alter_users('f1')},
		q{DO $$ BEGIN ALTER TABLE users ADD COLUMN d1 int; END $$},
		q{DO $$ BEGIN BEGIN ALTER TABLE users ADD COLUMN d2 int; EXCEPTION WHEN OTHERS THEN RAISE; END; END $$},
		q{CALL alter_twice('p1', 'p2')},
		q{BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1; ALTER TABLE users ADD COLUMN r1 int; COMMIT},
		q{BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT 1; ALTER TABLE users ADD COLUMN s1 int; COMMIT},
		q{ALTER TABLE users ADD COLUMN m1 int; ALTER TABLE users ADD COLUMN m2 int})
	{
		read_and_idle($reader);
		$ddl->send($statement);
		await_patience($ddl);
		is($witness->value('SELECT count(*) >= 100 FROM users'), 1, "$statement: nobody waits behind it");
		$reader->do('COMMIT');
		is($ddl->error, undef, "$statement: done");
		is_clean($ddl, $statement);
	}

	# An EXCEPTION block catches the error, and goes on in a sound transaction.
	read_and_idle($reader);
	$ddl->send(q{DO $$
		BEGIN
			SET LOCAL lock_timeout = '100ms';
			BEGIN
				ALTER TABLE users ADD COLUMN never int;
			EXCEPTION WHEN lock_not_available THEN
				INSERT INTO orders VALUES (2);
			END;
			BEGIN
				ALTER TABLE users ADD COLUMN never int;
			EXCEPTION WHEN lock_not_available THEN
				INSERT INTO orders VALUES (3);
			END;
			ALTER TABLE orders ADD COLUMN after_all int;
		END $$});
	is($ddl->error, undef, 'caught twice in EXCEPTION blocks');
	is($ddl->value('SELECT count(after_all) + count(*) FROM orders'), 2, 'and the rest is done');
	is_clean($ddl, 'after EXCEPTION blocks');
	$reader->do('COMMIT');

	# The extended protocol: prepared statements and pipelines.
	my $script = $node->basedir . '/pipeline.sql';
	append_to_file($script, "\\startpipeline\nINSERT INTO orders VALUES (10);\nALTER TABLE users ADD COLUMN pl1 int;\n"
		  . "ALTER TABLE users ADD COLUMN pl2 int;\n\\endpipeline\n");
	for my $protocol ('extended', 'prepared')
	{
		read_and_idle($reader);
		my $pgbench = IPC::Run::start(
			[ 'pgbench', '-n', '-t', '1', '-M', $protocol, '-f', $script, $node->connstr('postgres') ],
			'>', \my $out, '2>', \my $err);
		await($node, 'the pipeline waits',
			"SELECT EXISTS (SELECT FROM pg_lockguard_progress WHERE phase = 'waiting')");
		is($witness->value('SELECT count(*) >= 100 FROM users'), 1, "$protocol pipeline: nobody waits behind it");
		$reader->do('COMMIT');
		$pgbench->finish;
		like($out, qr{processed: 1/1}, "$protocol pipeline: done");
		is($witness->value('SELECT count(*) FROM pg_lockguard_progress'), 0, "$protocol pipeline: nothing published");
		$witness->do('ALTER TABLE users DROP COLUMN pl1, DROP COLUMN pl2');
		$witness->do('DELETE FROM orders');
	}
}

# ---- Event triggers

{
	$witness->do(q{
		CREATE TABLE seen (event text);
		CREATE FUNCTION note_event() RETURNS event_trigger LANGUAGE plpgsql AS $$
		BEGIN
			INSERT INTO seen VALUES (tg_event || ' ' || tg_tag);
		END $$;
		CREATE EVENT TRIGGER at_start ON ddl_command_start EXECUTE FUNCTION note_event();
		CREATE EVENT TRIGGER at_end ON ddl_command_end EXECUTE FUNCTION note_event()});
	$witness->do('DELETE FROM seen');
	read_and_idle($reader);
	$ddl->send(add_column());
	await_patience($ddl);
	$reader->do('COMMIT');
	is($ddl->error, undef, 'with event triggers');
	is($witness->value("SELECT string_agg(event, ', ') FROM seen"),
		'ddl_command_start ALTER TABLE, ddl_command_end ALTER TABLE',
		'what they did in vain is gone: each has fired once');

	# What an event trigger alters in turn does not wait for its own.
	$witness->do(q{
		DROP EVENT TRIGGER at_start;
		CREATE OR REPLACE FUNCTION note_event() RETURNS event_trigger LANGUAGE plpgsql AS $$
		BEGIN
			IF current_query() LIKE 'ALTER TABLE users%' AND NOT EXISTS (SELECT FROM seen WHERE event = 'nested') THEN
				INSERT INTO seen VALUES ('nested');
				ALTER TABLE orders ADD COLUMN nested int;
			END IF;
		END $$});
	read_and_idle($reader, 'orders');
	$ddl->send(add_column());
	await_giving_back($ddl, 'users', $witness);
	await($node, 'it waits for the lock of the statement inside',
		"SELECT EXISTS (SELECT FROM pg_lockguard_progress WHERE phase = 'waiting' AND relation = 'public.orders')");
	is($witness->value('SELECT count(*) >= 100 FROM users'), 1, 'and has given its own back meanwhile');
	$reader->do('COMMIT');
	is($ddl->error, undef, 'both are done');
	is_clean($ddl, 'after a nested statement');
	$witness->do('DROP EVENT TRIGGER at_end');
}

# Locks of other kinds inside the statement: of a row, and of a session that is in no transaction.
for my $case (
	[   'a row lock', 'UPDATE note SET text = text',
		'BEGIN', 'UPDATE note SET text = text', 'COMMIT', 'transaction %' ],
	[   'an advisory lock', 'PERFORM pg_advisory_xact_lock(7)',
		'SELECT 1', 'SELECT pg_advisory_lock(7)', 'SELECT pg_advisory_unlock(7)', 'advisory lock 7' ])
{
	my ($name, $inside, $begin, $take, $release, $object) = @$case;
	$witness->do(qq{
		CREATE TABLE IF NOT EXISTS note AS SELECT 'x' AS text;
		CREATE FUNCTION take_lock() RETURNS event_trigger LANGUAGE plpgsql AS \$\$ BEGIN $inside; END \$\$});
	$witness->do(q{CREATE EVENT TRIGGER at_end ON ddl_command_end WHEN TAG IN ('ALTER TABLE') EXECUTE FUNCTION take_lock()});
	$reader->do($begin);
	$reader->do($take);
	$ddl->send(add_column());
	await_giving_back($ddl, 'users', $witness);
	await($node, "it waits for $name",
		'SELECT EXISTS (SELECT FROM pg_lockguard_progress WHERE relation LIKE ? AND attempt > 1)', $object);
	is($witness->value('SELECT count(*) >= 100 FROM users'), 1, "$name: it does not keep its own locks for long");
	$reader->do($release);
	is($ddl->error, undef, "$name: done when it is free");
	is_clean($ddl, $name);
	$witness->do('DROP EVENT TRIGGER at_end; DROP FUNCTION take_lock');
}

# ---- Left alone

{
	$ddl->do("SET lock_timeout = '1min'; SET client_min_messages = notice");
	my $noticed = '';
	local $SIG{__WARN__} = sub { $noticed .= $_[0] };
	$ddl->do('CREATE TEMP TABLE mine (id int); INSERT INTO mine VALUES (1)');
	$ddl->{dbh}->{PrintWarn} = 1;
	$ddl->do('ALTER TABLE mine ALTER id TYPE int USING probe(id)');
	like($noticed, qr/lock_timeout is 1min/, 'a temporary table is left alone');
	$noticed = '';
	$ddl->do('ALTER TABLE probed ALTER id TYPE int USING probe(id)');
	like($noticed, qr/lock_timeout is 1min/, 'in another the waits are watched from outside');
	$ddl->{dbh}->{PrintWarn} = 0;
	$ddl->do('RESET ALL');
	is_clean($ddl, 'after a temporary table');
}

{
	$ddl->do("SET pg_lockguard.ddl_commands = 'LOCK TABLE, ALTER TABLE'");
	$ddl->send('LOCK TABLE users');
	like($ddl->error, qr/LOCK TABLE can only be used in transaction blocks/,
		'LOCK TABLE outside of a transaction is what it is');
	read_and_idle($reader);
	$ddl->do('BEGIN');
	$ddl->send('LOCK TABLE users NOWAIT');
	like($ddl->error, qr/could not obtain lock on relation "users"/, 'NOWAIT does not wait');
	$ddl->do('ROLLBACK');
	$ddl->do('BEGIN READ ONLY');
	$ddl->send(add_column());
	like($ddl->error, qr/cannot execute ALTER TABLE in a read-only transaction/, 'nor does a read-only transaction');
	$ddl->do('ROLLBACK');
	$reader->do('COMMIT');
	$ddl->do('RESET ALL');
}

# ---- Without shared memory

{
	my $bare = start_node('bare', "session_preload_libraries = 'pg_lockguard'", "deadlock_timeout = '200ms'");
	$bare->safe_psql('postgres', 'CREATE TABLE users (id int)');
	my ($holder, $alter, $looker) = map { session($bare, $_) } qw(holder alter looker);
	$looker->send('SELECT * FROM pg_lockguard_progress');
	like($looker->error, qr/pg_lockguard has no shared memory.*HINT:  Add pg_lockguard to shared_preload_libraries/s,
		'the view says what is missing');
	is(sqlstate($looker), '55000', 'its SQLSTATE');
	$holder->do('BEGIN');
	$holder->do('SELECT FROM users');
	$alter->send('ALTER TABLE users ADD COLUMN x int');
	await($bare, 'it sleeps',
		"SELECT EXISTS (SELECT FROM pg_locks WHERE pid = ? AND NOT granted AND locktype = 'virtualxid')", $alter->pid);
	$looker->do("SET statement_timeout = '20s'");
	is($looker->value('SELECT count(*) FROM users'), 0, 'the guard works in any session that has the library');
	is($looker->value('SELECT blocked_by FROM lock_tree() WHERE pid = ?', $alter->pid)->[0],
		$holder->pid, 'and lock_tree() knows whom it sleeps on');
	$holder->do('COMMIT');
	is($alter->error, undef, 'it goes');
	forget_sessions($holder, $alter, $looker);
	$bare->stop;
}

forget_sessions();
$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP:|terminated by signal/, 'no crash');

done_testing();
