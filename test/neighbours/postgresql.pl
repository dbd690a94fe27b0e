# PostgreSQL's own programs: pg_dump and pg_restore, in parallel and in one transaction, pg_basebackup, pg_upgrade, and
# logical replication.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib", "$FindBin::RealBin/../tap/lib";

use LockGuard;
use LockGuard::LowPriority;
use Neighbours;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $settings = q{shared_preload_libraries = 'pg_lockguard'
pg_lockguard.ddl_commands = all};
my $node = start_node('original', { streaming => 1 }, $settings, q{wal_level = logical});
my $observer = LockGuard::observer($node);
$node->safe_psql(
	'postgres', q{
	CREATE TABLE users (id int PRIMARY KEY, name text);
	CREATE TABLE orders (id int PRIMARY KEY, user_id int REFERENCES users) PARTITION BY RANGE (id);
	CREATE TABLE orders_1 PARTITION OF orders FOR VALUES FROM (0) TO (500);
	CREATE TABLE orders_2 PARTITION OF orders FOR VALUES FROM (500) TO (2000);
	CREATE INDEX ON orders (user_id);
	INSERT INTO users SELECT i, 'user ' || i FROM generate_series(1, 1000) i;
	INSERT INTO orders SELECT i, i FROM generate_series(1, 1000) i;
	CREATE VIEW waiting AS SELECT tree, pid FROM lock_tree();
	CREATE POLICY all_of_them ON users USING (true);
	GRANT SELECT ON pg_lockguard_incidents TO PUBLIC});
my $whole = q{SELECT (SELECT count(*) FROM users), (SELECT count(*) FROM orders JOIN users ON users.id = user_id),
	(SELECT count(*) FROM waiting), (SELECT extname FROM pg_extension WHERE extname = 'pg_lockguard')};

sub is_whole
{
	my ($server, $database, $what) = @_;
	is($server->safe_psql($database, $whole), '1000|1000|0|pg_lockguard', $what);
	return;
}

subtest 'pg_dump and pg_restore' => sub {
	my $folder = PostgreSQL::Test::Utils::tempdir . '/dump';
	# A statement that waits is in nobody's way, and nobody in its.
	my ($reader, $ddl) = map { session($node, $_) } qw(reader ddl);
	$reader->do('BEGIN; SELECT FROM users');
	$ddl->send('ALTER TABLE users ADD extra int');
	await_low_priority($ddl);
	$node->command_ok([ 'pg_dump', '-Fd', '-j', 2, '-f', $folder, $node->connstr('postgres') ], 'pg_dump -j 2 beside a statement that waits');
	ok(!$ddl->ready, 'which goes on waiting');
	$reader->do('COMMIT');
	is($ddl->error, undef, 'until it is done');
	forget_sessions($reader, $ddl);
	for my $case ([ 'parallel', '-j', 2 ], [ 'single', '-1' ])
	{
		my ($database, @options) = @$case;
		$node->safe_psql('postgres', "CREATE DATABASE $database");
		$node->command_ok([ 'pg_restore', @options, '-d', $node->connstr($database), $folder ], "pg_restore @options");
		is_whole($node, $database, 'all is there, the extension and what depends on it too');
	}
};

subtest 'pg_basebackup' => sub {
	$node->backup('backup');
	my $copy = PostgreSQL::Test::Cluster->new('copy');
	$copy->init_from_backup($node, 'backup');
	$copy->start;
	is_whole($copy, 'postgres', 'the copy works');
	is($copy->safe_psql('postgres', 'ALTER TABLE users ADD copied int; SELECT statements FROM pg_stat_lockguard'), 1, 'and guards');
	ends_well($copy);
	$copy->stop;
};

subtest 'logical replication goes on while a statement waits on the subscriber' => sub {
	my $subscriber = start_node('subscriber', $settings);
	$subscriber->safe_psql('postgres', 'CREATE TABLE users (id int PRIMARY KEY, name text, extra int)');
	$node->safe_psql('postgres', 'CREATE PUBLICATION p FOR TABLE users');
	$subscriber->safe_psql('postgres', sprintf(q{CREATE SUBSCRIPTION s CONNECTION '%s' PUBLICATION p}, $node->connstr('postgres') =~ s/'/''/gr));
	await($subscriber, 'the rows are there', 'SELECT count(*) = 1000 FROM users');
	my ($reader, $ddl) = map { session($subscriber, $_) } qw(reader ddl);
	$reader->do('BEGIN; SELECT FROM users');
	$ddl->send('ALTER TABLE users ADD more int');
	await_low_priority($ddl);
	$node->safe_psql('postgres', q{INSERT INTO users VALUES (1001, 'new')});
	await($subscriber, 'a row comes', 'SELECT count(*) = 1001 FROM users');
	ok(!$ddl->ready, 'while it waits');
	$reader->do('COMMIT');
	is($ddl->error, undef, 'it is done');
	$node->safe_psql('postgres', q{DELETE FROM users WHERE id = 1001});
	await($subscriber, 'and it goes on', 'SELECT count(*) = 1000 FROM users');
	forget_sessions($reader, $ddl);
	$subscriber->safe_psql('postgres', 'DROP SUBSCRIPTION s');
	ends_well($subscriber);
	$subscriber->stop;
};

subtest 'pg_upgrade' => sub {
	ends_well($node);
	LockGuard::dismiss_observer($node);
	$node->stop;
	my $new = PostgreSQL::Test::Cluster->new('upgraded');
	$new->init;
	$new->append_conf('postgresql.conf', $settings);
	my $bin = $node->config_data('--bindir');
	chomp $bin;
	my $folder = PostgreSQL::Test::Utils::tempdir;
	my $run = start_program('sh', '-c', 'cd "$0" && exec "$@"', $folder, 'pg_upgrade', '-b', $bin, '-B', $bin, '-d', $node->data_dir, '-D', $new->data_dir,
		'-p', $node->port, '-P', $new->port, '-s', $node->host);
	is(end_program($run), 0, 'with the library preloaded on both sides') or diag($run->{out});
	$new->start;
	is_whole($new, 'postgres', 'all is there');
	is($new->safe_psql('postgres', 'ALTER TABLE users ADD upgraded int; SELECT statements FROM pg_stat_lockguard'), 1, 'and guarded');
	ends_well($new);
	$new->stop;
};
done_testing();
