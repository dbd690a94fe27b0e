# A partitioned table whose readers leave no gap: each of them holds the table and its partitions.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use IPC::Run;
use LockGuard;
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
	my $file = $node->basedir . '/load.sql';
	append_to_file($file, "BEGIN;\nSELECT count(*) FROM parted;\nSELECT pg_sleep(0.02);\nCOMMIT;\n");
	my ($out, $err) = ('', '');
	local $ENV{PGAPPNAME} = 'load';
	my $load = IPC::Run::start(
		[ 'pgbench', '-n', '-c', '12', '-j', '2', '-T', '600', '-f', $file, $node->connstr('postgres') ],
		'>', \$out, '2>', \$err);
	await($node, 'the load', q{SELECT count(*) >= 12 FROM pg_stat_activity WHERE application_name = 'load'});
	for my $round (1 .. 3)
	{
		$ddl->send("ALTER TABLE parted ADD COLUMN c$round int");
		is($ddl->error, undef, "done ($round)");
	}
	$load->signal('TERM');
	$load->finish;
	unlike($err, qr/ERROR|FATAL|aborted/, 'no client of the load has seen an error');
};

forget_sessions();
$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP:|terminated by signal|WARNING/, 'no crash, no warning');

done_testing();
