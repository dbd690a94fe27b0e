# Which statements are guarded, which are left alone, and who may say so.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LockGuard;
use LockGuard::Guard;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_guarded_node('commands');
my ($out, $err);
my @as_weak = (extra_params => [ '-v', 'VERBOSITY=verbose', '-U', 'weak' ]);

subtest 'every command that ddl_commands takes' => sub {
	$node->safe_psql(
		'postgres', q{
		CREATE TABLE t (id int PRIMARY KEY);
		CREATE INDEX t_id ON t (id);
		CREATE VIEW v AS SELECT 1 AS one;
		CREATE MATERIALIZED VIEW mv AS SELECT 1 AS one;
		CREATE SEQUENCE s;
		CREATE FOREIGN DATA WRAPPER fdw;
		CREATE SERVER server FOREIGN DATA WRAPPER fdw;
		CREATE FOREIGN TABLE ft (id int) SERVER server;
		CREATE FUNCTION trigger_function() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
		CREATE TRIGGER t_trigger AFTER INSERT ON t EXECUTE FUNCTION trigger_function();
		CREATE RULE t_rule AS ON UPDATE TO t DO ALSO NOTHING;
		CREATE POLICY t_policy ON t USING (true);
	});
	my $all = hold($node, 'all',
		q{BEGIN; LOCK TABLE t; LOCK TABLE v; SELECT count(*) FROM mv; SELECT nextval('s'); ALTER FOREIGN TABLE ft ADD COLUMN x int;
		  REINDEX INDEX t_id; ALTER SEQUENCE s INCREMENT 2; REFRESH MATERIALIZED VIEW mv});
	my %command = (
		'ALTER TABLE' => 'ALTER TABLE t RENAME TO t2',
		'ALTER INDEX' => 'ALTER INDEX t_id RENAME TO t_id2',
		'ALTER VIEW' => 'ALTER VIEW v RENAME TO v2',
		'ALTER MATERIALIZED VIEW' => 'ALTER MATERIALIZED VIEW mv SET SCHEMA pg_catalog',
		'ALTER SEQUENCE' => 'ALTER SEQUENCE s INCREMENT 3',
		'ALTER FOREIGN TABLE' => 'ALTER FOREIGN TABLE ft ADD COLUMN y int',
		'DROP TABLE' => 'DROP TABLE t',
		'DROP INDEX' => 'DROP INDEX t_id',
		'DROP VIEW' => 'DROP VIEW v',
		'DROP MATERIALIZED VIEW' => 'DROP MATERIALIZED VIEW mv',
		'DROP SEQUENCE' => 'DROP SEQUENCE s',
		'DROP FOREIGN TABLE' => 'DROP FOREIGN TABLE ft',
		'DROP TRIGGER' => 'DROP TRIGGER t_trigger ON t',
		'DROP RULE' => 'DROP RULE t_rule ON t',
		'TRUNCATE TABLE' => 'TRUNCATE t',
		'CREATE INDEX' => 'CREATE INDEX ON t (id)',
		'CREATE TRIGGER' => 'CREATE TRIGGER t_trigger2 AFTER INSERT ON t EXECUTE FUNCTION trigger_function()',
		'CREATE RULE' => 'CREATE RULE t_rule2 AS ON DELETE TO t DO ALSO NOTHING',
		'REINDEX' => 'REINDEX TABLE t',
		'CLUSTER' => 'CLUSTER t USING t_id',
		'REFRESH MATERIALIZED VIEW' => 'REFRESH MATERIALIZED VIEW mv',
		'COMMENT' => q{COMMENT ON TABLE t IS 'no'},
		'CREATE TABLE' => 'CREATE TABLE t2 () INHERITS (t)',
		'CREATE POLICY' => 'CREATE POLICY t_policy2 ON t USING (true)',
		'ALTER POLICY' => 'ALTER POLICY t_policy ON t USING (false)',
		'DROP POLICY' => 'DROP POLICY t_policy ON t',
		'DROP SCHEMA' => 'DROP SCHEMA public CASCADE',
		'LOCK TABLE' => 'BEGIN; LOCK TABLE t IN ACCESS SHARE MODE');
	for my $tag (sort keys %command)
	{
		# Where REFRESH keeps a lock on the schema (newer minor releases), that is the first in the way.
		my $relation = $tag eq 'DROP SCHEMA' ? qr/(?:public\.\w+|schema public)/ : qr/public\.\w+/;
		like(
			detail_of($node, "SET pg_lockguard.ddl_commands = '$tag'; $command{$tag}"),
			qr/^DETAIL:  $tag $waited for \w+Lock on $relation\. Blocked by PID/,
			"$tag is guarded");
	}
	(undef, $err) = run_script($node, q{SET pg_lockguard.ddl_commands = 'ALTER TABLE, VACUUM'});
	my ($supported) = $err =~ /HINT: .*Supported are: (.*)\./;
	is(join(', ', sort split /, /, $supported // $err),
		join(', ', sort keys %command, $node->safe_psql('postgres', 'SHOW server_version_num') >= 190000 ? 'REPACK' : ()),
		'the HINT lists the commands that are guarded');
	forget_sessions($all);
};

subtest 'who may change the settings' => sub {
	for my $setting ('ddl_mode = off', q{ddl_commands = ''}, q{ddl_lock_timeout = '1h'})
	{
		(undef, $err) = run_script($node, "SET pg_lockguard.$setting", @as_weak);
		like($err, qr/ERROR:  42501: permission denied to set parameter/, "not for everybody: $setting");
	}
	$node->safe_psql('postgres', 'GRANT SET ON PARAMETER pg_lockguard.ddl_mode TO weak');
	($out, $err) = run_script($node, 'SET pg_lockguard.ddl_mode = off; SHOW pg_lockguard.ddl_mode', @as_weak);
	is("$out$err", 'off', 'but it can be granted');
};

# Those that commit on their way; in a server with assertions a setting of one transaction would not
# survive them. ddl_lock_timeout is too short for any of their waits.
subtest 'statements that commit on their way are left alone' => sub {
	$node->safe_psql(
		'postgres', q{
		CREATE TABLE alone (id int) PARTITION BY RANGE (id);
		CREATE TABLE alone_1 PARTITION OF alone FOR VALUES FROM (0) TO (10);
		CREATE TABLE alone_2 PARTITION OF alone FOR VALUES FROM (10) TO (20);
		CREATE INDEX alone_id ON alone (id);
		CREATE TABLE clustered (id int PRIMARY KEY);
		CLUSTER clustered USING clustered_pkey;
		CREATE SCHEMA empty;
	});
	my @commands = ('-c', q{SET pg_lockguard.ddl_commands = 'ALTER TABLE, CREATE INDEX, DROP INDEX, REINDEX, CLUSTER'},
		'-c', q{SET pg_lockguard.ddl_lock_timeout = '1ms'}, '-c', q{SET lock_timeout = '1h'});
	for my $statement (
		'REINDEX TABLE alone',
		'REINDEX INDEX alone_id',
		'REINDEX TABLE CONCURRENTLY clustered',
		'REINDEX (CONCURRENTLY) INDEX clustered_pkey',
		'REINDEX (CONCURRENTLY FALSE) INDEX clustered_pkey',
		'REINDEX SCHEMA empty',
		'REINDEX SYSTEM postgres',
		'CLUSTER',
		'CLUSTER alone USING alone_id',
		'CREATE INDEX CONCURRENTLY clustered_id ON clustered (id)',
		'DROP INDEX CONCURRENTLY clustered_id',
		'ALTER TABLE alone DETACH PARTITION alone_1 CONCURRENTLY')
	{
		my ($stdout, $stderr) = run_command(
			[ 'psql', '-XAtq', '-d', $node->connstr('postgres'), @commands, '-c', $statement, '-c', 'SHOW lock_timeout' ]);
		is("$stdout$stderr", '1h', "left alone: $statement");
	}
};

# In the way of its first lock already, which it takes in its first transaction.
subtest 'CREATE INDEX CONCURRENTLY' => sub {
	my $old = hold($node, 'old', 'BEGIN; LOCK TABLE clustered IN SHARE UPDATE EXCLUSIVE MODE');
	my $concurrent = session($node, 'concurrent');
	$concurrent->do(q{SET pg_lockguard.ddl_commands = 'CREATE INDEX'});
	$concurrent->do(q{SET pg_lockguard.ddl_lock_timeout = '1ms'});
	settle($node, $concurrent->send('CREATE INDEX CONCURRENTLY waited ON clustered (id)'));
	$old->do('COMMIT');
	is($concurrent->error, undef, 'CREATE INDEX CONCURRENTLY comes to its end');
	is($node->safe_psql('postgres', q{SELECT indisvalid FROM pg_index WHERE indexrelid = 'waited'::regclass}),
		't', 'CREATE INDEX CONCURRENTLY waits as long as it takes');
	forget_sessions($old, $concurrent);
};

ends_well($node);
done_testing();
