# Commands that lock relations which they do not name first: CREATE TABLE, DETACH PARTITION … FINALIZE,
# policies, DROP SCHEMA; and pg_lockguard.ddl_commands = all. Each takes exactly PostgreSQL's locks in the
# end, waits for them without keeping anybody waiting, and asks for rights first.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LockGuard;
use LockGuard::Locks;
use LockGuard::LowPriority;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my ($node, $ddl, $holder) = start_scene('more_commands');
$node->safe_psql('postgres', q{ALTER SYSTEM SET pg_lockguard.ddl_commands = 'all'; SELECT pg_reload_conf()});
await($node, 'the setting', q{SELECT setting = 'all' FROM pg_settings WHERE name = 'pg_lockguard.ddl_commands'});
$node->safe_psql(
	'postgres', q{
	SET search_path = f;
	CREATE POLICY p ON keyed USING (true);
	-- A partitioned table with a default partition, foreign keys in both directions, indexes and triggers.
	CREATE TABLE hub (id int PRIMARY KEY, parent_id int REFERENCES parent, k int) PARTITION BY RANGE (id);
	CREATE TABLE hub_1 PARTITION OF hub FOR VALUES FROM (0) TO (10);
	CREATE TABLE hub_default PARTITION OF hub DEFAULT;
	CREATE INDEX hub_k ON hub (k);
	CREATE TRIGGER t BEFORE INSERT ON hub FOR EACH ROW EXECUTE FUNCTION nothing();
	CREATE TABLE hub_user (id int, hub_id int REFERENCES hub);
	CREATE TABLE part_user (keyed_id int REFERENCES keyed, hub_id int) PARTITION BY RANGE (keyed_id);
	CREATE TABLE part_user_1 PARTITION OF part_user FOR VALUES FROM (0) TO (10);
	CREATE TABLE tree (id int PRIMARY KEY, up int REFERENCES tree) PARTITION BY RANGE (id);
	CREATE TABLE tree_1 PARTITION OF tree FOR VALUES FROM (0) TO (10);
	CREATE TABLE outer_part (id int) PARTITION BY RANGE (id);
	CREATE TABLE outer_default PARTITION OF outer_part DEFAULT PARTITION BY RANGE (id);
	CREATE TABLE outer_default_1 PARTITION OF outer_default FOR VALUES FROM (0) TO (10);
	-- Schemas: one that nothing outside depends on, one with threads to all sides, an empty one.
	CREATE SCHEMA plain;
	CREATE TABLE plain.t (id int PRIMARY KEY, s serial, note text);
	CREATE VIEW plain.v AS SELECT * FROM plain.t;
	CREATE SEQUENCE plain.s;
	CREATE MATERIALIZED VIEW plain.m AS SELECT * FROM plain.t;
	CREATE INDEX ON plain.m (id);
	CREATE SCHEMA woven;
	CREATE TABLE woven.t (id int PRIMARY KEY, parent_id int REFERENCES f.parent);
	CREATE TYPE woven.mood AS ENUM ('sad', 'ok');
	CREATE FUNCTION woven.one() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1';
	CREATE SEQUENCE woven.numbers;
	CREATE TABLE f.moody (id int DEFAULT nextval('woven.numbers'), mood woven.mood, CHECK (id > woven.one()));
	CREATE TABLE f.pointer (id int PRIMARY KEY, t_id int REFERENCES woven.t);
	CREATE VIEW f.window_view AS SELECT woven.t.id FROM woven.t JOIN f.pointer ON t_id = woven.t.id;
	CREATE INDEX ON f.moody ((id + woven.one()));
	CREATE TABLE f.listed (id int) PARTITION BY RANGE (id);
	CREATE TABLE woven.listed_1 PARTITION OF f.listed FOR VALUES FROM (0) TO (10);
	CREATE TABLE f.listed_default PARTITION OF f.listed DEFAULT;
	CREATE FUNCTION woven.noted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
	CREATE TABLE f.watched (id int);
	CREATE TRIGGER watch BEFORE INSERT ON f.watched FOR EACH ROW EXECUTE FUNCTION woven.noted();
	CREATE TABLE f.guarded (id int);
	CREATE POLICY mood ON f.guarded USING (woven.one() = 1);
	CREATE TABLE f.heir_outside () INHERITS (woven.t);
	CREATE STATISTICS woven.stats ON id, k FROM f.near;
	CREATE SCHEMA nothing_in_it;
	CREATE SCHEMA some_more;
	CREATE TABLE some_more.t (id int);
});

# A partition whose detaching was broken off.
my $breaker = session($node, 'breaker');
sub leave_pending
{
	my ($table, $partition) = @_;
	$breaker->do("BEGIN; SELECT FROM f.$table LIMIT 1");
	my $detacher = session($node, 'detacher');
	$detacher->send("ALTER TABLE f.$table DETACH PARTITION f.$partition CONCURRENTLY");
	await($node, 'it is pending',
		q{SELECT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = ('f.' || ?)::regclass AND inhdetachpending)}, $partition);
	await($node, 'it waits', q{SELECT EXISTS (SELECT FROM pg_locks WHERE pid = ? AND NOT granted)}, $detacher->pid);
	$breaker->value('SELECT pg_cancel_backend(?)', $detacher->pid);
	$detacher->error;
	forget_sessions($detacher);
	$breaker->do('COMMIT');
	return;
}
$node->safe_psql(
	'postgres', q{
	SET search_path = f;
	CREATE TABLE pend (id int PRIMARY KEY, parent_id int REFERENCES parent, k int) PARTITION BY RANGE (id);
	CREATE TABLE pend_1 PARTITION OF pend FOR VALUES FROM (0) TO (10);
	CREATE TABLE pend_2 PARTITION OF pend FOR VALUES FROM (10) TO (20) PARTITION BY RANGE (id);
	CREATE TABLE pend_2_1 PARTITION OF pend_2 FOR VALUES FROM (10) TO (15);
	CREATE INDEX ON pend (k);
	CREATE TRIGGER t BEFORE INSERT ON pend FOR EACH ROW EXECUTE FUNCTION nothing();
	CREATE TABLE pend2 (id int) PARTITION BY RANGE (id);
	CREATE TABLE pend2_1 PARTITION OF pend2 FOR VALUES FROM (0) TO (10) PARTITION BY RANGE (id);
	CREATE TABLE pend2_1_1 PARTITION OF pend2_1 FOR VALUES FROM (0) TO (5)});
leave_pending('pend', 'pend_1');
leave_pending('pend2', 'pend2_1');

subtest 'the same locks' => sub {
	same_locks($ddl,
		# CREATE TABLE
		'CREATE TABLE fresh (id int)',
		'CREATE TABLE fresh (id int PRIMARY KEY, up int REFERENCES fresh)',
		'CREATE TABLE fresh (id int PRIMARY KEY, up int, FOREIGN KEY (up) REFERENCES f.fresh)',
		'CREATE TABLE fresh () INHERITS (forebear)',
		'CREATE TABLE fresh () INHERITS (forebear, keyless)' => 'may fail',
		'CREATE TABLE fresh (own int) INHERITS (heir)',
		'CREATE TABLE fresh () INHERITS (looking)' => 'fails',
		'CREATE TABLE fresh () INHERITS (part)' => 'fails',
		'CREATE TABLE fresh () INHERITS (missing)' => 'fails',
		'CREATE TABLE fresh (id int, parent_id int REFERENCES parent)',
		'CREATE TABLE fresh (id int, parent_id int REFERENCES parent, code text REFERENCES parent (code))',
		'CREATE TABLE fresh (id int, FOREIGN KEY (id) REFERENCES keyed)',
		'CREATE TABLE fresh (id int, FOREIGN KEY (id) REFERENCES hub ON DELETE CASCADE)',
		'CREATE TABLE fresh (id int REFERENCES parent, keyed_id int REFERENCES keyed) PARTITION BY RANGE (id)',
		'CREATE TABLE fresh (id int REFERENCES missing)' => 'fails',
		'CREATE TABLE fresh (id int REFERENCES looking)' => 'fails',
		'CREATE TABLE fresh (id int REFERENCES loose)' => 'fails',
		'CREATE TABLE fresh (LIKE child)',
		'CREATE TABLE fresh (LIKE child INCLUDING ALL)',
		'CREATE TABLE fresh (LIKE parent INCLUDING INDEXES, child_id int REFERENCES child)',
		'CREATE TABLE fresh (LIKE looking)',
		'CREATE TABLE fresh (LIKE shape)',
		'CREATE TABLE fresh (LIKE remote)',
		'CREATE TABLE fresh (LIKE counter)' => 'may fail',
		'CREATE TABLE fresh OF shape',
		'CREATE TABLE IF NOT EXISTS child (id int REFERENCES parent)',
		'CREATE TABLE IF NOT EXISTS fresh (id int REFERENCES parent)',
		'CREATE TABLE child (id int REFERENCES parent)' => 'fails',
		'CREATE UNLOGGED TABLE fresh (id int) INHERITS (forebear)',
		'CREATE TEMPORARY TABLE fresh (own int) INHERITS (forebear)',
		'CREATE TEMPORARY TABLE fresh (id int REFERENCES parent)' => 'fails',
		'CREATE TEMPORARY TABLE fresh (LIKE child)',
		'CREATE TABLE nowhere.fresh (id int REFERENCES parent)' => 'fails',
		'CREATE TABLE f2.fresh (id int REFERENCES parent)',
		'CREATE TABLE f2.parent (id int PRIMARY KEY, up int REFERENCES f2.parent)',
		'CREATE TABLE f2.parent (id int PRIMARY KEY, up int REFERENCES parent)',
		'CREATE TABLE part_3a PARTITION OF part FOR VALUES FROM (20) TO (30)',
		'CREATE TABLE part_3a PARTITION OF part FOR VALUES FROM (0) TO (30)' => 'fails',
		'CREATE TABLE part_2_2 PARTITION OF part_2 FOR VALUES FROM (15) TO (20)',
		'CREATE TABLE keyed_4 PARTITION OF keyed FOR VALUES FROM (30) TO (40)',
		'CREATE TABLE hub_2 PARTITION OF hub FOR VALUES FROM (10) TO (20)',
		'CREATE TABLE hub_2 PARTITION OF hub (keyed_id WITH OPTIONS DEFAULT 1) FOR VALUES FROM (10) TO (20)' => 'fails',
		'CREATE TABLE hub_2 PARTITION OF hub (FOREIGN KEY (k) REFERENCES keyed) FOR VALUES FROM (10) TO (20)',
		'CREATE TABLE hub_2 PARTITION OF hub FOR VALUES FROM (10) TO (20) PARTITION BY RANGE (id)',
		'CREATE TABLE hub_2 PARTITION OF hub DEFAULT' => 'fails',
		'CREATE TABLE part_user_2 PARTITION OF part_user FOR VALUES FROM (10) TO (20)',
		'CREATE TABLE tree_2 PARTITION OF tree FOR VALUES FROM (10) TO (20)',
		'CREATE TABLE outer_1 PARTITION OF outer_part FOR VALUES FROM (100) TO (200)',
		'CREATE TABLE keyed_4 PARTITION OF keyed DEFAULT',
		'CREATE TABLE keyed_4 PARTITION OF child FOR VALUES FROM (30) TO (40)' => 'fails',
		# DETACH … FINALIZE
		'ALTER TABLE pend DETACH PARTITION pend_1 FINALIZE',
		'ALTER TABLE pend DETACH PARTITION pend_2 FINALIZE' => 'fails',
		'ALTER TABLE pend2 DETACH PARTITION pend2_1 FINALIZE',
		'ALTER TABLE part DETACH PARTITION child FINALIZE' => 'fails',
		# Policies
		'CREATE POLICY q ON child USING (id > 0)',
		'CREATE POLICY q ON part FOR SELECT USING (EXISTS (SELECT FROM parent WHERE parent.id = part.parent_id))',
		'CREATE POLICY p ON child USING (true)' => 'fails',
		'CREATE POLICY q ON looking USING (true)' => 'fails',
		'CREATE POLICY q ON missing USING (true)' => 'fails',
		'ALTER POLICY p ON child USING (id > 0)',
		'ALTER POLICY p ON child RENAME TO q',
		'ALTER POLICY p ON looking RENAME TO q' => 'fails',
		'ALTER POLICY p ON child TO other',
		'ALTER POLICY missing ON child TO other' => 'fails',
		'DROP POLICY p ON child',
		'DROP POLICY p ON keyed',
		'DROP POLICY IF EXISTS missing ON child',
		'DROP POLICY missing ON child' => 'fails',
		# DROP SCHEMA
		'DROP SCHEMA nothing_in_it',
		'DROP SCHEMA nothing_in_it, some_more CASCADE',
		'DROP SCHEMA IF EXISTS missing, nothing_in_it',
		'DROP SCHEMA missing' => 'fails',
		'DROP SCHEMA plain' => 'fails',
		'DROP SCHEMA plain CASCADE',
		'DROP SCHEMA woven' => 'fails',
		'DROP SCHEMA woven CASCADE',
		'DROP SCHEMA plain, woven, some_more CASCADE',
		'DROP SCHEMA pg_catalog CASCADE' => 'fails',
		'DROP SCHEMA f CASCADE',
		# With all
		'DROP INDEX part_k',
		'DROP INDEX hub_k',
		'TRUNCATE part',
		'TRUNCATE mixed',
		'TRUNCATE hub' => 'fails',
		'TRUNCATE hub, hub_user');
};

# By statement: what is in its way, and whether the statement knows beforehand that it needs that lock.
sub waits_politely
{
	for my $case (@_)
	{
		my ($statement, $in_the_way, $outcome) = @$case;
		my $test = "$statement [$in_the_way]";
		my $plain = locks_of($ddl, $statement, 'off');
		$holder->do('BEGIN');
		$holder->do($in_the_way);
		my $guarded = locks_of(
			$ddl,
			$statement,
			'low_priority',
			sub {
				return if $outcome eq 'free';
				await_pressed($ddl, "$test: it waits",
					q{SELECT EXISTS (SELECT FROM pg_lockguard_progress WHERE pid = ? AND phase = 'waiting')}, $ddl->pid);
				my ($wait) = LockGuard::observer($node)->rows(
					q{SELECT longest_stall <> '0' OR backend_xid IS NOT NULL AS tried
						FROM pg_lockguard_progress JOIN pg_stat_activity USING (pid) WHERE pid = ?}, $ddl->pid);
				is($wait->{tried} ? 'learned' : 'known', $outcome, "$test: it is $outcome");
				# Readers of everything, for as long as one look takes.
				LockGuard::observer($node)->do(
					q{SELECT FROM f.parent, f.hub, f.hub_default, f.part, f.forebear, f.keyed, f.child, plain.t, woven.t, f.moody, f.pointer LIMIT 1});
				$holder->do('COMMIT');
			});
		is($guarded, $plain, "$test: the same locks");
		$holder->do('COMMIT') if $outcome eq 'free';
	}
	return;
}

subtest 'they wait outside of the queue' => sub {
	LockGuard::observer($node)->do("SET statement_timeout = '20s'");
	waits_politely(
		[ 'CREATE TABLE hub_2 PARTITION OF hub FOR VALUES FROM (10) TO (20)', reads('hub'), 'known' ],
		[ 'CREATE TABLE hub_2 PARTITION OF hub FOR VALUES FROM (10) TO (20)', reads('hub_default'), 'known' ],
		[ 'CREATE TABLE hub_2 PARTITION OF hub FOR VALUES FROM (10) TO (20)', writes('parent'), 'known' ],
		[ 'CREATE TABLE hub_2 PARTITION OF hub FOR VALUES FROM (10) TO (20)', writes('hub_user'), 'known' ],
		[ 'CREATE TABLE hub_2 PARTITION OF hub FOR VALUES FROM (10) TO (20)', reads('parent'), 'free' ],
		[ 'CREATE TABLE part_user_2 PARTITION OF part_user FOR VALUES FROM (10) TO (20)', writes('keyed_2'), 'known' ],
		[ 'CREATE TABLE outer_1 PARTITION OF outer_part FOR VALUES FROM (100) TO (200)', reads('outer_default_1'), 'learned' ],
		[ 'CREATE TABLE fresh () INHERITS (forebear)', vacuums('forebear'), 'known' ],
		[ 'CREATE TABLE fresh () INHERITS (forebear)', writes('forebear'), 'free' ],
		[ 'CREATE TABLE fresh (parent_id int REFERENCES parent)', writes('parent'), 'known' ],
		[ 'CREATE TABLE fresh (keyed_id int REFERENCES keyed)', writes('keyed_1'), 'known' ],
		[ 'CREATE TABLE fresh (LIKE child)', 'LOCK TABLE f.uncle', 'free' ],
		[ 'CREATE POLICY q ON child USING (true)', reads('child'), 'known' ],
		[ 'ALTER POLICY p ON child USING (id > 0)', reads('child'), 'known' ],
		[ 'ALTER POLICY p ON child RENAME TO q', reads('child'), 'known' ],
		[ 'DROP POLICY p ON child', reads('child'), 'known' ],
		[ 'DROP SCHEMA plain CASCADE', 'SELECT FROM plain.t LIMIT 1', 'known' ],
		[ 'DROP SCHEMA plain CASCADE', 'SELECT FROM plain.m LIMIT 1', 'known' ],
		[ 'DROP SCHEMA plain CASCADE', q{SELECT nextval('plain.s')}, 'known' ],
		[ 'DROP SCHEMA plain', 'SELECT FROM plain.t LIMIT 1', 'known' ],
		[ 'DROP SCHEMA woven CASCADE', reads('parent'), 'known' ],
		[ 'DROP SCHEMA woven CASCADE', reads('moody'), 'known' ],
		[ 'DROP SCHEMA woven CASCADE', reads('pointer'), 'known' ],
		[ 'DROP SCHEMA woven CASCADE', reads('listed_default'), 'known' ],
		[ 'DROP SCHEMA woven CASCADE', reads('watched'), 'known' ],
		[ 'DROP SCHEMA woven CASCADE', reads('guarded'), 'known' ],
		[ 'DROP SCHEMA woven CASCADE', vacuums('near'), 'known' ],
		[ 'DROP SCHEMA woven CASCADE', reads('keyed'), 'free' ],
		[ 'DROP INDEX part_k', reads('part_2_1'), 'known' ],
		[ 'TRUNCATE part', reads('part_2_1'), 'known' ],
		# Whom a statement of its own session stands in the way of.
		[ 'ALTER TABLE pend DETACH PARTITION pend_1 FINALIZE', reads('pend_1'), 'known' ],
		[ 'ALTER TABLE pend DETACH PARTITION pend_1 FINALIZE', vacuums('pend'), 'known' ]);
};

subtest 'a model that is being altered' => sub {
	$holder->do('BEGIN; LOCK TABLE f.uncle');
	$ddl->do('SET pg_lockguard.ddl_mode = low_priority');
	$ddl->send('CREATE TABLE fresh (LIKE uncle)');
	await_low_priority($ddl);
	is(LockGuard::observer($node)->value('SELECT lock_mode FROM pg_lockguard_progress'), 'AccessShareLock', 'its lock is known');
	$holder->do('COMMIT');
	is($ddl->error, undef, 'done');
	$ddl->do('DROP TABLE fresh');
};

subtest 'FINALIZE waits for older snapshots with nothing locked' => sub {
	my $reader = session($node, 'reader');
	my $old = session($node, 'old');
	$old->do('BEGIN ISOLATION LEVEL REPEATABLE READ');
	$old->do('SELECT FROM f.loose LIMIT 1');
	$ddl->do('SET pg_lockguard.ddl_mode = low_priority');
	$ddl->send('ALTER TABLE pend DETACH PARTITION pend_1 FINALIZE');
	await_low_priority($ddl);
	my ($wait) = $reader->rows('SELECT relation, lock_mode, holders FROM pg_lockguard_progress');
	like($wait->{relation}, qr/^virtual transaction /, 'it waits for that transaction');
	is_deeply($wait->{holders}, [ $old->pid ], 'of that session');
	await($node, 'it has looked again', q{SELECT attempt > 2 FROM pg_lockguard_progress});
	await_nothing_locked($ddl);
	pass('it has no relation locked');
	await($node, 'it holds no snapshot', 'SELECT backend_xmin IS NULL FROM pg_stat_activity WHERE pid = ?', $ddl->pid);
	pass('and holds no snapshot');
	$reader->do("SET statement_timeout = '10s'");
	is($reader->value('SELECT count(*) FROM f.pend_1'), 0, 'the partition is readable meanwhile');
	$old->do('COMMIT');
	is($ddl->error, undef, 'done');
	is($reader->value(q{SELECT count(*) FROM pg_inherits WHERE inhrelid = 'f.pend_1'::regclass}), 0, 'it is detached');
	forget_sessions($reader, $old);
};

subtest 'FINALIZE where transactions leave no gap' => sub {
	$node->safe_psql('postgres', q{ALTER TABLE f.pend ATTACH PARTITION f.pend_1 FOR VALUES FROM (0) TO (10)});
	leave_pending('pend', 'pend_1');
	my $load = start_load($node, 8, "BEGIN;\nSELECT count(*) FROM f.loose;\nSELECT pg_sleep(0.01);\nCOMMIT;\n");
	$ddl->send('ALTER TABLE pend DETACH PARTITION pend_1 FINALIZE');
	is($ddl->error, undef, 'done');
	stop_load($load);
};

subtest 'rights come first' => sub {
	$node->safe_psql('postgres', 'CREATE ROLE poor LOGIN; GRANT ALL ON SCHEMA f TO poor; GRANT USAGE ON SCHEMA plain, woven TO poor');
	my $poor = session($node, 'poor', user => 'poor');
	$poor->do('SET search_path = f');
	for my $case (
		[ 'CREATE TABLE plain.fresh (id int REFERENCES parent)', writes('parent') ],
		[ 'CREATE TABLE plain.fresh () INHERITS (forebear)', vacuums('forebear') ],
		[ 'CREATE POLICY q ON child USING (true)', reads('child') ],
		[ 'ALTER POLICY p ON child USING (true)', reads('child') ],
		[ 'DROP POLICY p ON child', reads('child') ],
		[ 'DROP SCHEMA plain CASCADE', 'SELECT FROM plain.t LIMIT 1' ],
		[ 'ALTER TABLE pend2 DETACH PARTITION pend2_1 FINALIZE', reads('pend2_1') ])
	{
		my ($statement, $in_the_way) = @$case;
		$holder->do('BEGIN');
		$holder->do($in_the_way);
		$poor->send($statement);
		my $error = $poor->error;
		is($poor->sqlstate, '42501', "$statement: refused at once") or diag($error);
		$holder->do('COMMIT');
	}
	# What PostgreSQL locks before it looks at the rights, the guard does not lock before that either.
	for my $statement (
		'CREATE TABLE fresh (id int REFERENCES parent)',
		'CREATE TABLE fresh (LIKE child)',
		'CREATE TABLE fresh () INHERITS (forebear)',
		'CREATE TABLE hub_2 PARTITION OF hub FOR VALUES FROM (10) TO (20)')
	{
		$poor->send($statement);
		my $error = $poor->error;
		like($error, qr/must be owner of|permission denied for/, "$statement: PostgreSQL's own error");
		is($poor->sqlstate, '42501', "$statement: refused");
	}
	forget_sessions($poor);
};

subtest 'who makes a table of the same name is waited for as ever' => sub {
	my $other = session($node, 'other');
	$other->do('BEGIN; CREATE TABLE f.twin (id int)');
	$ddl->send('CREATE TABLE IF NOT EXISTS twin (id int)');
	await($node, 'it waits', q{SELECT EXISTS (SELECT FROM pg_locks WHERE pid = ? AND locktype = 'transactionid' AND NOT granted)}, $ddl->pid);
	usleep(700_000);    # longer than ddl_lock_timeout
	ok(!$ddl->ready, 'for longer than ddl_lock_timeout');
	$other->do('ROLLBACK');
	is($ddl->error, undef, 'and is done');
	$ddl->do('DROP TABLE twin');
	forget_sessions($other);
};

subtest 'values of ddl_commands' => sub {
	is($ddl->value(q{SELECT set_config('pg_lockguard.ddl_commands', ?, false)}, $_), $_, "\"$_\"") for 'all', 'ALL', 'all, ALTER TABLE', ' all ', 'CREATE TABLE,DROP SCHEMA, create policy';
	ok(!eval { $ddl->do("SET pg_lockguard.ddl_commands = 'all of it'"); 1 }, 'nothing else');
	like($@, qr/Separate commands by commas, or say all\. Supported are: ALTER TABLE, .*, LOCK TABLE, CREATE TABLE, CREATE POLICY, ALTER POLICY, DROP POLICY, DROP SCHEMA(, REPACK)?\./, 'the HINT says what');
	ok(!eval { $ddl->do("SET pg_lockguard.ddl_commands = 'VACUUM'"); 1 }, 'VACUUM is refused');
	$ddl->do("SET pg_lockguard.ddl_commands = 'ALTER TABLE'");
	$holder->do('BEGIN; LOCK TABLE f.child IN ACCESS SHARE MODE');
	$ddl->do("SET lock_timeout = '100ms'");
	$ddl->send('CREATE POLICY q ON child USING (true)');
	like($ddl->error, qr/canceling statement due to lock timeout/, 'what is not named is not guarded');
	is(LockGuard::observer($node)->value('SELECT count(*) FROM pg_lockguard_progress'), 0, 'nor waits at low priority');
	$holder->do('COMMIT');
};

ends_well($node);
done_testing();
