# Requests of background processes. An apply worker that waits for ACCESS EXCLUSIVE (a replicated
# TRUNCATE) keeps everybody behind it waiting as a client's ALTER TABLE does: its request counts as
# soon as a client waits behind it. Until then it harms nobody, and the record says so.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LockGuard;
use LockGuard::Record;
use LockGuard::Worker;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# Publisher and subscriber are databases of one server.
my $node = start_worker_node(
	'background',
	q{wal_level = logical},
	q{max_wal_senders = 5},
	q{max_replication_slots = 5},
	q{pg_lockguard.blocker_action = terminate});
$node->safe_psql('postgres', 'CREATE DATABASE source');
$node->safe_psql($_,
	'CREATE TABLE replicated (id int); GRANT ALL ON replicated TO PUBLIC') for qw(source postgres);
$node->safe_psql('source', q{
	CREATE PUBLICATION everything FOR TABLE replicated;
	SELECT pg_create_logical_replication_slot('everything', 'pgoutput')});
my $connection = sprintf 'host=%s port=%d dbname=source', $node->host, $node->port;
$node->safe_psql('postgres', qq{
	CREATE SUBSCRIPTION everything CONNECTION '$connection' PUBLICATION everything
		WITH (create_slot = false, slot_name = 'everything', copy_data = false)});
my $observer = LockGuard::observer($node);

my $holders = 0;
my $no_client = qr/\Athe request of a background process \(logical replication (?:apply )?worker\) does not count: no client waits behind it\z/;

# The table holds one row, a session of app's is idle in transaction with a lock on it, and the apply
# worker waits for ACCESS EXCLUSIVE.
sub blocked_truncate
{
	$node->safe_psql('source', 'INSERT INTO replicated VALUES (1)');
	await($node, 'the row has come', 'SELECT count(*) > 0 FROM replicated');
	my $holder = session($node, 'holder_' . ++$holders, user => 'app');
	$holder->do('BEGIN; SELECT FROM replicated');
	$node->safe_psql('source', 'TRUNCATE replicated');
	await($node, 'the apply worker waits', q{
		SELECT EXISTS (SELECT FROM pg_locks JOIN pg_stat_activity USING (pid)
			WHERE NOT granted AND mode = 'AccessExclusiveLock' AND relation = 'replicated'::regclass
			AND backend_type LIKE 'logical replication%')});
	return $holder;
}

sub spared_for_want_of_a_client
{
	my ($holder) = @_;
	my ($kind, $reason) = @{ verdict($holder) };
	is($kind, 'blocker_spared', 'spared as long as no client waits');
	like($reason, $no_client, '... and why');
	is_logged($node, qr/LOG:  pg_lockguard: spared PID @{[$holder->pid]} .*: the request of a background process \(/,
		'... in the log');
	return;
}

subtest 'an apply worker with nobody behind it, and then a reader' => sub {
	my $holder = blocked_truncate();
	spared_for_want_of_a_client($holder);
	wait_for_look($node);
	is(events_about($holder), 1, 'said once');
	is(statistics($node)->{spared_no_client}, 1, 'counted once');

	my $reader = session($node, 'reader', user => 'app');
	$reader->send('SELECT FROM replicated');
	my ($kind) = @{ verdict($holder) };
	is($kind, 'blocker_terminated', 'as soon as a client waits behind the request, it is ended');
	is(await_end($reader), undef, 'the reader goes on');
	await($node, 'the TRUNCATE is applied', 'SELECT count(*) = 0 FROM replicated');
	forget_sessions($holder, $reader);
};

subtest 'who waits for something else is not behind it' => sub {
	$node->safe_psql('postgres', 'CREATE TABLE aside (id int); GRANT ALL ON aside TO PUBLIC');
	my $holder = blocked_truncate();
	spared_for_want_of_a_client($holder);
	# Active, so that it is nobody to end.
	my $other = session($node, 'other', user => 'app');
	$other->send('BEGIN; LOCK TABLE aside; SELECT pg_sleep(3600)');
	await($node, 'it holds its lock', q{SELECT EXISTS (SELECT FROM pg_locks
		WHERE granted AND relation = 'aside'::regclass AND mode = 'AccessExclusiveLock')});
	my $reader = session($node, 'reader_aside', user => 'app');
	$reader->send('SELECT FROM aside');
	settle($node, $reader);
	wait_for_look($node);
	is(events_about($holder), 1, 'a client that waits elsewhere changes nothing');
	$holder->do('COMMIT');
	await($node, 'the TRUNCATE is applied', 'SELECT count(*) = 0 FROM replicated');
	forget_sessions($holder, $reader, $other);
};

subtest 'in a rehearsal, while clients come and go' => sub {
	configure($node, blocker_action => 'log');
	my $holder = blocked_truncate();
	spared_for_want_of_a_client($holder);
	for my $time (1 .. 2)
	{
		my $reader = session($node, "reader_$time", user => 'app');
		$reader->send('SELECT FROM replicated');
		settle($node, $reader);
		is(verdict($holder)->[0], 'blocker_logged', 'with a client it would be ended') if $time == 1;
		wait_for_look($node, 'blocker_logged');
		$observer->value('SELECT pg_cancel_backend(?)', $reader->pid);
		like(await_end($reader), qr/canceling statement due to user request/, 'the client gives up');
		wait_for_look($node, 'blocker_logged');
		forget_sessions($reader);
	}
	is(events_about($holder), 2, 'each is said once, however often clients come and go');
	$holder->do('COMMIT');
	await($node, 'the TRUNCATE is applied', 'SELECT count(*) = 0 FROM replicated');
	is(verdict($holder)->[0], 'blocker_resolved', 'the rehearsal ends with the transaction');
	forget_sessions($holder);
};

$node->safe_psql('postgres', 'ALTER SUBSCRIPTION everything DISABLE;
	ALTER SUBSCRIPTION everything SET (slot_name = NONE); DROP SUBSCRIPTION everything');
ends_well($node);
done_testing();
