# What the tests beside other software share: programs that run while somebody is in their way, and what a tool for
# migrations has to show.
package Neighbours;

use strict;
use warnings;

use Exporter 'import';
use FindBin;
use lib "$FindBin::RealBin/../tap/lib";
use IPC::Run ();
use LockGuard;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

our @EXPORT = qw(start_program end_program orders_of write_file await_waiting recipe tool_settings migrates
	migrates_beside_a_writer);

# start_program(ARGUMENT...): a program that goes on by itself. What it prints is in {out}, both streams.
sub start_program
{
	my @command = @_;
	# The harness would give it a name.
	delete local $ENV{PGAPPNAME};
	my $program = { name => $command[0], out => '' };
	$program->{run} = IPC::Run::start(\@command, '<', \undef, '>&', \$program->{out},
		IPC::Run::timer(2 * $PostgreSQL::Test::Utils::timeout_default));
	return $program;
}

# Waits for its end. Returns its exit status.
sub end_program
{
	my $program = shift;
	$program->{run}->finish;
	return $program->{run}->result(0);
}

# Both orders in which two libraries can be preloaded.
sub orders_of { return ("$_[0],pg_lockguard", "pg_lockguard,$_[0]") }

sub write_file
{
	my ($name, $text) = @_;
	open(my $file, '>', $name) or die "$name: $!";
	print $file $text;
	close($file) or die "$name: $!";
	return;
}

# recipe(LANGUAGE, MARK): the example in that language in docs/operations.md that has a match of the pattern.
sub recipe
{
	my ($language, $mark) = @_;
	my $page = slurp_file("$FindBin::RealBin/../../docs/operations.md");
	while ($page =~ /^( *)```$language\n(.*?)^ *```$/msg)
	{
		my ($indent, $text) = ($1, $2);
		return $text =~ s/^$indent//mgr if $text =~ $mark;
	}
	die "docs/operations.md has no such example: $mark";
}

# await_waiting(NODE, [COUNT]): so many statements wait at low priority.
sub await_waiting
{
	my ($node, $count) = @_;
	await($node, 'at low priority', q{SELECT count(*) >= ? FROM pg_lockguard_progress WHERE phase = 'waiting'}, $count // 1);
	return;
}

# await_second(NODE, PROGRAM): until two wait, for the table or a lock of the tool, or that program has given up.
sub await_second
{
	my ($node, $program) = @_;
	my $observer = LockGuard::observer($node);
	for (1 .. 100 * $PostgreSQL::Test::Utils::timeout_default)
	{
		# What it prints is taken, or its end would not be seen. It may come to that in the middle.
		eval { $program->{run}->pump_nb };
		return if !$program->{run}->pumpable;
		return if $observer->value(q{SELECT count(*) >= 2 FROM (SELECT pid FROM pg_lockguard_progress WHERE phase = 'waiting'
			UNION SELECT pid FROM pg_locks WHERE NOT granted AND locktype <> 'virtualxid') waiting});
		usleep(10_000);
	}
	die "the second runner neither waits nor ends:\n$program->{out}";
}

# migrates(NODE, TOOL, OPTION => VALUE...): a tool whose migration 1 makes the table users (id), and 2 to 5 a column
# c2 to c5 each. Options:
#   command    of the number up to which it shall migrate: the program and its arguments
#   recorded   of a number: a query that says whether the tool has recorded it as done
#   env        its environment, a hash
#   two        what one of two runners says; at low priority it may be the first, for there is no queue
sub migrates
{
	my ($node, $tool, %option) = @_;
	my $observer = LockGuard::observer($node);
	local %ENV = (%ENV, %{ $option{env} // {} });
	my $start = sub { return start_program($option{command}->($_[0])) };
	my $is_done = sub {
		my ($number) = @_;
		my $there = $observer->value('SELECT count(*) FROM pg_attribute WHERE attrelid = ?::regclass AND attname = ?', 'users', "c$number");
		my $recorded = $observer->value($option{recorded}->($number)) ? 1 : 0;
		return $there eq $recorded ? $there : "column: $there, recorded: $recorded";
	};
	my $reader = session($node, 'reader');
	my $read = sub { $reader->do('BEGIN'); $reader->do('SELECT count(*) FROM users'); };

	subtest "$tool: a reader sits idle in its transaction" => sub {
		my $first = $start->(1);
		is(end_program($first), 0, 'the table is there') or diag($first->{out});
		$read->();
		my $run = $start->(2);
		await_waiting($node);
		$observer->do(q{SET statement_timeout = '60s'});
		is($observer->value('SELECT count(*) FROM users'), 0, 'others read while its migration waits');
		is($observer->value(q{SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'users'::regclass}), 0, 'nobody stands in the queue');
		$reader->do('COMMIT');
		is(end_program($run), 0, 'it is done after the COMMIT') or diag($run->{out});
		is($is_done->(2), 1, 'and recorded');
	};

	subtest "$tool: its patience ends" => sub {
		configure($node, ddl_max_wait => '1s');
		$read->();
		my $run = $start->(3);
		isnt(end_program($run), 0, 'it fails');
		my $pid = $reader->pid;
		like($run->{out}, qr/canceling statement due to lock timeout/, 'as after lock_timeout');
		like($run->{out}, qr/Blocked by PID $pid \(app "reader"/, 'its user reads who is in the way');
		is($is_done->(3), 0, 'it is not recorded as done');
		$reader->do('COMMIT');
		configure($node, ddl_max_wait => 0);
		my $again = $start->(3);
		is(end_program($again), 0, 'it can be run again') or diag($again->{out});
		is($is_done->(3), 1, 'and recorded then');
	};

	subtest "$tool: two runners" => sub {
		my @ends;
		for my $case ([ 'off', 4 ], [ 'low_priority', 5 ])
		{
			my ($mode, $number) = @$case;
			configure($node, ddl_mode => $mode);
			$read->();
			my @runs = ($start->($number));
			await($node, 'the first waits', q{SELECT EXISTS (SELECT FROM pg_lockguard_progress WHERE phase = 'waiting')
				OR EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'users'::regclass)});
			push @runs, $start->($number);
			await_second($node, $runs[1]);
			$reader->do('COMMIT');
			push @ends, join(' ', sort map { end_program($_) ? 'fails' : 'done' } @runs);
			like($runs[0]{out} . $runs[1]{out}, $option{two}, "$mode: what one of them says");
			is($is_done->($number), 1, "$mode: it is done once, and recorded");
			unlike($_->{out}, qr/lock timeout|deadlock/, "$mode: nobody was timed out") or diag($_->{out}) for @runs;
		}
		is($ends[1], $ends[0], 'they end as in plain PostgreSQL');
	};
	forget_sessions($reader);
	return;
}

# Settings of a server for migrates_beside_a_writer: NOTICEs come soon, and the log shows that they were sent.
sub tool_settings { return (q{deadlock_timeout = '200ms'}, q{pg_lockguard.ddl_notice_interval = '200ms'}, 'log_min_messages = notice') }

# migrates_beside_a_writer(NODE, TOOL, OPTION => VALUE...): the same tool, whose migration 6 makes a table with a foreign key
# to users, by ALTER TABLE, and 7 an index by_c2 on users, concurrently. Options as above.
sub migrates_beside_a_writer
{
	my ($node, $tool, %option) = @_;
	my $observer = LockGuard::observer($node);
	local %ENV = (%ENV, %{ $option{env} // {} });
	my $writer = session($node, 'writer');
	my $write = sub { $writer->do('BEGIN'); $writer->do('DELETE FROM users'); };
	my $others_go_on = sub {
		$observer->do(q{SET statement_timeout = '60s'});
		$observer->do('UPDATE users SET id = id');
		is($observer->value('SELECT count(*) FROM users'), 0, 'others read and write while it waits');
		is($observer->value(q{SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'users'::regclass}), 0, 'nobody stands in the queue');
	};

	subtest "$tool: a foreign key, while a writer sits idle in its transaction" => sub {
		$write->();
		my $noticed = sub { return scalar(my @lines = split /\n/, LockGuard::log_lines($node, qr/NOTICE:  ALTER TABLE has waited/)) };
		my $before = $noticed->();
		my $run = start_program($option{command}->(6));
		await_waiting($node);
		$others_go_on->();
		for (1 .. 100 * $PostgreSQL::Test::Utils::timeout_default)
		{
			last if $noticed->() > $before;
			usleep(10_000);
		}
		is($observer->value($option{recorded}->(6)), 0, 'it is not recorded as done while it waits');
		$writer->do('COMMIT');
		is(end_program($run), 0, 'it is done after the COMMIT') or diag($run->{out});
		is($observer->value(q{SELECT count(*) FROM pg_constraint WHERE confrelid = 'users'::regclass AND contype = 'f' AND convalidated}), 1, 'the foreign key is there');
		is($observer->value($option{recorded}->(6)), 1, 'and recorded');
		like($run->{out}, qr/NOTICE:\s+ALTER TABLE has waited .* for ShareRowExclusiveLock on public\.users/, 'its user reads what it waited for');
	};

	subtest "$tool: an index, made concurrently" => sub {
		$write->();
		my $run = start_program($option{command}->(7));
		await($node, 'it waits for the writer', q{SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND locktype = 'virtualxid')});
		$others_go_on->();
		$writer->do('COMMIT');
		is(end_program($run), 0, 'it is done after the COMMIT') or diag($run->{out});
		is($observer->value(q{SELECT count(*) FROM pg_index WHERE indexrelid = to_regclass('by_c2') AND indisvalid}), 1, 'the index is there, and valid');
		is($observer->value($option{recorded}->(7)), 1, 'and recorded');
	};
	forget_sessions($writer);
	return;
}

1;
