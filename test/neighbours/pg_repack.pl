# pg_repack and a guarded statement on one table, whoever comes first: both come to an end.
# packages: postgresql-MAJOR-repack
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib", "$FindBin::RealBin/../tap/lib";

use LockGuard;
use LockGuard::LowPriority;
use Neighbours;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node('repack', q{shared_preload_libraries = 'pg_lockguard'}, q{deadlock_timeout = '1s'});
$node->safe_psql('postgres', q{CREATE EXTENSION pg_repack; CREATE TABLE users (id int PRIMARY KEY, n int);
	INSERT INTO users SELECT i, i FROM generate_series(1, 1000) i; CREATE TABLE other (id int)});
my ($reader, $old, $ddl) = map { session($node, $_) } qw(reader old ddl);
my $filenode = q{SELECT pg_relation_filenode('users')};
my @repack = ('pg_repack', '-h', $node->host, '-p', $node->port, '-d', 'postgres', '-t', 'users', '-T', 5);

sub start_repack { return start_program(@repack) }

sub await_repack
{
	await($node, 'pg_repack is there', q{SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'pg_repack')});
	return;
}

subtest 'the statement waits when pg_repack comes' => sub {
	my $before = $reader->value($filenode);
	$reader->do('BEGIN; SELECT FROM users');
	$ddl->send('ALTER TABLE users ADD first int');
	await_low_priority($ddl);
	my $repack = start_repack();
	await_repack();
	$reader->do('COMMIT');
	is($ddl->error, undef, 'the statement is done');
	is(end_program($repack), 0, 'pg_repack as well') or diag($repack->{out});
	isnt($reader->value($filenode), $before, 'the table is packed');
};

subtest 'pg_repack is at work when the statement comes' => sub {
	my $before = $reader->value($filenode);
	# It waits for the end of all transactions older than its own.
	$old->do('BEGIN; SELECT FROM other');
	my $repack = start_repack();
	await($node, 'it has its lock on the table', q{SELECT EXISTS (SELECT FROM pg_locks JOIN pg_stat_activity USING (pid)
		WHERE application_name = 'pg_repack' AND relation = 'users'::regclass AND granted)});
	$ddl->send('ALTER TABLE users ADD second int');
	await_low_priority($ddl);
	is($reader->value('SELECT count(*) FROM users'), 1000, 'others read');
	$old->do('COMMIT');
	is(end_program($repack), 0, 'pg_repack is done') or diag($repack->{out});
	is($ddl->error, undef, 'and then the statement');
	isnt($reader->value($filenode), $before, 'the table is packed');
	is($reader->value('SELECT count(second) + count(*) FROM users'), 1000, 'and has its column');
};

ends_well($node);
done_testing();
