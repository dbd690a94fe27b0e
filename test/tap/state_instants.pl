# Whatever comes at whatever instant of a statement that tries, waits for a lock that has turned up inside of it, gives back
# what it has because others wait for that, and waits for it outside: a cancel, a termination, a timeout, the end of its
# client, a decision, a crash, no memory. It ends by that, and nothing of it is left. The instants are random, half of them
# in the first 3 ms; the seed is printed. LOCKGUARD_STRESS is how many of each (default 12).
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LockGuard;
use LockGuard::LowPriority;
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $rounds = $ENV{LOCKGUARD_STRESS} || 12;
my $seed = $ENV{LOCKGUARD_SEED} || int rand 2**31;
srand($seed);
diag("seed $seed");

my $node = start_node(
	'instants',
	q{shared_preload_libraries = 'pg_lockguard'},
	q{deadlock_timeout = '200ms'},
	q{max_locks_per_transaction = 10},
	q{restart_after_crash = on},
	q{pg_lockguard.worker_interval = '50ms'},
	q{pg_lockguard.ddl_lock_timeout = '20ms'},
	q{pg_lockguard.ddl_notice_interval = 0});
$node->safe_psql(
	'postgres', q{
	CREATE TABLE a (id int);
	CREATE TABLE users (id int);
	CREATE TABLE big AS SELECT i AS id FROM generate_series(1, 20000) i;
	ANALYZE big;
	CREATE FUNCTION touch() RETURNS event_trigger LANGUAGE plpgsql AS $$
	BEGIN
		IF current_query() ~ '/[*] big [*]/' THEN
			LOCK TABLE public.big;
		ELSIF current_query() ~ '/[*] users [*]/' THEN
			PERFORM FROM public.users;
		END IF;
	END $$;
	CREATE EVENT TRIGGER touching ON ddl_command_end EXECUTE FUNCTION touch()});

my $columns = 0;
my ($holder, $ddl, $load);

# begin([SETTING...]): somebody has locked users, others read a, and the statement is under way.
sub begin
{
	my @settings = @_;
	$load //= start_load($node, 2, "SELECT count(*) FROM a;\n\\sleep 2 ms\n");
	$holder //= session($node, 'holder');
	$ddl //= session($node, 'ddl');
	$ddl->do($_) for @settings;
	$holder->do('BEGIN; LOCK TABLE users');
	$ddl->send('ALTER TABLE a ADD c' . ++$columns . ' int /* users */');
	return;
}

# The lock that has turned up inside is waited for outside. (Before that it may have waited for a's readers.)
sub await_learned
{
	await($node, 'it has learned of the lock', q{SELECT EXISTS (SELECT FROM pg_lockguard_progress
		WHERE pid = ? AND phase IN ('waiting', 'backing off') AND relation = 'public.users')}, $ddl->pid);
	return;
}

sub aim { return usleep(1000 * (rand() < 0.5 ? rand 3 : rand 250)) }

# Nothing is left of the statement; the column is there, or not.
sub is_over
{
	my ($what, $pid, $done) = @_;
	$holder->do('ROLLBACK') if $holder;
	my $observer = LockGuard::observer($node);
	my $left = $observer->value(q{SELECT count(*) FROM pg_locks WHERE pid = ? AND locktype <> 'virtualxid'}, $pid)
	  . $observer->value('SELECT count(*) FROM pg_lockguard_progress WHERE pid = ?', $pid)
	  . $observer->value(q{SELECT count(*) FROM pg_attribute WHERE attrelid = 'a'::regclass AND attname = ?}, "c$columns");
	is($left, $done ? '001' : '000', "$what: no lock, nothing published, " . ($done ? 'done' : 'not done')) if $left ne ($done ? '001' : '000');
	return $left eq ($done ? '001' : '000');
}

sub rest
{
	stop_load($load) if $load;
	undef $load;
	return;
}

subtest 'without any event: it learns of the lock, and is done when that is free' => sub {
	begin();
	await_learned();
	my $pid = $ddl->pid;
	$holder->do('COMMIT');
	is($ddl->error, undef, 'done');
	$holder->do('BEGIN');
	ok(is_over('no event', $pid, 1), 'nothing is left');
};

subtest 'cancel' => sub {
	my (@other, $good);
	for (1 .. $rounds)
	{
		begin();
		aim();
		my $sent = time;
		kill INT => $ddl->pid;
		while (!$ddl->ready)
		{
			usleep(1000);
			next if time - $sent < 5;
			# PostgreSQL drops a request that comes before the statement.
			push @other, 'a cancel was lost'
			  if LockGuard::observer($node)->value('SELECT extract(epoch FROM query_start) < ? FROM pg_stat_activity WHERE pid = ?', $sent, $ddl->pid);
			$sent = time;
			kill INT => $ddl->pid;
		}
		my $error = $ddl->error // 'done';
		push @other, $error if $error !~ /due to user request/;
		$good++ if is_over('cancel', $ddl->pid, 0);
	}
	is_deeply(\@other, [], 'each has ended its statement');
	is($good, $rounds, 'nothing is left');
};

subtest 'statement_timeout' => sub {
	my (@other, $good);
	for (1 .. $rounds)
	{
		begin('SET statement_timeout = ' . (1 + int(rand() < 0.5 ? rand 4 : rand 250)));
		my $error = $ddl->error // 'done';
		push @other, $error if $error !~ /due to statement timeout/;
		$ddl->set_statement_timeout(0);
		$good++ if is_over('timeout', $ddl->pid, 0);
	}
	is_deeply(\@other, [], 'each has ended its statement');
	is($good, $rounds, 'nothing is left');
};

subtest 'give up, decided by somebody else' => sub {
	my (@other, $good, $heard);
	for (1 .. $rounds)
	{
		begin();
		aim();
		if (LockGuard::observer($node)->value(q{SELECT pg_lockguard_decide(?, 'give up')}, $ddl->pid)) { $heard++ }
		else { LockGuard::observer($node)->value('SELECT pg_cancel_backend(?)', $ddl->pid) until $ddl->ready }
		my $error = $ddl->error // 'done';
		push @other, $error if $error !~ /due to (lock timeout.*decided: give up|user request)/s;
		$good++ if is_over('decided', $ddl->pid, 0);
	}
	note("$heard of $rounds were heard") if $heard;
	is_deeply(\@other, [], 'each has ended its statement');
	is($good, $rounds, 'nothing is left');
};

subtest 'terminate, and a client that goes' => sub {
	my (@other, $good);
	for my $round (1 .. $rounds)
	{
		begin();
		my $pid = $ddl->pid;
		aim();
		if ($round % 2)
		{
			kill TERM => $pid;
			my $error = $ddl->error // 'done';
			push @other, $error if $error !~ /terminating connection|server closed/;
		}
		else
		{
			open(my $null, '<', '/dev/null') or die;
			POSIX::dup2(fileno $null, $ddl->{dbh}{pg_socket});
		}
		await($node, 'it is gone', 'SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = ?)', $pid);
		$good++ if is_over('gone', $pid, 0);
		forget_sessions($ddl);
		undef $ddl;
	}
	is_deeply(\@other, [], 'each was told');
	is($good, $rounds, 'nothing is left');
};

subtest 'no memory' => sub {
	plan(skip_all => 'AddressSanitizer ends a process whose address space is limited') if $ENV{ASAN_OPTIONS};
	my (@other, $good, $failed);
	for (1 .. $rounds)
	{
		begin();
		my $pid = $ddl->pid;
		# A library that cannot be loaded has no memory either.
		aim();
		my ($pages) = slurp_file("/proc/$pid/statm") =~ /^(\d+)/;
		system('prlimit', "--pid=$pid", '--as=' . $pages * POSIX::sysconf(POSIX::_SC_PAGESIZE()) . ':') == 0 or die 'prlimit';
		usleep(1000 * rand 200);
		$holder->do('COMMIT');
		my $error = $ddl->error // 'done';
		system('prlimit', "--pid=$pid", '--as=unlimited:') == 0 or die 'prlimit';
		push @other, $error if $error !~ /^done$|out of memory|failed to map segment/;
		$failed++ if $error ne 'done';
		$ddl->value('SELECT 1') == 1 or push @other, 'the session has gone';
		$holder->do('BEGIN');
		$good++ if is_over('memory', $pid, $error eq 'done');
		forget_sessions($ddl);
		undef $ddl;
	}
	note(($failed // 0) . " of $rounds failed for it");
	is_deeply(\@other, [], 'done, or the error of PostgreSQL');
	is($good, $rounds, 'nothing is left');
};

subtest 'the lock table is full when it is free again' => sub {
	begin();
	await_learned();
	my $pid = $ddl->pid;
	my $hog = session($node, 'hog');
	ok(!eval { $hog->do('SELECT pg_advisory_lock(i) FROM generate_series(1, 1000000) i'); 1 }, 'somebody fills it');
	$holder->do('COMMIT');
	my $error = $ddl->error // 'done';
	like($error, qr/^done$|out of shared memory/, "done, or the error of PostgreSQL: $error");
	$hog->do('SELECT pg_advisory_unlock_all()');
	forget_sessions($hog);
	$holder->do('BEGIN');
	ok(is_over('lock table', $pid, $error eq 'done'), 'nothing is left');
	# Readers may have had that error as well.
	$load->{run}->signal('TERM');
	$load->{run}->finish;
	undef $load;
};

subtest 'the settings are others meanwhile' => sub {
	begin();
	await_learned();
	my $pid = $ddl->pid;
	configure($node, ddl_lock_timeout => '1', ddl_commands => '', ddl_max_stall => 0, worker_interval => '1s');
	$holder->do('COMMIT');
	is($ddl->error, undef, 'done');
	$holder->do('BEGIN');
	ok(is_over('settings', $pid, 1), 'nothing is left');
	$node->safe_psql('postgres', 'ALTER SYSTEM RESET ALL; SELECT pg_reload_conf()');
};

subtest 'the settings are others at any instant' => sub {
	my (@other, $good);
	for my $round (1 .. $rounds)
	{
		begin();
		aim();
		configure($node, ddl_lock_timeout => $round, ddl_commands => ('', 'all')[ $round % 2 ], ddl_max_stall => 0, worker_interval => '1s');
		$holder->do('COMMIT');
		my $error = $ddl->error;
		push @other, $error if defined $error;
		$holder->do('BEGIN');
		$good++ if is_over('settings', $ddl->pid, 1);
		$node->safe_psql('postgres', 'ALTER SYSTEM RESET ALL; SELECT pg_reload_conf()');
	}
	is_deeply(\@other, [], 'each is done');
	is($good, $rounds, 'nothing is left');
};

subtest 'what it alters is replaced, of another owner, or rewritten, at any instant' => sub {
	my $other = session($node, 'other');
	$other->do('SET pg_lockguard.ddl_mode = off');
	$other->do('CREATE ROLE app');
	my @changes = (
		'ALTER TABLE a RENAME TO a_old; CREATE TABLE a (LIKE a_old); DROP TABLE a_old',
		'ALTER TABLE a OWNER TO app',
		'ALTER TABLE a ALTER id TYPE bigint; ALTER TABLE a OWNER TO CURRENT_USER',
		'ALTER TABLE a ALTER id TYPE int');
	my (@other, $good);
	for my $round (1 .. $rounds)
	{
		begin();
		aim();
		$other->do($changes[ $round % @changes ]);
		$holder->do('COMMIT');
		my $error = $ddl->error;
		push @other, $error if defined $error;
		$holder->do('BEGIN');
		$good++ if is_over('changed', $ddl->pid, 1);
	}
	is_deeply(\@other, [], 'each is done');
	is($good, $rounds, 'to the relation of that name');
	forget_sessions($other);
};

# It has locked a, and waits inside for users; who has locked that asks for a. In plain PostgreSQL that is a deadlock.
subtest 'a deadlock with who holds what has turned up inside' => sub {
	rest();
	# It is the guard that ends it.
	$_->do("SET deadlock_timeout = '1h'") for $holder, $ddl;
	my (@other, $good);
	for (1 .. $rounds)
	{
		begin();
		rest();
		aim();
		my $count = eval { $holder->value('SELECT count(*) FROM a') } // $@;
		push @other, "holder: $count" if $count ne '0';
		$holder->do('COMMIT');
		my $error = $ddl->error;
		push @other, "statement: $error" if defined $error;
		$holder->do('BEGIN');
		$good++ if is_over('deadlock', $ddl->pid, 1);
	}
	is_deeply(\@other, [], 'it gives way, and is done later');
	is($good, $rounds, 'nothing is left');
	$_->do('RESET deadlock_timeout') for $holder, $ddl;
};

subtest 'what it has learned of is dropped, what it alters is another' => sub {
	begin();
	await_learned();
	rest();
	# It holds nothing meanwhile.
	$node->safe_psql('postgres', 'ALTER TABLE a RENAME TO a_old; CREATE TABLE a (id int)');
	$holder->do('DROP TABLE users; CREATE TABLE users (id int); COMMIT');
	is($ddl->error, undef, 'done');
	is($node->safe_psql('postgres', qq{SELECT attrelid::regclass FROM pg_attribute WHERE attname = 'c$columns'}), 'a', 'to the relation of that name');
	$node->safe_psql('postgres', 'DROP TABLE a_old');
	begin();
	await_learned();
	rest();
	$node->safe_psql('postgres', 'ALTER TABLE a RENAME TO a_old');
	$holder->do('COMMIT');
	like($ddl->error, qr/relation "a" does not exist/, 'where it is gone: the error of PostgreSQL');
	$node->safe_psql('postgres', 'ALTER TABLE a_old RENAME TO a');
};

subtest 'who holds what has turned up inside is prepared' => sub {
	begin();
	$holder->do(q{PREPARE TRANSACTION 'p'});
	await_learned();
	my $pid = $ddl->pid;
	$holder->do(q{ROLLBACK PREPARED 'p'});
	is($ddl->error, undef, 'done when that has ended');
	$holder->do('BEGIN');
	ok(is_over('prepared', $pid, 1), 'nothing is left');
};

subtest '... or a parallel query' => sub {
	my $query = session($node, 'query');
	$query->do('SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0');
	$query->do('SET max_parallel_workers_per_gather = 4');
	my $statement = 'SELECT count(*) FROM big WHERE pg_sleep(0.0005) IS NOT NULL';
	my $parallel = q{SELECT count(*) > 1 FROM pg_locks WHERE relation = 'big'::regclass AND mode = 'AccessShareLock' AND granted};
	$load //= start_load($node, 2, "SELECT count(*) FROM a;\n\\sleep 2 ms\n");
	for my $case ([ 'inside', 'ALTER TABLE a ADD inside int /* big */' ], [ 'before', 'ALTER TABLE big ADD before int' ],
		[ 'queued', 'ALTER TABLE big ADD queued int', q{SET pg_lockguard.ddl_max_wait = '10ms'}, 'SET pg_lockguard.ddl_on_timeout = queue' ])
	{
		my ($what, $alter, @settings) = @$case;
		$ddl->do($_) for @settings;
		$query->send($statement);
		await($node, 'it is parallel', $parallel);
		$ddl->send($alter);
		is($ddl->error, undef, "$what: done");
		is($query->error, undef, "$what: the query as well");
		$ddl->do('RESET ALL');
	}
	forget_sessions($query);
};

# A server that goes: nobody hangs, and what was not done is not there afterwards.
for my $how (qw(SIGKILL fast immediate kill9))
{
	subtest $how => sub {
		for my $round (1 .. ($how eq 'SIGKILL' ? $rounds : 1 + int($rounds / 4)))
		{
			begin();
			my $log = -s $node->logfile;
			LockGuard::dismiss_observer($node);
			aim();
			my $pid = $ddl->pid;
			my @processes = LockGuard::processes_of($node);
			if ($how eq 'SIGKILL') { kill KILL => $pid }
			elsif ($how eq 'kill9') { $node->kill9 }
			else { $node->stop($how, fail_ok => 1) or fail("$how: it does not stop") }
			$load->{run}->finish;
			my @pids = map { $_->pid } $holder, $ddl;
			$_->{dbh}->disconnect for $holder, $ddl;
			LockGuard::abandon_sessions();
			undef $_ for $load, $holder, $ddl;
			for (1 .. 100 * $PostgreSQL::Test::Utils::timeout_default)
			{
				# Another postmaster does not start before all children of the last one have gone.
				last if $how eq 'SIGKILL' ? slurp_file($node->logfile, $log) =~ /database system is ready to accept connections/ : !grep { kill 0 => $_ } @pids, @processes;
				usleep(10_000);
			}
			fail("$how: a process is left") if grep { kill 0 => $_ } @pids;
			$node->start if $how ne 'SIGKILL';
			my @signals = slurp_file($node->logfile, $log) =~ /terminated by signal (\d+)/g;
			is("@signals", $how eq 'SIGKILL' ? '9' : '', "nobody else has crashed ($round)");
			# Where all end, the holder may be the first: then the statement may have been done before its own end.
			like($node->safe_psql('postgres', qq{SELECT (SELECT count(*) FROM pg_attribute WHERE attname = 'c$columns'),
				(SELECT count(*) FROM pg_lockguard_progress)}), $how eq 'SIGKILL' ? qr/^0\|0$/ : qr/^[01]\|0$/, "nothing is left ($round)");
		}
	};
}

rest();
forget_sessions();
LockGuard::dismiss_observer($node);
$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP/, 'no crash but those that were made');
done_testing();
