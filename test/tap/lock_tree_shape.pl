# lock_tree(): who stands below whom, in which order, and how deep; and what counts as one session: a
# parallel query is one, a prepared transaction has none. Deadlocks stand.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LockGuard;
use LockGuard::Tree;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_tree_node('shape', 'max_connections = 150');
my $observer = LockGuard::observer($node);

subtest 'several blockers: under the oldest, or the lowest pid' => sub {
	# The oldest transaction is the highest pid's.
	my @by_pid = sort { $a->pid <=> $b->pid } sessions($node, qw(x y z));
	my $waiter = session($node, 'waiter');
	$_->do('BEGIN; LOCK TABLE t1 IN ACCESS SHARE MODE') for reverse @by_pid;
	my ($x, $y, $z) = map { $_->name } reverse @by_pid;
	settle($node, $waiter->send('BEGIN; LOCK TABLE t1'));
	shows($node, 'equally deep: under the oldest transaction', \@edges, <<~EOT);
		$x | - | - | 1
		└─ waiter | x,y,z | x,y,z | 0
		$y | - | - | 1
		$z | - | - | 1
		EOT
	forget_sessions();

	# Without transactions, the lowest pid counts; a transaction is older than none.
	@by_pid = sort { $a->pid <=> $b->pid } sessions($node, qw(x y z));
	$waiter = session($node, 'waiter');
	$_->do('SELECT pg_advisory_lock_shared(5)') for reverse @by_pid;
	($x, $y, $z) = map { $_->name } @by_pid;
	settle($node, $waiter->send('SELECT pg_advisory_lock(5)'));
	shows($node, 'without transactions: under the lowest pid', \@edges, <<~EOT);
		$x | - | - | 1
		└─ waiter | x,y,z | x,y,z | 0
		$y | - | - | 1
		$z | - | - | 1
		EOT
	$by_pid[2]->do('BEGIN');
	settle($node, $waiter);
	shows($node, 'with one: under that', \@edges, <<~EOT);
		$z | - | - | 1
		└─ waiter | x,y,z | x,y,z | 0
		$x | - | - | 1
		$y | - | - | 1
		EOT
	forget_sessions();
};

subtest 'several blockers: under the deepest' => sub {
	# "both" waits for old, which is free to go, and for young, which waits for the root.
	my ($root, $old, $young, $both) = sessions($node, qw(root old young both));
	$old->do('BEGIN; LOCK TABLE t1 IN ACCESS SHARE MODE');
	$root->do('BEGIN; LOCK TABLE t2');
	$young->do('BEGIN; LOCK TABLE t1 IN ROW SHARE MODE');
	settle($node, $young->send('SELECT FROM t2'));
	settle($node, $young, $both->send('BEGIN; LOCK TABLE t1'));
	shows($node, 'under the deepest', [ @edges, 'depth', 'path', 'root_pid', 'blocker_mode' ], <<~EOT);
		root | - | - | 2 | 0 | root | root | -
		└─ young | root | root | 1 | 1 | root>young | root | AccessExclusiveLock
		   └─ both | old,young | old,young | 0 | 2 | root>young>both | root | RowShareLock
		old | - | - | 1 | 0 | old | old | -
		EOT
	forget_sessions();
};

subtest 'modes that are held, and modes that are waited for' => sub {
	# The parent holds several modes, and some that do not conflict.
	my ($holder, $share, $row) = sessions($node, qw(holder share row));
	$holder->do('BEGIN; LOCK TABLE t1 IN ROW SHARE MODE; LOCK TABLE t1 IN ROW EXCLUSIVE MODE;
		LOCK TABLE t1 IN SHARE UPDATE EXCLUSIVE MODE');
	settle($node, $share->send('BEGIN; LOCK TABLE t1 IN SHARE MODE'));
	settle($node, $share, $row->send('BEGIN; LOCK TABLE t1 IN ROW EXCLUSIVE MODE'));
	shows($node, 'held and queued modes', [ @edges, @wait ], <<~EOT);
		holder | - | - | 2 | - | - | - | -
		└─ share | holder | holder | 1 | relation | public.t1 | ShareLock | ShareUpdateExclusiveLock
		   └─ row | share | - | 0 | relation | public.t1 | RowExclusiveLock | ShareLock
		EOT
	forget_sessions();

	# Who holds and queues ahead counts as a holder.
	my ($other, $upgrade, $last) = sessions($node, qw(other upgrade last));
	$upgrade->do('BEGIN; LOCK TABLE t1 IN ROW EXCLUSIVE MODE');
	$other->do('BEGIN; LOCK TABLE t1 IN ACCESS SHARE MODE');
	settle($node, $upgrade->send('LOCK TABLE t1'));
	settle($node, $upgrade, $last->send('BEGIN; LOCK TABLE t1 IN SHARE MODE'));
	shows($node, 'a holder that also queues', [ @edges, @wait ], <<~EOT);
		other | - | - | 2 | - | - | - | -
		└─ upgrade | other | other | 1 | relation | public.t1 | AccessExclusiveLock | AccessShareLock
		   └─ last | upgrade | upgrade | 0 | relation | public.t1 | ShareLock | RowExclusiveLock
		EOT
	forget_sessions();
};

subtest 'several trees: the largest first' => sub {
	my ($one, $two, $three, $w1, $w2, $w3, $w4, $w5) = sessions($node, qw(one two three w1 w2 w3 w4 w5));
	$one->do('BEGIN; LOCK TABLE t1');
	$two->do('BEGIN; LOCK TABLE t2');
	$three->do('BEGIN; LOCK TABLE t3');
	settle($node, $w1->send('SELECT FROM t1'));
	settle($node, $w2->send('SELECT FROM t3'));
	settle($node, $w3->send('SELECT FROM t2'));
	$w4->do('SELECT pg_advisory_lock(4)');
	settle($node, $w4->send('SELECT FROM t2'));
	settle($node, $w1, $w2, $w3, $w4, $w5->send('SELECT pg_advisory_lock(4)'));
	shows($node, 'the largest first, then the oldest', \@edges, <<~EOT);
		two | - | - | 3
		├─ w4 | two | two | 1
		│  └─ w5 | w4 | w4 | 0
		└─ w3 | two | two | 0
		one | - | - | 1
		└─ w1 | one | one | 0
		three | - | - | 1
		└─ w2 | three | three | 0
		EOT
	forget_sessions();
};

# A chain of 45 sessions, and more holders of one lock than a look at it expects.
subtest 'a chain of 45 sessions, and 90 holders of one lock' => sub {
	my @chain = sessions($node, map { sprintf 'c%02d', $_ } 0 .. 45);
	$chain[$_]->do("BEGIN; SELECT pg_advisory_xact_lock($_)") for 0 .. $#chain;
	settle($node, $chain[$_]->send('SELECT pg_advisory_xact_lock(' . ($_ - 1) . ')')) for 1 .. $#chain;
	my @rows = split /\n/, tree($node, 'depth', 'blocks');
	is(scalar @rows, 46, 'a long chain');
	is($rows[0], 'c00 | 0 | 45', 'a long chain: its root');
	is($rows[20], ' ' x 57 . '└─ c20 | 20 | 25', 'a long chain: drawn in full down to 20');
	is($rows[21], '…20 └─ c21 | 21 | 24', 'a long chain: 20 levels left out');
	is($rows[22], '…20    └─ c22 | 22 | 23', 'a long chain: and from there again');
	is($rows[45], '…40 ' . ' ' x 12 . '└─ c45 | 45 | 0', 'a long chain: 40 levels left out');
	is(LockGuard::faults($node), '', 'a long chain: true');
	forget_sessions();

	my @readers = sessions($node, map { sprintf 'r%02d', $_ } 1 .. 90);
	my $waiter = session($node, 'waiter');
	$_->do('BEGIN; SELECT FROM t1') for @readers;
	settle($node, $waiter->send('BEGIN; LOCK TABLE t1'));
	is( $observer->value('SELECT cardinality(held_by) FROM lock_tree() WHERE pid = ?', $waiter->pid),
		90, '90 holders of one lock');
	is($observer->value('SELECT count(*) FROM lock_tree()'), 91, '90 holders of one lock: a row each');
	is(LockGuard::faults($node), '', '90 holders of one lock: true');
	forget_sessions();
};

subtest 'a deadlock, and those behind it' => sub {
	my ($a, $b, $c, $d) = sessions($node, qw(a b c d));
	$a->do('BEGIN; LOCK TABLE t1');
	$b->do('BEGIN; LOCK TABLE t2');
	settle($node, $a->send('SELECT FROM t2'));
	settle($node, $a, $b->send('SELECT FROM t1'));
	settle($node, $a, $b, $c->send('BEGIN; LOCK TABLE t1'));
	settle($node, $a, $b, $c, $d->send('SELECT FROM t1'));
	shows($node, 'a deadlock', [ @edges, 'deadlock', 'depth', 'blocker_mode' ], <<~EOT);
		a | b | b | 3 | 1 | 0 | -
		└─ b | a | a | 3 | 1 | 1 | AccessExclusiveLock
		   └─ c | a,b | a | 1 | 0 | 2 | AccessShareLock
		      └─ d | a,c | a | 0 | 0 | 3 | AccessExclusiveLock
		EOT
	forget_sessions();
};

subtest 'a deadlock of three, blocked from outside' => sub {
	# Three on a cycle; the entrance is the one that is blocked from outside.
	my ($a, $b, $c, $outside) = sessions($node, qw(a b c outside));
	$a->do('BEGIN; SELECT pg_advisory_xact_lock(1)');
	$b->do('BEGIN; SELECT pg_advisory_xact_lock(2)');
	$c->do('BEGIN; SELECT pg_advisory_xact_lock_shared(3)');
	$outside->do('BEGIN; SELECT pg_advisory_xact_lock_shared(3)');
	settle($node, $a->send('SELECT pg_advisory_xact_lock(2)'));
	settle($node, $b->send('SELECT pg_advisory_xact_lock(3)'));
	settle($node, $a, $b, $c->send('SELECT pg_advisory_xact_lock(1)'));
	shows($node, 'a deadlock of three, blocked from outside', [ @edges, 'deadlock' ], <<~EOT);
		outside | - | - | 3 | 0
		└─ b | c,outside | c,outside | 2 | 1
		   └─ a | b | b | 2 | 1
		      └─ c | a | a | 2 | 1
		EOT
	$observer->value('SELECT pg_cancel_backend(?)', $b->pid);
	like(await_end($b), qr/canceling statement/, 'one gives up');
	$b->do('ROLLBACK');
	is(await_end($a), undef, 'another goes on');
	settle($node, $c);
	shows($node, 'and the rest is no deadlock', [ @edges, 'deadlock' ], <<~EOT);
		a | - | - | 1 | 0
		└─ c | a | a | 0 | 0
		EOT
	forget_sessions();
};

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
	# A row for each of them, far apart: one without would come and go meanwhile, and wake the leader up.
	my $query = 'SELECT sum(look_behind(id)) FROM large WHERE id IN (1, 20000)';
	like(join("\n", map { values %$_ } $leader->rows("EXPLAIN $query")), qr/Workers Planned: 2/, 'a parallel query');
	$locker->do('BEGIN; LOCK TABLE t1');
	$leader->send($query);
	await($node, 'the workers wait', q{SELECT count(*) = 2
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
