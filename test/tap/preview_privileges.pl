# ddl_preview() shows and does for a role what PostgreSQL would let that role do, and no more.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LockGuard;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node('privileges', q{shared_preload_libraries = 'pg_lockguard'}, q{pg_lockguard.preview_max_hold = '10s'});
$node->safe_psql(
	'postgres', q{
	CREATE ROLE owner LOGIN;
	CREATE ROLE stranger LOGIN;
	CREATE ROLE watcher LOGIN;
	GRANT pg_read_all_stats TO watcher;
	GRANT owner TO watcher;
	GRANT CREATE ON SCHEMA public TO owner;
	SET ROLE owner;
	CREATE TABLE users (id int PRIMARY KEY, n int);
	INSERT INTO users SELECT i, i FROM generate_series(1, 100) i;
	CREATE TABLE wide (id int) PARTITION BY LIST (id);
	DO $$ BEGIN FOR i IN 1 .. 201 LOOP
		EXECUTE format('CREATE TABLE wide_%s PARTITION OF wide FOR VALUES IN (%s)', i, i); END LOOP; END $$;
	CREATE TABLE split (id int) PARTITION BY LIST (id);
	CREATE TABLE split_default PARTITION OF split DEFAULT;
	INSERT INTO split VALUES (1);
	CREATE DOMAIN small AS int;
	CREATE MATERIALIZED VIEW seen AS SELECT 1 AS id;
	RESET ROLE;
	CREATE SCHEMA common;
	GRANT ALL ON SCHEMA common TO PUBLIC;
	CREATE TABLE lent (n int);
	GRANT SELECT ON lent TO owner;
	SET ROLE owner;
	CREATE MATERIALIZED VIEW borrowed AS SELECT n FROM lent WHERE n = 42;
	RESET ROLE;
	REVOKE SELECT ON lent FROM owner});

my %as = map { $_ => session($node, $_, user => $_) } qw(owner stranger watcher);
my $superuser = session($node, 'superuser');

sub outcome
{
	my ($who, $statement) = @_;
	my @rows = eval { $as{$who}->rows('SELECT * FROM ddl_preview(?)', $statement) };
	return $as{$who}->sqlstate if $@;
	return 'seen';
}

# Each is held by somebody, so that whoever may not have the lock is refused before it is looked at.
for my $statement (
	'ALTER TABLE users ADD x int', 'ALTER TABLE users ALTER n TYPE bigint', 'DROP TABLE users', 'TRUNCATE users',
	'CREATE INDEX ON users (n)', 'CREATE INDEX CONCURRENTLY ON users (n)', 'DROP INDEX CONCURRENTLY users_pkey',
	'REINDEX TABLE users', 'REINDEX TABLE CONCURRENTLY users', 'CLUSTER users USING users_pkey', 'VACUUM FULL users',
	'ALTER TABLE users SET TABLESPACE pg_default', 'ALTER TABLE wide ADD CHECK (id > 0)', 'ALTER DOMAIN small SET NOT NULL',
	'CREATE TABLE part_1 PARTITION OF split FOR VALUES IN (1)', 'REFRESH MATERIALIZED VIEW seen', 'COMMENT ON TABLE users IS NULL',
	'CREATE POLICY p ON users', 'LOCK TABLE users')
{
	is(outcome('stranger', $statement), '42501', "a stranger is refused: $statement");
	is(outcome('owner', $statement), 'seen', "the owner is not: $statement");
}
is(outcome('owner', 'ALTER TABLE users SET TABLESPACE pg_global'), '42501', 'nor does the owner put it where he may not');
subtest 'all in a tablespace' => sub {
	$superuser->do('SET allow_in_place_tablespaces = on');
	$superuser->do(q{CREATE TABLESPACE away LOCATION ''});
	my $own = 'ALTER TABLE ALL IN TABLESPACE pg_default OWNED BY owner SET TABLESPACE away';
	is(outcome('owner', $own), '42501', 'nobody moves what is his to where he may not');
	$superuser->do('GRANT CREATE ON TABLESPACE away TO owner');
	is(outcome('owner', $own), 'seen', 'he does to where he may');
	is(outcome('owner', 'ALTER TABLE ALL IN TABLESPACE pg_default SET TABLESPACE away'), '42501', 'but not what is not his');
};
is(outcome('stranger', 'CREATE TABLE mine (id int)'), '42501', 'nobody makes what he may not make');
is($superuser->value(q{SELECT count(*) FROM pg_locks l JOIN pg_stat_activity USING (pid)
	WHERE application_name <> 'superuser' AND mode = 'AccessExclusiveLock'}), 0, 'no lock is left');

# What a query is estimated to return says what is in the tables: EXPLAIN tells nobody who may not read them.
subtest 'of a query that may not be run' => sub {
	$as{$_}->do('PREPARE lookup AS SELECT n FROM users WHERE n = 42') for qw(owner stranger);
	for my $statement (
		'CREATE TABLE common.copy AS SELECT n FROM users WHERE n = 42', 'SELECT n INTO common.copy FROM users WHERE n = 42',
		'CREATE TABLE common.copy AS SELECT count(*) FROM wide', 'CREATE TABLE common.copy AS EXECUTE lookup',
		'CREATE MATERIALIZED VIEW common.copy AS SELECT n FROM users WHERE n = 42')
	{
		is(outcome('stranger', $statement), '42501', "a stranger is refused: $statement");
		is(outcome('owner', $statement), 'seen', "the owner is not: $statement");
	}
	is(outcome('owner', 'REFRESH MATERIALIZED VIEW borrowed'), '42501', 'the owner of a view may not read its table any more');
};

subtest 'what is shown of the holders' => sub {
	$superuser->do('BEGIN');
	$superuser->do('SELECT FROM users');
	my $query = q{SELECT held_by, longest_idle IS NOT NULL AS idle, longest_xact IS NOT NULL AS age
		FROM ddl_preview('ALTER TABLE users ADD x int')};
	is_deeply([ $as{owner}->rows($query) ], [ { held_by => [ $superuser->pid ], idle => 0, age => 0 } ],
		'of a session that he may not see: its pid');
	is_deeply([ $as{watcher}->rows($query) ], [ { held_by => [ $superuser->pid ], idle => 1, age => 1 } ],
		'whoever may see it sees more');
	$superuser->do('COMMIT');
};

subtest 'with the rights of a function' => sub {
	$node->safe_psql('postgres', q{
		CREATE FUNCTION for_others(text) RETURNS SETOF text LANGUAGE sql SECURITY DEFINER AS
			'SELECT action FROM public.ddl_preview($1)';
		ALTER FUNCTION for_others(text) OWNER TO owner});
	is($as{stranger}->value(q{SELECT string_agg(x, ' ') FROM for_others('ALTER TABLE public.users ADD x int') x}),
		'lock catalog only', 'its owner may');
};

subtest 'settings' => sub {
	for my $setting (qw(preview_max_hold ddl_heavy ddl_heavy_min_size))
	{
		eval { $as{owner}->do("SET pg_lockguard.$setting TO DEFAULT") };
		is($as{owner}->sqlstate, '42501', "pg_lockguard.$setting is a superuser's");
	}
	$as{owner}->do(q{SET pg_lockguard.ddl_heavy_confirm = 'public.users'});
	is($as{owner}->value('SHOW pg_lockguard.ddl_heavy_confirm'), 'public.users', 'pg_lockguard.ddl_heavy_confirm is everybody\'s');
	is($as{owner}->value(q{SELECT count(*) FROM ddl_preview('ALTER TABLE users ALTER n TYPE bigint')}), 2,
		'a preview lowers log_min_messages for itself');
	eval { $as{owner}->do(q{SET log_min_messages = 'debug1'}) };
	is($as{owner}->sqlstate, '42501', 'and nobody else does');
};

done_testing();
