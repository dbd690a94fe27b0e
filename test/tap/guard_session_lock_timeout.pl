# pg_lockguard.ddl_session_lock_timeout: what the lock_timeout that migration tools set means to a
# statement at low priority. The tools' SQL is what they send: pgroll (its default of 500 ms),
# strong_migrations (10 s), safe-pg-migrations (5 s), GitLab's with_lock_retries (100 ms at first).
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LockGuard;
use LockGuard::LowPriority;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node('session_lock_timeout', "shared_preload_libraries = 'pg_lockguard'", "deadlock_timeout = '1s'");
$node->safe_psql(
	'postgres', q{
	CREATE ROLE tool LOGIN;
	ALTER ROLE tool SET pg_lockguard.ddl_session_lock_timeout = stall;
	CREATE TABLE users (id bigint PRIMARY KEY);
	CREATE TABLE orders (id bigint PRIMARY KEY, user_id bigint);
	INSERT INTO users SELECT generate_series(1, 100);
	GRANT ALL ON SCHEMA public TO tool;
	ALTER TABLE users OWNER TO tool;
	ALTER TABLE orders OWNER TO tool});

my $holder = session($node, 'holder');
my $reader = session($node, 'reader');
$reader->do("SET statement_timeout = '5s'");

# By tool: what it sends before; the statement; what it sends after it; the longest that it lets it wait.
my %tool = (
	pgroll => [ [ "SET lock_timeout to '500ms'" ], 'ALTER TABLE "users" ADD COLUMN "_pgroll_new_name" varchar(255)', [], '500ms' ],
	strong_migrations => [
		[ 'SET statement_timeout TO 3600000', 'SET lock_timeout TO 10000' ],
		'ALTER TABLE "users" ADD "nickname" character varying', [], '10s' ],
	'safe-pg-migrations' => [
		[ "SET lock_timeout TO '5s'", "SET statement_timeout TO '0'" ],
		'ALTER TABLE "users" ADD "middle_name" character varying', [ "SET lock_timeout TO '0'" ], '5s' ],
	gitlab => [
		[ 'BEGIN', "SET LOCAL lock_timeout TO '100ms'" ],
		'ALTER TABLE "users" ADD "last_name" text', [ 'COMMIT', 'RESET idle_in_transaction_session_timeout; RESET lock_timeout' ], '100ms' ],
);

subtest 'stall: the tools wait for as long as it takes, and nobody waits behind them' => sub {
	my %session = map { $_ => session($node, $_, user => 'tool') } sort keys %tool;
	read_and_idle($holder);
	for my $name (sort keys %tool)
	{
		my ($before, $statement) = @{ $tool{$name} };
		$session{$name}->do($_) for @$before;
		$session{$name}->send($statement);
	}
	await_low_priority(values %session);
	for my $name (sort { ($tool{$a}[3] =~ /ms/ ? 0 : $tool{$a}[3]) <=> ($tool{$b}[3] =~ /ms/ ? 0 : $tool{$b}[3]) } keys %tool)
	{
		await($node, "$name has waited for longer than its lock_timeout",
			'SELECT EXISTS (SELECT FROM pg_lockguard_progress WHERE pid = ? AND waited > ?::interval + $$100 ms$$)',
			$session{$name}->pid, $tool{$name}[3]);
		ok(!$session{$name}->ready, "$name: it waits on, after $tool{$name}[3]");
		is($reader->value('SELECT count(*) FROM users'), 100, "$name: readers go on");
	}
	is($reader->value('SELECT max(longest_stall) FROM pg_lockguard_progress'), '00:00:00', 'without a stall');
	is($reader->value('SELECT count(deadline) FROM pg_lockguard_progress'), 0, 'nor a deadline');
	$holder->do('COMMIT');
	# The one in a transaction keeps its lock until that ends.
	for my $name (sort keys %tool)
	{
		my $error = $name eq 'gitlab' ? $session{$name}->error : undef;
		is($error, undef, "$name: done") if $name eq 'gitlab';
		$session{$name}->do($_) for $name eq 'gitlab' ? @{ $tool{$name}[2] } : ();
	}
	for my $name (grep { $_ ne 'gitlab' } sort keys %tool)
	{
		is($session{$name}->error, undef, "$name: done");
		$session{$name}->do($_) for @{ $tool{$name}[2] };
	}
	forget_sessions(values %session);
};

subtest 'wait: it bounds the whole wait' => sub {
	$node->safe_psql('postgres', 'ALTER ROLE tool RESET pg_lockguard.ddl_session_lock_timeout');
	my $pgroll = session($node, 'pgroll', user => 'tool');
	is($pgroll->value('SHOW pg_lockguard.ddl_session_lock_timeout'), 'wait', 'the default');
	read_and_idle($holder);
	$pgroll->do($tool{pgroll}[0][0]);
	$pgroll->send('ALTER TABLE users ADD COLUMN other int');
	like($pgroll->error, qr/canceling statement due to lock timeout\nDETAIL:  ALTER TABLE waited (?:[5-9]\d\d ms|\S+ s) for/, 'it gives up, not before');
	is($pgroll->sqlstate, '55P03', 'with 55P03');
	$holder->do('COMMIT');
	forget_sessions($pgroll);
};

subtest 'ddl_max_wait and statement_timeout bound it all the same' => sub {
	my $ddl = session($node, 'ddl');
	$ddl->do("SET pg_lockguard.ddl_session_lock_timeout = stall; SET lock_timeout = '50ms'; SET pg_lockguard.ddl_max_wait = '300ms'");
	read_and_idle($holder);
	$ddl->send(add_column());
	like($ddl->error, qr/canceling statement due to lock timeout\nDETAIL:  ALTER TABLE waited (?:[3-9]\d\d ms|\S+ s) for/, 'ddl_max_wait');
	is_clean($ddl, 'ddl_max_wait', '50ms');
	$ddl->do("SET pg_lockguard.ddl_max_wait = 0; SET statement_timeout = '400ms'");
	$ddl->send(add_column());
	like($ddl->error, qr/canceling statement due to statement timeout/, 'statement_timeout');
	$holder->do('COMMIT');
	forget_sessions($ddl);
};

subtest 'in the queue at last, it bounds each stay' => sub {
	my $ddl = session($node, 'ddl');
	$ddl->do("SET pg_lockguard.ddl_session_lock_timeout = stall; SET lock_timeout = '300ms';
		SET pg_lockguard.ddl_max_wait = '100ms'; SET pg_lockguard.ddl_on_timeout = queue");
	read_and_idle($holder);
	$ddl->send(add_column());
	my $error = $ddl->error;
	like($error, qr/canceling statement due to lock timeout\nDETAIL:  ALTER TABLE waited (?:[3-9]\d\d ms|\S+ s) for AccessExclusiveLock on public\.users\. Blocked by/, 'it fails after that, and says who was in the way');
	$holder->do('COMMIT');
	forget_sessions($ddl);
};

subtest 'a stay in the queue is no longer than lock_timeout' => sub {
	my $load = start_load($node, 8, "BEGIN;\nSELECT count(*) FROM users;\nSELECT pg_sleep(0.02 + random() * 0.02);\nCOMMIT;\n");
	my $ddl = session($node, 'ddl');
	$ddl->do("SET pg_lockguard.ddl_session_lock_timeout = stall; SET lock_timeout = '60ms'; SET pg_lockguard.ddl_lock_timeout = '1min'");
	for (1 .. 3)
	{
		$ddl->send(add_column());
		is($ddl->error, undef, 'it is done where there is no gap');
	}
	stop_load($load);
	my ($stay) = map { $_->{stall} } $reader->rows(
		q{SELECT max(extract(epoch FROM stall)) AS stall FROM pg_lockguard_events WHERE pid = ? AND kind = 'ddl_acquired'}, $ddl->pid);
	cmp_ok($stay // 0, '<', 20, 'far below ddl_lock_timeout');
	forget_sessions($ddl);
};

subtest 'values' => sub {
	my $ddl = session($node, 'ddl');
	ok(!eval { $ddl->do('SET pg_lockguard.ddl_session_lock_timeout = never'); 1 }, 'no other value');
	is($ddl->sqlstate, '22023', 'with 22023');
	like($@, qr/Available values: wait, stall/, 'the HINT lists them');
	forget_sessions($ddl);
};

ends_well($node);
done_testing();
