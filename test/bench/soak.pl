# 100 000 calls of lock_tree() in one session leave it as large as it was.
use strict;
use warnings;

use LockguardBench;

my $calls = 100_000;
my $waiters = 20;
my $shape = 'forest, 10 waiters per row';
my $control = connect_bench();
$control->do("SET client_min_messages = warning");
$control->do("CREATE EXTENSION pg_lockguard");

my $crowd = start_crowd($control, $shape, $waiters);
my $dbh = connect_bench();
my ($pid) = $dbh->selectrow_array("SELECT pg_backend_pid()");

sub sizes
{
	my $contexts = "SELECT sum(total_bytes) FROM pg_backend_memory_contexts";
	$dbh->selectrow_array($contexts);
	my ($contexts_size) = $dbh->selectrow_array($contexts);
	return (private_memory($pid), $contexts_size / 1024);
}

$dbh->do("SELECT * FROM lock_tree()") for 1 .. 1000;
my ($resident_before, $contexts_before) = sizes();
my $milliseconds = 0;
$milliseconds += milliseconds_of($dbh, "SELECT * FROM lock_tree()") for 1 .. $calls;
my ($resident, $contexts) = sizes();

figure("$calls calls, $waiters waiters: one call, mean", $milliseconds / $calls, 'ms');
figure("$calls calls: growth of the process", $resident - $resident_before, 'kB', '<= 64', '%.0f');
figure("$calls calls: growth of its memory contexts", $contexts - $contexts_before, 'kB', '<= 0');
end_crowd($control, $crowd);
