# PostGIS handles cancel requests itself, as soon as a session loads it: before or after the session has run a guarded
# statement. Whatever waits or works is cancelled all the same.
# packages: postgresql-MAJOR-postgis-3
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib", "$FindBin::RealBin/../tap/lib";

use LockGuard;
use LockGuard::LowPriority;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node('postgis', q{shared_preload_libraries = 'pg_lockguard'});
$node->safe_psql('postgres', 'CREATE EXTENSION postgis; CREATE TABLE users (id int); CREATE TABLE places (geom geometry(Point, 4326))');

my $columns = 0;
my %step = (
	'a guarded statement' => sub { shift->do('ALTER TABLE places ADD COLUMN c' . $columns++ . ' geometry(Polygon, 4326)') },
	'PostGIS' => sub { shift->value('SELECT postgis_lib_version()') });

for my $order ([ 'a guarded statement', 'PostGIS' ], [ 'PostGIS', 'a guarded statement' ])
{
	subtest join(', then ', @$order) => sub {
		my ($ddl, $reader) = map { session($node, $_) } qw(ddl reader);
		$step{$_}->($ddl) for @$order;
		read_and_idle($reader);
		for my $statement ('SELECT pg_sleep(60)', add_column(), 'SELECT pg_sleep(60)')
		{
			$ddl->send($statement);
			await($node, 'it waits', 'SELECT wait_event IS NOT NULL AND query = ? FROM pg_stat_activity WHERE pid = ?', $statement, $ddl->pid);
			kill INT => $ddl->pid;
			like($ddl->error, qr/due to user request/, "$statement: it is cancelled");
		}
		$ddl->send(q{SELECT ST_Area(ST_Buffer(ST_Point(0, 0), i, 200000)) FROM generate_series(1, 1000) i});
		await($node, 'it works', q{SELECT query ~ 'ST_Buffer' AND state = 'active' FROM pg_stat_activity WHERE pid = ?}, $ddl->pid);
		kill INT => $ddl->pid;
		like($ddl->error, qr/canceling statement due to user request|Interrupted/, 'a long computation of its own as well');
		$reader->do('COMMIT');
		forget_sessions($ddl, $reader);
	};
}

ends_well($node);
done_testing();
