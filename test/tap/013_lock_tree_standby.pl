# lock_tree() on a standby: the startup process waits for readers, and readers wait for it.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use LockGuard;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $primary = PostgreSQL::Test::Cluster->new('primary');
$primary->init(allows_streaming => 1);
$primary->append_conf('postgresql.conf', "restart_after_crash = off\nautovacuum = off\njit = off\n");
$primary->start;
$primary->safe_psql('postgres', 'CREATE EXTENSION pg_lockguard');
$primary->safe_psql('postgres', slurp_file("$FindBin::Bin/lib/lock_tree_checks.sql"));
$primary->safe_psql('postgres', 'CREATE TABLE users (id int); CREATE ROLE plain LOGIN');
$primary->backup('base');

my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->append_conf('postgresql.conf', "max_standby_streaming_delay = -1\ndeadlock_timeout = 1h\n");
$standby->start;
$primary->wait_for_catchup($standby);
my $observer = LockGuard::observer($standby);
is($observer->value('SELECT pg_is_in_recovery()'), 1, 'a standby');
is($observer->value('SELECT count(*) FROM lock_tree()'), 0, 'nothing waits: no row');

# The standby's readers; one of them reads what ALTER TABLE changes on the primary.
my ($reader, $second, $third) = map { session($standby, $_) } qw(reader second third);
$reader->do('BEGIN; SELECT FROM users');
$primary->safe_psql('postgres', 'ALTER TABLE users ADD COLUMN n int');
my $startup = $observer->value(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'startup'});
await($standby, 'replay waits', 'SELECT EXISTS (SELECT FROM pg_locks WHERE pid = ? AND NOT granted)', $startup);
settle($standby, $second->send('SELECT FROM users'));
settle($standby, $second, $third->send('SELECT FROM users'));

my @columns = qw(blocked_by held_by blocks lock_type lock_object lock_mode blocker_mode backend_type);
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

# Everybody sees the shape; the details of processes that belong to nobody are for pg_read_all_stats.
my $plain = session($standby, 'plain', user => 'plain');
($row) = $plain->rows('SELECT * FROM lock_tree() WHERE pid = ?', $startup);
($activity) = $plain->rows('SELECT * FROM pg_stat_activity WHERE pid = ?', $startup);
is($row->{lock_object}, 'public.users', 'an unprivileged role: what replay waits for');
is($row->{$_}, $activity->{$_}, "an unprivileged role: $_")
  for qw(state wait_event_type wait_event query backend_type application_name usename);
is($row->{query}, '<insufficient privilege>', 'an unprivileged role: no query');

$reader->do('COMMIT');
is_deeply([ await_end($second, $third) ], [ undef, undef ], 'all go on');
await($standby, 'replay goes on', 'SELECT count(*) = 0 FROM pg_locks WHERE pid = ? AND NOT granted', $startup);
is($observer->value('SELECT count(*) FROM lock_tree()'), 0, 'and the tree is empty');

# Replay holds ACCESS EXCLUSIVE for as long as the primary's transaction lasts.
my $alter = session($primary, 'alter');
$alter->do('BEGIN; LOCK TABLE users');
# Nothing flushes the record of that lock as long as nobody commits.
$primary->safe_psql('postgres', 'SELECT pg_switch_wal()');
await($standby, 'replay has the lock',
	q{SELECT EXISTS (SELECT FROM pg_locks WHERE pid = ? AND granted AND mode = 'AccessExclusiveLock')}, $startup);
settle($standby, $second->send('SELECT FROM users'));
is(tree($standby, @columns), <<~EOT, 'replay as a root');
	pid $startup | - | - | 1 | - | - | - | - | startup
	└─ second | pid $startup | pid $startup | 0 | relation | public.users | AccessShareLock | AccessExclusiveLock | client backend
	EOT
is(LockGuard::faults($standby), '', 'as in pg_locks and pg_stat_activity');
$alter->do('COMMIT');
is(await_end($second), undef, 'the reader goes on');

forget_sessions();
for my $node ($primary, $standby)
{
	unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, $node->name . ': no crash in the server log');
}
$standby->stop;
$primary->stop;
done_testing();
