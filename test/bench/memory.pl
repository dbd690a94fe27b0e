# What one call of lock_tree() allocates, and that nothing is left of it.
#
# malloc is told to give each block of 4 kB or more a mapping of its own and to return it at once
# (see run-inside), so the size of the backend's address space follows its memory contexts block
# by block: VmPeak less VmSize is the most that a call has ever held. Unlike resident memory, both
# are exact, and touching shared memory for the first time does not count. The query texts are not
# subtracted.
use strict;
use warnings;

use LockguardBench;

my $control = connect_bench();
$control->do("SET client_min_messages = warning");
$control->do("CREATE EXTENSION pg_lockguard");

sub measure_memory
{
	my ($waiters, $shape) = @_;
	my $crowd = start_crowd($control, $shape, $waiters);
	my $dbh = connect_bench();
	my ($pid) = $dbh->selectrow_array("SELECT pg_backend_pid()");
	# The whole result in memory, none of it in a temporary file.
	$dbh->do("SET work_mem = '256MB'");
	my $contexts = "SELECT sum(total_bytes) FROM pg_backend_memory_contexts";
	my ($rows, $before, $contexts_before);
	# The first calls fill the caches.
	for (1 .. 3)
	{
		$rows = $dbh->do("SELECT * FROM lock_tree()");
		$dbh->selectrow_array($contexts);
		($contexts_before) = $dbh->selectrow_array($contexts);
		$before = process_status($pid);
	}
	$dbh->do("SELECT * FROM lock_tree()");
	my ($contexts_after) = $dbh->selectrow_array($contexts);
	my $after = process_status($pid);
	my $what = "$waiters waiters, $shape";
	figure("$what: most during a call, a row",
		($after->{VmPeak} - $after->{VmSize}) / $rows, 'kB', '<= 4');
	figure("$what: left in the process", $after->{VmSize} - $before->{VmSize}, 'kB',
		'<= 0');
	figure("$what: left in its contexts",
		($contexts_after - $contexts_before) / 1024, 'kB', '<= 0');
	$dbh->disconnect;
	end_crowd($control, $crowd);
	return;
}

for my $shape ('SELECTs behind ALTER TABLE', 'chain of row locks', 'forest, 10 waiters per row')
{
	measure_memory($_, $shape) for 200, 1000;
}
