# Blockers that are not idle: blocker_active_action, blocker_min_active. Whose statement is cancelled and whose
# is not, what its client reads, what the record says, and what is said where the lock stays.
#
# "Not cancelled" is proved by a marker, as in LockGuard::Worker: one whose statement must be cancelled.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use DBD::Pg qw(:async);
use LockGuard;
use LockGuard::Record;
use LockGuard::Worker;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_worker_node(
	'active', { streaming => 1 }, q{pg_lockguard.blocker_active_action = cancel}, q{pg_lockguard.blocker_min_active = 0});
$node->safe_psql('postgres', 'CREATE ROLE boss LOGIN SUPERUSER; CREATE ROLE exempt LOGIN');
my $observer = LockGuard::observer($node);
my $serial = 0;

# Sends a statement, so that detail_and_hint() can be asked after its end: DBD::Pg forgets them where it was
# sent with do().
sub launch
{
	my ($session, $statement) = @_;
	# A handle that is let go waits for the end.
	$session->{handle} = $session->{dbh}->prepare($statement, { pg_async => PG_ASYNC });
	$session->{handle}->execute;
	$session->{sent} = 1;
	return;
}

# A session that holds ACCESS SHARE on the table, and is at work for an hour. Options: statement, in place
# of that, before (statements to begin with), and those of session().
sub active_holder
{
	my ($role, $table, %option) = @_;
	my $statement = delete $option{statement} // 'SELECT pg_sleep(3600)';
	my $name = delete $option{name} // 'active_' . ++$serial;
	my $holder = idle_holder($node, $role, $table, name => $name, %option);
	launch($holder, $statement);
	await($node, "$name is at work", q{SELECT EXISTS (SELECT FROM pg_stat_activity
		WHERE pid = ? AND state = 'active' AND wait_event IN ('PgSleep', 'advisory'))}, $holder->pid);
	return $holder;
}

# Such a session, and a statement that it blocks.
sub active_conflict
{
	my ($role, %option) = @_;
	my $table = new_table($node);
	my $holder = active_holder($role, $table, %option);
	return ($holder, blocked_ddl($node, $table));
}

# A look has begun and ended after this was called.
sub wait_for_cancel
{
	my ($marker, $ddl) = active_conflict('app', name => 'marker_' . ++$serial);
	is(event($marker)->{kind}, 'blocker_cancelled', 'a session like any other: cancelled');
	await_end($marker, $ddl);
	forget_sessions($marker, $ddl);
	return;
}

# It was not cancelled, and goes on to its end.
sub goes_on
{
	my ($why, $holder, $ddl) = @_;
	wait_for_cancel();
	is(events_about($holder), 0, "$why: nothing is said");
	$observer->value('SELECT pg_cancel_backend(?)', $ddl->pid);
	like(await_end($ddl), qr/canceling statement due to user request/, "$why: the other is given up");
	ok(!$holder->ready, "$why: it goes on");
	forget_sessions($holder, $ddl);
	return;
}

# Sent words of ours with the error of the last statement?
sub detail_and_hint
{
	my $session = shift;
	return map { $session->{dbh}->pg_error_field($_) } qw(message_detail message_hint);
}

subtest 'the settings' => sub {
	my $fresh = $node->safe_psql('postgres', q{
		SELECT name, boot_val, unit, context FROM pg_settings
		WHERE name IN ('pg_lockguard.blocker_active_action', 'pg_lockguard.blocker_min_active') ORDER BY name});
	is($fresh, "pg_lockguard.blocker_active_action|off||sighup\npg_lockguard.blocker_min_active|300000|ms|sighup",
		'their defaults');
};

subtest 'it is cancelled, and told why' => sub {
	my $before = statistics($node);
	my ($holder, $ddl) = active_conflict('app');
	my $pid = $holder->pid;
	my $relation = $observer->value(q{SELECT relation FROM pg_locks WHERE pid = ? AND NOT granted}, $ddl->pid) // '\d+';
	my $error = await_end($holder);
	like($error, qr/canceling statement due to user request/, 'its statement ends with an error');
	is($holder->sqlstate, '57014', '... of that kind');
	my ($detail, $hint) = detail_and_hint($holder);
	my $duration = qr/\d[\d.]* \w+/;
	like($detail,
		qr/^pg_lockguard: at work on one statement for $duration while blocking PID @{[$ddl->pid]} \(ALTER TABLE, AccessExclusiveLock on relation $relation\) for $duration\.$/,
		'... why');
	like($hint, qr/^Roll back and repeat the transaction\. .*exempt/, '... and what to do');
	is(await_end($ddl), undef, 'the other statement gets its lock');
	ok(is_alive($holder), 'its session lives');
	my $event = event($holder);
	is($event->{kind}, 'blocker_cancelled', 'the event');
	like($event->{reason}, qr/^its statement has run for $duration$/, '... says how long');
	is($event->{pid}, $ddl->pid, '... for whom');
	is($event->{command}, 'ALTER TABLE', '... with what');
	is($event->{lock_mode}, 'AccessExclusiveLock', '... the lock');
	is($event->{blocker_state}, 'active', '... that it was active');
	is($event->{blocker_idle}, undef, '... and not idle');
	like($event->{blocker_query}, qr/pg_sleep/, '... with what');
	like($event->{lock_tree}, qr/^$pid /, '... and the tree');
	is(statistics($node)->{cancellations}, $before->{cancellations} + 1, 'it is counted');
	is(statistics($node)->{terminations}, $before->{terminations}, '... as no termination');
	is_logged($node, qr/LOG:  pg_lockguard: cancelled the statement of PID $pid \(user app, database postgres, app "active_\d+"\): at work on one statement for $duration while blocking PID @{[$ddl->pid]} /,
		'and logged');
	ok(!eval { $holder->do('SELECT 1'); 1 }, 'its transaction is aborted');
	is($holder->sqlstate, '25P02', '... as by any error');
	forget_sessions($holder, $ddl);
};

subtest 'a statement of its own, in the extended protocol, a function' => sub {
	for my $statement ('SELECT pg_sleep(3600)', 'DO $$ BEGIN PERFORM pg_sleep(3600); END $$',
		'DO $$ BEGIN PERFORM pg_sleep(3600); EXCEPTION WHEN OTHERS THEN NULL; END $$')
	{
		for my $prepare (0, 1)
		{
			my $table = new_table($node);
			my $holder = session($node, 'holder_' . ++$serial, user => 'app');
			$holder->{dbh}{pg_server_prepare} = $prepare;
			my $text = $statement =~ /^DO/ ? $statement : "SELECT pg_sleep(3600) FROM (SELECT count(*) FROM $table) t";
			$text =~ s/BEGIN /BEGIN PERFORM FROM $table; / if $text =~ /^DO/;
			launch($holder, $text);
			await($node, 'it has the lock', q{SELECT EXISTS (SELECT FROM pg_locks
				WHERE pid = ? AND relation = ?::text::regclass AND granted)}, $holder->pid, $table);
			my $ddl = blocked_ddl($node, $table);
			like(await_end($holder), qr/canceling statement due to user request/, "$statement: cancelled");
			like((detail_and_hint($holder))[0] // '', qr/^pg_lockguard: at work/, '... and told why');
			is(await_end($ddl), undef, '... and the other statement gets its lock');
			is($holder->value('SELECT 1'), 1, '... and the session goes on');
			is(event($holder)->{kind}, 'blocker_cancelled', '... which is recorded');
			forget_sessions($holder, $ddl);
		}
	}
};

subtest 'the rehearsal' => sub {
	configure($node, blocker_active_action => 'log');
	my $before = statistics($node);
	my ($holder, $ddl) = active_conflict('app');
	my $event = event($holder);
	is($event->{kind}, 'blocker_cancel_logged', 'it is said what would be done');
	like($event->{reason}, qr/^its statement has run for \d/, '... and why');
	my $pid = $holder->pid;
	is_logged($node, qr/LOG:  pg_lockguard: would cancel the statement of PID $pid \(/, '... in the log');
	# Another one's event stands for one more look.
	my ($other, $other_ddl) = active_conflict('app');
	is(event($other)->{kind}, 'blocker_cancel_logged', 'so of another one');
	is(events_about($holder), 1, 'it is said once');
	ok(!$holder->ready, '... and not done');
	$observer->value('SELECT pg_cancel_backend(?)', $pid);
	like(await_end($holder), qr/canceling/, 'it ends by another hand');
	is_deeply([ detail_and_hint($holder) ], [ undef, undef ], '... without words of ours');
	is(await_end($ddl), undef, 'the other statement gets its lock');
	$event = event($holder);
	is($event->{kind}, 'blocker_resolved', 'that it is over is recorded');
	like($event->{reason}, qr/^event \d+: it ended its transaction by itself after \d/, '... and how');
	my $after = statistics($node);
	is($after->{cancel_rehearsals_needless}, $before->{cancel_rehearsals_needless} + 1, '... and counted');
	is($after->{cancellations}, $before->{cancellations}, 'nothing was cancelled');
	is($after->{rehearsals_needless}, $before->{rehearsals_needless}, 'nor was it one of the other rehearsals');

	# The statement ends, the lock stays.
	my $table = new_table($node);
	my $advisory = session($node, 'advisory');
	$advisory->do('SELECT pg_advisory_lock(1)');
	my $sleeper = active_holder('app', $table, statement => 'SELECT pg_advisory_xact_lock(1)');
	my $third = blocked_ddl($node, $table);
	is(event($sleeper)->{kind}, 'blocker_cancel_logged', 'a third one');
	$advisory->do('SELECT pg_advisory_unlock(1)');
	is(await_end($sleeper), undef, 'its statement ends');
	like(event($sleeper)->{reason}, qr/^event \d+: its statement ended by itself after \d/, '... and that is said');
	forget_sessions($sleeper);
	is(await_end($third), undef, 'its lock was kept until then');

	# What was said in the rehearsal does not protect.
	configure($node, blocker_active_action => 'cancel');
	is(event($other)->{kind}, 'blocker_cancelled', 'no rehearsal any more: cancelled');
	like(await_end($other), qr/canceling/, '... by its error as well');
	is(await_end($other_ddl), undef, '... and the lock is free');
	forget_sessions();
};

subtest 'whose statement is not cancelled' => sub {
	my %spared = (
		superuser => [ 'it has logged in as a superuser', 'boss' ],
		role => [ 'pg_lockguard.exempt_roles names its role, or one that it is a member of', 'exempt' ],
		application =>
		  [ 'pg_lockguard.exempt_applications matches its application_name', 'app', name => 'pg_dump' ],
		database => [ 'pg_lockguard.exempt_databases names its database', 'app', dbname => 'other' ],
		protected => [ 'pg_lockguard.protected is on for it', 'app', before => ['SELECT protect()'] ],
		snapshot => [ 'its transaction has exported or imported a snapshot', 'app',
			statement => 'SELECT pg_sleep(3600) FROM (SELECT pg_export_snapshot() OFFSET 0) t' ],
		replication => [ 'it is a replication connection', 'streamer', replication => 'database' ]);
	$node->safe_psql('postgres', q{
		CREATE ROLE streamer LOGIN REPLICATION;
		CREATE DATABASE other;
		CREATE FUNCTION protect() RETURNS void SECURITY DEFINER LANGUAGE plpgsql AS
			$$ BEGIN PERFORM set_config('pg_lockguard.protected', 'on', false); END $$});
	configure($node, exempt_roles => 'exempt', exempt_databases => 'other');
	for my $counter (sort keys %spared)
	{
		my ($reason, $role, %option) = @{ $spared{$counter} };
		my $before = statistics($node)->{"spared_$counter"};
		my $table = new_table($node, $option{dbname});
		# Exported before anybody is blocked by it; else it may be cancelled before that.
		my $holder = active_holder($role, $table, %option);
		my $ddl = blocked_ddl($node, $table, $option{dbname} ? (dbname => $option{dbname}) : ());
		is_deeply(verdict($holder), [ 'blocker_spared', $reason ], "$counter: spared, and why");
		wait_for_cancel();
		is(events_about($holder), 1, "$counter: said once");
		is(statistics($node)->{"spared_$counter"}, $before + 1, "$counter: counted once");
		ok(!$holder->ready, "$counter: it goes on");
		forget_sessions($holder, $ddl);
	}
	configure($node, exempt_roles => '', exempt_databases => '');
};

subtest 'one that has not worked for long enough' => sub {
	configure($node, blocker_min_active => '1h');
	my ($holder, $ddl) = active_conflict('app');
	# Its transaction is older, its statement is not.
	configure($node, blocker_min_active => '300ms');
	my $event = event($holder);
	is($event->{kind}, 'blocker_cancelled', 'in time it is cancelled');
	cmp_ok($observer->value('SELECT extract(epoch FROM ?::timestamptz - query_start) * 1000 FROM pg_stat_activity WHERE pid = ?',
			$event->{at}, $holder->pid), '>=', 300, '... not before');
	await_end($holder, $ddl);

	# A procedure that commits on its way.
	$node->safe_psql('postgres', q{
		CREATE TABLE batches (id int); GRANT ALL ON batches TO PUBLIC;
		CREATE PROCEDURE work() LANGUAGE plpgsql AS $$ BEGIN
			LOOP
				PERFORM FROM batches;
				PERFORM pg_sleep(0.05);
				COMMIT;
			END LOOP;
		END $$});
	my $procedure = session($node, 'procedure', user => 'app');
	$procedure->send('CALL work()');
	# Its transactions are far shorter.
	configure($node, blocker_min_active => '2s');
	await($node, 'the procedure runs for long enough', q{SELECT clock_timestamp() - query_start > '2500 ms'
		FROM pg_stat_activity WHERE pid = ? AND state = 'active'}, $procedure->pid);
	my $locks = session($node, 'locks');
	$locks->send(q{DO $$ BEGIN FOR i IN 1..10 LOOP LOCK TABLE batches; COMMIT; END LOOP; END $$});
	is(await_end($locks), undef, 'a procedure that commits gives its locks back in time');
	is(events_about($procedure), 0, '... and is left alone');
	configure($node, blocker_min_active => 0);
	forget_sessions();
};

subtest 'a lock from before a savepoint' => sub {
	my $before = statistics($node);
	my ($holder, $ddl) = active_conflict('app', before => [], statement => 'SAVEPOINT s; SELECT pg_sleep(3600)');
	my $cancelled = event($holder);
	is($cancelled->{kind}, 'blocker_cancelled', 'the statement is cancelled');
	like(await_end($holder), qr/canceling/, '... and ends');
	my $event = event($holder);
	is($event->{kind}, 'blocker_not_freed', 'that the lock stays is recorded');
	like($event->{reason},
		qr/^event $cancelled->{id}, \d[\d.]* \w+ ago: its statement was cancelled, but the transaction keeps the lock, which it took before a savepoint$/,
		'... and why');
	is($event->{blocker_state}, 'idle in transaction (aborted)', '... with its state');
	is(statistics($node)->{cancels_in_vain}, $before->{cancels_in_vain} + 1, '... and counted');
	is_logged($node, qr/LOG:  pg_lockguard: PID @{[$holder->pid]}, whose statement was sent a cancel \d[\d.]* \w+ ago: its statement was cancelled, but the transaction keeps the lock/,
		'... and logged');
	wait_for_cancel();
	is(events_about($holder), 2, 'it is said once');
	ok(!$ddl->ready, 'the other statement waits on');
	# From then on it is idle.
	configure($node, blocker_action => 'terminate');
	is(event($holder)->{kind}, 'blocker_terminated', 'as an idle one it is ended, where that is wanted');
	is(await_end($ddl), undef, 'and the other statement gets its lock');
	configure($node, blocker_action => 'off');
	forget_sessions();
};

subtest 'a statement that will not hear' => sub {
	my ($holder, $ddl) = active_conflict('app', statement => q{DO $$ BEGIN
		PERFORM pg_sleep(3600);
		EXCEPTION WHEN query_canceled THEN PERFORM pg_sleep(3600); END $$});
	my $cancelled = event($holder);
	is($cancelled->{kind}, 'blocker_cancelled', 'it is sent a cancel');
	my $event = event($holder);
	is($event->{kind}, 'blocker_not_freed', 'that it goes on is recorded');
	like($event->{reason}, qr/^event $cancelled->{id}, [1-9][\d.]* \w+ ago: its statement goes on all the same$/,
		'... with that reason');
	wait_for_cancel();
	is(events_about($holder), 2, '... once, and it is sent no other');
	ok(!$holder->ready, 'it goes on');
	forget_sessions();
};

subtest 'a commit that waits for its standbys' => sub {
	my $before = statistics($node);
	my $table = new_table($node);
	$node->safe_psql('postgres', q{ALTER SYSTEM SET synchronous_standby_names = 'nobody'});
	$node->reload;
	await($node, 'a standby is waited for', q{SELECT current_setting('synchronous_standby_names') = 'nobody'});
	my $holder = session($node, 'committing', user => 'app');
	$holder->send("INSERT INTO $table VALUES (1)");
	await($node, 'it waits for it', q{SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = ? AND wait_event = 'SyncRep')},
		$holder->pid);
	my $ddl = blocked_ddl($node, $table, before => 'SET synchronous_commit = local; ');
	is_deeply(verdict($holder), [ 'blocker_spared', 'it waits until synchronous standbys have its commit' ],
		'it is spared');
	is(statistics($node)->{spared_committing}, $before->{spared_committing} + 1, '... and counted');
	$node->safe_psql('postgres', q{SET synchronous_commit = local; ALTER SYSTEM RESET synchronous_standby_names});
	$node->reload;
	is(await_end($holder), undef, 'its commit is as good as its standbys');
	is(await_end($ddl), undef, 'and the other statement gets its lock');
	forget_sessions();
};

subtest 'a client that sends nothing' => sub {
	my $table = new_table($node);
	my $holder = session($node, 'stalled', user => 'app');
	$holder->do("BEGIN; SELECT FROM $table");
	$holder->do("COPY $table FROM STDIN");
	my $ddl = blocked_ddl($node, $table);
	# Cancel requests are not served there.
	wait_for_cancel();
	is(events_about($holder), 0, 'it is not cancelled');
	configure($node, blocker_action => 'terminate');
	is(event($holder)->{kind}, 'blocker_spared', 'it is one of the stalled');
	configure($node, blocker_action => 'off');
	forget_sessions();
};

subtest 'for a statement at low priority' => sub {
	my $table = new_table($node);
	my $holder = active_holder('app', $table);
	my $ddl = session($node, 'polite');
	$ddl->do('SET pg_lockguard.ddl_mode = low_priority');
	$ddl->send("ALTER TABLE $table ADD n int");
	event($holder, 'blocker_cancelled');
	like(await_end($holder), qr/canceling/, 'it is cancelled');
	like((detail_and_hint($holder))[0] // '', qr/while blocking PID @{[$ddl->pid]} \(ALTER TABLE/, '... and told why');
	is(await_end($ddl), undef, 'the other gets its lock');
	forget_sessions();
};

subtest 'where the log is silent' => sub {
	$node->safe_psql('postgres', q{
		CREATE ROLE silent LOGIN;
		ALTER ROLE silent SET log_min_messages = fatal;
		CREATE FUNCTION speak() RETURNS void SECURITY DEFINER LANGUAGE plpgsql AS
			$$ BEGIN PERFORM set_config('log_min_messages', 'warning', false); END $$});
	my ($holder, $ddl) = active_conflict('silent');
	like(await_end($holder), qr/canceling/, 'it is cancelled');
	is_deeply([ detail_and_hint($holder) ], [ undef, undef ], 'the hook that tells why does not run');
	await_end($ddl);
	# What is left behind is nobody else's.
	$holder->do('ROLLBACK');
	$holder->do('SELECT speak()');
	launch($holder, 'SELECT pg_sleep(3600)');
	await($node, 'another statement', q{SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = ? AND wait_event = 'PgSleep')},
		$holder->pid);
	$observer->value('SELECT pg_cancel_backend(?)', $holder->pid);
	like(await_end($holder), qr/canceling/, 'another statement is cancelled by another hand');
	is_deeply([ detail_and_hint($holder) ], [ undef, undef ], '... without words of ours');
	forget_sessions();
};

subtest 'the fuses' => sub {
	$node->restart; # they have counted
	configure($node, max_terminations_per_minute => 1);
	my ($first, $ddl) = active_conflict('app');
	is(event($first)->{kind}, 'blocker_cancelled', 'one is cancelled');
	await_end($first, $ddl);
	my ($second, $second_ddl) = active_conflict('app');
	is_deeply(verdict($second), [ 'fuse_blown', 'pg_lockguard.max_terminations_per_minute (1) has been reached' ],
		'another one is not');
	is_logged($node, qr/DETAIL:  Not cancelled for now: PID @{[$second->pid]} /, '... and that is logged');
	# It is the same fuse for sessions.
	configure($node, blocker_action => 'terminate');
	my ($idle, $idle_ddl) = conflict($node, 'app');
	my ($third, $third_ddl) = active_conflict('app');
	await($node, 'some looks', q{SELECT looks > ? FROM pg_stat_lockguard}, statistics($node)->{looks} + 3);
	is(events_about($idle), 0, 'no session is ended');
	configure($node, max_terminations_per_minute => 1000, blocker_action => 'off');
	is(event($third)->{kind}, 'blocker_cancelled', 'with a new fuse it goes on');
	forget_sessions();

	configure($node, blocker_min_wait => '2s');
	my $table = new_table($node);
	my @holders = map { active_holder('app', $table) } 1, 2;
	my $both = blocked_ddl($node, $table);
	await($node, 'one of them is cancelled', q{SELECT count(*) = 1 FROM pg_lockguard_events
		WHERE kind = 'blocker_cancelled' AND blocker_pid = ANY (?)}, [ map { $_->pid } @holders ]);
	await($node, 'the fuse of the request holds', q{SELECT EXISTS (SELECT FROM pg_lockguard_events
		WHERE kind = 'fuse_blown' AND blocker_pid = ANY (?) AND reason LIKE 'another blocker of the same request%')},
		[ map { $_->pid } @holders ]);
	await($node, 'then it is the other', q{SELECT count(*) = 2 FROM pg_lockguard_events
		WHERE kind = 'blocker_cancelled' AND blocker_pid = ANY (?)}, [ map { $_->pid } @holders ]);
	is(await_end($both), undef, 'and the statement gets its lock');
};

ends_well($node);
done_testing();
