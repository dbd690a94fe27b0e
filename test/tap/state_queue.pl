# What can happen to a guarded statement that stands in a lock's queue for good: because its patience is over (queued),
# because it has ended those in its way, who take their time (terminating), or because ddl_mode = lock_timeout.
# The holder is stopped, so that the state lasts for as long as the test wants.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LockGuard;
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $node = start_node(
	'queue',
	q{shared_preload_libraries = 'pg_lockguard'},
	q{deadlock_timeout = '200ms'},
	q{pg_lockguard.worker_interval = '50ms'},
	q{pg_lockguard.ddl_commands = all},
	q{pg_lockguard.ddl_notice_interval = 0},
	q{max_locks_per_transaction = 10},
	q{restart_after_crash = on});
$node->safe_psql(
	'postgres', q{
	CREATE ROLE app LOGIN;
	CREATE TABLE users (id int PRIMARY KEY, n int);
	GRANT ALL ON users TO app});

my %state = (
	queued => [ q{SET pg_lockguard.ddl_on_timeout = queue}, q{SET pg_lockguard.ddl_max_wait = '50ms'} ],
	terminating => [
		q{SET pg_lockguard.ddl_on_timeout = terminate}, q{SET pg_lockguard.ddl_max_wait = '50ms'},
		q{SET pg_lockguard.ddl_lock_timeout = '1h'} ],
	'lock_timeout' => [ q{SET pg_lockguard.ddl_mode = lock_timeout}, q{SET pg_lockguard.ddl_lock_timeout = '1h'} ]);

my ($holder, $ddl);

# begin(STATE, [AHEAD,] SETTING...): the statement is in that state, behind the holder, which does not run, and
# behind whom AHEAD->() has sent into the queue.
sub begin
{
	my ($state, @settings) = @_;
	my $ahead = ref $settings[0] ? shift @settings : sub { };
	$holder = session($node, 'holder', user => 'app');
	$holder->do('BEGIN; SELECT FROM users');
	freeze($node, $holder);
	$ahead->();
	$ddl = session($node, 'ddl');
	$ddl->do($_) for @{ $state{$state} }, @settings;
	my $ended = LockGuard::observer($node)->value(q{SELECT count(*) FROM pg_lockguard_events WHERE kind = 'ddl_blocker_terminated'});
	$ddl->send('ALTER TABLE users ADD extra int');
	await($node, $state, q{SELECT EXISTS (SELECT FROM pg_locks WHERE pid = $1 AND NOT granted AND relation = 'users'::regclass)
		AND ($2 <> 'terminating' OR $3 < (SELECT count(*) FROM pg_lockguard_events WHERE kind = 'ddl_blocker_terminated'))},
		$ddl->pid, $state, $ended);
	# A burst would be over by now, and the statement sleep again.
	await($node, 'it stays there', q{SELECT EXISTS (SELECT FROM pg_locks WHERE pid = $1 AND NOT granted AND relation = 'users'::regclass
		AND clock_timestamp() - waitstart > '300 ms')}, $ddl->pid) if $state eq 'queued';
	return;
}

# The holder goes on, and ends: of SIGTERM, or of itself.
sub let_go
{
	kill CONT => $holder->pid;
	eval { $holder->do('ROLLBACK') };
	return;
}

# It tells its client before it gives up what it has.
sub is_gone
{
	await($node, 'its end', 'SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = ?)', $ddl->pid);
	return;
}

# Nothing is left of either. The column is there, or not.
sub ended
{
	my $there = shift;
	let_go();
	my $pid = $ddl->pid;
	is(LockGuard::observer($node)->value(q{SELECT count(*) FROM pg_locks WHERE pid = ? AND locktype <> 'virtualxid'}, $pid), 0, 'no lock is left');
	is(LockGuard::observer($node)->value('SELECT count(*) FROM pg_lockguard_progress'), 0, 'nothing is published');
	is(LockGuard::observer($node)->value(q{SELECT count(*) FROM pg_attribute WHERE attrelid = 'users'::regclass
		AND attname = 'extra' AND NOT attisdropped}), $there, $there ? 'it is done' : 'it is not done');
	forget_sessions($holder, $ddl);
	$node->safe_psql('postgres', 'ALTER TABLE users DROP extra') if $there;
	return;
}

for my $state (sort keys %state)
{
	subtest "$state: granted late" => sub {
		begin($state, q{SET lock_timeout = '5s'});
		kill STOP => $ddl->pid;
		let_go();
		await($node, 'its lock is granted while it stands still', q{SELECT EXISTS (SELECT FROM pg_locks
			WHERE pid = ? AND granted AND relation = 'users'::regclass AND mode = 'AccessExclusiveLock')}, $ddl->pid);
		await($node, 'and every timer is over', q{SELECT clock_timestamp() - query_start > '6 s' FROM pg_stat_activity WHERE pid = ?}, $ddl->pid);
		kill CONT => $ddl->pid;
		my $error = $ddl->error;
		# PostgreSQL asks for a timeout once more after the lock was granted.
		like($error // 'done', qr/^done$|due to lock timeout/, 'done, or told that it was too late: ' . ($error // 'done'));
		is($ddl->value('SELECT count(*) FROM generate_series(1, 100000)'), 100000, 'nothing is left of the timers');
		ended(defined $error ? 0 : 1);
	};

	subtest "$state: lock_timeout of the session" => sub {
		# A time in which the state is seen.
		begin($state, q{SET lock_timeout = '3s'});
		like($ddl->error, qr/canceling statement due to lock timeout/, 'ends it');
		is($ddl->sqlstate, '55P03', 'by its SQLSTATE');
		is($ddl->value('SHOW lock_timeout'), '3s', 'and is what it was');
		ended(0);
	};

	subtest "$state: statement_timeout" => sub {
		begin($state, q{SET statement_timeout = '3s'});
		like($ddl->error, qr/canceling statement due to statement timeout/, 'ends it');
		is($ddl->sqlstate, '57014', 'by its SQLSTATE');
		ended(0);
	};

	subtest "$state: transaction_timeout" => sub {
		plan skip_all => 'it is of 17' if $node->pg_version < 17;
		begin($state, q{SET transaction_timeout = '3s'});
		like($ddl->error, qr/terminating connection due to transaction timeout|server closed/, 'ends the session');
		like(slurp_file($node->logfile), qr/FATAL:  terminating connection due to transaction timeout/, 'for that');
		is_gone();
		ended(0);
	};

	subtest "$state: cancel" => sub {
		begin($state);
		LockGuard::observer($node)->value('SELECT pg_cancel_backend(?)', $ddl->pid);
		like($ddl->error, qr/canceling statement due to user request/, 'ends it');
		ended(0);
	};

	subtest "$state: terminate" => sub {
		begin($state);
		LockGuard::observer($node)->value('SELECT pg_terminate_backend(?)', $ddl->pid);
		like($ddl->error, qr/terminating connection|server closed/, 'ends the session');
		is_gone();
		ended(0);
	};

	subtest "$state: its client goes" => sub {
		begin($state, q{SET client_connection_check_interval = '100ms'});
		my $pid = $ddl->pid;
		open(my $null, '<', '/dev/null') or die;
		POSIX::dup2(fileno $null, $ddl->{dbh}{pg_socket});
		await($node, 'it is gone', 'SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = ?)', $pid);
		ended(0);
	};

	subtest "$state: the settings are others meanwhile" => sub {
		begin($state);
		configure($node, ddl_commands => '', worker_interval => '1s', blocker_action => 'log');
		usleep(50_000);
		let_go();
		is($ddl->error, undef, 'the statement goes on');
		ended(1);
		$node->safe_psql('postgres', 'ALTER SYSTEM RESET ALL; SELECT pg_reload_conf()');
	};

	# Who does that has to stand ahead of it.
	for my $case (
		[ 'dropped', 'DROP TABLE users', qr/relation "users" does not exist/ ],
		[ 'replaced', 'BEGIN; ALTER TABLE users RENAME TO users_old; CREATE TABLE users (id int, replaced int); COMMIT', undef ],
		[ 're-owned', 'ALTER TABLE users OWNER TO app', undef ],
		[ 'rewritten', 'ALTER TABLE users ALTER n TYPE text', undef ])
	{
		my ($what, $statement, $error) = @$case;
		subtest "$state: the relation is $what" => sub {
			my $first = session($node, 'first');
			$first->do('SET pg_lockguard.ddl_mode = off');
			begin($state, sub { $first->send($statement); settle($node, $first) });
			let_go();
			is($first->error, undef, 'it is');
			if ($error) { like($ddl->error, $error, 'PostgreSQL\'s own error') }
			else { is($ddl->error, undef, 'the statement is done') }
			is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_attribute WHERE attname = 'extra' AND NOT attisdropped
				AND attrelid = to_regclass('users')}), $error ? 0 : 1, 'to the relation of that name');
			forget_sessions($first, $holder, $ddl);
			$node->safe_psql('postgres', q{SET client_min_messages = warning; DROP TABLE IF EXISTS users, users_old; CREATE TABLE users (id int PRIMARY KEY, n int); GRANT ALL ON users TO app});
		};
	}

	subtest "$state: the lock table is full" => sub {
		begin($state);
		my $hog = session($node, 'hog');
		ok(!eval { $hog->do('SELECT pg_advisory_lock(i) FROM generate_series(1, 1000000) i'); 1 }, 'somebody fills it');
		is($hog->sqlstate, '53200', 'until it is full');
		let_go();
		my $error = $ddl->error;
		like($error // 'done', qr/^done$|out of shared memory/, 'done, or the error of PostgreSQL: ' . ($error // 'done'));
		$hog->do('SELECT pg_advisory_unlock_all()');
		forget_sessions($hog);
		ended(defined $error ? 0 : 1);
	};

	subtest "$state: no memory" => sub {
		plan(skip_all => 'AddressSanitizer ends a process whose address space is limited') if $ENV{ASAN_OPTIONS};
		begin($state);
		my $pid = $ddl->pid;
		my ($pages) = slurp_file("/proc/$pid/statm") =~ /^(\d+)/;
		system('prlimit', "--pid=$pid", '--as=' . $pages * POSIX::sysconf(POSIX::_SC_PAGESIZE()) . ':') == 0 or die 'prlimit';
		let_go();
		my $error = $ddl->error;
		like($error // 'done', qr/^done$|out of memory/, 'done, or the error of PostgreSQL: ' . ($error // 'done'));
		system('prlimit', "--pid=$pid", '--as=unlimited:') == 0 or die 'prlimit';
		is($ddl->value('SELECT 1'), 1, 'the session goes on');
		ended(defined $error ? 0 : 1);
	};
}

# The holder can obey only when it runs.
sub continue_when_gone
{
	my $pid = shift;
	my $helper = fork() // die "fork: $!";
	if (!$helper)
	{
		for (1 .. 100 * $PostgreSQL::Test::Utils::timeout_default)
		{
			last if !kill 0 => $pid;
			usleep(10_000);
		}
		kill CONT => $holder->pid;
		POSIX::_exit(0);
	}
	return $helper;
}

for my $state (sort keys %state)
{
	for my $how (qw(fast immediate kill9 SIGKILL))
	{
		subtest "$state: $how" => sub {
			begin($state);
			my $log = -s $node->logfile;
			LockGuard::dismiss_observer($node);
			my $pid = $ddl->pid;
			my @processes = LockGuard::processes_of($node);
			my $helper = continue_when_gone($pid);
			if ($how eq 'kill9') { $node->kill9 }
			elsif ($how eq 'SIGKILL') { kill KILL => $pid }
			else { ok($node->stop($how, fail_ok => 1), 'the server stops') }
			waitpid $helper, 0;
			ok(!kill(0 => $pid), 'the session has ended');
			$_->{dbh}->disconnect for $holder, $ddl;
			LockGuard::abandon_sessions();
			if ($how eq 'SIGKILL')
			{
				for (1 .. 100 * $PostgreSQL::Test::Utils::timeout_default)
				{
					last if slurp_file($node->logfile, $log) =~ /database system is ready to accept connections/;
					usleep(10_000);
				}
			}
			else
			{
				# After the postmaster's death its children have to go first.
				LockGuard::await_processes_end(@processes);
				$node->start;
			}
			my @signals = slurp_file($node->logfile, $log) =~ /terminated by signal (\d+)/g;
			is("@signals", $how eq 'SIGKILL' ? '9' : '', 'nobody else has crashed');
			unlike(slurp_file($node->logfile, $log), qr/PANIC|TRAP/, 'no assertion');
			is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_attribute WHERE attname = 'extra' AND NOT attisdropped}), 0, 'it is not done');
			is($node->safe_psql('postgres', 'SELECT count(*) FROM pg_lockguard_progress'), 0, 'nothing is published');
		};
	}
}

forget_sessions();
LockGuard::dismiss_observer($node);
$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP/, 'no crash but those that were made');
done_testing();
