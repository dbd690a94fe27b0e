# Nobody reads the names of another database's objects: not in the record, not in the texts of it,
# not in lock_tree(), not in pg_lockguard_progress. What may be seen of queries is as in
# pg_stat_activity, so the columns with queries are left out for those who may read them.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LockGuard;
use LockGuard::Record;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node(
	'names',
	q{shared_preload_libraries = 'pg_lockguard'},
	q{pg_lockguard.ddl_mode = lock_timeout},
	q{pg_lockguard.ddl_lock_timeout = '50ms'},
	q{pg_lockguard.worker_interval = 20ms},
	q{pg_lockguard.blocker_min_idle = 0},
	q{pg_lockguard.blocker_min_wait = 0},
	q{pg_lockguard.exempt_applications = ''});
$node->safe_psql(
	'postgres', q{
	CREATE ROLE app LOGIN;
	CREATE ROLE plain LOGIN;
	CREATE ROLE deploy LOGIN SUPERUSER;
	CREATE SCHEMA secretive;
	GRANT ALL ON SCHEMA secretive TO PUBLIC;
	CREATE TABLE secretive.umbrella (id int);
	GRANT ALL ON secretive.umbrella TO PUBLIC;
	CREATE DATABASE other;
});
$node->safe_psql('other', 'CREATE EXTENSION pg_lockguard');
my $observer = LockGuard::observer($node);
my ($relation, $database, $schema) = map { $observer->value("SELECT $_") }
  (q{'secretive.umbrella'::regclass::oid}, q{(SELECT oid FROM pg_database WHERE datname = 'postgres')},
	q{'secretive'::regnamespace::oid});

my @views = ('pg_lockguard_events', 'lock_tree()', 'pg_lockguard_progress');
my @viewers = map { session($node, $_, dbname => 'other', user => $_) } qw(plain deploy);

# All rows of a view, as text, as a viewer gets them.
sub seen_by
{
	my ($viewer, $view) = @_;
	my $row = $viewer->name =~ /plain/ ? 't' : q{to_jsonb(t) - 'query' - 'blocker_query'};
	return join("\n", map { $_->{row} } $viewer->rows("SELECT ($row)::text AS row FROM $view t"));
}

# Nobody in the other database reads a name of this one. The views named have rows.
sub hides_names
{
	my (@filled) = @_;
	for my $viewer (@viewers)
	{
		for my $view (@views)
		{
			my $rows = seen_by($viewer, $view);
			unlike($rows, qr/umbrella|secretive/, $viewer->name . ": no name in $view");
			isnt($rows, '', $viewer->name . ": $view has rows") if grep { $_ eq $view } @filled;
		}
	}
	return;
}

my $holder = session($node, 'sidekiq', user => 'app');
my $ddl = session($node, 'migrate');
my $oids = "relation $relation of database $database";

subtest 'a guarded statement that times out' => sub {
	$holder->do('BEGIN; SELECT id FROM secretive.umbrella');
	like($ddl->send('ALTER TABLE secretive.umbrella ADD COLUMN a int')->error,
		qr/canceling statement due to lock timeout/, 'times out');
	hides_names('pg_lockguard_events');
	my $event = newest_event($node, 'ddl_timeout');
	is($event->{relation}, 'secretive.umbrella', 'who looks from its own database reads the name');
	like($event->{lock_tree}, qr/ wants AccessExclusiveLock on \Q$oids\E for /, '... and OIDs in the tree');
	$holder->do('COMMIT');
};

subtest 'a guarded statement that waits at low priority' => sub {
	$ddl->do('SET pg_lockguard.ddl_mode = low_priority');
	$holder->do('BEGIN; SELECT id FROM secretive.umbrella');
	$ddl->send('ALTER TABLE secretive.umbrella ADD COLUMN a int');
	await($node, 'it waits', q{SELECT EXISTS (SELECT FROM pg_lockguard_progress)
		AND EXISTS (SELECT FROM pg_lockguard_events WHERE kind = 'ddl_waited')});
	hides_names(@views);
	is($observer->value('SELECT relation FROM pg_lockguard_progress'), 'secretive.umbrella',
		'who looks from its own database reads the name');
	is($viewers[0]->value('SELECT relation FROM pg_lockguard_progress'), $oids, '... others OIDs');
	$holder->do('COMMIT');
	is(await_end($ddl), undef, 'it gets its lock');
	hides_names('pg_lockguard_events');
	for my $kind (qw(ddl_waited ddl_acquired))
	{
		is(newest_event($node, $kind)->{relation}, 'secretive.umbrella', "$kind: the name for its own database");
	}
	like(newest_event($node, 'ddl_waited')->{lock_tree}, qr/ on \Q$oids\E/, 'ddl_waited: OIDs in the tree');
};

subtest 'a guarded statement that ends who is in its way' => sub {
	$ddl->do(q{SET pg_lockguard.ddl_max_wait = '50ms'; SET pg_lockguard.ddl_on_timeout = terminate});
	$holder->do('BEGIN; SELECT id FROM secretive.umbrella');
	is($ddl->send('ALTER TABLE secretive.umbrella ADD COLUMN b int')->error, undef, 'it gets its lock');
	is(newest_event($node, 'ddl_blocker_terminated')->{blocker_pid}, $holder->pid, 'is recorded');
	hides_names('pg_lockguard_events');
	forget_sessions($holder);
	$holder = session($node, 'sidekiq', user => 'app');
	$ddl->do('RESET ALL');
};

subtest 'a guarded statement that waits for another kind of object' => sub {
	my $dropper = session($node, 'dropper');
	$observer->do('CREATE TABLE umbrella_2 (id int)');
	$dropper->do(q{BEGIN; COMMENT ON SCHEMA secretive IS 'soon to go'; DROP SCHEMA secretive CASCADE});
	like($ddl->send('ALTER TABLE umbrella_2 SET SCHEMA secretive')->error,
		qr/canceling statement due to lock timeout/, 'times out');
	$dropper->do('ROLLBACK');
	like(newest_event($node, 'ddl_timeout')->{lock_tree},
		qr/ on object $schema of class \d+ of database $database/, 'OIDs of the object and its database');
	hides_names('pg_lockguard_events');
	forget_sessions($dropper);
};

subtest 'a session that the worker ends' => sub {
	$ddl->do('SET pg_lockguard.ddl_mode = off');
	configure($node, blocker_action => 'terminate');
	$holder->do('BEGIN; SELECT id FROM secretive.umbrella');
	is($ddl->send('ALTER TABLE secretive.umbrella ADD COLUMN c int')->error, undef, 'it gets its lock');
	await($node, 'the event', q{SELECT EXISTS (SELECT FROM pg_lockguard_events
		WHERE kind = 'blocker_terminated')});
	hides_names('pg_lockguard_events');
	is(newest_event($node, 'blocker_terminated')->{relation}, 'secretive.umbrella',
		'who looks from its own database reads the name');
};

ends_well($node);
done_testing();
