# A session that shares a snapshot is never ended: other sessions read on with it, or it reads with
# another's. If its locks went, a rewrite would pass, and to the snapshot the rewritten table is
# empty, without any error. A parallel dump is made of such sessions.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use IPC::Run;
use LockGuard;
use LockGuard::Record;
use LockGuard::Worker;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_worker_node('snapshots', q{pg_lockguard.blocker_action = terminate});
my $observer = LockGuard::observer($node);

my $shares = 'its transaction has exported or imported a snapshot';
my $statements = 0;

# A session that waits for ACCESS EXCLUSIVE on the table, to rewrite it.
sub alter
{
	my ($table) = @_;
	my $ddl = session($node, 'rewrite_' . ++$statements);
	$ddl->send("ALTER TABLE $table ALTER id TYPE bigint");
	return $ddl;
}

# The session holds the table in its present transaction: it is spared in that one alone.
sub spared_in_this_transaction
{
	my ($holder, $table) = @_;
	my $before = statistics($node)->{spared_snapshot};
	my $ddl = alter($table);
	is_deeply(verdict($holder), [ 'blocker_spared', $shares ], 'it is spared, and why');
	wait_for_look($node);
	is(events_since($holder), 0, 'said once');
	is(statistics($node)->{spared_snapshot}, $before + 1, 'counted once');
	is_logged($node, qr/LOG:  pg_lockguard: spared PID @{[$holder->pid]} .*: \Q$shares\E$/m, 'in the log');
	$holder->do('COMMIT');
	is(await_end($ddl), undef, 'its transaction was whole');

	$holder->do("BEGIN; SELECT FROM $table");
	my $again = alter($table);
	is_deeply(verdict($holder), [ 'blocker_terminated', undef ], 'in its next transaction it is ended');
	is(await_end($again), undef, 'and the statement gets its lock');
	forget_sessions($holder, $ddl, $again);
	return;
}

subtest 'who has exported a snapshot' => sub {
	my $table = new_table($node);
	my $holder = session($node, 'exporter', user => 'app');
	$holder->do('BEGIN ISOLATION LEVEL REPEATABLE READ');
	$holder->value('SELECT pg_export_snapshot()');
	$holder->do("SELECT FROM $table");
	spared_in_this_transaction($holder, $table);
};

subtest 'who has imported one, also after the exporter has gone' => sub {
	my $table = new_table($node);
	my $exporter = session($node, 'exporter', user => 'app');
	$exporter->do('BEGIN ISOLATION LEVEL REPEATABLE READ');
	my $snapshot = $exporter->value('SELECT pg_export_snapshot()');
	my $holder = session($node, 'importer', user => 'app');
	$holder->do('BEGIN ISOLATION LEVEL REPEATABLE READ');
	$holder->do("SET TRANSACTION SNAPSHOT '$snapshot'");
	$holder->do("SELECT FROM $table");
	$exporter->do('COMMIT');
	spared_in_this_transaction($holder, $table);
	forget_sessions($exporter);
};

subtest 'the guard off, a prepared statement of the protocol' => sub {
	my $table = new_table($node);
	my $exporter = session($node, 'exporter', user => 'app');
	$exporter->do('BEGIN ISOLATION LEVEL REPEATABLE READ');
	my $snapshot = $exporter->value('SELECT pg_export_snapshot()');
	my $holder = session($node, 'importer', user => 'app');
	$holder->do('BEGIN ISOLATION LEVEL REPEATABLE READ');
	$holder->{dbh}{pg_server_prepare} = 1;
	my $import = $holder->{dbh}->prepare("SET TRANSACTION SNAPSHOT '$snapshot'", { pg_prepare_now => 1 });
	$import->execute;
	$holder->do("SELECT FROM $table");
	spared_in_this_transaction($holder, $table);
	forget_sessions($exporter);
};

subtest 'an import that was for another transaction, or has failed, protects nobody' => sub {
	my $table = new_table($node);
	my $exporter = session($node, 'exporter', user => 'app');
	$exporter->do('BEGIN ISOLATION LEVEL REPEATABLE READ');
	my $snapshot = $exporter->value('SELECT pg_export_snapshot()');

	my $holder = session($node, 'autocommit', user => 'app');
	$holder->do(q{SET default_transaction_isolation = 'repeatable read'});
	$holder->do("SET TRANSACTION SNAPSHOT '$snapshot'");
	$holder->do("BEGIN; SELECT FROM $table");
	my $ddl = alter($table);
	is_deeply(verdict($holder), [ 'blocker_terminated', undef ],
		'imported for a transaction of its own: ended');
	is(await_end($ddl), undef, 'and the statement gets its lock');

	my $failed = session($node, 'failed', user => 'app');
	$failed->do("BEGIN; SAVEPOINT s; SELECT FROM $table");
	ok(!eval { $failed->do("SET TRANSACTION SNAPSHOT '$snapshot'"); 1 }, 'an import that fails');
	$failed->do("ROLLBACK TO s");
	$failed->do("SELECT FROM $table");
	my $again = alter($table);
	is_deeply(verdict($failed), [ 'blocker_terminated', undef ], 'ended');
	is(await_end($again), undef, 'and the statement gets its lock');
	forget_sessions($exporter, $holder, $failed, $ddl, $again);
};

subtest 'in a rehearsal' => sub {
	my $table = new_table($node);
	configure($node, blocker_action => 'log');
	my $holder = session($node, 'exporter', user => 'app');
	$holder->do('BEGIN ISOLATION LEVEL REPEATABLE READ');
	$holder->value('SELECT pg_export_snapshot()');
	$holder->do("SELECT FROM $table");
	my $ddl = alter($table);
	is_deeply(verdict($holder), [ 'blocker_spared', $shares ], 'it would not be ended');
	$holder->do('COMMIT');
	is(await_end($ddl), undef, 'its transaction was whole');
	$holder->do("BEGIN; SELECT FROM $table");
	my $again = alter($table);
	is_deeply(verdict($holder), [ 'blocker_logged', undef ], 'in its next transaction it would be');
	configure($node, blocker_action => 'terminate');
	is_deeply(verdict($holder), [ 'blocker_terminated', undef ], 'and is, when it is no rehearsal');
	is(await_end($again), undef, 'and the statement gets its lock');
	forget_sessions($holder, $ddl, $again);
};

subtest 'pg_dump by its name' => sub {
	is($observer->value('SHOW pg_lockguard.exempt_applications'), 'pg_dump*', 'the default');
	my $table = new_table($node);
	my $holder = session($node, 'pg_dump', user => 'app');
	$holder->do("BEGIN; SELECT FROM $table");
	my $ddl = alter($table);
	is_deeply(
		verdict($holder),
		[ 'blocker_spared', 'pg_lockguard.exempt_applications matches its application_name' ],
		'it is spared');
	$holder->do('COMMIT');
	is(await_end($ddl), undef, 'its transaction was whole');
	forget_sessions($holder, $ddl);
};

# The verdict about a session of the dump.
sub verdict_of
{
	my ($pid) = @_;
	return verdict(bless { node => $node, pid => $pid, name => "PID $pid" }, 'LockGuard::Session');
}

# Two tables that pg_dump's workers come to first, as they are the largest, and in which each is
# held up until its key is free; and one that they come to later.
subtest 'a parallel dump under another name is whole' => sub {
	$node->safe_psql('postgres', q{
		CREATE SCHEMA store;
		CREATE FUNCTION store.hold(key int) RETURNS bool LANGUAGE plpgsql STABLE AS
			$$ BEGIN PERFORM pg_advisory_lock_shared(key); PERFORM pg_advisory_unlock_shared(key); RETURN true; END $$;
		CREATE TABLE store.first_held AS SELECT id FROM generate_series(1, 30000) id;
		CREATE TABLE store.second_held AS SELECT id FROM generate_series(1, 20000) id;
		CREATE TABLE store.later AS SELECT id FROM generate_series(1, 5000) id;
		ALTER TABLE store.first_held ENABLE ROW LEVEL SECURITY;
		ALTER TABLE store.second_held ENABLE ROW LEVEL SECURITY;
		CREATE POLICY held ON store.first_held USING ((SELECT store.hold(1)));
		CREATE POLICY held ON store.second_held USING ((SELECT store.hold(2)));
		CREATE ROLE backup LOGIN;
		GRANT USAGE ON SCHEMA store TO backup;
		GRANT SELECT ON ALL TABLES IN SCHEMA store TO backup;
		ANALYZE});
	my $keys = session($node, 'keys');
	$keys->do('SELECT pg_advisory_lock(1), pg_advisory_lock(2)');

	my $directory = PostgreSQL::Test::Utils::tempdir . '/dump';
	local $ENV{PGAPPNAME} = 'nightly';
	my ($out, $err) = ('', '');
	my $dump = IPC::Run::start(
		[ 'pg_dump', '-Fd', '-j', '2', '--enable-row-security', '-n', 'store', '-f', $directory,
		  '-h', $node->host, '-p', $node->port, '-U', 'backup', '-d', 'postgres' ],
		'<', \undef, '>', \$out, '2>', \$err,
		IPC::Run::timer($PostgreSQL::Test::Utils::timeout_default));
	my $held = q{SELECT count(*) = 2 FROM pg_locks JOIN pg_stat_activity USING (pid)
		WHERE application_name = 'nightly' AND locktype = 'advisory' AND NOT granted};
	await($node, 'both workers of the dump are held up', $held);
	my @sessions = $observer->rows(
		q{SELECT pid, state FROM pg_stat_activity WHERE application_name = 'nightly' ORDER BY state});
	is(join(' ', map { $_->{state} } @sessions), 'active active idle in transaction',
		'the leader is idle in transaction');
	my $leader = $sessions[2]{pid};

	my $ddl = alter('store.later');
	is_deeply(verdict_of($leader), [ 'blocker_spared', $shares ], 'the leader is spared');
	wait_for_look($node);
	# A worker would refuse the table while somebody queues for it: pg_dump notices that much.
	$observer->value('SELECT pg_cancel_backend(?)', $ddl->pid);
	like(await_end($ddl), qr/canceling statement due to user request/, 'the statement is given up');

	# One of them goes on to the end of the list, and then is idle.
	$keys->do('SELECT pg_advisory_unlock(1)');
	my $at_work = q{SELECT pid FROM pg_locks
		WHERE relation = 'store.later'::regclass AND granted AND pid <> ?};
	await($node, 'one worker of the dump has come to the last table', "SELECT EXISTS ($at_work)", $leader);
	my $worker = $observer->value($at_work, $leader);
	$ddl = alter('store.later');
	is_deeply(verdict_of($worker), [ 'blocker_spared', $shares ], 'a worker that has finished is spared');
	wait_for_look($node);
	is( $observer->value(q{SELECT count(*) FROM pg_stat_activity WHERE application_name = 'nightly'}),
		3, 'nothing of the dump has been ended');
	$keys->do('SELECT pg_advisory_unlock(2)');
	$dump->finish;
	is($dump->result(0), 0, 'the dump succeeds');
	is($err, '', '... without a word');
	is(await_end($ddl), undef, 'the statement gets its lock when the dump is done');
	is(rows_in_dump($directory, 'first_held'), 30000, 'the dump holds all rows');
	is(rows_in_dump($directory, 'second_held'), 20000, '... of the second table');
	is(rows_in_dump($directory, 'later'), 5000, '... and of the one that was to be rewritten');
	forget_sessions($keys, $ddl);
};

ends_well($node);
done_testing();
