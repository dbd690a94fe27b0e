# PgBouncer in transaction mode.
# packages: pgbouncer
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib", "$FindBin::RealBin/../tap/lib";

use LockGuard;
use Neighbours;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $node = start_node('bouncer', q{shared_preload_libraries = 'pg_lockguard'}, q{deadlock_timeout = '500ms'},
	q{pg_lockguard.ddl_notice_interval = '500ms'});
$node->safe_psql('postgres', 'CREATE TABLE users (id int)');
my $folder = PostgreSQL::Test::Utils::tempdir_short;
my ($host, $port, $user) = ($node->host, $node->port, scalar getpwuid($<));
write_file("$folder/users.txt", qq{"$user" ""\n});
write_file("$folder/pgbouncer.ini", <<INI);
[databases]
postgres = host=$host port=$port dbname=postgres
[pgbouncer]
listen_addr =
listen_port = $port
unix_socket_dir = $folder
auth_type = trust
auth_file = $folder/users.txt
pool_mode = transaction
default_pool_size = 4
server_reset_query_always = 1
ignore_startup_parameters = extra_float_digits
logfile = $folder/pgbouncer.log
pidfile = $folder/pgbouncer.pid
INI
my $bouncer = start_program((grep { -x } '/usr/sbin/pgbouncer', '/usr/bin/pgbouncer')[0], "$folder/pgbouncer.ini");
for (1 .. 6000)
{
	last if -S "$folder/.s.PGSQL.$port";
	usleep(10_000);
}
my $observer = LockGuard::observer($node);
my @through = ('psql', '-XAtq', '-h', $folder, '-p', $port, '-d', 'postgres');
my $column = q{SELECT count(*) FROM pg_attribute WHERE attrelid = 'users'::regclass AND attname = ?};

# A client, and through the pool of server connections.
my $reader = session($node, 'reader', host => $folder);
my $other = session($node, 'other', host => $folder);

subtest 'a statement through the pool' => sub {
	$reader->do('BEGIN');
	$reader->do('SELECT count(*) FROM users');
	my $ddl = start_program(@through, '-c', 'ALTER TABLE users ADD c1 int');
	await_waiting($node);
	is($other->value('SELECT count(*) FROM users'), 0, 'others read through it');
	for (1 .. 6000)
	{
		last if $ddl->{out} =~ /NOTICE/ || !$ddl->{run}->pumpable;
		$ddl->{run}->pump_nb;
		usleep(10_000);
	}
	like($ddl->{out}, qr/NOTICE:  ALTER TABLE has waited .* on public\.users/, 'its client is told while it waits');
	$reader->do('COMMIT');
	is(end_program($ddl), 0, 'done after the COMMIT') or diag($ddl->{out});
	is($observer->value($column, 'c1'), 1, 'the column is there');
};

subtest 'its patience ends' => sub {
	configure($node, ddl_max_wait => '1s');
	$reader->do('BEGIN');
	$reader->do('SELECT count(*) FROM users');
	my $ddl = start_program(@through, '-c', 'ALTER TABLE users ADD c2 int');
	isnt(end_program($ddl), 0, 'it fails');
	like($ddl->{out}, qr/ERROR:  canceling statement due to lock timeout\nDETAIL:  .*Blocked by PID/, 'with the whole error');
	$reader->do('COMMIT');
	configure($node, ddl_max_wait => 0);
	is($other->value('SHOW lock_timeout'), 0, 'nothing of it is left on the server connections');
};

subtest 'a client that is killed' => sub {
	$reader->do('BEGIN');
	$reader->do('SELECT count(*) FROM users');
	my $ddl = start_program(@through, '-c', 'ALTER TABLE users ADD c3 int');
	await_waiting($node);
	$ddl->{run}->kill_kill;
	await($node, 'the statement has ended', 'SELECT NOT EXISTS (SELECT FROM pg_lockguard_progress)');
	$reader->do('COMMIT');
	is($observer->value($column, 'c3'), 0, 'it is not carried out later');
};

forget_sessions($reader, $other);
$bouncer->{run}->signal('TERM');
end_program($bouncer);
ends_well($node);
done_testing();
