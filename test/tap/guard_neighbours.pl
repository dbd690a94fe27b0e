# The guard beside other libraries, in whatever order they are loaded, and loaded in another way.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LockGuard;
use LockGuard::Guard;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_guarded_node('neighbours');
my ($out, $err);
$node->safe_psql('postgres',
	q{BEGIN; LOCK TABLE other IN ROW EXCLUSIVE MODE; PREPARE TRANSACTION 'it''s 1'});
my $prepared = qr/^DETAIL:  ALTER TABLE $waited for AccessExclusiveLock on public\.other\. Blocked by prepared transaction .*it.*s 1.*\nHINT:  .*ROLLBACK PREPARED 'it''s 1'/;

subtest 'other hooks, and a prepared transaction from before a restart' => sub {
	$node->safe_psql('postgres', 'CREATE EXTENSION pg_stat_statements');
	for my $libraries ('pg_stat_statements,auto_explain,pg_lockguard', 'pg_lockguard,auto_explain,pg_stat_statements',
		'pg_stat_statements,pg_lockguard,auto_explain')
	{
		$node->append_conf(
			'postgresql.conf', qq{
			shared_preload_libraries = '$libraries'
			auto_explain.log_min_duration = 0
			auto_explain.log_nested_statements = on
			});
		$node->restart;
		my $log_start = -s $node->logfile;
		like(detail_of($node, 'ALTER TABLE other ADD COLUMN extra int'),
			$prepared, "a prepared transaction from before the restart ($libraries)");
		$node->safe_psql('postgres', 'SELECT pg_stat_statements_reset()');
		$node->safe_psql('postgres', $probe);
		is(seen($node), '20ms', "guarded ($libraries)");
		is( $node->safe_psql('postgres',
				q{SELECT string_agg(calls::text, ',') FROM pg_stat_statements WHERE query ~ '^ALTER TABLE probed'}),
			'1',
			"pg_stat_statements counts the statement once ($libraries)");
		like(slurp_file($node->logfile, $log_start),
			qr/Query Text: INSERT INTO seen/, "auto_explain sees inside ($libraries)");
	}
	$node->safe_psql('postgres', q{ROLLBACK PREPARED 'it''s 1'});
};

subtest 'loaded by LOAD, and by session_preload_libraries' => sub {
	for my $case ([ q{shared_preload_libraries = ''}, q{LOAD 'pg_lockguard'}, 'LOAD' ],
		[ q{session_preload_libraries = 'pg_lockguard'}, 'SELECT 1', 'session_preload_libraries' ])
	{
		my ($setting, $first, $name) = @$case;
		$node->append_conf('postgresql.conf', "$setting\n");
		$node->restart;
		my $reader = hold($node, 'reader', 'BEGIN; SELECT count(*) FROM users');
		my $reader_pid = $reader->pid;
		($out, $err) = run_script($node, "$first; SET lock_timeout = '1h'; $blocked; SHOW lock_timeout; SHOW pg_lockguard.ddl_mode");
		like($err, qr/DETAIL:  ALTER TABLE $waited for AccessExclusiveLock on public\.users\. Blocked by PID $reader_pid /,
			"loaded by $name: guarded");
		like($out, qr/1h\nlock_timeout$/, "loaded by $name: restored");
		forget_sessions($reader);
	}
};

ends_well($node);
done_testing();
