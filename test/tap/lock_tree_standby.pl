# lock_tree() on a standby: the startup process waits for readers, and readers wait for it.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use LockGuard;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $primary = start_node('primary', { streaming => 1 });
$primary->safe_psql('postgres', 'CREATE TABLE users (id int); CREATE ROLE plain LOGIN');
my $standby = start_standby($primary, 'standby', 'max_standby_streaming_delay = -1');
$primary->wait_for_catchup($standby);
my $observer = LockGuard::observer($standby);
is($observer->value('SELECT pg_is_in_recovery()'), 1, 'a standby');
is($observer->value('SELECT count(*) FROM lock_tree()'), 0, 'nothing waits: no row');

# The standby's readers; one of them reads what ALTER TABLE changes on the primary.
my ($reader, $second, $third) = map { session($standby, $_) } qw(reader second third);
my $startup = $observer->value(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'startup'});
my @columns = qw(blocked_by held_by blocks lock_type lock_object lock_mode blocker_mode backend_type);

subtest 'replay waits for a reader, and others for replay' => sub {
	$reader->do('BEGIN; SELECT FROM users');
	$primary->safe_psql('postgres', 'ALTER TABLE users ADD COLUMN n int');
	await($standby, 'replay waits', 'SELECT EXISTS (SELECT FROM pg_locks WHERE pid = ? AND NOT granted)', $startup);
	settle($standby, $second->send('SELECT FROM users'));
	settle($standby, $second, $third->send('SELECT FROM users'));

	is(tree($standby, @columns), <<~EOT, 'replay between the reader that holds it up and those that it holds up');
		reader | - | - | 3 | - | - | - | - | client backend
		└─ pid $startup | reader | reader | 2 | relation | public.users | AccessExclusiveLock | AccessShareLock | startup
		   ├─ second | pid $startup | - | 0 | relation | public.users | AccessShareLock | AccessExclusiveLock | client backend
		   └─ third | pid $startup | - | 0 | relation | public.users | AccessShareLock | AccessExclusiveLock | client backend
		EOT
	is(LockGuard::faults($standby), '', 'as in pg_locks and pg_stat_activity');
	my ($row) = $observer->rows('SELECT * FROM lock_tree() WHERE pid = ?', $startup);
	my ($activity) = $observer->rows('SELECT * FROM pg_stat_activity WHERE pid = ?', $startup);
	is($row->{$_}, $activity->{$_}, "replay: $_") for qw(state wait_event_type wait_event datname usename query);
	is($row->{wait_event_type}, 'Lock', 'replay waits for a lock');
	ok(defined $row->{wait_age}, 'replay: since when it waits');
};

# Everybody sees the shape; the details of processes that belong to nobody are for pg_read_all_stats.
subtest 'what an unprivileged role sees of replay' => sub {
	my $plain = session($standby, 'plain', user => 'plain');
	my ($row) = $plain->rows('SELECT * FROM lock_tree() WHERE pid = ?', $startup);
	my ($activity) = $plain->rows('SELECT * FROM pg_stat_activity WHERE pid = ?', $startup);
	is($row->{lock_object}, 'public.users', 'an unprivileged role: what replay waits for');
	is($row->{$_}, $activity->{$_}, "an unprivileged role: $_")
	  for qw(state wait_event_type wait_event query backend_type application_name usename);
	is($row->{query}, '<insufficient privilege>', 'an unprivileged role: no query');
};

subtest 'they all go on' => sub {
	$reader->do('COMMIT');
	is_deeply([ await_end($second, $third) ], [ undef, undef ], 'all go on');
	await($standby, 'replay goes on', 'SELECT count(*) = 0 FROM pg_locks WHERE pid = ? AND NOT granted', $startup);
	is($observer->value('SELECT count(*) FROM lock_tree()'), 0, 'and the tree is empty');
};

# Replay holds ACCESS EXCLUSIVE for as long as the primary's transaction lasts.
subtest 'replay holds a lock that readers wait for' => sub {
	my $alter = session($primary, 'alter');
	$alter->do('BEGIN; LOCK TABLE users');
	# Nothing flushes the record of that lock as long as nobody commits.
	$primary->safe_psql('postgres', 'CREATE TABLE committed ()');
	await($standby, 'replay has the lock',
		q{SELECT EXISTS (SELECT FROM pg_locks WHERE pid = ? AND granted AND mode = 'AccessExclusiveLock')}, $startup);
	settle($standby, $second->send('SELECT FROM users'));
	$primary->wait_for_catchup($standby, 'replay', $primary->lsn('flush'));
	await($standby, 'replay has nothing to do', q{SELECT wait_event = 'RecoveryWalStream' FROM pg_stat_activity WHERE pid = ?}, $startup);
	is(tree($standby, @columns), <<~EOT, 'replay as a root');
		pid $startup | - | - | 1 | - | - | - | - | startup
		└─ second | pid $startup | pid $startup | 0 | relation | public.users | AccessShareLock | AccessExclusiveLock | client backend
		EOT
	is(LockGuard::faults($standby), '', 'as in pg_locks and pg_stat_activity');
	$alter->do('COMMIT');
	is(await_end($second), undef, 'the reader goes on');
};

ends_well($primary, $standby);
done_testing();
