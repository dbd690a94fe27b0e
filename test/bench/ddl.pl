# Low-priority DDL beside what people do instead: what the other sessions suffer, and how long it
# takes. LOCKGUARD_QUICK=1 repeats less and waits shorter. LOCKGUARD_CHART names a folder for the
# timelines that ddl_chart.gnuplot draws. LOCKGUARD_SITUATIONS names some of the situations, as at the
# end of this file, to measure no others.
use strict;
use warnings;

use DdlBench;
use LockguardBench;
use List::Util qw(max sum);
use Time::HiRes qw(clock_gettime sleep time CLOCK_MONOTONIC);

my $quick = $ENV{LOCKGUARD_QUICK};
my $control = connect_bench();
$control->do("SET client_min_messages = warning");
$control->do("CREATE EXTENSION pg_lockguard");

# full or quick
sub choose { return $quick ? $_[1] : $_[0]; }

my $limit = choose(20, 5);

# Those that tell most.
my ($polling) = grep { $_->{nowait} } @strategies;
my @few_strategies = ($no_ddl, $plain, $loop_100, $polling, $low_priority);

# Measures a situation with all strategies. Their runs take turns, so that whatever else happens on
# the machine happens to all of them. $runs: of low_priority and of no DDL, and of the others; what
# does not succeed is not repeated. Returns the summaries by name, and in order.
sub measure
{
	my ($situation, $runs, $other_runs, @chosen) = @_;
	my (%runs, %failed);
	for my $round (1 .. max($runs, $other_runs))
	{
		for my $strategy (@chosen)
		{
			my $repeated = $strategy == $low_priority || $strategy == $no_ddl;
			next if $round > ($repeated ? $runs : $other_runs) || $failed{ $strategy->{name} };
			my $run = measure_run($control, $situation, $strategy);
			push @{ $runs{ $strategy->{name} } }, $run;
			$failed{ $strategy->{name} } = 1 if !$run->{done} && $strategy != $no_ddl;
		}
	}
	my @summaries = map { summary_of($_, @{ $runs{ $_->{name} } }) } @chosen;
	return ({ map { $_->{strategy}{name} => $_ } @summaries }, @summaries);
}

# Prints the table of a situation, and below it the figures of low_priority that have targets, each
# a name, value, unit, target and perhaps a format.
sub report
{
	my ($situation, $summaries, @figures) = @_;
	my $missed = grep { verdict(@$_[ 1, 3 ]) eq 'MISSED' } @figures;
	print "$situation->{title}\n";
	print_situation($situation, { $low_priority->{name} => $missed ? 'MISSED' : 'ok' }, @$summaries);
	figure("$low_priority->{name}: $_->[0]", @$_[ 1 .. $#$_ ]) for @figures;
	print "\n";
	return;
}

# Where it did not succeed at all, its time is the limit's, which no target allows.
sub milliseconds
{
	my ($seconds) = @_;
	return 1000 * ($seconds // $limit);
}

# ---------------------------------------------------------------------------------------------
# Situations
# ---------------------------------------------------------------------------------------------

my @item = (
	"CREATE TABLE item (id int PRIMARY KEY, value int)",
	"INSERT INTO item SELECT g, 0 FROM generate_series(0, 1000) g");
my $add_column = "ALTER TABLE item ADD COLUMN note int";

my $select = "\\set id random(1, 1000)\nSELECT value FROM item WHERE id = :id;\n";

# A SELECT that takes so many milliseconds, active all the time.
sub slow_select
{
	my ($milliseconds) = @_;
	my $seconds = $milliseconds / 1000;
	return {
		milliseconds => $milliseconds,
		text => "\\set id random(1, 1000)\n"
		  . "SELECT value, pg_sleep($seconds) FROM item WHERE id = :id;\n" };
}

sub idle_reader
{
	my $situation = {
		key => 'idle reader',
		hold => choose(6, 3),
		setup => \@item,
		tables => ['item'],
		clients => 8,
		rate => 800,
		scripts => [ { milliseconds => 0, text => $select } ],
		ddl => [$add_column],
		limit => $limit };
	$situation->{title} =
	  "A reader idle in transaction for $situation->{hold} s, 800 SELECT/s from 8 clients";
	$situation->{window} = $situation->{hold} + 1;
	$situation->{blockers} =
	  [ { begin => ["SELECT count(*) FROM item"], end => $situation->{hold} } ];
	my ($by_name, @summaries) = measure($situation, choose(10, 2), choose(3, 1), @strategies);
	my ($ours, $none) = map { $by_name->{ $_->{name} } } $low_priority, $no_ddl;
	report(
		$situation,
		\@summaries,
		[
			'worst SELECT / that without DDL, medians',
			$ours->{median_worst} / $none->{median_worst},
			'', '<= 1.5', '%.2f' ],
		[ 'SELECTs over 50 ms', $ours->{late}, '', '<= 0', '%d' ],
		[ 'done after the COMMIT, median', milliseconds($ours->{done}), 'ms', '<= 5', '%.2f' ]);
	keep_timelines($by_name, @summaries) if $ENV{LOCKGUARD_CHART};
	return;
}

sub transactions_of_20_ms
{
	my $situation = {
		key => '20 ms transactions',
		title => '32 clients, 20 ms transactions without a gap'
		  . ' (latencies: beyond what the transaction is meant to take)',
		setup => \@item,
		tables => ['item'],
		clients => 32,
		scripts => [ slow_select(20) ],
		ddl => [$add_column],
		window => 1,
		limit => $limit };
	my ($by_name, @summaries) = measure($situation, choose(10, 3), choose(5, 1), @strategies);
	my $ours = $by_name->{ $low_priority->{name} };
	my $plain_done = milliseconds($by_name->{ $plain->{name} }{done});
	report(
		$situation,
		\@summaries,
		[ 'time / that of plain, medians', milliseconds($ours->{done}) / $plain_done, '', '<= 5' ],
		[ 'done, longest', milliseconds($ours->{slowest}), 'ms', '<= 500' ],
		[ 'worst extra latency', $ours->{worst}, 'ms', '<= 60', '%.1f' ]);
	return;
}

sub transactions_to_200_ms
{
	my $situation = {
		key => '20 to 200 ms transactions',
		title => '32 clients, 20 to 200 ms transactions without a gap'
		  . ' (latencies: beyond what the transaction is meant to take)',
		setup => \@item,
		tables => ['item'],
		clients => 32,
		scripts => [ map { slow_select(20 * $_) } 1 .. 10 ],
		ddl => [$add_column],
		window => choose(3, 1.5),
		limit => $limit };
	my ($by_name, @summaries) = measure($situation, choose(10, 3), choose(3, 1), @strategies);
	my $ours = $by_name->{ $low_priority->{name} };
	report(
		$situation,
		\@summaries,
		[ 'done, longest', milliseconds($ours->{slowest}), 'ms', '<= 1000' ],
		[ 'worst extra latency', $ours->{worst}, 'ms', '<= 250', '%.1f' ]);
	return;
}

# A transaction in which the client thinks after each SELECT, so many milliseconds each time.
sub thoughtful
{
	my @milliseconds = @_;
	return {
		milliseconds => sum(@milliseconds),
		text => "\\set id random(1, 1000)\nBEGIN;\n"
		  . join('', map { "SELECT value FROM item WHERE id = :id;\n\\sleep $_ ms\n" } @milliseconds)
		  . "COMMIT;\n" };
}

sub thoughtful_writer
{
	my ($milliseconds) = @_;
	return {
		milliseconds => $milliseconds,
		text => "\\set id :client_id + 1\nBEGIN;\n"
		  . "UPDATE item SET value = value + 1 WHERE id = :id;\n\\sleep $milliseconds ms\nCOMMIT;\n" };
}

# pgbench prepares a statement when it first comes to it, and stands still until that is done: all of
# its clients, those that hold what the DDL waits for as well.
my $protocol = 'extended';

# 32 clients that leave no gap while they think. The targets: of the time in terms of plain's, of the
# longest time in ms, and of the worst extra latency in ms; undef for none.
sub think_time
{
	for my $case (
		[ '5 ms of thought', [ thoughtful(5) ], 5, undef, 60 ],
		[ '20 ms of thought', [ thoughtful(20) ], 5, undef, 60 ],
		[ '3 x 12 ms of thought', [ thoughtful(12, 12, 12) ], 5, undef, 100 ],
		[ 'writers, 20 ms of thought', [ thoughtful_writer(20) ], 5, undef, 60 ],
		[ '20 to 200 ms of thought', [ map { thoughtful(20 * $_) } 1 .. 10 ], undef, 1000, 250 ])
	{
		my ($name, $scripts, $times_plain, $longest, $worst) = @$case;
		my $situation = {
			key => $name,
			title => "32 clients, $name, without a gap"
			  . ' (latencies: beyond what the transaction is meant to take)',
			setup => \@item,
			tables => ['item'],
			clients => 32,
			protocol => $protocol,
			scripts => $scripts,
			ddl => [$add_column],
			window => choose(3, 1.5),
			limit => $limit };
		my ($by_name, @summaries) = measure($situation, choose(10, 3), choose(3, 1), @few_strategies);
		my $ours = $by_name->{ $low_priority->{name} };
		my $plain_done = milliseconds($by_name->{ $plain->{name} }{done});
		report(
			$situation,
			\@summaries,
			[
				'time / that of plain, medians', milliseconds($ours->{done}) / $plain_done,
				'', $times_plain && "<= $times_plain" ],
			[ 'done, longest', milliseconds($ours->{slowest}), 'ms', $longest && "<= $longest" ],
			[ 'worst extra latency', $ours->{worst}, 'ms', "<= $worst", '%.1f' ]);
	}
	return;
}

# The same, and one session among them that has forgotten its transaction. Once it has gone the
# statement is soon done; what it did to the others before is told at that moment.
sub think_time_and_idle
{
	for my $case ([ '20 ms of thought', [ thoughtful(20) ], 60 ],
		[ '20 to 200 ms of thought', [ map { thoughtful(20 * $_) } 1 .. 10 ], 250 ])
	{
		my ($name, $scripts, $worst) = @$case;
		my @stalls;
		my $hold = choose(5, 2);
		my $situation = {
			key => "$name and an idle session",
			title => "32 clients, $name, and one session idle in transaction for $hold s among them",
			setup => \@item,
			tables => ['item'],
			clients => 32,
			protocol => $protocol,
			scripts => $scripts,
			ddl => [$add_column],
			window => $hold + 1,
			limit => $limit,
			before_commit => sub { push @stalls, longest_stalls($_[0]) },
			blockers => [ { begin => ["SELECT count(*) FROM item"], end => $hold } ] };
		my ($by_name, @summaries) = measure($situation, choose(5, 2), 1, @few_strategies);
		my $ours = $by_name->{ $low_priority->{name} };
		report(
			$situation,
			\@summaries,
			[ 'longest burst while the session idles', max(@stalls), 'ms', '<= 0' ],
			[ 'done after the COMMIT, longest', milliseconds($ours->{slowest}), 'ms', '<= 1000' ],
			[ 'worst extra latency', $ours->{worst}, 'ms', "<= $worst", '%.1f' ]);
	}
	return;
}

# How long the waiting statements have kept others waiting so far, at most, in ms.
sub longest_stalls
{
	my ($dbh) = @_;
	return @{
		$dbh->selectcol_arrayref(
			"SELECT 1000 * extract(epoch FROM longest_stall) FROM pg_lockguard_progress") };
}

# pgbench's own transaction, on the table that each of them updates in one of ten rows, and on the
# largest one.
sub tpc_b
{
	$control->do($_) for (
		"CREATE TABLE pgbench_branches (bid int PRIMARY KEY, bbalance int, filler char(88)) WITH (fillfactor = 100)",
		"CREATE TABLE pgbench_tellers (tid int PRIMARY KEY, bid int, tbalance int, filler char(84))",
		"CREATE TABLE pgbench_accounts (aid int PRIMARY KEY, bid int, abalance int, filler char(84))",
		"CREATE TABLE pgbench_history (tid int, bid int, aid int, delta int, mtime timestamp, filler char(22))",
		"INSERT INTO pgbench_branches SELECT g, 0 FROM generate_series(1, 10) g",
		"INSERT INTO pgbench_tellers SELECT g, (g - 1) / 10 + 1, 0 FROM generate_series(1, 100) g",
		"INSERT INTO pgbench_accounts SELECT g, (g - 1) / 100000 + 1, 0, '' FROM generate_series(1, 1000000) g");
	my $script = <<~'SCRIPT';
		\set aid random(1, 1000000)
		\set bid random(1, 10)
		\set tid random(1, 100)
		\set delta random(-5000, 5000)
		BEGIN;
		UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;
		SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
		UPDATE pgbench_tellers SET tbalance = tbalance + :delta WHERE tid = :tid;
		UPDATE pgbench_branches SET bbalance = bbalance + :delta WHERE bid = :bid;
		INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (:tid, :bid, :aid, :delta, CURRENT_TIMESTAMP);
		END;
		SCRIPT
	for my $table (qw(pgbench_accounts pgbench_branches))
	{
		my $situation = {
			key => "TPC-B, $table",
			title => "16 clients of pgbench, scale 10, and ALTER TABLE $table (latencies: whole)",
			# The tables stay.
			setup => [ map { "VACUUM $_" } qw(pgbench_branches pgbench_tellers) ],
			tables => [],
			clients => 16,
			scripts => [ { milliseconds => 0, text => $script } ],
			ddl => ["ALTER TABLE $table ALTER filler SET DEFAULT ''"],
			window => 1,
			limit => $limit };
		my ($by_name, @summaries) =
		  measure($situation, choose(15, 5), choose(15, 5), $no_ddl, $plain, $loop_100, $low_priority);
		my ($ours, $theirs) = map { $by_name->{ $_->{name} } } $low_priority, $plain;
		report(
			$situation,
			\@summaries,
			[ 'done, median', milliseconds($ours->{done}), 'ms', '<= 15' ],
			[
				'worst transaction / that of plain, medians',
				$ours->{median_worst} / $theirs->{median_worst},
				'', '<= 1.5', '%.2f' ]);
	}
	$control->do("DROP TABLE $_") for map { "pgbench_$_" } qw(branches tellers accounts history);
	return;
}

sub writers_and_idle
{
	# How long the statement has kept others waiting, at most, by the time the idle session ends.
	my @stalls;
	my $look = sub {
		my ($dbh) = @_;
		my ($milliseconds) = $dbh->selectrow_array(
			"SELECT 1000 * extract(epoch FROM longest_stall) FROM pg_lockguard_progress");
		push @stalls, $milliseconds if defined $milliseconds;
	};
	my $situation = {
		key => 'writers and an idle session',
		hold => choose(5, 1.5),
		setup => \@item,
		tables => ['item'],
		clients => 16,
		scripts => [
			{
				milliseconds => 20,
				text => "\\set id :client_id + 1\nBEGIN;\n"
				  . "UPDATE item SET value = value + 1 WHERE id = :id;\n"
				  . "SELECT pg_sleep(0.02);\nCOMMIT;\n" } ],
		ddl => [$add_column],
		limit => $limit,
		before_commit => $look };
	$situation->{title} =
	  "16 writers without a gap, and one session idle in transaction for $situation->{hold} s"
	  . ' among them';
	$situation->{window} = $situation->{hold} + 1;
	$situation->{blockers} = [
		{
			begin => ["UPDATE item SET value = 0 WHERE id = 1000"],
			end => $situation->{hold} } ];
	my ($by_name, @summaries) = measure($situation, choose(5, 2), 1, $quick ? @few_strategies : @strategies);
	my $ours = $by_name->{ $low_priority->{name} };
	die "pg_lockguard_progress did not show the waiting statement"
	  if @stalls != @{ $ours->{runs} };
	report(
		$situation,
		\@summaries,
		[ 'longest burst while the session idles', max(@stalls), 'ms', '<= 0' ],
		[
			'done after the COMMIT, longest',
			milliseconds($ours->{slowest}), 'ms', '<= 1000' ]);
	return;
}

sub busy_partition
{
	my $situation = {
		key => 'busy partition',
		hold => choose(3, 1.5),
		setup => [
			"CREATE TABLE event (id int PRIMARY KEY, value int) PARTITION BY RANGE (id)",
			"SELECT format('CREATE TABLE event_%s PARTITION OF event FOR VALUES FROM (%s) TO (%s)',
			   n, n * 100, n * 100 + 100) FROM generate_series(0, 99) n",
			"INSERT INTO event SELECT g, 0 FROM generate_series(0, 9999) g" ],
		tables => ['event'],
		clients => 8,
		rate => 500,
		# Planned each time: it locks the partition that it reads, and no other.
		protocol => 'extended',
		scripts => [
			{
				milliseconds => 0,
				text => "\\set id random(0, 9999)\nSELECT value FROM event WHERE id = :id;\n" } ],
		ddl => ["ALTER TABLE event ADD COLUMN note int"],
		limit => $limit };
	# One statement each: a hundred partitions need not be made in one transaction.
	my $partitions = splice(@{ $situation->{setup} }, 1, 1);
	splice(@{ $situation->{setup} }, 1, 0, @{ $control->selectcol_arrayref($partitions) });
	$situation->{title} = 'A table with 100 partitions, one of them busy for'
	  . " $situation->{hold} s, 500 SELECT/s of the table";
	$situation->{window} = $situation->{hold} + 1;
	$situation->{blockers} = [
		{
			begin => ["SELECT count(*) FROM event_42"],
			busy => "SELECT pg_sleep(0.02), count(*) FROM event_42",
			end => $situation->{hold} } ];
	# The statement itself stalls the others for as long as it takes.
	my $session = connect_bench();
	$session->do("SET pg_lockguard.ddl_mode = off");
	my @alone;
	for (1 .. 5)
	{
		set_up($control, $situation);
		push @alone, milliseconds_of($session, $situation->{ddl}[0]);
	}
	$session->disconnect;
	my ($by_name, @summaries) = measure($situation, choose(5, 2), 1, $quick ? @few_strategies : @strategies);
	my $ours = $by_name->{ $low_priority->{name} };
	my $late_by_waiting = grep { $_->{extra} > 50 && $_->{finished} < $_->{commit} }
	  map { my $run = $_; map { { %$_, commit => $run->{commit} } } @{ $run->{transactions} } }
	  @{ $ours->{runs} };
	report(
		$situation,
		\@summaries,
		[ 'SELECTs over 50 ms', $ours->{late}, '', '<= 0', '%d' ],
		[ 'of them finished before the COMMIT', $late_by_waiting, '', '<= 0', '%d' ],
		[ 'the statement alone, unguarded, no load', median(@alone), 'ms', undef, '%.1f' ]);
	return;
}

sub fifty_tables
{
	my $last = 49;
	my $hold = choose(3, 1.5);
	my $situation = {
		key => '50 tables',
		title =>
		  "50 statements wait for 50 tables, each with its reader idle in transaction, 800 SELECT/s",
		setup => [
			map {
				(
					"CREATE TABLE item$_ (id int PRIMARY KEY, value int)",
					"INSERT INTO item$_ SELECT g, 0 FROM generate_series(0, 100) g")
			} 0 .. $last ],
		tables => [ map { "item$_" } 0 .. $last ],
		clients => 8,
		rate => 800,
		protocol => 'simple',
		scripts => [
			{
				milliseconds => 0,
				text => "\\set n random(0, $last)\n\\set id random(1, 100)\n"
				  . "SELECT value FROM item:n WHERE id = :id;\n" } ],
		blockers =>
		  [ map { { begin => ["SELECT count(*) FROM item$_"], end => $hold + $_ / 50 } } 0 .. $last ],
		ddl => [ map { "ALTER TABLE item$_ ADD COLUMN note int" } 0 .. $last ],
		window => $hold + 2,
		limit => $limit };
	my ($by_name, @summaries) =
	  measure($situation, choose(3, 1), 1, $no_ddl, $plain, $loop_100, $guard_timeout,
		$low_priority);
	my $ours = $by_name->{ $low_priority->{name} };
	report($situation, \@summaries,
		[ 'SELECTs over 50 ms', $ours->{late}, '', '<= 0', '%d' ]);
	return;
}

# What a statement costs where it need not wait.
sub nothing_in_the_way
{
	my $pairs = choose(2000, 1000);
	my $situation = { setup => \@item, tables => ['item'] };
	my $session = connect_bench();
	print "Nothing in the way: $pairs pairs of ALTER TABLE\n";
	for my $durable (1, 0)
	{
		set_durable($durable, $session);
		my $commits = $durable ? 'durable commits (the default)' : 'fsync off';
		compare_uncontended($session, $situation, $pairs, "ADD COLUMN, $commits",
			sub { return "ALTER TABLE item ADD COLUMN note$_[0] int" });
		compare_uncontended($session, $situation, $pairs, "SET DEFAULT, $commits",
			sub { return "ALTER TABLE item ALTER COLUMN value SET DEFAULT $_[0]" });
	}
	$session->disconnect;
	drop_tables($control, $situation);
	print "\n";
	return;
}

# compare_uncontended(SESSION, SITUATION, PAIRS, NAME, STATEMENT_OF): STATEMENT_OF->(N) is the text of
# the statement with that number.
sub compare_uncontended
{
	my ($session, $situation, $pairs, $name, $statement_of) = @_;
	my $number = 0;
	my $next = sub { return $statement_of->($number++) };
	my (%times, @difference);
	for my $pair (-99 .. $pairs)
	{
		# The table does not run out of columns, and the catalogues stay small.
		if ($pair % 100 == 1)
		{
			set_up($control, $situation);
			$control->do("VACUUM $_") for qw(pg_attrdef pg_attribute pg_depend pg_class);
			microseconds_by_mode($session, $pair, $next, 'off', 'low_priority');
		}
		my %time = microseconds_by_mode($session, $pair, $next, 'off', 'low_priority');
		next if $pair <= 0;
		push @{ $times{$_} }, $time{$_} for keys %time;
		push @difference, $time{low_priority} - $time{off};
	}
	my $off = median(@{ $times{off} });
	figure("$name: $plain->{name}, median", $off, 'us', undef, '%.0f');
	figure("$name: $low_priority->{name}, median",
		median(@{ $times{low_priority} }), 'us', undef, '%.0f');
	figure("$name: $low_priority->{name} adds, median of the pairs",
		100 * median(@difference) / $off, '%', '<= 5', '%.1f');
	return;
}

# Whether commits wait until they are on disk: as by default, or, to see what a statement costs
# without that, as everywhere else in this benchmark.
sub set_durable
{
	my ($durable, $session) = @_;
	$control->do('ALTER SYSTEM SET fsync = ' . ($durable ? 'on' : 'off'));
	$control->do('SELECT pg_reload_conf()');
	poll_until($control, "SELECT (setting = 'on')::int FROM pg_settings WHERE name = 'fsync'", $durable);
	$_->do('SET synchronous_commit = ' . ($durable ? 'on' : 'off')) for $control, $session;
	return;
}

# What the session uses of a processor while it waits for an idle reader.
sub long_wait
{
	my $seconds = choose(60, 10);
	my @waiting = ($plain, $loop_100, $polling, $low_priority);
	my $situation = {
		setup => [ map { "CREATE TABLE item$_ (id int)" } 0 .. $#waiting ],
		tables => [ map { "item$_" } 0 .. $#waiting ] };
	set_up($control, $situation);
	my $reader = connect_bench('blocker');
	$reader->do("BEGIN");
	$reader->do("SELECT count(*) FROM $_") for @{ $situation->{tables} };
	my @sessions = map {
		start_statement($waiting[$_], "ALTER TABLE item$_ ADD COLUMN note int",
			"item$_", $seconds + $limit)
	} 0 .. $#waiting;
	for my $session (@sessions)
	{
		print { $session->{go} } '.';
	}
	sleep(1);
	my $start = clock_gettime(CLOCK_MONOTONIC);
	my @before = map { processor_nanoseconds($_->{backend}) } @sessions;
	sleep($seconds);
	my @used = map { processor_nanoseconds($sessions[$_]{backend}) - $before[$_] } 0 .. $#sessions;
	my $elapsed = clock_gettime(CLOCK_MONOTONIC) - $start;
	$reader->do("COMMIT");
	for my $result (map { read_result($_) } @sessions)
	{
		die "a statement was not done when its reader had ended" if !$result->{succeeded};
	}
	drop_tables($control, $situation);
	print "Waiting for $seconds s: use of a processor by the session's backend\n";
	for my $n (0 .. $#waiting)
	{
		figure("$waiting[$n]{name}: of a core",
			100 * $used[$n] / (1e9 * $elapsed),
			'%', $waiting[$n] == $low_priority ? '<= 0.2' : undef, '%.4f');
	}
	print "\n";
	return;
}

# What many waiting statements use of a processor together, beside what one of them does: each has to
# look after those behind it, but not at all the others for its own sake.
sub many_waiting
{
	my $seconds = choose(30, 10);
	my $many = 50;
	my $situation = {
		setup => [ map { ("CREATE TABLE item$_ (id int)", "CREATE TABLE own$_ (id int)") } 1 .. $many ],
		tables => [ map { ("item$_", "own$_") } 1 .. $many ] };
	set_up($control, $situation);
	my $reader = connect_bench('blocker');
	$reader->do("BEGIN");
	$reader->do("SELECT count(*) FROM item$_") for 1 .. $many;
	print "Statements at low priority that wait for $seconds s: use of a processor by all of them\n";
	for my $case (
		[ 'one', 1, 0, sub { return 1 } ],
		[ "$many, a table each", $many, 0, sub { return $_[0] } ],
		[ "$many, all for one table", $many, 0, sub { return 1 } ],
		[ "$many in transactions that hold a lock, all for one table", $many, 1, sub { return 1 } ])
	{
		my ($name, $count, $in_transaction, $table_of) = @$case;
		my @waiting = map { connect_bench() } 1 .. $count;
		for my $n (1 .. $count)
		{
			$waiting[ $n - 1 ]->do("BEGIN; LOCK TABLE own$n") if $in_transaction;
			$waiting[ $n - 1 ]->do('ALTER TABLE item' . $table_of->($n) . ' ADD COLUMN note int',
				{ pg_async => DBD::Pg::PG_ASYNC() });
		}
		poll_until($control, 'SELECT count(*) FROM pg_lockguard_progress', $count);
		sleep(1);
		my @pids = map { $_->{pg_pid} } @waiting;
		my $start = clock_gettime(CLOCK_MONOTONIC);
		my @before = map { processor_nanoseconds($_) } @pids;
		sleep($seconds);
		my $used = 0;
		$used += processor_nanoseconds($pids[$_]) - $before[$_] for 0 .. $#pids;
		my $elapsed = clock_gettime(CLOCK_MONOTONIC) - $start;
		figure("$name: of a core", 100 * $used / (1e9 * $elapsed), '%', '<= ' . ($count == 1 ? 0.2 : 1), '%.4f');
		$control->do('SELECT pg_terminate_backend(pid) FROM pg_lockguard_progress');
		$_->disconnect for @waiting;
		poll_until($control, 'SELECT count(*) FROM pg_lockguard_progress', 0);
	}
	$reader->do("COMMIT");
	$reader->disconnect;
	drop_tables($control, $situation);
	print "\n";
	return;
}

# A session that executes many statements, every other one of them after waiting for a reader. The
# same with plain statements shows what PostgreSQL itself keeps.
sub many_statements
{
	my $statements = choose(10_000, 1000);
	my $situation = { setup => \@item, tables => ['item'] };
	print "$statements statements in one session, every other one waits for a reader\n";
	for my $mode ('off', 'low_priority')
	{
		set_up($control, $situation);
		my $reader = connect_bench('blocker');
		my $dbh = connect_bench();
		my ($pid) = $dbh->selectrow_array("SELECT pg_backend_pid()");
		$dbh->do("SET pg_lockguard.ddl_mode = $mode");
		my $waits = $control->prepare(
			$mode eq 'off'
			? "SELECT count(*) FROM pg_locks WHERE pid = $pid AND NOT granted"
			: "SELECT count(*) FROM pg_lockguard_progress WHERE pid = $pid");
		my $execute = sub {
			my ($n) = @_;
			my $statement = "ALTER TABLE item ALTER COLUMN value SET DEFAULT $n";
			if ($n % 2)
			{
				$dbh->do($statement);
				return;
			}
			$reader->do("BEGIN; SELECT FROM item WHERE id = 1");
			$dbh->do($statement, { pg_async => DBD::Pg::PG_ASYNC() });
			my $deadline = time() + 60;
			until ($control->selectrow_array($waits))
			{
				die "the statement does not wait" if time() > $deadline;
			}
			$reader->do("COMMIT");
			$dbh->pg_result;
		};
		my $sizes = sub {
			my $contexts = "SELECT sum(total_bytes) FROM pg_backend_memory_contexts";
			$dbh->selectrow_array($contexts);
			return (private_memory($pid), $dbh->selectrow_array($contexts) / 1024);
		};
		# The first fill the caches.
		$execute->($_) for 1 .. $statements / 10;
		my ($process_before, $contexts_before) = $sizes->();
		$execute->($_) for 1 .. $statements;
		my ($process, $contexts) = $sizes->();
		my $name = $mode eq 'off' ? $plain->{name} : $low_priority->{name};
		my $guarded = $mode ne 'off';
		figure("$name: growth of the process",
			$process - $process_before, 'kB', $guarded ? '<= 64' : undef, '%.0f');
		figure("$name: growth of its memory contexts",
			$contexts - $contexts_before, 'kB', $guarded ? '<= 0' : undef, '%.0f');
		$_->disconnect for $reader, $dbh;
		drop_tables($control, $situation);
	}
	print "\n";
	return;
}

# ---------------------------------------------------------------------------------------------
# The chart
# ---------------------------------------------------------------------------------------------

# Writes the timelines of plain, of the lock_timeout loop that costs others least, and of
# low_priority: each that of the run whose worst SELECT is the median. A line is the time and the
# latency of the slowest SELECT among those due within 20 ms. The times of the events go into a
# file of their own.
sub keep_timelines
{
	my ($by_name, @summaries) = @_;
	my ($loop) = sort { $a->{lost} <=> $b->{lost} }
	  grep { $_->{strategy}{loop} && defined $_->{done} } @summaries;
	die "no lock_timeout loop has succeeded" if !defined $loop;
	my %timelines = (
		plain => $by_name->{ $plain->{name} },
		loop => $loop,
		low_priority => $by_name->{ $low_priority->{name} });
	my $folder = $ENV{LOCKGUARD_CHART};
	open(my $events, '>', "$folder/events.gnuplot") or die "$folder/events.gnuplot: $!";
	for my $name (sort keys %timelines)
	{
		my @runs = sort { $a->{worst} <=> $b->{worst} } @{ $timelines{$name}{runs} };
		my $run = $runs[ $#runs / 2 ];
		my %slowest;
		for my $transaction (@{ $run->{transactions} })
		{
			my $bin = int(50 * ($transaction->{due} - $run->{start} + 1));
			$slowest{$bin} = max($slowest{$bin} // 0, $transaction->{extra});
		}
		open(my $file, '>', "$folder/$name.tsv") or die "$folder/$name.tsv: $!";
		printf $file "%.2f\t%.2f\n", $_ / 50 - 0.99, $slowest{$_}
		  for sort { $a <=> $b } keys %slowest;
		close($file);
		printf $events "%s_title = '%s'\n%s_commit = %.3f\n%s_done = %.3f\n%s_worst = %.0f\n",
		  $name, $timelines{$name}{strategy}{name}, $name, $run->{commit} - $run->{start},
		  $name, $run->{end} - $run->{start}, $name, $run->{worst};
	}
	close($events);
	return;
}

# ---------------------------------------------------------------------------------------------

print <<'TEXT';
Strategies: "loop": lock_timeout and the rest after each failure; 500 ms: the rest is random, up to
1 s doubling to 60 s; 100 ms, 200 ms: growing by 100 ms, no rest; 0.1 s/0.05 s: twice, then
0.2/0.05, 0.3/0.1, 0.4/0.15, 0.5/2 four times, 1/5. "pg_lockguard lock_timeout" is tried again after
1 s. Each row: all runs of a strategy together.
  worst, 99.9 %  latency of the other sessions' transactions, from when they were due
  >50 ms         the part of them that took over 50 ms longer than without DDL
  lost           what all of them took beyond the usual latency of the same load, median of the runs
  done           from the blocker's COMMIT, or else from the beginning, until the statement was done:
                 median, longest
  tries          median number of attempts

TEXT
my @situations = (
	idle_reader => \&idle_reader,
	transactions_of_20_ms => \&transactions_of_20_ms,
	transactions_to_200_ms => \&transactions_to_200_ms,
	think_time => \&think_time,
	think_time_and_idle => \&think_time_and_idle,
	tpc_b => \&tpc_b,
	writers_and_idle => \&writers_and_idle,
	busy_partition => \&busy_partition,
	nothing_in_the_way => \&nothing_in_the_way,
	long_wait => \&long_wait,
	many_waiting => \&many_waiting,
	many_statements => \&many_statements,
	fifty_tables => \&fifty_tables,
);
my %chosen = map { $_ => 1 } split ' ', $ENV{LOCKGUARD_SITUATIONS} // '';
while (my ($name, $measure) = splice(@situations, 0, 2))
{
	$measure->() if !%chosen || $chosen{$name};
}
