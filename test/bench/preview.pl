# ddl_preview() on a table of 1 GB: how long each form takes, beside what the statement really takes;
# and what others feel of 10 previews a second. LOCKGUARD_QUICK=1 takes a smaller table, and less time.
use strict;
use warnings;

use LockguardBench;
use POSIX ();
use Time::HiRes qw(clock_gettime sleep CLOCK_MONOTONIC);

my $quick = $ENV{LOCKGUARD_QUICK};
my $private = $ENV{LOCKGUARD_PRIVATE};
my $rows = $quick ? 500_000 : 5_000_000;    # about 200 bytes each
my $clients = 8;
my $rate = 800;    # SELECTs a second
my $previews_per_second = 10;
my $seconds = $quick ? 5 : 20;
my $rounds = $quick ? 2 : 4;

# What is previewed: [ name, statement, is it run for real ]. What is run is rolled back.
my @forms = (
	[ 'ADD COLUMN', 'ALTER TABLE big ADD added int' ],
	[ 'ADD COLUMN with a constant default', 'ALTER TABLE big ADD added int NOT NULL DEFAULT 5' ],
	[ 'ALTER COLUMN TYPE', 'ALTER TABLE big ALTER amount TYPE bigint' ],
	[ 'ADD COLUMN with a volatile default', 'ALTER TABLE big ADD added float DEFAULT random()' ],
	[ 'SET NOT NULL', 'ALTER TABLE big ALTER amount SET NOT NULL' ],
	[ 'ADD CHECK', 'ALTER TABLE big ADD CHECK (amount >= 0)' ],
	[ 'ADD CHECK NOT VALID', 'ALTER TABLE big ADD CHECK (amount >= 0) NOT VALID' ],
	[ 'ADD FOREIGN KEY', 'ALTER TABLE big ADD FOREIGN KEY (other_id) REFERENCES other' ],
	[ 'ADD UNIQUE', 'ALTER TABLE big ADD UNIQUE (id, amount)' ],
	[ 'CREATE INDEX', 'CREATE INDEX ON big (amount)' ],
	[ 'CLUSTER', 'CLUSTER big USING big_pkey' ],
	[ 'TRUNCATE', 'TRUNCATE big' ],
	[ 'DROP TABLE', 'DROP TABLE big' ]);

my $control = connect_bench();
$control->do("SET client_min_messages = warning");
$control->do("CREATE EXTENSION pg_lockguard");
$control->do("CREATE TABLE other (id int PRIMARY KEY)");
$control->do("INSERT INTO other SELECT generate_series(0, 999)");
$control->do("CREATE TABLE big (id int PRIMARY KEY, other_id int, amount int, note text)");
$control->do("INSERT INTO big SELECT i, i % 1000, i, repeat('x', 160) FROM generate_series(1, $rows) i");
$control->do("CREATE INDEX ON big (other_id)");
$control->do("CREATE INDEX ON big (amount, other_id)");
$control->do("VACUUM ANALYZE big");
$control->do("CHECKPOINT");
my ($size) = $control->selectrow_array("SELECT pg_size_pretty(pg_relation_size('big'))");

# ---------------------------------------------------------------------------------------------
# Each form
# ---------------------------------------------------------------------------------------------

sub measure_forms
{
	my $dbh = connect_bench();
	$dbh->do("SET client_min_messages = error");
	$dbh->do("SET pg_lockguard.ddl_mode = off");
	my (@rows, @previews);
	for my $form (@forms)
	{
		my ($name, $statement) = @$form;
		my @preview = map { milliseconds_of($dbh, "SELECT * FROM ddl_preview('$statement')") } 1 .. 11;
		my $action = $dbh->selectrow_array("SELECT action FROM ddl_preview('$statement') ORDER BY step DESC LIMIT 1");
		$dbh->do("BEGIN");
		my $real = milliseconds_of($dbh, $statement);
		$dbh->do("ROLLBACK");
		# The first one reads catalogs that the session has not had yet.
		shift @preview;
		push @previews, median(@preview);
		push @rows, [ $name, $action, sprintf('%.1f', median(@preview)), sprintf('%.1f', quantile(1, @preview)), sprintf('%.0f', $real) ];
	}
	print "A table of $size with three indexes. The locks of a preview are held for less than the time that it takes.\n";
	print_table([ 'statement', 'it does', 'preview ms', 'the longest of 10', 'statement ms' ], @rows);
	print "\n";
	figure('preview, the slowest form', quantile(1, @previews), 'ms', '<= 20', '%.1f');
	$dbh->disconnect;
	return;
}

# ---------------------------------------------------------------------------------------------
# What others feel
# ---------------------------------------------------------------------------------------------

sub start_load
{
	my ($prefix) = @_;
	unlink glob("$prefix*");
	open(my $script, '>', "$private/preview_load.sql") or die "preview_load.sql: $!";
	print $script "\\set id random(1, $rows)\nSELECT amount FROM big WHERE id = :id;\n";
	close($script) or die "preview_load.sql: $!";
	my $pid = fork() // die "fork: $!";
	if ($pid == 0)
	{
		open(STDOUT, '>', "$private/pgbench.log") && open(STDERR, '>&', \*STDOUT)
		  && exec('pgbench', '-n', '-M', 'prepared', '-f', "$private/preview_load.sql", '-c', $clients,
			'--rate', $rate, '-T', $seconds, '-l', '--log-prefix', $prefix);
		POSIX::_exit(127);
	}
	return $pid;
}

# Latencies from when a SELECT was due, in ms.
sub latencies_of
{
	my ($prefix) = @_;
	my @latencies;
	for my $name (glob("$prefix*"))
	{
		open(my $file, '<', $name) or die "$name: $!";
		push @latencies, map { (split)[2] / 1000 } <$file>;
	}
	return @latencies;
}

# Previews at their times until the load has ended; how many there were.
sub preview_until_end
{
	my ($pid) = @_;
	my $dbh = connect_bench();
	$dbh->do("SET client_min_messages = error");
	my ($count, $due) = (0, clock_gettime(CLOCK_MONOTONIC));
	while (waitpid($pid, POSIX::WNOHANG()) == 0)
	{
		my $form = $forms[ $count++ % @forms ];
		$dbh->do("SELECT * FROM ddl_preview('$form->[1]')");
		$due += 1 / $previews_per_second;
		my $wait = $due - clock_gettime(CLOCK_MONOTONIC);
		sleep($wait) if $wait > 0;
	}
	die "pgbench failed: see $private/pgbench.log" if $? != 0;
	$dbh->disconnect;
	return $count;
}

sub measure_load
{
	my (%latencies, $previews);
	for my $round (1 .. $rounds)
	{
		for my $with ($round % 2 ? (0, 1) : (1, 0))
		{
			my $pid = start_load("$private/preview_log");
			if ($with) { $previews += preview_until_end($pid) }
			else { waitpid($pid, 0); die "pgbench failed: see $private/pgbench.log" if $? != 0 }
			push @{ $latencies{$with} }, latencies_of("$private/preview_log");
		}
	}
	my @rows;
	for my $with (0, 1)
	{
		my @all = @{ $latencies{$with} };
		push @rows, [ $with ? "$previews_per_second previews a second" : 'none', scalar @all,
			map { sprintf('%.1f', quantile($_, @all)) } 0.5, 0.99, 0.999, 1 ];
	}
	print "$rate SELECTs a second by $clients sessions beside previews of the forms above ($previews in all)\n";
	print_table([ 'previews', 'SELECTs', 'median ms', 'p99 ms', 'p99.9 ms', 'worst ms' ], @rows);
	print "\n";
	figure('p99.9 of the SELECTs, more than without previews',
		quantile(0.999, @{ $latencies{1} }) - quantile(0.999, @{ $latencies{0} }), 'ms', '<= 25', '%.1f');
	return;
}

measure_forms();
measure_load();
