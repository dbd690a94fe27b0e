# Clients that think between the statements of a transaction, as all applications do, and so many of
# them that a table is never free: a statement at low priority gets its lock all the same. One that
# forgets to end its transaction is no reason to keep others waiting in vain.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LockGuard;
use LockGuard::LowPriority;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $clients = 24;

my $node = start_node('think_time', "shared_preload_libraries = 'pg_lockguard'", "deadlock_timeout = '300ms'");
$node->safe_psql(
	'postgres', q{
	CREATE TABLE users (id int PRIMARY KEY, n int);
	INSERT INTO users SELECT i, 0 FROM generate_series(0, 100) i;
	CREATE TABLE orders (id int);
});

my $ddl = session($node, 'ddl');
my $witness = session($node, 'witness');

my $read = "SELECT n FROM users WHERE id = :client_id;\n";

# A load leaves no gap: a look at any time finds the table locked.
sub await_crowd
{
	await($node, 'many hold the table', q{SELECT count(*) > 3 FROM pg_locks WHERE relation = 'users'::regclass});
	return;
}

my %thought = (
	'15 ms of thought' => "BEGIN;\n$read\\sleep 15 ms\nCOMMIT;\n",
	'20 to 200 ms of thought' => "\\set ms random(20, 200)\nBEGIN;\n$read\\sleep :ms ms\nCOMMIT;\n",
	'exponential' => "\\set us random_exponential(1000, 200000, 7)\nBEGIN;\n$read\\sleep :us us\nCOMMIT;\n",
	'three statements with thought between' =>
	  "BEGIN;\n$read\\sleep 12 ms\n$read\\sleep 12 ms\n$read\\sleep 12 ms\nCOMMIT;\n",
	'writers' => "BEGIN;\nUPDATE users SET n = n + 1 WHERE id = :client_id;\n\\sleep 15 ms\nCOMMIT;\n",
	'the table comes last' => "BEGIN;\nSELECT count(*) FROM orders;\n\\sleep 100 ms\n$read\\sleep 20 ms\nCOMMIT;\n");

for my $name (sort keys %thought)
{
	subtest $name => sub {
		my $load = start_load($node, $clients, $thought{$name});
		await_crowd();
		for my $round (1 .. 2)
		{
			$ddl->send(add_column());
			is($ddl->error, undef, "done ($round)");
		}
		stop_load($load);
		my ($event) = $witness->rows(
			q{SELECT attempts, stall < '3 s' AS is_short, stall FROM pg_lockguard_events
			WHERE kind = 'ddl_acquired' ORDER BY id DESC LIMIT 1});
		# None where the first attempt succeeds.
		cmp_ok($event->{attempts} // 0, '<', 100, 'by a small number of attempts');
		ok(!$event || $event->{is_short}, 'nobody was kept waiting for long');
	};
}

# What has been shown of the wait.
sub longest_stall { return $witness->value('SELECT longest_stall FROM pg_lockguard_progress WHERE pid = ?', $ddl->pid); }

sub await_attempts
{
	my $more = shift;
	my $attempt = $witness->value('SELECT attempt FROM pg_lockguard_progress WHERE pid = ?', $ddl->pid);
	await($node, "$more attempts",
		'SELECT EXISTS (SELECT FROM pg_lockguard_progress WHERE pid = ? AND attempt >= ?)', $ddl->pid, $attempt + $more);
	return;
}

subtest 'a session that stays idle' => sub {
	my ($first, $second) = map { session($node, $_) } qw(first second);
	my $load = start_load($node, $clients, $thought{'15 ms of thought'});
	read_and_idle($first);
	await_crowd();
	$ddl->send(add_column());
	await_low_priority($ddl);
	await_attempts(4);
	is(longest_stall(), '00:00:00', 'no burst while it idles');

	# Another one, that is older than all the others when the first one ends.
	read_and_idle($second);
	await($node, 'it is old', q{SELECT xact_start < clock_timestamp() - interval '1 s' FROM pg_stat_activity WHERE pid = ?},
		$second->pid);
	$first->do('COMMIT');
	await_attempts(4);
	is(longest_stall(), '00:00:00', 'nor behind another one, though one like it has ended');
	ok(!$ddl->ready, 'so it waits');

	$second->do('COMMIT');
	is($ddl->error, undef, 'done when they have gone');
	stop_load($load);
	my ($event) = $witness->rows(
		q{SELECT stall < '3 s' AS is_short FROM pg_lockguard_events WHERE kind = 'ddl_acquired'
		ORDER BY id DESC LIMIT 1});
	ok($event->{is_short}, 'and nobody was kept waiting for long');
};

forget_sessions();
$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP:|terminated by signal/, 'no crash');

done_testing();
