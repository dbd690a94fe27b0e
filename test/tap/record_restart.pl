# Events, incidents and accumulated waits survive a clean restart, in a file that is gone while the
# server runs; a crash leaves none; a file that is damaged, of another version, or older than a crash,
# is dropped with a line in the log.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";
use LockGuard;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node(
	'restart',
	q{shared_preload_libraries = 'pg_lockguard'},
	q{pg_lockguard.ddl_mode = lock_timeout},
	q{pg_lockguard.ddl_lock_timeout = 1ms},
	q{pg_lockguard.worker_interval = 50ms},
	# So long that a wait of ddl_lock_timeout is none on any machine.
	q{pg_lockguard.incident_min_wait = 400ms},
	q{pg_lockguard.incidents_max = 20},
	q{pg_lockguard.events_max = 20},
	q{restart_after_crash = on});
$node->safe_psql('postgres', 'CREATE TABLE users (id int)');
my $file = $node->data_dir . '/pg_stat/pg_lockguard.stat';

# Something for each of the three.
sub make_history
{
	my ($times) = @_;
	for (1 .. $times)
	{
		my ($holder, $waiter, $ddl) = map { session($node, $_) } qw(holder waiter ddl);
		$holder->do(q{BEGIN; SELECT 'a secret' FROM users});
		$waiter->do(q{SET pg_lockguard.ddl_mode = off});
		eval { $ddl->do('ALTER TABLE users ADD COLUMN n int') };
		$waiter->send('BEGIN; LOCK TABLE users');
		await($node, 'an incident', 'SELECT EXISTS (SELECT FROM pg_lockguard_incidents WHERE root_pid = ? AND ended IS NULL)', $holder->pid);
		$holder->do('ROLLBACK');
		await_end($waiter);
		await($node, 'its end', 'SELECT bool_and(ended IS NOT NULL) FROM pg_lockguard_incidents');
		forget_sessions();
	}
	return;
}

sub history
{
	return {
		map { $_ => $node->safe_psql('postgres', "SELECT * FROM $_ ORDER BY 1, 2, 3, 4, 5, 6, 7") }
		  qw(pg_lockguard_events pg_lockguard_incidents pg_stat_lockguard_waits) };
}

# The observer of the tests does not outlive a restart.
sub restart
{
	my ($how) = @_;
	LockGuard::dismiss_observer($node);
	$how->();
	return;
}

make_history(2);
my $before = history();
ok(length $before->{$_}, "there is something in $_") for sort keys %$before;
ok(!-e $file, 'no file while the server runs');
restart(sub { $node->stop });
ok(-s $file, 'a file when it has been shut down');
my $saved = slurp_file($file);
$node->start;
is_deeply(history(), $before, 'all of it is there after the restart');
ok(!-e $file, '... and the file has gone');

make_history(1);
my ($events, $incidents) = split /\|/, $node->safe_psql('postgres',
	'SELECT (SELECT max(id) FROM pg_lockguard_events), (SELECT max(id) FROM pg_lockguard_incidents)');
cmp_ok($events, '>', 2, 'numbers go on: events');
is($incidents, 3, 'numbers go on: incidents');
is($node->safe_psql('postgres', 'SELECT sum(waits) >= 3 FROM pg_stat_lockguard_waits'), 't', 'waits are added up further');

# A start that fails before the server runs.
$before = history();
restart(sub { $node->stop });
my $rules = slurp_file($node->data_dir . '/pg_hba.conf');
append_to_file($node->data_dir . '/pg_hba.conf', "nonsense\n");
ok(!$node->start(fail_ok => 1), 'a start that fails');
ok(-s $file, '... leaves the file');
open(my $hba, '>', $node->data_dir . '/pg_hba.conf') or die "pg_hba.conf: $!";
print $hba $rules;
close $hba;
$node->start;
is_deeply(history(), $before, '... and all of it is there after the next start');
ok(!-e $file, '... and the file has gone');

my ($holder, $waiter) = map { session($node, $_) } qw(holder waiter);
$waiter->do(q{SET pg_lockguard.ddl_mode = off});
$holder->do('BEGIN; SELECT FROM users');
$waiter->send('BEGIN; LOCK TABLE users');
await($node, 'an incident', 'SELECT EXISTS (SELECT FROM pg_lockguard_incidents WHERE ended IS NULL)');
restart(sub { $node->stop('fast') });
$node->start;
forget_sessions();
LockGuard::dismiss_observer($node);
is($node->safe_psql('postgres', 'SELECT how_ended FROM pg_lockguard_incidents ORDER BY id DESC LIMIT 1') =~ /^(unknown|terminated|waiters gave up)$/ ? 1 : 0, 1,
	'an incident that a shutdown has cut off is not open any more');

# Fewer places than before: the latest are kept.
make_history(12);
my @latest = split /\n/, $node->safe_psql('postgres', 'SELECT id FROM pg_lockguard_incidents ORDER BY id DESC LIMIT 10');
$node->safe_psql('postgres', 'ALTER SYSTEM SET pg_lockguard.incidents_max = 10');
$node->safe_psql('postgres', 'ALTER SYSTEM SET pg_lockguard.events_max = 10');
restart(sub { $node->restart });
is($node->safe_psql('postgres', 'SELECT id FROM pg_lockguard_incidents ORDER BY id DESC'), join("\n", @latest), 'a smaller ring has the latest incidents');
# A quarter of the places is the worker's own.
is($node->safe_psql('postgres', 'SELECT count(*) FROM pg_lockguard_events'), 8, '... and events');

# What is damaged, or of another version, is dropped.
sub starts_without
{
	my ($content, $why, $what, $stop) = @_;
	restart(sub { $node->stop($stop) });
	open(my $out, '>:raw', $file) or die "$file: $!";
	print $out $content;
	close $out;
	my $position = -s $node->logfile;
	$node->start;
	my $log = substr(slurp_file($node->logfile), $position);
	like($log, qr/LOG:  pg_lockguard: file "pg_stat\/pg_lockguard\.stat" is dropped: $why\n.*DETAIL:  Events, incidents and accumulated waits begin anew\./, $what);
	ok(!-e $file, '... and the file has gone');
	is($node->safe_psql('postgres', 'SELECT (SELECT count(*) FROM pg_lockguard_events) + (SELECT count(*) FROM pg_lockguard_incidents) + (SELECT count(*) FROM pg_stat_lockguard_waits)'),
		0, '... and nothing of it is there');
	return;
}
starts_without('', 'its size is wrong', 'an empty file');
starts_without('no such thing' x 1000, 'its checksum is wrong', 'some other file');
starts_without(substr($saved, 0, length($saved) / 2), 'its checksum is wrong', 'half a file');
starts_without($saved . 'x', 'its checksum is wrong', 'a longer file');
for my $position (0, 4, 8, 60, 100, length($saved) / 2, length($saved) - 1)
{
	my $damaged = $saved;
	substr($damaged, $position, 1) ^= "\x40";
	starts_without($damaged, 'its checksum is wrong', "another bit in byte " . int $position);
}
restart(sub { $node->stop });
open(my $out, '>:raw', $file) or die "$file: $!";
print $out $saved;
close $out;
$node->start;
is($node->safe_psql('postgres', 'SELECT count(*) FROM pg_lockguard_incidents'), 2, 'the same file, whole, is read');

# A file with the right checksum and nonsense in it: who reads the record survives that.
sub crc32c
{
	my ($bytes) = @_;
	my @table = map { my $c = $_; $c = $c & 1 ? ($c >> 1) ^ 0x82F63B78 : $c >> 1 for 1 .. 8; $c } 0 .. 255;
	my $crc = 0xffffffff;
	$crc = $table[ ($crc ^ $_) & 255 ] ^ ($crc >> 8) for unpack 'C*', $bytes;
	return $crc ^ 0xffffffff;
}
for my $byte ("\xff", "\x7f")
{
	LockGuard::dismiss_observer($node);
	$node->stop;
	my (undef, undef, $event, $incident, $wait, undef, @counts) = unpack 'L6 q3', $saved;
	my $nonsense = substr $saved, 0, 64;
	my $position = 64;
	for ([ $event, $counts[0] ], [ $incident, $counts[1] ], [ $wait, $counts[2] ])
	{
		my ($size, $count) = @$_;
		for (1 .. $count)
		{
			$nonsense .= substr($saved, $position, 8) . $byte x ($size - 8); # the number is right
			$position += $size;
		}
	}
	cmp_ok($counts[0], '>', 0, 'there are events in the file');
	is($position, length($saved) - 4, 'the file is as expected');
	open(my $out, '>:raw', $file) or die "$file: $!";
	print $out $nonsense, pack('L', crc32c($nonsense));
	close $out;
	$node->start;
	my ($result) = $node->psql('postgres', q{
		SELECT count(e::text) FROM pg_lockguard_events e;
		SELECT count(i::text), count(lock_graph('dot', id)), count(lock_graph('mermaid', id)) FROM pg_lockguard_incidents i;
		SELECT count(w::text) FROM pg_stat_lockguard_waits w});
	is($result, 0, 'nonsense of ' . unpack('H2', $byte) . ' is read');
}
LockGuard::dismiss_observer($node);
$node->restart;

# A crash.
make_history(1);
LockGuard::dismiss_observer($node);
restart(sub { $node->stop('immediate'); $node->start });
is($node->safe_psql('postgres', 'SELECT count(*) FROM pg_lockguard_incidents'), 0, 'an immediate shutdown leaves nothing');
# As where the power fails before the file system has the removal: what the shutdown before has left is there again.
starts_without($saved, 'the server was not shut down cleanly', 'a file that is older than a crash', 'immediate');
make_history(1);
LockGuard::dismiss_observer($node);
my $checkpointer = $node->safe_psql('postgres', q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'});
kill 'KILL', $checkpointer;
$node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pg_lockguard_incidents}) or die 'it does not come up again';
pass('a crash leaves nothing, and the server comes up again');
make_history(1);
$before = history();
restart(sub { $node->restart });
is_deeply(history(), $before, 'and the next clean restart keeps it');

# A folder that can't be written to must not keep the server from shutting down.
SKIP: {
	skip 'root may write everywhere', 1 if $> == 0;
	restart(sub { });
	chmod 0500, $node->data_dir . '/pg_stat' or die;
	my $position = -s $node->logfile;
	$node->stop;
	chmod 0700, $node->data_dir . '/pg_stat';
	like(substr(slurp_file($node->logfile), $position), qr/LOG:  pg_lockguard: could not create file "pg_stat\/pg_lockguard\.stat\.tmp": Permission denied/,
		'a file that can not be written is a line in the log');
}
done_testing();
