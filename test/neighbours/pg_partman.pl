# pg_partman: its maintenance of a table that is in use; and its own tests, on a server with the library, every command
# guarded, and on one without. These are in its source package alone: LOCKGUARD_SOURCES/pg-partman.
# packages: postgresql-MAJOR-partman postgresql-MAJOR-pgtap
# source: pg-partman
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib", "$FindBin::RealBin/../tap/lib";

use LockGuard;
use LockGuard::LowPriority;
use Neighbours;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $guarding = q{shared_preload_libraries = 'pg_lockguard'
pg_lockguard.ddl_commands = all
max_locks_per_transaction = 256};
my $install = 'CREATE SCHEMA partman; CREATE EXTENSION pg_partman SCHEMA partman; CREATE EXTENSION pgtap';

my $node = start_node('partman', $guarding);
$node->safe_psql('postgres', $install);

subtest 'maintenance of a table that somebody reads' => sub {
	$node->safe_psql(
		'postgres', q{
		CREATE TABLE public.events (id bigint NOT NULL, note text) PARTITION BY RANGE (id);
		SELECT partman.create_parent('public.events', 'id', 'native', '10');
		INSERT INTO events SELECT i, 'x' FROM generate_series(1, 35) i;
		SELECT partman.run_maintenance('public.events');
		INSERT INTO events SELECT i, 'x' FROM generate_series(36, 60) i;
		UPDATE partman.part_config SET retention = '20', retention_keep_table = false});
	my ($reader, $maintenance) = map { session($node, $_) } qw(reader maintenance);
	my $partitions = q{SELECT count(*) FROM pg_inherits WHERE inhparent = 'events'::regclass};
	my $before = $reader->value($partitions);
	$reader->do('BEGIN; SELECT FROM events');
	$maintenance->send(q{SELECT partman.run_maintenance('public.events')});
	await_low_priority($maintenance);
	is(LockGuard::observer($node)->value('SELECT count(*) FROM events'), 60, 'others read while it waits');
	$reader->do('COMMIT');
	is($maintenance->error, undef, 'it is done after the COMMIT');
	isnt($reader->value($partitions), $before, 'partitions have come and gone');
	is($reader->value('SELECT min(id) >= 30 FROM events'), 1, 'the old ones');
	forget_sessions($reader, $maintenance);
};

my ($source) = glob(($ENV{LOCKGUARD_SOURCES} // '/none') . '/pg-partman/test ' . ($ENV{LOCKGUARD_SOURCES} // '/none') . '/pg-partman/*/test');
SKIP:
{
	skip 'its source package is not to be had', 1 unless $source && -d $source;
	my $plain = PostgreSQL::Test::Cluster->new('plain');
	$plain->init;
	$plain->append_conf('postgresql.conf', "max_locks_per_transaction = 256\nmax_connections = 100\n");
	$plain->start;
	# Those that are run in one transaction, whatever the time of the day.
	for my $test (
		qw(test-id.sql test-time-daily.sql test-time-monthly.sql test-id-time-subpart.sql test-id-mixed-case.sql
		test_native/test-id-native.sql test_native/test-time-daily-native.sql test_native/test-id-gap-fill.sql
		test_native/test-id-time-subpart-native.sql test_native/test-id-native-mixed-case.sql))
	{
		if (!-f "$source/$test")
		{
			diag("$test is not in this version's source");
			next;
		}
		my @said;
		for my $server ($plain, $node)
		{
			$server->safe_psql('postgres', 'DROP DATABASE IF EXISTS theirs');
			$server->safe_psql('postgres', 'CREATE DATABASE theirs');
			$server->safe_psql('theirs', $install);
			my ($out, $err) = ('', '');
			$server->psql('theirs', undef, stdout => \$out, stderr => \$err, extra_params => [ '-q', '-f', "$source/$test" ], on_error_stop => 0);
			push @said, [ grep { /^(not )?ok \d|^1\.\.\d/ } split /\n/, $out ];
		}
		cmp_ok(scalar @{ $said[0] }, '>', 5, "$test: " . @{ $said[0] } . ' lines');
		is_deeply($said[1], $said[0], "$test: says the same beside the guard");
	}
	is($node->safe_psql('postgres', 'SELECT statements > 100 FROM pg_stat_lockguard'), 't', 'its statements were guarded');
	$plain->stop;
}
ends_well($node);
done_testing();
