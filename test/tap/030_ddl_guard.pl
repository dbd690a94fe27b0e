# The DDL guard, pg_lockguard.ddl_mode = lock_timeout: lock_timeout inside a guarded statement and
# restored after it, whatever happens; who was in the way, in every DETAIL; what is left alone.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('guard');
$node->init(allows_streaming => 1);
$node->append_conf(
	'postgresql.conf', q{
shared_preload_libraries = 'pg_lockguard'
restart_after_crash = off
max_prepared_transactions = 10
autovacuum = off
log_lock_waits = on
pg_lockguard.ddl_mode = lock_timeout
pg_lockguard.ddl_lock_timeout = '20ms'
});
$node->start;

$node->safe_psql(
	'postgres', q{
	CREATE ROLE weak LOGIN;
	CREATE ROLE monitor LOGIN IN ROLE pg_monitor;
	GRANT CREATE ON SCHEMA public TO weak, monitor;
	CREATE TABLE users (id int PRIMARY KEY, name text);
	INSERT INTO users SELECT i, 'user ' || i FROM generate_series(1, 1000) i;
	CREATE TABLE orders (id int PRIMARY KEY, user_id int);
	CREATE TABLE other (id int);
	INSERT INTO other VALUES (1);
	CREATE TABLE probed (id int);
	INSERT INTO probed VALUES (1);
	CREATE TABLE seen (setting text);
	-- What lock_timeout is while ALTER TABLE runs.
	CREATE FUNCTION probe(int) RETURNS int VOLATILE LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO seen VALUES (current_setting('lock_timeout'));
		RETURN $1;
	END $$;
	CREATE TABLE part (id int) PARTITION BY RANGE (id);
	CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (10);
	CREATE INDEX part_id ON part (id);
});
my $probe = 'ALTER TABLE probed ALTER id TYPE int USING probe(id)';

# Runs a script in one session, errors included. Returns what it prints and what it complains of.
sub run_script
{
	my ($script, %options) = @_;
	my $on = delete $options{node} // $node;
	my ($out, $err) = ('', '');
	$on->psql(
		'postgres', $script,
		stdout => \$out,
		stderr => \$err,
		on_error_stop => 0,
		extra_params => [ '-v', 'VERBOSITY=verbose' ],
		%options);
	return ($out, $err);
}

# A session that has run the statements and stays where they leave it.
sub hold
{
	my ($statements, %options) = @_;
	my $session = $node->background_psql('postgres', on_error_stop => 1, %options);
	$session->query_safe($_) for split /;\s*/, $statements;
	return $session;
}

sub pid_of
{
	my ($session) = @_;
	return $session->query_safe('SELECT pg_backend_pid()');
}

# The settings that probe() has seen since the last call.
sub seen
{
	return $node->safe_psql('postgres',
		q{WITH gone AS (DELETE FROM seen RETURNING setting) SELECT string_agg(setting, ' ') FROM gone});
}

my $timeout = qr/ERROR:  55P03: canceling statement due to lock timeout\n/;

# ---- Which lock_timeout applies

for my $case (
	[ '0', '20ms', 'where the session has none' ],
	[ '1h', '20ms', 'where the session has a longer one' ],
	[ '7ms', '7ms', 'a stricter one of the session wins' ],
	[ '20ms', '20ms', 'an equal one stays' ])
{
	my ($session, $expected, $name) = @$case;
	my ($out, $err) = run_script("SET lock_timeout = '$session'; $probe; SHOW lock_timeout");
	is($err, '', "no error: $name");
	is(seen(), $expected, "lock_timeout: $name");
	is($out, $session, "restored: $name");
}

run_script("SET pg_lockguard.ddl_mode = off; $probe");
is(seen(), '0', 'ddl_mode = off leaves lock_timeout alone');
run_script("SET pg_lockguard.ddl_commands = ''; $probe");
is(seen(), '0', 'no commands, no guard');
run_script("SET pg_lockguard.ddl_commands = 'DROP TABLE, TRUNCATE TABLE'; $probe");
is(seen(), '0', 'other commands are not guarded');
run_script("SET pg_lockguard.ddl_commands = 'DROP TABLE,  alter table '; $probe");
is(seen(), '20ms', 'command tags in lower case, with spaces');

# An extension in the server's own folder, which is a private copy.
my $extension = $node->safe_psql('postgres', q{SELECT setting FROM pg_config WHERE name = 'SHAREDIR'})
  . '/extension/lockguard_probe';
END { unlink "$extension.control", "$extension--1.sql" if defined $extension; }
append_to_file("$extension.control", "default_version = '1'\n");
append_to_file("$extension--1.sql", "$probe;\n");
run_script('CREATE EXTENSION lockguard_probe; DROP EXTENSION lockguard_probe');
is(seen(), '0', "an extension's script is not guarded");

is( $node->safe_psql(
		'postgres',
		qq{SET lock_timeout = '1h'; $probe;
		SELECT setting, source, reset_val FROM pg_settings WHERE name = 'lock_timeout'}),
	'3600000|session|0',
	'the source of the setting is restored as well');
seen();

# ---- Restored after whatever happens

my $reader = hold('BEGIN; SELECT count(*) FROM users');
my $reader_pid = pid_of($reader);
my $blocked = 'ALTER TABLE users ADD COLUMN extra int';
my $broken = 'ALTER TABLE probed ADD COLUMN id int';

for my $case (
	[ $broken, qr/42701/, 'an error' ],
	[ $blocked, $timeout, 'a lock timeout' ],
	[   "SET statement_timeout = '50ms'; ALTER TABLE probed ALTER id TYPE int USING length(pg_sleep(60)::text)",
		qr/57014/, 'a cancel' ])
{
	my ($statement, $expected, $name) = @$case;
	my ($out, $err) = run_script("SET lock_timeout = '1h'; $statement; SHOW lock_timeout");
	like($err, $expected, "$name, as expected");
	is($out, '1h', "restored after $name");
	($out, $err) = run_script(
		"SET lock_timeout = '1h'; BEGIN; SET LOCAL lock_timeout = '2h'; SAVEPOINT s; $statement;
		 ROLLBACK TO s; SHOW lock_timeout; RESET statement_timeout; $probe; SHOW lock_timeout; COMMIT;
		 SHOW lock_timeout");
	is($out, "2h\n2h\n1h", "restored after $name and ROLLBACK TO SAVEPOINT");
	is(seen(), '20ms', "the guard works after $name and ROLLBACK TO SAVEPOINT");
}

my ($out, $err) = run_script(
	"SET lock_timeout = '1h'; BEGIN; SAVEPOINT s; SET LOCAL lock_timeout = '3h'; $probe; SHOW lock_timeout;
	 ROLLBACK TO s; SHOW lock_timeout; COMMIT; SHOW lock_timeout");
is($err, '', 'no error in a subtransaction that is rolled back');
is($out, "3h\n1h\n1h", 'each level has its own lock_timeout back');

# A BEGIN block with EXCEPTION is a subtransaction.
($out, $err) = run_script(
	qq{
	SET lock_timeout = '1h';
	DO \$\$
	BEGIN
		BEGIN
			$blocked;
		EXCEPTION WHEN lock_not_available THEN
			INSERT INTO seen VALUES ('caught');
		END;
		INSERT INTO seen VALUES (current_setting('lock_timeout'));
		$probe;
		INSERT INTO seen VALUES (current_setting('lock_timeout'));
	END \$\$;
	SHOW lock_timeout});
is($err, '', 'caught in an EXCEPTION block');
is(seen(), 'caught 1h 20ms 1h', 'restored in the EXCEPTION block');
is($out, '1h', 'restored after the EXCEPTION block');

($out, $err) = run_script(
	qq{
	CREATE FUNCTION alter_users() RETURNS void LANGUAGE plpgsql SET lock_timeout = '2h' AS \$\$
	BEGIN
		$probe;
		INSERT INTO seen VALUES (current_setting('lock_timeout'));
		$blocked;
	END \$\$;
	CREATE PROCEDURE alter_and_commit() LANGUAGE plpgsql AS \$\$
	BEGIN
		$probe;
		COMMIT;
		$probe;
		INSERT INTO seen VALUES (current_setting('lock_timeout'));
	END \$\$;
	SET lock_timeout = '1h';
	SELECT alter_users();
	SHOW lock_timeout;
	CALL alter_and_commit();
	SHOW lock_timeout});
like($err, $timeout, 'in a function');
is($out, "1h\n1h", 'restored after a function and a procedure');
is(seen(), '20ms 20ms 1h', 'guarded in a procedure that commits');

# The extended protocol; pgbench prepares the statements.
my $script = $node->basedir . '/prepared.sql';
append_to_file($script, "SET lock_timeout = '1h';\n$probe;\n"
	  . "INSERT INTO seen VALUES (current_setting('lock_timeout'));\n");
for my $protocol ('extended', 'prepared')
{
	$node->command_ok(
		[ 'pgbench', '-n', '-M', $protocol, '-t', 2, '-f', $script, 'postgres' ],
		"pgbench -M $protocol");
	is(seen(), '20ms 1h 20ms 1h', "guarded and restored, -M $protocol");
}
append_to_file($script, "$blocked;\n");
$node->command_checks_all(
	[ 'pgbench', '-n', '-M', 'prepared', '-t', 1, '-f', $script, 'postgres' ],
	2,
	[qr/./],
	[qr/canceling statement due to lock timeout\nDETAIL:  ALTER TABLE waited .* public\.users\. Blocked by PID $reader_pid /],
	'a lock timeout of a prepared statement');
seen();

# What the user sets inside stays set, as after any function that says SET.
($out, $err) = run_script(
	q{
	CREATE FUNCTION set_inside(int, text) RETURNS int VOLATILE LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM set_config('lock_timeout', $2, false);
		INSERT INTO seen VALUES (current_setting('lock_timeout'));
		RETURN $1;
	END $$;
	SET lock_timeout = '1h';
	ALTER TABLE probed ALTER id TYPE int USING set_inside(id, '5s');
	SHOW lock_timeout;
	BEGIN;
	ALTER TABLE probed ALTER id TYPE int USING set_inside(id, '6s');
	SHOW lock_timeout;
	ROLLBACK;
	SHOW lock_timeout});
is($err, '', 'SET inside a guarded statement');
is(seen(), '5s', 'SET inside applies at once');
is($out, "5s\n6s\n5s", 'SET inside is kept, and undone with its transaction');

# ---- Nested

$node->safe_psql(
	'postgres', q{
	CREATE FUNCTION alter_inside(int, command text) RETURNS int VOLATILE LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO seen VALUES (current_setting('lock_timeout'));
		EXECUTE command;
		INSERT INTO seen VALUES (current_setting('lock_timeout'));
		RETURN $1;
	END $$;
	CREATE FUNCTION caught_inside(int, command text) RETURNS int VOLATILE LANGUAGE plpgsql AS $$
	BEGIN
		EXECUTE command;
		RETURN $1;
	EXCEPTION WHEN lock_not_available THEN
		INSERT INTO seen VALUES ('caught ' || current_setting('lock_timeout'));
		RETURN $1;
	END $$;
});

sub alter_around
{
	my ($function, $command) = @_;
	return "ALTER TABLE probed ALTER id TYPE int USING $function(id, '$command')";
}

($out, $err) = run_script("SET lock_timeout = '1h';"
	  . alter_around('alter_inside', 'ALTER TABLE other ALTER id TYPE int USING probe(id)')
	  . '; SHOW lock_timeout');
is($err, '', 'ALTER TABLE in a function called by ALTER TABLE');
is(seen(), '20ms 20ms 20ms', 'lock_timeout on all levels');
is($out, '1h', 'restored after both');

($out, $err) = run_script(
	"SET lock_timeout = '1h';"
	  . alter_around('alter_inside',
		"SET LOCAL lock_timeout = ''3ms''; ALTER TABLE other ALTER id TYPE int USING probe(id)")
	  . '; SHOW lock_timeout');
is(seen(), '20ms 3ms 3ms', 'a stricter setting inside wins inside');
is($out, '1h', 'and is local to the transaction');

($out, $err) =
  run_script("SET lock_timeout = '1h';" . alter_around('alter_inside', $blocked) . '; SHOW lock_timeout');
like($err, $timeout, 'a lock timeout of the inner statement');
is(() = $err =~ /ALTER TABLE waited/g, 1, 'it is explained once');
like($err, qr/DETAIL:  ALTER TABLE waited \S+ ms for AccessExclusiveLock on public\.users\. Blocked by PID $reader_pid /,
	'by the inner statement');
is($out, '1h', 'restored after the inner timeout');

($out, $err) =
  run_script("SET lock_timeout = '1h';" . alter_around('caught_inside', $blocked) . '; SHOW lock_timeout');
is($err, '', 'the inner timeout can be caught');
is(seen(), 'caught 20ms', 'the outer statement is still guarded then');
is($out, '1h', 'restored after the caught timeout');

# The outer statement is still watched when an inner one with another lock_timeout has ended.
($out, $err) = run_script(
	alter_around('alter_inside',
		qq{DO \$do\$ BEGIN
			BEGIN SET LOCAL lock_timeout = ''3ms''; $blocked;
			EXCEPTION WHEN lock_not_available THEN INSERT INTO seen VALUES (''caught''); END;
			LOCK TABLE users IN ACCESS EXCLUSIVE MODE;
		END \$do\$}));
like($err, qr/${timeout}DETAIL:  ALTER TABLE waited .* on public\.users\. Blocked by PID $reader_pid .*\nHINT: .*\nCONTEXT:  (waiting for .*\n)?SQL statement "LOCK TABLE users/,
	'a timeout of the outer statement after a caught one of the inner');
is(seen(), '', 'and all of it is undone');

# An event trigger's function is part of the statement.
$node->safe_psql(
	'postgres', qq{
	CREATE FUNCTION on_ddl() RETURNS event_trigger LANGUAGE plpgsql AS \$\$
	BEGIN
		IF current_setting('my.event', true) = 'on' THEN
			INSERT INTO seen VALUES (current_setting('lock_timeout'));
			PERFORM set_config('my.event', 'off', false);
			$probe;
		ELSIF current_setting('my.event', true) = 'blocked' THEN
			PERFORM set_config('my.event', 'off', false);
			$blocked;
		END IF;
	END \$\$;
	CREATE EVENT TRIGGER on_ddl ON ddl_command_end EXECUTE FUNCTION on_ddl();
});
($out, $err) = run_script(
	"SET lock_timeout = '1h'; SET my.event = 'on'; ALTER TABLE other ADD COLUMN a int; SHOW lock_timeout;
	 SET my.event = 'blocked'; ALTER TABLE other ADD COLUMN b int; SHOW lock_timeout;
	 SELECT count(*) FROM pg_attribute WHERE attrelid = 'other'::regclass AND attname IN ('a', 'b')");
is(seen(), '20ms 20ms', 'lock_timeout in an event trigger');
like($err, qr/${timeout}DETAIL:  ALTER TABLE waited .* public\.users\. /, 'a lock timeout in an event trigger');
is($out, "1h\n1h\n1", 'restored after event triggers');
$node->safe_psql('postgres', 'DROP EVENT TRIGGER on_ddl');

# ---- The DETAIL

# Runs a statement that is to fail; returns what psql prints of its DETAIL and HINT.
sub detail_of
{
	my ($statement, %options) = @_;
	my ($out, $err) = run_script($statement, %options);
	return $err =~ /${timeout}(DETAIL:  .*\nHINT:  .*\n)(?:CONTEXT:  (?:.*\n)+)?LOCATION:  ProcessInterrupts/
	  ? $1
	  : "unexpected: $err";
}
my $waited = qr/waited \S+ m?s/;

like(
	detail_of($blocked),
	qr/^DETAIL:  ALTER TABLE $waited for AccessExclusiveLock on public\.users\. Blocked by PID $reader_pid \(app "\S+", user \S+, idle in transaction for .*\): SELECT pg_backend_pid\(\).*\nHINT:  .*pg_terminate_backend\($reader_pid\).*\n$/,
	'idle in transaction');

# A look at the wait is due in each third of lock_timeout; none may be missed.
for my $lock_timeout (1, 2, 3, 400)
{
	like(
		detail_of("SET pg_lockguard.ddl_lock_timeout = '1s'; SET lock_timeout = $lock_timeout; $blocked"),
		qr/^DETAIL:  ALTER TABLE $waited for AccessExclusiveLock on public\.users\. Blocked by PID $reader_pid /,
		"the lock is known after a wait of $lock_timeout ms ($_)")
	  for 1 .. ($lock_timeout < 100 ? 5 : 2);
}
like(
	detail_of(alter_around('alter_inside', 'LOCK TABLE users')),
	qr/^DETAIL:  ALTER TABLE $waited for AccessExclusiveLock on public\.users\./,
	'a lock taken by a statement that is not guarded, inside a guarded one');
seen();

# Locks other than the main table's
my $writer = hold('BEGIN; INSERT INTO users VALUES (-1)');
my $writer_pid = pid_of($writer);
like(
	detail_of('ALTER TABLE orders ADD FOREIGN KEY (user_id) REFERENCES users'),
	qr/^DETAIL:  ALTER TABLE $waited for ShareRowExclusiveLock on public\.users\. Blocked by PID $writer_pid (?!.*also by)/,
	"a foreign key's other table; readers do not block it");
like(
	detail_of(alter_around('alter_inside', 'UPDATE users SET id = -1 WHERE id = 1')),
	qr/^DETAIL:  ALTER TABLE $waited for ShareLock on transaction \d+\. Blocked by PID $writer_pid /,
	'a unique key that somebody else is inserting');
like(
	detail_of($blocked),
	qr/Blocked by PID $reader_pid .*; also by PID $writer_pid /,
	'two holders, the oldest transaction first');
$writer->query_safe('ROLLBACK');
$writer->query_safe('SELECT pg_advisory_lock(42)');
like(
	detail_of(alter_around('alter_inside', 'SELECT pg_advisory_xact_lock(42)')),
	qr/^DETAIL:  ALTER TABLE $waited for ExclusiveLock on advisory lock 42\. Blocked by PID $writer_pid \(.*idle for .*\nHINT:  .*session-level lock/,
	'an advisory lock of a session without a transaction');
$writer->quit;

my $part_reader = hold('BEGIN; SELECT count(*) FROM part_1');
my $part_pid = pid_of($part_reader);
like(
	detail_of('ALTER TABLE part ADD COLUMN extra int'),
	qr/^DETAIL:  ALTER TABLE $waited for AccessExclusiveLock on public\.part_1\. Blocked by PID $part_pid /,
	'a partition');
$part_reader->quit;

# An active session: it waits for an advisory lock
my $gate = hold('SELECT pg_advisory_lock(8)');
my $active = $node->background_psql('postgres');
my $active_pid = pid_of($active);
$active->query_until(qr/start/,
	"\\echo start\nBEGIN; LOCK TABLE other IN SHARE MODE; SELECT pg_advisory_lock(8), 'busy';\n");
$node->poll_query_until('postgres',
	"SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $active_pid")
  or die 'the active session does not wait';
like(
	detail_of('ALTER TABLE other ADD COLUMN extra int'),
	qr/Blocked by PID $active_pid \(.*, active for .*\): .*pg_advisory_lock\(8\), 'busy'.*\nHINT:  .*pg_cancel_backend\($active_pid\)/,
	'an active session');
$gate->quit;
$active->quit;

# More than three
my @crowd = map { hold("BEGIN; SELECT count(*) FROM users") } 1 .. 4;
my @crowd_pids = map { pid_of($_) } @crowd;
like(
	detail_of($blocked),
	qr/Blocked by PID $reader_pid .*; also by PID $crowd_pids[0] .*; also by PID $crowd_pids[1] .*, and by 2 more\.\n/,
	'five holders: three by name, oldest first');
$_->quit for @crowd;

# A session that queues behind the guarded statement is let in when that gives up, and holds the lock
# by the time that the error is explained. It was not in the way.
my $newcomer = $node->background_psql('postgres');
my $newcomer_pid = pid_of($newcomer);
my $altering = IPC::Run::start(
	[
		'psql', '-X', '-d', $node->connstr('postgres'), '-c',
		"SET pg_lockguard.ddl_lock_timeout = '3s'", '-c', $blocked
	],
	'<', \undef, '>', \my $altering_out, '2>', \my $altering_err);
$node->poll_query_until('postgres',
	q{SELECT count(*) = 1 FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'})
  or die 'ALTER TABLE does not wait';
$newcomer->query_until(qr/start/, "\\echo start\nBEGIN; SELECT count(*) FROM users;\n");
$node->poll_query_until('postgres',
	"SELECT count(*) = 1 FROM pg_locks WHERE NOT granted AND pid = $newcomer_pid")
  or die 'nobody queues behind it';
$altering->finish;
like($altering_err, qr/Blocked by PID $reader_pid [^\n]*\n/, 'who was in the way is named');
unlike($altering_err, qr/PID $newcomer_pid\b/, 'who came later is not, though it holds the lock now');
is( $node->safe_psql('postgres',
		"SELECT count(*) FROM pg_locks WHERE granted AND pid = $newcomer_pid AND relation = 'users'::regclass"),
	'1',
	'it does hold the lock');
$newcomer->quit;

# Prepared transactions, of this run of the server and of the one before
$node->safe_psql('postgres',
	q{BEGIN; LOCK TABLE other IN ROW EXCLUSIVE MODE; PREPARE TRANSACTION 'it''s 1'});
my $prepared = qr/^DETAIL:  ALTER TABLE $waited for AccessExclusiveLock on public\.other\. Blocked by prepared transaction .*it.*s 1.*\nHINT:  .*ROLLBACK PREPARED 'it''s 1'/;
like(detail_of('ALTER TABLE other ADD COLUMN extra int'), $prepared, 'a prepared transaction');
like(
	detail_of(
		'ALTER TABLE other ADD COLUMN extra int',
		connstr => $node->connstr('postgres')),
	$prepared,
	'a prepared transaction whose session goes on or has ended');
($out, $err) = run_script(
	q{BEGIN; LOCK TABLE orders IN ROW EXCLUSIVE MODE; PREPARE TRANSACTION 'mine';
	  ALTER TABLE orders ADD COLUMN extra int; ROLLBACK PREPARED 'mine';
	  ALTER TABLE orders ADD COLUMN extra int});
like($err, qr/${timeout}DETAIL:  .*Blocked by prepared transaction .*mine/,
	'a prepared transaction of this very session');
is(() = $err =~ /ERROR/g, 1, 'which goes on when it is gone');

# Queued behind another request, while no holder conflicts
my $queued = $node->background_psql('postgres', on_error_stop => 0);
my $queued_pid = pid_of($queued);
$queued->query_until(qr/start/,
	"\\echo start\nSET pg_lockguard.ddl_mode = off; ALTER TABLE users ADD COLUMN extra int;\n");
$node->poll_query_until('postgres',
	"SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $queued_pid")
  or die 'nobody queues';
like(
	detail_of('ALTER TABLE users SET (fillfactor = 90)'),
	qr/^DETAIL:  ALTER TABLE $waited for ShareUpdateExclusiveLock on public\.users\. It was queued behind other requests; nobody holds a conflicting lock any more\.\nHINT:  .*lock_tree\(\)/,
	'no holder, only a queue');
$node->safe_psql('postgres', "SELECT pg_cancel_backend($queued_pid)");
$queued->quit;

# A parallel query is one session.
my $parallel = $node->background_psql('postgres', on_error_stop => 0);
my $parallel_pid = pid_of($parallel);
$parallel->query_safe($_)
  for ('SET min_parallel_table_scan_size = 0', 'SET parallel_setup_cost = 0',
	'SET parallel_tuple_cost = 0', 'SET parallel_leader_participation = off');
$reader->query_safe('ROLLBACK');
$parallel->query_until(qr/start/,
	"\\echo start\nSELECT count(*) FROM users WHERE pg_sleep(60) IS NOT NULL;\n");
$node->poll_query_until('postgres',
	"SELECT count(*) > 0 FROM pg_stat_activity WHERE leader_pid = $parallel_pid AND wait_event = 'PgSleep'")
  or die 'no parallel worker';
like(
	detail_of($blocked),
	qr/Blocked by PID $parallel_pid (?!.*also by)/,
	'a parallel query under its leader alone');
$node->safe_psql('postgres', "SELECT pg_cancel_backend($parallel_pid)");
$parallel->quit;

# Privileges: those of the reader
$node->safe_psql(
	'postgres', q{
	CREATE FUNCTION alter_users_as_owner() RETURNS void SECURITY DEFINER LANGUAGE plpgsql AS
		'BEGIN ALTER TABLE users ADD COLUMN extra int; END';
	CREATE FUNCTION alter_users_as_weak() RETURNS void SECURITY DEFINER LANGUAGE plpgsql AS
		'BEGIN ALTER TABLE users ADD COLUMN extra int; END';
	ALTER FUNCTION alter_users_as_weak() OWNER TO weak;
	ALTER TABLE users OWNER TO weak;
});
$reader->query_safe('BEGIN');
$reader->query_safe('SELECT count(*) AS secret FROM users');
my $hidden = qr/^DETAIL:  ALTER TABLE $waited for AccessExclusiveLock on public\.users\. Blocked by PID $reader_pid \(app "\S+", user \S+\)(?:(?!idle|secret).)*\nHINT:  .*pg_read_all_stats/;
my $shown = qr/Blocked by PID $reader_pid \(.*idle in transaction for .*\): SELECT count\(\*\) AS secret/;
my @as_weak = (extra_params => [ '-v', 'VERBOSITY=verbose', '-U', 'weak' ]);
like(detail_of($blocked, @as_weak), $hidden, 'an unprivileged reader does not see state and query');
like(detail_of("SET ROLE weak; $blocked"), $hidden, 'neither does a superuser as that role');
like(detail_of('SELECT alter_users_as_owner()', @as_weak),
	$hidden, "nor the caller of a superuser's SECURITY DEFINER function");
like(detail_of('SELECT alter_users_as_weak()'),
	$hidden, "nor a SECURITY DEFINER function of that role");
like(detail_of('SELECT alter_users_as_owner()'), $shown, 'a superuser sees them');
$node->safe_psql('postgres', 'GRANT pg_read_all_stats TO weak');
like(detail_of($blocked, @as_weak), $shown, 'and so does a member of pg_read_all_stats');
$node->safe_psql('postgres', 'REVOKE pg_read_all_stats FROM weak');

# NOWAIT is no wait, and a function may raise what only sounds like the error; neither is given the
# DETAIL of the wait before it.
for my $case (
	[ 'LOCK TABLE users NOWAIT', qr/could not obtain lock on relation "users"/, 'NOWAIT' ],
	[   q{RAISE ''canceling statement due to lock timeout'' USING errcode = ''55P03''},
		qr/canceling statement due to lock timeout/,
		'RAISE' ])
{
	my ($statement, $message, $name) = @$case;
	($out, $err) = run_script(
		alter_around('alter_inside',
			qq{DO \$do\$ BEGIN
				BEGIN LOCK TABLE users; EXCEPTION WHEN lock_not_available THEN NULL; END;
				$statement;
			END \$do\$}));
	like($err, qr/ERROR:  55P03: $message/, "$name inside a guarded statement, after a lock timeout");
	unlike($err, qr/DETAIL/, "$name has no DETAIL of ours");
}

# A catalog that can't be read does not delay the error. (Nobody can connect at such a time.)
my $connected = $node->background_psql('postgres', on_error_stop => 0);
my $catalogs = hold('BEGIN; LOCK TABLE pg_authid');
$connected->query($blocked);
like($connected->{stderr}, qr/Blocked by PID $reader_pid \(app "[^"]*", idle in transaction/,
	'the catalog of roles is locked: the role is left out');
$catalogs->quit;
$catalogs = hold('BEGIN; LOCK TABLE pg_class');
$connected->query($blocked);
like($connected->{stderr}, qr/ERROR:  canceling statement due to lock timeout/,
	'the catalog of relations is locked: the error comes all the same');
$catalogs->quit;
$connected->quit;

# ---- Every supported command

$node->safe_psql(
	'postgres', q{
	CREATE TABLE t (id int PRIMARY KEY);
	CREATE INDEX t_id ON t (id);
	CREATE VIEW v AS SELECT 1 AS one;
	CREATE MATERIALIZED VIEW mv AS SELECT 1 AS one;
	CREATE SEQUENCE s;
	CREATE FOREIGN DATA WRAPPER fdw;
	CREATE SERVER server FOREIGN DATA WRAPPER fdw;
	CREATE FOREIGN TABLE ft (id int) SERVER server;
	CREATE FUNCTION trigger_function() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
	CREATE TRIGGER t_trigger AFTER INSERT ON t EXECUTE FUNCTION trigger_function();
	CREATE RULE t_rule AS ON UPDATE TO t DO ALSO NOTHING;
});
my $all = hold(
	q{BEGIN; LOCK TABLE t; LOCK TABLE v; SELECT count(*) FROM mv; SELECT nextval('s'); ALTER FOREIGN TABLE ft ADD COLUMN x int;
	  REINDEX INDEX t_id; ALTER SEQUENCE s INCREMENT 2; REFRESH MATERIALIZED VIEW mv});
my %command = (
	'ALTER TABLE' => 'ALTER TABLE t RENAME TO t2',
	'ALTER INDEX' => 'ALTER INDEX t_id RENAME TO t_id2',
	'ALTER VIEW' => 'ALTER VIEW v RENAME TO v2',
	'ALTER MATERIALIZED VIEW' => 'ALTER MATERIALIZED VIEW mv SET SCHEMA pg_catalog',
	'ALTER SEQUENCE' => 'ALTER SEQUENCE s INCREMENT 3',
	'ALTER FOREIGN TABLE' => 'ALTER FOREIGN TABLE ft ADD COLUMN y int',
	'DROP TABLE' => 'DROP TABLE t',
	'DROP INDEX' => 'DROP INDEX t_id',
	'DROP VIEW' => 'DROP VIEW v',
	'DROP MATERIALIZED VIEW' => 'DROP MATERIALIZED VIEW mv',
	'DROP SEQUENCE' => 'DROP SEQUENCE s',
	'DROP FOREIGN TABLE' => 'DROP FOREIGN TABLE ft',
	'DROP TRIGGER' => 'DROP TRIGGER t_trigger ON t',
	'DROP RULE' => 'DROP RULE t_rule ON t',
	'TRUNCATE TABLE' => 'TRUNCATE t',
	'CREATE INDEX' => 'CREATE INDEX ON t (id)',
	'CREATE TRIGGER' => 'CREATE TRIGGER t_trigger2 AFTER INSERT ON t EXECUTE FUNCTION trigger_function()',
	'CREATE RULE' => 'CREATE RULE t_rule2 AS ON DELETE TO t DO ALSO NOTHING',
	'REINDEX' => 'REINDEX TABLE t',
	'CLUSTER' => 'CLUSTER t USING t_id',
	'REFRESH MATERIALIZED VIEW' => 'REFRESH MATERIALIZED VIEW mv',
	'COMMENT' => q{COMMENT ON TABLE t IS 'no'},
	'LOCK TABLE' => 'BEGIN; LOCK TABLE t IN ACCESS SHARE MODE');
for my $tag (sort keys %command)
{
	like(
		detail_of("SET pg_lockguard.ddl_commands = '$tag'; $command{$tag}"),
		qr/^DETAIL:  $tag $waited for \w+Lock on public\.\w+\. Blocked by PID/,
		"$tag is guarded");
}
(undef, $err) = run_script(q{SET pg_lockguard.ddl_commands = 'ALTER TABLE, VACUUM'});
my ($supported) = $err =~ /HINT: .*Supported are: (.*)\./;
is(join(', ', sort split /, /, $supported // $err),
	join(', ', sort keys %command),
	'the HINT lists the commands that are guarded');
$all->quit;

# ---- Who may change the settings

for my $setting ('ddl_mode = off', q{ddl_commands = ''}, q{ddl_lock_timeout = '1h'})
{
	(undef, $err) = run_script("SET pg_lockguard.$setting", @as_weak);
	like($err, qr/ERROR:  42501: permission denied to set parameter/, "not for everybody: $setting");
}
SKIP:
{
	skip 'GRANT SET ON PARAMETER came with 15', 1
	  if $node->safe_psql('postgres', 'SHOW server_version_num') < 150000;
	$node->safe_psql('postgres', 'GRANT SET ON PARAMETER pg_lockguard.ddl_mode TO weak');
	($out, $err) = run_script('SET pg_lockguard.ddl_mode = off; SHOW pg_lockguard.ddl_mode', @as_weak);
	is("$out$err", 'off', 'but it can be granted');
}

# ---- Statements that are left alone

# Those that commit on their way; in a server with assertions a setting of one transaction would not
# survive them. ddl_lock_timeout is too short for any of their waits.
$node->safe_psql(
	'postgres', q{
	CREATE TABLE alone (id int) PARTITION BY RANGE (id);
	CREATE TABLE alone_1 PARTITION OF alone FOR VALUES FROM (0) TO (10);
	CREATE TABLE alone_2 PARTITION OF alone FOR VALUES FROM (10) TO (20);
	CREATE INDEX alone_id ON alone (id);
	CREATE TABLE clustered (id int PRIMARY KEY);
	CLUSTER clustered USING clustered_pkey;
	CREATE SCHEMA empty;
});
my @commands = ('-c', q{SET pg_lockguard.ddl_commands = 'ALTER TABLE, CREATE INDEX, DROP INDEX, REINDEX, CLUSTER'},
	'-c', q{SET pg_lockguard.ddl_lock_timeout = '1ms'}, '-c', q{SET lock_timeout = '1h'});
for my $statement (
	'REINDEX TABLE alone',
	'REINDEX INDEX alone_id',
	'REINDEX TABLE CONCURRENTLY clustered',
	'REINDEX (CONCURRENTLY) INDEX clustered_pkey',
	'REINDEX (CONCURRENTLY FALSE) INDEX clustered_pkey',
	'REINDEX SCHEMA empty',
	'REINDEX SYSTEM postgres',
	'CLUSTER',
	'CLUSTER alone USING alone_id',
	'CREATE INDEX CONCURRENTLY clustered_id ON clustered (id)',
	'DROP INDEX CONCURRENTLY clustered_id',
	'ALTER TABLE alone DETACH PARTITION alone_1 CONCURRENTLY')
{
	my ($stdout, $stderr) = run_command(
		[ 'psql', '-XAtq', '-d', $node->connstr('postgres'), @commands, '-c', $statement, '-c', 'SHOW lock_timeout' ]);
	is("$stdout$stderr", '1h', "left alone: $statement");
}

# In the way of its first lock already, which it takes in its first transaction.
my $old = hold('BEGIN; LOCK TABLE clustered IN SHARE UPDATE EXCLUSIVE MODE');
my $concurrent = $node->background_psql('postgres');
my $concurrent_pid = pid_of($concurrent);
$concurrent->query_safe(q{SET pg_lockguard.ddl_commands = 'CREATE INDEX'});
$concurrent->query_safe(q{SET pg_lockguard.ddl_lock_timeout = '1ms'});
$concurrent->query_until(qr/start/, "\\echo start\nCREATE INDEX CONCURRENTLY waited ON clustered (id);\n");
$node->poll_query_until('postgres',
	"SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $concurrent_pid")
  or die 'CREATE INDEX CONCURRENTLY does not wait';
$old->query_safe('COMMIT');
$old->quit;
$concurrent->query_safe('SELECT 1');
is($node->safe_psql('postgres', q{SELECT indisvalid FROM pg_index WHERE indexrelid = 'waited'::regclass}),
	't', 'CREATE INDEX CONCURRENTLY waits as long as it takes');
$concurrent->quit;

# ---- The timer

# A timer left running wakes a waiter up again and again, and from deadlock_timeout on each
# awakening writes another line of log_lock_waits.
my $log_start = -s $node->logfile;
my $plain = $node->background_psql('postgres');
my $plain_pid = pid_of($plain);
$plain->query_safe(q{SET deadlock_timeout = '10ms'});
$plain->query_safe(q{SET pg_lockguard.ddl_lock_timeout = '3ms'});
$plain->query_safe(
	"DO \$\$ BEGIN $blocked; EXCEPTION WHEN lock_not_available THEN NULL; END \$\$");
$plain->query_safe("DO \$\$ BEGIN BEGIN "
	  . alter_around('alter_inside', $blocked)
	  . "; EXCEPTION WHEN lock_not_available THEN NULL; END; END \$\$");
$plain->query_safe($probe);
is(seen(), '3ms', 'guarded after errors that were caught');
$plain->query_until(qr/start/, "\\echo start\nBEGIN; LOCK TABLE users; SELECT 'locked';\n");
$node->wait_for_log(qr/process $plain_pid still waiting for AccessExclusiveLock/, $log_start);
$node->safe_psql('postgres', 'SELECT pg_sleep(0.3)');    # a hundred times the timer's period
my @lines = slurp_file($node->logfile, $log_start) =~ /process $plain_pid still waiting/g;
is(scalar(@lines), 1, 'no timer is left running after errors that were caught');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($plain_pid)");
$plain->{run}->finish;

# A session that is terminated has its timer still running when it gives up its PGPROC.
for (1 .. 20)
{
	my $victim = $node->background_psql('postgres', on_error_stop => 0);
	my $pid = pid_of($victim);
	$victim->query_safe(q{SET lock_timeout = '1ms'});
	$victim->query_until(qr/start/,
		"\\echo start\nALTER TABLE probed ALTER id TYPE int USING length(pg_sleep(60)::text);\n");
	$node->poll_query_until('postgres',
		"SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = $pid")
	  or die 'the victim does not sleep';
	$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
	$victim->{run}->finish;
}
is($node->safe_psql('postgres', 'SELECT 1'), '1', 'terminating guarded sessions does no harm');
$reader->quit;

# ---- Autovacuum as a blocker

$node->safe_psql(
	'postgres', q{
	CREATE TABLE dirty (id int, filler text) WITH (autovacuum_vacuum_threshold = 1, autovacuum_vacuum_scale_factor = 0,
		autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1, vacuum_truncate = off);
	INSERT INTO dirty SELECT i, repeat('x', 500) FROM generate_series(1, 2000) i;
	DELETE FROM dirty;
	ALTER SYSTEM SET autovacuum = on;
	ALTER SYSTEM SET autovacuum_naptime = 1;
	SELECT pg_reload_conf();
});
$node->poll_query_until(
	'postgres',
	q{SELECT count(*) = 1 FROM pg_locks JOIN pg_stat_activity USING (pid)
	  WHERE relation = 'dirty'::regclass AND backend_type = 'autovacuum worker'})
  or die 'autovacuum does not come';
my $autovacuum_pid = $node->safe_psql('postgres',
	q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'autovacuum worker' AND query ~ 'public.dirty'});
like(
	detail_of('ALTER TABLE dirty ADD COLUMN extra int'),
	qr/Blocked by autovacuum worker PID $autovacuum_pid \(.*: autovacuum: VACUUM.*\nHINT:  .*deadlock_timeout/,
	'an autovacuum worker');
$node->safe_psql('postgres',
	'ALTER SYSTEM SET autovacuum = off; SELECT pg_reload_conf()');

# ---- Prepared transactions of an earlier run; other hooks; other ways to load the library

$node->safe_psql('postgres', 'CREATE EXTENSION pg_stat_statements');
for my $libraries ('pg_stat_statements,auto_explain,pg_lockguard', 'pg_lockguard,auto_explain,pg_stat_statements',
	'pg_stat_statements,pg_lockguard,auto_explain')
{
	$node->append_conf(
		'postgresql.conf', qq{
shared_preload_libraries = '$libraries'
auto_explain.log_min_duration = 0
auto_explain.log_nested_statements = on
});
	$node->restart;
	$log_start = -s $node->logfile;
	like(detail_of('ALTER TABLE other ADD COLUMN extra int'),
		$prepared, "a prepared transaction from before the restart ($libraries)");
	$node->safe_psql('postgres', 'SELECT pg_stat_statements_reset()');
	$node->safe_psql('postgres', $probe);
	is(seen(), '20ms', "guarded ($libraries)");
	is( $node->safe_psql('postgres',
			q{SELECT string_agg(calls::text, ',') FROM pg_stat_statements WHERE query ~ '^ALTER TABLE probed'}),
		'1',
		"pg_stat_statements counts the statement once ($libraries)");
	like(slurp_file($node->logfile, $log_start),
		qr/Query Text: INSERT INTO seen/, "auto_explain sees inside ($libraries)");
}
$node->safe_psql('postgres', q{ROLLBACK PREPARED 'it''s 1'});

$reader = hold('BEGIN; SELECT count(*) FROM users');
$reader_pid = pid_of($reader);
$reader->query_safe('SELECT 1');
for my $case ([ q{shared_preload_libraries = ''}, q{LOAD 'pg_lockguard'}, 'LOAD' ],
	[ q{session_preload_libraries = 'pg_lockguard'}, 'SELECT 1', 'session_preload_libraries' ])
{
	my ($setting, $first, $name) = @$case;
	$reader->quit;
	$node->append_conf('postgresql.conf', "$setting\n");
	$node->restart;
	$reader = hold('BEGIN; SELECT count(*) FROM users');
	$reader_pid = pid_of($reader);
	($out, $err) = run_script("$first; SET lock_timeout = '1h'; $blocked; SHOW lock_timeout; SHOW pg_lockguard.ddl_mode");
	like($err, qr/DETAIL:  ALTER TABLE $waited for AccessExclusiveLock on public\.users\. Blocked by PID $reader_pid /,
		"loaded by $name: guarded");
	like($out, qr/1h\nlock_timeout$/, "loaded by $name: restored");
}
$reader->quit;

# ---- A standby

$node->append_conf('postgresql.conf',
	q{shared_preload_libraries = 'pg_lockguard'
session_preload_libraries = ''
});
$node->restart;
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('guard_standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->append_conf(
	'postgresql.conf', q{
pg_lockguard.ddl_commands = 'LOCK TABLE'
pg_lockguard.ddl_lock_timeout = '1ms'
});
$standby->start;
my $exclusive = hold('BEGIN; LOCK TABLE users');
$node->wait_for_catchup($standby);
$standby->poll_query_until('postgres',
	q{SELECT count(*) = 1 FROM pg_locks WHERE relation = 'users'::regclass AND mode = 'AccessExclusiveLock'})
  or die 'the standby does not replay the lock';
my $weak_lock = $standby->background_psql('postgres');
my $weak_pid = pid_of($weak_lock);
$weak_lock->query_until(qr/start/,
	"\\echo start\nBEGIN; LOCK TABLE users IN ACCESS SHARE MODE; SELECT 'locked';\n");
$standby->poll_query_until('postgres',
	"SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $weak_pid")
  or die 'LOCK TABLE does not wait on the standby';
$exclusive->query_safe('COMMIT');
$exclusive->quit;
is($weak_lock->query('SELECT 2'), "locked\n2", 'on a standby the guard leaves LOCK TABLE alone');
$weak_lock->quit;
$standby->stop;

is(() = slurp_file($node->logfile) =~ /TRAP:|terminated by signal/g, 0, 'no assertion has failed');
$node->stop;
done_testing();
