# What other sessions have done meanwhile, and what is left of a preview: in a transaction block too.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LockGuard;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node('preview_stale', "shared_preload_libraries = 'pg_lockguard'", "pg_lockguard.ddl_mode = 'off'");
$node->safe_psql(
	'postgres', q{
	CREATE TABLE big (id int);
	INSERT INTO big SELECT generate_series(1, 10000);
	CREATE TABLE other (id int);
	INSERT INTO other SELECT generate_series(1, 10000);
	CREATE TABLE parted (id int) PARTITION BY LIST (id);
	CREATE TABLE parted_rest PARTITION OF parted DEFAULT;
	INSERT INTO parted_rest SELECT 7 FROM generate_series(1, 1000);
	CREATE SEQUENCE counter;
	CREATE TABLE counted (id int GENERATED ALWAYS AS IDENTITY);
});
my $session = session($node, 'previewer');
my $rows = sub { return $session->rows('SELECT * FROM ddl_preview(?)', shift) };
my $work = sub {
	my ($row) = grep { $_->{action} ne 'lock' } $rows->(shift);
	return join ' ', map { $_ // '-' } @{$row}{qw(action relation size complete)};
};
my $rewrite = sub { $node->safe_psql('postgres', "VACUUM FULL $_[0]"); return $node->safe_psql('postgres', 'CHECKPOINT') };

# Everything that the function itself looks up is in the caches, so that it asks for no lock.
$rows->("VACUUM FULL $_") for qw(big other);

subtest 'a table that is rewritten between two previews of one transaction' => sub {
	my $size = $node->safe_psql('postgres', q{SELECT pg_relation_size('big')});
	$session->do('BEGIN');
	is($work->('VACUUM FULL big'), "rewrite public.big $size 0", 'before');
	$rewrite->('big');
	is($work->('VACUUM FULL big'), "rewrite public.big $size 0", 'after');
	$session->do('ROLLBACK');
};

subtest '... and whose file has not been opened yet' => sub {
	my $size = $node->safe_psql('postgres', q{SELECT pg_relation_size('other')});
	my $fresh = session($node, 'fresh');
	($session, my $kept) = ($fresh, $session);
	$rows->('VACUUM FULL big');
	$session->do('BEGIN');
	$session->do('SAVEPOINT looked');
	$session->do('PREPARE look AS SELECT id FROM other');
	$session->do('ROLLBACK TO looked');
	$rewrite->('other');
	is(eval { $work->('VACUUM FULL other') } // $@, "rewrite public.other $size 0", 'is found');
	$session->do('ROLLBACK');
	$session = $kept;
	forget_sessions($fresh);
};

subtest 'a default partition with rows stays one' => sub {
	my $statement = 'CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1)';
	$session->do('BEGIN');
	like($work->($statement), qr/^scan public\.parted_rest \d+ 0$/, 'before');
	$rewrite->('parted_rest');
	like($work->($statement), qr/^scan public\.parted_rest \d+ 0$/, 'after');
	$session->do('ROLLBACK');
};

# Whoever opened the table would find it half gone: its row of pg_class before, those of pg_attribute after the commit.
subtest 'a table that is being dropped' => sub {
	$node->safe_psql('postgres', 'CREATE TABLE going (id int)');
	my ($looks, $dropper) = (session($node, 'looks'), session($node, 'dropper'));
	my $preview = q{SELECT set_config('test.seen',
		(SELECT string_agg(concat_ws(' ', action, relation, lock_mode, held_by), ', ') FROM ddl_preview('TRUNCATE %s')), false)};
	my $looked_or_waits = q{SELECT query LIKE '%TRUNCATE ' || ? || '%' AND (state = 'idle' OR wait_event_type = 'Lock')
		FROM pg_stat_activity WHERE pid = ?};
	# What both of them look up themselves is in the caches.
	$looks->do(sprintf $preview, 'big');
	await($node, 'it has looked', $looked_or_waits, 'big', $looks->pid);
	$dropper->do('BEGIN');
	$dropper->do('DROP TABLE going');
	$dropper->do('LOCK TABLE pg_catalog.pg_attribute');
	$looks->send(sprintf $preview, 'going');
	await($node, 'it has looked, or waits for the catalog', $looked_or_waits, 'going', $looks->pid);
	$dropper->do('COMMIT');
	is($looks->error, undef, 'is not opened');
	is($looks->value(q{SELECT current_setting('test.seen')}), 'lock public.going AccessExclusiveLock {' . $dropper->pid . '}',
		'... and who drops it is shown');
	forget_sessions($looks, $dropper);
};

my $left = q{SELECT coalesce(string_agg(mode || ' on ' || relation::regclass, ', '), 'none')
	FROM pg_locks WHERE pid = pg_backend_pid() AND relation >= 16384};

subtest 'no lock on a sequence is left in a transaction block' => sub {
	for my $statement ('ALTER SEQUENCE counter INCREMENT 1', 'TRUNCATE counted RESTART IDENTITY',
		'ALTER TABLE counted ALTER id SET INCREMENT BY 1', 'ALTER SEQUENCE counter SET UNLOGGED',
		'ALTER TABLE counted SET UNLOGGED', 'ALTER TABLE counted ALTER id TYPE bigint')
	{
		like($rows->($statement) && ($rows->($statement))[0]{action}, qr/lock/, "$statement: its locks are shown");
		$session->do('BEGIN');
		my @seen = $rows->($statement);
		is($session->value($left), 'none', '... and not kept');
		is($seen[0]{action}, 'lock', '... but shown there, too');
		like($seen[-1]{advice}, qr/its lock on a sequence would stay/, '... with the reason');
		$session->do('ROLLBACK');
	}
};

ends_well($node);
done_testing();
