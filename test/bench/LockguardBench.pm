# What the benchmarks share: connections, statistics, the crowd of waiting sessions, the table.
package LockguardBench;

use strict;
use warnings;

use DBD::Pg qw(:async);
use DBI;
use Exporter qw(import);
use List::Util qw(max);
use POSIX ();
use Time::HiRes qw(clock_gettime sleep CLOCK_MONOTONIC);

our @EXPORT = qw(connect_bench milliseconds_of microseconds_by_mode quantile median figure verdict
  keep_figure print_table poll_until start_crowd end_crowd process_status processor_nanoseconds
  private_memory);

$| = 1;

# A connection of its own. Statements are sent as psql sends them: by the simple protocol, unprepared.
sub connect_bench
{
	my ($application_name) = @_;
	my $dbh = DBI->connect("dbi:Pg:application_name=" . ($application_name // 'bench'),
		undef, undef, { RaiseError => 1, PrintError => 0, PrintWarn => 0, AutoCommit => 1 });
	$dbh->{pg_server_prepare} = 0;
	return $dbh;
}

# How long a statement takes: from sending it until libpq has the whole result as text. That is what
# psql's \timing shows.
sub milliseconds_of
{
	my ($dbh, $statement) = @_;
	my $start = clock_gettime(CLOCK_MONOTONIC);
	$dbh->do($statement);
	return 1000 * (clock_gettime(CLOCK_MONOTONIC) - $start);
}

# microseconds_by_mode(DBH, ROUND, STATEMENT_OF, MODE, MODE): what a statement takes in each of two
# ddl_modes, as a hash; which of them is first changes with the round. STATEMENT_OF->(MODE) is its
# text. One session runs both: two that take turns would differ by the processors that they happen
# to be on.
sub microseconds_by_mode
{
	my ($dbh, $round, $statement_of, @modes) = @_;
	my %time;
	for my $mode ($round % 2 ? @modes : reverse @modes)
	{
		$dbh->do("SET pg_lockguard.ddl_mode = $mode");
		$time{$mode} = 1000 * milliseconds_of($dbh, $statement_of->($mode));
	}
	return %time;
}

# The value that a part of $q of all values does not exceed.
sub quantile
{
	my ($q, @values) = @_;
	die "nothing was measured" if !@values;
	my @sorted = sort { $a <=> $b } @values;
	return $sorted[ POSIX::ceil($q * @sorted) - 1 ];
}

sub median { return quantile(0.5, @_); }

# One figure of the result: printed, and kept for --output. A target is a text beginning with "<= "
# and a number in the figure's unit; where there is none the figure is for information.
sub figure
{
	my ($name, $value, $unit, $target, $format) = @_;
	my $verdict = verdict($value, $target);
	my $number = sprintf($format // '%.3g', $value);
	printf "%-66s %10s %-6s %-12s %s\n", $name, $number, $unit, $target // '', $verdict;
	keep_figure($name, $number, $unit, $target, $verdict);
	return;
}

sub verdict
{
	my ($value, $target) = @_;
	return '' if !defined $target;
	my ($limit) = $target =~ /^<= ([\d.]+)/ or die "no number in target \"$target\"";
	return $value <= $limit ? 'ok' : 'MISSED';
}

sub keep_figure
{
	my ($name, $number, $unit, $target, $verdict) = @_;
	open(my $file, '>>', $ENV{LOCKGUARD_FIGURES}) or die "$ENV{LOCKGUARD_FIGURES}: $!";
	print $file join("\t", $ENV{LOCKGUARD_PART}, $name, $number, $unit, $target // '', $verdict),
	  "\n";
	close($file);
	return;
}

# Prints rows of cells under a heading; the first column to the left, the others to the right.
sub print_table
{
	my ($heading, @rows) = @_;
	my @width;
	for my $row ($heading, @rows)
	{
		for my $i (0 .. $#$row)
		{
			$width[$i] = max($width[$i] // 0, length($row->[$i]));
		}
	}
	for my $row ($heading, @rows)
	{
		my $line = join('  ',
			map { $_ == 0 ? sprintf("%-*s", $width[$_], $row->[$_])
				  : sprintf("%*s", $width[$_], $row->[$_]) } 0 .. $#$row);
		print $line =~ s/\s+$//r, "\n";
	}
	return;
}

# Waits until the query returns the value; dies after two minutes.
sub poll_until
{
	my ($dbh, $query, $expected, $alive) = @_;
	my $deadline = clock_gettime(CLOCK_MONOTONIC) + 120;
	my $value;
	while (clock_gettime(CLOCK_MONOTONIC) < $deadline)
	{
		($value) = $dbh->selectrow_array($query);
		return if $value == $expected;
		$alive->() if $alive;
		sleep(0.02);
	}
	die "\"$query\" returned $value, not $expected";
}

# The fields of /proc/PID/status, in kB where they are sizes.
sub process_status
{
	my ($pid) = @_;
	open(my $file, '<', "/proc/$pid/status") or die "/proc/$pid/status: $!";
	my %status = map { /^(\w+):\s+(\d+)/ ? ($1, $2) : () } <$file>;
	close($file);
	return \%status;
}

# Nanoseconds that a process has had on a processor; where the kernel does not count them, from the
# clock ticks.
sub processor_nanoseconds
{
	my ($pid) = @_;
	if (open(my $file, '<', "/proc/$pid/schedstat"))
	{
		my ($nanoseconds) = split ' ', <$file>;
		return $nanoseconds;
	}
	open(my $file, '<', "/proc/$pid/stat") or die "/proc/$pid/stat: $!";
	my @fields = split ' ', <$file> =~ s/.*\) //r;
	return ($fields[11] + $fields[12]) / POSIX::sysconf(POSIX::_SC_CLK_TCK()) * 1e9;
}

# What the process has for itself, in kB: shared memory would count as soon as it is touched. The
# kernel adds this up page by page, unlike the sizes in /proc/PID/status, which are approximate.
sub private_memory
{
	my ($pid) = @_;
	open(my $file, '<', "/proc/$pid/smaps_rollup") or die "/proc/$pid/smaps_rollup: $!";
	my ($anonymous) = map { /^Anonymous:\s+(\d+)/ } <$file>;
	return $anonymous;
}

# ---------------------------------------------------------------------------------------------
# The crowd: sessions that wait and the sessions that they wait for

# Each takes the number of waiters and returns the sessions; the last statement of those that wait
# is under way.
my %shapes = (
	# One reader idle in transaction, an ALTER TABLE behind it, everybody else behind that.
	'SELECTs behind ALTER TABLE' => sub {
		my ($waiters) = @_;
		my $control = connect_bench();
		my ($reader, $alter, @readers) = map { connect_bench('crowd') } 0 .. $waiters;
		$reader->do("BEGIN");
		$reader->do("SELECT count(*) FROM crowd");
		# Where the library is preloaded, it would stand in no queue.
		$alter->do("SET pg_lockguard.ddl_mode = off");
		$alter->do("ALTER TABLE crowd ADD COLUMN note text", { pg_async => PG_ASYNC });
		poll_until($control, "SELECT count(*) FROM pg_locks WHERE NOT granted", 1);
		$_->do("SELECT value FROM crowd WHERE id = 1", { pg_async => PG_ASYNC }) for @readers;
		return ($control, $reader, $alter, @readers);
	},
	# Session n holds row n and wants row n - 1.
	'chain of row locks' => sub {
		my ($waiters) = @_;
		my @sessions = map { connect_bench('crowd') } 0 .. $waiters;
		for my $n (0 .. $waiters)
		{
			$sessions[$n]->do("BEGIN");
			$sessions[$n]->do("UPDATE crowd SET value = 1 WHERE id = $n");
		}
		for my $n (1 .. $waiters)
		{
			my $wanted = $n - 1;
			$sessions[$n]->do("UPDATE crowd SET value = 1 WHERE id = $wanted",
				{ pg_async => PG_ASYNC });
		}
		return @sessions;
	},
	# Ten sessions want a row that another one holds: the first of them waits for the holder's
	# transaction, the others queue for the tuple.
	'forest, 10 waiters per row' => sub {
		my ($waiters) = @_;
		my @sessions;
		for my $row (1 .. $waiters / 10)
		{
			my ($holder, @updaters) = map { connect_bench('crowd') } 0 .. 10;
			$holder->do("BEGIN");
			$holder->do("UPDATE crowd SET value = 1 WHERE id = $row");
			$_->do("UPDATE crowd SET value = 2 WHERE id = $row", { pg_async => PG_ASYNC })
			  for @updaters;
			push @sessions, $holder, @updaters;
		}
		return @sessions;
	},);

# Makes a crowd of that shape, in a process of its own, and returns it when everybody waits who
# shall wait.
sub start_crowd
{
	my ($dbh, $shape, $waiters) = @_;
	$dbh->do("DROP TABLE IF EXISTS crowd");
	$dbh->do("CREATE TABLE crowd (id int PRIMARY KEY, value int)");
	$dbh->do("INSERT INTO crowd SELECT g, 0 FROM generate_series(0, $waiters) g");
	$dbh->do("VACUUM ANALYZE crowd");

	pipe(my $from_parent, my $to_child) or die "pipe: $!";
	my $pid = fork() // die "fork: $!";
	if ($pid == 0)
	{
		close($to_child);
		$dbh->{InactiveDestroy} = 1;
		my @sessions = eval { $shapes{$shape}->($waiters) };
		print STDERR "the crowd \"$shape\": $@" if $@;
		# Until the parent ends the crowd, or ends itself. _exit leaves no time for DBI to wait for
		# the statements.
		sysread($from_parent, my $ignored, 1) if @sessions;
		POSIX::_exit(@sessions ? 0 : 1);
	}
	close($from_parent);
	my $crowd = { pid => $pid, pipe => $to_child };
	poll_until(
		$dbh,
		"SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'",
		$waiters,
		sub { die "the crowd \"$shape\" has gone" if waitpid($pid, POSIX::WNOHANG()) != 0 });
	return $crowd;
}

# Waiting backends do not notice that their client has gone: the server ends them.
sub end_crowd
{
	my ($dbh, $crowd) = @_;
	$dbh->do(
		"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'crowd'");
	close($crowd->{pipe});
	waitpid($crowd->{pid}, 0);
	poll_until($dbh,
		"SELECT count(*) FROM pg_stat_activity WHERE application_name = 'crowd'", 0);
	return;
}

1;
