# A preview keeps nobody waiting, leaves nothing behind, and swallows nothing that is sent to its
# session; where it can't be done, it says so.
#
# LOCKGUARD_BOUNDARY names the module built from test/boundary (scripts/test builds it): it has a function that puts a hook.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LockGuard;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $module = $ENV{LOCKGUARD_BOUNDARY}
  or die "set LOCKGUARD_BOUNDARY to test/boundary/lockguard_boundary.so\n";

my $node = start_node(
	'safety',
	q{shared_preload_libraries = 'pg_lockguard'},
	q{deadlock_timeout = '1s'},
	q{pg_lockguard.preview_max_hold = '10s'},
	q{max_prepared_transactions = 5},
	q{max_locks_per_transaction = 512});
$node->safe_psql(
	'postgres', q{
	CREATE TABLE users (id int PRIMARY KEY, n int);
	INSERT INTO users SELECT i, i FROM generate_series(1, 1000) i;
	CREATE TABLE orders (id serial PRIMARY KEY, user_id int REFERENCES users);
	INSERT INTO orders (user_id) SELECT i FROM generate_series(1, 1000) i;
	CREATE TABLE "Odd ""name" (id int);
	CREATE TABLE done (what text);
});

my $session = session($node, 'previewer');
my $other = session($node, 'other');

# The rows of a preview, each as a line.
sub preview
{
	my ($statement, @more) = @_;
	return [ map { join ' | ', map { $_ // '-' } @$_{qw(action relation lock_mode stops complete)} }
		  $session->rows('SELECT * FROM ddl_preview(?' . (@more ? ', ?' : '') . ')', $statement, @more) ];
}

# SQLSTATE and message of one that fails.
sub failure
{
	my ($statement, $in) = @_;
	$in //= $session;
	my $error = eval { $in->rows('SELECT * FROM ddl_preview(?)', $statement); undef } // $@;
	return defined $error && $error ? $in->sqlstate . ' ' . ($error =~ s/.*?ERROR:\s*//sr =~ s/\n.*//sr =~ s/ at \S+ line \d+\.$//r) : 'no error';
}

sub locks_left
{
	return $session->value(q{SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND mode = 'AccessExclusiveLock'});
}

my $rewrite = 'ALTER TABLE users ALTER n TYPE bigint';
my $light = 'ALTER TABLE users ADD x int';
my @rewrite_rows = ('lock | public.users | AccessExclusiveLock | readers and writers | 0',
	'rewrite | public.users | - | readers and writers | 0');
my @light_rows = ('lock | public.users | AccessExclusiveLock | readers and writers | 1',
	'catalog only | public.users | - | readers and writers | 1');

subtest 'a lock that is held is not asked for' => sub {
	$other->do('BEGIN');
	$other->do('SELECT count(*) FROM users');
	my ($row, @more) = $session->rows('SELECT * FROM ddl_preview(?)', $light);
	is(scalar @more, 0, 'it is the only step');
	is_deeply([ @$row{qw(step action relation lock_mode stops complete)} ],
		[ 1, 'lock', 'public.users', 'AccessExclusiveLock', 'readers and writers', 0 ], 'the lock');
	is_deeply($row->{held_by}, [ $other->pid ], 'who holds it');
	like($row->{longest_idle}, qr/^00:00:0/, 'how long he has been idle');
	like($row->{longest_xact}, qr/^00:00:0/, 'how old his transaction is');
	like($row->{advice}, qr/^A lock is not free/, 'it says so');
	is($session->value(q{SELECT count(*) FROM ddl_preview('CREATE INDEX ON users (n)') WHERE held_by <> '{}'}), 0,
		'a reader is not in the way of CREATE INDEX');
	$other->do('COMMIT');
	is_deeply(preview($light), \@light_rows, 'when it is free, the preview goes on');
};

subtest 'a lock that turns up inside is waited for a moment only' => sub {
	$other->do('BEGIN');
	$other->do('SELECT count(*) FROM orders');
	# A column that a foreign key refers to.
	my @rows = $session->rows(q{SELECT * FROM ddl_preview('ALTER TABLE users ALTER id TYPE bigint')});
	my ($blocked) = grep { $_->{relation} eq 'public.orders' } @rows;
	ok($blocked, 'the other table is a step') or return;
	is_deeply($blocked->{held_by}, [ $other->pid ], 'with who holds it');
	is($rows[-1]{complete}, 0, 'the preview is not complete');
	is((grep { $_->{action} ne 'lock' } @rows), 0, 'and does not guess');
	$other->do('COMMIT');
	is(locks_left(), 0, 'no lock is left');
};

subtest 'a prepared transaction is 0' => sub {
	$other->do('BEGIN');
	$other->do('SELECT count(*) FROM users');
	$other->do(q{PREPARE TRANSACTION 'prepared'});
	my ($row) = $session->rows('SELECT * FROM ddl_preview(?)', $light);
	is_deeply($row->{held_by}, [0], 'in held_by');
	like($row->{longest_xact}, qr/^00:00:0/, 'with its age');
	$other->do(q{ROLLBACK PREPARED 'prepared'});
};

subtest 'nothing stays' => sub {
	my $state = q{SELECT string_agg(c::text, ' ' ORDER BY c::text) FROM (
		SELECT (relname, relfilenode, reltuples) FROM pg_class WHERE relnamespace = 'public'::regnamespace
		UNION ALL SELECT (relname, seq_scan, n_tup_ins) FROM pg_stat_user_tables
		UNION ALL SELECT ('seq', last_value, is_called::int) FROM orders_id_seq) c};
	$other->do('SELECT pg_stat_force_next_flush()');
	# What this session has done before is flushed first.
	$session->do('SELECT pg_stat_force_next_flush()');
	my $before = $session->value($state);
	preview($_)
	  for $rewrite, $light, 'DROP TABLE orders', 'ALTER TABLE orders ADD a serial',
	  'CREATE INDEX ON users (n)', 'CREATE TABLE fresh AS SELECT nextval(\'orders_id_seq\') FROM users',
	  'ALTER TABLE users ALTER n SET NOT NULL', 'CREATE SEQUENCE fresh', 'ALTER SEQUENCE orders_id_seq RESTART 1',
	  'CLUSTER users USING users_pkey', 'CREATE SCHEMA fresh CREATE TABLE one (id int)';
	$session->do('SELECT pg_stat_force_next_flush()');
	is($session->value($state), $before, 'files, statistics, sequences are as before');
	is(locks_left(), 0, 'no lock');
	# The server counts a scan of the new, empty file, whether that is rolled back or not.
	preview('TRUNCATE orders RESTART IDENTITY');
	is($session->value('SELECT last_value FROM orders_id_seq'), 1000, 'the sequence also after TRUNCATE');
	is($session->value('SHOW log_min_messages'), 'warning', 'log_min_messages');
	is($session->value('SELECT count(*) FROM pg_class WHERE relname LIKE \'fresh%\''), 0, 'nothing new');
};

subtest 'in a transaction block' => sub {
	$session->do('BEGIN');
	$session->do('CREATE TABLE mine AS SELECT 1 AS id');
	is_deeply(preview($rewrite), \@rewrite_rows, 'a preview');
	is(locks_left(), $session->value(q{SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid()
		AND mode = 'AccessExclusiveLock' AND relation >= 'mine'::regclass}), 'gives its locks back at once');
	is_deeply(preview('ALTER TABLE mine ALTER id TYPE bigint'), ['rewrite | public.mine | - | - | 0'],
		'what only this transaction sees keeps nobody out');
	$session->do('ALTER TABLE users ADD y int');
	is_deeply(preview($light), \@light_rows, 'a lock that the transaction has is still one of the statement');
	$session->do('ROLLBACK');
	$session->do('CREATE TEMPORARY TABLE passing AS SELECT 1 AS id');
	is_deeply(preview('ALTER TABLE passing ALTER id TYPE bigint'), [ $session->value(q{
		SELECT 'rewrite | ' || relnamespace::regnamespace || '.passing | - | - | 0' FROM pg_class WHERE relname = 'passing'}) ],
		'likewise a temporary table');
	$session->do('BEGIN');
	is(failure('ALTER TABLE missing ADD x int'), '42P01 relation "missing" does not exist', 'an error');
	eval { $session->do('SELECT 1') };
	is($session->sqlstate, '25P02', 'ends the transaction, as any error');
	$session->do('ROLLBACK');
};

subtest 'in functions' => sub {
	$node->safe_psql('postgres', q{
		CREATE FUNCTION tries(statement text) RETURNS text LANGUAGE plpgsql AS $$
		DECLARE found text;
		BEGIN
			SELECT string_agg(action, ', ' ORDER BY step) INTO found FROM ddl_preview(statement);
			RETURN found;
		EXCEPTION WHEN undefined_table THEN RETURN 'no table';
		END $$});
	is($session->value('SELECT tries(?)', $rewrite), 'lock, rewrite', 'a preview');
	is($session->value('SELECT tries(?)', 'ALTER TABLE missing ADD x int'), 'no table', 'an error that is caught');
	is($session->value('SELECT tries(?)', $rewrite), 'lock, rewrite', 'and another preview');
	is($session->value(q{SELECT count(*) FROM generate_series(1, 50) i, ddl_preview('ALTER TABLE users ADD x' || i || ' int')}),
		100, 'many in one statement');
	is($session->value('SHOW log_min_messages'), 'warning', 'log_min_messages is as before');
};

subtest 'where it can not be done' => sub {
	$session->do('BEGIN READ ONLY');
	is(failure($light), '25006 cannot execute ddl_preview() in a read-only transaction', 'read-only');
	$session->do('ROLLBACK');
	is(failure(''), '42601 there is no statement to preview', 'empty');
	is(failure(' -- nothing'), '42601 there is no statement to preview', 'a comment');
	is(failure("$light; $rewrite"), '42601 ddl_preview() previews one statement at a time', 'two statements');
	is(failure('ALTER TABL users'), '42601 syntax error at or near "TABL"', 'a syntax error');
	is(failure(undef), '22004 the statement to preview must not be null', 'null');
	my %refused = ('SELECT 1' => 'SELECT', 'INSERT INTO users VALUES (0)' => 'INSERT', 'VACUUM users' => 'VACUUM',
		'CALL f()' => 'CALL', 'DO $$ BEGIN END $$' => 'DO', 'COMMIT' => 'COMMIT', 'SET lock_timeout = 0' => 'SET',
		'CREATE DATABASE d' => 'CREATE DATABASE', 'COPY users TO stdout' => 'COPY', 'REINDEX SCHEMA public' => 'REINDEX',
		'CREATE EXTENSION plperl' => 'CREATE EXTENSION', 'EXPLAIN ALTER TABLE users ADD x int' => undef);
	for my $statement (sort keys %refused)
	{
		my $tag = $refused{$statement};
		is(failure($statement), $tag ? "0A000 ddl_preview() does not preview $tag" : '42601 syntax error at or near "ALTER"', $statement);
	}
	is_deeply(preview('CREATE INDEX CONCURRENTLY ON users (n)'),
		[ 'lock | public.users | ShareUpdateExclusiveLock | ddl | 0', 'build index | public.users | - | ddl | 0' ],
		'CONCURRENTLY is judged by rules');
	is_deeply(preview('VACUUM FULL users'), \@rewrite_rows, 'so is VACUUM FULL');
	$session->do('CREATE TABLE split (id int) PARTITION BY LIST (id)');
	is_deeply(preview('REINDEX (CONCURRENTLY false) TABLE split'), ['lock | public.split | ShareLock | writers | 0'],
		'and REINDEX of a partitioned table, which is told not to be CONCURRENTLY');
	# Of an option that is given twice the last one counts.
	is(preview('REINDEX (CONCURRENTLY, CONCURRENTLY off) TABLE split')->[0], 'lock | public.split | ShareLock | writers | 0',
		'... at last');
	my $advice = 'SELECT max(advice) FROM ddl_preview(?)';
	is($session->value($advice, 'REINDEX (CONCURRENTLY, CONCURRENTLY off) TABLE users'),
		$session->value($advice, 'REINDEX TABLE users'), '... and the advice is the same');
	is(preview('REINDEX (CONCURRENTLY false, CONCURRENTLY) TABLE split')->[0],
		'lock | public.split | ShareUpdateExclusiveLock | ddl | 0', '... or to be so at last');
	is(preview('REINDEX (CONCURRENTLY false) TABLE CONCURRENTLY users')->[0],
		'lock | public.users | ShareUpdateExclusiveLock | ddl | 0', '... where the word comes after the options');
	is_deeply(preview('VACUUM (FULL false, FULL) users'), \@rewrite_rows, 'VACUUM is FULL if it says so at last');
	is(failure('VACUUM (FULL, FULL false) users'), '0A000 ddl_preview() does not preview VACUUM', '... and only then');
	is(preview('TRUNCATE users CASCADE')->[0], 'lock | public.users | AccessExclusiveLock | readers and writers | 0',
		'and TRUNCATE CASCADE');
	is(failure('ALTER TABLE users ADD x int GENERATED ALWAYS AS (nextval(\'orders_id_seq\')) STORED'),
		'42P17 generation expression is not immutable', 'an error of the statement itself');
	is(failure('ALTER TABLE users SET TABLESPACE missing'), '42704 tablespace "missing" does not exist',
		'also where it is judged by rules');
};

subtest 'names' => sub {
	is_deeply(preview('ALTER TABLE "Odd ""name" ADD x int'),
		[ 'lock | public."Odd ""name" | AccessExclusiveLock | readers and writers | 1',
			'catalog only | public."Odd ""name" | - | readers and writers | 1' ], 'are quoted where they must be');
	$session->do('INSERT INTO "Odd ""name" VALUES (1)');
	is_deeply(preview('ALTER TABLE "Odd ""name" ALTER id TYPE bigint')->[1],
		'rewrite | public."Odd ""name" | - | readers and writers | 0', 'and found in messages');
	$session->do('CREATE SCHEMA twin CREATE TABLE users (id int)');
	is_deeply(preview($rewrite), \@rewrite_rows, 'a namesake elsewhere is not mistaken for it');
};

subtest 'many partitions' => sub {
	$node->safe_psql('postgres', q{
		CREATE TABLE wide (id int) PARTITION BY LIST (id);
		DO $$ BEGIN FOR i IN 1 .. 201 LOOP
			EXECUTE format('CREATE TABLE wide_%s PARTITION OF wide FOR VALUES IN (%s)', i, i); END LOOP; END $$;
		INSERT INTO wide SELECT generate_series(1, 201)});
	my @rows = $session->rows(q{SELECT * FROM ddl_preview('ALTER TABLE wide ADD CHECK (id > 0)')});
	is(scalar @rows, 202, 'more than 200: only the locks are told');
	like($rows[-1]{advice}, qr/^Not run, because it would lock more than 200 partitions/, 'and why');
	$session->do('DROP TABLE wide_201');
	@rows = $session->rows(q{SELECT * FROM ddl_preview('ALTER TABLE wide ADD CHECK (id > 0)')});
	is($rows[-1]{action}, 'scan', '200 are run');
};

subtest 'the deadline' => sub {
	$node->safe_psql('postgres', q{CREATE FUNCTION slow() RETURNS int IMMUTABLE LANGUAGE plpgsql AS
		$$ BEGIN PERFORM pg_sleep(600); RETURN 1; END $$});
	$session->do(q{SET pg_lockguard.preview_max_hold = '20ms'});
	my @rows = $session->rows(q{SELECT * FROM ddl_preview('ALTER TABLE users ADD x int DEFAULT slow()')});
	is(scalar @rows, 1, 'the lock is told');
	is($rows[0]{complete}, 0, 'and that this is not all');
	like($rows[0]{advice}, qr/^Stopped after pg_lockguard.preview_max_hold \(20 ms\)/, 'and why');
	is(locks_left(), 0, 'no lock is left');
	is($session->value('SELECT 1'), 1, 'and no cancellation');
	$session->do('RESET pg_lockguard.preview_max_hold');
};

subtest 'functions that the statement calls' => sub {
	$node->safe_psql('postgres', q{
		CREATE TABLE elsewhere (id int);
		CREATE FUNCTION previews() RETURNS int IMMUTABLE LANGUAGE plpgsql AS
			$$ BEGIN RETURN (SELECT count(*) FROM ddl_preview('ALTER TABLE elsewhere ADD x int')); END $$;
		CREATE FUNCTION alters_it() RETURNS int VOLATILE LANGUAGE plpgsql AS
			$$ BEGIN ALTER TABLE elsewhere ADD x int; RETURN 1; END $$;
		-- The server runs it beforehand.
		CREATE FUNCTION alters() RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RETURN alters_it(); END $$});
	is(failure('ALTER TABLE users ADD x int DEFAULT previews()'),
		'55000 ddl_preview() cannot be called by a statement that it previews, or by a guarded one', 'previews do not nest');
	is(preview('ALTER TABLE users ADD x int DEFAULT alters()')->[-1],
		'catalog only | public.users | - | readers and writers | 1', 'a guarded statement inside is run');
	is($session->value(q{SELECT count(*) FROM pg_attribute WHERE attrelid = 'elsewhere'::regclass AND attname = 'x'}), 0,
		'and rolled back');
	$other->do('BEGIN');
	$other->do('SELECT FROM elsewhere');
	my @rows = $session->rows(q{SELECT * FROM ddl_preview('ALTER TABLE users ADD x int DEFAULT alters()')});
	is_deeply([ map { $_->{held_by} } grep { $_->{relation} eq 'public.elsewhere' } @rows ], [ [ $other->pid ] ],
		'and waits no longer than the preview');
	$other->do('COMMIT');
	$node->safe_psql('postgres', q{
		CREATE FUNCTION locks_it() RETURNS int VOLATILE LANGUAGE plpgsql AS $$ BEGIN
			LOCK TABLE elsewhere IN SHARE MODE;
			LOCK TABLE elsewhere IN SHARE UPDATE EXCLUSIVE MODE;
			LOCK TABLE elsewhere IN ACCESS EXCLUSIVE MODE;
			RETURN 1; END $$;
		CREATE FUNCTION locks() RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RETURN locks_it(); END $$});
	is_deeply(preview('ALTER TABLE users ADD x int DEFAULT locks()'), [
			'lock | public.users | AccessExclusiveLock | readers and writers | 1',
			'lock | public.elsewhere | AccessExclusiveLock | readers and writers | 1',
			'catalog only | public.users | - | readers and writers | 1' ], 'of its locks on a table the strongest is told');
	$other->do('BEGIN');
	$other->do('SELECT FROM elsewhere');
	is_deeply(preview('ALTER TABLE users ADD x int DEFAULT locks()'), [
			'lock | public.users | AccessExclusiveLock | readers and writers | 0',
			'lock | public.elsewhere | AccessExclusiveLock | readers and writers | 0' ],
		'also where that is the one it waits for, after two of which neither covers the other');
	$other->do('COMMIT');
};

# A language's handler loads its library, and the library puts its hooks, when a function is called for the first time: that
# may be by a statement that is previewed.
subtest 'a library that is loaded meanwhile' => sub {
	$node->safe_psql('postgres', qq{
		CREATE FUNCTION boundary_count_queries() RETURNS int AS '$module' LANGUAGE c STRICT;
		-- The server runs it beforehand.
		CREATE FUNCTION loads() RETURNS int IMMUTABLE LANGUAGE plpgsql AS \$\$ BEGIN RETURN boundary_count_queries(); END \$\$;
	});
	my ($kept, $fresh) = ($session, session($node, 'fresh'));
	$session = $fresh;
	is(preview('ALTER TABLE users ADD x int DEFAULT loads()')->[-1],
		'catalog only | public.users | - | readers and writers | 1', 'the statement is run');
	my $before = $session->value('SELECT boundary_count_queries()');
	$session->value('SELECT 1');
	is($session->value('SELECT boundary_count_queries()') - $before, 2, 'its hook is called for the queries that follow');
	is_deeply(preview('CREATE TABLE copy AS SELECT n FROM users')->[-1], 'run query | copy | - | ddl | 0',
		'and the next preview stops at its query all the same');
	$before = $session->value('SELECT boundary_count_queries()');
	is($session->value('SELECT boundary_count_queries()') - $before, 1, '... and both hooks are there still');
	$session = $kept;
	forget_sessions($fresh);
};

subtest 'event triggers do not fire' => sub {
	$node->safe_psql('postgres', q{
		CREATE FUNCTION fires() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'fired: %', tg_event; END $$;
		CREATE EVENT TRIGGER e1 ON ddl_command_start WHEN TAG IN ('ALTER TABLE', 'DROP TABLE') EXECUTE FUNCTION fires();
		CREATE EVENT TRIGGER e2 ON ddl_command_end WHEN TAG IN ('ALTER TABLE', 'DROP TABLE') EXECUTE FUNCTION fires();
		CREATE EVENT TRIGGER e3 ON sql_drop EXECUTE FUNCTION fires();
		CREATE EVENT TRIGGER e4 ON table_rewrite EXECUTE FUNCTION fires()});
	is_deeply(preview($rewrite), \@rewrite_rows, 'for a rewrite');
	is_deeply(preview($light), \@light_rows, 'for a column');
	is(preview('DROP TABLE orders')->[-1], 'catalog only | public.orders | - | readers and writers | 1', 'for DROP');
	eval { $session->do(qq{CREATE TABLE kept AS SELECT * FROM ddl_preview('$light')}) };
	is($session->sqlstate, '55000', 'and a preview in a DDL statement is refused, which they would see');
	is(preview($rewrite)->[-1], $rewrite_rows[-1], 'elsewhere it goes on');
	$node->safe_psql('postgres', 'DROP EVENT TRIGGER e1; DROP EVENT TRIGGER e2; DROP EVENT TRIGGER e3; DROP EVENT TRIGGER e4');
	$session->do(qq{CREATE TABLE kept AS SELECT * FROM ddl_preview('$light')});
	is($session->value('SELECT count(*) FROM kept'), 2, 'without event triggers it is allowed');
};

subtest 'what is sent to the session arrives' => sub {
	my $endless = 'DO $$ BEGIN LOOP PERFORM FROM ddl_preview(%s); END LOOP; END $$';
	for my $statement ($rewrite, $light, 'ALTER TABLE users ALTER n SET NOT NULL', 'CREATE INDEX ON users (n)')
	{
		for (1 .. 10)
		{
			$session->send(sprintf $endless, "'$statement'");
			await($node, 'it runs', q{SELECT state = 'active' AND query LIKE 'DO %' FROM pg_stat_activity WHERE pid = ?},
				$session->pid);
			$node->safe_psql('postgres', 'SELECT pg_cancel_backend(' . $session->pid . ')');
			like($session->error, qr/canceling statement due to user request/, "a cancel request: $statement");
			$session->set_statement_timeout(30);
			$session->send(sprintf $endless, "'$statement'");
			like($session->error, qr/canceling statement due to statement timeout/, "statement_timeout: $statement");
			$session->set_statement_timeout(0);
		}
	}
	is(locks_left(), 0, 'no lock is left');
	is_deeply(preview($rewrite), \@rewrite_rows, 'and previews go on');
};

subtest 'catalogs whose files no subtransaction may make anew' => sub {
	is_deeply(
		preview('REINDEX INDEX pg_class_oid_index'),
		[
			'lock | pg_catalog.pg_class | ShareLock | writers | 0',
			'lock | pg_catalog.pg_class_oid_index | AccessExclusiveLock | readers and writers | 0',
			'build index | pg_catalog.pg_class | - | readers and writers | 0'
		],
		'are previewed by rules');
	is_deeply(preview('REINDEX (CONCURRENTLY false) INDEX pg_class_oid_index'), preview('REINDEX INDEX pg_class_oid_index'),
		'... whether that is said or not');
	is(preview('CLUSTER pg_class USING pg_class_oid_index')->[-1],
		'rewrite | pg_catalog.pg_class | - | readers and writers | 0', 'CLUSTER as well');
	like(
		$session->value(q{SELECT max(advice) FROM ddl_preview('REINDEX TABLE pg_class')}),
		qr/^Not run, because no part of a transaction may make this catalog's files anew: by rules\./, '... and it says why');
};

subtest 'the server log' => sub {
	$session->do(q{SET log_min_messages = 'debug1'});
	is_deeply(preview($rewrite), \@rewrite_rows, 'whoever wants the messages has them');
	like(slurp_file($node->logfile), qr/DEBUG:  rewriting table "users"/, 'as ever');
	$session->do('RESET log_min_messages');
	my $size = -s $node->logfile;
	preview($_) for $rewrite, $light, 'ALTER TABLE users ADD UNIQUE (n)', 'DROP TABLE IF EXISTS missing',
	  'CLUSTER VERBOSE users USING users_pkey';
	failure('ALTER TABLE users ADD UNIQUE (missing)');
	unlike(slurp_file($node->logfile, $size), qr/DEBUG|NOTICE|INFO/, 'whoever does not has none');
	$session->do(q{SET client_min_messages = 'error'});
};

done_testing();
