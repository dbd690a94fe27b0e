# The record: what stands in pg_lockguard_events, for whom, and how the ring behaves.
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

my $node = start_worker_node('events', q{pg_lockguard.events_max = 30});
$node->safe_psql(
	'postgres', q{
	CREATE ROLE plain LOGIN;
	CREATE ROLE reader LOGIN;
	GRANT pg_monitor TO reader;
	CREATE TABLE users (id int);
	GRANT ALL ON users TO PUBLIC;
	CREATE DATABASE other;
});
$node->safe_psql('other', 'CREATE EXTENSION pg_lockguard');
my $relation = $node->safe_psql('postgres', q{SELECT 'users'::regclass::oid});
my $database = $node->safe_psql('postgres', q{SELECT oid FROM pg_database WHERE datname = 'postgres'});
my $observer = LockGuard::observer($node);

is($observer->value('SELECT count(*) FROM pg_lockguard_events'), 0, 'at first there is no event');

my $holder = session($node, 'sidekiq', user => 'app');
my $ddl = session($node, 'migrate');
my $terminated;

subtest 'a rehearsal, and its end' => sub {
	configure($node, blocker_action => 'log');
	$holder->do('BEGIN');
	$holder->do(q{SELECT id FROM users /* a secret */});
	$ddl->send('ALTER TABLE users ADD COLUMN n int');
	my $logged = event($holder, 'blocker_logged');
	is_deeply(
		{
			map { $_ => $logged->{$_} }
			  qw(pid datname usename application_name command relation lock_mode stall attempts
			  blocker_usename blocker_application_name blocker_state blocker_query reason past)
		},
		{
			pid => $ddl->pid,
			datname => 'postgres',
			usename => $observer->value('SELECT current_user'),
			application_name => 'migrate',
			command => 'ALTER TABLE',
			relation => 'public.users',
			lock_mode => 'AccessExclusiveLock',
			stall => undef,
			attempts => undef,
			blocker_usename => 'app',
			blocker_application_name => 'sidekiq',
			blocker_state => 'idle in transaction',
			blocker_query => 'SELECT id FROM users /* a secret */',
			reason => undef,
			past => 1,
		},
		'blocker_logged: who blocked whom');
	ok(defined $logged->{$_}, "blocker_logged: $_") for qw(waited blocker_idle);
	my $tree = $logged->{lock_tree};
	utf8::decode($tree) unless utf8::is_utf8($tree);
	like(
		$tree,
		qr/\A@{[$holder->pid]} "sidekiq"\n\x{2514}\x{2500} @{[$ddl->pid]} "migrate" wants AccessExclusiveLock on relation $relation of database $database for \S+ \S+\z/,
		'blocker_logged: the tree of that moment');
	$holder->do('COMMIT');
	is(await_end($ddl), undef, 'the statement gets its lock');
	my $resolved = event($holder, 'blocker_resolved');
	like($resolved->{reason}, qr/^event $logged->{id}: it ended its transaction by itself after \d/,
		'blocker_resolved: it committed');
	cmp_ok($resolved->{id}, '>', $logged->{id}, 'newest last');
};

subtest 'a session that goes on, and a statement that gives up' => sub {
	# It goes on within the transaction.
	$holder->do('BEGIN; SELECT id FROM users');
	$ddl->send('ALTER TABLE users ADD COLUMN o int');
	my $logged = event($holder, 'blocker_logged');
	$holder->do('SELECT 1');
	await($node, 'a second event', q{SELECT EXISTS (SELECT FROM pg_lockguard_events
		WHERE kind = 'blocker_resolved' AND reason LIKE ?)}, "event $logged->{id}: it went on by itself after %");
	pass('blocker_resolved: it went on');
	# Still the same transaction, idle anew: another case.
	await($node, 'the next rehearsal', q{SELECT EXISTS (SELECT FROM pg_lockguard_events
		WHERE kind = 'blocker_logged' AND id > ?)}, $logged->{id});
	# The statement gives up.
	$observer->value('SELECT pg_cancel_backend(?)', $ddl->pid);
	like(await_end($ddl), qr/canceling statement due to user request/, 'the statement is canceled');
	await($node, 'the rehearsal ends', q{SELECT EXISTS (SELECT FROM pg_lockguard_events
		WHERE kind = 'blocker_resolved' AND reason LIKE '%: the request that it blocked was given up after %')});
	pass('blocker_resolved: the request was given up');
	$holder->do('COMMIT');
};

subtest 'a termination' => sub {
	configure($node, blocker_action => 'terminate');
	$holder->do('BEGIN; SELECT id FROM users');
	$ddl->send('ALTER TABLE users ADD COLUMN p int');
	$terminated = event($holder, 'blocker_terminated');
	is($terminated->{relation}, 'public.users', 'blocker_terminated: the relation');
	is($terminated->{pid}, $ddl->pid, 'blocker_terminated: for whom');
	is(await_end($ddl), undef, 'the statement gets its lock');
};

subtest 'who may see what' => sub {
	my @masked = qw(blocker_state blocker_idle blocker_query);
	for my $case ([ plain => 0 ], [ app => 1 ], [ reader => 1 ])
	{
		my ($role, $sees) = @$case;
		my $viewer = session($node, $role, user => $role);
		my ($event) =
		  $viewer->rows('SELECT * FROM pg_lockguard_events WHERE id = ?', $terminated->{id});
		is($event->{lock_tree}, $terminated->{lock_tree}, "$role: the tree");
		is($event->{blocker_application_name}, 'sidekiq', "$role: the application");
		if ($sees)
		{
			is($event->{$_}, $terminated->{$_}, "$role: $_") for @masked;
		}
		else
		{
			is($event->{blocker_query}, '<insufficient privilege>', "$role: no query");
			is($event->{$_}, undef, "$role: no $_") for qw(blocker_state blocker_idle);
		}
	}
	is( $node->safe_psql('other',
			"SELECT relation FROM pg_lockguard_events WHERE id = $terminated->{id}"),
		"relation $relation of database $database",
		'from another database: OIDs');
};

subtest 'a guarded statement that times out' => sub {
	my $keeper = session($node, 'keeper', user => 'app');
	configure($node, blocker_action => 'off');
	$keeper->do('BEGIN; SELECT id FROM users');
	my $guarded = session($node, 'guarded');
	$guarded->do(q{SET pg_lockguard.ddl_mode = lock_timeout});
	$guarded->do(q{SET pg_lockguard.ddl_lock_timeout = '50ms'});
	like($guarded->send('ALTER TABLE users ADD COLUMN q int')->error,
		qr/canceling statement due to lock timeout/, 'a guarded statement times out');
	my $event = event($keeper, 'ddl_timeout');
	is($event->{pid}, $guarded->pid, 'ddl_timeout: the statement');
	is($event->{command}, 'ALTER TABLE', 'ddl_timeout: the command');
	is($event->{relation}, 'public.users', 'ddl_timeout: the relation');
	is($event->{blocker_state}, 'idle in transaction', "ddl_timeout: the blocker's state");
	is($event->{attempts}, 1, 'ddl_timeout: attempts');
	ok(defined $event->{waited}, 'ddl_timeout: how long it waited');
	like($event->{lock_tree}, qr/\A@{[$keeper->pid]} "keeper"\n.* @{[$guarded->pid]} /,
		'ddl_timeout: the tree');
	forget_sessions($keeper, $guarded);
};

subtest 'the ring keeps the newest' => sub {
	# Each rehearsal is an event, and its end is another: two a round.
	configure($node, blocker_action => 'log');
	my $chatty = session($node, 'chatty', user => 'app');
	for my $round (1 .. 20)
	{
		$chatty->do('BEGIN; SELECT id FROM users');
		$ddl->send('ALTER TABLE users ALTER COLUMN id DROP DEFAULT');
		event($chatty, 'blocker_logged');
		$chatty->do('COMMIT');
		await_end($ddl);
		await($node, 'the end of the rehearsal', q{SELECT kind = 'blocker_resolved'
			FROM pg_lockguard_events ORDER BY id DESC LIMIT 1});
	}
	my ($ring) = $observer->rows(q{SELECT count(*) AS count, max(id) - min(id) AS span,
		min(id) AS first, array_agg(id) = array_agg(id ORDER BY id) AS sorted FROM pg_lockguard_events
		WHERE kind LIKE 'blocker%'});
	is($ring->{count}, 7, 'the ring keeps what the worker did, to a quarter of events_max');
	is($ring->{span}, 6, '... the newest, without a gap');
	is($observer->value('SELECT array_agg(id) = array_agg(id ORDER BY id) FROM pg_lockguard_events'), 1, '... beside what the guard did');
	cmp_ok($ring->{first}, '>', 10, '... others are overwritten');
	is($ring->{sorted}, 1, '... newest last');
	configure($node, blocker_action => 'off');
};

ends_well($node);
done_testing();
