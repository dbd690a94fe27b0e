# lock_tree(): what counts as one session. A parallel query is one; a prepared transaction has none.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LockGuard;
use LockGuard::Tree;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_tree_node('sessions');
my $observer = LockGuard::observer($node);

subtest 'parallel queries' => sub {
	$observer->do(q{
		CREATE TABLE large AS SELECT generate_series(1, 20000) AS id;
		ANALYZE large;
		CREATE FUNCTION look_behind(int) RETURNS bigint PARALLEL SAFE LANGUAGE plpgsql AS $$
		BEGIN
			RETURN (SELECT count(*) FROM t1);
		END $$;
	});
	my ($locker, $leader, $alter) = sessions($node, qw(locker leader alter));
	$leader->do('SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
		SET max_parallel_workers_per_gather = 2; SET parallel_leader_participation = off');
	my $query = 'SELECT sum(look_behind(id)) FROM large WHERE id <= 2';
	like(join("\n", map { values %$_ } $leader->rows("EXPLAIN $query")), qr/Workers Planned: 2/, 'a parallel query');
	$locker->do('BEGIN; LOCK TABLE t1');
	$leader->send($query);
	await($node, 'the workers wait', q{SELECT count(*) > 0
		FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE NOT granted AND leader_pid = ?}, $leader->pid);
	settle($node, $leader, $alter->send('BEGIN; LOCK TABLE large'));
	shows($node, 'workers wait, leader and workers hold', [ @edges, @wait, 'wait_event', 'backend_type' ], <<~EOT);
		locker | - | - | 2 | - | - | - | - | ClientRead | client backend
		└─ leader | locker | locker | 1 | relation | public.t1 | AccessShareLock | AccessExclusiveLock | ExecuteGather | client backend
		   └─ alter | leader | leader | 0 | relation | public.large | AccessExclusiveLock | AccessShareLock | relation | client backend
		EOT
	$locker->do('COMMIT');
	is_deeply([ await_end($leader, $alter) ], [ undef, undef ], 'they go');
	forget_sessions();

	($locker, $leader) = sessions($node, qw(locker leader));
	$leader->do('SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
		SET max_parallel_workers_per_gather = 2');
	$locker->do('BEGIN; LOCK TABLE t1');
	$leader->send('SELECT sum(look_behind(id)) FROM large');
	# Leader and workers, as many as have got a row.
	await($node, 'leader and worker wait', q{SELECT count(*) = 3
		FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE NOT granted AND coalesce(leader_pid, pid) = ?},
		$leader->pid);
	settle($node, $leader);
	shows($node, 'leader and workers wait', [ @edges, @wait, 'wait_event' ], <<~EOT);
		locker | - | - | 1 | - | - | - | - | ClientRead
		└─ leader | locker | locker | 0 | relation | public.t1 | AccessShareLock | AccessExclusiveLock | relation
		EOT
	forget_sessions();
};

subtest 'prepared transactions' => sub {
	my ($one, $two, $waiter, $elsewhere) =
	  (sessions($node, qw(one two waiter)), session($node, 'elsewhere', dbname => 'other'));
	$one->do(q{BEGIN; LOCK TABLE t1 IN SHARE MODE; PREPARE TRANSACTION 'first "gid"'});
	$two->do(q{BEGIN; LOCK TABLE t1 IN SHARE MODE; INSERT INTO users VALUES (100); PREPARE TRANSACTION 'second'});
	forget_sessions($one, $two);
	settle($node, $waiter->send('INSERT INTO t1 VALUES (1)'));
	my @columns = (@edges, 'gid', 'path', 'root_pid', 'state', 'query', 'datname', 'application_name', 'backend_type');
	shows($node, 'two prepared transactions', \@columns, <<~EOT);
		first "gid" | - | - | 1 | first "gid" | 0 | 0 | - | - | postgres | - | -
		└─ waiter | 0,0 | 0,0 | 0 | - | 0>waiter | 0 | active | INSERT INTO t1 VALUES (1) | postgres | waiter | client backend
		second | - | - | 1 | second | 0 | 0 | - | - | postgres | - | -
		EOT
	is( $observer->value('SELECT array_agg(tree ORDER BY gid) FROM lock_tree() WHERE pid = 0')->[0],
		'0', 'drawn as 0');
	$observer->do(q{COMMIT PREPARED 'first "gid"'});
	settle($node, $waiter);
	shows($node, 'the second one', [ @edges, @wait, 'gid' ], <<~EOT);
		second | - | - | 1 | - | - | - | - | second
		└─ waiter | 0 | 0 | 0 | relation | public.t1 | RowExclusiveLock | ShareLock | -
		EOT

	# One of another database, and rows.
	$elsewhere->do(q{BEGIN; LOCK TABLE pg_shdescription; PREPARE TRANSACTION 'elsewhere'});
	my ($shared, $insert) = sessions($node, qw(shared insert));
	settle($node, $shared->send('SELECT FROM pg_shdescription'));
	settle($node, $shared, $insert->send('INSERT INTO users VALUES (100)'));
	shows($node, 'a prepared transaction of another database', [ @edges, @wait, 'datname' ], <<~EOT);
		second | - | - | 2 | - | - | - | - | postgres
		├─ waiter | 0 | 0 | 0 | relation | public.t1 | RowExclusiveLock | ShareLock | postgres
		└─ insert | 0 | 0 | 0 | transactionid | transaction N | ShareLock | ExclusiveLock | postgres
		elsewhere | - | - | 1 | - | - | - | - | other
		└─ shared | 0 | 0 | 0 | relation | pg_catalog.pg_shdescription | AccessShareLock | AccessExclusiveLock | postgres
		EOT

	forget_sessions();
	$observer->do(q{ROLLBACK PREPARED 'second'});
	session($node, 'rollback', dbname => 'other')->do(q{ROLLBACK PREPARED 'elsewhere'});
	forget_sessions();
};

ends_well($node);
done_testing();
