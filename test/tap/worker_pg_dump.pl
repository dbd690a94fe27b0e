# A real pg_dump -j 4 of a role that is no superuser, beside ALTER TABLE that waits for tables which it dumps:
# with the worker's actions switched on and everything else as it is by default, nothing of it is ended or
# cancelled, and the dump is whole. (Under another name than pg_dump's: worker_snapshots.pl.)
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

my $node = start_worker_node(
	'pg_dump', q{pg_lockguard.blocker_action = terminate}, q{pg_lockguard.blocker_active_action = cancel},
	q{pg_lockguard.blocker_min_active = 0},
	q{pg_lockguard.blocker_request_modes = 'ShareLock, AccessExclusiveLock'}, q{pg_lockguard.blocker_concurrently = on});
my $observer = LockGuard::observer($node);

# Four tables, the largest ones, in which each of pg_dump's workers is held up until its key is free; and one
# that they come to later.
$node->safe_psql('postgres', q{
	CREATE SCHEMA store;
	CREATE FUNCTION store.hold(key int) RETURNS bool LANGUAGE plpgsql STABLE AS
		$$ BEGIN PERFORM pg_advisory_lock_shared(key); PERFORM pg_advisory_unlock_shared(key); RETURN true; END $$;
	DO $$ BEGIN FOR i IN 1..4 LOOP
		EXECUTE format('CREATE TABLE store.held_%1$s AS SELECT id FROM generate_series(1, 20000) id;
			ALTER TABLE store.held_%1$s ENABLE ROW LEVEL SECURITY;
			CREATE POLICY held ON store.held_%1$s USING ((SELECT store.hold(%1$s)))', i);
	END LOOP; END $$;
	CREATE TABLE store.later AS SELECT id FROM generate_series(1, 5000) id;
	CREATE ROLE backup LOGIN;
	GRANT USAGE ON SCHEMA store TO backup;
	GRANT SELECT ON ALL TABLES IN SCHEMA store TO backup;
	ANALYZE});

my $keys = session($node, 'keys');
$keys->do("SELECT pg_advisory_lock($_)") for 1 .. 4;
my $directory = PostgreSQL::Test::Utils::tempdir . '/dump';
# The harness gives its programs a name.
delete local $ENV{PGAPPNAME};
my ($out, $err) = ('', '');
my $dump = IPC::Run::start(
	[ 'pg_dump', '-Fd', '-j', '4', '--enable-row-security', '-n', 'store', '-f', $directory,
	  '-h', $node->host, '-p', $node->port, '-U', 'backup', '-d', 'postgres' ],
	'<', \undef, '>', \$out, '2>', \$err,
	IPC::Run::timer($PostgreSQL::Test::Utils::timeout_default));
await($node, 'all four of its workers are held up', q{SELECT count(*) = 4 FROM pg_locks JOIN pg_stat_activity USING (pid)
	WHERE application_name = 'pg_dump' AND locktype = 'advisory' AND NOT granted});

# One worker is done, and idle in its transaction as the leader is.
$keys->do('SELECT pg_advisory_unlock(1)');
my $states = q{SELECT array_agg(state ORDER BY state) FROM pg_stat_activity WHERE application_name = 'pg_dump'};
await($node, 'one of them is done',
	"SELECT ($states) = '{active,active,active,idle in transaction,idle in transaction}'");

# Plain statements, in the queues of all tables.
my @ddl;
for my $table ('held_1', 'held_2', 'held_3', 'held_4')
{
	my $ddl = session($node, "alter $table" =~ tr/ /_/r);
	$ddl->send("ALTER TABLE store.$table ADD COLUMN n int DEFAULT random()");
	push @ddl, $ddl;
}
# Nothing in the transactions of pg_dump is held up by these; what they wait for is pg_dump.
my $concurrently = session($node, 'concurrently');
$concurrently->send('CREATE INDEX CONCURRENTLY ON store.later (id)');
settle($node, @ddl, $concurrently);

my @sessions = $observer->rows(q{SELECT pid, state FROM pg_stat_activity WHERE application_name = 'pg_dump'});
is(scalar @sessions, 5, 'a leader and four workers');
my $why = 'pg_lockguard.exempt_applications matches its application_name';
for my $session (@sessions)
{
	my $about = q{SELECT %s FROM pg_lockguard_events WHERE blocker_pid = ? AND kind = 'blocker_spared'};
	await($node, "PID $session->{pid}, $session->{state}, is spared", 'SELECT EXISTS (' . sprintf($about, '') . ')', $session->{pid});
	is($observer->value(sprintf($about, 'DISTINCT reason'), $session->{pid}), $why, "$session->{state}: spared, and why");
}
wait_for_look($node);
is_deeply(
	[ $observer->rows(q{SELECT DISTINCT kind FROM pg_lockguard_events WHERE blocker_application_name = 'pg_dump'}) ],
	[ { kind => 'blocker_spared' } ], 'nothing else is done to any of them');

$keys->do("SELECT pg_advisory_unlock($_)") for 2 .. 4;
$dump->finish;
is($dump->result(0), 0, 'the dump succeeds') or diag $err;
is($err, '', '... without a word');
is(await_end($_), undef, $_->name . ' goes on when it is done') for @ddl, $concurrently;
is(rows_in_dump($directory, "held_$_"), 20000, "the dump holds all rows of held_$_") for 1 .. 4;
is(rows_in_dump($directory, 'later'), 5000, '... and of the last table');
my $statistics = statistics($node);
is($statistics->{cancellations}, 0, 'no statement was cancelled');
is($statistics->{terminations}, 1, 'no session was ended but the marker');

ends_well($node);
done_testing();
