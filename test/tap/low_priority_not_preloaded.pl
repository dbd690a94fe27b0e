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
$node->safe_psql('postgres', 'CREATE TABLE first (id int); CREATE TABLE second (id int)');

sub waits
{
	my $session = shift;
	await($node, $session->name . ' waits', q{SELECT EXISTS (SELECT FROM pg_locks WHERE pid = ? AND NOT granted)}, $session->pid);
	return;
}

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
	my ($victim) = grep { $_->ready } @sessions;
	my ($other) = grep { $_ != $victim } @sessions;
	like($victim->error, qr/deadlock detected/, 'one has been chosen');
	$victim->do('ROLLBACK');
	is($other->error, undef, 'the other goes on');
	$other->do('COMMIT');
};

forget_sessions();
$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP:|terminated by signal|WARNING/, 'no crash, no warning');

done_testing();
