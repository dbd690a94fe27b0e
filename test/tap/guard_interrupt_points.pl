# PostgreSQL looks for interrupts after each message that somebody wants.
#
# The guard wants some that nobody else does (pg_lockguard.ddl_heavy). One such message comes between the making of a relation's file and the note that it is to be
# removed: whoever is ended there leaves the file. So there what has struck is put off, and only there.
#
# And it has messages of its own, between things that are done as one.
#
# LOCKGUARD_BOUNDARY names the module built from test/boundary (scripts/test builds it): it has a function by which a
# signal comes at a message.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LockGuard;
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;

my $module = $ENV{LOCKGUARD_BOUNDARY}
  or die "set LOCKGUARD_BOUNDARY to test/boundary/lockguard_boundary.so\n";

# The checkpointer's queue has as many places as there are buffers.
my $node = start_node(
	'interrupt_points',
	q{shared_preload_libraries = 'pg_lockguard'},
	q{shared_buffers = '1MB'},
	q{bgwriter_lru_maxpages = 0},
	q{checkpoint_timeout = '1h'},
	q{pg_lockguard.ddl_commands = 'all'});
$node->safe_psql(
	'postgres', qq{
	CREATE FUNCTION boundary_signal_at_message(int, int, text) RETURNS int AS '$module' LANGUAGE C;
	CREATE TABLE t (id int PRIMARY KEY);
	INSERT INTO t SELECT generate_series(1, 100);
	CREATE MATERIALIZED VIEW seen AS SELECT * FROM t;
	CREATE MATERIALIZED VIEW sleeps AS SELECT 1 AS one FROM pg_sleep(600) WITH NO DATA});
my $checkpointer = $node->safe_psql('postgres', q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'});
END { kill CONT => $checkpointer if $checkpointer }

my $others = session($node, 'others');

# Files that no relation has and that were not told of before, once those of dropped ones have gone.
my @told = (0);
sub files_left
{
	$others->do('CHECKPOINT');
	my @left = map { $_->{f} } $others->rows(q{SELECT f FROM pg_ls_dir('base/' || (SELECT oid FROM pg_database WHERE datname = 'postgres')) AS f
		WHERE f ~ '^[0-9]' AND substring(f FROM '^[0-9]+')::oid NOT IN (
			SELECT pg_relation_filenode(oid) FROM pg_class WHERE pg_relation_filenode(oid) IS NOT NULL) AND f <> ALL (?::text[])}, \@told);
	push @told, @left;
	return join ' ', @left;
}

# Runs the statement where there is no room in the queue of files to be synced; when the server says so for the so manieth
# time, the signal comes. To remove a file has to wait for room: that is made when the session has come to it, or has
# ended. Returns the error of the statement, and whether the signal has come.
my $filled = 0;
sub run_with_signal
{
	my ($mode, $statement, $signal, $times) = @_;
	my $ddl = session($node, 'ddl');
	$ddl->do("SET pg_lockguard.ddl_mode = $mode");
	# Not while it has a lock, or is in a checkpoint.
	await($node, 'the checkpointer has nothing to do', q{SELECT wait_event = 'CheckpointerMain' FROM pg_stat_activity WHERE pid = ?}, $checkpointer);
	kill STOP => $checkpointer;
	$others->do("CREATE TABLE filling_@{[ ++$filled ]} ()") for 1 .. 140;
	# First the hook of the guard, then the one that comes before it.
	$ddl->do('ALTER TABLE t ALTER id SET STATISTICS 100');
	$ddl->value('SELECT boundary_signal_at_message(?, ?, ?)', $signal, $times, 'could not forward fsync request');
	$ddl->do('BEGIN');
	$ddl->send($statement);
	await($node, 'the statement has to remove a file, or is over', q{SELECT NOT EXISTS (SELECT FROM pg_stat_activity
		WHERE pid = ? AND (query <> ? OR state = 'active') AND wait_event IS DISTINCT FROM 'RegisterSyncRequest')}, $ddl->pid, $statement);
	kill CONT => $checkpointer;
	my $error = $ddl->error;
	eval { $ddl->do('ROLLBACK'); 1 } or return ($error, 1);
	return ($error, $ddl->value(q{SELECT boundary_signal_at_message(0, 0, '')}) == 0);
}

my %errors = (POSIX::SIGINT => 'canceling statement due to user request', POSIX::SIGTERM => 'terminating connection due to administrator command');
my %statements = (
	'ALTER TABLE' => 'ALTER TABLE t ADD r float DEFAULT random()',
	'CREATE INDEX' => 'CREATE INDEX ON t (id)',
	'REINDEX' => 'REINDEX TABLE t',
	'CLUSTER' => 'CLUSTER t USING t_pkey',
	'CREATE TABLE' => 'CREATE TABLE made (id int REFERENCES t)',
	'REFRESH' => 'REFRESH MATERIALIZED VIEW seen');
for my $mode (qw(low_priority lock_timeout))
{
	for my $name (sort keys %statements)
	{
		subtest "$name, in ddl_mode $mode" => sub {
			for my $signal (sort keys %errors)
			{
				# Each time that there is no room, until it has run to its end without.
				for (my $times = 1 ;; $times++)
				{
					my ($error, $has_come) = run_with_signal($mode, $statements{$name}, $signal, $times);
					ok($has_come, 'there is no room') if $times == 1;
					last if !$has_come;
					# It may have struck when nothing was left to do.
					like($error // $errors{$signal}, qr/$errors{$signal}/, "$errors{$signal}, $times");
					is(files_left(), '', 'no file is left');
				}
			}
		};
	}
	subtest "the signal is not lost, in ddl_mode $mode" => sub {
		for my $signal (sort keys %errors)
		{
			my ($error) = run_with_signal($mode, 'REFRESH MATERIALIZED VIEW sleeps', $signal, 1);
			like($error, qr/$errors{$signal}/, $errors{$signal});
		}
	};
}

configure($node, log_events => 'all');
for my $message ('pg_lockguard: terminated', 'pg_lockguard event: kind=ddl_blocker_terminated')
{
	subtest "all in the way are ended, cancelled at '$message' or not" => sub {
		my @victims = map { session($node, $_) } 'first', 'second';
		$_->do('BEGIN; SELECT FROM t LIMIT 1') for @victims;
		my $ddl = session($node, 'ddl');
		$ddl->do("SET pg_lockguard.ddl_max_wait = '100ms'; SET pg_lockguard.ddl_on_timeout = terminate");
		$ddl->value('SELECT boundary_signal_at_message(?, 1, ?)', POSIX::SIGINT, $message);
		my $log = -s $node->logfile;
		$ddl->send('ALTER TABLE t ADD n int');
		like($ddl->error, qr/$errors{+POSIX::SIGINT}/, 'the statement is cancelled');
		is($ddl->value(q{SELECT boundary_signal_at_message(0, 0, '')}), 0, 'at that message');
		$_->send('SELECT 1') for @victims;
		like($_->error, qr/ended by PID @{[ $ddl->pid ]}/, $_->name . ' has been ended') for @victims;
		my $logged = slurp_file($node->logfile, $log);
		like($logged, qr/LOG:  pg_lockguard: terminated PID @{[ $_->pid ]},/, 'and the log says so') for @victims;
		like($logged, qr/event: kind=ddl_blocker_terminated .* relation="public\.t" .*blocker_pid=@{[ $_->pid ]} /, 'by its name') for @victims;
		is($others->value(q{SELECT count(*) FROM pg_lockguard_events WHERE kind = 'ddl_blocker_terminated' AND blocker_pid = ?}, $_->pid),
			1, 'and the record') for @victims;
		forget_sessions(@victims);
	};
}

ends_well($node);
done_testing();
