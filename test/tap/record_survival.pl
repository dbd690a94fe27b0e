# What the record and the worker survive: SIGTERM and SIGKILL to the worker, reloads in the midst of
# its work, many events at once while others read them, the end of the postmaster.
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
use Time::HiRes qw(usleep);

my $node = start_worker_node(
	'survival',
	q{pg_lockguard.blocker_action = terminate},
	q{pg_lockguard.max_terminations_per_minute = 4},
	q{pg_lockguard.events_max = 40},
	q{restart_after_crash = on});
$node->safe_psql('postgres', 'CREATE TABLE users (id int); GRANT ALL ON users TO PUBLIC');
my $terminations = 'SELECT terminations FROM pg_stat_lockguard';
my $events = q{SELECT count(*) FROM pg_lockguard_events WHERE kind = 'blocker_terminated'};

sub value { return LockGuard::observer($node)->value(@_) }

# The worker ends a session, and has counted and recorded that.
sub work
{
	my ($what) = @_;
	my $holder = session($node, 'holder', user => 'app');
	my $ddl = session($node, 'ddl');
	$holder->do('BEGIN; SELECT FROM users');
	$ddl->send('ALTER TABLE users ADD COLUMN IF NOT EXISTS n int');
	is($ddl->error, undef, $what);
	event($holder, 'blocker_terminated');
	forget_sessions($holder, $ddl);
	return;
}

my $worker = worker_pid($node);

subtest 'the worker works' => sub {
	work('the worker works');
	is(value($terminations), 1, 'one session is ended');
	is(value($events), 1, '... and recorded');
};

subtest 'SIGTERM: a new worker, the same record' => sub {
	value("SELECT pg_terminate_backend($worker)");
	$worker = worker_pid($node, $worker);
	work('SIGTERM: a new worker works');
	is(value($terminations), 2, '... the counters go on');
	is(value($events), 2, '... and so does the record');
};

subtest 'reloads, in the midst of everything' => sub {
	for my $round (1 .. 20)
	{
		$node->safe_psql('postgres', 'ALTER SYSTEM SET pg_lockguard.worker_interval = '
			  . ($round % 2 ? q{'1h'} : q{'20ms'}) . '; SELECT pg_reload_conf()');
	}
	is(worker_pid($node), $worker, 'reloads: the same worker');
	work('... works');
	is(value('SELECT errors FROM pg_stat_lockguard'), 0, '... without an error');
	is(value($terminations), 3, 'three in this minute');
};

# With the next one there are four in a minute, and that is all.
subtest 'SIGTERM does not reset the fuse' => sub {
	value("SELECT pg_terminate_backend($worker)");
	$worker = worker_pid($node, $worker);
	work('the fourth');
	my $holder = session($node, 'holder', user => 'app');
	my $ddl = session($node, 'ddl');
	$holder->do('BEGIN; SELECT FROM users');
	$ddl->send('ALTER TABLE users ADD COLUMN IF NOT EXISTS n int');
	await($node, 'the fuse', q{SELECT fuses_blown = 1 FROM pg_stat_lockguard});
	is(value($terminations), 4, 'the fuse counts what an earlier worker has done');
	$holder->do('COMMIT');
	is($ddl->error, undef, '... and the session goes on');
	forget_sessions($holder, $ddl);
};

subtest 'SIGKILL: the server starts its shared memory anew' => sub {
	configure($node, max_terminations_per_minute => '1000');
	kill 'KILL', $worker;
	$node->wait_for_log(qr/all server processes terminated; reinitializing/);
	$node->poll_query_until('postgres', 'SELECT true') or die 'the server does not come back';
	is(value($events), 0, 'SIGKILL: the record starts anew');
	is(value($terminations), 0, '... and so do the counters');
	is( value(q{SELECT stats_reset > pg_postmaster_start_time() FROM pg_stat_lockguard}),
		1, '... which stats_reset tells');
	worker_pid($node, $worker);
	work('... a new worker works');
};

subtest 'many events at once, and the ring wraps under its readers' => sub {
	# More tables than a session folds repeats for.
	my $tables = 70;
	$node->safe_psql('postgres', qq{
		DO \$\$ BEGIN FOR i IN 0 .. $tables - 1 LOOP EXECUTE 'CREATE TABLE busy_' || i || ' (id int)'; END LOOP; END \$\$;
		CREATE FUNCTION hold() RETURNS void LANGUAGE plpgsql AS \$\$ BEGIN
			FOR i IN 0 .. $tables - 1 LOOP EXECUTE format('LOCK TABLE busy_%s IN ACCESS SHARE MODE', i); END LOOP;
		END \$\$});
	$node->safe_psql('postgres', q{
		CREATE FUNCTION time_out(times int) RETURNS int LANGUAGE plpgsql
		SET pg_lockguard.ddl_mode = lock_timeout SET pg_lockguard.ddl_lock_timeout = '1ms' AS $$
		DECLARE
			failed int := 0;
		BEGIN
			FOR i IN 1 .. times LOOP
				BEGIN
					EXECUTE format('ALTER TABLE busy_%s ADD COLUMN n int', i % 70);
				EXCEPTION WHEN lock_not_available THEN
					failed := failed + 1;
				END;
			END LOOP;
			RETURN failed;
		END $$});
	configure($node, blocker_action => 'off');
	my $holder = session($node, 'holder');
	$holder->do('BEGIN; SELECT hold()');
	my ($writers, $times) = (4, 300);
	my @writers = map { session($node, "writer$_") } 1 .. $writers;
	my $reader = session($node, 'reader');
	my $first = $reader->value('SELECT max(id) FROM pg_lockguard_events');
	my $statistics = $reader->value('SELECT timeouts_lock FROM pg_stat_lockguard');
	my %busy = map { $_->{name} => $_->{object} } $reader->rows(q{
		SELECT 'public.' || relname AS name, format('relation %s of database %s', c.oid, d.oid) AS object
		FROM pg_class c, pg_database d WHERE relname LIKE 'busy%' AND datname = current_database()});
	my %name = map { $_->pid => $_->name } @writers;
	$_->send("SELECT time_out($times)") for @writers;
	my ($reads, $rows, %faults, %seen) = (0, 0);
	do
	{
		my $last = 0;
		for my $event ($reader->rows("SELECT * FROM pg_lockguard_events WHERE id > $first AND kind LIKE 'ddl%'"))
		{
			$rows++;
			$seen{ $event->{id} } = 1;
			$faults{'not in order'}++ if $event->{id} <= $last;
			$last = $event->{id};
			# Everything in an entry is of the same writer.
			my $name = $name{ $event->{pid} } // 'nobody';
			$faults{'another application_name'}++ if $event->{application_name} ne $name;
			$faults{'another tree'}++
			  if $event->{lock_tree} !~ /\A@{[$holder->pid]} "holder"\n.* $event->{pid} "$name" wants AccessExclusiveLock on $busy{$event->{relation}} for \S+ m?s\z/;
			$faults{'another blocker'}++ if $event->{blocker_pid} != $holder->pid;
			$faults{'another query'}++ if $event->{blocker_query} ne 'BEGIN; SELECT hold()';
			$faults{'too many'}++ if $last - ($event->{id}) > 40;
		}
		$reads++;
	} while (grep { !$_->ready } @writers);
	is($_->error, undef, 'a writer comes to its end') for @writers;
	is_deeply(\%faults, {}, 'entries are whole') or diag explain \%faults;
	cmp_ok($rows, '>', 40, 'there were more than the ring holds');
	my ($statistic) = $reader->rows('SELECT timeouts_lock, events_lost FROM pg_stat_lockguard');
	my $timeouts = $statistic->{timeouts_lock} - $statistics;
	my ($after) = $reader->rows(q{SELECT count(*) AS count, max(id) AS newest
		FROM pg_lockguard_events WHERE kind LIKE 'ddl%'});
	cmp_ok($timeouts, '>', $writers * $times / 2, 'most attempts timed out');
	is($after->{newest} - $first, $timeouts, 'each is an event');
	is($after->{count} + 0, 30, "the guard's ring is full") if $statistic->{events_lost} == 0;
	note "$reads reads, $rows rows, " . keys(%seen) . " of $timeouts events seen, $statistic->{events_lost} lost";
	forget_sessions($holder, @writers, $reader);
};

subtest 'the end of the postmaster' => sub {
	configure($node, blocker_action => 'log');
	$worker = worker_pid($node);
	my @processes = LockGuard::processes_of($node);
	$node->kill9;
	for (my $i = 0; $i < 10 * $PostgreSQL::Test::Utils::timeout_default && kill(0, $worker); $i++)
	{
		usleep(100_000);
	}
	ok(!kill(0, $worker), 'the worker ends with the postmaster');
	LockGuard::await_processes_end(@processes);
	$node->start;
	worker_pid($node);
	pass('... and is there again with the next');
	is(value('SELECT count(*) FROM pg_lockguard_events'), 0, '... with an empty record');
};

forget_sessions();
$node->stop;
my $log = slurp_file($node->logfile);
unlike($log, qr/PANIC|TRAP:/, 'no assertion failed');
is(scalar(my @crashes = $log =~ /was terminated by signal/g), 1, 'no crash but the one that was asked for');
done_testing();
