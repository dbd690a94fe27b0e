# Incidents on a standby: a reader in the way of the startup process, which replays the lock of an
# ALTER TABLE, until the reader ends, or the server ends it. And readers that a prepared transaction
# of the primary keeps waiting there.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";
use LockGuard;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $primary = start_node(
	'primary',
	q{shared_preload_libraries = 'pg_lockguard'},
	q{pg_lockguard.ddl_mode = off},
	q{pg_lockguard.worker_interval = 100ms},
	q{pg_lockguard.incident_min_wait = 300ms},
	q{wal_level = replica},
	q{max_wal_senders = 3},
	q{max_standby_streaming_delay = 3s});
$primary->safe_psql('postgres', 'CREATE TABLE users (id int); CREATE TABLE items (id int)');
$primary->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;
my $observer = LockGuard::observer($standby);

sub open_incident
{
	my ($root) = @_;
	await($standby, "an incident of $root", 'SELECT EXISTS (SELECT FROM pg_lockguard_incidents WHERE root_pid = ? AND ended IS NULL)', $root);
	return ($observer->rows('SELECT * FROM pg_lockguard_incidents WHERE root_pid = ? AND ended IS NULL', $root))[0];
}

sub how_ended
{
	my ($incident) = @_;
	await($standby, "the end of incident $incident->{id}", 'SELECT ended IS NOT NULL FROM pg_lockguard_incidents WHERE id = ?', $incident->{id});
	return $observer->value('SELECT how_ended FROM pg_lockguard_incidents WHERE id = ?', $incident->{id});
}

my $startup = $observer->value(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'startup'});
for my $how ('released', 'terminated', 'cancelled')
{
	my $reader = session($standby, 'report');
	$reader->do('BEGIN; SELECT FROM users');
	$reader->send('SELECT pg_sleep(1000)') if $how eq 'cancelled';
	$primary->safe_psql('postgres', 'ALTER TABLE users ADD COLUMN ' . substr($how, 0, 1) . ' int');
	my $incident = open_incident($reader->pid);
	like($incident->{lock_tree}, qr/^${\$reader->pid} "report"\n.* $startup wants AccessExclusiveLock on public\.users for /,
		"$how: the startup process waits for it");
	$reader->do('COMMIT') if $how eq 'released';
	is(how_ended($incident), $how, '... and how that ended');

	forget_sessions();
}

my $writer = session($primary, 'writer');
$writer->do(q{BEGIN; LOCK TABLE items; PREPARE TRANSACTION 'order 7'});
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert'));
my $reader = session($standby, 'report');
$reader->send('SELECT FROM items');
await($standby, 'an incident', q{SELECT EXISTS (SELECT FROM pg_lockguard_incidents WHERE ended IS NULL)});
my ($incident) = $observer->rows('SELECT * FROM pg_lockguard_incidents WHERE ended IS NULL');
is($incident->{waiters}, 1, 'a reader waits for a lock that is replayed');
$primary->safe_psql('postgres', q{COMMIT PREPARED 'order 7'});
await_end($reader);
is(how_ended($incident), 'released', '... until that is given back');

# The record of a standby is its own, and stays over its restart.
my $count = $observer->value('SELECT count(*) FROM pg_lockguard_incidents');
cmp_ok($count, '>=', 4, 'the standby has a record');
forget_sessions();
LockGuard::dismiss_observer($standby);
$standby->restart;
is($standby->safe_psql('postgres', 'SELECT count(*) FROM pg_lockguard_incidents'), $count, '... also after its restart');
is($standby->safe_psql('postgres', 'SELECT errors FROM pg_stat_lockguard'), 0, 'its worker had no error');
$standby->stop;
done_testing();
