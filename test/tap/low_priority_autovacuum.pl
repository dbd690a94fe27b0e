# Autovacuum in the way of a statement at low priority.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LockGuard;
use LockGuard::LowPriority;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node(
	'autovacuum',
	"shared_preload_libraries = 'pg_lockguard'",
	"deadlock_timeout = '300ms'",
	'autovacuum = on',
	"autovacuum_naptime = '1s'");
my $ddl = session($node, 'ddl');
my $witness = session($node, 'witness');

# A table, of the form of its options, that an autovacuum worker is slow with.
sub start_vacuum
{
	my ($table, $options) = @_;
	$node->safe_psql(
		'postgres', qq{
		CREATE TABLE $table (id int, filler text) WITH (autovacuum_enabled = off);
		INSERT INTO $table SELECT i, repeat('x', 100) FROM generate_series(1, 20000) i;
		DELETE FROM $table WHERE id % 2 = 0;
		ALTER TABLE $table SET (autovacuum_enabled = on, autovacuum_vacuum_threshold = 1,
			autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_cost_delay = 100,
			autovacuum_vacuum_cost_limit = 1 $options)});
	await($node, "autovacuum of $table",
		q{SELECT EXISTS (SELECT FROM pg_stat_activity JOIN pg_locks USING (pid) WHERE backend_type = 'autovacuum worker'
			AND relation = ?::regclass AND mode = 'ShareUpdateExclusiveLock' AND granted)}, $table);
	return;
}

subtest 'a worker gives way' => sub {
	start_vacuum('vacuumed', '');
	my $log = -s $node->logfile;
	$ddl->send(add_column('vacuumed'));
	is($ddl->error, undef, 'an autovacuum worker gives way');
	like(slurp_file($node->logfile, $log), qr/ERROR:  canceling autovacuum task/, 'because it was cancelled');
	$node->safe_psql('postgres', 'DROP TABLE vacuumed');
};

# The table is 100 000 transactions old.
subtest 'a worker against wraparound does not' => sub {
	$node->safe_psql(
		'postgres', q{
		CREATE TABLE burnt (id int);
		CREATE TABLE old (id int, filler text) WITH (autovacuum_enabled = off);
		INSERT INTO old SELECT i, repeat('x', 100) FROM generate_series(1, 20000) i;
		DO $$ BEGIN FOR i IN 1..100100 LOOP
			BEGIN
				INSERT INTO burnt VALUES (1);
			EXCEPTION WHEN OTHERS THEN RAISE;
			END;
		END LOOP; END $$;
		ALTER TABLE old SET (autovacuum_enabled = off, autovacuum_freeze_max_age = 100000, autovacuum_freeze_table_age = 0,
			autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1)});
	await($node, 'autovacuum against wraparound',
		q{SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE '%public.old (to prevent wraparound)')});
	$ddl->do("SET pg_lockguard.ddl_max_wait = '2s'");
	$ddl->send(add_column('old'));
	await_low_priority($ddl);
	like($witness->value('SELECT next_step FROM pg_lockguard_progress'),
		qr/^waits for an autovacuum worker against wraparound, which does not give way/,
		'against wraparound: the progress row says so');
	my $error = $ddl->error;
	like($error, qr/Blocked by autovacuum worker PID \d+ .*against wraparound/, 'and so does the error');
	like($error, qr/HINT:  This autovacuum worker works against transaction ID wraparound and does not give way/,
		'with a hint');
	$ddl->do("SET pg_lockguard.ddl_on_timeout = terminate; SET pg_lockguard.ddl_max_wait = '300ms'");
	$ddl->send(add_column('old'));
	like($ddl->error, qr/against wraparound/, 'nor is it ended');
	$ddl->do('RESET ALL');
};

ends_well($node);
done_testing();
