# What happens to the whole server while guarded statements wait and run: it stops in each of its ways, a process
# is killed, its lock table is full, a standby becomes a primary. Nothing hangs, nothing is half done, and
# afterwards nothing of what they had published is left.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LockGuard;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes ();

my $node = start_node(
	'server', { streaming => 1 },
	q{shared_preload_libraries = 'pg_lockguard'},
	q{pg_lockguard.ddl_commands = all},
	q{pg_lockguard.worker_interval = '50ms'},
	q{max_locks_per_transaction = 10},
	q{log_disconnections = on});
$node->safe_psql(
	'postgres', q{
	CREATE TABLE users (id int PRIMARY KEY, n int);
	CREATE TABLE orders (id int PRIMARY KEY, n int);
	INSERT INTO orders SELECT i, i FROM generate_series(1, 10) i;
	CREATE FUNCTION slowly(int) RETURNS int VOLATILE LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM pg_sleep(60);
		RETURN $1;
	END $$});

# A holder, and one statement in each state. Returns their sessions by name.
sub start_all
{
	my %session = map { $_ => session($node, $_) } qw(holder waiting queued running limited);
	$session{holder}->do('BEGIN; SELECT FROM users');
	$session{queued}->do($_) for 'SET pg_lockguard.ddl_on_timeout = queue', 'SET pg_lockguard.ddl_max_wait = 50';
	$session{limited}->do($_) for 'SET pg_lockguard.ddl_mode = lock_timeout', q{SET pg_lockguard.ddl_lock_timeout = '1h'};
	$session{$_}->send("ALTER TABLE users ADD $_ int") for qw(waiting queued limited);
	$session{running}->send('ALTER TABLE orders ALTER n TYPE int USING slowly(n)');
	await($node, 'all are there', q{SELECT (SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'relation') >= 2
		AND EXISTS (SELECT FROM pg_lockguard_progress WHERE pid = ?)
		AND EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep')}, $session{waiting}->pid);
	return %session;
}

# The clients find their connections closed.
sub all_are_told
{
	my %session = @_;
	for my $name (qw(waiting queued running limited))
	{
		my $error;
		eval { $error = $session{$name}->error; 1 } or $error = $@;
		like($error, qr/terminating connection|server closed the connection|connection to server was lost/, "$name: it is told");
	}
	$_->{dbh}->disconnect for values %session;
	LockGuard::abandon_sessions();
	return;
}

sub is_untouched
{
	is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_attribute WHERE attrelid = 'users'::regclass AND attnum > 0}), 2, 'nothing is half done');
	is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_lockguard_progress}), 0, 'nothing is published');
	is($node->safe_psql('postgres', 'BEGIN; ALTER TABLE users ADD again int; ROLLBACK; SELECT 1'), 1, 'it goes on');
	return;
}

for my $mode (qw(fast immediate))
{
	subtest "$mode shutdown" => sub {
		my %session = start_all();
		my $log = -s $node->logfile;
		LockGuard::dismiss_observer($node);
		ok($node->stop($mode, fail_ok => 1), 'it stops');
		unlike(slurp_file($node->logfile, $log), qr/PANIC|TRAP|terminated by signal/, 'and nothing else');
		all_are_told(%session);
		$node->start;
		is_untouched();
	};
}

subtest 'the postmaster dies' => sub {
	my %session = start_all();
	my $log = -s $node->logfile;
	LockGuard::dismiss_observer($node);
	my @processes = LockGuard::processes_of($node);
	cmp_ok(scalar @processes, '>', scalar keys %session, 'it has children');
	$node->kill9;
	all_are_told(%session);
	is_deeply([ LockGuard::await_processes_end(@processes) ], [], 'its children end');
	$node->start;
	unlike(slurp_file($node->logfile, $log), qr/PANIC|TRAP/, 'no assertion');
	is_untouched();
};

$node->safe_psql('postgres', 'ALTER SYSTEM SET restart_after_crash = on');
$node->reload;
for my $name (qw(waiting queued running))
{
	subtest "SIGKILL: $name" => sub {
		my %session = start_all();
		LockGuard::dismiss_observer($node);
		my $log = -s $node->logfile;
		kill KILL => $session{$name}->pid;
		all_are_told(%session);
		# The postmaster has to notice first.
		for (1 .. 100 * $PostgreSQL::Test::Utils::timeout_default)
		{
			last if slurp_file($node->logfile, $log) =~ /database system is ready to accept connections/;
			Time::HiRes::usleep(10_000);
		}
		my @signals = slurp_file($node->logfile, $log) =~ /terminated by signal (\d+)/g;
		is("@signals", 9, 'nobody else crashed');
		is_untouched();
	};
}

subtest 'the lock table is full' => sub {
	my %session = map { $_ => session($node, $_) } qw(holder waiting hog new);
	$session{holder}->do('BEGIN; SELECT FROM users');
	$session{waiting}->send('ALTER TABLE users ADD waiting int');
	await($node, 'it waits', 'SELECT EXISTS (SELECT FROM pg_lockguard_progress WHERE pid = ?)', $session{waiting}->pid);
	ok(!eval { $session{hog}->do('SELECT pg_advisory_lock(i) FROM generate_series(1, 1000000) i'); 1 }, 'somebody fills it');
	is($session{hog}->sqlstate, '53200', 'until it is full');
	ok(!eval { $session{new}->do('ALTER TABLE orders ADD new int'); 1 }, 'a guarded statement fails');
	is($session{new}->sqlstate, '53200', 'as in plain PostgreSQL');
	is(LockGuard::observer($node)->value('SELECT count(*) >= 0 FROM lock_tree()'), 1, 'the tree can be read');
	is(LockGuard::observer($node)->value('SELECT count(*) FROM pg_lockguard_progress WHERE pid = ?', $session{new}->pid), 0, 'it has left nothing');
	$session{hog}->do('SELECT pg_advisory_unlock_all()');
	$session{holder}->do('COMMIT');
	my $error = $session{waiting}->error;
	like($error // 'done', qr/^done$|out of shared memory/, 'the one that waited: ' . ($error // 'done'));
	$session{waiting}->do('ALTER TABLE users ADD IF NOT EXISTS waiting int');
	$session{new}->do('ALTER TABLE orders ADD new int');
	forget_sessions(values %session);
	$node->safe_psql('postgres', 'ALTER TABLE users DROP waiting; ALTER TABLE orders DROP new');
};

subtest 'promotion' => sub {
	my $standby = start_standby($node, 'promoted', q{log_min_messages = warning});
	my $reader = session($standby, 'reader');
	$reader->do('BEGIN; SELECT FROM users');
	my $ddl = session($standby, 'ddl');
	ok(!eval { $ddl->do('ALTER TABLE users ADD extra int'); 1 }, 'a statement on the standby');
	is($ddl->sqlstate, '25006', 'gets the error of PostgreSQL');
	$standby->promote;
	await($standby, 'it is a primary', 'SELECT NOT pg_is_in_recovery()');
	$ddl->send('ALTER TABLE users ADD extra int');
	await($standby, 'the same session waits at low priority', q{SELECT EXISTS (SELECT FROM pg_lockguard_progress WHERE pid = ?)}, $ddl->pid);
	$reader->do('COMMIT');
	is($ddl->error, undef, 'and is done');
	forget_sessions($ddl, $reader);
	LockGuard::dismiss_observer($standby);
	$standby->stop;
	unlike(slurp_file($standby->logfile), qr/PANIC|TRAP|terminated by signal/, 'no crash');
};

LockGuard::dismiss_observer($node);
$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP/, 'no crash but those that were made');
done_testing();
