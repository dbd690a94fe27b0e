# A guarded statement that keeps others waiting while it runs: it ends after ddl_max_stall, in both
# modes, whatever statement it is; and not while nobody waits, or nobody for long.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LockGuard;
use LockGuard::Stall;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $node = start_stall_node(
	'running', { streaming => 1 },
	q{pg_lockguard.ddl_commands = 'ALTER TABLE, TRUNCATE TABLE, CREATE INDEX, LOCK TABLE'},
	q{max_parallel_maintenance_workers = 0});
$node->safe_psql(
	'postgres', q{
	CREATE TABLE parent (id int PRIMARY KEY);
	CREATE TABLE child (id int, parent_id int);
	INSERT INTO parent SELECT generate_series(1, 1000);
	INSERT INTO child SELECT i, i % 1000 + 1 FROM generate_series(1, 1500000) i;
	CREATE TABLE whole (id int) PARTITION BY RANGE (fixed_gate(id));
	CREATE TABLE part (id int);
	INSERT INTO part VALUES (1);
	CREATE TABLE emptied (id int);
	CREATE FUNCTION gate_trigger() RETURNS trigger LANGUAGE plpgsql AS
		$$BEGIN PERFORM gate(1); RETURN NULL; END$$;
	CREATE TRIGGER t AFTER TRUNCATE ON emptied EXECUTE FUNCTION gate_trigger()});

sub sessions
{
	return map { session($node, $_) } @_;
}

for my $mode ('low_priority', 'lock_timeout')
{
	subtest "$mode: a rewrite before a reader" => sub {
		my ($ddl, $reader) = sessions('ddl', 'reader');
		my $before = statistics($node);
		$ddl->do("SET pg_lockguard.ddl_mode = $mode");
		$ddl->send($rewrite);
		await_lock($ddl, 'busy');
		$reader->send('SELECT * FROM busy');
		my $error = fails_by_stall($ddl,
			qr/DETAIL:  ALTER TABLE kept 1 session waiting, for \S+ m?s, for AccessShareLock on public\.busy; the limit \(pg_lockguard\.ddl_max_stall\) is 300 ms\. It was rewriting public\.busy\.\nHINT:  .*NOT VALID/,
			'the rewrite');
		is($reader->error, undef, 'the reader goes on');
		my @events = await_events('stall_cancelled', $ddl);
		is(@events, 1, 'one event');
		is($events[0]{blocker_pid}, $ddl->pid, '... of the statement');
		is($events[0]{pid}, $reader->pid, '... and the reader');
		cmp_ok($events[0]{stall_ms}, '>=', $limit, 'not before the limit');
		is(statistics($node)->{stall_cancels}, $before->{stall_cancels} + 1, 'it is counted');
		is($node->safe_psql('postgres', q{SELECT atttypid::regtype FROM pg_attribute WHERE attrelid = 'busy'::regclass AND attname = 'id'}),
			'integer', 'the statement has come to nothing');
		forget_sessions($ddl, $reader);
	};

	subtest "$mode: nobody waits" => sub {
		my ($ddl) = sessions('ddl');
		$ddl->do("SET pg_lockguard.ddl_mode = $mode");
		$ddl->send($rewrite);
		await_age($ddl, 4);
		ok(!$ddl->ready, 'it works on');
		open_gate($node);
		is($ddl->error, undef, 'and is done');
		shut_gate($node);
		is(events($node, 'stall_cancelled'), 0, 'no event');
		$ddl->do('ALTER TABLE busy ALTER id TYPE int');
		forget_sessions($ddl);
	};
}

subtest 'readers that give up in time' => sub {
	my ($ddl, $reader) = sessions('ddl', 'reader');
	# So much longer than each of them waits that a machine that stands still does not count as one of them.
	$ddl->do(q{SET pg_lockguard.ddl_max_stall = '2s'});
	$ddl->send($rewrite);
	await_lock($ddl, 'busy');
	$reader->do(q{SET lock_timeout = '300ms'});
	for (1 .. 8)
	{
		$reader->send('SELECT * FROM busy');
		like($reader->error, qr/lock timeout/, 'the reader gives up');
	}
	ok(!$ddl->ready, 'the statement works on');
	open_gate($node);
	is($ddl->error, undef, 'and is done');
	shut_gate($node);
	$ddl->do('ALTER TABLE busy ALTER id TYPE int');
	forget_sessions($ddl, $reader);
};

subtest 'a waiter behind a waiter' => sub {
	my ($ddl, $reader, $second) = sessions('ddl', 'reader', 'second');
	$ddl->send($rewrite);
	await_lock($ddl, 'busy');
	$reader->do('BEGIN');
	$reader->do('UPDATE other SET n = 1 WHERE id = 1');
	$second->send('UPDATE other SET n = 2 WHERE id = 1');
	await_age($second, 2);
	# Only now does it wait for the statement, through the reader.
	my $start = time;
	$reader->send('SELECT * FROM busy');
	my $error = fails_by_stall($ddl, qr/kept 2 sessions waiting, for up to \S+ m?s, for AccessShareLock on public\.busy/, 'the rewrite');
	my ($kept, $unit) = $error =~ /for up to (\S+) (m?s)/;
	$kept *= 1000 if $unit eq 's';
	cmp_ok($kept, '>=', $limit, 'for the limit');
	cmp_ok($kept, '<=', 1000 * (time - $start), '... which counts from then on');
	is($reader->error, undef, 'the reader goes on');
	$reader->do('COMMIT');
	is($second->error, undef, 'and so does the other');
	await_events('stall_cancelled', $ddl);
	forget_sessions($ddl, $reader, $second);
};

subtest 'who does not count' => sub {
	my ($ddl, $advisory, $polite, $index) = sessions('ddl', 'advisory', 'polite', 'index');
	$node->safe_psql('postgres', 'CREATE TABLE indexed (id int)');
	$ddl->do('SELECT pg_advisory_lock(7)');
	$ddl->do('BEGIN');
	$ddl->do('SELECT FROM indexed');
	$ddl->send($rewrite);
	await_lock($ddl, 'busy');
	$advisory->send('SELECT pg_advisory_lock(7)');
	$polite->send('ALTER TABLE busy ADD COLUMN c int');
	$index->send('CREATE INDEX CONCURRENTLY ON indexed (id)');
	await_wait($advisory, $index);
	await_age($index, 3);
	ok(!$ddl->ready, 'the statement works on');
	open_gate($node);
	is($ddl->error, undef, 'and is done');
	shut_gate($node);
	$ddl->do('ROLLBACK');
	$ddl->do('SELECT pg_advisory_unlock(7)');
	is(await_end($_), undef, $_->name . ' goes on') for $advisory, $polite, $index;
	is(events($node, 'stall_cancelled'), 0, 'no event');
	forget_sessions($ddl, $advisory, $polite, $index);
	$node->safe_psql('postgres', 'ALTER TABLE busy DROP COLUMN c');
};

# What it is, the relation, who waits, and what the DETAIL says.
my @statements = (
	[ 'ADD FOREIGN KEY that validates, before a writer',
		'ALTER TABLE child ADD FOREIGN KEY (parent_id) REFERENCES parent', 'child',
		'ShareRowExclusiveLock', 'INSERT INTO child VALUES (0, 1)', 'ALTER TABLE kept 1 session' ],
	[ 'ATTACH PARTITION that scans', 'ALTER TABLE whole ATTACH PARTITION part FOR VALUES FROM (0) TO (10)', 'part',
		'AccessExclusiveLock', 'SELECT * FROM part', 'ALTER TABLE kept 1 session' ],
	[ 'TRUNCATE', 'TRUNCATE emptied', 'emptied', 'AccessExclusiveLock', 'SELECT * FROM emptied', 'TRUNCATE TABLE kept 1 session' ],
	[ 'CREATE INDEX, before a writer', 'CREATE INDEX ON busy (fixed_gate(id))', 'busy', 'ShareLock', 'INSERT INTO busy VALUES (2)',
		'CREATE INDEX kept 1 session.*CREATE INDEX CONCURRENTLY' ]);

for my $case (@statements)
{
	my ($what, $statement, $relation, $mode, $waiting, $words) = @$case;
	subtest $what => sub {
		my ($ddl, $waiter) = sessions('ddl', 'waiter');
		# The validation of a foreign key is slow that way.
		$ddl->do('SET enable_hashjoin = off');
		$ddl->do('SET enable_mergejoin = off');
		$ddl->do("SET pg_lockguard.ddl_max_stall = '100ms'");
		$ddl->send($statement);
		await_lock($ddl, $relation, $mode);
		$waiter->send($waiting);
		fails_by_stall($ddl, qr/$words/s, 'the statement');
		is($waiter->error, undef, 'the other goes on');
		is(await_events('stall_cancelled', $ddl), 1, 'an event');
		forget_sessions($ddl, $waiter);
	};
}

subtest 'two statements that keep each other\'s readers waiting' => sub {
	my ($one, $two, $first, $second) = sessions('one', 'two', 'first', 'second');
	$node->safe_psql('postgres', 'CREATE TABLE quiet (id int); INSERT INTO quiet VALUES (1)');
	$one->send($rewrite);
	$two->send('ALTER TABLE quiet ALTER id TYPE bigint USING gate(id)');
	await_lock($one, 'busy');
	await_lock($two, 'quiet');
	$first->send('SELECT * FROM busy, quiet');
	$second->send('SELECT * FROM quiet, busy');
	await_wait($first, $second);
	fails_by_stall($_, qr/kept 1 session waiting|kept 2 sessions waiting/, $_->name) for $one, $two;
	is($_->error, undef, $_->name . ' goes on') for $first, $second;
	is(await_events('stall_cancelled', $one, $two), 2, 'two events');
	forget_sessions($one, $two, $first, $second);
};

subtest 'who ends it otherwise keeps his own words' => sub {
	my ($ddl, $reader) = sessions('ddl', 'reader');
	$ddl->send($rewrite);
	await_lock($ddl, 'busy');
	$reader->send('SELECT * FROM busy');
	await_wait($reader);
	$node->safe_psql('postgres', 'SELECT pg_cancel_backend(' . $ddl->pid . ')');
	like($ddl->error, qr/canceling statement due to user request/, 'a user');
	is($reader->error, undef, 'the reader goes on');
	$ddl->do("SET statement_timeout = '100ms'");
	$ddl->send($rewrite);
	like($ddl->error, qr/canceling statement due to statement timeout/, 'statement_timeout');
	forget_sessions($ddl, $reader);
};

subtest 'the limit is off' => sub {
	my ($ddl, $reader) = sessions('ddl', 'reader');
	$ddl->do('SET pg_lockguard.ddl_max_stall = 0');
	$ddl->send($rewrite);
	await_lock($ddl, 'busy');
	$reader->send('SELECT * FROM busy');
	await_age($reader, 4);
	ok(!$ddl->ready, 'it works on');
	open_gate($node);
	is($_->error, undef, $_->name . ' is done') for $ddl, $reader;
	shut_gate($node);
	$ddl->do('ALTER TABLE busy ALTER id TYPE int');
	forget_sessions($ddl, $reader);
};

subtest 'a statement that does not end when it is asked to' => sub {
	my ($ddl, $reader) = sessions('ddl', 'reader');
	$node->safe_psql(
		'postgres', q{
		CREATE TABLE caught (id int);
		INSERT INTO caught VALUES (1);
		CREATE FUNCTION deaf(int) RETURNS int VOLATILE LANGUAGE plpgsql AS $$
		BEGIN
			FOR i IN 1 .. 2 LOOP
				BEGIN
					PERFORM gate(1);
				EXCEPTION WHEN query_canceled THEN
					NULL;
				END;
			END LOOP;
			RETURN gate($1);
		END $$});
	my $log = -s $node->logfile;
	$ddl->send('ALTER TABLE caught ALTER id TYPE bigint USING deaf(id)');
	await_lock($ddl, 'caught');
	$reader->send('SELECT * FROM caught');
	fails_by_stall($ddl, qr/kept 1 session waiting/, 'at the third time');
	is($reader->error, undef, 'the reader goes on');
	my $again = qr/has not ended its statement yet, and has been asked to again/;
	is_logged($node, qr/$again.*$again/s, 'the log says so each time', $log);
	is(scalar(() = slurp_file($node->logfile, $log) =~ /$again/g), 2, 'and once each');
	is(await_events('stall_cancelled', $ddl), 1, 'one event');
	forget_sessions($ddl, $reader);
};

subtest 'a guarded statement inside another: the outer one is named' => sub {
	my ($ddl, $reader) = sessions('ddl', 'reader');
	$node->safe_psql(
		'postgres', q{
		CREATE TABLE inner_table (id int);
				CREATE FUNCTION truncates(int) RETURNS int VOLATILE LANGUAGE plpgsql AS $$
		BEGIN
			TRUNCATE inner_table, emptied;
			RETURN $1;
		END $$});
	for my $mode ('low_priority', 'lock_timeout')
	{
		$ddl->do("SET pg_lockguard.ddl_mode = $mode");
		$ddl->send('ALTER TABLE busy ALTER id TYPE int USING truncates(id)');
		await_lock($ddl, 'busy');
		$reader->send('SELECT * FROM busy');
		fails_by_stall($ddl, qr/DETAIL:  ALTER TABLE kept 1 session waiting, .* on public\.busy/, $mode);
		is($reader->error, undef, "$mode: the reader goes on");
		is(await_events('stall_cancelled', $ddl), 1, "$mode: one event");
	}
	forget_sessions($ddl, $reader);
};

# There the signal that brings the order says, of the server's own accord, that it shuts down.
subtest 'on a replication connection: that lives on' => sub {
	my $ddl = session($node, 'ddl', replication => 'database');
	my ($reader) = sessions('reader');
	$ddl->send($rewrite);
	await_lock($ddl, 'busy');
	$reader->send('SELECT * FROM busy');
	fails_by_stall($ddl, qr/DETAIL:  ALTER TABLE kept 1 session waiting, .* on public\.busy/, 'the rewrite');
	is($reader->error, undef, 'the reader goes on');
	ok(eval { $ddl->do('SELECT 1'); 1 }, 'the connection goes on') or diag $@;
	ok(!eval { $ddl->do('SELECT 1 / 0'); 1 }, '... and fails');
	is($ddl->sqlstate, '22012', '... by its own error');
	ok(eval { $ddl->do('SELECT 1'); 1 }, '... and goes on all the same') or diag $@;
	events($node, 'stall_cancelled');
	forget_sessions($reader);
	forget_sessions($ddl);
};

ends_well($node);
done_testing();
