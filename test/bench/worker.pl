# CPU time of the worker: with 1000 idle connections and nothing waiting, and with 200 sessions that
# wait in 20 incidents.
use strict;
use warnings;

use LockguardBench;
use Time::HiRes qw(clock_gettime sleep CLOCK_MONOTONIC);

my $connections = 1000;
my $seconds = $ENV{LOCKGUARD_QUICK} ? 15 : 60;
my $control = connect_bench();
$control->do("SET client_min_messages = warning");
$control->do("CREATE EXTENSION IF NOT EXISTS pg_lockguard");

# Percent of a processor that the worker takes for so many seconds.
sub processor_share
{
	my ($for) = @_;
	my @pids = @{ $control->selectcol_arrayref(
			"SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_lockguard worker'") };
	die scalar(@pids) . " workers, not 1" if @pids != 1;
	my $start = clock_gettime(CLOCK_MONOTONIC);
	my $before = processor_nanoseconds($pids[0]);
	sleep($for);
	my $used = processor_nanoseconds($pids[0]) - $before;
	return 100 * $used / (1e9 * (clock_gettime(CLOCK_MONOTONIC) - $start));
}

sub configure
{
	my %setting = @_;
	$control->do("ALTER SYSTEM SET pg_lockguard.$_ = '$setting{$_}'") for sort keys %setting;
	$control->do("SELECT pg_reload_conf()");
	sleep(3);
	return;
}

my @idle = map { connect_bench('idle') } 1 .. $connections;
$_->do("SELECT 1") for @idle;
for my $case (
	[ 'nothing to look for', 'off', -1 ],
	[ 'incidents', 'off', 1000 ],
	[ 'incidents and blocker_action = terminate', 'terminate', 1000 ])
{
	my ($what, $action, $min_wait) = @$case;
	configure(blocker_action => $action, incident_min_wait => $min_wait);
	figure("$what, $connections idle connections, nothing waits: processor",
		processor_share($min_wait < 0 ? $seconds / 4 : $seconds), '%', '<= 0.1');
}
$_->disconnect for @idle;

configure(blocker_action => 'off', incident_min_wait => 1000);
my $crowd = start_crowd($control, 'forest, 10 waiters per row', 200);
poll_until($control, "SELECT count(*) FROM pg_lockguard_incidents WHERE ended IS NULL", 20);
figure("incidents, 200 sessions wait in 20 of them: processor", processor_share($seconds), '%', '<= 1');
my ($looks) = $control->selectrow_array(
	"SELECT extract(epoch FROM clock_timestamp() - last_seen) FROM pg_lockguard_incidents WHERE ended IS NULL LIMIT 1");
figure("... the latest look was before", 1000 * $looks, 'ms');
end_crowd($control, $crowd);
