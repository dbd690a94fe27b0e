# Whom the worker ends: sessions that hold a conflicting lock and are idle in transaction, and nobody
# else.
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

# With a walsender
my $node = start_worker_node('whom', { streaming => 1 }, q{pg_lockguard.blocker_action = terminate});

$node->safe_psql(
	'postgres', q{
	CREATE ROLE boss LOGIN SUPERUSER;
	CREATE ROLE climber LOGIN;
	GRANT boss TO climber;
	CREATE ROLE streamer LOGIN REPLICATION;
	CREATE ROLE quiet LOGIN;
	ALTER ROLE quiet SET track_activities = off;
});

# Each of these stands in the way, or nearly so, and must go on.
sub left_alone
{
	my ($why, $session, $ddl) = @_;
	is( $node->safe_psql('postgres', "SELECT $session->{pid} = ANY (pg_blocking_pids($ddl->{pid}))"),
		't',
		"$why: it blocks");
	wait_for_look($node);
	ok(is_alive($session), "$why: it goes on");
	is(scalar lines_about($session), 0, "$why: nothing is said about it");
	$session->do('COMMIT');
	is($ddl->error, undef, "$why: its transaction was whole");
	forget_sessions($session, $ddl);
}

subtest 'who only stands ahead in the queue' => sub {
	my $table = new_table($node);
	$node->safe_psql('postgres', "ALTER TABLE $table OWNER TO app");
	my $holder = session($node, 'holder', user => 'app');
	$holder->do($_) for 'BEGIN', "INSERT INTO $table VALUES (1)";
	configure($node, blocker_action => 'off');
	my $bystander = session($node, 'bystander', user => 'app');
	$bystander->send("CREATE INDEX ON $table (id)");
	await($node, 'the bystander queues',
		"SELECT EXISTS (SELECT FROM pg_locks WHERE pid = $bystander->{pid} AND NOT granted)");
	my $ddl = blocked_ddl($node, $table);
	is( $node->safe_psql('postgres',
			"SELECT pg_blocking_pids($ddl->{pid}) @> ARRAY[$holder->{pid}, $bystander->{pid}]"),
		't',
		'the statement is blocked by the holder and by the bystander');
	configure($node, blocker_action => 'terminate');
	wait_for_line($holder);
	is($bystander->error, undef, 'the bystander goes on to its end');
	is($ddl->error, undef, 'and the statement');
	is(scalar lines_about($bystander), 0, 'nothing is said about the bystander');
	forget_sessions($holder, $bystander, $ddl);
};

subtest 'superusers, walsenders, and who is not tracked' => sub {
	my $table = new_table($node);
	my $holder = idle_holder($node, 'boss', $table);
	left_alone('a superuser', $holder, blocked_ddl($node, $table));

	$table = new_table($node);
	$holder = idle_holder($node, 'boss', $table);
	$holder->do('SET ROLE app');
	left_alone('a superuser that has set a lesser role', $holder, blocked_ddl($node, $table));

	$table = new_table($node);
	$holder = idle_holder($node, 'streamer', $table, replication => 'database');
	is( $node->safe_psql('postgres',
			"SELECT backend_type, state FROM pg_stat_activity WHERE pid = $holder->{pid}"),
		'walsender|idle in transaction',
		'a walsender can be idle in transaction');
	left_alone('a walsender', $holder, blocked_ddl($node, $table));

	$table = new_table($node);
	$holder = idle_holder($node, 'quiet', $table);
	left_alone('a session whose state is not tracked', $holder, blocked_ddl($node, $table));
};

subtest 'who has logged in as an ordinary role' => sub {
	my $table = new_table($node);
	my $holder = session($node, 'holder', user => 'climber');
	$holder->do($_) for 'SET ROLE boss', 'BEGIN', "SELECT id FROM $table";
	my $ddl = blocked_ddl($node, $table);
	my ($line) = wait_for_line($holder);
	is($line->[0], 'terminated', "SET ROLE to a superuser's role does not protect");
	like($line->[1], qr/user climber\b/, '... and the role that logged in is named');
	forget_sessions($holder, $ddl);
};

subtest 'an active session, however long' => sub {
	my $table = new_table($node);
	my $holder = session($node, 'holder', user => 'app');
	$holder->do($_) for 'BEGIN', "SELECT id FROM $table";
	$holder->send('SELECT pg_sleep(3600)');
	await($node, 'it sleeps',
		"SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $holder->{pid} AND wait_event = 'PgSleep')"
	);
	my $ddl = blocked_ddl($node, $table);
	wait_for_look($node);
	ok(is_alive($holder), 'an active session goes on');
	is(scalar lines_about($holder), 0, '... and nothing is said about it');
	# Then its statement ends, and it is idle in transaction.
	$node->safe_psql('postgres', "SELECT pg_cancel_backend($holder->{pid})");
	$holder->error;
	is($holder->sqlstate, '57014', '... until its statement ends');
	# A canceled statement aborts the transaction, which gives the lock back: nobody to end.
	is($ddl->error, undef, '... by an error, which frees the lock');
	wait_for_look($node);
	ok(is_alive($holder), 'an aborted transaction holds no lock, and its session goes on');
	forget_sessions($holder, $ddl);
};

# Aborted within a savepoint, the transaction keeps the locks from before.
subtest 'idle in transaction (aborted)' => sub {
	my $table = new_table($node);
	my $holder = idle_holder($node, 'app', $table);
	$holder->do('SAVEPOINT s');
	eval { $holder->do('SELECT 1/0') };
	like($@, qr/division by zero/, 'a subtransaction is aborted');
	my $ddl = blocked_ddl($node, $table);
	my ($line) = wait_for_line($holder);
	is($line->[0], 'terminated', 'idle in transaction (aborted): ended');
	like($line->[1], qr/idle in transaction \(aborted\)/, '... and the log says so');
	wait_gone($holder);
	forget_sessions($holder, $ddl);
};

subtest 'who holds another lock, or blocks a weaker request' => sub {
	my $table = new_table($node);
	my $elsewhere = idle_holder($node, 'app', new_table($node));
	my $idle = session($node, 'idle', user => 'app');
	my $holder = idle_holder($node, 'app', $table);
	my $ddl = blocked_ddl($node, $table);
	wait_for_line($holder);
	is($ddl->error, undef, 'the holder is ended');
	$elsewhere->do('COMMIT');
	$idle->do('SELECT 1');
	pass('a session that holds another lock, and one that holds none, go on');

	# A request that ACCESS EXCLUSIVE is not: CREATE INDEX waits for a writer.
	my $writer = session($node, 'writer', user => 'app');
	$writer->do($_) for 'BEGIN', "INSERT INTO $table VALUES (1)";
	my $index = session($node, 'index');
	$index->send("CREATE INDEX ON $table (id)");
	await($node, 'CREATE INDEX waits',
		"SELECT EXISTS (SELECT FROM pg_locks WHERE pid = $index->{pid} AND NOT granted)");
	wait_for_look($node);
	$writer->do('COMMIT');
	is($index->error, undef, 'a session that blocks a weaker request goes on');
	forget_sessions($elsewhere, $idle, $holder, $ddl, $writer, $index);
};

subtest "another database's relation of the same OID" => sub {
	my $table = new_table($node);
	# Nobody may be connected to what is copied.
	LockGuard::dismiss_observer($node);
	$node->safe_psql('postgres', 'CREATE DATABASE twin TEMPLATE postgres');
	is( $node->safe_psql('twin', "SELECT '$table'::regclass::oid"),
		$node->safe_psql('postgres', "SELECT '$table'::regclass::oid"),
		'a twin database has a relation of the same OID');
	my $twin = idle_holder($node, 'app', $table, dbname => 'twin');
	my $holder = idle_holder($node, 'app', $table);
	my $ddl = blocked_ddl($node, $table);
	my ($line) = wait_for_line($holder);
	like($line->[1], qr/database postgres\b/, 'the session in the database is ended');
	$twin->do('COMMIT');
	is(scalar lines_about($twin), 0, 'the one in the twin goes on');
	# The worker works for all databases.
	$twin->do('BEGIN');
	$twin->do("SELECT id FROM $table");
	my $twin_ddl = blocked_ddl($node, $table, dbname => 'twin');
	($line) = wait_for_line($twin);
	like($line->[1], qr/database twin\b/, '... until it blocks somebody there');
	forget_sessions($twin, $holder, $ddl, $twin_ddl);
	$node->safe_psql('postgres', 'DROP DATABASE twin');
	pass('the worker keeps no database from being dropped');
};

subtest 'a prepared transaction has no process' => sub {
	my $table = new_table($node);
	my $preparer = session($node, 'preparer', user => 'app');
	$preparer->do($_)
	  for 'BEGIN', "INSERT INTO $table VALUES (1)", "PREPARE TRANSACTION 'stuck'";
	my $ddl = blocked_ddl($node, $table);
	wait_for_look($node);
	is($node->safe_psql('postgres', 'SELECT gid FROM pg_prepared_xacts'),
		'stuck', 'a prepared transaction stays');
	ok(is_alive($preparer), '... and so does the session that made it');
	$node->safe_psql('postgres', "COMMIT PREPARED 'stuck'");
	is($ddl->error, undef, '... until somebody commits it');
	forget_sessions($preparer, $ddl);
};

subtest 'two holders of one relation, and one of two relations' => sub {
	my ($one, $two) = (new_table($node), new_table($node));
	my @holders = (idle_holder($node, 'app', $one), idle_holder($node, 'app', $one));
	$holders[0]->do("SELECT id FROM $two");
	my @ddl = (blocked_ddl($node, $one), blocked_ddl($node, $two));
	for my $holder (@holders)
	{
		wait_for_line($holder);
		wait_gone($holder);
		is(scalar lines_about($holder), 1, 'each holder is ended, once');
	}
	is($_->error, undef, 'both statements get their locks') for @ddl;
	forget_sessions(@holders, @ddl);
};

# Somebody has locked pg_authid. Who is a superuser cannot be found out then: the worker neither waits
# for it (it would be stuck behind a lock itself) nor guesses.
subtest 'while nobody can find out who is a superuser' => sub {
	my $table = new_table($node);
	configure($node, blocker_action => 'off');
	my $locker = session($node, 'locker');
	my $holder = idle_holder($node, 'app', $table);
	my $ddl = blocked_ddl($node, $table);
	# Takes effect with the reload, when nobody can connect any more.
	$node->safe_psql('postgres', q{ALTER SYSTEM SET pg_lockguard.blocker_action = 'terminate'});
	$node->safe_psql('postgres', q{ALTER SYSTEM SET log_min_messages = 'debug1'});
	$locker->do($_) for 'BEGIN', 'LOCK TABLE pg_authid';
	$node->reload;
	$node->wait_for_log(qr/pg_lockguard: roles can't be looked up without waiting for a lock/);
	is(scalar lines_about($holder), 0, 'pg_authid is locked: nobody is ended');
	$locker->do('COMMIT');
	my ($line) = wait_for_line($holder);
	is($line->[0], 'terminated', '... until it can be read again');
	$node->safe_psql('postgres', 'ALTER SYSTEM RESET log_min_messages');
	$node->reload;
	forget_sessions($locker, $holder, $ddl);
};

ends_well($node);
done_testing();
