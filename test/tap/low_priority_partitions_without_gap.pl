# A partitioned table whose readers leave no gap: each of them holds the table and its partitions.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LockGuard;
use LockGuard::LowPriority;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node('partitions_without_gap', "shared_preload_libraries = 'pg_lockguard'");

$node->safe_psql(
	'postgres', q{
	CREATE TABLE parted (id int) PARTITION BY RANGE (id);
	CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (10);
	CREATE TABLE parted_2 PARTITION OF parted FOR VALUES FROM (10) TO (20);
	CREATE TABLE other (id int);
});

my $ddl = session($node, 'ddl');
# Only so that it fails, where it would never come to an end.
$ddl->do("SET pg_lockguard.ddl_max_wait = '30s'");

subtest 'readers of a partitioned table without a gap do not starve a statement' => sub {
	my $load = start_load($node, 12, "BEGIN;\nSELECT count(*) FROM parted;\nSELECT pg_sleep(0.02);\nCOMMIT;\n");
	for my $round (1 .. 3)
	{
		$ddl->send("ALTER TABLE parted ADD COLUMN c$round int");
		is($ddl->error, undef, "done ($round)");
	}
	stop_load($load);
};

ends_well([$node], qr/WARNING/);
done_testing();
