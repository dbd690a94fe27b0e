# The locks that a guarded statement leaves to its transaction: for how long they may keep others
# waiting, while the transaction does something else, or nothing.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use IO::Socket::UNIX;
use LockGuard;
use LockGuard::Stall;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $node = start_stall_node('transaction', q{pg_lockguard.worker_interval = 1h});
$node->safe_psql('postgres', q{
	ALTER TABLE busy OWNER TO app;
	ALTER TABLE other OWNER TO app;
	GRANT ALL ON SCHEMA public TO app;
	CREATE ROLE spared LOGIN IN ROLE app});

my $columns = 0;
my $log = 0;

# told(PATTERN, WHAT): the log has it, since a transaction was begun by begin().
sub told
{
	my ($pattern, $what) = @_;
	return is_logged($node, $pattern, $what, $log);
}

# A transaction that has run a guarded statement, and what else is given before and after it; and a
# reader of the table.
sub begin
{
	my ($user, $before, @after) = @_;
	my ($ddl, $reader) = (session($node, 'ddl', user => $user), session($node, 'reader'));
	$log = -s $node->logfile;
	$ddl->do($_) for 'BEGIN', @$before;
	$columns++;
	$ddl->do("ALTER TABLE busy ADD COLUMN c$columns int");
	$ddl->do($_) for @after;
	return ($ddl, $reader);
}

sub end
{
	my @sessions = @_;
	forget_sessions(@sessions);
	events($node, $_) for qw(stall_cancelled stall_spared stall_terminated stall_logged);
	return;
}

subtest 'a long statement after it' => sub {
	my ($ddl, $reader) = begin('app', []);
	$ddl->send('UPDATE other SET n = gate(n)');
	$reader->send('SELECT * FROM busy');
	fails_by_stall($ddl,
		qr/DETAIL:  Its transaction, which has run ALTER TABLE, kept 1 session waiting, for \S+ m?s, for AccessShareLock on relation \d+ of database \d+; the limit .* is 300 ms\.\nHINT:  Commit right after ALTER TABLE/,
		'the UPDATE');
	is($reader->error, undef, 'the reader goes on');
	my @events = await_events('stall_cancelled', $ddl);
	is(@events, 1, 'one event');
	is($events[0]{blocker_query}, 'UPDATE other SET n = gate(n)', '... with what the session did');
	cmp_ok($events[0]{stall_ms}, '>=', $limit, 'not before the limit');
	end($ddl, $reader);
};

subtest 'a long statement after it, and nobody waits' => sub {
	my ($ddl, $reader) = begin('app', []);
	$ddl->send('UPDATE other SET n = gate(n)');
	await_age($ddl, 4);
	ok(!$ddl->ready, 'it works on');
	open_gate($node);
	is($ddl->error, undef, 'and is done');
	shut_gate($node);
	$ddl->do('COMMIT');
	end($ddl, $reader);
};

subtest 'it keeps somebody from a row' => sub {
	my ($ddl, $writer) = begin('app', [], 'UPDATE other SET n = 5 WHERE id = 1');
	$ddl->send('SELECT gate(1)');
	$writer->send('UPDATE other SET n = 6 WHERE id = 1');
	fails_by_stall($ddl, qr/for ShareLock on transaction \d+/, 'the SELECT');
	is($writer->error, undef, 'the writer goes on');
	end($ddl, $writer);
};

subtest 'under a later savepoint the lock is not gone: it is idle then' => sub {
	my ($ddl, $reader) = begin('app', [], 'SAVEPOINT later');
	$ddl->send('SELECT gate(1)');
	$reader->send('SELECT * FROM busy');
	fails_by_stall($ddl, qr/Its transaction/, 'the SELECT');
	my @events = await_events('stall_spared', $ddl);
	is(@events, 1, 'an event');
	is($events[0]{reason}, 'pg_lockguard.blocker_action is off', '... says that nothing is done');
	told(qr/WARNING:  pg_lockguard: PID @{[$ddl->pid]} keeps others waiting, and is left alone: pg_lockguard.blocker_action is off\n.*DETAIL:  Its transaction, which was idle and has run ALTER TABLE, kept 1 session waiting/,
		'a warning in the log');
	ok(!$reader->ready, 'the reader waits');
	$ddl->do('ROLLBACK TO later');
	$ddl->do('ROLLBACK');
	is($reader->error, undef, 'until the end');
	end($ddl, $reader);
};

subtest 'idle, blocker_action is off' => sub {
	my ($ddl, $reader) = begin('app', []);
	$reader->send('SELECT * FROM busy');
	my @events = await_events('stall_spared', $ddl);
	is(@events, 1, 'an event');
	await_age($reader, 4);
	is(events($node, 'stall_spared'), 0, 'and no more of them');
	my $warnings = () = slurp_file($node->logfile, $log) =~ /WARNING:  pg_lockguard/g;
	is($warnings, 1, 'one warning');
	$ddl->do('COMMIT');
	is($reader->error, undef, 'the reader goes on');
	end($ddl, $reader);
};

configure($node, blocker_action => 'terminate');

subtest 'idle, blocker_action is terminate' => sub {
	configure($node, log_events => 'actions');
	my ($ddl, $reader) = begin('app', []);
	my $before = statistics($node);
	$reader->send('SELECT * FROM busy');
	is($reader->error, undef, 'the reader goes on');
	ok(!eval { $ddl->do('SELECT 1'); 1 }, 'the session has been ended');
	like($@, qr/terminating connection.*DETAIL:  pg_lockguard: its transaction, which was idle and has run ALTER TABLE, kept 1 session waiting, for \S+ m?s, for AccessShareLock on relation \d+ of database \d+\./s,
		'and is told why');
	my @events = await_events('stall_terminated', $ddl);
	is(@events, 1, 'an event');
	is_logged($node, qr/event: kind=stall_terminated .* database="postgres" user="\w+" .* blocker_user="app"/, 'a line, with the names');
	configure($node, log_events => 'none');
	cmp_ok($events[0]{stall_ms}, '>=', $limit, 'not before the limit');
	is(statistics($node)->{stall_terminations}, $before->{stall_terminations} + 1, 'it is counted');
	end($ddl, $reader);
};

# A cancel request is not served there.
subtest 'it waits for its client in a COPY' => sub {
	my ($ddl, $reader) = begin('app', []);
	$ddl->do('COPY other FROM STDIN');
	$reader->send('SELECT * FROM busy');
	my ($spared) = await_events('stall_spared', $ddl);
	like($spared->{reason}, qr/pg_lockguard\.blocker_stalled_clients is off/, 'it is left alone, which is said');
	told(qr/WARNING:  pg_lockguard: PID @{[$ddl->pid]} keeps others waiting, and is left alone: .*\n.*DETAIL:  Its transaction, which waited for its client in a statement and has run ALTER TABLE, kept 1 session waiting/,
		'a warning in the log');
	await_age($reader, 8);
	is(events($node, 'stall_cancelled'), 1, 'it was asked to end, once');
	is(events($node, 'stall_spared'), 0, 'and no more is said of it');
	ok(!eval { $ddl->{dbh}->pg_putcopydata("3\t0\n"); $ddl->{dbh}->pg_putcopyend; 1 }, 'it is cancelled when it goes on');
	$ddl->do('ROLLBACK');
	is($reader->error, undef, 'the reader goes on');
	end($ddl, $reader);

	configure($node, blocker_stalled_clients => 'on');
	($ddl, $reader) = begin('app', []);
	$ddl->do('COPY other FROM STDIN');
	$reader->send('SELECT * FROM busy');
	is($reader->error, undef, 'with blocker_stalled_clients the reader goes on');
	is(await_events('stall_terminated', $ddl), 1, 'the session has been ended');
	told(qr/LOG:  pg_lockguard: terminated PID @{[$ddl->pid]}, waiting for its client in the transaction of a guarded statement/, 'which is logged');
	end($ddl, $reader);

	# Data that comes is a sign of life: then the cancel request is served.
	($ddl, $reader) = begin('app', []);
	$ddl->do('COPY other FROM STDIN');
	$reader->send('SELECT * FROM busy');
	await($node, 'the reader waits', q{SELECT EXISTS (SELECT FROM pg_locks WHERE pid = ? AND NOT granted)}, $reader->pid);
	my $id = 3;
	ok(!eval { $ddl->{dbh}->pg_putcopydata($id++ . "\t0\n") while !$reader->ready; $ddl->{dbh}->pg_putcopyend; 1 }, 'a COPY at work is cancelled');
	is($ddl->sqlstate, '57014', 'by its SQLSTATE');
	is($reader->error, undef, 'the reader goes on');
	is(events($node, 'stall_terminated'), 0, 'nobody is ended');
	$ddl->do('ROLLBACK');
	end($ddl, $reader);
	configure($node, blocker_stalled_clients => 'off');
};

# A client that speaks the protocol itself.
sub message
{
	my ($type, $body) = @_;
	return $type . pack('N', 4 + length $body) . $body;
}

sub await_ready
{
	my $socket = shift;
	for (my $type = ''; $type ne 'Z';)
	{
		read($socket, my $header, 5) == 5 or die 'it has closed the connection';
		($type, my $size) = unpack 'aN', $header;
		read($socket, my $body, $size - 4);
		die $body if $type eq 'E';
	}
	return;
}

# Each message begins a statement, and a cancel request that comes between them is dropped.
subtest 'it sends one statement after the other in a pipeline' => sub {
	configure($node, blocker_stalled_clients => 'on');
	my $reader = session($node, 'reader');
	my $socket = IO::Socket::UNIX->new(Peer => $node->host . '/.s.PGSQL.' . $node->port) or die "connect: $!";
	$socket->print(message('', pack('N', 196608) . "user\0app\0database\0postgres\0application_name\0pipeline\0\0"));
	await_ready($socket);
	$columns++;
	for my $statement ('BEGIN', "ALTER TABLE busy ADD COLUMN c$columns int")
	{
		$socket->print(message('Q', "$statement\0"));
		await_ready($socket);
	}
	my $select = message('P', "\0SELECT 1\0\0\0") . message('B', "\0" x 8) . message('E', "\0" x 5) . message('H', '');
	$reader->send('SELECT * FROM busy');
	local $SIG{PIPE} = 'IGNORE';
	until ($reader->ready)
	{
		$socket->print($select);
		usleep(100_000);
	}
	is($reader->error, undef, 'the reader goes on');
	my $blockers = q{kind = $1 AND blocker_application_name = 'pipeline'};
	is($reader->value("SELECT count(*) FROM pg_lockguard_events WHERE $blockers", 'stall_terminated'), 1, 'when it has been ended');
	cmp_ok($reader->value("SELECT count(*) FROM pg_lockguard_events WHERE $blockers", 'stall_cancelled'), '<=', 2, 'before that it was asked to end, twice at most');
	close $socket;
	end($reader);
	configure($node, blocker_stalled_clients => 'off');
};

subtest 'idle, and it keeps a parallel worker waiting, not its leader' => sub {
	$node->safe_psql('postgres', q{
		CREATE FUNCTION read_busy() RETURNS bigint LANGUAGE plpgsql PARALLEL SAFE
		AS 'BEGIN RETURN (SELECT count(*) FROM busy); END'});
	# A time in which the wait of the worker is seen.
	$node->safe_psql('postgres', 'GRANT SET ON PARAMETER pg_lockguard.ddl_max_stall TO app');
	my ($ddl, $reader) = begin('app', [q{SET LOCAL pg_lockguard.ddl_max_stall = '3s'}]);
	$reader->do("SET $_")
	  for 'min_parallel_table_scan_size = 0', 'parallel_setup_cost = 0', 'parallel_tuple_cost = 0',
	  'parallel_leader_participation = off';
	$reader->send('SELECT count(*) FROM other WHERE read_busy() >= 0');
	await($node, 'a worker waits', q{SELECT EXISTS (SELECT FROM pg_stat_activity WHERE leader_pid = ? AND wait_event_type = 'Lock')},
		$reader->pid);
	is($reader->error, undef, 'the reader goes on');
	my @events = await_events('stall_terminated', $ddl);
	is(@events, 1, 'an event');
	is($events[0]{pid}, $reader->pid, '... names the reader');
	end($ddl, $reader);
};

subtest 'aborted under a savepoint, blocker_action is terminate' => sub {
	my ($ddl, $reader) = begin('app', [], 'SAVEPOINT later');
	$ddl->send('SELECT gate(1)');
	$reader->send('SELECT * FROM busy');
	fails_by_stall($ddl, qr/Its transaction/, 'the SELECT');
	is($reader->error, undef, 'the reader goes on');
	is(await_events('stall_terminated', $ddl), 1, 'an event');
	end($ddl, $reader);
};

subtest 'whom the exemptions spare' => sub {
	for my $case (
		[ 'superuser', 'postgres', [], qr/superuser/ ],
		[ 'protected', 'postgres', ['SET pg_lockguard.protected = on', 'SET SESSION AUTHORIZATION app'], qr/superuser|protected/ ],
		[ 'exempt role', 'spared', [], qr/exempt_roles/ ],
		[ 'exempt application', 'app', [q{SET application_name = 'important 7'}], qr/exempt_applications/ ],
		[ 'shared snapshot', 'app', ['SELECT pg_export_snapshot()'], qr/snapshot/ ])
	{
		my ($what, $user, $before, $reason) = @$case;
		configure($node, exempt_roles => 'spared', exempt_applications => 'important*');
		my ($ddl, $reader) = begin($user, $before);
		$reader->send('SELECT * FROM busy');
		my @events = await_events('stall_spared', $ddl);
		like($events[0]{reason}, $reason, "$what: spared");
		told(qr/WARNING:  pg_lockguard: PID @{[$ddl->pid]} keeps others waiting/, "$what: a warning");
		ok(!$reader->ready, "$what: the reader waits");
		$ddl->do('COMMIT');
		is($reader->error, undef, "$what: until the end");
		end($ddl, $reader);
	}
};

subtest 'an exempt session is cancelled all the same' => sub {
	my ($ddl, $reader) = begin('spared', []);
	$ddl->send('SELECT gate(1)');
	$reader->send('SELECT * FROM busy');
	fails_by_stall($ddl, qr/Its transaction/, 'the SELECT');
	is($reader->error, undef, 'the reader goes on');
	end($ddl, $reader);
};

subtest 'max_terminations_per_minute' => sub {
	configure($node, max_terminations_per_minute => 0);
	my ($ddl, $reader) = begin('app', []);
	$reader->send('SELECT * FROM busy');
	my @events = await_events('stall_spared', $ddl);
	like($events[0]{reason}, qr/max_terminations_per_minute \(0\)/, 'the fuse holds');
	await_age($reader, 3);
	is(events($node, 'stall_spared'), 0, 'which is said once');
	configure($node, max_terminations_per_minute => 1000);
	is($reader->error, undef, 'then it lets it be ended');
	is(await_events('stall_terminated', $ddl), 1, 'an event');
	end($ddl, $reader);
};

configure($node, blocker_action => 'log');

subtest 'idle, blocker_action is log' => sub {
	my ($ddl, $reader) = begin('app', []);
	$reader->send('SELECT * FROM busy');
	is(await_events('stall_logged', $ddl), 1, 'an event');
	told(qr/LOG:  pg_lockguard: would terminate PID @{[$ddl->pid]}, idle in the transaction of a guarded statement/, 'a line in the log');
	ok(!$reader->ready, 'the reader waits');
	$ddl->do('COMMIT');
	is($reader->error, undef, 'until the end');
	end($ddl, $reader);
};

configure($node, blocker_action => 'terminate');

subtest 'the savepoint before it is rolled back: its locks are gone' => sub {
	my ($ddl, $reader) = begin('app', ['SAVEPOINT before'], 'ROLLBACK TO before', 'UPDATE other SET n = 1');
	$reader->send('UPDATE other SET n = 2');
	await_age($reader, 4);
	ok(!$reader->ready, 'the writer waits');
	is(events($node, $_), 0, "no $_") for qw(stall_cancelled stall_terminated);
	$ddl->do('COMMIT');
	is($reader->error, undef, 'the session lives on');
	end($ddl, $reader);
};

subtest 'a savepoint is released: its locks stay' => sub {
	my ($ddl, $reader) = begin('app', ['SAVEPOINT before'], 'RELEASE before', 'SAVEPOINT after', 'ROLLBACK TO after');
	$reader->send('SELECT * FROM busy');
	is($reader->error, undef, 'the reader goes on');
	is(await_events('stall_terminated', $ddl), 1, 'the session has been ended');
	end($ddl, $reader);
};

subtest 'two of them, one is rolled back' => sub {
	my ($ddl, $reader) = begin('app', [], 'SAVEPOINT later', 'ALTER TABLE other ADD COLUMN x int', 'ROLLBACK TO later');
	$reader->send('SELECT * FROM busy');
	is($reader->error, undef, 'the reader goes on');
	is(await_events('stall_terminated', $ddl), 1, 'the session has been ended');
	end($ddl, $reader);
};

# It may be on its way: it reports its error before its locks are free.
subtest 'what follows a guarded statement that was asked to end has a second' => sub {
	my ($ddl, $reader) = begin('postgres', []);
	$ddl->send(q{DO $$ BEGIN
		BEGIN
			ALTER TABLE other ALTER n TYPE int USING gate(n);
		EXCEPTION WHEN query_canceled THEN NULL;
		END;
		PERFORM gate(1);
	END $$});
	$reader->send('SELECT * FROM busy');
	fails_by_stall($ddl, qr/Its transaction, which has run ALTER TABLE/, 'the function, at the second time');
	is($reader->error, undef, 'the reader goes on');
	await($node, 'both are recorded', q{SELECT count(*) >= 2 FROM pg_lockguard_events WHERE kind = 'stall_cancelled' AND blocker_pid = ?}, $ddl->pid);
	my @events = events($node, 'stall_cancelled');
	is(@events, 2, 'two events');
	is(LockGuard::observer($node)->value(q{SELECT ?::timestamptz - ? > '500 ms'}, $events[1]{at}, $events[0]{at}), 1, '... one after the other');
	end($ddl, $reader);
};

subtest 'the setting is changed meanwhile' => sub {
	my ($ddl, $reader) = begin('postgres', []);
	$ddl->do('SET LOCAL pg_lockguard.ddl_max_stall = 0');
	$ddl->send('SELECT gate(1)');
	$reader->send('SELECT * FROM busy');
	await_age($reader, 4);
	ok(!$ddl->ready, 'no limit any more');
	open_gate($node);
	is($ddl->error, undef, 'the statement is done');
	shut_gate($node);
	$ddl->do(q{SET LOCAL pg_lockguard.ddl_max_stall = '100ms'});
	$ddl->send('SELECT gate(1)');
	fails_by_stall($ddl, qr/Its transaction.* is 100 ms/, 'a limit again');
	is($reader->error, undef, 'the reader goes on');
	end($ddl, $reader);
};

subtest 'the next transaction of the session is under no limit' => sub {
	my ($ddl, $reader) = begin('app', []);
	$ddl->do('COMMIT');
	$ddl->do('BEGIN');
	$ddl->do('LOCK TABLE busy');
	$reader->send('SELECT * FROM busy');
	await_age($reader, 4);
	ok(!$reader->ready, 'the reader waits');
	$ddl->do('COMMIT');
	is($reader->error, undef, 'and the session lives on');
	end($ddl, $reader);
};

subtest 'a private table leaves nothing to wait for' => sub {
	my ($ddl, $writer) = (session($node, 'ddl', user => 'app'), session($node, 'writer'));
	$ddl->do($_) for 'BEGIN', 'CREATE TABLE fresh (id int)', 'ALTER TABLE fresh ADD COLUMN c int', 'UPDATE other SET n = 1';
	$writer->send('UPDATE other SET n = 2');
	await_age($writer, 4);
	$ddl->do('COMMIT');
	is($writer->error, undef, 'the session lives on');
	end($ddl, $writer);
};

subtest 'a prepared transaction' => sub {
	my ($ddl, $reader) = begin('app', []);
	$ddl->do(q{PREPARE TRANSACTION 'kept'});
	$reader->send('SELECT * FROM busy');
	await($node, 'an event', q{SELECT EXISTS (SELECT FROM pg_lockguard_events WHERE kind = 'stall_spared' AND blocker_pid = 0)});
	my @events = events($node, 'stall_spared');
	is(@events, 1, 'an event');
	is($events[0]{pid}, $reader->pid, '... with who waits');
	told(qr/WARNING:  pg_lockguard: transaction \d+ of pg_prepared_xacts keeps others waiting, and is left alone: .*\n.*DETAIL:  Its transaction, which was prepared and has run ALTER TABLE, kept 1 session waiting/,
		'a warning in the log');
	await_age($reader, 3);
	is(events($node, 'stall_spared'), 0, 'and no more of them');
	$node->safe_psql('postgres', q{COMMIT PREPARED 'kept'});
	is($reader->error, undef, 'the reader goes on');
	# The place is free again, and another one is watched.
	my ($second, $other) = begin('app', []);
	$second->do(q{PREPARE TRANSACTION 'again'});
	$other->send('SELECT * FROM busy');
	await($node, 'another event', q{SELECT count(*) = 2 FROM pg_lockguard_events WHERE kind = 'stall_spared' AND blocker_pid = 0});
	$node->safe_psql('postgres', q{ROLLBACK PREPARED 'again'});
	is($other->error, undef, 'the reader goes on');
	end($ddl, $reader, $second, $other);
};

# The shorter the limit, the more often the worker glances at who is guarded. For blockers it looks as often as
# before, whether it finds the time for the next glance over already or not.
subtest 'a short limit does not make the worker look for blockers more often' => sub {
	configure($node, blocker_action => 'log');
	my $ddl = session($node, 'ddl');
	$ddl->do(q{SET pg_lockguard.ddl_max_stall = '40 ms'});
	$ddl->do('BEGIN');
	$ddl->do('ALTER TABLE busy ADD COLUMN watched int');
	my $looks = sub { statistics($node)->{looks} };
	await($node, 'the worker knows of its settings', 'SELECT looks > 0 FROM pg_stat_lockguard');
	my $before = $looks->();
	$node->safe_psql('postgres', 'SELECT pg_sleep(1)');
	# A reload, a statement that begins to wait, and the like wake it; glances at the guarded session would be a hundred.
	cmp_ok($looks->() - $before, '<=', 20, 'looks within a second');
	end($ddl);
	configure($node, blocker_action => 'off');
};

ends_well($node);
done_testing();
