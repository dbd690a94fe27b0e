# A statement at low priority that had to wait has the locks that PostgreSQL itself takes, and no others; and
# what it knows that it needs, it does not try to take while it waits.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LockGuard;
use LockGuard::Locks;
use LockGuard::LowPriority qw(await_pressed);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my ($node, $ddl, $holder) = start_scene('contended');

# What the session in the way does; whether the statement knows beforehand that it needs that lock: then
# it has not been tried while it waits ("known", and not "learned"). It does not wait where that is "free".
sub contended
{
	for my $case (@_)
	{
		my ($statement, $in_the_way, $outcome) = @$case;
		my $test = "$statement [$in_the_way]";
		my $plain = locks_of($ddl, $statement, 'off');
		unlike($plain, qr/ERROR/, "$test: succeeds");
		$holder->do('BEGIN');
		$holder->do($in_the_way);
		my $guarded = locks_of(
			$ddl, $statement, 'low_priority',
			sub {
				return if $outcome eq 'free';
				await_pressed($ddl, "$test: it waits",
					q{SELECT EXISTS (SELECT FROM pg_lockguard_progress WHERE pid = ? AND phase = 'waiting')}, $ddl->pid);
				my ($wait) = LockGuard::observer($node)->rows(
					'SELECT longest_stall <> $$0$$ OR backend_xid IS NOT NULL AS tried
						FROM pg_lockguard_progress JOIN pg_stat_activity USING (pid) WHERE pid = ?', $ddl->pid);
				is($wait->{tried} ? 'learned' : 'known', $outcome, "$test: it is $outcome");
				$holder->do('COMMIT');
			});
		is($guarded, $plain, "$test: the same locks");
		$holder->do('COMMIT') if $outcome eq 'free';
	}
	return;
}

subtest 'columns' => sub {
	contended(
		[ 'ALTER TABLE child ADD COLUMN a int', reads('child'), 'known' ],
		[ 'ALTER TABLE child ADD COLUMN a int REFERENCES parent', writes('parent'), 'known' ],
		[ 'ALTER TABLE child DROP COLUMN parent_id CASCADE', reads('parent'), 'known' ],
		[ 'ALTER TABLE forebear ADD COLUMN a int', reads('grandheir'), 'known' ],
		[ 'ALTER TABLE ONLY forebear DROP COLUMN k CASCADE', reads('heir'), 'known' ],
		[ 'ALTER TABLE parent ALTER COLUMN id TYPE bigint', reads('child'), 'known' ],
		[ 'ALTER TABLE forebear ALTER COLUMN u TYPE bigint', reads('grandheir'), 'known' ],
		[ 'ALTER TABLE part ALTER COLUMN k SET NOT NULL', reads('part_2_1'), 'known' ],
		[ 'ALTER TABLE forebear RENAME COLUMN u TO v', reads('grandheir'), 'known' ],
	);
};

subtest 'constraints' => sub {
	contended(
		[ 'ALTER TABLE forebear ADD CHECK (k < 500)', reads('grandheir'), 'known' ],
		[ 'ALTER TABLE forebear DROP CONSTRAINT positive', reads('grandheir'), 'known' ],
		[ 'ALTER TABLE forebear RENAME CONSTRAINT positive TO more', reads('grandheir'), 'known' ],
		[ 'ALTER TABLE forebear VALIDATE CONSTRAINT later', vacuums('grandheir'), 'known' ],
		[ 'ALTER TABLE keyless_part ADD UNIQUE (id)', writes('keyless_2_1'), 'known' ],
		[ 'ALTER TABLE loose ADD FOREIGN KEY (parent_id) REFERENCES parent', writes('parent'), 'known' ],
		[ 'ALTER TABLE loose ADD FOREIGN KEY (parent_id) REFERENCES keyed NOT VALID', writes('keyed_2'), 'known' ],
		[ 'ALTER TABLE part ADD FOREIGN KEY (parent_id) REFERENCES uncle', writes('part_2_1'), 'known' ],
		[ 'ALTER TABLE child DROP CONSTRAINT child_parent', reads('parent'), 'known' ],
		[ 'ALTER TABLE keyed_user DROP CONSTRAINT user_key', reads('keyed_1'), 'known' ],
		[ 'ALTER TABLE part DROP CONSTRAINT part_parent_id_fkey', reads('parent'), 'known' ],
		[ 'ALTER TABLE parent DROP CONSTRAINT parent_pkey CASCADE', reads('child'), 'known' ],
	);
};

subtest 'other forms of ALTER' => sub {
	contended(
		[ 'ALTER TABLE part DISABLE TRIGGER t', writes('part_2_1'), 'known' ],
		[ 'ALTER TABLE child OWNER TO other', q{SELECT nextval('child_serial_seq')}, 'known' ],
		[ 'ALTER TABLE child SET SCHEMA f2', q{SELECT nextval('child_serial_seq')}, 'known' ],
		[ 'ALTER TABLE heir_to_be INHERIT forebear', vacuums('forebear'), 'known' ],
		[ 'ALTER TABLE part ATTACH PARTITION part_3 FOR VALUES FROM (20) TO (30)', reads('part_default'), 'known' ],
		[ 'ALTER TABLE part DETACH PARTITION part_2', reads('part_2_1'), 'known' ],
		[ 'ALTER TABLE part DETACH PARTITION part_1', reads('part_default'), 'known' ],
		[ 'ALTER TABLE ALL IN TABLESPACE abroad SET TABLESPACE away', reads('moving'), 'known' ],
		[ 'TRUNCATE child RESTART IDENTITY', q{SELECT nextval('child_serial_seq')}, 'known' ],
		[ 'ALTER TABLE child DROP COLUMN id CASCADE', reads('looking'), 'known' ],
		[ 'ALTER TABLE forebear ALTER COLUMN parent_id TYPE bigint', reads('parent'), 'known' ],
		[ 'ALTER INDEX child_amount SET TABLESPACE away', reads('child'), 'known' ],
		[ 'ALTER VIEW looking SET SCHEMA f2', reads('looking'), 'known' ],
		[ 'ALTER MATERIALIZED VIEW seen RENAME TO viewed', reads('seen'), 'known' ],
		[ 'ALTER SEQUENCE counter INCREMENT 2', q{SELECT nextval('counter')}, 'known' ],
		[ 'ALTER FOREIGN TABLE remote ADD COLUMN a int', 'LOCK TABLE near IN ACCESS SHARE MODE', 'free' ],
	);
};

subtest 'DROP' => sub {
	contended(
		[ 'DROP TABLE loose, shaped', reads('shaped'), 'known' ],
		[ 'DROP TABLE keyed_user', reads('keyed_1'), 'known' ],
		[ 'DROP TABLE part', reads('parent'), 'known' ],
		[ 'DROP TABLE part_1', reads('part_default'), 'known' ],
		[ 'DROP TABLE IF EXISTS missing, loose', reads('loose'), 'known' ],
		[ 'DROP TABLE parent CASCADE', reads('child'), 'known' ],
		[ 'DROP INDEX part_k', reads('part_2_1'), 'known' ],
		[ 'DROP VIEW over', reads('over'), 'known' ],
		[ 'DROP MATERIALIZED VIEW seen', reads('seen'), 'known' ],
		[ 'DROP SEQUENCE counter', q{SELECT nextval('counter')}, 'known' ],
		[ 'DROP TRIGGER t ON child', reads('child'), 'known' ],
		[ 'DROP RULE r ON child', reads('child'), 'known' ],
	);
};

subtest 'other commands' => sub {
	contended(
		[ 'TRUNCATE forebear', reads('grandheir'), 'known' ],
		[ 'TRUNCATE parent CASCADE', reads('child'), 'known' ],
		[ 'LOCK TABLE part IN EXCLUSIVE MODE', writes('part_2_1'), 'known' ],
		[ 'LOCK TABLE looking', reads('child'), 'learned' ],
		[ 'CREATE INDEX ON part (id)', writes('part_2_1'), 'known' ],
		[   'CREATE TRIGGER t2 BEFORE INSERT ON part FOR EACH ROW EXECUTE FUNCTION nothing()',
			writes('part_2_1'), 'known' ],
		[ 'CREATE RULE r2 AS ON DELETE TO child WHERE false DO INSTEAD NOTHING', reads('child'), 'known' ],
		[ 'REINDEX INDEX child_amount', reads('child'), 'known' ],
		[ 'REINDEX TABLE child', writes('child'), 'known' ],
		[ 'REINDEX TABLE child', reads('child'), 'learned' ],
		[ 'CLUSTER child USING child_amount', reads('child'), 'known' ],
		[ 'REFRESH MATERIALIZED VIEW seen', reads('seen'), 'known' ],
		[ q{COMMENT ON TABLE child IS 'young'}, vacuums('child'), 'known' ],
		[ q{COMMENT ON COLUMN child.label IS 'young'}, vacuums('child'), 'known' ],
	);
};

subtest 'NOT NULL constraints' => sub {
	plan skip_all => 'from 18 on' if $node->pg_version < 18;
	contended(
		[ 'ALTER TABLE forebear ADD CONSTRAINT n NOT NULL k', reads('grandheir'), 'known' ],
		[ 'ALTER TABLE late VALIDATE CONSTRAINT late_k', vacuums('late_grandheir'), 'known' ],
		[ 'ALTER TABLE late ALTER COLUMN k SET NOT NULL', reads('late_grandheir'), 'known' ],
		[ 'ALTER TABLE late ALTER COLUMN id DROP NOT NULL', reads('late_grandheir'), 'known' ],
		[ 'ALTER TABLE ONLY late ALTER COLUMN id DROP NOT NULL', reads('late_grandheir'), 'free' ],
		[ 'ALTER TABLE ONLY late ALTER COLUMN id DROP NOT NULL', reads('late_heir'), 'known' ],
		[ 'ALTER TABLE late DROP CONSTRAINT late_id', reads('late_grandheir'), 'known' ]
	);
};

subtest 'a lock in two modes of which neither covers the other is needed in both' => sub {
	$ddl->do(q{
		CREATE SEQUENCE runs;
		CREATE TABLE single (id int);
		INSERT INTO single VALUES (1);
		CREATE FUNCTION run_and_lock() RETURNS int VOLATILE LANGUAGE plpgsql AS $$ BEGIN
			PERFORM nextval('f.runs');
			LOCK TABLE f.single IN SHARE UPDATE EXCLUSIVE MODE;
			RETURN 1;
		END $$;
		CREATE FUNCTION locked(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN
			RETURN f.run_and_lock();
		END $$});
	my $statement = 'CREATE INDEX ON single (locked(id))';
	my $plain = locks_of($ddl, $statement, 'off');
	like($plain, qr/^single ShareLock\nsingle ShareUpdateExclusiveLock$/m, 'it takes both');
	# Shares a ShareLock, and keeps out the other one, which turns up inside.
	$holder->do('BEGIN; LOCK TABLE single IN SHARE MODE');
	my $before = $holder->value('SELECT last_value FROM runs');
	my $guarded = locks_of(
		$ddl, $statement, 'low_priority',
		sub {
			await_pressed($ddl, 'it waits for the weaker one',
				q{SELECT EXISTS (SELECT FROM pg_lockguard_progress
					WHERE pid = ? AND phase = 'waiting' AND lock_mode = 'ShareUpdateExclusiveLock' AND attempt > 3)},
				$ddl->pid);
			is($holder->value('SELECT last_value FROM runs') - $before, 1, 'it has run once in vain, and no more');
			$holder->do('COMMIT');
		});
	is($guarded, $plain, 'the same locks in the end');
};

ends_well($node);
done_testing();
