# A large server: max_connections 5000 of which 3000 are idle, 500 sessions that wait, max_locks_per_transaction 1024,
# 100 000 tables, one of 2000 partitions, a session that has locked all tables as pg_dump does. What guarded
# statements, looks at the locks, the worker and 100 statements that wait at low priority cost there: ratios of one
# run, to plain PostgreSQL or to a tenth of the same.
use strict;
use warnings;

use LockguardBench;
use List::Util qw(sum);
use Time::HiRes qw(clock_gettime sleep CLOCK_MONOTONIC);

my $quick = $ENV{LOCKGUARD_QUICK};
my ($tables, $partitions, $idle, $waiters) = ($quick ? 20_000 : 100_000, 2000, 3000, 500);

my $dbh = connect_bench('control');
$dbh->do('SET client_min_messages = warning');
$dbh->do('CREATE EXTENSION pg_lockguard');

print "making $tables tables\n";
for my $from (map { 1000 * $_ } 0 .. $tables / 1000 - 1)
{
	$dbh->do("DO \$\$ BEGIN FOR i IN $from .. $from + 999 LOOP EXECUTE 'CREATE TABLE many_' || i || ' (a int)'; END LOOP; END \$\$");
}
$dbh->do('CREATE TABLE parts (a int, b int) PARTITION BY LIST (a)');
for my $from (map { 500 * $_ } 0 .. $partitions / 500 - 1)
{
	$dbh->do("DO \$\$ BEGIN FOR i IN $from .. $from + 499 LOOP
		EXECUTE format('CREATE TABLE parts_%s PARTITION OF parts FOR VALUES IN (%s)', i, i); END LOOP; END \$\$");
}
# Their rows are rewritten or checked, which the server announces for each partition.
my $filled = 1000;
$dbh->do('CREATE TABLE filled (a int, b int, PRIMARY KEY (a, b)) PARTITION BY LIST (a)');
for my $from (map { 500 * $_ } 0 .. $filled / 500 - 1)
{
	$dbh->do("DO \$\$ BEGIN FOR i IN $from .. $from + 499 LOOP
		EXECUTE format('CREATE TABLE filled_%s PARTITION OF filled FOR VALUES IN (%s)', i, i); END LOOP; END \$\$");
}
$dbh->do("INSERT INTO filled SELECT i, i FROM generate_series(0, $filled - 1) i");
$dbh->do('CREATE TABLE parent (a int PRIMARY KEY)');
$dbh->do("INSERT INTO parent SELECT generate_series(0, $filled - 1)");
$dbh->do('CREATE TABLE one (a int)');
$dbh->do('CREATE TABLE busy (a int)');
$dbh->do('VACUUM ANALYZE pg_class, pg_attribute, pg_depend, pg_inherits');

sub configure
{
	my %setting = @_;
	$dbh->do("ALTER SYSTEM SET pg_lockguard.$_ = '$setting{$_}'") for sort keys %setting;
	$dbh->do('SELECT pg_reload_conf()');
	sleep(3);
	return;
}

sub worker_pid
{
	my ($pid) = $dbh->selectrow_array("SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_lockguard worker'");
	return $pid;
}

# Percent of a processor that these processes take together, for so many seconds.
sub processor_share
{
	my ($seconds, @pids) = @_;
	my $before = sum(map { processor_nanoseconds($_) } @pids);
	my $start = clock_gettime(CLOCK_MONOTONIC);
	sleep($seconds);
	my $used = sum(map { processor_nanoseconds($_) } @pids) - $before;
	return 100 * $used / (1e9 * (clock_gettime(CLOCK_MONOTONIC) - $start));
}

# The same statement guarded and plain, in turns: the median of the ratios.
sub guarded_to_plain
{
	my ($rounds, $statement) = @_;
	my $session = connect_bench('measured');
	my (@ratios, @guarded);
	for my $round (1 .. $rounds + 3)
	{
		my %time = microseconds_by_mode($session, $round, sub { $statement }, 'off', 'low_priority');
		next if $round <= 3;
		push @ratios, $time{low_priority} / $time{off};
		push @guarded, $time{low_priority};
	}
	$session->disconnect;
	return (median(@ratios), median(@guarded) / 1000);
}

# The time in which the server executes a query, in ms: the median.
sub server_milliseconds
{
	my ($rounds, $query) = @_;
	my @times;
	for (1 .. $rounds)
	{
		my ($time) = map { /^Execution Time: ([\d.]+) ms/ } @{ $dbh->selectcol_arrayref("EXPLAIN (ANALYZE, TIMING OFF) $query") };
		push @times, $time;
	}
	return median(@times);
}

# How long lock_tree() holds the partition locks, in us, as it tells at DEBUG2.
sub locks_held
{
	my ($calls) = @_;
	my @held;
	local $SIG{__WARN__} = sub { push @held, $1 / 1000 if $_[0] =~ /partition locks held for (\d+) ns/ };
	local $dbh->{PrintWarn} = 1;
	$dbh->do('SET client_min_messages = debug2');
	$dbh->do('SELECT count(*) FROM lock_tree()') for 1 .. $calls;
	$dbh->do('SET client_min_messages = warning');
	die scalar(@held) . " messages, not $calls" if @held != $calls;
	return @held;
}

my @statements = (
	[ 'ALTER TABLE one ALTER a SET DEFAULT 1', 'a table', 300, '<= 2' ],
	[ 'ALTER TABLE parts ALTER b SET DEFAULT 1', "a table of $partitions partitions", 20, '<= 1.5' ]);
sub measure_statements
{
	my ($where) = @_;
	for (@statements)
	{
		my ($statement, $what, $rounds, $target) = @$_;
		my ($ratio, $time) = guarded_to_plain($rounds, $statement);
		figure("$where, $what: guarded / plain", $ratio, '', $target, '%.2f');
		figure("$where, $what: guarded", $time, 'ms');
	}
	return;
}

measure_statements('nobody there');
for (
	[ 'ALTER TABLE filled ALTER b TYPE bigint', 'rewritten' ],
	[ 'ALTER TABLE filled ADD FOREIGN KEY (b) REFERENCES parent', 'checked for a foreign key' ])
{
	my ($statement, $what) = @$_;
	my ($ratio, $time) = guarded_to_plain(3, "BEGIN; $statement; ROLLBACK");
	figure("$filled partitions $what: guarded / plain", $ratio, '', '<= 1.5', '%.2f');
	figure("$filled partitions $what: guarded", $time, 'ms');
}

print "connecting $idle sessions\n";
my @idle = map { connect_bench('idle') } 1 .. $idle;
$_->do('SELECT 1') for @idle;
measure_statements("$idle idle");
configure(incident_min_wait => 1000);
figure("$idle idle, nothing waits: the worker's processor", processor_share($quick ? 10 : 30, worker_pid()), '%', '<= 0.3');
my $empty = server_milliseconds(201, 'SELECT * FROM lock_tree()');
figure("$idle idle, nothing waits: lock_tree()", 1000 * $empty, 'us', '<= 100');

my $blocking_pids = "SELECT pid, pg_blocking_pids(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
for my $shape ('SELECTs behind ALTER TABLE', 'chain of row locks', 'forest, 10 waiters per row')
{
	my $crowd = start_crowd($dbh, $shape, $waiters);
	my $where = "$idle idle, $waiters waiting ($shape)";
	my $tree = server_milliseconds(101, 'SELECT * FROM lock_tree()');
	figure("$where: lock_tree() / pg_blocking_pids() of all", $tree / server_milliseconds(11, $blocking_pids), '', '<= 0.1');
	figure("$where: lock_tree()", $tree, 'ms');
	my @held = locks_held($quick ? 1000 : 5000);
	figure("$where: partition locks held, median", median(@held), 'us');
	figure("$where: partition locks held, p99.9", quantile(0.999, @held), 'us', '<= 100');
	figure("$where: the worker's processor", processor_share($quick ? 10 : 30, worker_pid()), '%', '<= 3');
	measure_statements($where) if $shape =~ /forest/;
	end_crowd($dbh, $crowd);
}

# Statements that wait at low priority for a session that is idle in transaction and has locked everything.
my $dump = connect_bench('dump');
$dump->do('BEGIN');
$dump->do(q{DO $$ DECLARE r text; BEGIN
	FOR r IN SELECT relname FROM pg_class WHERE relkind = 'r' AND relname ~ '^(many|busy|parts)' LOOP
		EXECUTE format('LOCK TABLE %I IN ACCESS SHARE MODE', r);
	END LOOP; END $$});
my $reader = connect_bench('reader');
sub read_time { return median(map { milliseconds_of($reader, 'SELECT count(*) FROM busy') } 1 .. 501) }
my $alone = read_time();
my %share;
my @waiting;
for my $count (10, 100)
{
	while (@waiting < $count)
	{
		my $waiter = connect_bench('polite');
		$waiter->do('ALTER TABLE busy ALTER a SET DEFAULT 2', { pg_async => DBD::Pg::PG_ASYNC });
		push @waiting, $waiter;
	}
	poll_until($dbh, "SELECT count(*) FROM pg_lockguard_progress WHERE phase = 'waiting'", $count);
	sleep(5);
	$share{$count} = processor_share($quick ? 10 : 30, (map { $_->{pg_pid} } @waiting), worker_pid());
	figure("$count statements at low priority behind one that holds $tables locks: their processor and the worker's",
		$share{$count}, '%', $count == 100 ? '<= 10' : undef);
}
figure('100 statements at low priority / 10 of them, processor', $share{100} / $share{10}, '', '<= 15', '%.1f');
figure('a reader of that table beside them / without them', read_time() / $alone, '', '<= 1.2', '%.2f');
$dump->do('ROLLBACK');
my $start = clock_gettime(CLOCK_MONOTONIC);
$_->pg_result for @waiting;
figure('from the end of the holder until all 100 are done', 1000 * (clock_gettime(CLOCK_MONOTONIC) - $start), 'ms');
