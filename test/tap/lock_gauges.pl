# pg_lockguard_now: the gauges agree with lock_tree() and with what was arranged, for whom they are,
# with the library preloaded and without, on a standby, and while catalogs are locked.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use LockGuard;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my @columns = qw(sessions_waiting longest_wait roots roots_idle_in_transaction worst_root_pid
  worst_root_application_name worst_root_sessions_behind worst_root_age statements_at_low_priority
  sessions_on_cycle);

# The row, after it has been compared with the tree. Durations become "known", for they grow.
sub gauges
{
	my ($viewer, $durations) = @_;
	my @rows = $viewer->rows('SELECT * FROM pg_lockguard_now');
	is(scalar @rows, 1, 'one row');
	is_deeply([ sort keys %{ $rows[0] } ], [ sort @columns ], 'its columns');
	my ($tree) = $viewer->rows(q{
		SELECT count(lock_type) AS sessions_waiting,
			count(*) FILTER (WHERE depth = 0) AS roots,
			count(*) FILTER (WHERE deadlock) AS sessions_on_cycle,
			max(blocks) FILTER (WHERE depth = 0) AS worst_root_sessions_behind
		FROM lock_tree()});
	is_deeply({ map { $_ => $rows[0]{$_} } keys %$tree }, $tree, 'as lock_tree() has it');
	my %row = %{ $rows[0] };
	for my $name (qw(longest_wait worst_root_age))
	{
		next if !defined $row{$name};
		cmp_ok($row{$name}, '>=', 0, "$name is not negative");
		cmp_ok($row{$name}, '<', 1000, "$name is in seconds");
		$row{$name} = 'known' if $row{$name} > 0;
	}
	return \%row;
}

sub expected
{
	my %given = @_;
	return { map { $_ => exists $given{$_} ? $given{$_} : undef } @columns };
}

my %nothing = (
	sessions_waiting => 0, longest_wait => 0, roots => 0, roots_idle_in_transaction => 0,
	sessions_on_cycle => 0);

for my $preloaded (0, 1)
{
	my $node = start_node("now$preloaded",
		$preloaded ? q{shared_preload_libraries = 'pg_lockguard'} : (),
		q{pg_lockguard.ddl_mode = off}, q{wal_level = replica}, q{max_wal_senders = 2});
	$node->safe_psql('postgres', q{
		CREATE ROLE app LOGIN;
		CREATE ROLE plain LOGIN;
		CREATE TABLE users (id int);
		GRANT ALL ON users TO PUBLIC;
	});
	my $observer = LockGuard::observer($node);
	my @low_priority = (statements_at_low_priority => $preloaded ? 0 : undef);
	is_deeply(gauges($observer), expected(%nothing, @low_priority),
		$preloaded ? 'preloaded: nobody waits' : 'not preloaded: nobody waits');

	my ($reader, $busy) = (session($node, 'sidekiq', user => 'app'), session($node, 'report'));
	my ($alter, $web, $other) = map { session($node, $_) } qw(migrate web other);
	$reader->do('BEGIN; SELECT FROM users');
	settle($node, $alter->send('ALTER TABLE users ADD COLUMN n int'));
	settle($node, $web->send('SELECT FROM users'));
	my %tree = (
		sessions_waiting => 2, longest_wait => 'known', roots => 1, roots_idle_in_transaction => 1,
		worst_root_pid => $reader->pid, worst_root_application_name => 'sidekiq',
		worst_root_sessions_behind => 2, worst_root_age => 'known', sessions_on_cycle => 0,
		@low_priority);
	is_deeply(gauges($observer), expected(%tree), 'a root, idle in transaction, and two behind it');
	is_deeply(gauges(session($node, 'mine', user => 'app')), expected(%tree), 'the role itself sees the same');
	is_deeply(gauges(session($node, 'yours', user => 'plain')),
		expected(%tree, roots_idle_in_transaction => undef, worst_root_age => undef),
		'what follows from a state is not for others');

	$busy->do('SELECT pg_advisory_lock(1)');
	$busy->send('SELECT pg_sleep(1000)');
	$other->send('SELECT pg_advisory_lock(1)');
	settle($node, $other);
	is_deeply(gauges($observer), expected(%tree, sessions_waiting => 3, roots => 2),
		'another root that is not idle, with fewer behind it');
	my ($before, $wait, $after) = map { $observer->value($_) }
	  map { ($_, 'SELECT longest_wait FROM pg_lockguard_now', $_) }
	  q{SELECT extract(epoch FROM clock_timestamp() - min(waitstart)) FROM pg_locks WHERE NOT granted};
	cmp_ok($wait, '>=', $before - 0.01, 'the longest wait is that of pg_locks');
	cmp_ok($wait, '<=', $after + 0.01, '... then');

	my $catalogs = session($node, 'catalogs');
	my $patient = session($node, 'patient');
	$patient->do(q{SET lock_timeout = '5s'; PREPARE look AS SELECT * FROM pg_lockguard_now});
	$patient->rows('EXECUTE look');
	$catalogs->do('BEGIN; LOCK TABLE pg_class, pg_authid, pg_auth_members, pg_database, pg_type');
	my ($row) = $patient->rows('EXECUTE look');
	is($row->{worst_root_pid}, $reader->pid, 'while catalogs are locked');
	$catalogs->do('ROLLBACK');
	forget_sessions();

	my ($one, $two, $three) = map { session($node, $_) } qw(one two three);
	$one->do('BEGIN; SELECT pg_advisory_xact_lock(1)');
	$two->do('BEGIN; SELECT pg_advisory_xact_lock(2)');
	settle($node, $one->send('SELECT pg_advisory_xact_lock(2)'));
	settle($node, $two->send('SELECT pg_advisory_xact_lock(1)'));
	is(gauges($observer)->{sessions_on_cycle}, 2, 'a cycle');
	forget_sessions($one, $two);

	$three->do(q{BEGIN; LOCK TABLE users; PREPARE TRANSACTION 'a'});
	settle($node, $three->send('SELECT FROM users'));
	is_deeply(gauges($observer),
		expected(%tree, sessions_waiting => 1, roots_idle_in_transaction => 0, worst_root_pid => 0,
			worst_root_application_name => undef, worst_root_sessions_behind => 1),
		'a prepared transaction as the root');
	$observer->do(q{ROLLBACK PREPARED 'a'});
	forget_sessions();

	if ($preloaded)
	{
		my ($holder, $ddl) = map { session($node, $_) } qw(holder migrate);
		$holder->do('BEGIN; SELECT FROM users');
		$ddl->do('SET pg_lockguard.ddl_mode = low_priority');
		$ddl->send('ALTER TABLE users ADD COLUMN m int');
		await($node, 'it waits at low priority', 'SELECT EXISTS (SELECT FROM pg_lockguard_progress WHERE lock_mode IS NOT NULL)');
		my $gauges = gauges($observer);
		is($gauges->{statements_at_low_priority}, 1, 'a statement at low priority');
		is($gauges->{worst_root_pid}, $holder->pid, '... and who keeps it waiting');
		forget_sessions();
	}

	$node->backup('now');
	my $standby = PostgreSQL::Test::Cluster->new("standby$preloaded");
	$standby->init_from_backup($node, 'now', has_streaming => 1);
	$standby->start;
	is_deeply(gauges(LockGuard::observer($standby)), expected(%nothing, @low_priority), 'on a standby');
	$standby->stop;
	$node->stop;
}

done_testing();
