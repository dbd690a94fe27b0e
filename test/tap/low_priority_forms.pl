# Every form of ALTER TABLE, and the other commands that can be guarded, at low priority: each waits for a lock
# that somebody holds, keeps nobody waiting meanwhile, and does its work then. The transaction
# is over then, so that no locks are left to compare with plain PostgreSQL's: those are the topic of
# low_priority_exact_locks*.pl.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LockGuard;
use LockGuard::LowPriority qw(await_nothing_locked await_pressed);
use LockGuard::Locks;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node(
	'forms',
	q{shared_preload_libraries = 'pg_lockguard'},
	q{deadlock_timeout = '1s'},
	q{allow_in_place_tablespaces = on},
	q{pg_lockguard.ddl_lock_timeout = '100ms'},
	q{pg_lockguard.ddl_commands = '} . guardable_commands() . q{'});
$node->safe_psql('postgres', q{
	CREATE ROLE other LOGIN;
	GRANT CREATE ON SCHEMA public TO other;
	CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$});
$node->safe_psql('postgres', q{CREATE TABLESPACE away LOCATION ''});

# What a statement may find, made anew for each.
my $scene = q{
	DROP SCHEMA IF EXISTS f, f2 CASCADE;
	CREATE SCHEMA f;
	CREATE SCHEMA f2;
	SET search_path = f, public;
	CREATE TABLE parent (id int PRIMARY KEY, code text UNIQUE, note text);
	INSERT INTO parent SELECT i, i, i FROM generate_series(1, 20) i;
	CREATE TABLE child (id int PRIMARY KEY, parent_id int, amount numeric CHECK (amount >= 0), label text DEFAULT 'x',
		CONSTRAINT child_parent FOREIGN KEY (parent_id) REFERENCES parent);
	INSERT INTO child SELECT i, i, i, i FROM generate_series(1, 20) i;
	ALTER TABLE child ADD CONSTRAINT later CHECK (id > 0) NOT VALID;
	CREATE INDEX child_amount ON child (amount);
	CREATE UNIQUE INDEX child_label ON child (label);
	CREATE TABLE loose (id int NOT NULL, parent_id int, serial serial);
	CREATE TABLE forebear (id int);
	CREATE TABLE heir () INHERITS (forebear);
	CREATE TABLE heir_to_be (id int);
	CREATE TYPE shape AS (id int, parent_id int);
	CREATE TABLE typed OF shape;
	CREATE TABLE shaped (id int, parent_id int);
	CREATE VIEW looking AS SELECT id FROM child;
	CREATE MATERIALIZED VIEW seen AS SELECT id FROM child;
	CREATE UNIQUE INDEX seen_id ON seen (id);
	CREATE SEQUENCE counter;
	CREATE TRIGGER t BEFORE INSERT ON child FOR EACH ROW EXECUTE FUNCTION nothing();
	CREATE RULE r AS ON UPDATE TO child WHERE false DO INSTEAD NOTHING;
	CREATE TABLE part (id int, k int, CONSTRAINT positive CHECK (k >= 0)) PARTITION BY RANGE (id);
	CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (10);
	CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM (10) TO (20);
	CREATE TABLE part_default PARTITION OF part DEFAULT;
	INSERT INTO part SELECT i, i FROM generate_series(1, 19) i;
	CREATE TABLE part_3 (id int, k int, CONSTRAINT positive CHECK (k >= 0));
	CREATE INDEX part_k ON part (k);
	CREATE FOREIGN DATA WRAPPER nowhere;
	CREATE SERVER far FOREIGN DATA WRAPPER nowhere;
	CREATE FOREIGN TABLE remote (id int) SERVER far;
};

my $holder = session($node, 'holder');
my $ddl = session($node, 'ddl');
my $witness = session($node, 'witness');
my $maker = session($node, 'maker');
$_->do("SET statement_timeout = '20s'") for $witness, $holder;
$maker->do('SET pg_lockguard.ddl_mode = off');
$maker->do('SET client_min_messages = error');
$ddl->do('SET search_path = f, public');
$ddl->do('SET client_min_messages = error');

my @tables = qw(parent child loose forebear heir heir_to_be part part_1 part_2 part_3 part_default looking seen shaped);

# Statement; what the session in the way does; the relation that the statement is after then; or that it is
# "free" to go.
my $sent_count = 0;

sub waits_and_is_done
{
	for my $case (@_)
	{
		my ($statement, $in_the_way, $after, $outcome) = @$case;
		$outcome //= defined $after ? 'waits' : 'free';
		my $test = "$statement" . (defined $after ? " [$after busy]" : '');
		$maker->do('DROP FOREIGN DATA WRAPPER IF EXISTS nowhere CASCADE');
		$maker->do($scene);
		$holder->do('BEGIN');
		$holder->do($in_the_way) if $in_the_way;
		my $sent = "$statement /* " . ++$sent_count . ' */';
		$ddl->send($sent);
		if ($outcome eq 'waits')
		{
			await_pressed($ddl, "$test: it waits",
				q{SELECT EXISTS (SELECT FROM pg_lockguard_progress WHERE pid = ? AND phase = 'waiting'
					AND replace(relation, 'f.', '') = ANY(string_to_array(?, '|')))
					OR EXISTS (SELECT FROM pg_stat_activity WHERE pid = ? AND state <> 'active' AND query = ?)},
				$ddl->pid, $after, $ddl->pid, $sent);
			ok(!$ddl->ready, "$test: it waits for that") or diag($ddl->error);
			await_nothing_locked($ddl), pass("$test: without a lock meanwhile") if $statement !~ /BEGIN/;
			# A reader of everything, for as long as one look takes.
			$witness->do('SELECT 1 FROM ' . join(', ', map { "(SELECT FROM f.$_ LIMIT 1) AS \"$_\"" } @tables));
		}
		$holder->do('COMMIT');
		my $error = $ddl->error;
		is($error, undef, "$test: done");
		$ddl->do('ROLLBACK') if defined $error && $statement =~ /BEGIN/;
		is($witness->value(q{SELECT count(*) FROM pg_locks WHERE pid = ? AND locktype <> 'virtualxid'}, $ddl->pid)
			+ $witness->value('SELECT count(*) FROM pg_lockguard_progress'),
			0, "$test: nothing is left");
	}
	return;
}

subtest 'columns' => sub {
	waits_and_is_done(
		[ 'ALTER TABLE child ADD COLUMN a int', reads('child'), 'child' ],
		[ 'ALTER TABLE child ADD COLUMN a int NOT NULL DEFAULT random() * 10', reads('child'), 'child' ],
		[ 'ALTER TABLE child ADD COLUMN a serial', reads('child'), 'child' ],
		[ 'ALTER TABLE child ADD COLUMN a int GENERATED ALWAYS AS IDENTITY', reads('child'), 'child' ],
		[ 'ALTER TABLE child ADD COLUMN IF NOT EXISTS label text', reads('child'), 'child' ],
		[ 'ALTER TABLE child DROP COLUMN amount', reads('child'), 'child' ],
		[ 'ALTER TABLE child DROP COLUMN IF EXISTS missing', reads('child'), 'child' ],
		[ 'ALTER TABLE child DROP COLUMN id CASCADE', reads('looking'), 'child|looking' ],
		[ 'ALTER TABLE child ALTER COLUMN label SET DEFAULT 1', reads('child'), 'child' ],
		[ 'ALTER TABLE child ALTER COLUMN label DROP DEFAULT', reads('child'), 'child' ],
		[ 'ALTER TABLE child ALTER COLUMN label SET NOT NULL', reads('child'), 'child' ],
		[ 'ALTER TABLE loose ALTER COLUMN id DROP NOT NULL', reads('loose'), 'loose' ],
		[ 'ALTER TABLE child ALTER COLUMN label SET STATISTICS 10', vacuums('child'), 'child' ],
		[ 'ALTER TABLE child ALTER COLUMN label SET (n_distinct = 5)', vacuums('child'), 'child' ],
		[ 'ALTER TABLE child ALTER COLUMN label SET STORAGE external', reads('child'), 'child' ],
		[ 'ALTER TABLE child RENAME COLUMN label TO sticker', reads('child'), 'child' ],
		[ 'ALTER TABLE forebear RENAME COLUMN id TO ident', reads('heir'), 'heir' ],
		[ 'ALTER TABLE forebear ADD COLUMN a int', reads('heir'), 'heir' ],
	);
};

subtest 'types, with what depends on them' => sub {
	waits_and_is_done(
		[ 'ALTER TABLE child ALTER COLUMN amount TYPE bigint', reads('child'), 'child' ],
		[ 'ALTER TABLE parent ALTER COLUMN id TYPE bigint', reads('child'), 'child' ],
		[ 'ALTER TABLE child ALTER COLUMN parent_id TYPE bigint', reads('parent'), 'parent' ],
	);
};

subtest 'constraints' => sub {
	waits_and_is_done(
		[ 'ALTER TABLE child ADD CHECK (amount < 1000)', reads('child'), 'child' ],
		[ 'ALTER TABLE child ADD UNIQUE (amount)', reads('child'), 'child' ],
		[ 'ALTER TABLE child ADD CONSTRAINT u UNIQUE USING INDEX child_label', reads('child'), 'child' ],
		[ 'ALTER TABLE loose ADD PRIMARY KEY (id)', reads('loose'), 'loose' ],
		[ 'ALTER TABLE child VALIDATE CONSTRAINT later', vacuums('child'), 'child' ],
		[ 'ALTER TABLE child DROP CONSTRAINT later', reads('child'), 'child' ],
		[ 'ALTER TABLE child RENAME CONSTRAINT later TO sooner', reads('child'), 'child' ],
		[ 'ALTER TABLE child ALTER CONSTRAINT child_parent DEFERRABLE', reads('child'), 'child' ],
	);
};

subtest 'foreign keys: either side may be busy' => sub {
	waits_and_is_done(
		[ 'ALTER TABLE loose ADD FOREIGN KEY (parent_id) REFERENCES parent', writes('loose'), 'loose' ],
		[ 'ALTER TABLE loose ADD FOREIGN KEY (parent_id) REFERENCES parent', writes('parent'), 'parent' ],
		[ 'ALTER TABLE loose ADD COLUMN a int REFERENCES parent', writes('parent'), 'parent' ],
		[ 'ALTER TABLE part ADD FOREIGN KEY (k) REFERENCES parent', writes('part_1'), 'part_1' ],
		[ 'ALTER TABLE part ADD FOREIGN KEY (k) REFERENCES parent', writes('parent'), 'parent' ],
		[ 'ALTER TABLE child DROP CONSTRAINT child_parent', reads('parent'), 'parent' ],
		[ 'ALTER TABLE parent DROP CONSTRAINT parent_pkey CASCADE', reads('child'), 'child' ],
	);
};

subtest 'triggers and rules' => sub {
	waits_and_is_done(
		[ 'ALTER TABLE child DISABLE TRIGGER t', writes('child'), 'child' ],
		[ 'ALTER TABLE child ENABLE TRIGGER ALL', writes('child'), 'child' ],
		[ 'ALTER TABLE child ENABLE REPLICA TRIGGER t', writes('child'), 'child' ],
		[ 'ALTER TABLE child DISABLE RULE r', reads('child'), 'child' ],
	);
};

subtest 'row security' => sub {
	waits_and_is_done(
		[ 'ALTER TABLE child ENABLE ROW LEVEL SECURITY', reads('child'), 'child' ],
		[ 'ALTER TABLE child FORCE ROW LEVEL SECURITY', reads('child'), 'child' ],
	);
};

subtest 'storage and ownership' => sub {
	waits_and_is_done(
		[ 'ALTER TABLE child SET (fillfactor = 50)', vacuums('child'), 'child' ],
		[ 'ALTER TABLE child RESET (fillfactor)', vacuums('child'), 'child' ],
		[ 'ALTER TABLE child SET TABLESPACE away', reads('child'), 'child' ],
		[ 'ALTER TABLE child SET UNLOGGED', reads('child'), 'child' ],
		[ 'ALTER TABLE child CLUSTER ON child_amount', vacuums('child'), 'child' ],
		[ 'ALTER TABLE child REPLICA IDENTITY FULL', reads('child'), 'child' ],
		[ 'ALTER TABLE child OWNER TO other', reads('child'), 'child' ],
		[ 'ALTER TABLE loose OWNER TO other', reads('loose_serial_seq'), 'loose_serial_seq' ],
		[ 'ALTER TABLE child RENAME TO kid', reads('child'), 'child' ],
		[ 'ALTER TABLE IF EXISTS child RENAME TO kid', reads('child'), 'child' ],
		[ 'ALTER TABLE child SET SCHEMA f2', reads('child'), 'child' ],
		[ 'ALTER TABLE loose SET SCHEMA f2', reads('loose_serial_seq'), 'loose_serial_seq' ],
		[ 'ALTER TABLE IF EXISTS missing ADD COLUMN a int', undef, undef ],
	);
};

subtest 'inheritance, types of tables' => sub {
	waits_and_is_done(
		[ 'ALTER TABLE heir_to_be INHERIT forebear', reads('heir_to_be'), 'heir_to_be' ],
		[ 'ALTER TABLE heir_to_be INHERIT forebear', vacuums('forebear'), 'forebear' ],
		[ 'ALTER TABLE heir NO INHERIT forebear', reads('heir'), 'heir' ],
		[ 'ALTER TABLE shaped OF shape', reads('shaped'), 'shaped' ],
		[ 'ALTER TABLE typed NOT OF', reads('typed'), 'typed' ],
	);
};

subtest 'partitions' => sub {
	waits_and_is_done(
		[ 'ALTER TABLE part ATTACH PARTITION part_3 FOR VALUES FROM (20) TO (30)', reads('part_3'), 'part_3' ],
		[ 'ALTER TABLE part ATTACH PARTITION part_3 FOR VALUES FROM (20) TO (30)', vacuums('part'), 'part' ],
		[   'ALTER TABLE part ATTACH PARTITION part_3 FOR VALUES FROM (20) TO (30)',
			'INSERT INTO f.part_default VALUES (99, 1)', 'part_default' ],
		[ 'ALTER TABLE part DETACH PARTITION part_1', reads('part_1'), 'part_1' ],
		[ 'ALTER TABLE part DETACH PARTITION part_1', reads('part'), 'part' ],
		[ 'ALTER TABLE part ADD COLUMN a int', reads('part_2'), 'part_2' ],
		[ 'ALTER TABLE part ALTER COLUMN k SET NOT NULL', reads('part_2'), 'part_2' ],
		[ 'ALTER TABLE part ALTER COLUMN k TYPE bigint', reads('part_2'), 'part_2' ],
		[ 'ALTER TABLE part DROP CONSTRAINT positive', reads('part_2'), 'part_2' ],
		[ 'ALTER TABLE part RENAME COLUMN k TO key', reads('part_2'), 'part_2' ],
		[ 'ALTER TABLE part ADD PRIMARY KEY (id)', reads('part_1'), 'part_1' ],
		[ 'ALTER TABLE ONLY part ALTER COLUMN k SET DEFAULT 1', reads('part'), 'part' ],
	);
};

subtest 'other relations by ALTER TABLE' => sub {
	waits_and_is_done(
		[ 'ALTER TABLE looking RENAME TO glancing', reads('looking'), 'looking' ],
		[ 'ALTER TABLE looking ALTER COLUMN id SET DEFAULT 1', reads('looking'), 'looking' ],
		[ 'ALTER TABLE counter RENAME TO meter', reads('counter'), 'counter' ],
		[ 'ALTER TABLE counter SET SCHEMA f2', reads('counter'), 'counter' ],
		[ 'ALTER TABLE child_amount SET (fillfactor = 50)', reads('child') ], # a reader is not in its way
		[ 'ALTER TABLE child_amount SET TABLESPACE away', reads('child'), 'child_amount' ],
		[ 'ALTER TABLE remote ADD COLUMN a int', 'LOCK TABLE f.child IN ACCESS SHARE MODE', undef, 'free' ],
		[ 'ALTER TABLE seen RENAME COLUMN id TO number', reads('seen'), 'seen' ],
	);
};

subtest 'other commands' => sub {
	waits_and_is_done(
		[ 'ALTER INDEX child_amount SET TABLESPACE away', reads('child'), 'child_amount' ],
		[ 'ALTER INDEX child_amount RENAME TO child_sum', reads('child') ],
		[ 'ALTER VIEW looking SET SCHEMA f2', reads('looking'), 'looking' ],
		[ 'ALTER VIEW looking ALTER COLUMN id SET DEFAULT 1', reads('looking'), 'looking' ],
		[ 'ALTER MATERIALIZED VIEW seen RENAME TO viewed', reads('seen'), 'seen' ],
		[ 'ALTER SEQUENCE counter RENAME TO meter', reads('counter'), 'counter' ],
		[ 'ALTER SEQUENCE counter INCREMENT 2', q{SELECT nextval('f.counter')}, 'counter' ],
		[ 'DROP TABLE loose', reads('loose'), 'loose' ],
		[ 'DROP TABLE loose, shaped', reads('shaped'), 'shaped' ],
		[ 'DROP TABLE child CASCADE', reads('parent'), 'parent' ],
		[ 'DROP TABLE part_1', reads('part'), 'part' ],
		[ 'DROP TABLE part', reads('part_2'), 'part_2' ],
		[ 'DROP TABLE IF EXISTS missing, loose', reads('loose'), 'loose' ],
		[ 'DROP INDEX child_amount', reads('child'), 'child' ],
		[ 'DROP INDEX part_k', reads('part_1'), 'part_1|part_1_k_idx' ],
		[ 'DROP VIEW looking', reads('looking'), 'looking' ],
		[ 'DROP MATERIALIZED VIEW seen', reads('seen'), 'seen' ],
		[ 'DROP SEQUENCE counter', reads('counter'), 'counter' ],
		[ 'DROP TRIGGER t ON child', reads('child'), 'child' ],
		[ 'DROP RULE r ON child', reads('child'), 'child' ],
		[ 'TRUNCATE loose', reads('loose'), 'loose' ],
		[ 'TRUNCATE loose, shaped', reads('shaped'), 'shaped' ],
		[ 'TRUNCATE parent CASCADE', reads('child'), 'child' ],
		[ 'TRUNCATE part', reads('part_2'), 'part_2' ],
		[ 'CREATE INDEX ON child (parent_id)', writes('child'), 'child' ],
		[ 'CREATE INDEX ON part (id)', writes('part_2'), 'part_2' ],
		[ 'CREATE TRIGGER t2 BEFORE INSERT ON child FOR EACH ROW EXECUTE FUNCTION nothing()', writes('child'), 'child' ],
		[ 'CREATE RULE r2 AS ON DELETE TO child WHERE false DO INSTEAD NOTHING', reads('child'), 'child' ],
		[ 'REINDEX TABLE child', writes('child'), 'child' ],
		[ 'REINDEX (CONCURRENTLY, CONCURRENTLY false) TABLE child', writes('child'), 'child' ],    # the last one counts
		[ 'REINDEX TABLE child', reads('child'), 'child_pkey|child_amount|child_label' ],
		[ 'REINDEX INDEX child_amount', reads('child'), 'child_amount' ],
		[ 'CLUSTER child USING child_amount', reads('child'), 'child' ],
		[ 'REFRESH MATERIALIZED VIEW seen', reads('seen'), 'seen' ],
		[ 'REFRESH MATERIALIZED VIEW CONCURRENTLY seen', vacuums('child'), undef, 'free' ],
		[ q{COMMENT ON TABLE child IS 'busy'}, vacuums('child'), 'child' ],
		[ q{COMMENT ON COLUMN child.label IS 'busy'}, vacuums('child'), 'child' ],
		[ 'BEGIN; LOCK TABLE child, parent; COMMIT', reads('parent'), 'parent' ],
		[ 'BEGIN; LOCK TABLE part IN EXCLUSIVE MODE; COMMIT', writes('part_2'), 'part_2' ],
		[ 'BEGIN; LOCK TABLE looking; COMMIT', reads('child'), 'child' ],
	);
};

# It commits on its way, or waits for all others by design.
subtest 'what is left to PostgreSQL' => sub {
	$maker->do('DROP FOREIGN DATA WRAPPER IF EXISTS nowhere CASCADE');
	$maker->do($scene);
	$maker->do('RESET pg_lockguard.ddl_mode');
	$maker->do('DROP TABLE part_default');
	for my $statement (
		'ALTER TABLE part DETACH PARTITION part_1 CONCURRENTLY',
		'CREATE INDEX CONCURRENTLY ON child (parent_id)',
		'REINDEX TABLE CONCURRENTLY child',
		'REINDEX TABLE part',
		'REINDEX SCHEMA f',
		'DROP INDEX CONCURRENTLY child_amount',
		'CLUSTER')
	{
		ok(eval { $maker->do($statement); 1 }, "$statement is left to PostgreSQL") or diag($@);
	}
};

subtest '200 partitions, one of them busy' => sub {
	$maker->do('SET pg_lockguard.ddl_mode = off');
	$maker->do(q{
		CREATE TABLE many (id int, k int) PARTITION BY RANGE (id);
		DO $$ BEGIN FOR i IN 0..199 LOOP
			EXECUTE format('CREATE TABLE many_%s PARTITION OF many FOR VALUES FROM (%s) TO (%s)', i, i, i + 1);
		END LOOP; END $$});
	$holder->do('BEGIN');
	$holder->do('SELECT FROM f.many_150');
	$ddl->send('ALTER TABLE many ADD COLUMN a int');
	await($node, 'it waits for the busy one',
		q{SELECT EXISTS (SELECT FROM pg_lockguard_progress WHERE phase = 'waiting' AND relation = 'f.many_150')});
	is($witness->value('SELECT count(*) FROM f.many'), 0, '200 partitions: the whole is readable meanwhile');
	is($witness->value('SELECT longest_stall FROM pg_lockguard_progress'), '00:00:00', '200 partitions: without a stall');
	$holder->do('COMMIT');
	is($ddl->error, undef, '200 partitions: done');
};

ends_well($node);
done_testing();
