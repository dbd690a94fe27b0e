# The worker: whom it ends, whom it never ends, what it says, and how the process itself lives.
#
# "Not ended" is proved by a marker: a session that must be ended is put in place after the one that
# must not, and its line in the log is waited for. One look judges all sessions, so the look that
# ended the marker has spared the other.
#
# LOCKGUARD_STRESS_SECONDS is the length of the race at the end (default 12).
use strict;
use warnings;

use DBI;
use DBD::Pg qw(:async);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep time);

my $node = PostgreSQL::Test::Cluster->new('worker');
$node->init(allows_streaming => 1);
$node->append_conf(
	'postgresql.conf', q{
shared_preload_libraries = 'pg_lockguard'
pg_lockguard.ddl_mode = off
pg_lockguard.worker_interval = 20ms
pg_lockguard.max_terminations_per_minute = 1000
max_prepared_transactions = 5
max_connections = 60
log_line_prefix = '%n [%p] %q%a '
autovacuum = off
});
$node->start;
$node->safe_psql(
	'postgres', q{
	CREATE ROLE app LOGIN;
	CREATE ROLE boss LOGIN SUPERUSER;
	CREATE ROLE climber LOGIN;
	GRANT boss TO climber;
	CREATE ROLE streamer LOGIN REPLICATION;
	CREATE ROLE quiet LOGIN;
	ALTER ROLE quiet SET track_activities = off;
	GRANT CREATE ON SCHEMA public TO PUBLIC;
});

# ---- Sessions

my $serial = 0;

# The connection of a role. $name is its application_name; it never occurs twice.
sub session
{
	my ($role, %option) = @_;
	my $on = $option{node} || $node;
	my $name = ($option{name} || 'session') . '_' . ++$serial;
	my $dsn = sprintf 'dbi:Pg:dbname=%s;host=%s;port=%d;application_name=%s',
	  $option{database} || 'postgres', $on->host, $on->port, $name;
	$dsn .= ';replication=database' if $option{walsender};
	# The superuser that initdb made is named as the operating system's user, who need not be postgres.
	my $dbh = DBI->connect($dsn, $role eq 'postgres' ? '' : $role, '',
		{ RaiseError => 1, PrintError => 0, AutoCommit => 1, AutoInactiveDestroy => 1 });
	return { dbh => $dbh, pid => $dbh->{pg_pid}, name => $name, node => $on };
}

sub new_table
{
	my $table = 't_' . ++$serial;
	$node->safe_psql('postgres', "CREATE TABLE $table (id int); GRANT ALL ON $table TO PUBLIC");
	return $table;
}

# A session that holds ACCESS SHARE on the table and is idle in transaction.
sub idle_holder
{
	my ($role, $table, %option) = @_;
	my $session = session($role, name => 'holder', %option);
	$session->{dbh}->do('BEGIN');
	$session->{dbh}->do("SELECT id FROM $table");
	return $session;
}

# A session that waits for ACCESS EXCLUSIVE on the table.
sub blocked_ddl
{
	my ($table, %option) = @_;
	my $before = delete $option{before} // '';
	my $session = session('postgres', name => 'ddl', %option);
	$session->{dbh}->do("${before}ALTER TABLE $table ADD COLUMN IF NOT EXISTS more int",
		{ pg_async => PG_ASYNC });
	# It may be over already, where the worker was quick.
	wait_until(
		"$session->{name} waits", qq{
		SELECT EXISTS (SELECT FROM pg_locks WHERE pid = $session->{pid} AND NOT granted)
			OR EXISTS (SELECT FROM pg_stat_activity
				WHERE pid = $session->{pid} AND state LIKE 'idle%' AND query LIKE '%ALTER TABLE %')},
		$session->{node});
	return $session;
}

sub wait_until
{
	my ($what, $condition, $on) = @_;
	($on || $node)->poll_query_until('postgres', $condition) or die "timed out: $what";
}

sub is_alive
{
	my ($session) = @_;
	return $session->{node}->safe_psql('postgres',
		"SELECT count(*) FROM pg_stat_activity WHERE pid = $session->{pid} AND application_name = '$session->{name}'"
	) eq '1';
}

sub wait_gone
{
	my ($session) = @_;
	wait_until("$session->{name} is gone",
		"SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $session->{pid} AND application_name = '$session->{name}')",
		$session->{node});
}

sub finish
{
	for my $session (@_)
	{
		my $dbh = $session->{dbh};
		eval { $dbh->pg_result } if $dbh->{pg_async_status};
		eval { $dbh->disconnect };
	}
}

# ---- The log

# The worker's lines about a session: [ what, rest of the line, time ].
sub lines_about
{
	my ($session) = @_;
	my $log = slurp_file($session->{node}->logfile);
	my @lines;
	while ($log =~
		/^([\d.]+) \[\d+\] (?:\S+ )?LOG:  pg_lockguard: (terminated|would terminate) (PID $session->{pid} \(.*)$/mg)
	{
		my ($time, $what, $rest) = ($1, $2, $3);
		push @lines, [ $what, $rest, $time ] if $rest =~ /\b$session->{name}\b/;
	}
	return @lines;
}

sub wait_for_line
{
	my ($session, $count) = @_;
	$count ||= 1;
	for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		my @lines = lines_about($session);
		return @lines if @lines >= $count;
		usleep(100_000);
	}
	die "the worker has not said $count times what it does about $session->{name}";
}

# ---- Settings

sub configure
{
	my ($on, %setting) = @_;
	for my $name (sort keys %setting)
	{
		$on->safe_psql('postgres', "ALTER SYSTEM SET pg_lockguard.$name = '$setting{$name}'");
	}
	$on->reload;
}

# A look has begun and ended after this was called (needs terminate, and limits of 0).
sub wait_for_look
{
	my $table = new_table();
	my $holder = idle_holder('app', $table, name => 'marker');
	my $ddl = blocked_ddl($table);
	wait_for_line($holder);
	wait_gone($holder);
	finish($holder, $ddl);
}

# ---- Off, log, terminate

{
	my $table = new_table();
	configure($node, blocker_action => 'off', blocker_min_idle => 0, blocker_min_wait => 0);
	my $holder = idle_holder('app', $table);
	my $ddl = blocked_ddl($table);

	# Long enough for ten looks, if it did look.
	wait_until('the statement waits for 300 ms',
		"SELECT clock_timestamp() - waitstart > '300 ms' FROM pg_locks WHERE pid = $ddl->{pid} AND NOT granted"
	);
	is(scalar lines_about($holder), 0, 'off: nothing is said');
	ok(is_alive($holder), 'off: nobody is ended');

	configure($node, blocker_action => 'log');
	my @lines = wait_for_line($holder);
	is($lines[0][0], 'would terminate', 'log: it says what it would do');

	# Each newcomer's line stands for one more look.
	my @newcomers;
	for (1 .. 3)
	{
		my $other = new_table();
		my $newcomer = idle_holder('app', $other);
		push @newcomers, $newcomer, blocked_ddl($other);
		wait_for_line($newcomer);
	}
	is(scalar lines_about($holder), 1, 'log: once, not with each look');
	ok(is_alive($_), "log: $_->{name} goes on") for $holder, @newcomers;

	# Another period of idleness is another case.
	$holder->{dbh}->do('SELECT 1');
	@lines = wait_for_line($holder, 2);
	is($lines[1][0], 'would terminate', 'log: again after the session has been active');

	$holder->{dbh}->do('COMMIT');
	$ddl->{dbh}->pg_result;
	pass('log: the session commits, the statement gets its lock');

	# From log to terminate: what has been said does not protect.
	configure($node, blocker_action => 'terminate');
	for my $newcomer (grep { $_->{name} =~ /^holder/ } @newcomers)
	{
		@lines = wait_for_line($newcomer, 2);
		is_deeply(
			[ map { $_->[0] } @lines ],
			[ 'would terminate', 'terminated' ],
			"terminate: $newcomer->{name} is ended, and that is one line");
		wait_gone($newcomer);
	}
	$_->{dbh}->pg_result for grep { $_->{name} =~ /^ddl/ } @newcomers;
	pass('terminate: the statements get their locks');
	finish(@newcomers, $holder, $ddl);
}

# ---- What the client reads, and the server log

{
	my $table = new_table();
	my $relation = $node->safe_psql('postgres', "SELECT '$table'::regclass::oid");
	my $psql = $node->background_psql('postgres',
		extra_params => [ '-U', 'app' ], on_error_stop => 0);
	$psql->query_safe(q{SET application_name = 'reader'; BEGIN;});
	$psql->query_safe("SELECT id FROM $table; SELECT 'a secret'");
	my $pid = $psql->query_safe('SELECT pg_backend_pid()');
	my $holder = { pid => $pid, name => 'reader', node => $node };
	# The command is named that waits, not the one that the text begins with.
	my $ddl = blocked_ddl($table, before => '/* release 7 */ BEGIN; SET LOCAL work_mem = 64; ');
	my ($line) = wait_for_line($holder);
	wait_gone($holder);

	$psql->{stdin} .= "SELECT 1;\n";
	$psql->{run}->finish;
	my $stderr = $psql->{stderr};
	like($stderr, qr/FATAL:  terminating connection due to administrator command$/m,
		'the client reads FATAL');
	like(
		$stderr,
		qr/^DETAIL:  pg_lockguard: idle in transaction for \d[\d.]* \w+ while blocking PID $ddl->{pid} \(ALTER TABLE, AccessExclusiveLock on relation $relation\) for \d[\d.]* \w+\.$/m,
		'... and why');
	like($stderr, qr/^HINT:  The transaction was rolled back\. \S/m, '... and what to do');

	is($line->[0], 'terminated', 'the server log has a line');
	like($line->[1], qr/user app\b/, '... with the role');
	like($line->[1], qr/database postgres\b/, '... the database');
	like($line->[1], qr/app "reader"/, '... the application');
	like($line->[1], qr/idle in transaction for \d/, '... the idle time');
	like($line->[1], qr/blocking PID $ddl->{pid}\b.*ALTER TABLE.*AccessExclusiveLock/,
		'... and whom it blocked');
	unlike($line->[1], qr/secret/, "... and not the victim's query");
	finish($ddl);
	is(scalar lines_about($holder), 1, '... one line');
}

# Another reason for the same FATAL gets no explanation of ours.
{
	my $psql = $node->background_psql('postgres', extra_params => [ '-U', 'app' ],
		on_error_stop => 0);
	$psql->query_safe('BEGIN');
	my $pid = $psql->query_safe('SELECT pg_backend_pid()');
	$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid, 60000)");
	$psql->{stdin} .= "SELECT 1;\n";
	$psql->{run}->finish;
	like($psql->{stderr}, qr/terminating connection due to administrator command/,
		'pg_terminate_backend(): the client reads FATAL');
	unlike($psql->{stderr}, qr/pg_lockguard/, '... with no word of ours');
}

# ---- Hard blockers that are idle in transaction, and nobody else

# A bystander that stands ahead in the queue is part of the wait, but holds nothing.
{
	my $table = new_table();
	$node->safe_psql('postgres', "ALTER TABLE $table OWNER TO app");
	my $holder = session('app', name => 'holder');
	$holder->{dbh}->do($_) for 'BEGIN', "INSERT INTO $table VALUES (1)";
	configure($node, blocker_action => 'off');
	my $bystander = session('app', name => 'bystander');
	$bystander->{dbh}->do("CREATE INDEX ON $table (id)", { pg_async => PG_ASYNC });
	wait_until('the bystander queues',
		"SELECT EXISTS (SELECT FROM pg_locks WHERE pid = $bystander->{pid} AND NOT granted)");
	my $ddl = blocked_ddl($table);
	is( $node->safe_psql('postgres',
			"SELECT pg_blocking_pids($ddl->{pid}) @> ARRAY[$holder->{pid}, $bystander->{pid}]"),
		't',
		'the statement is blocked by the holder and by the bystander');
	configure($node, blocker_action => 'terminate');
	wait_for_line($holder);
	ok(defined eval { $bystander->{dbh}->pg_result }, 'the bystander goes on to its end')
	  or diag $@;
	ok(defined eval { $ddl->{dbh}->pg_result }, 'and the statement') or diag $@;
	is(scalar lines_about($bystander), 0, 'nothing is said about the bystander');
	finish($holder, $bystander, $ddl);
}

# Each of these stands in the way, or nearly so, and must go on.
sub spared
{
	my ($why, $session, $ddl) = @_;
	is( $node->safe_psql('postgres', "SELECT $session->{pid} = ANY (pg_blocking_pids($ddl->{pid}))"),
		't',
		"$why: it blocks");
	wait_for_look();
	ok(is_alive($session), "$why: it goes on");
	is(scalar lines_about($session), 0, "$why: nothing is said about it");
	$session->{dbh}->do('COMMIT');
	ok(defined eval { $ddl->{dbh}->pg_result }, "$why: its transaction was whole") or diag $@;
	finish($session, $ddl);
}

{
	my $table = new_table();
	my $holder = idle_holder('boss', $table);
	spared('a superuser', $holder, blocked_ddl($table));

	$table = new_table();
	$holder = idle_holder('boss', $table);
	$holder->{dbh}->do('SET ROLE app');
	spared('a superuser that has set a lesser role', $holder, blocked_ddl($table));

	$table = new_table();
	$holder = idle_holder('streamer', $table, walsender => 1);
	is( $node->safe_psql('postgres',
			"SELECT backend_type, state FROM pg_stat_activity WHERE pid = $holder->{pid}"),
		'walsender|idle in transaction',
		'a walsender can be idle in transaction');
	spared('a walsender', $holder, blocked_ddl($table));

	$table = new_table();
	$holder = idle_holder('quiet', $table);
	spared('a session whose state is not tracked', $holder, blocked_ddl($table));
}

# The other way round: authenticated as an ordinary role.
{
	my $table = new_table();
	my $holder = session('climber', name => 'holder');
	$holder->{dbh}->do($_) for 'SET ROLE boss', 'BEGIN', "SELECT id FROM $table";
	my $ddl = blocked_ddl($table);
	my ($line) = wait_for_line($holder);
	is($line->[0], 'terminated', "SET ROLE to a superuser's role does not protect");
	like($line->[1], qr/user climber\b/, '... and the role that logged in is named');
	finish($holder, $ddl);
}

# Active, however long.
{
	my $table = new_table();
	my $holder = session('app', name => 'holder');
	$holder->{dbh}->do($_) for 'BEGIN', "SELECT id FROM $table";
	$holder->{dbh}->do('SELECT pg_sleep(3600)', { pg_async => PG_ASYNC });
	wait_until('it sleeps',
		"SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $holder->{pid} AND wait_event = 'PgSleep')"
	);
	my $ddl = blocked_ddl($table);
	wait_for_look();
	ok(is_alive($holder), 'an active session goes on');
	is(scalar lines_about($holder), 0, '... and nothing is said about it');
	# Then its statement ends, and it is idle in transaction.
	$node->safe_psql('postgres', "SELECT pg_cancel_backend($holder->{pid})");
	eval { $holder->{dbh}->pg_result };
	is($holder->{dbh}->state, '57014', '... until its statement ends');
	# A canceled statement aborts the transaction, which gives the lock back: nobody to end.
	ok(defined eval { $ddl->{dbh}->pg_result }, '... by an error, which frees the lock') or diag $@;
	wait_for_look();
	ok(is_alive($holder), 'an aborted transaction holds no lock, and its session goes on');
	finish($holder, $ddl);
}

# Aborted within a savepoint, the transaction keeps the locks from before.
{
	my $table = new_table();
	my $holder = idle_holder('app', $table);
	$holder->{dbh}->do('SAVEPOINT s');
	eval { $holder->{dbh}->do('SELECT 1/0') };
	like($@, qr/division by zero/, 'a subtransaction is aborted');
	my $ddl = blocked_ddl($table);
	my ($line) = wait_for_line($holder);
	is($line->[0], 'terminated', 'idle in transaction (aborted): ended');
	like($line->[1], qr/idle in transaction \(aborted\)/, '... and the log says so');
	wait_gone($holder);
	finish($holder, $ddl);
}

# An idle session with an open transaction that holds something else, and one with none.
{
	my $table = new_table();
	my $elsewhere = idle_holder('app', new_table());
	my $idle = session('app', name => 'idle');
	my $holder = idle_holder('app', $table);
	my $ddl = blocked_ddl($table);
	wait_for_line($holder);
	ok(defined eval { $ddl->{dbh}->pg_result }, 'the holder is ended') or diag $@;
	$elsewhere->{dbh}->do('COMMIT');
	$idle->{dbh}->do('SELECT 1');
	pass('a session that holds another lock, and one that holds none, go on');

	# A request that ACCESS EXCLUSIVE is not: CREATE INDEX waits for a writer.
	my $writer = session('app', name => 'writer');
	$writer->{dbh}->do($_) for 'BEGIN', "INSERT INTO $table VALUES (1)";
	my $index = session('postgres', name => 'index');
	$index->{dbh}->do("CREATE INDEX ON $table (id)", { pg_async => PG_ASYNC });
	wait_until('CREATE INDEX waits',
		"SELECT EXISTS (SELECT FROM pg_locks WHERE pid = $index->{pid} AND NOT granted)");
	wait_for_look();
	$writer->{dbh}->do('COMMIT');
	ok(defined eval { $index->{dbh}->pg_result },
		'a session that blocks a weaker request goes on')
	  or diag $@;
	finish($elsewhere, $idle, $holder, $ddl, $writer, $index);
}

# Another database's relation of the same OID.
{
	my $table = new_table();
	$node->safe_psql('postgres', 'CREATE DATABASE twin TEMPLATE postgres');
	is( $node->safe_psql('twin', "SELECT '$table'::regclass::oid"),
		$node->safe_psql('postgres', "SELECT '$table'::regclass::oid"),
		'a twin database has a relation of the same OID');
	my $twin = idle_holder('app', $table, database => 'twin');
	my $holder = idle_holder('app', $table);
	my $ddl = blocked_ddl($table);
	my ($line) = wait_for_line($holder);
	like($line->[1], qr/database postgres\b/, 'the session in the database is ended');
	$twin->{dbh}->do('COMMIT');
	is(scalar lines_about($twin), 0, 'the one in the twin goes on');
	# The worker works for all databases.
	$twin->{dbh}->do('BEGIN');
	$twin->{dbh}->do("SELECT id FROM $table");
	my $twin_ddl = blocked_ddl($table, database => 'twin');
	($line) = wait_for_line($twin);
	like($line->[1], qr/database twin\b/, '... until it blocks somebody there');
	finish($twin, $holder, $ddl, $twin_ddl);
	$node->safe_psql('postgres', 'DROP DATABASE twin');
	pass('the worker keeps no database from being dropped');
}

# A prepared transaction has no process.
{
	my $table = new_table();
	my $preparer = session('app', name => 'preparer');
	$preparer->{dbh}->do($_)
	  for 'BEGIN', "INSERT INTO $table VALUES (1)", "PREPARE TRANSACTION 'stuck'";
	my $ddl = blocked_ddl($table);
	wait_for_look();
	is($node->safe_psql('postgres', 'SELECT gid FROM pg_prepared_xacts'),
		'stuck', 'a prepared transaction stays');
	ok(is_alive($preparer), '... and so does the session that made it');
	$node->safe_psql('postgres', "COMMIT PREPARED 'stuck'");
	ok(defined eval { $ddl->{dbh}->pg_result }, '... until somebody commits it') or diag $@;
	finish($preparer, $ddl);
}

# Two holders of one relation, and one session in the way of two statements.
{
	my ($one, $two) = (new_table(), new_table());
	my @holders = (idle_holder('app', $one), idle_holder('app', $one));
	$holders[0]{dbh}->do("SELECT id FROM $two");
	my @ddl = (blocked_ddl($one), blocked_ddl($two));
	for my $holder (@holders)
	{
		wait_for_line($holder);
		wait_gone($holder);
		is(scalar lines_about($holder), 1, 'each holder is ended, once');
	}
	ok(defined eval { $_->{dbh}->pg_result }, 'both statements get their locks') for @ddl;
	finish(@holders, @ddl);
}

# Somebody has locked pg_authid. Who is a superuser cannot be found out then: the worker neither waits
# for it (it would be stuck behind a lock itself) nor guesses.
{
	my $table = new_table();
	configure($node, blocker_action => 'off');
	my $locker = session('postgres', name => 'locker');
	my $holder = idle_holder('app', $table);
	my $ddl = blocked_ddl($table);
	# Takes effect with the reload, when nobody can connect any more.
	$node->safe_psql('postgres', q{ALTER SYSTEM SET pg_lockguard.blocker_action = 'terminate'});
	$node->safe_psql('postgres', q{ALTER SYSTEM SET log_min_messages = 'debug1'});
	$locker->{dbh}->do($_) for 'BEGIN', 'LOCK TABLE pg_authid';
	$node->reload;
	$node->wait_for_log(qr/pg_lockguard: roles can't be looked up without waiting for a lock/);
	is(scalar lines_about($holder), 0, 'pg_authid is locked: nobody is ended');
	$locker->{dbh}->do('COMMIT');
	my ($line) = wait_for_line($holder);
	is($line->[0], 'terminated', '... until it can be read again');
	$node->safe_psql('postgres', 'ALTER SYSTEM RESET log_min_messages');
	$node->reload;
	finish($locker, $holder, $ddl);
}

# ---- The limits. What is measured here can only be longer than the limit, never shorter.

# Seconds from a moment that a query returns to the worker's line about the holder.
sub seconds_until_ended
{
	my ($holder, $since) = @_;
	my ($line) = wait_for_line($holder);
	return $line->[2] - $since;
}

sub idle_since
{
	my ($session) = @_;
	return $node->safe_psql('postgres',
		"SELECT extract(epoch FROM state_change) FROM pg_stat_activity WHERE pid = $session->{pid}");
}

sub waits_since
{
	my ($session) = @_;
	return $node->safe_psql('postgres',
		"SELECT extract(epoch FROM waitstart) FROM pg_locks WHERE pid = $session->{pid} AND NOT granted"
	);
}

{
	# The log's clock is cut to milliseconds.
	my $tick = 0.001;

	# Nobody is ended before all is as it shall be, however slow the machine.
	configure($node, blocker_action => 'off', blocker_min_idle => '1500ms', blocker_min_wait => 0);
	my ($one, $two) = (new_table(), new_table());
	my @holders = (idle_holder('app', $one), idle_holder('app', $two));
	my @ddl = (blocked_ddl($one), blocked_ddl($two));
	my $first_idle_since = idle_since($holders[1]);
	# The second one is active once more, and so becomes younger than the first.
	wait_until('time passes',
		"SELECT clock_timestamp() - to_timestamp($first_idle_since) > '500 ms'");
	$holders[1]{dbh}->do('SELECT 1');
	my @idle_since = map { idle_since($_) } @holders;
	cmp_ok($idle_since[1], '>', $first_idle_since, 'min_idle: it counts from the last activity');
	configure($node, blocker_action => 'terminate');
	for my $i (0, 1)
	{
		cmp_ok(seconds_until_ended($holders[$i], $idle_since[$i]) + $tick,
			'>=', 1.5, "min_idle: $holders[$i]{name} has been idle so long");
	}
	finish(@holders, @ddl);

	configure($node, blocker_min_idle => 0, blocker_min_wait => '1500ms');
	my $table = new_table();
	my $holder = idle_holder('app', $table);
	my $ddl = blocked_ddl($table);
	cmp_ok(seconds_until_ended($holder, waits_since($ddl)) + $tick,
		'>=', 1.5, 'min_wait: the request has waited so long');
	finish($holder, $ddl);

	# Both at once: idle for a moment at the end of a long wait.
	configure($node, blocker_min_idle => '4s', blocker_min_wait => '4s');
	$table = new_table();
	$holder = idle_holder('app', $table);
	$ddl = blocked_ddl($table);
	my $waits_since = waits_since($ddl);
	wait_until('time passes', "SELECT clock_timestamp() - to_timestamp($waits_since) > '800 ms'");
	$holder->{dbh}->do('SELECT 1');
	my $idle_since = idle_since($holder);
	cmp_ok($idle_since - $waits_since, '>', 0.8, 'idle since long after the wait began');
	cmp_ok(seconds_until_ended($holder, $idle_since) + $tick, '>=', 4, 'both limits count');
	finish($holder, $ddl);
	configure($node, blocker_min_idle => 0, blocker_min_wait => 0);
}

# ---- Reloading

{
	# Asleep for an hour: the reload itself wakes it, and the new interval counts from then on.
	configure($node, worker_interval => '1h');
	my $table = new_table();
	my $holder = idle_holder('app', $table);
	my $ddl = blocked_ddl($table);
	wait_until('the statement waits for 300 ms',
		"SELECT clock_timestamp() - waitstart > '300 ms' FROM pg_locks WHERE pid = $ddl->{pid} AND NOT granted"
	);
	ok(is_alive($holder), 'worker_interval: an hour is not over yet');
	configure($node, worker_interval => '20ms');
	wait_for_line($holder);
	wait_for_look();
	pass('worker_interval: reloaded');
	finish($holder, $ddl);

	my ($out, $err);
	isnt($node->psql('postgres', 'SET pg_lockguard.blocker_action = off', stderr => \$err),
		0, 'a session cannot switch the worker off');
	like($err, qr/cannot be changed now/, '... and is told so');
}

# ---- The process

sub worker_pid
{
	my ($on, $not) = @_;
	my $condition = "backend_type = 'pg_lockguard worker' AND pid <> " . ($not || 0);
	wait_until('a worker is there',
		"SELECT count(*) = 1 FROM pg_stat_activity WHERE $condition", $on);
	return $on->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE $condition");
}

{
	my $worker = worker_pid($node);
	is( $node->safe_psql('postgres', "SELECT datid IS NULL FROM pg_stat_activity WHERE pid = $worker"),
		't',
		'the worker is in no database');
	$node->safe_psql('postgres', "SELECT pg_terminate_backend($worker)");
	my $next = worker_pid($node, $worker);
	wait_for_look();
	pass('SIGTERM: a new worker does the work');

	# The framework switches restarts off, so that a crash fails a test. This one is meant.
	$node->safe_psql('postgres', 'ALTER SYSTEM SET restart_after_crash = on');
	$node->reload;
	kill 'KILL', $next;
	$node->wait_for_log(qr/all server processes terminated; reinitializing/);
	wait_until('the server is back', 'SELECT true');
	worker_pid($node, $next);
	wait_for_look();
	pass('SIGKILL: after the crash restart a new worker does the work');
	$node->safe_psql('postgres', 'ALTER SYSTEM SET restart_after_crash = off');
	$node->reload;

	# Also while it has nothing to do, and would sleep for ever.
	configure($node, blocker_action => 'off');
	my $size = -s $node->logfile;
	ok($node->stop('fast', fail_ok => 1), 'fast shutdown while the worker sleeps');
	my $log = substr(slurp_file($node->logfile), $size);
	like($log, qr/database system is shut down/, '... is orderly');
	unlike($log, qr/SIGQUIT|SIGKILL|immediate shutdown|FATAL|PANIC/, '... and needs no force');
	$node->start;
	configure($node, blocker_action => 'terminate');
	wait_for_look();
	$size = -s $node->logfile;
	ok($node->stop('fast', fail_ok => 1), 'fast shutdown while the worker looks');
	$log = substr(slurp_file($node->logfile), $size);
	like($log, qr/database system is shut down/, '... is orderly');
	$node->start;
}

# ---- A standby

{
	my $table = new_table();
	$node->backup('base');
	my $standby = PostgreSQL::Test::Cluster->new('standby');
	$standby->init_from_backup($node, 'base', has_streaming => 1);
	$standby->append_conf('postgresql.conf', 'max_standby_streaming_delay = -1');
	$standby->start;
	my $worker = worker_pid($standby);

	my $holder = idle_holder('app', $table, node => $standby);
	my $writer = session('postgres', name => 'writer');
	$writer->{dbh}->do("ALTER TABLE $table ADD COLUMN replayed int");
	wait_until(
		'the startup process waits', q{
		SELECT EXISTS (SELECT FROM pg_locks l JOIN pg_stat_activity a USING (pid)
			WHERE NOT l.granted AND l.mode = 'AccessExclusiveLock' AND a.backend_type = 'startup'
			AND clock_timestamp() - l.waitstart > '300 ms')}, $standby);
	ok(is_alive($holder), "standby: the startup process's wait does not count");
	is(scalar lines_about($holder), 0, '... and nothing is said');
	# A client behind it changes nothing, as one behind another background process does.
	my $reader = session('app', name => 'reader', node => $standby);
	$reader->{dbh}->do("SELECT id FROM $table", { pg_async => PG_ASYNC });
	wait_until(
		'a reader waits behind it', qq{
		SELECT EXISTS (SELECT FROM pg_locks WHERE pid = $reader->{pid} AND NOT granted
			AND clock_timestamp() - waitstart > '300 ms')}, $standby);
	ok(is_alive($holder), '... nor does it with a client behind it');
	is(scalar lines_about($holder), 0, '... and nothing is said');
	unlike(slurp_file($standby->logfile), qr/LOG:  pg_lockguard: spared/, '... also of no request');
	is(worker_pid($standby), $worker, '... and the worker is the same as before');
	$holder->{dbh}->do('COMMIT');
	$node->wait_for_catchup($standby);
	ok(defined eval { $reader->{dbh}->pg_result }, '... and the reader goes on in its turn')
	  or diag $@;
	finish($reader);

	$standby->promote;
	$holder->{dbh}->do('BEGIN');
	$holder->{dbh}->do("SELECT id FROM $table");
	my $ddl = blocked_ddl($table, node => $standby);
	my ($line) = wait_for_line($holder);
	is($line->[0], 'terminated', 'after the promotion the worker does its work');
	finish($holder, $ddl, $writer);
	unlike(slurp_file($standby->logfile), qr/PANIC|TRAP|ERROR.*pg_lockguard/, 'standby: no errors');
	$standby->stop;
}

# ---- The race: sessions that commit, go on, and leave while the worker judges them

# Runs $body($end) in a process of its own, which may write lines to the handle that it is given.
# Returns what reads them.
sub start_process
{
	my ($body) = @_;
	pipe(my $read, my $write) or die "pipe: $!";
	my $pid = fork();
	die "fork: $!" unless defined $pid;
	if ($pid == 0)
	{
		close $read;
		$write->autoflush(1);
		my $done = eval { $body->($write); 1 };
		print $write "died $@" unless $done;
		close $write;
		# Neither END blocks nor destructors of the parent's.
		require POSIX;
		POSIX::_exit($done ? 0 : 1);
	}
	close $write;
	return { pid => $pid, handle => $read };
}

{
	my $seconds = $ENV{LOCKGUARD_STRESS_SECONDS} || 12;
	my $end = time + $seconds;
	configure($node, worker_interval => '10ms');
	$node->safe_psql(
		'postgres', q{
		CREATE TABLE ledger (id text);
		CREATE TABLE aside (id text);
		GRANT ALL ON ledger, aside TO app;
	});
	my $size = -s $node->logfile;

	# Transactions with gaps in which they are idle. "at" says how far each one got.
	my $writer = sub {
		my ($number, $out) = @_;
		my ($session, $n) = (undef, 0);
		while (time < $end)
		{
			$session ||= session('app', name => "writer${number}x$$");
			my $id = "$number.$$." . ++$n;
			my $at = 'begin';
			eval {
				my $dbh = $session->{dbh};
				$dbh->do('BEGIN');
				$at = 'insert';
				$dbh->do("INSERT INTO ledger VALUES ('$id')");
				$at = 'in transaction';
				for (1 .. rand 4)
				{
					usleep(rand 3000);
					$dbh->do('SELECT 1');
				}
				usleep(rand 20000) if rand() < 0.3;
				$at = 'commit';
				$dbh->do('COMMIT');
				$at = 'done';
				print $out "acknowledged $id\n";
			};
			next if $at eq 'done';
			my $told = $@ =~ /terminating connection/ ? 'ended' : 'lost';
			$told = 'told' if $@ =~ /DETAIL:  pg_lockguard: /;
			print $out "$told $session->{pid} $at\n";
			undef $session;
		}
	};
	# Takes the lock and leaves, in a hurry.
	my $leaver = sub {
		my ($number, $out) = @_;
		while (time < $end)
		{
			my $session = session('app', name => "leaver${number}x$$");
			eval {
				$session->{dbh}->do('BEGIN');
				$session->{dbh}->do("SELECT FROM ledger LIMIT 1");
				usleep(rand 15000);
			};
			$session->{dbh}->disconnect;
		}
	};
	# Holds the lock for a while, but is never idle in a transaction.
	my $active = sub {
		my ($number, $out) = @_;
		my $session = session('app', name => "active${number}x$$");
		while (time < $end)
		{
			$session->{dbh}->do("SELECT pg_sleep(0.01) FROM (SELECT count(*) FROM ledger) l");
			$session->{dbh}->do('BEGIN; SELECT FROM ledger LIMIT 1; SELECT pg_sleep(0.01); COMMIT');
		}
		print $out "alive $session->{name}\n";
	};
	# Idle in transaction with another lock.
	my $idler = sub {
		my ($number, $out) = @_;
		my $session = session('app', name => "idler${number}x$$");
		while (time < $end)
		{
			$session->{dbh}->do('BEGIN');
			$session->{dbh}->do('SELECT FROM aside LIMIT 1');
			usleep(30_000);
			$session->{dbh}->do('COMMIT');
		}
		print $out "alive $session->{name}\n";
	};
	my $locker = sub {
		my ($number, $out) = @_;
		my $session = session('postgres', name => "locker${number}x$$");
		my $locks = 0;
		while (time < $end)
		{
			$session->{dbh}->do('BEGIN; LOCK TABLE ledger; COMMIT');
			$locks++;
			usleep(rand 5000);
		}
		print $out "locks $locks\n";
	};

	my @processes;
	for my $kind ([ $writer, 4 ], [ $leaver, 2 ], [ $active, 2 ], [ $idler, 1 ], [ $locker, 2 ])
	{
		my ($body, $count) = @$kind;
		for my $number (1 .. $count)
		{
			push @processes, start_process(sub { $body->($number, $_[0]) });
		}
	}
	my @said;
	my $failed = 0;
	for my $process (@processes)
	{
		my $handle = $process->{handle};
		push @said, <$handle>;
		waitpid $process->{pid}, 0;
		$failed++ if $? != 0;
	}
	chomp @said;
	is($failed, 0, 'race: every client came to its end') or diag join "\n", grep { /^died/ } @said;
	is(scalar(grep { /^alive active/ } @said), 2, 'race: sessions that are always active go on');
	is(scalar(grep { /^alive idler/ } @said), 1, 'race: a session that holds another lock goes on');

	my %ledger = map { $_ => 1 } split /\n/, $node->safe_psql('postgres', 'SELECT id FROM ledger');
	my @acknowledged = map { /^acknowledged (.*)/ ? $1 : () } @said;
	is_deeply([ grep { !$ledger{$_} } @acknowledged ],
		[], 'race: no acknowledged commit is lost');
	cmp_ok(scalar @acknowledged, '>', 0, 'race: there were commits');

	my $log = substr(slurp_file($node->logfile), $size);
	my @ended = $log =~ /LOG:  pg_lockguard: terminated (PID .*)/g;
	cmp_ok(scalar @ended, '>', 0, 'race: sessions were ended');
	is_deeply([ grep { !/ app "(?:writer|leaver)\d+x\d+_\d+"/ } @ended ],
		[], 'race: only those that are sometimes idle in transaction');
	my %ended = map { /^PID (\d+)/ ? ($1 => 1) : () } @ended;
	# A client that writes to a connection just closed may read no FATAL any more ("lost").
	my @fatal = map { /^(told|ended|lost) (\d+) (.*)/ ? [ $1, $2, $3 ] : () } @said;
	is_deeply([ grep { !$ended{ $_->[1] } } @fatal ],
		[], 'race: each of them stands in the log');
	my @told = grep { $_->[0] eq 'told' } @fatal;
	cmp_ok(scalar @told, '>', 0, 'race: clients were told why');
	is_deeply([ grep { $_->[2] eq 'begin' } @told ],
		[], 'race: nobody is told of a transaction that is over');
	# A commit that SIGTERM comes too late to stop is acknowledged, and the FATAL that follows has no
	# word of ours. It must follow at once: not in the next transaction.
	is_deeply([ grep { $_->[0] eq 'ended' && $_->[2] =~ /^in/ } @fatal ],
		[], 'race: nobody is ended in a transaction that was not judged');
	unlike($log, qr/PANIC|TRAP|terminated by signal|server process \(PID/, 'race: no crash');

	my %late = map { ("$_->[0] $_->[2]" => 1) } grep { $_->[0] ne 'told' } @fatal;
	note sprintf
	  '%d s: %d sessions ended, %d clients told, %d not (%s), %d commits acknowledged, %d in the ledger, %s',
	  $seconds, scalar @ended, scalar @told, @fatal - @told, join(', ', sort keys %late),
	  scalar @acknowledged, scalar keys %ledger, join(', ', grep { /^locks/ } @said);
}

my $log = slurp_file($node->logfile);
unlike($log, qr/PANIC|TRAP:/, 'no assertion failed');
my @crashes = $log =~ /was terminated by signal/g;
is(scalar @crashes, 1, 'no crash but the one that was asked for');
$node->stop;
done_testing();
