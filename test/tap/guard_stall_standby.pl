# pg_lockguard.ddl_max_stall and a standby: nothing of it is done there, it does no harm, and after the
# standby has been promoted the limit holds.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LockGuard;
use LockGuard::Stall;
use PostgreSQL::Test::Utils;
use Test::More;

my $primary = start_stall_node('primary', { streaming => 1 });
my $standby = start_standby($primary, 'standby', q{max_standby_streaming_delay = '1h'});

subtest 'on the standby nothing is guarded' => sub {
	my ($locker, $reader) = map { session($standby, $_) } qw(locker reader);
	$locker->do('BEGIN');
	$locker->do('LOCK TABLE busy IN ACCESS SHARE MODE');
	is($reader->value('SELECT count(*) FROM busy'), 1, 'a reader reads');
	$locker->do('COMMIT');
	is(events($standby, $_), 0, "no $_") for qw(stall_cancelled stall_spared);
	forget_sessions($locker, $reader);
};

subtest 'a reader of the standby that waits for what is replayed is nobody that the primary knows' => sub {
	my ($ddl, $reader) = (session($primary, 'ddl'), session($standby, 'reader'));
	$ddl->send($rewrite);
	await_lock($ddl, 'busy');
	await($standby, 'the lock is there', q{SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'busy'::regclass AND mode = 'AccessExclusiveLock' AND granted)});
	$reader->send('SELECT * FROM busy');
	await_wait($reader);
	await_age($reader, 4);
	ok(!$ddl->ready, 'the statement works on');
	open_gate($primary);
	is($ddl->error, undef, 'and is done');
	is($reader->error, undef, 'the reader goes on');
	shut_gate($primary);
	forget_sessions($ddl, $reader);
};

subtest 'after a promotion the limit holds' => sub {
	$primary->wait_for_catchup($standby);
	$primary->stop;
	$standby->promote;
	my ($ddl, $reader) = map { session($standby, $_) } qw(ddl reader);
	$ddl->send('ALTER TABLE busy ALTER id TYPE int USING gate(id)');
	await_lock($ddl, 'busy');
	$reader->send('SELECT * FROM busy');
	fails_by_stall($ddl, qr/kept 1 session waiting/, 'the rewrite');
	is($reader->error, undef, 'the reader goes on');
	is(await_events('stall_cancelled', $ddl), 1, 'an event');
	forget_sessions($ddl, $reader);
};

ends_well($standby);
done_testing();
