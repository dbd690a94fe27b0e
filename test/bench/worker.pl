# CPU time of the worker with 200 idle connections and nothing waiting.
use strict;
use warnings;

use LockguardBench;
use Time::HiRes qw(clock_gettime sleep CLOCK_MONOTONIC);

my $connections = 200;
my $seconds = 60;
my $control = connect_bench();
my @idle = map { connect_bench('idle') } 1 .. $connections;
$_->do("SELECT 1") for @idle;

my $worker =
  "SELECT pid FROM pg_stat_activity WHERE backend_type NOT IN ('client backend', 'checkpointer',
     'background writer', 'walwriter', 'logical replication launcher', 'autovacuum launcher')";
for my $action ('off', 'terminate')
{
	$control->do("ALTER SYSTEM SET pg_lockguard.blocker_action = $action");
	$control->do("SELECT pg_reload_conf()");
	my @pids = @{ $control->selectcol_arrayref($worker) };
	die scalar(@pids) . " background workers, not 1" if @pids != 1;
	sleep(2);
	my $start = clock_gettime(CLOCK_MONOTONIC);
	my $before = processor_nanoseconds($pids[0]);
	sleep($action eq 'off' ? $seconds / 4 : $seconds);
	my $used = processor_nanoseconds($pids[0]) - $before;
	my $elapsed = clock_gettime(CLOCK_MONOTONIC) - $start;
	figure("blocker_action = $action, $connections idle connections: processor",
		100 * $used / (1e9 * $elapsed), '%', '<= 0.1');
}
