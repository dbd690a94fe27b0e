# What the record and the worker survive: SIGTERM and SIGKILL to the worker, reloads in the midst of
# its work, many events at once while others read them, the end of the postmaster.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use LockGuard;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $node = PostgreSQL::Test::Cluster->new('survival');
$node->init;
$node->append_conf(
	'postgresql.conf', q{
	shared_preload_libraries = 'pg_lockguard'
	pg_lockguard.ddl_mode = off
	pg_lockguard.worker_interval = 20ms
	pg_lockguard.blocker_min_idle = 0
	pg_lockguard.blocker_min_wait = 0
	pg_lockguard.blocker_action = terminate
	pg_lockguard.max_terminations_per_minute = 4
	pg_lockguard.events_max = 40
	autovacuum = off
	restart_after_crash = on
	deadlock_timeout = 1h
});
$node->start;
$node->safe_psql(
	'postgres', q{
	CREATE EXTENSION pg_lockguard;
	CREATE ROLE app LOGIN;
	CREATE TABLE users (id int);
	GRANT ALL ON users TO PUBLIC;
});

sub value { return $node->safe_psql('postgres', $_[0]) }

sub wait_for
{
	my ($what, $condition) = @_;
	$node->poll_query_until('postgres', $condition) or die "timed out: $what";
	return;
}

sub worker
{
	my ($not) = @_;
	my $others = "FROM pg_stat_activity WHERE backend_type = 'pg_lockguard worker' AND pid <> " . ($not // 0);
	wait_for('a worker', "SELECT count(*) = 1 $others");
	return value("SELECT pid $others");
}

# The worker ends a session.
sub work
{
	my ($what) = @_;
	my $holder = LockGuard::Session->new($node, 'holder', user => 'app');
	my $ddl = LockGuard::Session->new($node, 'ddl');
	$holder->do('BEGIN; SELECT FROM users');
	$ddl->send('ALTER TABLE users ADD COLUMN IF NOT EXISTS n int');
	is($ddl->error, undef, $what);
	$_->{dbh}->disconnect for $holder, $ddl;
	return;
}

my $worker = worker();
work('the worker works');
my $terminations = 'SELECT terminations FROM pg_stat_lockguard';
my $events = q{SELECT count(*) FROM pg_lockguard_events WHERE kind = 'blocker_terminated'};
is(value($terminations), 1, 'one session is ended');
is(value($events), 1, '... and recorded');

# ---- SIGTERM: a new worker, the same record, the same fuses

value("SELECT pg_terminate_backend($worker)");
$worker = worker($worker);
work('SIGTERM: a new worker works');
is(value($terminations), 2, '... the counters go on');
is(value($events), 2, '... and so does the record');

# ---- An idle worker is woken by a reload, in the midst of everything

for my $round (1 .. 20)
{
	$node->safe_psql('postgres', 'ALTER SYSTEM SET pg_lockguard.worker_interval = '
		  . ($round % 2 ? q{'1h'} : q{'20ms'}) . '; SELECT pg_reload_conf()');
}
is(worker(), $worker, 'reloads: the same worker');
work('... works');
is(value('SELECT errors FROM pg_stat_lockguard'), 0, '... without an error');
is(value($terminations), 3, 'three in this minute');

# ---- SIGTERM does not reset the fuse: with the next one there are four in a minute, and that is all.

value("SELECT pg_terminate_backend($worker)");
$worker = worker($worker);
work('the fourth');
{
	my $holder = LockGuard::Session->new($node, 'holder', user => 'app');
	my $ddl = LockGuard::Session->new($node, 'ddl');
	$holder->do('BEGIN; SELECT FROM users');
	$ddl->send('ALTER TABLE users ADD COLUMN IF NOT EXISTS n int');
	wait_for('the fuse', q{SELECT fuses_blown = 1 FROM pg_stat_lockguard});
	is(value($terminations), 4, 'the fuse counts what an earlier worker has done');
	$holder->do('COMMIT');
	is($ddl->error, undef, '... and the session goes on');
	$_->{dbh}->disconnect for $holder, $ddl;
}

# ---- SIGKILL: the server starts its shared memory anew

$node->safe_psql('postgres', 'ALTER SYSTEM SET pg_lockguard.max_terminations_per_minute = 1000');
$node->reload;
kill 'KILL', $worker;
$node->wait_for_log(qr/all server processes terminated; reinitializing/);
wait_for('the server is back', 'SELECT true');
is(value($events), 0, 'SIGKILL: the record starts anew');
is(value($terminations), 0, '... and so do the counters');
is( value(q{SELECT stats_reset > pg_postmaster_start_time() FROM pg_stat_lockguard}),
	't', '... which stats_reset tells');
worker($worker);
work('... a new worker works');

# ---- Many events at once, and the ring wraps under its readers

{
	$node->safe_psql('postgres', q{
		CREATE TABLE busy (id int);
		CREATE FUNCTION time_out(times int) RETURNS int LANGUAGE plpgsql
		SET pg_lockguard.ddl_mode = lock_timeout SET pg_lockguard.ddl_lock_timeout = '1ms' AS $$
		DECLARE
			failed int := 0;
		BEGIN
			FOR i IN 1 .. times LOOP
				BEGIN
					ALTER TABLE busy ADD COLUMN n int;
				EXCEPTION WHEN lock_not_available THEN
					failed := failed + 1;
				END;
			END LOOP;
			RETURN failed;
		END $$});
	$node->safe_psql('postgres', q{ALTER SYSTEM SET pg_lockguard.blocker_action = 'off'});
	$node->reload;
	my $holder = LockGuard::Session->new($node, 'holder');
	$holder->do('BEGIN; SELECT FROM busy');
	my ($writers, $times) = (4, 300);
	my @writers = map { LockGuard::Session->new($node, "writer$_") } 1 .. $writers;
	my $reader = LockGuard::Session->new($node, 'reader');
	my $first = $reader->value('SELECT max(id) FROM pg_lockguard_events');
	my $statistics = $reader->value('SELECT timeouts_lock FROM pg_stat_lockguard');
	my $busy = $reader->value(q{SELECT format('relation %s of database %s', 'busy'::regclass::oid, oid)
		FROM pg_database WHERE datname = current_database()});
	my %name = map { $_->pid => $_->name } @writers;
	$_->send("SELECT time_out($times)") for @writers;
	my ($reads, $rows, %faults, %seen) = (0, 0);
	do
	{
		my $last = 0;
		for my $event ($reader->rows("SELECT * FROM pg_lockguard_events WHERE id > $first"))
		{
			$rows++;
			$seen{ $event->{id} } = 1;
			$faults{'not in order'}++ if $event->{id} <= $last;
			$last = $event->{id};
			# Everything in an entry is of the same writer.
			my $name = $name{ $event->{pid} } // 'nobody';
			$faults{'another application_name'}++ if $event->{application_name} ne $name;
			$faults{'another tree'}++
			  if $event->{lock_tree} !~ /\A@{[$holder->pid]} "holder"\n.* $event->{pid} "ALTER TABLE" wants AccessExclusiveLock on $busy for \S+ ms\z/;
			$faults{'another blocker'}++ if $event->{blocker_pid} != $holder->pid;
			$faults{'another query'}++ if $event->{blocker_query} ne 'BEGIN; SELECT FROM busy';
			$faults{'too many'}++ if $last - ($event->{id}) > 40;
		}
		$reads++;
	} while (grep { !$_->ready } @writers);
	is($_->error, undef, 'a writer comes to its end') for @writers;
	is_deeply(\%faults, {}, 'entries are whole') or diag explain \%faults;
	cmp_ok($rows, '>', 40, 'there were more than the ring holds');
	my ($statistic) = $reader->rows('SELECT timeouts_lock, events_lost FROM pg_stat_lockguard');
	my $timeouts = $statistic->{timeouts_lock} - $statistics;
	my ($after) = $reader->rows('SELECT count(*) AS count, max(id) AS newest FROM pg_lockguard_events');
	cmp_ok($timeouts, '>', $writers * $times / 2, 'most attempts timed out');
	is($after->{newest} - $first, $timeouts, 'each is an event');
	is($after->{count} + 0, 40, 'the ring is full') if $statistic->{events_lost} == 0;
	note "$reads reads, $rows rows, " . keys(%seen) . " of $timeouts events seen, $statistic->{events_lost} lost";
	$_->{dbh}->disconnect for $holder, @writers, $reader;
}

# ---- The end of the postmaster

$node->safe_psql('postgres', q{ALTER SYSTEM SET pg_lockguard.blocker_action = 'log'});
$node->reload;
$worker = worker();
$node->kill9;
for (my $i = 0; $i < 10 * $PostgreSQL::Test::Utils::timeout_default && kill(0, $worker); $i++)
{
	usleep(100_000);
}
ok(!kill(0, $worker), 'the worker ends with the postmaster');
$node->start;
worker();
pass('... and is there again with the next');
is(value('SELECT count(*) FROM pg_lockguard_events'), 0, '... with an empty record');
$node->stop;
my $log = slurp_file($node->logfile);
unlike($log, qr/PANIC|TRAP:/, 'no assertion failed');
is(scalar(my @crashes = $log =~ /was terminated by signal/g), 1, 'no crash but the one that was asked for');
done_testing();
