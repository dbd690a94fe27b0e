# The boundary between C++ and PostgreSQL: whatever is thrown in the core becomes an ERROR with the
# right SQLSTATE, the session and the server go on, no destructor is skipped, and nothing leaks.
#
# LOCKGUARD_BOUNDARY names the module built from test/boundary (scripts/test builds it).
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $module = $ENV{LOCKGUARD_BOUNDARY}
  or die "set LOCKGUARD_BOUNDARY to test/boundary/lockguard_boundary.so\n";
-e $module or die "$module does not exist\n";

my $node = PostgreSQL::Test::Cluster->new('boundary');
$node->init;
# A crash must show as one, not be mended by a restart.
$node->append_conf('postgresql.conf', 'restart_after_crash = off');
$node->start;

$node->safe_psql(
	'postgres', qq{
	CREATE FUNCTION boundary_throw(text) RETURNS int AS '$module' LANGUAGE c STRICT;
	CREATE FUNCTION boundary_try(text) RETURNS text AS '$module' LANGUAGE c STRICT;
	CREATE FUNCTION boundary_ask_too_much(int8) RETURNS int AS '$module' LANGUAGE c STRICT;
	CREATE FUNCTION boundary_exhaust(int) RETURNS int AS '$module' LANGUAGE c STRICT;
	CREATE FUNCTION boundary_ereport() RETURNS void AS '$module' LANGUAGE c STRICT;
	CREATE FUNCTION boundary_cancelled_subtransaction(text) RETURNS text AS '$module' LANGUAGE c STRICT;
	CREATE FUNCTION boundary_balance() RETURNS text AS '$module' LANGUAGE c STRICT;
});
my $postmaster = slurp_file($node->data_dir . '/postmaster.pid');
$postmaster =~ s/\n.*//s;

# Runs the statement in a session that has asked for its pid before and asks again afterwards.
# Returns the error as psql shows it with VERBOSITY verbose, and fails unless the session went on.
sub error_of
{
	my ($statement, $name) = @_;
	my ($out, $err);
	$node->psql(
		'postgres', qq{
		\\set VERBOSITY verbose
		SELECT pg_backend_pid();
		$statement;
		SELECT pg_backend_pid();
		SELECT boundary_balance();
	}, stdout => \$out, stderr => \$err, on_error_stop => 0);
	my ($before, $after, $balance) = split /\n/, $out;
	is($after, $before, "$name: the session goes on");
	like($balance, qr/alive 0, .*in flight 0$/, "$name: every destructor ran, no exception is left");
	unlike($balance, qr/^made 0,/, "$name: there was something to destroy");
	return $err;
}

subtest 'what the core throws' => sub {
	for my $case (
		[ 'bad_alloc', '53200', 'out of memory' ],
		[ 'bad_array_new_length', '53200', 'out of memory' ],
		[ 'length_error', 'XX000', 'pg_lockguard failed: a length error' ],
		[ 'runtime_error', 'XX000', 'pg_lockguard failed: a runtime error' ],
		[ 'long_message', 'XX000', 'pg_lockguard failed: ' . 'm' x 255 ],
		[ 'at', 'XX000', 'pg_lockguard failed: vector::_M_range_check: __n (which is 1) >= this->size() (which is 0)' ],
		[ 'int', 'XX000', 'pg_lockguard failed: unknown C++ exception' ],
		[ 'struct', 'XX000', 'pg_lockguard failed: unknown C++ exception' ])
	{
		my ($kind, $sqlstate, $message) = @$case;
		my $error = error_of("SELECT boundary_throw('$kind')", $kind);
		like($error, qr/ERROR:  \Q$sqlstate\E: \Q$message\E$/m, "$kind: SQLSTATE and message");
	}
};

subtest 'the form that notes the failure instead of raising it' => sub {
	is( $node->safe_psql('postgres', q{SELECT boundary_try('bad_alloc')}),
		'result 0, failed 1, out of memory 1: ',
		'try_core: out of memory');
	is( $node->safe_psql('postgres', q{SELECT boundary_try('runtime_error')}),
		'result 0, failed 1, out of memory 0: a runtime error',
		'try_core: another exception');
};

# Out of memory in earnest: more than there are addresses, more than a vector can hold, and the
# last byte of a backend whose address space is limited.
subtest 'out of memory in earnest' => sub {
	my $error = error_of('SELECT boundary_ask_too_much(1::int8 << 47)', 'all addresses');
	like($error, qr/ERROR:  53200: out of memory$/m, 'all addresses: SQLSTATE and message');
	$error = error_of('SELECT boundary_ask_too_much(-1)', 'more than a vector can hold');
	like($error, qr/ERROR:  XX000: pg_lockguard failed: vector::reserve$/m,
		'more than a vector can hold: SQLSTATE and message');
	$error = error_of('SELECT boundary_exhaust(64)', 'memory used up');
	like($error, qr/ERROR:  53200: out of memory$/m, 'memory used up: SQLSTATE and message');
	like($error, qr/DETAIL:  pg_lockguard could not allocate its working memory\.$/m,
		'memory used up: detail');
	$error = error_of(
		"SELECT boundary_exhaust(64);\nSELECT boundary_exhaust(64);\nSELECT boundary_exhaust(64)",
		'memory used up three times');
	my @times = $error =~ /ERROR:  53200: /g;
	is(scalar @times, 3, 'memory used up three times: SQLSTATE each time');
};

# PostgreSQL's own error passes through unchanged, and the clean-up runs once.
subtest "an error of PostgreSQL's own" => sub {
	my $error = error_of('SELECT boundary_ereport()', 'ereport');
	like(
		$error,
		qr/ERROR:  55P03: message 41\nDETAIL:  detail 41\nHINT:  hint 41\n/,
		'ereport: unchanged');
	is( $node->safe_psql(
			'postgres', q{
			DO $$ BEGIN PERFORM boundary_ereport(); EXCEPTION WHEN lock_not_available THEN END $$;
			SELECT boundary_balance();
		}),
		'made 2, alive 0, cleanups 1, in flight 0',
		'ereport: one clean-up');
};

# With client_min_messages = debug5 PostgreSQL tells of each subtransaction as it begins and as it is cleaned up, and looks
# for interrupts after each message: also between the abort of a subtransaction and its end. An error from there would
# leave the session in a subtransaction that nobody ends: the next ROLLBACK would end the session.
subtest 'a cancel that comes while a subtransaction begins or ends' => sub {
	for my $level (qw(notice debug5))
	{
		for my $how (qw(begins kept undone fails))
		{
			my ($out, $err);
			my $block = "BEGIN PERFORM boundary_cancelled_subtransaction('$how'); EXCEPTION WHEN query_canceled THEN RAISE 'caught'; END";
			$node->psql('postgres', qq{
				\\set VERBOSITY verbose
				SELECT boundary_throw('none');
				SET client_min_messages = $level;
				SELECT boundary_cancelled_subtransaction('$how');
				DO \$\$ $block \$\$;
				RESET client_min_messages;
				ROLLBACK;
				SELECT 'the session goes on';
			}, stdout => \$out, stderr => \$err, on_error_stop => 0);
			like($err, qr/^psql:.*ERROR:  57014: canceling statement due to user request$/m, "$how, $level: it is cancelled");
			like($err, qr/^psql:.*ERROR:  P0001: caught$/m, "$how, $level: and that can be caught");
			unlike($err, qr/AbortSubTransaction while|unexpected state/, "$how, $level: its subtransaction is cleaned up");
			like($out, qr/^the session goes on$/m, "$how, $level: and the session goes on");
		}
	}
};

# 100 000 times each in one session: errors of each kind are caught in PL/pgSQL, and the backend
# stays as large as it was. A leak of as little as 100 bytes each time would come to 10 MB.
subtest 'errors without number leave nothing behind' => sub {
	my $growth = $node->safe_psql(
		'postgres', q{
		CREATE TYPE size AS (contexts int8, resident int8);
		CREATE FUNCTION backend_size() RETURNS size LANGUAGE sql AS $$
			SELECT (SELECT sum(total_bytes) FROM pg_backend_memory_contexts),
				substring(pg_read_file('/proc/self/status') FROM 'VmRSS:\s+(\d+) kB')::int8 * 1024
		$$;
		CREATE FUNCTION fail_often(statement text, expected text, times int) RETURNS int LANGUAGE plpgsql AS $$
		DECLARE
			n int := 0;
			seen text;
			detail text;
			hint text;
		BEGIN
			FOR i IN 1 .. times LOOP
				BEGIN
					EXECUTE statement;
				EXCEPTION WHEN OTHERS THEN
					GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
					seen := concat_ws('|', SQLSTATE, SQLERRM, detail, hint);
					IF seen = expected THEN
						n := n + 1;
					END IF;
				END;
			END LOOP;
			RETURN n;
		END $$;
		CREATE TABLE measured (statement text, times int, contexts int8, resident int8);

		-- Each round in one session, and in one statement of its own; a first, shorter one pays for
		-- caches, plans and the heap's own slack.
		CREATE PROCEDURE measure(statement text, expected text) LANGUAGE plpgsql AS $$
		DECLARE
			before size;
			after size;
			n int;
		BEGIN
			PERFORM fail_often(statement, expected, 10000);
			COMMIT;
			before := backend_size();
			COMMIT;
			before := backend_size();
			COMMIT;
			n := fail_often(statement, expected, 100000);
			COMMIT;
			after := backend_size();
			INSERT INTO measured
				VALUES (statement, n, after.contexts - before.contexts, after.resident - before.resident);
		END $$;
		CALL measure('SELECT boundary_ereport()', '55P03|message 41|detail 41|hint 41');
		CALL measure($$SELECT boundary_throw('runtime_error')$$,
			'XX000|pg_lockguard failed: a runtime error||This is a defect in pg_lockguard; please report it.');
		CALL measure($$SELECT boundary_throw('bad_alloc')$$,
			'53200|out of memory|pg_lockguard could not allocate its working memory.|');
		SELECT statement, times, contexts, resident FROM measured;
		SELECT boundary_balance();
	});
	my @rows = split /\n/, $growth;
	my $balance = pop @rows;
	is(scalar @rows, 3, 'three measurements');
	for my $row (@rows)
	{
		my ($statement, $times, $contexts, $resident) = split /\|/, $row;
		is($times, 100_000, "$statement: each time the same error");
		cmp_ok($contexts, '<=', 65_536, "$statement: memory contexts are as large as before");
		cmp_ok($resident, '<=', 2_097_152, "$statement: the process is as large as before");
	}
	like($balance, qr/alive 0, cleanups 110000, in flight 0$/,
		'330 000 errors: every destructor and every clean-up ran');
};

my $now = slurp_file($node->data_dir . '/postmaster.pid');
$now =~ s/\n.*//s;
is($now, $postmaster, 'the server is the same as at the beginning');
is($node->safe_psql('postgres', 'SELECT 1'), '1', 'and it answers');
my $log = slurp_file($node->logfile);
unlike($log, qr/PANIC|FATAL|TRAP|terminated by signal|terminating any other/,
	'no crash in the server log');

$node->stop;
done_testing();
