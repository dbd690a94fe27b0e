# pg_lockguard.ddl_heavy: a guarded statement that is about to rewrite, scan or index a large relation
# while it keeps readers or writers out says so, or is refused before the first page. And what a
# running statement does is shown by pg_lockguard_progress.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LockGuard;
use LockGuard::LowPriority qw(await_pressed);
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node(
	'heavy',
	q{shared_preload_libraries = 'pg_lockguard'},
	q{deadlock_timeout = '1s'},
	q{pg_lockguard.ddl_commands = 'ALTER TABLE, CREATE INDEX, REINDEX, CLUSTER, REFRESH MATERIALIZED VIEW'},
	q{pg_lockguard.ddl_heavy = refuse},
	q{pg_lockguard.ddl_heavy_min_size = '64kB'});
$node->safe_psql(
	'postgres', q{
	CREATE TABLE users (id int PRIMARY KEY);
	INSERT INTO users SELECT generate_series(1, 10000);
	CREATE TABLE orders (id int PRIMARY KEY, user_id int, n int, note text);
	INSERT INTO orders SELECT i, i, i, i FROM generate_series(1, 10000) i;
	ALTER TABLE orders ADD CONSTRAINT later CHECK (n > 0) NOT VALID;
	ALTER TABLE orders ADD CONSTRAINT later_key FOREIGN KEY (user_id) REFERENCES users NOT VALID;
	CREATE TABLE few (id int, n int);
	INSERT INTO few SELECT i, i FROM generate_series(1, 100) i;
	CREATE TABLE parted (id int, n int) PARTITION BY RANGE (id);
	CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (100000);
	INSERT INTO parted SELECT i, i FROM generate_series(1, 10000) i;
	CREATE TABLE "odd, name" (id int, n int);
	INSERT INTO "odd, name" SELECT i, i FROM generate_series(1, 10000) i;
	CREATE MATERIALIZED VIEW seen AS SELECT * FROM users;
	VACUUM ANALYZE});

my $ddl = session($node, 'ddl');
my $other = session($node, 'other');

# Who has made all that counts its scans at its very end.
await($node, 'the others end', q{SELECT NOT EXISTS (SELECT FROM pg_stat_activity
	WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND pid <> ALL (?::int[]))}, [ map { $_->pid } $ddl, $other ]);

# SQLSTATE and the first line of the error of a statement; 'done' where there is none.
sub outcome
{
	my ($statement) = @_;
	return 'done' if eval { $ddl->do($statement); 1 };
	return $ddl->sqlstate . ' ' . ($@ =~ s/.*?ERROR:\s*//sr =~ s/\n.*//sr);
}

# Runs it in a transaction, after these settings, and rolls back.
sub tried
{
	my ($statement, @settings) = @_;
	$ddl->do('BEGIN');
	$ddl->do("SET LOCAL pg_lockguard.$_") for @settings;
	my $outcome = outcome($statement);
	$ddl->do('ROLLBACK');
	return $outcome;
}

my $rewrite = 'ALTER TABLE orders ALTER n TYPE bigint';
my $refused = '55000 ALTER TABLE would rewrite public.orders while it stops readers and writers';

for my $mode (qw(low_priority lock_timeout))
{
	subtest "refused in ddl_mode $mode" => sub {
		$ddl->do("SET pg_lockguard.ddl_mode = $mode");
		$ddl->do('SELECT pg_stat_force_next_flush()');
		my $before = $ddl->value(q{SELECT pg_relation_filenode('orders') || ' ' || seq_scan FROM pg_stat_user_tables WHERE relname = 'orders'});
		my $error = eval { $ddl->do($rewrite); undef } // $@;
		is($ddl->sqlstate, '55000', 'a rewrite');
		is($error =~ s/.*?ERROR:/ERROR:/r =~ s/ at \S+ line \d+\.\n$//r =~ s/has \d+ kB/has N kB/r, <<~'TEXT' =~ s/\n$//r, 'with size, advice, and the way out');
			ERROR:  ALTER TABLE would rewrite public.orders while it stops readers and writers
			DETAIL:  public.orders has N kB, more than pg_lockguard.ddl_heavy_min_size (64 kB). AccessExclusiveLock on public.orders would be held all that time.
			HINT:  Add a new column to public.orders, fill it in batches (and by a trigger meanwhile), and let it take the place of n by two RENAMEs in one transaction.
			If that is meant, say so in the same transaction: SET LOCAL pg_lockguard.ddl_heavy_confirm = 'public.orders';
			TEXT
		$ddl->do('SELECT pg_stat_force_next_flush()');
		is($ddl->value(q{SELECT pg_relation_filenode('orders') || ' ' || seq_scan FROM pg_stat_user_tables WHERE relname = 'orders'}),
			$before, 'nothing was written or read');
		is(tried($rewrite), $refused, 'in a transaction block');
		is(tried('ALTER TABLE orders ALTER n SET NOT NULL'),
			'55000 ALTER TABLE would scan public.orders while it stops readers and writers', 'a scan');
		is(tried('ALTER TABLE orders ADD UNIQUE (n)'),
			'55000 ALTER TABLE would build an index on public.orders while it stops readers and writers', 'an index for a constraint');
		is(tried('ALTER TABLE orders ADD FOREIGN KEY (id) REFERENCES users'),
			'55000 ALTER TABLE would validate a foreign key of public.orders while it stops writers', 'a foreign key');
		is(tried('CREATE INDEX ON orders (n)'),
			'55000 CREATE INDEX would build an index on public.orders while it stops writers', 'CREATE INDEX');
		is(tried('REINDEX TABLE orders'),
			'55000 REINDEX would build an index on public.orders while it stops readers and writers',
			'REINDEX, which has the index as well');
		is(tried('CLUSTER orders USING orders_pkey'), '55000 CLUSTER would rewrite public.orders while it stops readers and writers', 'CLUSTER');
		is(tried('ALTER TABLE parted ALTER n TYPE bigint'),
			'55000 ALTER TABLE would rewrite public.parted_1 while it stops readers and writers', 'a partition');
	};

	subtest "let pass in ddl_mode $mode" => sub {
		$ddl->do("SET pg_lockguard.ddl_mode = $mode");
		is(tried('ALTER TABLE orders ADD x int DEFAULT 5 NOT NULL'), 'done', 'a constant default rewrites nothing');
		is(tried('ALTER TABLE orders ALTER note TYPE varchar'), 'done', 'nor does a type that is as good');
		is(tried('ALTER TABLE orders VALIDATE CONSTRAINT later'), 'done', 'who stops neither readers nor writers may read');
		is(tried('ALTER TABLE few ALTER n TYPE bigint'), 'done', 'a small table');
		is(tried($rewrite, q{ddl_heavy_confirm = 'public.orders'}), 'done', 'the relation is confirmed');
		is(tried($rewrite, q{ddl_heavy_confirm = 'public.users, public.orders'}), 'done', 'among others');
		is(tried($rewrite, q{ddl_heavy_confirm = 'public.users'}), $refused, 'another one is not the same');
		is(tried('ALTER TABLE parted ALTER n TYPE bigint', q{ddl_heavy_confirm = 'public.parted'}), 'done', 'the parent of a partition');
		is(tried('ALTER TABLE "odd, name" ALTER n TYPE bigint', q{ddl_heavy_confirm = 'public."odd, name"'}), 'done', 'an odd name');
		is(tried($rewrite, q{ddl_heavy_min_size = '1GB'}), 'done', 'the size that counts is larger');
		is(tried($rewrite, 'ddl_heavy = allow'), 'done', 'allow');
		is(tried($rewrite, 'ddl_mode = off'), 'done', 'a statement that is not guarded');
		is(tried('ALTER TABLE orders ADD CHECK (n > 0) NOT VALID'), 'done', 'NOT VALID');
		is(outcome('CREATE TEMPORARY TABLE passing AS SELECT * FROM orders'), 'done', 'a temporary table');
		is(outcome('ALTER TABLE passing ALTER n TYPE bigint'), 'done', '... is nobody else\'s business');
		$ddl->do('DROP TABLE passing');
		$ddl->do('BEGIN');
		$ddl->do('CREATE TABLE fresh AS SELECT * FROM orders');
		is(outcome('CREATE INDEX ON fresh (n)'), 'done', 'a table of this transaction');
		$ddl->do('ALTER TABLE users ADD x int');
		is(outcome('CREATE INDEX ON fresh (user_id)'), '55000 CREATE INDEX would build an index on public.fresh while it stops readers and writers',
			'unless the transaction keeps others out elsewhere');
		$ddl->do('ROLLBACK');
	};
}
$ddl->do('RESET pg_lockguard.ddl_mode');

subtest 'the words of a function' => sub {
	$node->safe_psql('postgres', q{
		CREATE FUNCTION catches() RETURNS text LANGUAGE plpgsql AS $$
		BEGIN
			ALTER TABLE orders ALTER n TYPE bigint;
			RETURN 'done';
		EXCEPTION WHEN object_not_in_prerequisite_state THEN RETURN 'refused';
		END $$});
	is($ddl->value('SELECT catches()'), 'refused', 'it is an error that can be caught');
	is($ddl->value('SELECT catches() || catches()'), 'refusedrefused', 'each time');
	is($ddl->value('SHOW log_min_messages'), 'warning', 'and the settings are as before');
};

subtest 'warn' => sub {
	$ddl->do('SET pg_lockguard.ddl_heavy = warn');
	my @told;
	local $ddl->{dbh}{PrintWarn} = 1;
	local $SIG{__WARN__} = sub { push @told, @_ };
	is(tried($rewrite), 'done', 'it is done');
	is((grep { /WARNING:  ALTER TABLE would rewrite public\.orders/ } @told), 1, 'and said once');
	@told = ();
	is(tried('ALTER TABLE orders ADD x int DEFAULT 5'), 'done', 'a constant default');
	is(scalar @told, 0, 'is no matter');
	# It waits inside for a lock that was not known.
	$other->do('BEGIN');
	$other->do('SELECT FROM users');
	$node->safe_psql('postgres', q{CREATE FUNCTION reads() RETURNS int VOLATILE LANGUAGE plpgsql AS
		$$ BEGIN LOCK TABLE users; RETURN 1; END $$});
	@told = ();
	$ddl->send('ALTER TABLE few ADD y int DEFAULT reads()');
	settle($node, $ddl);
	$other->do('COMMIT');
	is($ddl->error, undef, 'one that waits inside is done');
	$ddl->do('RESET pg_lockguard.ddl_heavy');
};

# The transaction keeps its locks on those that it drops for that.
subtest 'indexes that are made anew along with the table' => sub {
	for my $mode (qw(low_priority lock_timeout))
	{
		$ddl->do("SET pg_lockguard.ddl_mode = $mode");
		my %outcome;
		for my $round (1 .. 10)
		{
			$other->do("CREATE TABLE anew_$round (id int PRIMARY KEY, n int UNIQUE)");
			$other->do("INSERT INTO anew_$round VALUES (1, 1)");
			$outcome{ tried("ALTER TABLE anew_$round ALTER id TYPE bigint, ALTER n TYPE bigint", 'ddl_heavy = warn', 'ddl_heavy_min_size = 0') }++;
			$other->do("DROP TABLE anew_$round");
		}
		is_deeply([ sort keys %outcome ], ['done'], "$mode: done, with a warning");
	}
	$ddl->do('RESET pg_lockguard.ddl_mode');
};

subtest 'what a running statement does' => sub {
	$node->safe_psql('postgres', q{CREATE FUNCTION waits(int) RETURNS int VOLATILE LANGUAGE plpgsql AS
		$$ BEGIN WHILE NOT pg_try_advisory_xact_lock(1) LOOP PERFORM pg_sleep(0.01); END LOOP; RETURN $1; END $$});
	$other->do('SELECT pg_advisory_lock(1)');
	$ddl->do('SET pg_lockguard.ddl_heavy = allow');
	$ddl->send('ALTER TABLE orders ALTER n TYPE int USING waits(n)');
	await($node, 'it works', q{SELECT work = 'rewriting public.orders' FROM pg_lockguard_progress WHERE pid = ?}, $ddl->pid);
	my ($row) = $other->rows('SELECT command, phase, work, holders FROM pg_lockguard_progress WHERE pid = ?', $ddl->pid);
	is_deeply($row, { command => 'ALTER TABLE', phase => 'running', work => 'rewriting public.orders', holders => [] }, 'is shown');
	$node->safe_psql('postgres', 'CREATE DATABASE elsewhere');
	$node->safe_psql('elsewhere', 'CREATE EXTENSION pg_lockguard');
	like($node->safe_psql('elsewhere', 'SELECT work FROM pg_lockguard_progress'), qr/^rewriting relation \d+ of database \d+$/,
		'in another database without the name');
	$other->do('SELECT pg_advisory_unlock(1)');
	is($ddl->error, undef, 'it ends');
	is($other->value('SELECT count(*) FROM pg_lockguard_progress'), 0, 'and shows nothing any more');
	$other->do('SELECT pg_advisory_lock(1)');
	$ddl->send('ALTER TABLE orders ALTER n TYPE int USING waits(n)');
	await($node, 'it works', q{SELECT work IS NOT NULL FROM pg_lockguard_progress WHERE pid = ?}, $ddl->pid);
	$other->value('SELECT pg_cancel_backend(?)', $ddl->pid);
	like($ddl->error, qr/canceling statement due to user request/, 'cancelled');
	is($other->value('SELECT count(*) FROM pg_lockguard_progress'), 0, 'it shows nothing either');
	$other->do('SELECT pg_advisory_unlock(1)');
	$ddl->do('RESET pg_lockguard.ddl_heavy');
};

subtest 'the error of ddl_max_stall' => sub {
	$other->do('SELECT pg_advisory_lock(1)');
	$ddl->do("SET pg_lockguard.$_") for 'ddl_heavy = allow', q{ddl_max_stall = '200ms'};
	my $reader = session($node, 'reader');
	$ddl->send('ALTER TABLE orders ALTER n TYPE int USING waits(n)');
	await($node, 'it works', q{SELECT work IS NOT NULL FROM pg_lockguard_progress WHERE pid = ?}, $ddl->pid);
	$reader->send('SELECT count(*) FROM orders');
	like($ddl->error, qr/DETAIL:.*It was rewriting public\.orders\./s, 'says what it was doing');
	is($reader->error, undef, 'and the reader goes on');
	$other->do('SELECT pg_advisory_unlock(1)');
	$ddl->do("RESET pg_lockguard.$_") for 'ddl_heavy', 'ddl_max_stall';
};

# The server announces it by its name alone.
subtest 'a foreign key inside, of the same name, on a small table' => sub {
	$node->safe_psql(
		'postgres', q{
		CREATE FUNCTION before() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
			IF current_setting('test.once', true) = 'on' THEN
				PERFORM set_config('test.once', 'off', false);
				ALTER TABLE few ADD CONSTRAINT alike FOREIGN KEY (id) REFERENCES users;
			END IF;
		END $$;
		CREATE EVENT TRIGGER before ON ddl_command_start EXECUTE FUNCTION before()});
	$ddl->do('SET test.once = on');
	like(outcome('ALTER TABLE orders ADD CONSTRAINT alike FOREIGN KEY (user_id) REFERENCES users'),
		qr/^55000 .*validate a foreign key of public\.orders/, 'the large one is refused');
	is($ddl->value('SHOW test.once'), 'on', '... after the small one, which is gone with it');
	$node->safe_psql('postgres', 'DROP EVENT TRIGGER before; DROP FUNCTION before()');
};

subtest 'what is sent to the session arrives' => sub {
	my $endless = q{DO $$ BEGIN LOOP BEGIN ALTER TABLE orders ALTER n TYPE bigint;
		EXCEPTION WHEN object_not_in_prerequisite_state THEN NULL; END; END LOOP; END $$};
	for (1 .. 10)
	{
		$ddl->send($endless);
		await($node, 'it runs', q{SELECT state = 'active' AND query LIKE 'DO %' FROM pg_stat_activity WHERE pid = ?}, $ddl->pid);
		$other->value('SELECT pg_cancel_backend(?)', $ddl->pid);
		like($ddl->error, qr/canceling statement due to user request/, 'a cancel request');
		$ddl->set_statement_timeout(30);
		$ddl->send($endless);
		like($ddl->error, qr/canceling statement due to statement timeout/, 'statement_timeout');
		$ddl->set_statement_timeout(0);
	}
};

# They have the settings of the session that they work for.
subtest 'what parallel workers say' => sub {
	$ddl->do('SET pg_lockguard.ddl_heavy = allow');
	$ddl->do(
		q{CREATE FUNCTION chatty(i int) RETURNS int IMMUTABLE PARALLEL SAFE LANGUAGE plpgsql AS $$
		BEGIN
			IF i % 1000 = 0 THEN RAISE DEBUG 'a debug message'; RAISE LOG 'a log message'; END IF;
			RETURN i;
		END $$});
	$ddl->do("SET $_") for 'min_parallel_table_scan_size = 0', 'max_parallel_maintenance_workers = 2', q{maintenance_work_mem = '128MB'},
	  'parallel_leader_participation = off';
	$ddl->do('ALTER TABLE orders SET (parallel_workers = 2)');
	for my $statement ('CREATE INDEX chat ON orders (chatty(n))', 'CLUSTER orders USING orders_pkey')
	{
		my $size = -s $node->logfile;
		$ddl->do($statement);
		like(slurp_file($node->logfile, $size), qr/LOG:  a log message/, "$statement: in the log if it belongs there");
		unlike(slurp_file($node->logfile, $size), qr/DEBUG:/, "$statement: else not");
	}
	my $size = -s $node->logfile;
	$ddl->do($_) for q{SET log_min_messages = 'debug1'}, 'REINDEX INDEX chat';
	like(slurp_file($node->logfile, $size), qr/DEBUG:  a debug message/, 'whoever wants them has them');
	$ddl->do($_) for 'DROP INDEX chat', 'RESET ALL';
};

subtest 'the server log' => sub {
	$ddl->do('SET pg_lockguard.ddl_heavy = allow');
	$ddl->do("SET $_") for 'min_parallel_table_scan_size = 0', 'max_parallel_maintenance_workers = 2', q{maintenance_work_mem = '128MB'};
	$node->safe_psql('postgres', q{ALTER TABLE orders SET (parallel_workers = 2)});
	my $size = -s $node->logfile;
	is(tried($_), 'done', $_)
	  for $rewrite, 'CREATE INDEX ON orders (n)', 'REFRESH MATERIALIZED VIEW seen', 'CLUSTER VERBOSE orders USING orders_pkey';
	unlike(slurp_file($node->logfile, $size), qr/DEBUG:|INFO:/, 'has none of the messages');
	$ddl->do(q{SET log_min_messages = 'debug1'});
	is(tried($rewrite), 'done', 'whoever wants them');
	like(slurp_file($node->logfile, $size), qr/DEBUG:  rewriting table "orders"/, 'has them');
};

done_testing();
