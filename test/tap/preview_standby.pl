# Where a physical standby is attached, its readers would wait for what a preview locks: so it is not
# done, unless that is asked for.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LockGuard;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node('primary', { streaming => 1 },
	q{shared_preload_libraries = 'pg_lockguard'}, q{pg_lockguard.preview_max_hold = '10s'});
$node->safe_psql('postgres', q{CREATE TABLE users (id int PRIMARY KEY, n int); INSERT INTO users VALUES (1, 1);
	CREATE TABLE orders (id int, user_id int); INSERT INTO orders VALUES (1, 1)});
my $session = session($node, 'previewer');
my $light = 'ALTER TABLE users ADD x int';

sub actions
{
	my ($statement, $with_standbys) = @_;
	my $rows = eval { join ', ', map { $_->{action} } $session->rows('SELECT * FROM ddl_preview(?, ?)', $statement, $with_standbys // 0) };
	return $rows // $session->sqlstate;
}

is(actions($light), 'lock, catalog only', 'without a standby it is done');

my $standby = start_standby($node, 'standby');
await($node, 'it is fed', q{SELECT EXISTS (SELECT FROM pg_stat_replication WHERE state = 'streaming')});
is(actions($light), '55000', 'with one it is refused');
my $error = eval { $session->rows('SELECT * FROM ddl_preview(?)', $light); '' } // $@;
like($error, qr/a physical standby is attached.*HINT:.*ddl_preview\(\.\.\., with_standbys => true\)/s, 'and the HINT says what to do');
is(actions($light, 1), 'lock, catalog only', 'who accepts that may');
is(actions('CREATE INDEX ON users (n)'), 'lock, build index', 'what takes no ACCESS EXCLUSIVE is done');
# Newer minor releases lock the index of the key as well.
like(actions('ALTER TABLE orders ADD FOREIGN KEY (user_id) REFERENCES users'), qr/^lock, lock(, lock)?, validate foreign key$/,
	'likewise a foreign key');
is(actions('VACUUM FULL users'), 'lock, rewrite', 'what is judged by rules takes no lock at all');

my $reader = session($standby, 'reader');
my $outcome = eval { $reader->rows(q{SELECT * FROM ddl_preview('ALTER TABLE users ADD x int')}); 'done' } // $reader->sqlstate;
is($outcome, '55000', 'on the standby there is nothing to preview');

$reader->{dbh}->disconnect;
$standby->stop;
await($node, 'the walsender ends', 'SELECT NOT EXISTS (SELECT FROM pg_stat_replication)');
is(actions($light), 'lock, catalog only', 'when the standby has gone it is done again');

done_testing();
