# The client of a statement that waits at low priority has gone: the statement ends as with a lost
# connection, and is not carried out later.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use IPC::Run ();
use LockGuard;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node('lost', "shared_preload_libraries = 'pg_lockguard'", "deadlock_timeout = '10s'");
$node->safe_psql('postgres', 'CREATE TABLE users (id int)');

# Where the platform can't tell, PostgreSQL refuses the setting.
my ($refused) = $node->psql('postgres', 'SET client_connection_check_interval = 1000');
plan skip_all => 'this platform does not tell that a client has gone' if $refused;

my $reader = session($node, 'reader');

for my $case ([ 'autocommit', 'ALTER TABLE users ADD COLUMN autocommit int' ],
	[ 'transaction', 'BEGIN; ALTER TABLE users ADD COLUMN transaction int; COMMIT' ])
{
	my ($name, $statement) = @$case;
	subtest "in $name" => sub {
		$reader->do('BEGIN');
		$reader->do('SELECT count(*) FROM users');
		my $log = -s $node->logfile;
		my $psql = IPC::Run::start(
			[ 'psql', '-XAtq', '-d', $node->connstr('postgres') . " application_name=$name", '-c', $statement ],
			'>', \my $out, '2>', \my $err);
		await($node, 'it waits',
			'SELECT EXISTS (SELECT FROM pg_lockguard_progress JOIN pg_stat_activity USING (pid) WHERE application_name = ?)',
			$name);
		$psql->kill_kill;
		await($node, 'the end of the session',
			'SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = ?)', $name);
		pass('the session ends while the lock is still held');
		like(slurp_file($node->logfile, $log), qr/FATAL:  connection to client lost/, 'as with a lost connection');
		$reader->do('COMMIT');
		is($reader->value("SELECT count(*) FROM pg_attribute WHERE attrelid = 'users'::regclass AND attname = ?", $name),
			0, 'nothing was done');
		is($reader->value('SELECT count(*) FROM pg_lockguard_progress'), 0, 'nothing is shown any more');
	};
}

ends_well($node);
done_testing();
