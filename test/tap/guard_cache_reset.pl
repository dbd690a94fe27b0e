# What a statement has changed, and was rolled back with it, is not to be found in the caches of its session.
#
# PostgreSQL brings a session's caches up to date after each command, and only then notes what the abort has to take back
# in them. Where it is interrupted in between, an entry that has been read anew stays: of a file that is no more, or with
# a column that was never added. It happens where it has to wait for a page that another process is just reading; the
# guard, which cancels statements, makes it less rare. So where a statement that could be guarded has ended by an error,
# the caches are emptied with its abort.
#
# LOCKGUARD_BOUNDARY names the module built from test/boundary (scripts/test builds it): it has a function by which a
# statement is cancelled there.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LockGuard;
use PostgreSQL::Test::Utils;
use Test::More;

my $module = $ENV{LOCKGUARD_BOUNDARY}
  or die "set LOCKGUARD_BOUNDARY to test/boundary/lockguard_boundary.so\n";

my $node = start_node('cache_reset', q{shared_preload_libraries = 'pg_lockguard'}, q{pg_lockguard.ddl_commands = 'all'},
	q{wal_level = 'logical'});
$node->safe_psql('postgres', "CREATE FUNCTION boundary_cancel_at_invalidation(regclass, int) RETURNS int AS '$module' LANGUAGE C");

my $observer = session($node, 'observer');
my $rows;
my $session;

sub start_over
{
	my $mode = shift;
	forget_sessions($session) if $session;
	$session = session($node, 'ddl');
	$session->do(q{
		SET client_min_messages = warning;
		DROP TABLE IF EXISTS t;
		RESET client_min_messages;
		CREATE TABLE t (id int PRIMARY KEY, h int, s text);
		INSERT INTO t SELECT n, n FROM generate_series(1, 10) n;
		CREATE INDEX t_h ON t (h)});
	$rows = 10;
	$session->do("SET pg_lockguard.ddl_mode = $mode");
	return;
}

# Runs the statement so that it is cancelled when the entry of the relation has been read anew for the so manieth time.
# Is it, or has it succeeded without?
sub is_cancelled
{
	my ($statement, $relation, $times) = @_;
	$session->value('SELECT boundary_cancel_at_invalidation(?, ?)', $relation, $times);
	my $succeeded = eval { $session->do($statement); 1 };
	die $@ if !$succeeded && $@ !~ /canceling statement due to user request/;
	return !$succeeded;
}

# The same in a block of a function, which goes on.
sub is_cancelled_in_block
{
	my ($statement, $relation, $times) = @_;
	$session->value('SELECT boundary_cancel_at_invalidation(?, ?)', $relation, $times);
	$session->do("DO \$\$ BEGIN EXECUTE '$statement'; EXCEPTION WHEN query_canceled THEN RAISE NOTICE 'cancelled'; END \$\$");
	return $session->value('SELECT boundary_cancel_at_invalidation(0, 0)') == 0;
}

# The same in a preview, which is not to say that it has come to nothing.
sub is_preview_cancelled
{
	my ($statement, $relation, $times) = @_;
	return is_cancelled("SELECT * FROM ddl_preview('$statement')", $relation, $times);
}

# The faults that these sessions see in the table, and in what the first of them adds to it.
sub faults_left
{
	my @readers = @_;
	my @faults;
	for my $try (1 .. 3)
	{
		eval { $session->do("INSERT INTO t (id, h) VALUES ($rows + 1, $rows + 1)"); 1 } or return "INSERT: $@";
		$rows++;
	}
	for my $reader (@readers)
	{
		for my $scan (qw(seqscan indexscan))
		{
			$reader->do("SET enable_seqscan = @{[ $scan eq 'seqscan' ? 'on' : 'off' ]}");
			my $count = eval { $reader->value('SELECT count(*) FROM t WHERE id > 0') } // $@;
			push @faults, $reader->name . ", $scan: $count of $rows" if $count ne $rows;
		}
		$reader->do('RESET enable_seqscan');
		my ($row) = eval { $reader->rows('SELECT * FROM t LIMIT 1') };
		push @faults, $reader->name . ': has the column' if $row && exists $row->{added};
	}
	return @faults;
}

# Cancels the statement at each of these moments, until there is no further.
sub cancel_at_each
{
	my ($what, $how, $statement, $relation, %option) = @_;
	my ($cancelled, @faults) = (0);
	for my $times (1 .. 100)
	{
		$session->do($_) for @{ $option{before} // [] };
		my $is = $how->($statement, $relation, $times);
		if ($option{before})
		{
			$session->do('ROLLBACK TO s');
			push @faults, map { "$times, before the commit: $_" } faults_left($session) if $is;
			$session->do(@faults ? 'ROLLBACK' : 'COMMIT');
		}
		last if !$is;
		$cancelled++;
		push @faults, map { "$times: $_" } faults_left($session, $observer) if !@faults;
		last if @faults;
	}
	cmp_ok($cancelled, '>', 0, "$what: cancelled at each moment ($cancelled)");
	is_deeply(\@faults, [], '... nothing of it is left');
	return;
}

my $add = 'ALTER TABLE t ADD added text DEFAULT clock_timestamp()';
my @cases = (
	[ 'REINDEX INDEX t_pkey', 't_pkey' ], [ 'REINDEX TABLE t', 't_h' ], [ 'CLUSTER t USING t_pkey', 't' ],
	[ $add, 't' ], [ $add, 't_pkey' ], [ 'ALTER TABLE t ADD added int', 't' ],
	# Its only messages are served at its very end.
	[ 'ALTER TABLE t RENAME s TO added', 't' ]);
for my $mode (qw(low_priority lock_timeout off))
{
	for my $case (@cases)
	{
		my ($statement, $relation) = @$case;
		my $what = "$mode, $statement, at $relation";
		start_over($mode);
		cancel_at_each($what, \&is_cancelled, $statement, $relation);
		start_over($mode);
		cancel_at_each("$what, in a block of a function", \&is_cancelled_in_block, $statement, $relation);
		start_over($mode);
		cancel_at_each("$what, behind a savepoint", \&is_cancelled, $statement, $relation,
			before => [ 'BEGIN', 'SAVEPOINT s' ]);
		# All files are new, so that nobody else could have changed them.
		start_over($mode);
		cancel_at_each("$what, where the transaction has made the files", \&is_cancelled, $statement, $relation,
			before => [ 'BEGIN', 'CLUSTER t USING t_pkey', 'SAVEPOINT s' ]);
	}
}

# A sequence's file is replaced under a weaker lock.
start_over('low_priority');
$session->do('CREATE SEQUENCE q');
{
	my ($cancelled, @numbers) = (0);
	for my $times (1 .. 100)
	{
		$session->do($_) for 'BEGIN', 'ALTER SEQUENCE q RESTART 100', 'SAVEPOINT s';
		my $is = is_cancelled('ALTER SEQUENCE q RESTART 5', 'q', $times);
		$session->do('ROLLBACK TO s');
		push @numbers, eval { $session->value(q{SELECT nextval('q')}) } // $@;
		$session->do('ROLLBACK');
		last if !$is;
		$cancelled++;
	}
	cmp_ok($cancelled, '>', 0, "ALTER SEQUENCE, where the transaction has made the file: cancelled at each moment ($cancelled)");
	is_deeply([ grep { $_ ne '100' } @numbers ], [], '... the sequence is as it was before');
}

# A function of the statement goes on after an error of its own; the statement is cancelled later.
$session->do(q{CREATE FUNCTION now_and_then() RETURNS text LANGUAGE plpgsql AS $$
	BEGIN CREATE TABLE IF NOT EXISTS s (id int); PERFORM 1 / 0; RETURN ''; EXCEPTION WHEN division_by_zero THEN RETURN clock_timestamp(); END $$});
for my $how ([ 'plain', \&is_cancelled ], [ 'in a block of a function', \&is_cancelled_in_block ])
{
	start_over('low_priority');
	cancel_at_each("with a function that has caught an error, $how->[0]", $how->[1], 'ALTER TABLE t ADD added text DEFAULT now_and_then()', 't_pkey');
}

# Which is not guarded, but the worker may cancel it.
start_over('low_priority');
cancel_at_each('VACUUM FULL', \&is_cancelled, 'VACUUM FULL t', 't');

start_over('low_priority');
$session->do(q{SET pg_lockguard.preview_max_hold = '60s'});
cancel_at_each('a preview', \&is_preview_cancelled, $add, 't');

$node->stop;
done_testing();
