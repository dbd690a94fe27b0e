# What the benchmark of DDL strategies is made of: the strategies, a load whose latencies are
# logged, sessions that are in the way, and a run of one strategy among them.
package DdlBench;

use strict;
use warnings;

use DBI;
use Exporter qw(import);
use IO::Handle;
use List::Util qw(max min sum0);
use LockguardBench;
use POSIX ();
use Time::HiRes qw(sleep time);

our @EXPORT = qw(@strategies $low_priority $guard_timeout $no_ddl $plain $loop_100 start_statement
  read_result measure_run set_up drop_tables summary_of print_situation);

# Seconds of load before the statement begins: they show what the latencies are without it.
my $lead_in = 0.7;

# An other session is stalled when it takes so many milliseconds longer.
my $stalled = 50;

# ---------------------------------------------------------------------------------------------
# Strategies
#
#   mode      pg_lockguard.ddl_mode of the session
#   schedule  the number of an attempt, from 1 -> its lock_timeout in ms (0: none), and the rest
#             after its failure in seconds (none: it is not repeated)
#   nowait    LOCK TABLE ... NOWAIT first
# ---------------------------------------------------------------------------------------------

our $no_ddl = { name => 'no DDL' };
our $plain = { name => 'plain ALTER TABLE', mode => 'off', schedule => sub { return 0 } };
our $loop_100 = {
	name => 'loop 100 ms, rest 100 ms',
	loop => 1,
	mode => 'off',
	schedule => sub { return (100, 0.1) } };
our $guard_timeout = {
	name => 'pg_lockguard lock_timeout',
	mode => 'lock_timeout',
	schedule => sub { return (0, 1) } };
our $low_priority = {
	name => 'pg_lockguard low_priority',
	mode => 'low_priority',
	schedule => sub { return 0 } };

my @lock_timeouts = ((100, 50) x 2, 200, 50, 300, 100, 400, 150, (500, 2000) x 4, 1000, 5000);

our @strategies = (
	$no_ddl, $plain, $loop_100,
	{
		name => 'loop 500 ms, rest 1 s to 60 s',
		loop => 1,
		mode => 'off',
		schedule => sub { return (500, rand(min(60, 2**($_[0] - 1)))) } },
	{
		name => 'loop 2 s, rest 2 s',
		loop => 1,
		mode => 'off',
		schedule => sub { return (2000, 2) } },
	{
		name => 'loop 100 ms, 200 ms, to 1 s',
		loop => 1,
		mode => 'off',
		schedule => sub { return (min(1000, 100 * $_[0]), 0) } },
	{
		name => 'loop 0.1 s/0.05 s to 1 s/5 s',
		loop => 1,
		mode => 'off',
		schedule => sub {
			my $step = 2 * min($_[0] - 1, @lock_timeouts / 2 - 1);
			return ($lock_timeouts[$step], $lock_timeouts[ $step + 1 ] / 1000);
		} },
	{
		name => 'LOCK NOWAIT every 10 ms',
		mode => 'off',
		nowait => 1,
		schedule => sub { return (0, 0.01) } },
	$guard_timeout,
	$low_priority);

# Executes the statement by the strategy, and gives up at the deadline. Returns whether it has
# succeeded, when it ended, and the number of attempts.
sub execute_statement
{
	my ($dbh, $strategy, $statement, $table, $deadline) = @_;
	for (my $attempt = 1;; $attempt++)
	{
		my ($lock_timeout, $rest) = $strategy->{schedule}->($attempt);
		my $left = int(1000 * ($deadline - time()));
		return (0, time(), $attempt - 1) if $left <= 0;
		$dbh->do("SET lock_timeout = $lock_timeout; SET statement_timeout = $left");
		my $succeeded = eval {
			if ($strategy->{nowait})
			{
				$dbh->do("BEGIN; LOCK TABLE $table IN ACCESS EXCLUSIVE MODE NOWAIT");
				$dbh->do("$statement; COMMIT");
			}
			else
			{
				$dbh->do($statement);
			}
			1;
		};
		return (1, time(), $attempt) if $succeeded;
		# lock_not_available, query_canceled, deadlock_detected
		die $@ if $dbh->state !~ /^(55P03|57014|40P01)$/;
		$dbh->do("ROLLBACK") if $strategy->{nowait};
		return (0, time(), $attempt) if !defined $rest;
		sleep(min($rest, max(0, $deadline - time())));
	}
}

# Starts a process with a session that executes the statement by the strategy as soon as something
# is written to {go}. read_result waits for its end.
sub start_statement
{
	my ($strategy, $statement, $table, $seconds) = @_;
	pipe(my $go_reader, my $go) or die "pipe: $!";
	pipe(my $result, my $result_writer) or die "pipe: $!";
	my $pid = fork() // die "fork: $!";
	if ($pid == 0)
	{
		close($go);
		close($result);
		$result_writer->autoflush(1);
		my $done = eval {
			my $dbh = connect_bench('ddl');
			my ($backend) = $dbh->selectrow_array("SELECT pg_backend_pid()");
			$dbh->do("SET pg_lockguard.ddl_mode = $strategy->{mode}");
			print $result_writer "$backend\n";
			# End of file: the benchmark has gone.
			if (sysread($go_reader, my $ignored, 1))
			{
				my $start = time();
				my ($succeeded, $end, $attempts) =
				  execute_statement($dbh, $strategy, $statement, $table, $start + $seconds);
				printf $result_writer "%d %.6f %.6f %d\n", $succeeded, $start, $end, $attempts;
			}
			1;
		};
		print STDERR "$strategy->{name}: $@" if !$done;
		POSIX::_exit($done ? 0 : 1);
	}
	close($go_reader);
	close($result_writer);
	$go->autoflush(1);
	my $backend = <$result> // die "the session for $strategy->{name} does not begin";
	chomp $backend;
	return { pid => $pid, backend => $backend, go => $go, result => $result };
}

sub read_result
{
	my ($session) = @_;
	my $line = readline($session->{result});
	waitpid($session->{pid}, 0);
	die "the session has failed" if !defined $line;
	my ($succeeded, $start, $end, $attempts) = split ' ', $line;
	return { succeeded => $succeeded, start => $start, end => $end, attempts => $attempts };
}

# ---------------------------------------------------------------------------------------------
# The load
# ---------------------------------------------------------------------------------------------

my $load_number = 0;

# Starts pgbench and returns when all of its clients are at work.
sub start_load
{
	my ($control, $situation) = @_;
	my $prefix = "$ENV{LOCKGUARD_PRIVATE}/load" . ++$load_number;
	my @command = (
		'pgbench', '-n', '-M', $situation->{protocol} // 'prepared',
		'-c', $situation->{clients}, '-T', 3600, '-l', "--log-prefix=$prefix.log");
	push @command, '--rate', $situation->{rate} if $situation->{rate};
	for my $n (0 .. $#{ $situation->{scripts} })
	{
		my $name = "$prefix.$n.sql";
		open(my $file, '>', $name) or die "$name: $!";
		print $file $situation->{scripts}[$n]{text};
		close($file);
		push @command, '-f', $name;
	}
	my $pid = fork() // die "fork: $!";
	if ($pid == 0)
	{
		$ENV{PGAPPNAME} = 'load';
		open(STDOUT, '>', "$prefix.out") or POSIX::_exit(1);
		open(STDERR, '>&', \*STDOUT) or POSIX::_exit(1);
		exec @command or POSIX::_exit(1);
	}
	poll_until(
		$control,
		"SELECT count(*) FROM pg_stat_activity WHERE application_name = 'load' AND query <> ''",
		$situation->{clients},
		sub {
			die "pgbench has ended: " . `cat $prefix.out`
			  if waitpid($pid, POSIX::WNOHANG()) != 0;
		});
	return { pid => $pid, prefix => $prefix };
}

# Where a stall has left requests that were due and not sent, waits until they have been served:
# until most sessions rest between two requests.
sub await_schedule
{
	my ($control, $situation) = @_;
	my $resting =
	  "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'load'
	   AND state = 'idle' AND state_change < clock_timestamp() - interval '2 ms'";
	my $in_a_row = 0;
	for (1 .. 500)
	{
		my ($count) = $control->selectrow_array($resting);
		$in_a_row = 2 * $count >= $situation->{clients} ? $in_a_row + 1 : 0;
		return if $in_a_row == 3;
		sleep(0.02);
	}
	print STDERR "the load has not caught up with its schedule\n";
	return;
}

# Ends the load and returns its transactions: when they were due (without --rate: sent), when they
# were finished, and the milliseconds that they took beyond what they are meant to take.
#
# pgbench writes its log when it ends by itself, which it does when all of its clients are aborted.
sub end_load
{
	my ($control, $situation, $load) = @_;
	my ($clients) = $control->selectrow_array(
		"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
		 WHERE application_name = 'load'");
	waitpid($load->{pid}, 0);
	die "$clients clients of pgbench are left of $situation->{clients}: "
	  . `cat $load->{prefix}.out`
	  if $clients != $situation->{clients};
	my @transactions;
	for my $name (glob("$load->{prefix}.log.*"))
	{
		open(my $file, '<', $name) or die "$name: $!";
		while (my $line = <$file>)
		{
			my (undef, undef, $latency, $script, $seconds, $microseconds) = split ' ', $line;
			next if $latency !~ /^\d+$/;
			my $finished = $seconds + $microseconds / 1e6;
			push @transactions,
			  {
				due => $finished - $latency / 1e6,
				finished => $finished,
				extra => $latency / 1000 - $situation->{scripts}[$script]{milliseconds} };
		}
		close($file);
	}
	unlink glob("$load->{prefix}.*");
	die "pgbench has logged nothing" if !@transactions;
	return \@transactions;
}

# ---------------------------------------------------------------------------------------------
# Runs
#
# A situation:
#   setup     statements that make its tables
#   tables    their names
#   clients, rate (a second; undef: one transaction after the other), protocol, scripts (text,
#             milliseconds that a transaction is meant to take): the load
#   blockers  sessions in the way: begin (statements), busy (a statement that is repeated until
#             the end; undef: idle in transaction), end (seconds after the DDL has begun)
#   before_commit  called with the control connection before the first of them commits
#   ddl       statements, begun together; each waits for the blocker of its number
#   window    seconds from the beginning of the DDL for which transactions count; longer where it
#             takes longer
#   limit     seconds that the DDL has, from when it begins or, with blockers, from their ends
# ---------------------------------------------------------------------------------------------

sub set_up
{
	my ($control, $situation) = @_;
	drop_tables($control, $situation);
	$control->do($_) for @{ $situation->{setup} };
	$control->do("VACUUM ANALYZE $_") for @{ $situation->{tables} };
	return;
}

sub drop_tables
{
	my ($control, $situation) = @_;
	# One by one: fifty tables with their indexes need not be locked together.
	$control->do("DROP TABLE IF EXISTS $_") for @{ $situation->{tables} };
	return;
}

# Ends the blockers at their times. Returns when they were told to.
sub end_blockers
{
	my ($control, $situation, $start, @sessions) = @_;
	my @ends;
	for my $n (0 .. $#sessions)
	{
		my $blocker = $situation->{blockers}[$n];
		my $end = $start + $blocker->{end};
		if ($blocker->{busy})
		{
			$sessions[$n]->do($blocker->{busy}) while time() < $end;
		}
		else
		{
			sleep(max(0, $end - time()));
		}
		$situation->{before_commit}->($control) if $n == 0 && $situation->{before_commit};
		push @ends, time();
		$sessions[$n]->do("COMMIT");
		$sessions[$n]->disconnect;
	}
	return @ends;
}

# One run of the strategy. Returns
#   extra   milliseconds that each transaction in the window took longer than it is meant to
#   worst   the largest of them
#   lost    seconds that they took together beyond the median before the DDL began
#   done    seconds until each statement was done: since it began, or since the COMMIT of its
#           blocker; undef where one is not done
#   attempts  the most of a statement
#   start, commit, end, transactions   for the chart
sub measure_run
{
	my ($control, $situation, $strategy) = @_;
	set_up($control, $situation);
	my @blockers;
	for my $blocker (@{ $situation->{blockers} // [] })
	{
		my $dbh = connect_bench('blocker');
		$dbh->do($_) for 'BEGIN', @{ $blocker->{begin} };
		push @blockers, $dbh;
	}
	my $last_end = max(0, map { $_->{end} } @{ $situation->{blockers} // [] });
	my @statements = $strategy == $no_ddl ? () : @{ $situation->{ddl} };
	my @sessions = map {
		start_statement(
			$strategy, $statements[$_],
			$situation->{tables}[$_], $last_end + $situation->{limit})
	} 0 .. $#statements;
	my $load = start_load($control, $situation);
	sleep($lead_in);

	my $start = time();
	for my $session (@sessions)
	{
		print { $session->{go} } '.';
	}
	my @commits = end_blockers($control, $situation, $start, @blockers);
	my @results = map { read_result($_) } @sessions;
	my $end = max($start + $situation->{window}, map { $_->{end} } @results);
	sleep(max(0, $end + 0.3 - time()));
	await_schedule($control, $situation) if $situation->{rate};
	my $transactions = end_load($control, $situation, $load);
	drop_tables($control, $situation);

	my $usual = median(map { $_->{extra} } grep { $_->{finished} < $start } @$transactions);
	my @extra =
	  map { $_->{extra} } grep { $_->{finished} >= $start && $_->{due} <= $end } @$transactions;
	my @done =
	  map { $results[$_]{end} - ($commits[$_] // $results[$_]{start}) } 0 .. $#results;
	my $succeeded = !grep { !$_->{succeeded} } @results;
	return {
		extra => \@extra,
		worst => max(@extra),
		lost => sum0(map { max(0, $_ - $usual) } @extra) / 1000,
		done => $succeeded ? \@done : undef,
		attempts => max(0, map { $_->{attempts} } @results),
		start => $start,
		commit => $commits[0],
		end => max($start, map { $_->{end} } @results),
		transactions => $transactions };
}

# All runs of a strategy together.
sub summary_of
{
	my ($strategy, @runs) = @_;
	my @extra = map { @{ $_->{extra} } } @runs;
	my $late = grep { $_ > $stalled } @extra;
	my $all_done = !grep { !defined $_->{done} } @runs;
	my @done = $all_done ? map { @{ $_->{done} } } @runs : ();
	return {
		strategy => $strategy,
		runs => \@runs,
		worst => max(@extra),
		median_worst => median(map { $_->{worst} } @runs),
		rare => quantile(0.999, @extra),
		late => $late,
		late_percent => 100 * $late / @extra,
		lost => median(map { $_->{lost} } @runs),
		done => @done ? median(@done) : undef,
		slowest => @done ? max(@done) : undef,
		attempts => median(map { $_->{attempts} } @runs) };
}

sub seconds_text
{
	my ($seconds) = @_;
	return sprintf('%.1f ms', 1000 * $seconds) if abs($seconds) < 0.1;
	return sprintf('%.0f ms', 1000 * $seconds) if abs($seconds) < 1;
	return sprintf('%.1f s', $seconds);
}

# Prints and keeps the table of a situation. $verdicts tells for the names of strategies whether
# they reach their targets.
sub print_situation
{
	my ($situation, $verdicts, @summaries) = @_;
	my @rows;
	for my $summary (@summaries)
	{
		my $name = $summary->{strategy}{name};
		my $kept = sub {
			my ($what, $value, $unit) = @_;
			keep_figure("$situation->{key}: $name: $what", $value, $unit, undef, '');
		};
		$kept->('worst', sprintf('%.1f', $summary->{worst}), 'ms');
		$kept->('99.9th percentile', sprintf('%.1f', $summary->{rare}), 'ms');
		$kept->('stalled', sprintf('%.2f', $summary->{late_percent}), '%');
		$kept->('time lost', sprintf('%.3f', $summary->{lost}), 's');
		my ($done, $slowest, $attempts) = ('', '', '');
		if (defined $summary->{done})
		{
			$done = seconds_text($summary->{done});
			$slowest = seconds_text($summary->{slowest});
			$attempts = $summary->{attempts};
			$kept->('time to success, median', sprintf('%.1f', 1000 * $summary->{done}), 'ms');
			$kept->('time to success, longest', sprintf('%.1f', 1000 * $summary->{slowest}), 'ms');
			$kept->('attempts', $attempts, '');
		}
		elsif ($summary->{strategy} != $no_ddl)
		{
			$done = "not within $situation->{limit} s";
			$attempts = $summary->{attempts};
			$kept->('time to success, median', $done, '');
		}
		push @rows,
		  [
			$name,
			scalar(@{ $summary->{runs} }),
			sprintf('%.1f', $summary->{worst}),
			sprintf('%.1f', $summary->{rare}),
			sprintf('%.2f', $summary->{late_percent}),
			sprintf($summary->{lost} < 10 ? '%.2f' : '%.0f', $summary->{lost}),
			$done,
			$slowest,
			$attempts,
			$verdicts->{$name} // '' ];
	}
	my $where = $situation->{blockers} ? 'done after COMMIT' : 'done after';
	print_table(
		[
			'', 'runs', 'worst ms', '99.9 % ms', '>50 ms %', 'lost s', $where, 'longest', 'tries',
			'target' ],
		@rows);
	print "\n";
	return;
}

1;
