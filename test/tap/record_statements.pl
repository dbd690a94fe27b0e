# pg_lockguard_statements(): which statements of a transaction are kept, for whom they are, and how an
# error names the one that touched the relation first.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use Encode;
use IPC::Run;
use LockGuard;
use LockGuard::Guard;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_guarded_node('statements', q{pg_lockguard.track_statements = 4},
	q{pg_lockguard.worker_interval = 20ms}, q{pg_lockguard.incident_min_wait = 100ms});
$node->safe_psql('postgres', q{
	CREATE ROLE app LOGIN;
	CREATE ROLE reader LOGIN;
	GRANT pg_read_all_stats TO reader;
	GRANT ALL ON users, orders, other TO PUBLIC;
	CREATE TABLE parts (id int) PARTITION BY LIST (id);
	CREATE TABLE part_1 PARTITION OF parts FOR VALUES IN (1);
	CREATE FUNCTION reads_other() RETURNS bigint LANGUAGE plpgsql AS $$
	BEGIN RETURN (SELECT count(*) FROM other); END $$;
	CREATE FUNCTION loops_over_other() RETURNS void LANGUAGE plpgsql AS $$
	DECLARE r record; BEGIN FOR r IN SELECT id FROM other LOOP NULL; END LOOP; END $$;
	CREATE FUNCTION is_one(int) RETURNS bool IMMUTABLE LANGUAGE plpgsql AS $$
	BEGIN RETURN $1 = (SELECT max(id) FROM other); END $$;
	CREATE TABLE audited (id int);
	CREATE TABLE audit (id int);
	CREATE FUNCTION audit_row() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN INSERT INTO audit VALUES (1); RETURN NULL; END $$;
	CREATE TRIGGER audit AFTER INSERT ON audited FOR EACH ROW EXECUTE FUNCTION audit_row();
	CREATE TABLE audited_later (id int);
	CREATE FUNCTION audit_slowly() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN INSERT INTO audit VALUES (2); PERFORM pg_advisory_xact_lock(7); RETURN NULL; END $$;
	CREATE CONSTRAINT TRIGGER audit AFTER INSERT ON audited_later DEFERRABLE INITIALLY DEFERRED
		FOR EACH ROW EXECUTE FUNCTION audit_slowly();
});
my $observer = LockGuard::observer($node);
my $session = session($node, 'app', user => 'app');

# What is kept of a session, a line for each statement: its number, tag, text, and the relations that it
# touched first.
sub kept
{
	my ($whose, $viewer) = @_;
	return join(
		"\n",
		map {
			join(' ', $_->{number} // '-', $_->{command} // '-', "[$_->{query}]",
				"{" . join(',', sort @{ $_->{relations} // [] }) . "}")
		} ($viewer // $observer)
		  ->rows('SELECT * FROM pg_lockguard_statements(?) ORDER BY number', $whose->pid));
}

# kept_after(NAME, EXPECTED, STATEMENT...): runs them in a transaction of the session, looks, rolls back.
sub kept_after
{
	my ($name, $expected, @statements) = @_;
	$session->do($_) for 'BEGIN', @statements;
	is(kept($session), $expected, $name);
	$session->do('ROLLBACK');
	is(kept($session), '', "$name: nothing is left of it");
	return;
}

subtest 'in a transaction block alone' => sub {
	$session->do('SELECT count(*) FROM users');
	is(kept($session), '', 'autocommit');
	$session->do('BEGIN');
	is(kept($session), '', 'BEGIN itself is not kept');
	$session->do('ROLLBACK');
	kept_after('statements, oldest first',
		"1 SELECT [SELECT count(*) FROM users] {public.users}\n"
		  . "2 UPDATE [UPDATE orders SET user_id = 1] {public.orders}",
		'SELECT count(*) FROM users', 'UPDATE orders SET user_id = 1;');
	kept_after('a relation belongs to the first that touched it',
		"1 SELECT [SELECT count(*) FROM users] {public.users}\n2 UPDATE [UPDATE users SET name = name WHERE id = 1] {}",
		'SELECT count(*) FROM users', 'UPDATE users SET name = name WHERE id = 1');
	kept_after('the last four', "2 SELECT [SELECT 2] {}\n3 SELECT [SELECT 3] {}\n4 SELECT [SELECT 4] {}\n5 SELECT [SELECT 5] {}",
		map { "SELECT $_" } 1 .. 5);
	my ($times) = do {
		$session->do('BEGIN');
		$session->do('SELECT 1');
		$observer->rows(q{SELECT began BETWEEN xact_start AND clock_timestamp() AS right
			FROM pg_stat_activity a, pg_lockguard_statements(a.pid) WHERE a.pid = ?}, $session->pid);
	};
	$session->do('ROLLBACK');
	ok($times->{right}, 'since when');
};

subtest 'utility statements' => sub {
	my $owner = session($node, 'owner');
	$owner->do($_)
	  for 'BEGIN', 'LOCK TABLE users IN ACCESS SHARE MODE', 'SET LOCAL work_mem = 100', 'TRUNCATE parts',
	  'ALTER TABLE orders ADD note text';
	is(kept($owner),
		"1 LOCK TABLE [LOCK TABLE users IN ACCESS SHARE MODE] {public.users}\n"
		  . "2 SET [SET LOCAL work_mem = 100] {}\n"
		  . "3 TRUNCATE TABLE [TRUNCATE parts] {public.part_1,public.parts}\n"
		  . "4 ALTER TABLE [ALTER TABLE orders ADD note text] {public.orders}",
		'what they lock');
	$owner->do('ROLLBACK');
	$owner->do($_) for 'BEGIN', 'DECLARE c CURSOR FOR SELECT id FROM users', 'FETCH 2 FROM c',
	  'PREPARE p AS SELECT count(*) FROM orders', 'EXECUTE p';
	is(kept($owner),
		"1 DECLARE CURSOR [DECLARE c CURSOR FOR SELECT id FROM users] {public.users}\n2 FETCH [FETCH 2 FROM c] {}\n"
		  . "3 PREPARE [PREPARE p AS SELECT count(*) FROM orders] {}\n4 EXECUTE [EXECUTE p] {public.orders}",
		'cursors and prepared statements, each once');
	$owner->do('ROLLBACK');
	$owner->do($_) for 'BEGIN', 'EXPLAIN SELECT FROM users', 'DO $$BEGIN UPDATE orders SET user_id = 1; LOCK other; END$$';
	is(kept($owner),
		"1 EXPLAIN [EXPLAIN SELECT FROM users] {public.users}\n"
		  . "2 DO [DO \$\$BEGIN UPDATE orders SET user_id = 1; LOCK other; END\$\$] {public.orders,public.other}",
		'what runs inside counts as touched by it');
	$owner->do('ROLLBACK');
	$owner->do('CREATE SEQUENCE numbers');
	$owner->do($_) for 'BEGIN', q{SELECT nextval('numbers')}, 'LOCK TABLE users';
	is(kept($owner), "1 SELECT [SELECT nextval('numbers')] {}\n2 LOCK TABLE [LOCK TABLE users] {public.users}",
		'what something else has locked before');
	$owner->do('ROLLBACK');
	forget_sessions($owner);
};

subtest 'savepoints, and errors' => sub {
	kept_after('a lock that was given back is touched by whoever takes it again',
		"1 SELECT [SELECT count(*) FROM users] {public.users}\n2 SELECT [SELECT count(*) FROM orders] {}\n"
		  . "3 SELECT [SELECT 3] {}\n4 SELECT [SELECT id FROM orders] {public.orders}",
		'SELECT count(*) FROM users', 'SAVEPOINT a', 'SELECT count(*) FROM orders',
		'ROLLBACK TO a', 'SELECT 3', 'SELECT id FROM orders');
	kept_after('a savepoint that was released keeps its locks, until an outer one is rolled back',
		"1 SELECT [SELECT 1 FROM users] {}\n2 SELECT [SELECT 2 FROM orders] {}\n3 SELECT [SELECT 3 FROM orders] {public.orders}",
		'SAVEPOINT a', 'SELECT 1 FROM users', 'SAVEPOINT b', 'SELECT 2 FROM orders', 'RELEASE b',
		'ROLLBACK TO a', 'SELECT 3 FROM orders');
	kept_after('released, and not rolled back', "1 SELECT [SELECT 2 FROM orders] {public.orders}\n2 SELECT [SELECT 3 FROM orders] {}",
		'SAVEPOINT a', 'SELECT 2 FROM orders', 'RELEASE a', 'SAVEPOINT b', 'ROLLBACK TO b', 'SELECT 3 FROM orders');
	$session->do($_) for 'BEGIN', 'SAVEPOINT a';
	ok(!eval { $session->do('SELECT id / 0 FROM users'); 1 }, 'a statement fails');
	$session->do($_) for 'ROLLBACK TO a', 'SELECT 2';
	is(kept($session), "1 SELECT [SELECT id / 0 FROM users] {}\n2 SELECT [SELECT 2] {}", 'it was a statement all the same');
	ok(!eval { $session->do('SELECT id / 0 FROM users'); 1 }, 'the transaction fails');
	ok(!eval { $session->do('SELECT 3'); 1 }, 'and refuses the next');
	like(kept($session), qr{\n3 SELECT \[SELECT id / 0 FROM users\] \{\}\z}, 'which is not kept');
	$session->do('ROLLBACK');
	kept_after('inside an exception block', "1 DO [DO \$\$BEGIN BEGIN PERFORM reads_other(); RAISE 'x'; EXCEPTION WHEN OTHERS THEN NULL; END; END\$\$] {}\n2 SELECT [SELECT 2] {}",
		q{DO $$BEGIN BEGIN PERFORM reads_other(); RAISE 'x'; EXCEPTION WHEN OTHERS THEN NULL; END; END$$}, 'SELECT 2');
};

subtest 'functions and triggers' => sub {
	kept_after('the calling statement alone', "1 SELECT [SELECT reads_other()] {public.other}\n2 SELECT [SELECT loops_over_other()] {}",
		'SELECT reads_other()', 'SELECT loops_over_other()');
	kept_after('a function that is run while the statement is planned', "1 SELECT [SELECT 1 WHERE is_one(1)] {}",
		'SELECT 1 WHERE is_one(1)');
	$node->safe_psql('postgres', 'GRANT ALL ON audit, audited, audited_later TO PUBLIC');
	kept_after('a trigger', "1 INSERT [INSERT INTO audited VALUES (1)] {public.audit,public.audited}",
		'INSERT INTO audited VALUES (1)');
	# One that is deferred runs at COMMIT, outside of any statement.
	my $holder = session($node, 'holder');
	$holder->do($_) for 'BEGIN', 'SELECT pg_advisory_xact_lock(7)';
	$session->do($_) for 'BEGIN', 'INSERT INTO audited_later VALUES (1)';
	$session->send('COMMIT');
	await($node, 'the deferred trigger waits', q{SELECT wait_event = 'advisory' FROM pg_stat_activity WHERE pid = ?}, $session->pid);
	is(kept($session), "1 INSERT [INSERT INTO audited_later VALUES (1)] {public.audited_later}", 'a deferred trigger');
	$holder->do('COMMIT');
	is(await_end($session), undef, 'COMMIT');
	is(kept($session), '', 'nothing is left after COMMIT');
	forget_sessions($holder);
};

subtest 'both protocols' => sub {
	$session->do('BEGIN');
	my $statement = $session->{dbh}->prepare('SELECT name FROM users WHERE id = ?', { pg_server_prepare => 1 });
	$statement->execute($_) for 1, 2;
	$statement->finish;
	is(kept($session), join("\n", "1 SELECT [SELECT name FROM users WHERE id = \$1] {public.users}",
			"2 SELECT [SELECT name FROM users WHERE id = \$1] {}"), 'extended: each execution');
	$session->do('ROLLBACK');
	$session->do('BEGIN; SELECT 1 FROM users; /* b */ SELECT 2 FROM orders');
	# From 18 on the parser has a statement begin with its first word.
	my $comment = $node->pg_version >= 18 ? '' : '/* b */ ';
	is(kept($session), "1 SELECT [SELECT 1 FROM users] {public.users}\n2 SELECT [${comment}SELECT 2 FROM orders] {public.orders}",
		'simple: each of a string');
	$session->do('ROLLBACK');
	$session->send('SELECT 1 FROM users; SELECT pg_sleep(3600)');
	await($node, 'the string is at its second statement', 'SELECT count(*) = 2 FROM pg_lockguard_statements(?)', $session->pid);
	is(kept($session), "1 SELECT [SELECT 1 FROM users] {public.users}\n2 SELECT [SELECT pg_sleep(3600)] {}",
		'the implicit transaction of a string');
	$observer->value('SELECT pg_cancel_backend(?)', $session->pid);
	like(await_end($session), qr/canceling statement/, 'cancelled');
	is(kept($session), '', 'nothing is left after an error');
};

subtest 'texts are cut between characters' => sub {
	for my $case ([ 'ASCII', 'x' ], [ 'two bytes', "\x{e9}" ], [ 'three bytes', "\x{20ac}" ], [ 'four bytes', "\x{1f512}" ])
	{
		my ($name, $character) = @$case;
		for my $shift (0 .. 3)
		{
			my $text = 'SELECT ' . ('1' x ($shift + 1)) . " /* " . ($character x 300) . ' */';
			my $bytes = Encode::encode('UTF-8', $text);
			my $expected = substr($bytes, 0, 200);
			$expected = Encode::encode('UTF-8', Encode::decode('UTF-8', $expected, Encode::FB_QUIET));
			$session->do('BEGIN');
			$session->do($text);
			my ($row) = $observer->rows('SELECT query, octet_length(query) AS size FROM pg_lockguard_statements(?)', $session->pid);
			$session->do('ROLLBACK');
			my $query = $row->{query};
			$query = Encode::encode('UTF-8', $query) if utf8::is_utf8($query);
			is($query, $expected, "$name, shifted by $shift");
			cmp_ok($row->{size}, '>=', 197, "$name, shifted by $shift: no more than needed is cut");
		}
	}
	my $exact = 'SELECT ' . '1' x 193;
	kept_after('one of 200 bytes is whole', "1 SELECT [$exact] {}", $exact);
	my $long = 'r' . 'é' x 31;
	$node->safe_psql('postgres', qq{CREATE TABLE "$long" (id int); GRANT ALL ON "$long" TO PUBLIC});
	$session->do(qq{SET client_encoding = 'UTF8'});
	$session->do('BEGIN');
	$session->do(Encode::decode('UTF-8', qq{SELECT id FROM "$long"}));
	is($observer->value(q{SELECT relations = ARRAY[(SELECT oid::regclass::text FROM pg_class WHERE relname LIKE 'ré%')]
		OR relations[1] LIKE 'public.%' FROM pg_lockguard_statements(?)}, $session->pid), 1, 'a name of 63 bytes');
	$session->do('ROLLBACK');
};

subtest 'another database' => sub {
	$node->safe_psql('postgres', q{CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'});
	$node->safe_psql('latin', q{CREATE TABLE secret (id int)});
	my $there = session($node, 'there', dbname => 'latin');
	$there->do(q{SET client_encoding = 'UTF8'});
	$there->do('BEGIN');
	$there->do(q{SELECT 'éé' FROM secret});
	my ($row) = $observer->rows('SELECT query, relations::text AS relations FROM pg_lockguard_statements(?)', $there->pid);
	is($row->{query}, q{SELECT '??' FROM secret}, 'text in another encoding is made valid');
	unlike($row->{relations}, qr/secret/, 'a name of another database is not shown');
	like($row->{relations}, qr/relation \d+ of database \d+/, 'but its OID');
	forget_sessions($there);
};

subtest 'who may see it' => sub {
	my %viewer = map { $_ => session($node, "as_$_", user => $_) } qw(weak reader app);
	$session->do($_) for 'BEGIN', 'SELECT 1 FROM users', 'SELECT 2';
	is(kept($session, $viewer{weak}), '- - [<insufficient privilege>] {}', 'another role: that there are some');
	my $whole = "1 SELECT [SELECT 1 FROM users] {public.users}\n2 SELECT [SELECT 2] {}";
	is(kept($session, $viewer{reader}), $whole, 'pg_read_all_stats');
	is(kept($session, $viewer{app}), $whole, 'the role itself');
	$session->do('ROLLBACK');
	$observer->do('SET track_activities = off');
	$observer->do($_) for 'BEGIN', 'SELECT 1 FROM users';
	is(kept($observer), '', 'nothing while track_activities is off');
	$observer->do('ROLLBACK');
	$observer->do('RESET track_activities');
	is_deeply([ $observer->rows('SELECT * FROM pg_lockguard_statements(?)', $_) ], [], "no session: $_") for -1, 0, 2147483647;
	is_deeply([ $observer->rows('SELECT * FROM pg_lockguard_statements(NULL)') ], [], 'no session: null');
	forget_sessions(values %viewer);
};

subtest 'PREPARE TRANSACTION, COMMIT AND CHAIN' => sub {
	$session->do($_) for 'BEGIN', 'SELECT 1 FROM users', q{PREPARE TRANSACTION 'p'};
	is(kept($session), '', 'what was prepared has left its session');
	$session->do($_) for 'BEGIN', 'SELECT 2';
	is(kept($session), '1 SELECT [SELECT 2] {}', 'the next begins anew');
	$session->do($_) for 'COMMIT AND CHAIN', 'SELECT 3';
	is(kept($session), '1 SELECT [SELECT 3] {}', 'and so does the one after AND CHAIN');
	$session->do($_) for 'ROLLBACK', q{ROLLBACK PREPARED 'p'};
};

subtest 'the DETAIL of a guarded statement' => sub {
	$session->do($_) for 'BEGIN', 'UPDATE users SET name = name WHERE id = 1', 'SELECT 2', 'SELECT 3';
	my $pid = $session->pid;
	like(detail_of($node, $blocked),
		qr/Blocked by PID $pid \(app "app", user app, idle in transaction for \S+ m?s\): SELECT 3; it touched the relation first \S+ m?s ago: UPDATE users SET name = name WHERE id = 1\n/,
		'names the statement that touched the relation first');
	$session->do("SELECT $_") for 4 .. 6;
	like(detail_of($node, $blocked), qr/: SELECT 6\n/, 'says nothing where that statement is not kept any more');
	$session->do('ROLLBACK');
	$session->do($_) for 'BEGIN', 'SELECT 1 FROM users';
	like(detail_of($node, $blocked), qr/: SELECT 1 FROM users\n/, 'or is the one that is named anyway');
	$session->do('ROLLBACK');
	$node->safe_psql('postgres', 'CREATE TABLE owned (id int); ALTER TABLE owned OWNER TO weak; GRANT ALL ON owned TO PUBLIC');
	$session->do($_) for 'BEGIN', 'SELECT 1 FROM owned', 'SELECT 2';
	my $detail = detail_of($node, 'ALTER TABLE owned ADD n int', connstr => $node->connstr('postgres') . ' user=weak');
	like($detail, qr/Blocked by PID $pid \(app "app", user app\)\./, 'masked as the query is');
	unlike($detail, qr/SELECT|touched/, 'whole');
	$session->do('ROLLBACK');
};

subtest 'an incident' => sub {
	my $plain = session($node, 'plain', user => 'weak');
	my $waiter = session($node, 'waiter');
	$session->do($_) for 'BEGIN', 'SELECT 1', 'SELECT 2 FROM users', 'SELECT 3';
	$waiter->do('SET pg_lockguard.ddl_mode = off');
	$waiter->send($blocked);
	my $open = q{FROM pg_lockguard_incidents WHERE root_pid = ? AND ended IS NULL};
	await($node, 'it is an incident', "SELECT count(*) = 1 $open", $session->pid);
	my $columns = q{root_first_statement, array_to_string(root_statements, '; ') AS all};
	is_deeply([ $observer->rows("SELECT $columns $open", $session->pid) ],
		[ { root_first_statement => 'SELECT 2 FROM users', all => 'SELECT 1; SELECT 2 FROM users; SELECT 3' } ],
		'keeps the statements of its root, and which of them touched the relation first');
	is_deeply([ $plain->rows("SELECT $columns $open", $session->pid) ],
		[ { root_first_statement => undef, all => undef } ], 'masked as the query is');
	$observer->value('SELECT pg_cancel_backend(?)', $waiter->pid);
	await_end($waiter);
	$session->do('ROLLBACK');
	forget_sessions($plain, $waiter);
};

subtest 'many relations' => sub {
	$node->safe_psql('postgres', q{DO $$BEGIN FOR i IN 1 .. 70 LOOP EXECUTE format('CREATE TABLE many_%s (); GRANT ALL ON many_%s TO app', i, i); END LOOP; END$$});
	$session->do('BEGIN');
	$session->do("SELECT FROM many_$_") for 1 .. 70;
	is($observer->value('SELECT string_agg(number || array_to_string(relations, $$ $$), $$,$$ ORDER BY number) FROM pg_lockguard_statements(?)', $session->pid),
		'67,68,69,70', 'of no more than 64 relations it is known who touched them first');
	$session->do('ROLLBACK');
	kept_after('and that ends with the transaction', '1 SELECT [SELECT FROM many_70] {public.many_70}', 'SELECT FROM many_70');
};

subtest 'readers and writers at once' => sub {
	# 200 bytes of one letter each: whoever reads while it is written would see two.
	my $script = $node->basedir . '/letters.sql';
	append_to_file($script, "BEGIN;\n" . join('', map { "SELECT /*" . ($_ x 300) . "*/ 1;\n" } 'a' .. 'j') . "COMMIT;\n");
	local $ENV{PGAPPNAME} = 'load';
	my $load = IPC::Run::start([ 'pgbench', '-n', '-h', $node->host, '-p', $node->port, '-c', 4, '-T', 5, '-f', $script, 'postgres' ],
		'>', \my $out, '2>', \my $err);
	my ($seen, $torn) = (0, 0);
	while ($seen < 500 && $load->pumpable)
	{
		$load->pump_nb;
		for my $row ($observer->rows(q{SELECT s.* FROM pg_stat_activity a, pg_lockguard_statements(a.pid) s WHERE a.application_name = 'load'}))
		{
			$seen++;
			$torn++ if $row->{query} !~ m{\ASELECT /\*([a-j])\1{190}\z} || $row->{number} < 1 || $row->{number} > 10;
		}
	}
	my $ends_well = $load->finish;
	ok($ends_well, 'the load runs') or diag($out, $err);
	is($torn, 0, 'no statement is torn');
	cmp_ok($seen, '>', 0, 'statements were seen');
};

subtest 'the end of a session' => sub {
	my $victim = session($node, 'victim');
	my $pid = $victim->pid;
	$victim->do($_) for 'BEGIN', 'SELECT 1 FROM users';
	is($observer->value('SELECT count(*) FROM pg_lockguard_statements(?)', $pid), 1, 'it has one');
	forget_sessions($victim);
	is($observer->value('SELECT count(*) FROM pg_lockguard_statements(?)', $pid), 0, 'none when it has gone');
	my @later = map { session($node, "later_$_") } 1 .. 5;
	$_->do('BEGIN') for @later;
	is(kept($_), '', 'nor has one that comes after it') for @later;
	forget_sessions(@later);
};

forget_sessions();
LockGuard::dismiss_observer($node);

subtest 'a session that is killed' => sub {
	$node->append_conf('postgresql.conf', 'restart_after_crash = on');
	$node->restart;
	my $victim = session($node, 'victim');
	$victim->do($_) for 'BEGIN', 'SELECT 1 FROM users';
	my $pid = $victim->pid;
	LockGuard::dismiss_observer($node);
	kill 'KILL', $pid;
	$node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $pid")
	  or die 'the server does not come back';
	is($node->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity a, pg_lockguard_statements(a.pid)"), 0,
		'the shared memory is empty after the crash');
	is($node->safe_psql('postgres', 'BEGIN; SELECT count(query) FROM pg_lockguard_statements(pg_backend_pid()); COMMIT'), 1,
		'and in use');
};
$node->stop('immediate');

subtest 'where none are kept' => sub {
	$node->adjust_conf('postgresql.conf', 'pg_lockguard.track_statements', '0');
	$node->start;
	my ($status, $out, $err) = $node->psql('postgres', '\set VERBOSITY verbose' . "\nSELECT * FROM pg_lockguard_statements(1)");
	like($err, qr/ERROR:  55000: statements are not kept\nDETAIL:  pg_lockguard.track_statements is 0.\nHINT:  Set pg_lockguard.track_statements to 1 to 16 and restart the server./,
		'the error says how to change that');
	($status, $out, $err) = $node->psql('postgres', 'SET pg_lockguard.track_statements = 3');
	like($err, qr/cannot be changed without restarting the server/, 'not while the server runs');
	my $holder = session($node, 'holder');
	$holder->do($_) for 'BEGIN', 'SELECT 1 FROM users', 'SELECT 2';
	like(detail_of($node, $blocked), qr/: SELECT 2\n/, 'errors name the last query alone');
	forget_sessions($holder);
	LockGuard::dismiss_observer($node);
	$node->adjust_conf('postgresql.conf', 'pg_lockguard.track_statements', '17');
	my $size = -s $node->logfile;
	$node->restart;
	like(slurp_file($node->logfile, $size),
		qr/WARNING:  17 is outside the valid range for parameter "pg_lockguard.track_statements" \(0 .. 16\)/,
		'more than 16 are refused by a warning');
	is($node->safe_psql('postgres', 'SHOW pg_lockguard.track_statements'), '0', 'and none are kept');
};

done_testing();
