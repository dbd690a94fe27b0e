# lock_tree() while everything moves: sessions connect, get in each other's way and go,
# while others look at the tree as fast as they can and check every picture for contradictions.
# Then: a session that has looked many thousand times is as large as before.
#
# LOCKGUARD_CHURN_SECONDS (default 10) and LOCKGUARD_CALLS (default 5000) make it longer.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use LockGuard;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $seconds = $ENV{LOCKGUARD_CHURN_SECONDS} // 10;
my $calls = $ENV{LOCKGUARD_CALLS} // 5000;

my $node = start_node('churn', 'deadlock_timeout = 50ms', 'log_statement = none', 'log_min_messages = fatal',
	'log_min_error_statement = fatal', 'max_connections = 120');
my $observer = LockGuard::observer($node);
$observer->do(q{
	CREATE TABLE rows (id int PRIMARY KEY, n int DEFAULT 0);
	INSERT INTO rows SELECT generate_series(1, 20);
	CREATE TABLE t1 (id int);
	CREATE TABLE t2 (id int);
	CREATE TABLE grows (filler text);
	CREATE TABLE keyed (id int PRIMARY KEY);
	CREATE TABLE large AS SELECT generate_series(1, 5000) AS id;
	CREATE SEQUENCE connections;

	-- Looks until it is told to stop. Returns how often, how many rows, how deep, waits for what,
	-- and the first contradictions.
	CREATE TABLE stop (now bool);
	CREATE PROCEDURE look(OUT looks bigint, OUT rows bigint, OUT deepest int, OUT kinds text[], OUT complaints text)
	LANGUAGE plpgsql AS $$
	DECLARE
		faults text;
		n bigint;
		d int;
		k text[];
	BEGIN
		looks := 0;
		rows := 0;
		deepest := 0;
		LOOP
			SELECT string_agg(c, E'\n') INTO faults FROM (SELECT contradictions() AS c LIMIT 3) f;
			looks := looks + 1;
			-- Most of the time without checks, which take longer than the look.
			FOR i IN 1 .. 20 LOOP
				SELECT count(*), max(depth), array_agg(DISTINCT lock_type) INTO n, d, k FROM lock_tree();
				looks := looks + 1;
				rows := rows + n;
				deepest := greatest(deepest, d);
				kinds := ARRAY(SELECT DISTINCT kind FROM unnest(kinds || k) kind WHERE kind IS NOT NULL ORDER BY 1);
			END LOOP;
			complaints := coalesce(complaints, faults);
			COMMIT;
			EXIT WHEN EXISTS (SELECT FROM stop) OR complaints IS NOT NULL;
		END LOOP;
	END $$;
});

# What the clients of each pgbench do; with -C they connect anew for every transaction.
my %scripts = (
	# Tables, then advisory locks; one in three gives up after a moment.
	tables => [ [ '-C', '-c16' ], <<'EOT' ],
\set mode random(1, 12)
\set key random(1, 8)
SELECT nextval('connections');
BEGIN;
\if :mode = 1
LOCK TABLE t1 IN ACCESS EXCLUSIVE MODE;
\elif :mode <= 3
LOCK TABLE t1 IN SHARE MODE;
\elif :mode <= 7
SET LOCAL lock_timeout = '3ms';
DO $$ BEGIN LOCK TABLE t1 IN EXCLUSIVE MODE; EXCEPTION WHEN lock_not_available THEN NULL; END $$;
SET LOCAL lock_timeout = 0;
\else
INSERT INTO t1 VALUES (1);
\endif
SELECT pg_advisory_xact_lock(:key);
ROLLBACK;
EOT
	# Rows in any order: with deadlocks.
	rows => [ ['-c12'], <<'EOT' ],
\set a random(1, 12)
\set b random(1, 12)
DO $$ BEGIN
	UPDATE rows SET n = n + 1 WHERE id = :a;
	UPDATE rows SET n = n + 1 WHERE id = :b;
	PERFORM FROM t1 LIMIT 1;
EXCEPTION WHEN deadlock_detected THEN NULL; END $$;
EOT
	prepared => [ ['-c3'], <<'EOT' ],
\set key random(1, 8)
BEGIN;
LOCK TABLE t2 IN SHARE MODE;
INSERT INTO t1 VALUES (1);
SELECT pg_advisory_xact_lock(:key);
PREPARE TRANSACTION 'p:client_id';
\sleep 2 ms
ROLLBACK PREPARED 'p:client_id';
EOT
	extended => [ [ '-C', '-c6' ], <<'EOT' ],
\set key random(1, 8)
INSERT INTO t2 VALUES (1);
BEGIN ISOLATION LEVEL SERIALIZABLE;
INSERT INTO grows SELECT repeat('x', 1000) FROM generate_series(1, 50);
SELECT pg_advisory_xact_lock(:key);
COMMIT;
EOT
	snapshots => [ ['-c2'], <<'EOT' ],
BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE;
SELECT FROM t2 LIMIT 1;
COMMIT;
EOT
	parallel => [ ['-c2'], <<'EOT' ],
SELECT sum(id) FROM large;
BEGIN;
LOCK TABLE large IN ACCESS EXCLUSIVE MODE;
ROLLBACK;
EOT
	reindex => [ ['-c1'], <<'EOT' ],
REINDEX TABLE CONCURRENTLY keyed;
INSERT INTO keyed VALUES (nextval('connections'));
EOT
);
my $dir = PostgreSQL::Test::Utils::tempdir;
my @jobs;
for my $script (sort keys %scripts)
{
	my ($options, $text) = @{ $scripts{$script} };
	append_to_file("$dir/$script.sql", $text);
	my ($out, $err) = ('', '');
	local $ENV{PGOPTIONS} =
	  '-c parallel_setup_cost=0 -c parallel_tuple_cost=0 -c min_parallel_table_scan_size=0';
	# A client ends at its first error: there is to be none.
	my $run = IPC::Run::start([ 'pgbench', '-n', '-T', $seconds, @$options, '-h', $node->host,
			'-p', $node->port, '-f', "$dir/$script.sql", 'postgres' ], '>', \$out, '2>', \$err);
	push @jobs, { script => $script, out => \$out, err => \$err, run => $run };
}
my @viewers = map { session($node, "viewer$_") } 1 .. 2;
my @looks = map { $_->{dbh}->prepare('CALL look(NULL, NULL, NULL, NULL, NULL)', { pg_async => DBD::Pg::PG_ASYNC() }) } @viewers;
$_->execute for @looks;

subtest 'pictures, while sessions come and go' => sub {
	for my $job (@jobs)
	{
		ok($job->{run}->finish, "no error in pgbench: $job->{script}") or diag ${ $job->{err} };
		note $1 if ${ $job->{out} } =~ /(number of transactions actually processed: \d+)/;
	}
	# A slow machine makes fewer connections in that time than are asked for below: here it makes enough.
	if ($observer->value('SELECT last_value FROM connections') <= 60)
	{
		my ($out, $err) = ('', '');
		my @again = ([ 'pgbench', '-n', '-t', 5, @{ $scripts{tables}[0] }, '-h', $node->host,
			'-p', $node->port, '-f', "$dir/tables.sql", 'postgres' ], '>', \$out, '2>', \$err);
		IPC::Run::run(@again) or die "pgbench: $err";
	}
	$observer->do('INSERT INTO stop VALUES (true)');
	for my $i (0 .. $#viewers)
	{
		my $result = eval { $viewers[$i]{dbh}->pg_result; $looks[$i]->fetchrow_hashref };
		is($@, '', 'looking never fails');
		is($result->{complaints}, undef, 'no picture contradicts itself');
		note "looks: $result->{looks}, rows: $result->{rows}, deepest: $result->{deepest}, "
		  . "waits for: @{ $result->{kinds} }";
		cmp_ok($result->{rows}, '>', $result->{looks}, 'there was something to see');
		cmp_ok($result->{deepest}, '>', 1, 'and not only one behind the other');
	}
	my $connections = $observer->value('SELECT last_value FROM connections');
	note "sessions that came and went: more than $connections";
	cmp_ok($connections, '>', 60, 'more sessions came and went than there is room for at a time');
	is($observer->value('SELECT count(*) FROM lock_tree()'), 0, 'in the end nothing waits');
	forget_sessions();
};

$observer->do(q{
	CREATE FUNCTION memory(OUT contexts bigint, OUT resident bigint) LANGUAGE sql AS $$
		SELECT (SELECT sum(total_bytes) FROM pg_backend_memory_contexts),
			substring(pg_read_file('/proc/self/status') FROM 'VmRSS:\s+(\d+) kB')::bigint * 1024
	$$;
	CREATE PROCEDURE look_often(times int) LANGUAGE plpgsql AS $$
	BEGIN
		FOR i IN 1 .. times LOOP
			PERFORM * FROM lock_tree();
			IF i % 100 = 0 THEN
				COMMIT;
			END IF;
		END LOOP;
	END $$;
});

sub stays_as_large
{
	my ($what, $rows) = @_;
	my $viewer = session($node, 'viewer');
	is($viewer->value('SELECT count(*) FROM lock_tree()'), $rows, "$what: rows");
	# The first calls pay for caches and plans.
	$viewer->do('CALL look_often(1000)');
	$viewer->rows('SELECT * FROM memory()') for 1 .. 3;
	my ($before) = $viewer->rows('SELECT * FROM memory()');
	$viewer->do("CALL look_often($calls)");
	$viewer->rows('SELECT * FROM memory()');
	my ($after) = $viewer->rows('SELECT * FROM memory()');
	my ($contexts, $resident) = map { $after->{$_} - $before->{$_} } qw(contexts resident);
	note "$what: after $calls calls, memory contexts grew by $contexts bytes, the process by $resident";
	cmp_ok($contexts, '<=', 0, "$what: memory contexts are as large as before");
	# A leak of 100 bytes a call would show in a long run.
	cmp_ok($resident, '<=', 512 * 1024, "$what: the process is as large as before");
	forget_sessions($viewer);
	return;
}

subtest 'a session that has looked thousands of times is as large as before' => sub {
	stays_as_large('nothing waits', 0);
	my ($holder, $prepared, @waiters) = map { session($node, "s$_") } 1 .. 10;
	$holder->do('BEGIN; LOCK TABLE t1 IN SHARE MODE');
	$prepared->do(q{BEGIN; LOCK TABLE t1 IN SHARE MODE; PREPARE TRANSACTION 'p'});
	$_->send('BEGIN; LOCK TABLE t1') for @waiters;
	settle($node, @waiters);
	stays_as_large('8 waiters, 36 edges and more', 10);
	$observer->do(q{ROLLBACK PREPARED 'p'});
	forget_sessions();
};

ends_well($node);
done_testing();
