# Every form of ALTER TABLE, and the other commands that can be guarded, at low priority: each waits
# for a lock that somebody holds, keeps nobody waiting meanwhile, and does its work then.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LockGuard;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my @commands = (
	'ALTER TABLE', 'ALTER INDEX', 'ALTER VIEW', 'ALTER MATERIALIZED VIEW', 'ALTER SEQUENCE',
	'ALTER FOREIGN TABLE', 'DROP TABLE', 'DROP INDEX', 'DROP VIEW', 'DROP MATERIALIZED VIEW',
	'DROP SEQUENCE', 'DROP FOREIGN TABLE', 'DROP TRIGGER', 'DROP RULE', 'TRUNCATE TABLE',
	'CREATE INDEX', 'CREATE TRIGGER', 'CREATE RULE', 'REINDEX', 'CLUSTER',
	'REFRESH MATERIALIZED VIEW', 'COMMENT', 'LOCK TABLE');

my $node = start_node(
	'forms',
	"shared_preload_libraries = 'pg_lockguard'",
	"deadlock_timeout = '1s'",
	"pg_lockguard.ddl_lock_timeout = '100ms'",
	'allow_in_place_tablespaces = on',
	"pg_lockguard.ddl_commands = '" . join(', ', @commands) . "'");

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

my $read = sub { "SELECT FROM f.$_[0] LIMIT 1" };
my $write = sub { "LOCK TABLE f.$_[0] IN ROW EXCLUSIVE MODE" };
my $vacuum = sub { "LOCK TABLE f.$_[0] IN SHARE UPDATE EXCLUSIVE MODE" };

# Statement; what the session in the way does; the relation that the statement is after then.
my @cases = (
	# Columns
	[ 'ALTER TABLE child ADD COLUMN a int', $read->('child'), 'child' ],
	[ 'ALTER TABLE child ADD COLUMN a int NOT NULL DEFAULT random() * 10', $read->('child'), 'child' ],
	[ 'ALTER TABLE child ADD COLUMN a serial', $read->('child'), 'child' ],
	[ 'ALTER TABLE child ADD COLUMN a int GENERATED ALWAYS AS IDENTITY', $read->('child'), 'child' ],
	[ 'ALTER TABLE child ADD COLUMN IF NOT EXISTS label text', $read->('child'), 'child' ],
	[ 'ALTER TABLE child DROP COLUMN amount', $read->('child'), 'child' ],
	[ 'ALTER TABLE child DROP COLUMN IF EXISTS missing', $read->('child'), 'child' ],
	[ 'ALTER TABLE child DROP COLUMN id CASCADE', $read->('looking'), 'child|looking' ],
	[ 'ALTER TABLE child ALTER COLUMN label SET DEFAULT 1', $read->('child'), 'child' ],
	[ 'ALTER TABLE child ALTER COLUMN label DROP DEFAULT', $read->('child'), 'child' ],
	[ 'ALTER TABLE child ALTER COLUMN label SET NOT NULL', $read->('child'), 'child' ],
	[ 'ALTER TABLE loose ALTER COLUMN id DROP NOT NULL', $read->('loose'), 'loose' ],
	[ 'ALTER TABLE child ALTER COLUMN label SET STATISTICS 10', $vacuum->('child'), 'child' ],
	[ 'ALTER TABLE child ALTER COLUMN label SET (n_distinct = 5)', $vacuum->('child'), 'child' ],
	[ 'ALTER TABLE child ALTER COLUMN label SET STORAGE external', $read->('child'), 'child' ],
	[ 'ALTER TABLE child RENAME COLUMN label TO sticker', $read->('child'), 'child' ],
	[ 'ALTER TABLE forebear RENAME COLUMN id TO ident', $read->('heir'), 'heir' ],
	[ 'ALTER TABLE forebear ADD COLUMN a int', $read->('heir'), 'heir' ],
	# Types, with what depends on them
	[ 'ALTER TABLE child ALTER COLUMN amount TYPE bigint', $read->('child'), 'child' ],
	[ 'ALTER TABLE parent ALTER COLUMN id TYPE bigint', $read->('child'), 'child' ],
	[ 'ALTER TABLE child ALTER COLUMN parent_id TYPE bigint', $read->('parent'), 'parent' ],
	# Constraints
	[ 'ALTER TABLE child ADD CHECK (amount < 1000)', $read->('child'), 'child' ],
	[ 'ALTER TABLE child ADD UNIQUE (amount)', $read->('child'), 'child' ],
	[ 'ALTER TABLE child ADD CONSTRAINT u UNIQUE USING INDEX child_label', $read->('child'), 'child' ],
	[ 'ALTER TABLE loose ADD PRIMARY KEY (id)', $read->('loose'), 'loose' ],
	[ 'ALTER TABLE child VALIDATE CONSTRAINT later', $vacuum->('child'), 'child' ],
	[ 'ALTER TABLE child DROP CONSTRAINT later', $read->('child'), 'child' ],
	[ 'ALTER TABLE child RENAME CONSTRAINT later TO sooner', $read->('child'), 'child' ],
	[ 'ALTER TABLE child ALTER CONSTRAINT child_parent DEFERRABLE', $read->('child'), 'child' ],
	# Foreign keys: either side may be busy
	[ 'ALTER TABLE loose ADD FOREIGN KEY (parent_id) REFERENCES parent', $write->('loose'), 'loose' ],
	[ 'ALTER TABLE loose ADD FOREIGN KEY (parent_id) REFERENCES parent', $write->('parent'), 'parent' ],
	[ 'ALTER TABLE loose ADD COLUMN a int REFERENCES parent', $write->('parent'), 'parent' ],
	[ 'ALTER TABLE part ADD FOREIGN KEY (k) REFERENCES parent', $write->('part_1'), 'part_1' ],
	[ 'ALTER TABLE part ADD FOREIGN KEY (k) REFERENCES parent', $write->('parent'), 'parent' ],
	[ 'ALTER TABLE child DROP CONSTRAINT child_parent', $read->('parent'), 'parent' ],
	[ 'ALTER TABLE parent DROP CONSTRAINT parent_pkey CASCADE', $read->('child'), 'child' ],
	# Triggers and rules
	[ 'ALTER TABLE child DISABLE TRIGGER t', $write->('child'), 'child' ],
	[ 'ALTER TABLE child ENABLE TRIGGER ALL', $write->('child'), 'child' ],
	[ 'ALTER TABLE child ENABLE REPLICA TRIGGER t', $write->('child'), 'child' ],
	[ 'ALTER TABLE child DISABLE RULE r', $read->('child'), 'child' ],
	# Row security
	[ 'ALTER TABLE child ENABLE ROW LEVEL SECURITY', $read->('child'), 'child' ],
	[ 'ALTER TABLE child FORCE ROW LEVEL SECURITY', $read->('child'), 'child' ],
	# Storage and ownership
	[ 'ALTER TABLE child SET (fillfactor = 50)', $vacuum->('child'), 'child' ],
	[ 'ALTER TABLE child RESET (fillfactor)', $vacuum->('child'), 'child' ],
	[ 'ALTER TABLE child SET TABLESPACE away', $read->('child'), 'child' ],
	[ 'ALTER TABLE child SET UNLOGGED', $read->('child'), 'child' ],
	[ 'ALTER TABLE child CLUSTER ON child_amount', $vacuum->('child'), 'child' ],
	[ 'ALTER TABLE child REPLICA IDENTITY FULL', $read->('child'), 'child' ],
	[ 'ALTER TABLE child OWNER TO other', $read->('child'), 'child' ],
	[ 'ALTER TABLE loose OWNER TO other', $read->('loose_serial_seq'), 'loose_serial_seq' ],
	[ 'ALTER TABLE child RENAME TO kid', $read->('child'), 'child' ],
	[ 'ALTER TABLE IF EXISTS child RENAME TO kid', $read->('child'), 'child' ],
	[ 'ALTER TABLE child SET SCHEMA f2', $read->('child'), 'child' ],
	[ 'ALTER TABLE loose SET SCHEMA f2', $read->('loose_serial_seq'), 'loose_serial_seq' ],
	[ 'ALTER TABLE IF EXISTS missing ADD COLUMN a int', undef, undef ],
	# Inheritance, types of tables
	[ 'ALTER TABLE heir_to_be INHERIT forebear', $read->('heir_to_be'), 'heir_to_be' ],
	[ 'ALTER TABLE heir_to_be INHERIT forebear', $vacuum->('forebear'), 'forebear' ],
	[ 'ALTER TABLE heir NO INHERIT forebear', $read->('heir'), 'heir' ],
	[ 'ALTER TABLE shaped OF shape', $read->('shaped'), 'shaped' ],
	[ 'ALTER TABLE typed NOT OF', $read->('typed'), 'typed' ],
	# Partitions
	[ 'ALTER TABLE part ATTACH PARTITION part_3 FOR VALUES FROM (20) TO (30)', $read->('part_3'), 'part_3' ],
	[ 'ALTER TABLE part ATTACH PARTITION part_3 FOR VALUES FROM (20) TO (30)', $vacuum->('part'), 'part' ],
	[   'ALTER TABLE part ATTACH PARTITION part_3 FOR VALUES FROM (20) TO (30)',
		'INSERT INTO f.part_default VALUES (99, 1)', 'part_default' ],
	[ 'ALTER TABLE part DETACH PARTITION part_1', $read->('part_1'), 'part_1' ],
	[ 'ALTER TABLE part DETACH PARTITION part_1', $read->('part'), 'part' ],
	[ 'ALTER TABLE part ADD COLUMN a int', $read->('part_2'), 'part_2' ],
	[ 'ALTER TABLE part ALTER COLUMN k SET NOT NULL', $read->('part_2'), 'part_2' ],
	[ 'ALTER TABLE part ALTER COLUMN k TYPE bigint', $read->('part_2'), 'part_2' ],
	[ 'ALTER TABLE part DROP CONSTRAINT positive', $read->('part_2'), 'part_2' ],
	[ 'ALTER TABLE part RENAME COLUMN k TO key', $read->('part_2'), 'part_2' ],
	[ 'ALTER TABLE part ADD PRIMARY KEY (id)', $read->('part_1'), 'part_1' ],
	[ 'ALTER TABLE ONLY part ALTER COLUMN k SET DEFAULT 1', $read->('part'), 'part' ],
	# Other relations by ALTER TABLE
	[ 'ALTER TABLE looking RENAME TO glancing', $read->('looking'), 'looking' ],
	[ 'ALTER TABLE looking ALTER COLUMN id SET DEFAULT 1', $read->('looking'), 'looking' ],
	[ 'ALTER TABLE counter RENAME TO meter', $read->('counter'), 'counter' ],
	[ 'ALTER TABLE counter SET SCHEMA f2', $read->('counter'), 'counter' ],
	[ 'ALTER TABLE child_amount SET (fillfactor = 50)', $read->('child') ], # a reader is not in its way
	[ 'ALTER TABLE child_amount SET TABLESPACE away', $read->('child'), 'child_amount' ],
	[ 'ALTER TABLE remote ADD COLUMN a int', 'LOCK TABLE f.child IN ACCESS SHARE MODE', undef, 'free' ],
	[ 'ALTER TABLE seen RENAME COLUMN id TO number', $read->('seen'), 'seen' ],
	# Other commands
	[ 'ALTER INDEX child_amount SET TABLESPACE away', $read->('child'), 'child_amount' ],
	[ 'ALTER INDEX child_amount RENAME TO child_sum', $read->('child') ],
	[ 'ALTER VIEW looking SET SCHEMA f2', $read->('looking'), 'looking' ],
	[ 'ALTER VIEW looking ALTER COLUMN id SET DEFAULT 1', $read->('looking'), 'looking' ],
	[ 'ALTER MATERIALIZED VIEW seen RENAME TO viewed', $read->('seen'), 'seen' ],
	[ 'ALTER SEQUENCE counter RENAME TO meter', $read->('counter'), 'counter' ],
	[ 'ALTER SEQUENCE counter INCREMENT 2', q{SELECT nextval('f.counter')}, 'counter' ],
	[ 'DROP TABLE loose', $read->('loose'), 'loose' ],
	[ 'DROP TABLE loose, shaped', $read->('shaped'), 'shaped' ],
	[ 'DROP TABLE child CASCADE', $read->('parent'), 'parent' ],
	[ 'DROP TABLE part_1', $read->('part'), 'part' ],
	[ 'DROP TABLE part', $read->('part_2'), 'part_2' ],
	[ 'DROP TABLE IF EXISTS missing, loose', $read->('loose'), 'loose' ],
	[ 'DROP INDEX child_amount', $read->('child'), 'child' ],
	[ 'DROP INDEX part_k', $read->('part_1'), 'part_1|part_1_k_idx' ],
	[ 'DROP VIEW looking', $read->('looking'), 'looking' ],
	[ 'DROP MATERIALIZED VIEW seen', $read->('seen'), 'seen' ],
	[ 'DROP SEQUENCE counter', $read->('counter'), 'counter' ],
	[ 'DROP TRIGGER t ON child', $read->('child'), 'child' ],
	[ 'DROP RULE r ON child', $read->('child'), 'child' ],
	[ 'TRUNCATE loose', $read->('loose'), 'loose' ],
	[ 'TRUNCATE loose, shaped', $read->('shaped'), 'shaped' ],
	[ 'TRUNCATE parent CASCADE', $read->('child'), 'child' ],
	[ 'TRUNCATE part', $read->('part_2'), 'part_2' ],
	[ 'CREATE INDEX ON child (parent_id)', $write->('child'), 'child' ],
	[ 'CREATE INDEX ON part (id)', $write->('part_2'), 'part_2' ],
	[ 'CREATE TRIGGER t2 BEFORE INSERT ON child FOR EACH ROW EXECUTE FUNCTION nothing()', $write->('child'), 'child' ],
	[ 'CREATE RULE r2 AS ON DELETE TO child WHERE false DO INSTEAD NOTHING', $read->('child'), 'child' ],
	[ 'REINDEX TABLE child', $write->('child'), 'child' ],
	[ 'REINDEX TABLE child', $read->('child'), 'child_pkey|child_amount|child_label' ],
	[ 'REINDEX INDEX child_amount', $read->('child'), 'child_amount' ],
	[ 'CLUSTER child USING child_amount', $read->('child'), 'child' ],
	[ 'REFRESH MATERIALIZED VIEW seen', $read->('seen'), 'seen' ],
	[ 'REFRESH MATERIALIZED VIEW CONCURRENTLY seen', $vacuum->('child'), undef, 'free' ],
	[ q{COMMENT ON TABLE child IS 'busy'}, $vacuum->('child'), 'child' ],
	[ q{COMMENT ON COLUMN child.label IS 'busy'}, $vacuum->('child'), 'child' ],
	[ 'BEGIN; LOCK TABLE child, parent; COMMIT', $read->('parent'), 'parent' ],
	[ 'BEGIN; LOCK TABLE part IN EXCLUSIVE MODE; COMMIT', $write->('part_2'), 'part_2' ],
	[ 'BEGIN; LOCK TABLE looking; COMMIT', $read->('child'), 'child' ],
);

my $holder = session($node, 'holder');
my $ddl = session($node, 'ddl');
my $witness = session($node, 'witness');
my $maker = session($node, 'maker');
$_->do("SET statement_timeout = '20s'") for $witness, $holder;
$maker->do('SET pg_lockguard.ddl_mode = off');
$maker->do('SET client_min_messages = error');
$ddl->do('SET search_path = f, public');
$ddl->do('SET client_min_messages = error');

# A lock that turns up inside the statement is waited for there, as long as nobody waits for what the
# statement has locked: somebody does, until it gives that back.
my $pressing = session($node, 'pressing');
$pressing->do($_) for 'SET pg_lockguard.ddl_mode = off', q{SET lock_timeout = '1s'};

sub press
{
	my $relation = LockGuard::observer($node)->value(
		q{SELECT min(l.relation::regclass::text) FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
		WHERE l.pid = ? AND l.granted AND c.relkind IN ('r', 'p', 'v') AND c.oid >= 16384 AND l.mode <> 'AccessShareLock'
			AND EXISTS (SELECT FROM pg_locks w WHERE w.pid = l.pid AND NOT w.granted AND w.locktype = 'relation')}, $ddl->pid);
	return unless defined $relation;
	$pressing->do('BEGIN');
	eval { $pressing->do("LOCK TABLE $relation"); 1 } or note($@);
	$pressing->do('ROLLBACK');
	return;
}

my @tables = qw(parent child loose forebear heir heir_to_be part part_1 part_2 part_3 part_default looking seen shaped);

my $sent_count = 0;
for my $case (@cases)
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
		my @waits = (
			q{SELECT EXISTS (SELECT FROM pg_lockguard_progress WHERE pid = ? AND phase = 'waiting'
				AND replace(relation, 'f.', '') = ANY(string_to_array(?, '|')))
				OR EXISTS (SELECT FROM pg_stat_activity WHERE pid = ? AND state <> 'active' AND query = ?)},
			$ddl->pid, $after, $ddl->pid, $sent);
		until (LockGuard::observer($node)->value(@waits))
		{
			press();
			usleep(10_000);
		}
		ok(!$ddl->ready, "$test: it waits for that") or diag($ddl->error);
		is( $witness->value('SELECT string_agg(mode, $$, $$) FROM pg_locks WHERE pid = ? AND locktype = $$relation$$', $ddl->pid),
			undef, "$test: without a lock meanwhile") if $statement !~ /BEGIN/;
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

# What commits on its way, or waits for all others by design, is PostgreSQL's own business.
{
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
}

# 200 partitions, one of them busy.
{
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
}

forget_sessions();
$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP:|terminated by signal/, 'no crash');

done_testing();
