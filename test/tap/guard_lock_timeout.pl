# pg_lockguard.ddl_mode = lock_timeout: which lock_timeout a guarded statement has, and that it is
# what it was afterwards, whatever happens; also with guarded statements inside of it.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LockGuard;
use LockGuard::Guard;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_guarded_node('lock_timeout', 'log_lock_waits = on');
my ($out, $err);

# An extension in the server's own folder, which is a private copy.
my $extension = $node->safe_psql('postgres', q{SELECT setting FROM pg_config WHERE name = 'SHAREDIR'})
  . '/extension/lockguard_probe';
END { unlink "$extension.control", "$extension--1.sql" if defined $extension; }

subtest 'the stricter of the two applies, and the session has its own back' => sub {
	for my $case (
		[ '0', '20ms', 'where the session has none' ],
		[ '1h', '20ms', 'where the session has a longer one' ],
		[ '7ms', '7ms', 'a stricter one of the session wins' ],
		[ '20ms', '20ms', 'an equal one stays' ])
	{
		my ($session, $expected, $name) = @$case;
		($out, $err) = run_script($node, "SET lock_timeout = '$session'; $probe; SHOW lock_timeout");
		is($err, '', "no error: $name");
		is(seen($node), $expected, "lock_timeout: $name");
		is($out, $session, "restored: $name");
	}
};

# As without the guard: SET for the session, SET LOCAL for the rest of the transaction.
subtest 'what a function of the statement sets stays set' => sub {
	my $session = session($node, 'setter');
	$session->do(
		q{CREATE FUNCTION set_it() RETURNS event_trigger LANGUAGE plpgsql AS $$
		BEGIN
			PERFORM set_config('lock_timeout', '7s', true);
			PERFORM set_config('log_min_messages', 'error', true);
			PERFORM set_config('deadlock_timeout', '3s', true);
		END $$});
	$session->do('CREATE EVENT TRIGGER set_it ON ddl_command_end EXECUTE FUNCTION set_it()');
	for my $mode (qw(off lock_timeout low_priority)) {
		for my $max_wait ('0', '1h') {
			$session->do($_) for "SET pg_lockguard.ddl_mode = $mode", "SET pg_lockguard.ddl_max_wait = '$max_wait'", 'BEGIN',
			  'ALTER TABLE probed ADD more int';
			is(join(' ', map { $session->value("SHOW $_") } qw(lock_timeout log_min_messages deadlock_timeout)),
				'7s error 3s', "$mode, ddl_max_wait $max_wait");
			$session->do('ROLLBACK');
			is(join(' ', map { $session->value("SHOW $_") } qw(lock_timeout log_min_messages)), '0 warning', '... and not for longer');
		}
	}
	$session->do('DROP EVENT TRIGGER set_it');
	forget_sessions($session);
};

# What such a function has read was the guard's.
subtest 'what a function of the statement saves and restores does not stay' => sub {
	my $session = session($node, 'restorer');
	$session->do(
		q{CREATE FUNCTION save_and_restore() RETURNS event_trigger LANGUAGE plpgsql AS $$
		DECLARE
			timeout text := current_setting('lock_timeout');
			level text := current_setting('log_min_messages');
		BEGIN
			PERFORM set_config('lock_timeout', '7s', false), set_config('log_min_messages', 'error', false);
			PERFORM set_config('lock_timeout', timeout, false), set_config('log_min_messages', level, false);
		END $$});
	$session->do('CREATE EVENT TRIGGER save_and_restore ON ddl_command_end EXECUTE FUNCTION save_and_restore()');
	for my $mode (qw(off lock_timeout low_priority)) {
		$session->do("SET pg_lockguard.ddl_mode = $mode");
		# The second has its lock already.
		for my $end (qw(COMMIT ROLLBACK)) {
			$session->do($_) for 'BEGIN', 'ALTER TABLE probed ALTER id SET STATISTICS 7', 'ALTER TABLE probed ALTER id SET STATISTICS 8', $end;
			is(join(' ', map { $session->value("SHOW $_") } qw(lock_timeout log_min_messages)), '0 warning', "$mode, after $end");
		}
		$session->do('ALTER TABLE probed ALTER id SET STATISTICS 9');
		is(join(' ', map { $session->value("SHOW $_") } qw(lock_timeout log_min_messages)), '0 warning', "$mode, in autocommit");
	}
	$session->do('DROP EVENT TRIGGER save_and_restore');
	forget_sessions($session);
};

subtest 'what is not guarded has the lock_timeout of the session' => sub {
	run_script($node, "SET pg_lockguard.ddl_mode = off; $probe");
	is(seen($node), '0', 'ddl_mode = off leaves lock_timeout alone');
	run_script($node, "SET pg_lockguard.ddl_commands = ''; $probe");
	is(seen($node), '0', 'no commands, no guard');
	run_script($node, "SET pg_lockguard.ddl_commands = 'DROP TABLE, TRUNCATE TABLE'; $probe");
	is(seen($node), '0', 'other commands are not guarded');
	run_script($node, "SET pg_lockguard.ddl_commands = 'DROP TABLE,  alter table '; $probe");
	is(seen($node), '20ms', 'command tags in lower case, with spaces');
	append_to_file("$extension.control", "default_version = '1'\n");
	append_to_file("$extension--1.sql", "$probe;\n");
	run_script($node, 'CREATE EXTENSION lockguard_probe; DROP EXTENSION lockguard_probe');
	is(seen($node), '0', "an extension's script is not guarded");
};

subtest 'the source of the setting' => sub {
	is( $node->safe_psql(
			'postgres',
			qq{SET lock_timeout = '1h'; $probe;
			SELECT setting, source, reset_val FROM pg_settings WHERE name = 'lock_timeout'}),
		'3600000|session|0',
		'the source of the setting is restored as well');
	seen($node);
};

my $reader = hold($node, 'reader', 'BEGIN; SELECT count(*) FROM users');
my $reader_pid = $reader->pid;
my $broken = 'ALTER TABLE probed ADD COLUMN id int';

subtest 'after an error, a timeout, a cancel' => sub {
	for my $case (
		[ $broken, qr/42701/, 'an error' ],
		[ $blocked, $timed_out, 'a lock timeout' ],
		# Of its own: what follows would be under a timeout as well.
		[   "ALTER TABLE probed ALTER id TYPE int USING length(pg_cancel_backend(pg_backend_pid())::text || pg_sleep(60)::text)",
			qr/57014/, 'a cancel' ])
	{
		my ($statement, $expected, $name) = @$case;
		($out, $err) = run_script($node, "SET lock_timeout = '1h'; $statement; SHOW lock_timeout");
		like($err, $expected, "$name, as expected");
		is($out, '1h', "restored after $name");
		($out, $err) = run_script(
			$node, "SET lock_timeout = '1h'; BEGIN; SET LOCAL lock_timeout = '2h'; SAVEPOINT s; $statement;
			 ROLLBACK TO s; SHOW lock_timeout; $probe; SHOW lock_timeout; COMMIT;
			 SHOW lock_timeout");
		is($out, "2h\n2h\n1h", "restored after $name and ROLLBACK TO SAVEPOINT");
		is(seen($node), '20ms', "the guard works after $name and ROLLBACK TO SAVEPOINT");
	}
};

subtest 'in a subtransaction that is rolled back' => sub {
	($out, $err) = run_script(
		$node, "SET lock_timeout = '1h'; BEGIN; SAVEPOINT s; SET LOCAL lock_timeout = '3h'; $probe; SHOW lock_timeout;
		 ROLLBACK TO s; SHOW lock_timeout; COMMIT; SHOW lock_timeout");
	is($err, '', 'no error in a subtransaction that is rolled back');
	is($out, "3h\n1h\n1h", 'each level has its own lock_timeout back');
};

subtest 'in a BEGIN block with EXCEPTION' => sub {
	($out, $err) = run_script(
		$node, qq{
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
	is(seen($node), 'caught 1h 20ms 1h', 'restored in the EXCEPTION block');
	is($out, '1h', 'restored after the EXCEPTION block');
};

subtest 'in functions and procedures' => sub {
	($out, $err) = run_script(
		$node, qq{
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
	like($err, $timed_out, 'in a function');
	is($out, "1h\n1h", 'restored after a function and a procedure');
	is(seen($node), '20ms 20ms 1h', 'guarded in a procedure that commits');
};

subtest 'the extended protocol' => sub {
	my $script = $node->basedir . '/prepared.sql';
	append_to_file($script, "SET lock_timeout = '1h';\n$probe;\n"
		  . "INSERT INTO seen VALUES (current_setting('lock_timeout'));\n");
	for my $protocol ('extended', 'prepared')
	{
		$node->command_ok(
			[ 'pgbench', '-n', '-M', $protocol, '-t', 2, '-f', $script, 'postgres' ],
			"pgbench -M $protocol");
		is(seen($node), '20ms 1h 20ms 1h', "guarded and restored, -M $protocol");
	}
	append_to_file($script, "$blocked;\n");
	$node->command_checks_all(
		[ 'pgbench', '-n', '-M', 'prepared', '-t', 1, '-f', $script, 'postgres' ],
		2,
		[qr/./],
		[qr/canceling statement due to lock timeout\nDETAIL:  ALTER TABLE waited .* public\.users\. Blocked by PID $reader_pid /],
		'a lock timeout of a prepared statement');
	seen($node);
};

# As after any function that says SET.
subtest 'what the user sets inside stays set' => sub {
	($out, $err) = run_script(
		$node, q{
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
	is(seen($node), '5s', 'SET inside applies at once');
	is($out, "5s\n6s\n5s", 'SET inside is kept, and undone with its transaction');
};

subtest 'ALTER TABLE in a function called by ALTER TABLE' => sub {
	($out, $err) = run_script($node, "SET lock_timeout = '1h';"
		  . alter_around('alter_inside', 'ALTER TABLE other ALTER id TYPE int USING probe(id)')
		  . '; SHOW lock_timeout');
	is($err, '', 'ALTER TABLE in a function called by ALTER TABLE');
	is(seen($node), '20ms 20ms 20ms', 'lock_timeout on all levels');
	is($out, '1h', 'restored after both');
};

subtest 'a stricter lock_timeout, set inside' => sub {
	($out, $err) = run_script(
		$node, "SET lock_timeout = '1h';"
		  . alter_around('alter_inside',
			"SET LOCAL lock_timeout = ''3ms''; ALTER TABLE other ALTER id TYPE int USING probe(id)")
		  . '; SHOW lock_timeout');
	is(seen($node), '20ms 3ms 3ms', 'a stricter setting inside wins inside');
	is($out, '1h', 'and is local to the transaction');
};

subtest 'a lock timeout of the inner statement' => sub {
	($out, $err) =
	  run_script($node, "SET lock_timeout = '1h';" . alter_around('alter_inside', $blocked) . '; SHOW lock_timeout');
	like($err, $timed_out, 'a lock timeout of the inner statement');
	is(() = $err =~ /ALTER TABLE waited/g, 1, 'it is explained once');
	like($err, qr/DETAIL:  ALTER TABLE waited \S+ ms for AccessExclusiveLock on public\.users\. Blocked by PID $reader_pid /,
		'by the inner statement');
	is($out, '1h', 'restored after the inner timeout');
};

subtest 'one that the function catches' => sub {
	($out, $err) =
	  run_script($node, "SET lock_timeout = '1h';" . alter_around('caught_inside', $blocked) . '; SHOW lock_timeout');
	is($err, '', 'the inner timeout can be caught');
	is(seen($node), 'caught 20ms', 'the outer statement is still guarded then');
	is($out, '1h', 'restored after the caught timeout');
};

subtest 'the outer statement is still watched when an inner one with another lock_timeout has ended' => sub {
	($out, $err) = run_script(
		$node, alter_around('alter_inside',
			qq{DO \$do\$ BEGIN
				BEGIN SET LOCAL lock_timeout = ''3ms''; $blocked;
				EXCEPTION WHEN lock_not_available THEN INSERT INTO seen VALUES (''caught''); END;
				LOCK TABLE users IN ACCESS EXCLUSIVE MODE;
			END \$do\$}));
	like($err, qr/${timed_out}DETAIL:  ALTER TABLE waited .* on public\.users\. Blocked by PID $reader_pid .*\nHINT: .*\nCONTEXT:  (waiting for .*\n)?SQL statement "LOCK TABLE users/,
		'a timeout of the outer statement after a caught one of the inner');
	is(seen($node), '', 'and all of it is undone');
};

subtest "an event trigger's function is part of the statement" => sub {
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
		$node, "SET lock_timeout = '1h'; SET my.event = 'on'; ALTER TABLE other ADD COLUMN a int; SHOW lock_timeout;
		 SET my.event = 'blocked'; ALTER TABLE other ADD COLUMN b int; SHOW lock_timeout;
		 SELECT count(*) FROM pg_attribute WHERE attrelid = 'other'::regclass AND attname IN ('a', 'b')");
	is(seen($node), '20ms 20ms', 'lock_timeout in an event trigger');
	like($err, qr/${timed_out}DETAIL:  ALTER TABLE waited .* public\.users\. /, 'a lock timeout in an event trigger');
	is($out, "1h\n1h\n1", 'restored after event triggers');
	$node->safe_psql('postgres', 'DROP EVENT TRIGGER on_ddl');
};

# Neither is a wait of this statement.
subtest 'NOWAIT, and an error that only sounds like a lock timeout, are not explained' => sub {
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
			$node, alter_around('alter_inside',
				qq{DO \$do\$ BEGIN
					BEGIN LOCK TABLE users; EXCEPTION WHEN lock_not_available THEN NULL; END;
					$statement;
				END \$do\$}));
		like($err, qr/ERROR:  55P03: $message/, "$name inside a guarded statement, after a lock timeout");
		unlike($err, qr/DETAIL/, "$name has no DETAIL of ours");
	}
};

# A timer left running wakes a waiter up again and again, and from deadlock_timeout on each awakening
# writes another line of log_lock_waits.
subtest 'no timer is left running' => sub {
	my $log_start = -s $node->logfile;
	my $plain = session($node, 'plain');
	my $plain_pid = $plain->pid;
	$plain->do(q{SET deadlock_timeout = '10ms'});
	$plain->do(q{SET pg_lockguard.ddl_lock_timeout = '3ms'});
	$plain->do("DO \$\$ BEGIN $blocked; EXCEPTION WHEN lock_not_available THEN NULL; END \$\$");
	$plain->do("DO \$\$ BEGIN BEGIN "
		  . alter_around('alter_inside', $blocked)
		  . "; EXCEPTION WHEN lock_not_available THEN NULL; END; END \$\$");
	$plain->do($probe);
	is(seen($node), '3ms', 'guarded after errors that were caught');
	$plain->send('BEGIN; LOCK TABLE users');
	$node->wait_for_log(qr/process $plain_pid still waiting for AccessExclusiveLock/, $log_start);
	$node->safe_psql('postgres', 'SELECT pg_sleep(0.3)');    # a hundred times the timer's period
	my @lines = slurp_file($node->logfile, $log_start) =~ /process $plain_pid still waiting/g;
	is(scalar(@lines), 1, 'no timer is left running after errors that were caught');
	forget_sessions($plain);
};

subtest 'a session that is terminated while its timer runs' => sub {
	for (1 .. 20)
	{
		my $victim = session($node, 'victim');
		$victim->do(q{SET lock_timeout = '1ms'});
		$victim->send('ALTER TABLE probed ALTER id TYPE int USING length(pg_sleep(60)::text)');
		await($node, 'the victim sleeps', q{SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = ?}, $victim->pid);
		forget_sessions($victim);
	}
	is($node->safe_psql('postgres', 'SELECT 1'), '1', 'terminating guarded sessions does no harm');
};

ends_well($node);
done_testing();
