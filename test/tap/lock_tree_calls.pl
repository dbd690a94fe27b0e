# lock_tree(): every way of calling it.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LockGuard;
use LockGuard::Tree;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_tree_node('calls');
my $observer = LockGuard::observer($node);

subtest 'ways of calling it' => sub {
	my ($holder, $waiter) = sessions($node, qw(holder waiter));
	$holder->do('BEGIN; LOCK TABLE t1');
	settle($node, $waiter->send('SELECT FROM t1'));
	my $caller = session($node, 'caller');

	$caller->do('BEGIN READ ONLY');
	is($caller->value('SELECT count(*) FROM lock_tree()'), 2, 'in a read-only transaction');
	$caller->do('ROLLBACK; BEGIN ISOLATION LEVEL SERIALIZABLE');
	is($caller->value('SELECT count(*) FROM lock_tree()'), 2, 'in a serializable transaction');
	$caller->do('SAVEPOINT s');
	is($caller->value('SELECT count(*) FROM lock_tree()'), 2, 'in a subtransaction');
	eval { $caller->do('SELECT 1 / (SELECT count(*) - 2 FROM lock_tree())') };
	like($@, qr/division by zero/, 'an error after it');
	$caller->do('ROLLBACK TO s');
	is($caller->value('SELECT count(*) FROM lock_tree()'), 2, 'and again');
	is( $caller->value(q{SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid()
			AND relation = ANY ('{pg_namespace,pg_authid,pg_database}'::regclass[])}),
		0, 'no lock on a catalog is kept');
	$caller->do('ROLLBACK');

	is($caller->value('SELECT count(*) FROM lock_tree() a JOIN lock_tree() b USING (pid)'), 2, 'twice in one query');
	is($caller->value('SELECT count(*) FROM generate_series(1, 3) g, LATERAL (SELECT * FROM lock_tree() WHERE g > 0) t'),
		6, 'again for each row');
	is($caller->value('SELECT count(*) FROM (SELECT (lock_tree()).pid) t'), 2, 'in a select list');
	is($caller->value('SELECT pid FROM lock_tree() LIMIT 1'), $holder->pid, 'with a limit');
	is($caller->value('SELECT max(ordinality) FROM lock_tree() WITH ORDINALITY'), 2, 'with ordinality');
	$caller->do(q{
		CREATE FUNCTION first_root() RETURNS int LANGUAGE plpgsql AS $$
		DECLARE
			r record;
		BEGIN
			FOR r IN SELECT * FROM lock_tree() LOOP
				RETURN r.pid;
			END LOOP;
		END $$;
		CREATE FUNCTION roots() RETURNS SETOF int LANGUAGE sql STABLE AS 'SELECT pid FROM lock_tree() WHERE depth = 0';
		CREATE SCHEMA ops;
		CREATE VIEW ops.locks AS SELECT * FROM lock_tree();
		CREATE TABLE ops.history AS SELECT now() AS at, * FROM lock_tree();
	});
	is($caller->value('SELECT first_root()'), $holder->pid, 'in a function that stops half-way');
	is($caller->value('SELECT roots()'), $holder->pid, 'in an SQL function');
	is($caller->value('SELECT count(*) FROM ops.locks'), 2, 'in a view');
	is($caller->value('SELECT count(*) FROM ops.history'), 2, 'kept in a table');

	$caller->do('BEGIN; DECLARE c SCROLL CURSOR WITH HOLD FOR SELECT pid, pg_backend_pid() FROM lock_tree()');
	is($caller->value('FETCH c'), $holder->pid, 'a cursor');
	is($caller->value('FETCH c'), $waiter->pid, 'a cursor: the second row');
	is($caller->value('FETCH PRIOR c'), $holder->pid, 'a cursor: and back');
	$caller->do('COMMIT');
	$holder->do('COMMIT');
	is(await_end($waiter), undef, 'the waiter goes');
	is($caller->value('FETCH NEXT c'), $waiter->pid, 'a held cursor keeps its rows');
	is($caller->value('SELECT count(*) FROM lock_tree()'), 0, 'and the tree is empty');
	$caller->do('CLOSE c');

	# The caller itself is the culprit.
	$caller->do('BEGIN; LOCK TABLE t1');
	settle($node, $waiter->send('SELECT FROM t1'));
	my ($row) = $caller->rows('SELECT pid, blocks, state, query FROM lock_tree() WHERE depth = 0 /* me */');
	is_deeply($row, { pid => $caller->pid, blocks => 1, state => 'active',
			query => 'SELECT pid, blocks, state, query FROM lock_tree() WHERE depth = 0 /* me */' },
		'the caller is the root');
	settle($node, $waiter);
	shows($node, 'the caller is the root, seen by another', [ @edges ], <<~EOT);
		caller | - | - | 1
		└─ waiter | caller | caller | 0
		EOT
	$caller->do('ROLLBACK');

	# The extension moves, and goes.
	$caller->do('BEGIN; ALTER EXTENSION pg_lockguard SET SCHEMA ops');
	is($caller->value('SELECT count(*) FROM ops.lock_tree()'), 0, 'in another schema');
	is($caller->value('SELECT count(*) FROM ops.locks'), 0, 'the view follows');
	$caller->do('ROLLBACK; BEGIN; DROP EXTENSION pg_lockguard CASCADE; CREATE EXTENSION pg_lockguard SCHEMA ops');
	is($caller->value('SELECT count(*) FROM ops.lock_tree()'), 0, 'created in another schema');
	is( $caller->value(q{SELECT count(*) FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
			WHERE e.extname = 'pg_lockguard' AND d.deptype = 'e' AND d.classid = 'pg_proc'::regclass
				AND d.objid = 'ops.lock_tree'::regproc}),
		1, 'and its own');
	$caller->do('ROLLBACK');
	forget_sessions();
};

# Another version's declaration: an error, no crash.
subtest "another version's declaration is an error, no crash" => sub {
	my $caller = session($node, 'caller');
	eval { $caller->do(q{
		CREATE FUNCTION old_tree(OUT tree text, OUT pid int) RETURNS SETOF record LANGUAGE c
			AS '$libdir/pg_lockguard', 'pg_lockguard_lock_tree';
		SELECT * FROM old_tree()}) };
	is($caller->{dbh}->state, '55000', 'another version of the SQL declaration');
	like($@, qr/DETAIL:  The function has 2 columns.*HINT:  Run ALTER EXTENSION/s, 'says what to do');
	forget_sessions();
};

like(slurp_file($node->logfile), qr/statement: /, 'there is a server log');
ends_well($node);
done_testing();
