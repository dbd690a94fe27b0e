# A session that ends in whatever state of a guarded statement takes nothing with it: not the server,
# and nothing of what it had published. log_disconnections makes it say something after it has given
# its place among the processes up.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LockGuard;
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node(
	'ended',
	q{shared_preload_libraries = 'pg_lockguard'},
	q{log_disconnections = on},
	q{pg_lockguard.ddl_commands = all},
	q{pg_lockguard.worker_interval = '50ms'});
$node->safe_psql(
	'postgres', q{
	CREATE TABLE users (id int PRIMARY KEY, n int);
	INSERT INTO users SELECT i, i FROM generate_series(1, 10) i;
	CREATE TABLE orders (id int PRIMARY KEY, n int);
	INSERT INTO orders SELECT i, i FROM generate_series(1, 10) i;
	-- A rewrite that says when it is at work, and takes its time.
	CREATE FUNCTION slowly(int) RETURNS int VOLATILE LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM pg_sleep(10);
		RETURN $1;
	END $$});

my $holder = session($node, 'holder');

# In which state, from what is known of it, by which statement, and what is in its way: a lock that
# the statement is known to need, one that turns up inside of it, or none.
my %state = (
	waiting => [ 'ALTER TABLE users ADD extra int', 'users',
		q{SELECT EXISTS (SELECT FROM pg_lockguard_progress WHERE pid = ? AND phase IN ('waiting', 'backing off', 'trying'))} ],
	queued => [ 'ALTER TABLE users ADD extra int', 'users',
		q{SELECT EXISTS (SELECT FROM pg_locks WHERE pid = ? AND NOT granted AND locktype = 'relation')},
		'SET pg_lockguard.ddl_on_timeout = queue', 'SET pg_lockguard.ddl_max_wait = 100' ],
	'in the queue of a lock timeout' => [ 'ALTER TABLE users ADD extra int', 'users',
		q{SELECT EXISTS (SELECT FROM pg_locks WHERE pid = ? AND NOT granted AND locktype = 'relation')},
		'SET pg_lockguard.ddl_mode = lock_timeout', q{SET pg_lockguard.ddl_lock_timeout = '1h'} ],
	running => [ 'ALTER TABLE orders ALTER n TYPE int USING slowly(n)', undef,
		q{SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = ?} ],
	'running, with a timeout' => [ 'ALTER TABLE orders ALTER n TYPE int USING slowly(n)', undef,
		q{SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = ?}, 'SET pg_lockguard.ddl_mode = lock_timeout' ],
	'running, in a transaction' => [ 'ALTER TABLE orders ALTER n TYPE int USING slowly(n)', undef,
		q{SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = ?}, 'BEGIN', 'SAVEPOINT s' ],
	'running, in a function' => [ q{DO 'BEGIN ALTER TABLE orders ALTER n TYPE int USING slowly(n); EXCEPTION WHEN OTHERS THEN NULL; END'}, undef,
		q{SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = ?} ],
);

for my $state (sort keys %state)
{
	my ($statement, $table, $reached, @before) = @{ $state{$state} };
	for my $how (qw(terminate cancel abandon))
	{
		next if $how eq 'abandon' && $state =~ /^(running|queued|in the queue)/; # nobody looks for its client then
		subtest "$state: $how" => sub {
			my $log = -s $node->logfile;
			$holder->do("BEGIN; SELECT FROM $table") if $table;
			my $ddl = session($node, 'ddl');
			$ddl->do($_) for @before;
			my $pid = $ddl->pid;
			$ddl->send($statement);
			await($node, "$state", $reached, $pid);
			if ($how eq 'abandon') { shutdown_client($ddl) }
			else
			{
				my $function = { terminate => 'pg_terminate_backend', cancel => 'pg_cancel_backend' }->{$how};
				LockGuard::observer($node)->value("SELECT $function(?)", $pid);
				my $error = await_end($ddl) // 'none';
				like($error, $how eq 'terminate' ? qr/terminating connection|server closed/ : qr/canceling statement due to user request|none/, 'its error')
				  unless $state =~ /function/ && $how eq 'cancel';
			}
			forget_sessions($ddl) if $how eq 'cancel';
			await($node, 'it is gone', 'SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = ?)', $pid);
			await($node, 'nothing of it is left', q{SELECT NOT EXISTS (SELECT FROM pg_lockguard_progress WHERE pid = $1)
				AND NOT EXISTS (SELECT FROM pg_locks WHERE pid = $1)}, $pid);
			$holder->do('ROLLBACK') if $table;
			is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_attribute WHERE attname = 'extra' AND NOT attisdropped}), 0,
				'it has not been done');
			unlike(slurp_file($node->logfile, $log), qr/PANIC|TRAP|terminated by signal|LOG:  .*debug/i, 'nothing else happened to the server');
		};
	}
}

# The connection is closed as by a client that has died.
sub shutdown_client
{
	my $session = shift;
	open(my $null, '<', '/dev/null') or die;
	POSIX::dup2(fileno $null, $session->{dbh}{pg_socket});
	return;
}

ends_well($node);
done_testing();
