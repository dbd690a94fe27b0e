# pg_stat_lockguard_waits: what it adds up by, who sees what, that it stays within its bounds, and how
# far its sums are from the exact times of a client's journal.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";
use LockGuard;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $node = start_node(
	'waits',
	q{shared_preload_libraries = 'pg_lockguard'},
	q{pg_lockguard.ddl_mode = off},
	q{pg_lockguard.waits_max = 10},
	q{pg_lockguard.worker_interval = 50ms});
$node->safe_psql('postgres', q{
	CREATE ROLE app LOGIN;
	CREATE ROLE plain LOGIN;
	CREATE TABLE users (id int PRIMARY KEY);
	INSERT INTO users SELECT generate_series(1, 100);
	GRANT ALL ON users TO PUBLIC;
	CREATE DATABASE other;
});
$node->safe_psql('other', 'CREATE EXTENSION pg_lockguard');
my $observer = LockGuard::observer($node);
my ($relation, $database) = map { $observer->value($_) }
  q{SELECT 'users'::regclass::oid}, q{SELECT oid FROM pg_database WHERE datname = 'postgres'};

sub seen
{
	my ($what, $condition, @values) = @_;
	await($node, $what, "SELECT EXISTS (SELECT FROM pg_stat_lockguard_waits WHERE $condition)", @values);
	return ($observer->rows("SELECT * FROM pg_stat_lockguard_waits WHERE $condition", @values))[0];
}

subtest 'what waits are added up by' => sub {
	my ($reader, $alter, $web) =
	  (session($node, 'sidekiq', user => 'app'), session($node, 'migrate'), session($node, 'web'));
	$reader->do('BEGIN; SELECT FROM users');
	settle($node, $alter->send('BEGIN; LOCK TABLE users'));
	settle($node, $web->send('SELECT FROM users'));
	my $behind_reader = seen('the wait of ALTER TABLE', q{lock_mode = 'AccessExclusiveLock'});
	my $behind_alter = seen('the wait of a SELECT', q{lock_mode = 'AccessShareLock' AND wait_time > 100});
	my @columns = qw(datname lock_type relid relation blocker_usename blocker_application_name waits);
	my %row = (datname => 'postgres', lock_type => 'relation', relid => $relation, relation => 'public.users', waits => 1);
	is_deeply({ map { $_ => $behind_reader->{$_} } @columns },
		{ %row, blocker_usename => 'app', blocker_application_name => 'sidekiq' }, 'behind the one that holds');
	is_deeply({ map { $_ => $behind_alter->{$_} } @columns },
		{ %row, blocker_usename => $observer->value('SELECT current_user'), blocker_application_name => 'migrate' },
		'behind the one that stands ahead');
	cmp_ok($behind_alter->{max_wait_time}, '<=', 60_000, 'milliseconds');
	cmp_ok(abs($behind_alter->{wait_time} - $behind_alter->{max_wait_time}), '<', 200, 'one wait: the sum is about the longest');
	is(session($node, 'elsewhere', dbname => 'other')->value('SELECT relation FROM pg_stat_lockguard_waits LIMIT 1'),
		"relation $relation of database $database", 'another database sees no name');
	is(session($node, 'plain', user => 'plain')->value('SELECT count(*) FROM pg_stat_lockguard_waits'), 2, 'everybody may look');
	$reader->do('ROLLBACK');
	await_end($alter);
	$alter->do('ROLLBACK');
	await_end($web);
	forget_sessions();
};

subtest 'row locks, advisory locks, a ring' => sub {
	my ($one, $two) = map { session($node, $_) } qw(one two);
	$one->do('BEGIN; UPDATE users SET id = 1 WHERE id = 1');
	$two->do('BEGIN; SELECT pg_advisory_xact_lock(1)');
	$two->send('UPDATE users SET id = 1 WHERE id = 1');
	my $row = seen('a row lock', q{lock_type = 'transactionid'});
	is_deeply([ map { $row->{$_} } qw(relid relation lock_mode blocker_application_name) ],
		[ undef, undef, 'ShareLock', 'one' ], 'a row lock is about no relation');
	$one->send('SELECT pg_advisory_xact_lock(1)');
	$row = seen('an advisory lock', q{lock_type = 'advisory'});
	is($row->{blocker_application_name}, 'two', 'of a ring both wait');
	forget_sessions();
};

subtest 'reset' => sub {
	my $since = $observer->value('SELECT max(stats_reset) FROM pg_stat_lockguard_waits');
	$observer->do('SELECT pg_stat_lockguard_reset()');
	is($observer->value('SELECT count(*) FROM pg_stat_lockguard_waits'), 0, 'it is empty');
	my ($holder, $waiter) = map { session($node, $_) } qw(holder waiter);
	$holder->do('BEGIN; LOCK TABLE users');
	$waiter->send('SELECT FROM users');
	seen('the next wait', 'waits = 1');
	is($observer->value('SELECT stats_reset > ? FROM pg_stat_lockguard_waits', $since), 1, 'since when');
	# The rest of a wait that began before is nobody's.
	$observer->do('SELECT pg_stat_lockguard_reset()');
	usleep(300_000);
	is($observer->value('SELECT count(*) FROM pg_stat_lockguard_waits'), 0, 'a wait that has been counted before is not counted again');
	forget_sessions();
};

subtest 'bounds' => sub {
	$observer->do('SELECT pg_stat_lockguard_reset()');
	my ($holder, $waiter, $other) = map { session($node, $_) } qw(holder waiter other);
	my $wait = sub {
		my ($name, $waits) = @_;
		$holder->do("SET application_name = '$name'");
		$holder->do('SELECT pg_advisory_lock(1)');
		$waiter->send('SELECT pg_advisory_lock(1)');
		seen("a wait for $name", 'blocker_application_name = ? AND waits >= ?', $name, $waits // 1);
		$holder->do('SELECT pg_advisory_unlock(1)');
		await_end($waiter);
		$waiter->do('SELECT pg_advisory_unlock(1)');
	};
	$wait->('often', $_) for 1 .. 3;
	$wait->("app $_") for 1 .. 9;
	is($observer->value('SELECT count(*) FROM pg_stat_lockguard_waits'), 10, 'it is full');
	is($observer->value('SELECT waits_evicted FROM pg_stat_lockguard'), 0, '... and nobody made room so far');
	$wait->("more $_") for 1 .. 4;
	is($observer->value('SELECT count(*) FROM pg_stat_lockguard_waits'), 10, 'it does not grow');
	is($observer->value('SELECT waits_evicted FROM pg_stat_lockguard'), 4, 'those that made room are counted');
	is_deeply($observer->{dbh}->selectcol_arrayref('SELECT blocker_application_name FROM pg_stat_lockguard_waits ORDER BY 1'),
		[ (map { "app $_" } 5 .. 9), (map { "more $_" } 1 .. 4), 'often' ], 'the least used, and of those the oldest, made room');
	forget_sessions();
};

# A minute of waits of all lengths, with the looks as they are by default. Half of the waits are
# shorter than the time between two looks.
subtest 'how far off the sums are' => sub {
	$node->safe_psql('postgres', 'ALTER SYSTEM RESET ALL');
	$node->safe_psql('postgres', q{ALTER SYSTEM SET pg_lockguard.worker_interval = '1s'});
	$node->reload;
	usleep(1_500_000);
	$observer->do('SELECT pg_stat_lockguard_reset()');
	my ($pairs, $seconds, $exact, $waits) = (12, 60, 0, 0);
	my @pairs = map { { holder => session($node, "holder"), waiter => session($node, "waiter"), key => 1000 + $_, next => time + rand(2) } } 1 .. $pairs;
	my $end = time + $seconds;
	while (grep { $_->{begun} } @pairs or time < $end)
	{
		for my $pair (@pairs)
		{
			if (!$pair->{begun})
			{
				next if time < $pair->{next} || time >= $end;
				$pair->{holder}->do("SELECT pg_advisory_lock($pair->{key})");
				$pair->{begun} = time;
				$pair->{waiter}->send("SELECT pg_advisory_lock($pair->{key})");
				$pair->{due} = $pair->{begun} + (rand() < 0.5 ? 0.02 + rand(0.4) : 0.5 + rand(4));
			}
			elsif (time >= $pair->{due})
			{
				$pair->{holder}->do("SELECT pg_advisory_unlock($pair->{key})");
				$exact += time - $pair->{begun};
				$waits++;
				$pair->{waiter}->error;
				$pair->{waiter}->do("SELECT pg_advisory_unlock($pair->{key})");
				delete $pair->{begun};
				$pair->{next} = time + rand(1.5);
			}
		}
		usleep(3_000);
	}
	usleep(1_500_000);
	my ($sum, $seen) = map { $observer->value("SELECT sum($_) FROM pg_stat_lockguard_waits WHERE blocker_application_name = 'holder'") } qw(wait_time waits);
	my $off = 100 * ($sum / 1000 / $exact - 1);
	note(sprintf('%d waits, %d seen, %.1f s altogether; the sum is off by %+.1f %%', $waits, $seen, $exact, $off));
	cmp_ok($seen, '<=', $waits, 'no wait is counted twice');
	cmp_ok(abs($off), '<', 5, 'within 5 %');
	forget_sessions();
};

is($observer->value('SELECT errors FROM pg_stat_lockguard'), 0, 'the worker had no error');
done_testing();
