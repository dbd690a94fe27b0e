# Many guarded statements in one transaction: what they cost it, and what they cost other sessions
# while it is open. Always paired with ddl_mode = off, in turns. LOCKGUARD_QUICK=1 repeats less.
use strict;
use warnings;

use LockguardBench;
use POSIX ();
use Time::HiRes qw(clock_gettime sleep CLOCK_MONOTONIC);

my $quick = $ENV{LOCKGUARD_QUICK};
my $private = $ENV{LOCKGUARD_PRIVATE};
my @modes = ('off', 'low_priority');
my %name_of = (off => 'plain', low_priority => 'guarded');

my $control = connect_bench();
$control->do("SET client_min_messages = warning");
$control->do("CREATE ROLE owner");

# The modes in the order in which they have their turn in this round.
sub in_turns { return $_[0] % 2 ? @modes : reverse @modes; }

# Runs a program; dies with what it has said where it fails.
sub run_program
{
	my (@command) = @_;
	my $log = "$private/program.log";
	my $pid = fork() // die "fork: $!";
	if ($pid == 0)
	{
		open(STDOUT, '>', $log) && open(STDERR, '>&', \*STDOUT) && exec(@command);
		die "$command[0]: $!";
	}
	waitpid($pid, 0);
	return if $? == 0;
	open(my $file, '<', $log) or die "$log: $!";
	die "$command[0] failed: " . join('', <$file>);
}

# What was measured guarded, to that without: the median over the rounds, so that what else goes on
# on the machine meets both of a pair.
sub ratio_of
{
	my (%values) = @_;
	my ($plain, $guarded) = @values{@modes};
	return median(map { $guarded->[$_] / $plain->[$_] } 0 .. $#$plain);
}

# ---------------------------------------------------------------------------------------------
# What it costs the transaction
# ---------------------------------------------------------------------------------------------

my $tables = $quick ? 500 : 2000;

sub statements_of
{
	my ($n) = @_;
	return ("CREATE TABLE many_$n (id int NOT NULL, value int)",
		"ALTER TABLE many_$n OWNER TO owner",
		"ALTER TABLE ONLY many_$n ADD CONSTRAINT many_${n}_pkey PRIMARY KEY (id)",
		"CREATE INDEX many_${n}_value_idx ON many_$n (value)");
}

# The processor time, in seconds, of each quarter of a transaction that makes the tables. It is
# committed where $keep says so.
sub seconds_by_quarter
{
	my ($mode, $keep) = @_;
	my $dbh = connect_bench();
	my ($pid) = $dbh->selectrow_array("SELECT pg_backend_pid()");
	$dbh->do("SET pg_lockguard.ddl_mode = $mode");
	# What a new session has to learn first is none of the first quarter's work.
	$dbh->do($_) for "BEGIN", map({ statements_of("first_$_") } 1 .. 10), "ROLLBACK";
	$dbh->do("BEGIN");
	my @seconds;
	for my $quarter (0 .. 3)
	{
		my $before = processor_nanoseconds($pid);
		for my $n ($quarter * $tables / 4 + 1 .. ($quarter + 1) * $tables / 4)
		{
			$dbh->do($_) for statements_of($n);
		}
		push @seconds, (processor_nanoseconds($pid) - $before) / 1e9;
	}
	$dbh->do($keep ? "COMMIT" : "ROLLBACK");
	$dbh->disconnect;
	return @seconds;
}

sub measure_growth
{
	my %quarters;
	for my $round (1 .. ($quick ? 1 : 3))
	{
		for my $mode (in_turns($round))
		{
			my @seconds = seconds_by_quarter($mode, 0);
			push @{ $quarters{$mode}[$_] }, $seconds[$_] for 0 .. 3;
		}
	}
	my (@rows, %median);
	for my $quarter (0 .. 3)
	{
		my %seconds = map { $_ => median(@{ $quarters{$_}[$quarter] }) } @modes;
		push @{ $median{$_} }, $seconds{$_} for @modes;
		push @rows,
		  [
			'quarter ' . ($quarter + 1),
			map({ sprintf('%.2f', $seconds{$_}) } @modes),
			sprintf('%.2f', $seconds{low_priority} / $seconds{off}) ];
	}
	print "$tables x (CREATE TABLE, ALTER OWNER, ADD PRIMARY KEY, CREATE INDEX) in one transaction:"
	  . " processor\n";
	print_table([ '', 'plain s', 'guarded s', 'guarded / plain' ], @rows);
	print "\n";
	my %growth = map { $_ => $median{$_}[3] / $median{$_}[0] } @modes;
	figure("last quarter / first quarter, $name_of{$_}", $growth{$_}, '', undef, '%.2f') for @modes;
	figure('that growth, guarded / plain', $growth{low_priority} / $growth{off}, '', '<= 1.1', '%.2f');
	return;
}

# pg_restore --single-transaction of a dump of those tables.
sub measure_restore
{
	my $dump = "$private/many.dump";
	seconds_by_quarter('off', 1);
	run_program('pg_dump', '-Fc', '-f', $dump, 'postgres');
	my %seconds;
	for my $round (1 .. ($quick ? 3 : 7))
	{
		for my $mode (in_turns($round))
		{
			$control->do("CREATE DATABASE restored");
			$control->do("CHECKPOINT");
			local $ENV{PGOPTIONS} = "-c pg_lockguard.ddl_mode=$mode";
			my $start = clock_gettime(CLOCK_MONOTONIC);
			run_program('pg_restore', '--single-transaction', '-d', 'restored', $dump);
			push @{ $seconds{$mode} }, clock_gettime(CLOCK_MONOTONIC) - $start;
			$control->do("DROP DATABASE restored");
		}
	}
	figure("pg_restore -1 of $tables tables, $name_of{$_}, median", median(@{ $seconds{$_} }),
		's', undef, '%.2f')
	  for @modes;
	figure('guarded / plain, median of pairs', ratio_of(%seconds), '', '<= 1.05', '%.3f');
	return;
}

# ---------------------------------------------------------------------------------------------
# What it costs other sessions
# ---------------------------------------------------------------------------------------------

my $old_tables = 500;
my $seconds = $quick ? 2 : 4;

# The processor time, in seconds, of all sessions that have ended.
sub seconds_of_ended
{
	open(my $file, '<', "$ENV{PGDATA}/postmaster.pid") or die "postmaster.pid: $!";
	chomp(my $pid = <$file>);
	open(my $stat, '<', "/proc/$pid/stat") or die "/proc/$pid/stat: $!";
	my @fields = split ' ', <$stat> =~ s/.*\) //r;
	return ($fields[13] + $fields[14]) / POSIX::sysconf(POSIX::_SC_CLK_TCK());
}

# What 4 clients of pgbench get: transactions a second, the 99th percentile of their latency in ms, and
# how many us of processor time a transaction takes the server, which tells most on a busy machine.
sub pgbench
{
	my (@options) = @_;
	my $prefix = "$private/latencies";
	my $before = seconds_of_ended();
	run_program('pgbench', '-n', '-c', 4, '-j', 2, '-T', $seconds, '-l', "--log-prefix=$prefix",
		@options);
	poll_until($control,
		"SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgbench'", 0);
	sleep(0.2);
	my $used = seconds_of_ended() - $before;
	my @microseconds;
	for my $log (glob("$prefix.*"))
	{
		open(my $file, '<', $log) or die "$log: $!";
		push @microseconds, map { (split ' ')[2] } <$file>;
		close($file);
		unlink($log);
	}
	return {
		tps => @microseconds / $seconds,
		p99 => quantile(0.99, @microseconds) / 1000,
		processor => 1e6 * $used / @microseconds };
}

# Begins a transaction with the guarded statements, each on an old table of its own.
sub open_transaction
{
	my ($mode) = @_;
	my $dbh = connect_bench();
	$dbh->do("SET pg_lockguard.ddl_mode = $mode");
	$dbh->do("BEGIN");
	$dbh->do("ALTER TABLE old_$_ ADD COLUMN note int") for 1 .. $old_tables;
	return $dbh;
}

# In the second situation the rows that are read have been written since the transaction began, so
# that a reader has to ask which transaction of its snapshot wrote them.
my @situations = (
	{ title => 'pgbench -S', options => ['-S'] },
	{
		title => 'pgbench -S and updates, 9 : 1',
		options => [ '-b', 'select-only@9', '-b', 'simple-update@1' ] });

sub measure_others
{
	$control->do("CREATE TABLE old_$_ (id int)") for 1 .. $old_tables;
	run_program('pgbench', '-i', '-q', '-s', 5, 'postgres');
	print "$old_tables guarded statements on old tables in one transaction, which stays open:"
	  . " what 4 clients of pgbench get beside it\n";
	for my $situation (@situations)
	{
		my %values;
		for my $round (1 .. ($quick ? 3 : 7))
		{
			for my $mode (in_turns($round), 'none')
			{
				my $dbh = $mode eq 'none' ? undef : open_transaction($mode);
				my $result = pgbench(@{ $situation->{options} });
				push @{ $values{$_}{$mode} }, $result->{$_} for keys %$result;
				next if !$dbh;
				$dbh->do("ROLLBACK");
				$dbh->disconnect;
			}
		}
		my %format = (tps => '%.0f', p99 => '%.2f', processor => '%.1f');
		my @columns = ('tps', 'p99', 'processor');
		my @rows;
		for my $mode ('none', @modes)
		{
			push @rows,
			  [ $name_of{$mode} // 'no such transaction',
				map { sprintf($format{$_}, median(@{ $values{$_}{$mode} })) } @columns ];
		}
		push @rows,
		  [ 'guarded / plain', map { sprintf('%.3f', ratio_of(%{ $values{$_} })) } @columns ];
		print "\n";
		print_table([ $situation->{title}, 'transactions/s', '99 % ms', 'processor us' ], @rows);
		keep_figure("$situation->{title}: $_, guarded / plain",
			sprintf('%.3f', ratio_of(%{ $values{$_} })), '', undef, '')
		  for @columns;
	}
	return;
}

measure_growth();
print "\n";
measure_restore();
print "\n";
measure_others();
