# The record: what stands in pg_lockguard_events and in the server log, for whom, and how the ring
# behaves when it is written faster than it is read.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use JSON::PP;
use LockGuard;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $node = start_node(
	'events',
	q{shared_preload_libraries = 'pg_lockguard'},
	q{pg_lockguard.ddl_mode = off},
	q{pg_lockguard.worker_interval = 20ms},
	q{pg_lockguard.blocker_min_idle = 0},
	q{pg_lockguard.blocker_min_wait = 0},
	q{pg_lockguard.max_terminations_per_minute = 1000},
	q{pg_lockguard.events_max = 30});
$node->safe_psql(
	'postgres', q{
	CREATE ROLE app LOGIN;
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

sub configure
{
	my %setting = @_;
	$node->safe_psql('postgres', "ALTER SYSTEM SET pg_lockguard.$_ = '$setting{$_}'")
	  for sort keys %setting;
	$node->reload;
}

# Waits for an event about this session, newer than the latest that this returned, and returns it, as
# a hash.
my $latest = 0;

sub event
{
	my ($kind, $blocker) = @_;
	my $newer = 'FROM pg_lockguard_events WHERE kind = ? AND blocker_pid = ? AND id > ?';
	my @values = ($kind, $blocker->pid, $latest);
	await($node, "$kind about " . $blocker->name, "SELECT EXISTS (SELECT $newer)", @values);
	my ($event) = $observer->rows(
		"SELECT *, at <= clock_timestamp() AS past $newer ORDER BY id LIMIT 1", @values);
	$latest = $event->{id};
	return $event;
}

is($observer->value('SELECT count(*) FROM pg_lockguard_events'), 0, 'at first there is no event');

# ---- A rehearsal, and how it ends

my $holder = session($node, 'sidekiq', user => 'app');
my $ddl = session($node, 'migrate');
configure(blocker_action => 'log');
$holder->do('BEGIN');
$holder->do(q{SELECT id FROM users /* a secret */});
$ddl->send('ALTER TABLE users ADD COLUMN n int');
my $logged = event('blocker_logged', $holder);
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
my $resolved = event('blocker_resolved', $holder);
like($resolved->{reason}, qr/^event $logged->{id}: it ended its transaction by itself after \d/,
	'blocker_resolved: it committed');
cmp_ok($resolved->{id}, '>', $logged->{id}, 'newest last');

# It goes on within the transaction.
$holder->do('BEGIN; SELECT id FROM users');
$ddl->send('ALTER TABLE users ADD COLUMN o int');
$logged = event('blocker_logged', $holder);
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

# ---- A termination

configure(blocker_action => 'terminate');
$holder->do('BEGIN; SELECT id FROM users');
$ddl->send('ALTER TABLE users ADD COLUMN p int');
my $terminated = event('blocker_terminated', $holder);
is($terminated->{relation}, 'public.users', 'blocker_terminated: the relation');
is($terminated->{pid}, $ddl->pid, 'blocker_terminated: for whom');
is(await_end($ddl), undef, 'the statement gets its lock');

# ---- Who may see what

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

# ---- The guard's timeouts

{
	my $keeper = session($node, 'keeper', user => 'app');
	configure(blocker_action => 'off');
	$keeper->do('BEGIN; SELECT id FROM users');
	my $guarded = session($node, 'guarded');
	$guarded->do(q{SET pg_lockguard.ddl_mode = lock_timeout});
	$guarded->do(q{SET pg_lockguard.ddl_lock_timeout = '50ms'});
	like($guarded->send('ALTER TABLE users ADD COLUMN q int')->error,
		qr/canceling statement due to lock timeout/, 'a guarded statement times out');
	my $event = event('ddl_timeout', $keeper);
	is($event->{pid}, $guarded->pid, 'ddl_timeout: the statement');
	is($event->{command}, 'ALTER TABLE', 'ddl_timeout: the command');
	is($event->{relation}, 'public.users', 'ddl_timeout: the relation');
	is($event->{blocker_state}, 'idle in transaction', "ddl_timeout: the blocker's state");
	is($event->{attempts}, 1, 'ddl_timeout: attempts');
	ok(defined $event->{waited}, 'ddl_timeout: how long it waited');
	like($event->{lock_tree}, qr/\A@{[$keeper->pid]} "keeper"\n.* @{[$guarded->pid]} /,
		'ddl_timeout: the tree');
	forget_sessions($keeper, $guarded);
}

# ---- The ring

{
	# Each rehearsal is an event, and its end is another: two a round.
	configure(blocker_action => 'log');
	my $chatty = session($node, 'chatty', user => 'app');
	for my $round (1 .. 20)
	{
		$chatty->do('BEGIN; SELECT id FROM users');
		$ddl->send('ALTER TABLE users ALTER COLUMN id DROP DEFAULT');
		event('blocker_logged', $chatty);
		$chatty->do('COMMIT');
		await_end($ddl);
		await($node, 'the end of the rehearsal', q{SELECT kind = 'blocker_resolved'
			FROM pg_lockguard_events ORDER BY id DESC LIMIT 1});
	}
	my ($ring) = $observer->rows(q{SELECT count(*) AS count, max(id) - min(id) AS span,
		min(id) AS first, array_agg(id) = array_agg(id ORDER BY id) AS sorted FROM pg_lockguard_events});
	is($ring->{count}, 30, 'the ring keeps events_max');
	is($ring->{span}, 29, '... the newest, without a gap');
	cmp_ok($ring->{first}, '>', 10, '... others are overwritten');
	is($ring->{sorted}, 1, '... newest last');
	configure(blocker_action => 'off');
}

# ---- The durable copy

sub logged_events
{
	my $log = slurp_file($node->logfile);
	return $log =~ /LOG:  pg_lockguard event: (.*)$/mg;
}
is(scalar(my @none = logged_events()), 0, 'log_events = none: no line');

sub provoke
{
	my ($name) = @_;
	my $victim = session($node, 'victim', user => 'app');
	$victim->do("SET application_name = '$name'");
	$victim->do('BEGIN; SELECT id FROM users');
	$ddl->send('ALTER TABLE users ALTER COLUMN id DROP DEFAULT');
	my $event = event('blocker_logged', $victim);
	$victim->do('COMMIT');
	await_end($ddl);
	event('blocker_resolved', $victim);
	return ($victim, $event);
}

configure(blocker_action => 'log', log_events => 'actions');
my ($victim, $event) = provoke('say "hi" \\ there');
my @lines = logged_events();
is(scalar @lines, 1, 'log_events = actions: a line for the rehearsal, none for its end');
my $pid = $victim->pid;
like(
	$lines[0],
	qr/^kind=blocker_logged id=$event->{id} pid=@{[$ddl->pid]} database="postgres" user="\w+" application="migrate" command="ALTER TABLE" relation="relation $relation of database $database" lock_mode="AccessExclusiveLock" waited_ms=\d+\.\d{3} blocker_pid=$pid blocker_user="app" blocker_application="say \\"hi\\" \\\\ there" blocker_state="idle in transaction" blocker_idle_ms=\d+\.\d{3}$/,
	'... with all that is known, but not the query');
configure(log_events => 'all');
provoke('everything');
is_deeply([ map { /^kind=(\w+)/ } (logged_events())[ 1, 2 ] ],
	[ 'blocker_logged', 'blocker_resolved' ], 'log_events = all: a line each');

SKIP:
{
	skip 'no jsonlog before PostgreSQL 15', 4 if $node->pg_version < 15;
	# Another server: the collector needs a start.
	forget_sessions();
	$node->stop;
	unlike(slurp_file($node->logfile), qr/PANIC|TRAP:|terminated by signal/, 'no crash');
	$node = start_node(
		'collector',
		q{shared_preload_libraries = 'pg_lockguard'},
		q{pg_lockguard.ddl_mode = off},
		q{pg_lockguard.worker_interval = 20ms},
		q{pg_lockguard.blocker_min_idle = 0},
		q{pg_lockguard.blocker_min_wait = 0},
		q{pg_lockguard.blocker_action = log},
		q{pg_lockguard.log_events = all},
		q{logging_collector = on},
		q{log_destination = 'jsonlog,csvlog'},
		q{log_directory = log},
		q{log_filename = collected});
	$node->safe_psql('postgres',
		'CREATE ROLE app LOGIN; CREATE TABLE users (id int); GRANT ALL ON users TO PUBLIC');
	$observer = LockGuard::observer($node);
	$latest = 0;
	$ddl = session($node, 'migrate');
	($victim) = provoke('a, "quoted"');
	my $read = sub { slurp_file($node->data_dir . "/log/collected.$_[0]") };
	my $found;
	for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		($found) = grep { $_->{message} =~ /event: kind=blocker_logged/ }
		  map { decode_json($_) } split /\n/, $read->('json');
		last if $found;
		usleep(100_000);
	}
	like($found->{message}, qr/blocker_application="a, \\"quoted\\""/,
		'jsonlog: one line, and the message comes back whole');
	is($found->{error_severity}, 'LOG', 'jsonlog: severity');
	like($read->('csv'), qr/"pg_lockguard event: kind=blocker_logged .*blocker_application=""a, \\""quoted\\"""" /,
		'csvlog: likewise');
}

forget_sessions();
$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP:|terminated by signal/, 'no crash');
done_testing();
