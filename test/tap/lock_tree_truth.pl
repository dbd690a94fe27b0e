# lock_tree() against the truth. In each round random sessions get in each other's way: table and
# row locks, advisory locks, unique keys, objects, virtual transactions, safe snapshots, prepared
# transactions; deadlocks stand. When nothing moves any more, every row must be what pg_locks,
# pg_stat_activity and pg_blocking_pids() say (lib/lock_tree_checks.sql has the list).
#
# LOCKGUARD_SEED, LOCKGUARD_ROUNDS and LOCKGUARD_SESSIONS choose other rounds.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use List::Util qw(shuffle);
use LockGuard;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $seed = $ENV{LOCKGUARD_SEED} // 4711;
my $rounds = $ENV{LOCKGUARD_ROUNDS} // 12;
my $session_count = $ENV{LOCKGUARD_SESSIONS} // 48;
note "LOCKGUARD_SEED=$seed LOCKGUARD_ROUNDS=$rounds LOCKGUARD_SESSIONS=$session_count";
srand $seed;

my $node = start_node('truth', 'max_connections = ' . ($session_count + 20), 'log_min_messages = fatal',
	'log_statement = none', 'log_min_error_statement = fatal');
my $observer = LockGuard::observer($node);
my @sessions = map { session($node, sprintf 's%02d', $_) } 1 .. $session_count;

sub one_of { return $_[ rand @_ ]; }

my @table_modes = ('ACCESS SHARE', 'ROW SHARE', 'ROW EXCLUSIVE', 'SHARE UPDATE EXCLUSIVE', 'SHARE',
	'SHARE ROW EXCLUSIVE', 'EXCLUSIVE', 'ACCESS EXCLUSIVE');

# Something to do in a transaction, likely to wait for somebody.
sub random_statement
{
	my $row = 1 + int rand 5;
	my $key = 1 + int rand 4;
	my $table = 1 + int rand 3;
	return one_of(
		(map { "LOCK TABLE t$table IN $_ MODE" } @table_modes),
		"UPDATE rows SET n = n + 1 WHERE id = $row",
		"UPDATE rows SET n = n + 1 WHERE id = $row",
		"UPDATE rows SET id = -id WHERE id = $row",
		"DELETE FROM rows WHERE id = $row",
		(map { "SELECT FROM rows WHERE id = $row FOR $_" } 'UPDATE', 'NO KEY UPDATE', 'SHARE', 'KEY SHARE'),
		"INSERT INTO keys VALUES ($key)",
		"INSERT INTO keys VALUES ($key)",
		"INSERT INTO keys VALUES ($key) ON CONFLICT DO NOTHING",
		"SELECT pg_advisory_xact_lock($key)",
		"SELECT pg_advisory_xact_lock_shared($key)",
		"SELECT pg_advisory_lock($key, $table)",
		"SELECT pg_advisory_lock_shared($key, $table)",
		'CREATE TABLE IF NOT EXISTS s.made (id int)',
		'DROP SCHEMA s CASCADE',
		"INSERT INTO refers VALUES ($row)",
		"SELECT FROM t$table");
}

# How the sessions begin.
sub random_start
{
	my $roll = rand;
	return 'BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE' if $roll < 0.05;
	return 'BEGIN ISOLATION LEVEL SERIALIZABLE' if $roll < 0.15;
	return 'BEGIN ISOLATION LEVEL REPEATABLE READ' if $roll < 0.25;
	return 'BEGIN';
}

my %sent;

# Takes the results of those that have ended. A failed transaction begins anew.
sub collect
{
	for my $session (grep { $sent{ $_->name } && $_->ready } @sessions)
	{
		delete $sent{ $session->name };
		$session->do('ROLLBACK; BEGIN') if $session->error;
	}
	return;
}

sub send_to
{
	my ($session, $statement) = @_;
	$session->send($statement);
	$sent{ $session->name } = 1;
	return;
}

my $still = q{
	WITH l AS MATERIALIZED (SELECT * FROM pg_locks WHERE pid IS DISTINCT FROM pg_backend_pid()),
		a AS MATERIALIZED (SELECT * FROM pg_stat_activity WHERE pid <> pg_backend_pid())
	SELECT ?::int[] <@ ARRAY(SELECT pid FROM l WHERE NOT granted
			UNION SELECT pid FROM a WHERE wait_event = 'SafeSnapshot')
		AND NOT EXISTS (SELECT FROM l WHERE NOT granted AND waitstart IS NULL)
		AND NOT EXISTS (SELECT FROM a WHERE wait_event IS NULL AND backend_type = 'client backend'),
		(SELECT md5(string_agg(l::text, ' ' ORDER BY l::text)) FROM l)};

# Until two looks at pg_locks, 20 ms apart, are the same, and everybody is idle or waits. Returns
# what they saw.
sub stand_still
{
	my $before = '';
	for (1 .. 50 * $PostgreSQL::Test::Utils::timeout_default)
	{
		collect();
		my @waiting = map { $_->pid } grep { $sent{ $_->name } } @sessions;
		my ($is_still, $now) = $observer->{dbh}->selectrow_array($still, undef, \@waiting);
		$now = '' unless $is_still;
		return $now if $now ne '' && $now eq $before;
		$before = $now;
		usleep(20_000);
	}
	die "the sessions do not come to rest\n";
}

my %seen;
for my $round (1 .. $rounds)
{
	subtest "round $round" => sub {
		$observer->do(q{
			SET client_min_messages = error;
			DROP SCHEMA IF EXISTS s CASCADE;
			DROP TABLE IF EXISTS t1, t2, t3, rows, keys, refers, indexed;
			CREATE TABLE t1 (id int);
			CREATE TABLE t2 (id int);
			CREATE TABLE t3 (id int);
			CREATE TABLE rows (id int PRIMARY KEY, n int DEFAULT 0);
			INSERT INTO rows SELECT generate_series(1, 5);
			CREATE TABLE refers (id int REFERENCES rows ON UPDATE CASCADE);
			CREATE TABLE keys (id int PRIMARY KEY);
			CREATE TABLE indexed (id int);
			CREATE SCHEMA s;
		});

		# One or two prepared transactions, a writer, and a CREATE INDEX CONCURRENTLY that waits for it.
		my ($prepare1, $prepare2, $writer, $index, @others) = shuffle @sessions;
		$prepare1->do("BEGIN; LOCK TABLE t1 IN ROW EXCLUSIVE MODE; UPDATE rows SET n = 1 WHERE id = 1;
			PREPARE TRANSACTION 'first'");
		$prepare2->do("BEGIN; LOCK TABLE t1 IN SHARE UPDATE EXCLUSIVE MODE; INSERT INTO keys VALUES (1);
			PREPARE TRANSACTION 'second'") if $round % 2;
		$writer->do('BEGIN; INSERT INTO indexed VALUES (1)');
		send_to($index, 'CREATE INDEX CONCURRENTLY ON indexed (id)');
		$_->do(random_start()) for @others;
		$prepare1->do('BEGIN');
		$prepare2->do('BEGIN');
		for (1 .. 4)
		{
			for my $session (shuffle @others, $prepare1, $prepare2)
			{
				collect();
				send_to($session, random_statement()) unless $sent{ $session->name };
			}
		}

		my ($locks, $now, $faults) = (stand_still());
		for (;;)
		{
			$faults = LockGuard::faults($node);
			$now = stand_still();
			last if $now eq $locks;
			note 'something moved meanwhile: another look';
			$locks = $now;
		}
		is($faults, '', "round $round: the picture is true")
		  or note tree($node, qw(blocked_by held_by blocks lock_type lock_object lock_mode blocker_mode deadlock));
		for my $row ($observer->rows(q{
			SELECT coalesce(lock_type, 'no wait') AS kind, count(*) AS rows, sum(cardinality(blocked_by)) AS edges,
				sum(cardinality(held_by)) AS hard, sum(deadlock::int) AS deadlocks,
				sum((gid IS NOT NULL)::int) AS prepared, sum((depth > 1)::int) AS deep
			FROM lock_tree() GROUP BY 1}))
		{
			$seen{ $row->{kind} } += $row->{rows};
			$seen{$_} += $row->{$_} for qw(edges hard deadlocks prepared deep);
		}

		# Waiters are told to give up, as long as there are any.
		while (%sent)
		{
			$observer->value('SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity
				WHERE pid = ANY (?)', [ map { $_->pid } grep { $sent{ $_->name } } @sessions ]);
			usleep(10_000);
			collect();
		}
		$_->do('ROLLBACK') for @sessions;
		$_->value('SELECT pg_advisory_unlock_all()') for @sessions;
		$observer->do("ROLLBACK PREPARED '$_->{gid}'") for $observer->rows('SELECT gid FROM pg_prepared_xacts');
	};
}

subtest 'what the rounds have seen' => sub {
	note join ', ', map { "$_: $seen{$_}" } sort keys %seen;
	cmp_ok($seen{$_} // 0, '>', 0, "there were waits: $_")
	  for qw(relation transactionid tuple virtualxid advisory object);
	cmp_ok($seen{$_} // 0, '>', 0, "there were some: $_") for qw(prepared deadlocks deep);
	cmp_ok($seen{edges}, '>', $seen{hard}, 'there were blockers that only queued ahead');
};

ends_well($node);
done_testing();
