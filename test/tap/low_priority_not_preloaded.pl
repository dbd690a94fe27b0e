# The guard in sessions that load the library themselves, in a server that does not know of it.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LockGuard;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node('not_preloaded', "session_preload_libraries = 'pg_lockguard'", "deadlock_timeout = '300ms'");
$node->safe_psql('postgres', 'CREATE TABLE users (id int); CREATE TABLE first (id int); CREATE TABLE second (id int)');

sub waits
{
	my $session = shift;
	await($node, $session->name . ' waits', q{SELECT EXISTS (SELECT FROM pg_locks WHERE pid = ? AND NOT granted)}, $session->pid);
	return;
}

subtest 'the guard works; what needs shared memory says so' => sub {
	my ($holder, $alter, $looker) = map { session($node, $_) } qw(holder alter looker);
	$looker->send('SELECT * FROM pg_lockguard_progress');
	like($looker->error, qr/pg_lockguard has no shared memory.*HINT:  Add pg_lockguard to shared_preload_libraries/s,
		'the view says what is missing');
	is($looker->sqlstate, '55000', 'its SQLSTATE');
	$holder->do('BEGIN');
	$holder->do('SELECT FROM users');
	$alter->send('ALTER TABLE users ADD COLUMN x int');
	await($node, 'it sleeps',
		"SELECT EXISTS (SELECT FROM pg_locks WHERE pid = ? AND NOT granted AND locktype = 'virtualxid')", $alter->pid);
	$looker->do("SET statement_timeout = '20s'");
	is($looker->value('SELECT count(*) FROM users'), 0, 'the guard works in any session that has the library');
	# When it does: now and then it looks.
	await($node, 'lock_tree() shows that', 'SELECT blocked_by = ARRAY[?::int] FROM lock_tree() WHERE pid = ?', $holder->pid, $alter->pid);
	pass('and lock_tree() knows whom it sleeps on');
	$holder->do('COMMIT');
	is($alter->error, undef, 'it goes');
	forget_sessions($holder, $alter, $looker);
};

subtest 'two statements at low priority that wait for each other: one of them gets 40P01' => sub {
	my @sessions = (session($node, 'one'), session($node, 'two'));
	$_->do('BEGIN') for @sessions;
	$sessions[0]->do('LOCK TABLE first');
	$sessions[1]->do('LOCK TABLE second');
	$sessions[0]->send('ALTER TABLE second ADD COLUMN c1 int');
	waits($sessions[0]);
	$sessions[1]->send('ALTER TABLE first ADD COLUMN c1 int');
	await($node, 'the end of one of them',
		q{SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name IN ('one', 'two') AND state = 'idle in transaction (aborted)'});
	# The other one may have come to its end by now as well.
	my $aborted = session($node, 'looker')
	  ->value(q{SELECT pid FROM pg_stat_activity WHERE state = 'idle in transaction (aborted)'});
	my ($victim) = grep { $_->pid == $aborted } @sessions;
	my ($other) = grep { $_ != $victim } @sessions;
	like($victim->error, qr/deadlock detected/, 'one has been chosen');
	$victim->do('ROLLBACK');
	is($other->error, undef, 'the other goes on');
	$other->do('COMMIT');
};

ends_well([$node], qr/WARNING/);
done_testing();
