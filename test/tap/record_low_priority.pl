# What the record says of statements that wait at low priority, and that the worker knows of them: it
# is woken when one begins to wait, and ends who is in its way.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LockGuard;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node(
	'record',
	q{shared_preload_libraries = 'pg_lockguard'},
	q{pg_lockguard.ddl_mode = low_priority},
	q{pg_lockguard.worker_interval = 1h},
	q{pg_lockguard.blocker_min_idle = 0},
	q{pg_lockguard.blocker_min_wait = '300ms'});
$node->safe_psql(
	'postgres', q{
	CREATE ROLE app LOGIN;
	CREATE TABLE users (id int);
	GRANT ALL ON users TO PUBLIC;
});
my $observer = LockGuard::observer($node);

my $ddl = session($node, 'migrate');
my $holder = session($node, 'sidekiq', user => 'app');

sub events
{
	return $observer->rows('SELECT * FROM pg_lockguard_events ORDER BY id');
}

subtest 'a statement with nothing in its way' => sub {
	$ddl->do('ALTER TABLE users ADD COLUMN a int');
	is(scalar(my @none = events()), 0, 'nothing in the way: no event');
	is(statistics($node)->{statements_immediate}, 1, '... one statement that did not wait');
	is(statistics($node)->{statements}, 1, '... of one');
};

subtest 'one that waits and gets its locks' => sub {
	$holder->do('BEGIN; SELECT id FROM users');
	$ddl->send('ALTER TABLE users ADD COLUMN b int');
	await($node, 'it waits', q{SELECT EXISTS (SELECT FROM pg_lockguard_events WHERE kind = 'ddl_waited')});
	is(statistics($node)->{statements_waited}, 1, 'it waits, and is counted');
	$holder->do('COMMIT');
	is(await_end($ddl), undef, 'it gets its locks');
	my ($waited, $acquired, @more) = events();
	is_deeply([ map { $_->{kind} } $waited, $acquired, @more ], [ 'ddl_waited', 'ddl_acquired' ],
		'two events');
	is($_->{pid}, $ddl->pid, "$_->{kind}: the statement") for $waited, $acquired;
	is($_->{relation}, 'public.users', "$_->{kind}: the relation") for $waited, $acquired;
	is($waited->{blocker_pid}, $holder->pid, 'ddl_waited: for whom');
	is($waited->{blocker_query}, 'BEGIN; SELECT id FROM users', 'ddl_waited: the query');
	like($waited->{lock_tree}, qr/\A@{[$holder->pid]} "sidekiq"\n\S+ @{[$ddl->pid]} "migrate" wants AccessExclusiveLock/, 'ddl_waited: the tree');
	is($observer->value('SELECT ?::interval <= ?', $waited->{waited}, $acquired->{waited}), 1,
		'ddl_acquired: how long it waited');
	my $statistics = statistics($node);
	cmp_ok($statistics->{wait_time}, '>', 0, 'the time is counted');
	is($statistics->{max_wait_time}, $statistics->{wait_time}, '... of one statement');
};

subtest 'one that gives up' => sub {
	$holder->do('BEGIN; SELECT id FROM users');
	$ddl->do(q{SET pg_lockguard.ddl_max_wait = '50ms'});
	like($ddl->send('ALTER TABLE users ADD COLUMN c int')->error, qr/canceling statement due to lock timeout/,
		'ddl_max_wait');
	my $timeout = (events())[-1];
	is($timeout->{kind}, 'ddl_timeout', '... is an event');
	is($timeout->{blocker_pid}, $holder->pid, '... with who was in the way');
	cmp_ok($timeout->{attempts}, '>', 0, '... and the attempts');
	is(statistics($node)->{timeouts_total}, 1, '... and counted');
	is(statistics($node)->{timeouts_lock}, 0, '... by its cause');
};

subtest 'one that ends who is in its way' => sub {
	$ddl->do(q{SET pg_lockguard.ddl_on_timeout = terminate});
	is($ddl->send('ALTER TABLE users ADD COLUMN d int')->error, undef, 'ddl_on_timeout = terminate');
	my ($ended) = grep { $_->{kind} eq 'ddl_blocker_terminated' } events();
	is($ended->{blocker_pid}, $holder->pid, '... is an event');
	is(statistics($node)->{ddl_terminations}, 1, '... and counted');
	forget_sessions($holder);
};

subtest 'the worker is woken by a statement that waits' => sub {
	$ddl->do('RESET pg_lockguard.ddl_max_wait; RESET pg_lockguard.ddl_on_timeout');
	configure($node, blocker_action => 'terminate');
	await($node, 'the worker has read its settings', 'SELECT looks > 0 FROM pg_stat_lockguard');
	$holder = session($node, 'sidekiq', user => 'app');
	$holder->do('BEGIN; SELECT id FROM users');
	# Nothing but the statement itself tells the worker to look before an hour is over.
	$ddl->send('ALTER TABLE users ADD COLUMN e int');
	is(await_end($ddl), undef, 'the worker is woken, and ends who is in the way when it is due');
	await($node, 'the event', q{SELECT EXISTS (SELECT FROM pg_lockguard_events WHERE kind = 'blocker_terminated')});
	my ($terminated) = grep { $_->{kind} eq 'blocker_terminated' } events();
	is($terminated->{pid}, $ddl->pid, '... for the statement');
	is($terminated->{blocker_pid}, $holder->pid, '... the session that was in its way');
	is($observer->value(q{SELECT ?::interval >= '300 ms'}, $terminated->{waited}), 1, '... not before blocker_min_wait');
};

ends_well([$node], qr/exited with exit code/);
done_testing();
