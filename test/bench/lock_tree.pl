# lock_tree(), all columns, against the queries that people use instead.
use strict;
use warnings;

use LockguardBench;

my %queries = (
	lock_tree => "SELECT * FROM lock_tree()",
	blocking_pids =>
	  "SELECT pid, pg_blocking_pids(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'",
	pg_locks => "SELECT count(*) FROM pg_locks",
	recursive => <<'SQL',
WITH RECURSIVE session AS MATERIALIZED (
    SELECT pid, state, query, pg_blocking_pids(pid) AS blocked_by FROM pg_stat_activity
), tree AS (
    SELECT pid, state, query, 0 AS depth, ARRAY[pid] AS path
    FROM session
    WHERE blocked_by = '{}' AND pid IN (SELECT unnest(blocked_by) FROM session)
    UNION ALL
    SELECT s.pid, s.state, s.query, depth + 1, path || s.pid
    FROM tree JOIN session s ON tree.pid = ANY (s.blocked_by)
    WHERE s.pid <> ALL (path)
)
SELECT repeat('  ', depth) || pid AS tree, state, query FROM tree ORDER BY path
SQL
);
my @names = qw(lock_tree blocking_pids pg_locks recursive);

my @shapes =
  ('SELECTs behind ALTER TABLE', 'chain of row locks', 'forest, 10 waiters per row');

# The recursive query is slow: it is asked so often only as this many seconds allow, and given up
# beyond its limit.
my $recursive_seconds = 6;
my $recursive_limit_seconds = 30;

my $dbh = connect_bench();
$dbh->do("SET client_min_messages = warning");
$dbh->do("CREATE EXTENSION pg_lockguard");

# How long the server takes to execute a statement, all rows with all columns, without planning it
# and without turning the result into text and sending it.
sub server_milliseconds
{
	my ($query) = @_;
	my $plan = $dbh->selectcol_arrayref("EXPLAIN (ANALYZE, TIMING OFF) $query");
	my ($time) = map { /^Execution Time: ([\d.]+) ms/ } @$plan;
	die "no execution time in the plan of $query" if !defined $time;
	return $time;
}

# Asks the queries in turn, so that whatever else happens on the machine happens to all of them.
# $measure returns the milliseconds of a query. Returns those of each.
sub ask_in_turn
{
	my ($rounds, $measure, @names) = @_;
	my %times = map { $_ => [] } @names;
	my $slow = 0;
	$dbh->do("SET statement_timeout = '${recursive_limit_seconds}s'");
	for my $round (-2 .. $rounds - 1)
	{
		for my $n (0 .. $#names)
		{
			my $name = $names[ ($n + $round) % @names ];
			next if $name eq 'recursive' && $slow > 1000 * $recursive_seconds;
			my $time = eval { $measure->($queries{$name}) };
			if (!defined $time)
			{
				die $@ if $name ne 'recursive' || $@ !~ /statement timeout/;
				$time = 1000 * $recursive_limit_seconds;
			}
			$slow += $time if $name eq 'recursive';
			# Two rounds to warm up; the slow query may not come to a third.
			push @{ $times{$name} }, $time if $round >= 0 || $name eq 'recursive';
		}
	}
	$dbh->do("RESET statement_timeout");
	return \%times;
}

sub milliseconds_text
{
	my ($milliseconds) = @_;
	return sprintf(">%d", $milliseconds) if $milliseconds >= 1000 * $recursive_limit_seconds;
	return sprintf($milliseconds < 10 ? "%.2f" : "%.0f", $milliseconds);
}

# How long the partition locks are held, in nanoseconds, as lock_tree() itself tells at DEBUG2.
sub locks_held
{
	my ($calls) = @_;
	my @held;
	local $SIG{__WARN__} = sub {
		push @held, $1 if $_[0] =~ /partition locks held for (\d+) ns/;
	};
	local $dbh->{PrintWarn} = 1;
	$dbh->do("SET client_min_messages = debug2");
	$dbh->do($queries{lock_tree}) for 1 .. $calls;
	$dbh->do("SET client_min_messages = warning");
	die scalar(@held) . " messages about the partition locks, not $calls" if @held != $calls;
	return @held;
}

# The cost of one call in microseconds, in the server alone: a loop there, its plan cached.
sub microseconds_in_server
{
	my ($calls, $from) = @_;
	my $loop = "DO \$\$ BEGIN FOR i IN 1..$calls LOOP PERFORM * FROM $from; END LOOP; END \$\$";
	$dbh->do($loop);
	return median(map { 1000 * milliseconds_of($dbh, $loop) / $calls } 1 .. 11);
}

# 150 sessions take 200 locks each that nobody waits for, and release them, in turn. Returns the
# median milliseconds of lock_tree() in the server, without and with the locks.
sub uninvolved_locks
{
	my ($bystanders, $waits_and_holds) = @_;
	my (@without, @with);
	for my $turn (1 .. 8)
	{
		$dbh->do($queries{lock_tree}) for 1 .. 3;
		push @without, server_milliseconds($queries{lock_tree}) for 1 .. 50;
		for my $n (0 .. $#$bystanders)
		{
			$bystanders->[$n]->do("BEGIN");
			$bystanders->[$n]
			  ->do("SELECT pg_advisory_xact_lock($n, g) FROM generate_series(1, 200) g");
		}
		my ($locks) = $dbh->selectrow_array($queries{pg_locks});
		die "only $locks locks are held" if $locks < 200 * @$bystanders;
		$dbh->do($queries{lock_tree}) for 1 .. 3;
		push @with, server_milliseconds($queries{lock_tree}) for 1 .. 50;
		$_->do("ROLLBACK") for @$bystanders;
	}
	return (median(@without), median(@with));
}

# Measures the queries and returns a row of the table.
sub measure_times
{
	my ($where, $shape, $waiters, $target, $measure, @names) = @_;
	my $times = ask_in_turn($waiters == 200 ? 101 : 41, $measure, @names);
	my %median = map { $_ => median(@{ $times->{$_} }) } @names;
	my $ratio = $median{lock_tree} / $median{blocking_pids};
	my $verdict = verdict($ratio, $target);
	my $what = "$where, $waiters waiters, $shape";
	my @cells;
	for (@names)
	{
		my $slowest = quantile(0.95, @{ $times->{$_} });
		keep_figure("$what: $_, median", sprintf("%.3f", $median{$_}), 'ms', undef, '');
		keep_figure("$what: $_, 95th percentile", sprintf("%.3f", $slowest), 'ms', undef, '');
		push @cells, milliseconds_text($median{$_}) . " / " . milliseconds_text($slowest);
	}
	keep_figure("$what: lock_tree / blocking_pids", sprintf("%.3f", $ratio), '', $target, $verdict);
	return [ $shape, $waiters, @cells, sprintf("%.2f", $ratio), $target // '', $verdict ];
}

my $idle = microseconds_in_server(2000, 'lock_tree()');
my $idle_now = microseconds_in_server(2000, 'pg_lockguard_now');
my @bystanders = map { connect_bench('bystander') } 1 .. 150;
my (@server, @client, @held, @uninvolved, @now);
for my $waiters (200, 1000)
{
	for my $shape (@shapes)
	{
		my $crowd = start_crowd($dbh, $shape, $waiters);
		my ($waiting) = $dbh->selectrow_array("SELECT count(lock_type) FROM lock_tree()");
		die "lock_tree() shows $waiting waiters, not $waiters" if $waiting != $waiters;
		push @server,
		  measure_times('server', $shape, $waiters, $waiters == 200 ? '<= 0.5' : '<= 0.1',
			\&server_milliseconds, @names);
		push @client,
		  measure_times('client', $shape, $waiters, undef,
			sub { milliseconds_of($dbh, $_[0]) }, grep { $_ ne 'recursive' } @names);
		push @now, [ $waiters, $shape, map { microseconds_in_server(200, $_) } 'pg_lockguard_now', 'lock_tree()' ];
		push @held, [ $waiters, $shape, locks_held(500) ];
		push @uninvolved, [ $shape, uninvolved_locks(\@bystanders) ] if $waiters == 200;
		end_crowd($dbh, $crowd);
	}
}

print <<'TEXT';
Milliseconds, median / 95th percentile. The queries take turns in one session; jit is off.
  lock_tree      SELECT * FROM lock_tree()
  blocking_pids  pid, pg_blocking_pids(pid) of the sessions in pg_stat_activity that wait for a lock
  pg_locks       SELECT count(*) FROM pg_locks
  recursive      a tree by WITH RECURSIVE over pg_blocking_pids()
  ratio          lock_tree / blocking_pids, of the medians

In the server (EXPLAIN (ANALYZE, TIMING OFF): all rows with all columns, without planning):
TEXT
print_table([ 'shape', 'waiters', @names, 'ratio', 'target', '' ], @server);
print <<'TEXT';

At the client (as psql's \timing: with planning, and until the client has the result as text):
TEXT
print_table([ 'shape', 'waiters', @names[ 0 .. 2 ], 'ratio' ], @client);
print "\n";

for (@held)
{
	my ($waiters, $shape, @nanoseconds) = @$_;
	my @microseconds = map { $_ / 1000 } @nanoseconds;
	my $what = "partition locks held, $waiters waiters, $shape";
	figure("$what: median", median(@microseconds), 'us', $waiters == 200 ? '<= 25' : undef);
	figure("$what: largest of 500", quantile(1, @microseconds), 'us');
}
for (@uninvolved)
{
	my ($shape, $without, $with) = @$_;
	figure("30 000 uninvolved locks more, 200 waiters, $shape",
		100 * ($with / $without - 1), '%', '<= 10', '%.1f');
}
figure("nothing waits: a call in a PL/pgSQL loop", $idle, 'us', '<= 50');

for (@now)
{
	my ($waiters, $shape, $gauges, $tree) = @$_;
	my $what = "pg_lockguard_now, $waiters waiters, $shape";
	figure("$what: a call", $gauges, 'us', $waiters == 200 ? '<= 500' : undef);
	figure("$what: part of lock_tree()'s", $gauges / $tree, '', '<= 1');
}
figure("pg_lockguard_now, nothing waits: a call", $idle_now, 'us', '<= 100');
