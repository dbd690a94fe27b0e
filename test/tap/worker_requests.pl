# Whose requests count: blocker_request_modes, and blocker_concurrently, for those who wait for transactions
# to end. Here the sessions in their way are idle in transaction; worker_active.pl has those that are not.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use LockGuard;
use LockGuard::Record;
use LockGuard::Worker;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_worker_node('requests', q{pg_lockguard.blocker_action = terminate});
my $observer = LockGuard::observer($node);
my $serial = 0;

# A session that has run these statements in a transaction, and is idle.
sub idle
{
	my ($begin, @statements) = @_;
	my $holder = session($node, 'idle_' . ++$serial, user => 'app');
	$holder->do($_) for $begin, @statements;
	return $holder;
}

# A session that waits with this statement.
sub waiting
{
	my ($statement, %option) = @_;
	my $waiter = session($node, 'waiting_' . ++$serial, %option);
	$waiter->send($statement);
	await($node, $waiter->name . ' waits', q{
		SELECT EXISTS (SELECT FROM pg_locks WHERE pid = ? AND NOT granted)
			OR EXISTS (SELECT FROM pg_stat_activity WHERE pid = ? AND state LIKE 'idle%' AND query = ?)},
		$waiter->pid, $waiter->pid, $statement);
	return $waiter;
}

sub left_alone
{
	my ($why, $holder, $waiter) = @_;
	wait_for_look($node);
	is(events_about($holder), 0, "$why: nothing is said");
	ok(is_alive($holder), "$why: it is left alone");
	$holder->do('COMMIT');
	is(await_end($waiter), undef, "$why: the other goes on then");
	forget_sessions($holder, $waiter);
	return;
}

sub ended
{
	my ($why, $holder, $waiter) = @_;
	my $event = event($holder);
	is($event->{kind}, 'blocker_terminated', "$why: it is ended") or diag $event->{reason};
	is(await_end($waiter), undef, "$why: the other goes on");
	wait_gone($holder);
	forget_sessions($waiter) if $waiter;
	return $event;
}

subtest 'the settings' => sub {
	my @defaults = map { $observer->value('SELECT current_setting(?)', "pg_lockguard.$_") }
	  qw(blocker_request_modes blocker_concurrently);
	is_deeply(\@defaults, [ 'AccessExclusiveLock', 'off' ], 'their defaults');
	for my $fault ('AccessShareLock', 'RowExclusiveLock', 'ShareUpdateExclusiveLock', 'ACCESS EXCLUSIVE', 'ShareLock,',
		',ShareLock', 'ShareLock ExclusiveLock', 'Share', '*')
	{
		my ($code, $out, $err) = $node->psql('postgres', "ALTER SYSTEM SET pg_lockguard.blocker_request_modes = '$fault'");
		isnt($code, 0, "$fault is refused");
		like($err, qr/ERROR:  invalid value for parameter "pg_lockguard\.blocker_request_modes"/, '... as a value');
		like($err, qr/DETAIL:  "[^"]*" is not a lock mode whose requests can count\./, '... and why');
		like($err, qr/HINT:  .*ShareLock, ShareRowExclusiveLock, ExclusiveLock, AccessExclusiveLock\./, '... and what is possible');
	}
	for my $right ('', '  ', 'ShareLock', ' sharelock ,	EXCLUSIVELOCK', 'ShareRowExclusiveLock,AccessExclusiveLock')
	{
		my ($code, $out, $err) = $node->psql('postgres', "ALTER SYSTEM SET pg_lockguard.blocker_request_modes = '$right'");
		is($code, 0, "\"$right\" is accepted") or diag $err;
	}
	$node->safe_psql('postgres', 'ALTER SYSTEM RESET pg_lockguard.blocker_request_modes');
};

# mode, and a statement that waits for it behind a writer
my %request = (
	ShareLock => 'CREATE INDEX ON %s (id)',
	ShareRowExclusiveLock => 'CREATE TRIGGER t BEFORE INSERT ON %s FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()',
	ExclusiveLock => 'BEGIN; LOCK TABLE %s IN EXCLUSIVE MODE; COMMIT',
	AccessExclusiveLock => 'ALTER TABLE %s ADD n int');

sub writer { my $table = shift; return idle('BEGIN', "INSERT INTO $table VALUES (1)") }

subtest 'by default only AccessExclusiveLock counts' => sub {
	for my $mode (qw(ShareLock ShareRowExclusiveLock ExclusiveLock))
	{
		my $table = new_table($node);
		my $holder = writer($table);
		left_alone($mode, $holder, waiting(sprintf $request{$mode}, $table));
	}
};

subtest 'those that are named count' => sub {
	for my $mode (sort keys %request)
	{
		configure($node, blocker_request_modes => "$mode,ACCESSEXCLUSIVELOCK");
		my $table = new_table($node);
		my $holder = writer($table);
		my $waiter = waiting(sprintf $request{$mode}, $table);
		my $pid = $waiter->pid;
		my $event = ended($mode, $holder, $waiter);
		is($event->{lock_mode}, $mode, '... with that mode');
		is_logged($node, qr/LOG:  pg_lockguard: terminated PID @{[$holder->pid]} .* while blocking PID $pid \((?:\w+ ?)+, $mode on relation \d+\) for /,
			'... which is logged');
	}
	# A reader is in the way of none of the weaker ones.
	configure($node, blocker_request_modes => 'ShareLock, AccessExclusiveLock');
	my $table = new_table($node);
	my $reader = idle('BEGIN', "SELECT FROM $table");
	my $holder = writer($table);
	ended('a writer', $holder, waiting("CREATE INDEX ON $table (id)"));
	ok(is_alive($reader), 'a reader on the same table is left alone');
	is(events_about($reader), 0, '... without a word');
	forget_sessions($reader);
};

subtest 'AccessExclusiveLock need not be among them' => sub {
	configure($node, blocker_request_modes => 'ShareLock');
	my $table = new_table($node);
	my $holder = writer($table);
	my $waiter = waiting("ALTER TABLE $table ADD n int");
	my $other = new_table($node);
	my $other_holder = writer($other);
	ended('ShareLock', $other_holder, waiting("CREATE INDEX ON $other (id)"));
	is(events_about($holder), 0, 'nothing is said');
	$holder->do('COMMIT');
	is(await_end($waiter), undef, 'it is left alone');
	forget_sessions($holder, $waiter);
	configure($node, blocker_request_modes => 'AccessExclusiveLock');
};

subtest 'those who wait for a transaction to end' => sub {
	my $table = new_table($node);
	my $holder = writer($table);
	left_alone('by default', $holder, waiting("CREATE INDEX CONCURRENTLY ON $table (id)"));

	configure($node, blocker_concurrently => 'on');
	my @steps = (
		[ 'CREATE INDEX', "CREATE INDEX CONCURRENTLY i ON $table (id)" ],
		[ 'REINDEX', 'REINDEX INDEX CONCURRENTLY i' ],
		[ 'REINDEX', "REINDEX TABLE CONCURRENTLY $table" ],
		[ 'DROP INDEX', 'DROP INDEX CONCURRENTLY i' ]);
	for (@steps)
	{
		my ($command, $statement) = @$_;
		$holder = writer($table);
		my $waiter = waiting($statement);
		my $pid = $waiter->pid;
		my $event = ended($statement, $holder, $waiter);
		is($event->{command}, $command, '... for it');
		is($event->{lock_mode}, 'ShareLock', '... with that mode');
		is($event->{relation}, undef, '... which is on no relation');
		is_logged($node, qr/LOG:  pg_lockguard: terminated PID @{[$holder->pid]} .* while blocking PID $pid \($command, which waits for this transaction to end\) for /,
			'... which is logged so');
	}

	# An old snapshot, although nothing of the table has been touched.
	for my $level ('REPEATABLE READ', 'SERIALIZABLE')
	{
		$holder = idle("BEGIN ISOLATION LEVEL $level", 'SELECT count(*) FROM pg_class');
		ended($level, $holder, waiting("CREATE INDEX CONCURRENTLY ON $table (id)"));
	}


	$node->safe_psql('postgres', q{
		CREATE TABLE parent (id int) PARTITION BY LIST (id);
		CREATE TABLE part PARTITION OF parent FOR VALUES IN (1);
		GRANT ALL ON parent, part TO PUBLIC});
	$holder = idle('BEGIN', 'SELECT FROM parent');
	ended('DETACH', $holder, waiting('ALTER TABLE parent DETACH PARTITION part CONCURRENTLY'));

	# Several in its way: one after the other.
	my @holders = map { writer($table) } 1 .. 3;
	my $waiter = waiting("CREATE INDEX CONCURRENTLY ON $table (id)");
	is(event($_)->{kind}, 'blocker_terminated', $_->name . ': ended') for @holders;
	is(await_end($waiter), undef, 'and it goes on');
	forget_sessions($waiter);
};

subtest 'what the client reads' => sub {
	my $table = new_table($node);
	my $psql = $node->background_psql('postgres', extra_params => [ '-U', 'app' ], on_error_stop => 0);
	$psql->query_safe("BEGIN; INSERT INTO $table VALUES (1)");
	my $pid = $psql->query_safe('SELECT pg_backend_pid()');
	my $waiter = waiting("CREATE INDEX CONCURRENTLY ON $table (id)");
	is(await_end($waiter), undef, 'the session is ended');
	$psql->{stdin} .= "SELECT 1;\n";
	$psql->{run}->finish;
	like($psql->{stderr},
		qr/^DETAIL:  pg_lockguard: idle in transaction for \d[\d.]* \w+ while blocking PID @{[$waiter->pid]} \(CREATE INDEX, which waits for this transaction to end\) for \d/m,
		'its client is told why');
	forget_sessions($waiter);
};

subtest 'the exemptions, the rehearsal' => sub {
	my $table = new_table($node);
	configure($node, exempt_roles => 'app');
	my $holder = writer($table);
	my $waiter = waiting("CREATE INDEX CONCURRENTLY ON $table (id)");
	is_deeply(verdict($holder), [ 'blocker_spared', 'pg_lockguard.exempt_roles names its role, or one that it is a member of' ],
		'an exempt role is spared');
	configure($node, blocker_action => 'log', exempt_roles => '');
	is_deeply(verdict($holder), [ 'blocker_logged', undef ], 'in a rehearsal it is said');
	$holder->do('COMMIT');
	is(await_end($waiter), undef, 'it goes on');
	like(event($holder)->{reason}, qr/^event \d+: it ended its transaction by itself after /, 'and that it was needless');
	configure($node, blocker_action => 'terminate');
	forget_sessions();
};

# A statement of ours that waits at low priority sleeps on a transaction as well: it has its own rules.
subtest 'a statement at low priority does not count for that' => sub {
	configure($node, blocker_request_modes => '');
	my $table = new_table($node);
	my $holder = idle('BEGIN', "SELECT FROM $table");
	my $ddl = session($node, 'polite');
	$ddl->do('SET pg_lockguard.ddl_mode = low_priority');
	$ddl->send("ALTER TABLE $table ADD n int");
	await($node, 'it sleeps', q{SELECT EXISTS (SELECT FROM pg_locks WHERE pid = ? AND locktype = 'virtualxid' AND NOT granted)},
		$ddl->pid);
	my $other = new_table($node);
	my $other_holder = writer($other);
	ended('CREATE INDEX CONCURRENTLY', $other_holder, waiting("CREATE INDEX CONCURRENTLY ON $other (id)"));
	is($observer->value(q{SELECT count(*) FROM pg_lockguard_events WHERE blocker_pid = ? AND kind LIKE 'blocker%'},
			$holder->pid), 0, 'nothing is done about its holder');
	$holder->do('COMMIT');
	is(await_end($ddl), undef, 'and it goes on');
	configure($node, blocker_request_modes => 'AccessExclusiveLock');
	forget_sessions();
};

# One that is at work is not ended or cancelled for those who wait for its transaction.
subtest 'an active session does not count for that' => sub {
	configure($node, blocker_active_action => 'cancel', blocker_min_active => 0);
	my $table = new_table($node);
	my $holder = writer($table);
	$holder->send('SELECT pg_sleep(3600)');
	await($node, 'it is at work', q{SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = ?}, $holder->pid);
	my $waiter = waiting("CREATE INDEX CONCURRENTLY ON $table (id)");
	wait_for_look($node);
	is(events_about($holder), 0, 'nothing is said');
	ok(!$holder->ready && !$waiter->ready, 'and both go on');
	forget_sessions();
};

ends_well($node);
done_testing();
