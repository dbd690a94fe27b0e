# pg_lockguard.ddl_max_stall in sessions that load the library themselves: the statement watches for
# itself while it runs, and sees those that wait for its locks directly. What it leaves to its
# transaction is under no limit.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LockGuard;
use LockGuard::Stall;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_stall_node('own_watch', q{shared_preload_libraries = ''}, q{session_preload_libraries = 'pg_lockguard'});

for my $mode ('low_priority', 'lock_timeout')
{
	subtest "$mode: a rewrite before readers" => sub {
		my ($ddl, $reader, $other) = map { session($node, $_) } qw(ddl reader other);
		$ddl->do("SET pg_lockguard.ddl_mode = $mode");
		$ddl->send($rewrite);
		await_lock($ddl, 'busy');
		$_->send('SELECT * FROM busy') for $reader, $other;
		fails_by_stall($ddl,
			qr/DETAIL:  ALTER TABLE kept [12] sessions? waiting, for .*\d+ m?s, for AccessShareLock on public\.busy; the limit \(pg_lockguard\.ddl_max_stall\) is 300 ms\.\nHINT:  /,
			'the rewrite');
		is($_->error, undef, $_->name . ' goes on') for $reader, $other;
		forget_sessions($ddl, $reader, $other);
	};

	subtest "$mode: nobody waits, or not for long" => sub {
		my ($ddl, $reader) = map { session($node, $_) } qw(ddl reader);
		# So much longer than each of them waits that a machine that stands still does not count as one of them.
		$ddl->do($_) for "SET pg_lockguard.ddl_mode = $mode", q{SET pg_lockguard.ddl_max_stall = '2s'};
		$ddl->send($rewrite);
		await_lock($ddl, 'busy');
		$reader->do(q{SET lock_timeout = '300ms'});
		for (1 .. 7)
		{
			$reader->send('SELECT * FROM busy');
			like($reader->error, qr/lock timeout/, 'the reader gives up');
		}
		await_age($ddl, 4);
		ok(!$ddl->ready, 'it works on');
		open_gate($node);
		is($ddl->error, undef, 'and is done');
		shut_gate($node);
		$ddl->do('ALTER TABLE busy ALTER id TYPE int');
		forget_sessions($ddl, $reader);
	};
}

subtest 'who waits for an advisory lock does not count' => sub {
	my ($ddl, $other) = map { session($node, $_) } qw(ddl other);
	$ddl->do('SELECT pg_advisory_lock(7)');
	$ddl->send($rewrite);
	await_lock($ddl, 'busy');
	$other->send('SELECT pg_advisory_lock(7)');
	await_wait($other);
	await_age($other, 4);
	ok(!$ddl->ready, 'it works on');
	open_gate($node);
	is($ddl->error, undef, 'and is done');
	shut_gate($node);
	$ddl->do('ALTER TABLE busy ALTER id TYPE int');
	$ddl->do('SELECT pg_advisory_unlock(7)');
	is($other->error, undef, 'the other goes on');
	forget_sessions($ddl, $other);
};

subtest 'a user who cancels it keeps his own words' => sub {
	my ($ddl, $reader) = map { session($node, $_) } qw(ddl reader);
	$ddl->do("SET pg_lockguard.ddl_max_stall = '1min'");
	$ddl->send($rewrite);
	await_lock($ddl, 'busy');
	$reader->send('SELECT * FROM busy');
	await_wait($reader);
	$node->safe_psql('postgres', 'SELECT pg_cancel_backend(' . $ddl->pid . ')');
	like($ddl->error, qr/canceling statement due to user request/, 'a user');
	is($reader->error, undef, 'the reader goes on');
	forget_sessions($ddl, $reader);
};

subtest 'the transaction afterwards is under no limit' => sub {
	my ($ddl, $reader) = map { session($node, $_) } qw(ddl reader);
	$ddl->do('BEGIN');
	$ddl->do('ALTER TABLE busy ADD COLUMN c int');
	$ddl->send('SELECT gate(1)');
	$reader->send('SELECT * FROM busy');
	await_wait($reader);
	await_age($reader, 4);
	ok(!$ddl->ready, 'it works on');
	open_gate($node);
	is($ddl->error, undef, 'and is done');
	shut_gate($node);
	$ddl->do('ROLLBACK');
	is($reader->error, undef, 'the reader goes on');
	forget_sessions($ddl, $reader);
};

subtest 'under load, again and again' => sub {
	my @readers = map { session($node, "reader$_") } 1 .. 6;
	my $ddl = session($node, 'ddl');
	$ddl->do("SET pg_lockguard.ddl_max_stall = '50ms'");
	my $failed = 0;
	for my $round (1 .. 10)
	{
		$ddl->send($rewrite);
		await_lock($ddl, 'busy');
		$_->send('SELECT * FROM busy') for @readers;
		$failed++ if ($ddl->error // '') =~ /$message/;
		$_->error for @readers;
	}
	is($failed, 10, 'each of them ends');
	forget_sessions($ddl, @readers);
};

ends_well($node);
done_testing();
