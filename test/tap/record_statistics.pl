# pg_stat_lockguard: what is counted, who may reset it, and that what ended sessions have counted
# stays.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LockGuard;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node(
	'statistics',
	q{shared_preload_libraries = 'pg_lockguard'},
	q{pg_lockguard.ddl_mode = lock_timeout},
	q{pg_lockguard.ddl_lock_timeout = 50ms},
	q{pg_lockguard.worker_interval = 1h});
$node->safe_psql(
	'postgres', q{
	CREATE ROLE plain LOGIN;
	CREATE ROLE monitor LOGIN;
	CREATE ROLE resetter LOGIN;
	GRANT pg_monitor TO monitor;
	CREATE TABLE users (id int);
	GRANT ALL ON users TO PUBLIC;
});
my $observer = LockGuard::observer($node);

my (@counters, @sessions, $holder);

subtest 'the counters at the start of the server' => sub {
	my $start = statistics($node);
	@counters = grep { $_ ne 'stats_reset' } sort keys %$start;
	is(scalar @counters, 41, 'all counters are there');
	is_deeply({ map { $_ => $start->{$_} + 0 } @counters }, { map { $_ => 0 } @counters }, '... at zero')
	  or diag explain $start;
	ok(defined $start->{stats_reset}, '... since the start of the server');
	is( $observer->value('SELECT stats_reset BETWEEN pg_postmaster_start_time() - interval \'1 min\' AND clock_timestamp() FROM pg_stat_lockguard'),
		1, '... which is a time in the past');
	is($observer->value('SELECT count(*) FROM pg_stat_lockguard'), 1, 'one row');
};

subtest 'guarded statements' => sub {
	# One after the other in the same slots of the process array, and all at once.
	$node->safe_psql('postgres', 'ALTER TABLE users ADD COLUMN IF NOT EXISTS n int') for 1 .. 5;
	is(statistics($node)->{statements}, 5, 'guarded statements, also of sessions that have ended');
	@sessions = map { session($node, "s$_") } 1 .. 5;
	for my $session (@sessions)
	{
		$session->do('ALTER TABLE users ADD COLUMN IF NOT EXISTS n int') for 1 .. 3;
	}
	is(statistics($node)->{statements}, 20, '... of several sessions');
	$sessions[0]->do('SET pg_lockguard.ddl_mode = off; ALTER TABLE users ADD COLUMN IF NOT EXISTS n int');
	$sessions[0]->do('TRUNCATE users');
	is(statistics($node)->{statements}, 20, '... and no others');
	is(statistics($node)->{timeouts_lock}, 0, 'none timed out');

	$holder = session($node, 'holder', user => 'plain');
	$holder->do('BEGIN; SELECT FROM users');
	like($sessions[1]->send('ALTER TABLE users ADD COLUMN o int')->error, qr/lock timeout/,
		'a statement times out');
	is(statistics($node)->{timeouts_lock}, 1, '... and is counted');
	$holder->do('COMMIT');
};

subtest 'the worker' => sub {
	is(statistics($node)->{looks}, 0, 'a worker that is off does not look');
	configure($node, blocker_action => 'log', blocker_min_idle => 0, blocker_min_wait => 0, worker_interval => '20ms');
	await($node, 'it looks', 'SELECT looks > 3 FROM pg_stat_lockguard');
	pass('looks');
	$holder->do('BEGIN; SELECT FROM users');
	$sessions[0]->send('ALTER TABLE users ADD COLUMN o int');
	await($node, 'a rehearsal', 'SELECT rehearsals = 1 FROM pg_stat_lockguard');
	$holder->do('COMMIT');
	await_end($sessions[0]);
	await($node, 'its end', 'SELECT rehearsals_needless = 1 FROM pg_stat_lockguard');
	is(statistics($node)->{terminations}, 0, 'a rehearsal ends nobody');
	configure($node, blocker_action => 'terminate');
	$holder->do('BEGIN; SELECT FROM users');
	$sessions[0]->send('ALTER TABLE users ADD COLUMN p int');
	is(await_end($sessions[0]), undef, 'a session is ended');
	await($node, 'the worker counts it', 'SELECT terminations > 0 FROM pg_stat_lockguard');
	is(statistics($node)->{terminations}, 1, '... and counted');
	is(statistics($node)->{$_}, 0, "no $_") for qw(errors events_lost fuses_blown);
};

subtest 'who may read it, and who may reset it' => sub {
	for my $role (qw(plain monitor))
	{
		my $session = session($node, $role, user => $role);
		is($session->value('SELECT terminations FROM pg_stat_lockguard'), 1, "$role reads it");
		ok(!eval { $session->do('SELECT pg_stat_lockguard_reset()'); 1 }, "$role can't reset it");
		like($@, qr/permission denied for function pg_stat_lockguard_reset/, '... and is told so');
	}
};

subtest 'a reset' => sub {
	$node->safe_psql('postgres', 'GRANT EXECUTE ON FUNCTION pg_stat_lockguard_reset() TO resetter');
	my $before = statistics($node);
	session($node, 'resetter', user => 'resetter')->do('SELECT pg_stat_lockguard_reset()');
	my $after = statistics($node);
	is($after->{$_}, 0, "reset: $_") for grep { $_ ne 'looks' } @counters;
	cmp_ok($after->{looks}, '<', $before->{looks}, 'reset: looks');
	is($observer->value('SELECT ?::timestamptz > ?', $after->{stats_reset}, $before->{stats_reset}),
		1, 'stats_reset goes on');
	$sessions[2]->do('ALTER TABLE users ADD COLUMN IF NOT EXISTS n int');
	is(statistics($node)->{statements}, 1, 'it goes on counting');
};

ends_well($node);

subtest 'without shared memory' => sub {
	my $plain = start_node('plain');
	for my $query ('SELECT * FROM pg_stat_lockguard', 'SELECT pg_stat_lockguard_reset()',
		'SELECT * FROM pg_lockguard_events')
	{
		my ($ret, $out, $err) = $plain->psql('postgres', "\\set VERBOSITY verbose\n$query");
		isnt($ret, 0, "not preloaded: $query fails");
		like($err, qr/ERROR:  55000: .*HINT:  .*shared_preload_libraries/s, '... and says what to do');
	}
	is($plain->safe_psql('postgres', q{LOAD 'pg_lockguard'; SET pg_lockguard.protected = on; SHOW pg_lockguard.protected}),
		'on', 'not preloaded: settings do no harm');
	$plain->append_conf('postgresql.conf', "pg_lockguard.events_max = 50\n");
	$plain->reload;
	my ($ret, $out, $err) = $plain->psql('postgres', q{LOAD 'pg_lockguard'; SHOW pg_lockguard.events_max});
	is("$ret $out $err", '0 50 ', '... nor those of the server in its configuration file');
	$plain->stop;
};

done_testing();
