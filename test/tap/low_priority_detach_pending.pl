# A partition whose detachment is pending is none to a statement that begins after that: PostgreSQL
# passes over it, and a statement at low priority neither waits for it nor locks it, however often it
# tries.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LockGuard;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node('detach_pending', "shared_preload_libraries = 'pg_lockguard'", "deadlock_timeout = '200ms'");
$node->safe_psql(
	'postgres', q{
	CREATE TABLE measures (id int) PARTITION BY RANGE (id);
	CREATE TABLE measures_1 PARTITION OF measures FOR VALUES FROM (1) TO (10);
	CREATE TABLE measures_2 PARTITION OF measures FOR VALUES FROM (10) TO (20);
});
my ($reader, $other, $ddl) = map { session($node, $_) } qw(reader other ddl);

# Its first transaction commits, the second one is cancelled.
my $detacher = session($node, 'detacher');
$reader->do('BEGIN');
$reader->do('SELECT FROM measures');
$detacher->send('ALTER TABLE measures DETACH PARTITION measures_1 CONCURRENTLY');
await($node, 'it is pending', q{SELECT EXISTS (SELECT FROM pg_inherits WHERE inhdetachpending)});
$node->safe_psql('postgres', 'SELECT pg_cancel_backend(' . $detacher->pid . ')');
like($detacher->error, qr/canceling statement due to user request/, 'the detachment stays pending');
$reader->do('COMMIT');

$other->do('BEGIN');
$other->do('SELECT FROM measures_1');
$ddl->do(q{SET statement_timeout = '20s'});
my $locked = q{SELECT EXISTS (SELECT FROM pg_locks WHERE pid = pg_backend_pid() AND relation = 'measures_1'::regclass)};
for my $block (0, 1)
{
	for my $waits (0, 1)
	{
		my $case = ($waits ? 'after a wait' : 'at once') . ($block ? ', in a transaction block' : '');
		if ($waits)
		{
			$reader->do('BEGIN');
			$reader->do('SELECT FROM measures_2');
		}
		$ddl->do('BEGIN') if $block;
		$ddl->send("ALTER TABLE measures ADD COLUMN c_${block}_$waits int");
		if ($waits)
		{
			await($node, 'it waits', 'SELECT EXISTS (SELECT FROM pg_lockguard_progress WHERE pid = ?)', $ddl->pid);
			$reader->do('COMMIT');
		}
		is($ddl->error, undef, "it does not wait for the reader of the partition: $case");
		next unless $block;
		is($ddl->value($locked), 0, '... nor does it lock it');
		$ddl->do('COMMIT');
	}
}
$other->do('COMMIT');

ends_well($node);
done_testing();
