# Statements inside of a guarded one: functions and event triggers that alter tables in turn, and what they
# raise.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LockGuard;
use LockGuard::Guard;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_guarded_node('nested');
my ($out, $err);
my $reader = hold($node, 'reader', 'BEGIN; SELECT count(*) FROM users');
my $reader_pid = $reader->pid;

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

ends_well($node);
done_testing();
