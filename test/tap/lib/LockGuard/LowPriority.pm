# What the tests of statements at low priority share: a statement that waits, who is in its way, what
# is left when it has ended, and clients that leave no gap.
package LockGuard::LowPriority;

use strict;
use warnings;

use Carp;
use Exporter 'import';
use IPC::Run ();
use LockGuard;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

our @EXPORT = qw(add_column read_and_idle await_low_priority await_nothing_locked await_giving_back await_pressed is_clean start_load stop_load);

my ($columns, $loads) = (0, 0);

# add_column([TABLE]): ALTER TABLE for a column that there has not been yet.
sub add_column
{
	my $table = shift // 'users';
	$columns++;
	return "ALTER TABLE $table ADD COLUMN c$columns int";
}

# read_and_idle(SESSION, [TABLE]): a transaction that has read the table and sits idle.
sub read_and_idle
{
	my ($session, $table) = @_;
	$session->do('BEGIN');
	$session->do('SELECT count(*) FROM ' . ($table // 'users'));
	return;
}

# await_low_priority(SESSION...): until they wait, all at the same time.
sub await_low_priority
{
	my @waiters = @_;
	await($waiters[0]->node, join(' ', 'at low priority:', map { $_->name } @waiters),
		q{SELECT ?::int[] <@ ARRAY(SELECT pid FROM pg_lockguard_progress WHERE phase = 'waiting')},
		[ map { $_->pid } @waiters ]);
	return;
}

# await_nothing_locked(SESSION, [BUT]): it waits, and has no lock on a relation (but that one). Whenever it looks anew it
# reads catalogs, for a moment.
sub await_nothing_locked
{
	my ($session, $but) = @_;
	await($session->node, $session->name . ' waits with nothing locked',
		q{SELECT EXISTS (SELECT FROM pg_lockguard_progress WHERE pid = $1)
			AND NOT EXISTS (SELECT FROM pg_locks WHERE pid = $1 AND locktype = 'relation'
				AND relation IS DISTINCT FROM to_regclass($2))}, $session->pid, $but);
	return;
}

# await_giving_back(SESSION, TABLE, WITNESS): the statement waits for a lock that has turned up inside
# it, and goes on to do so while nobody waits for the table that it has locked; so the witness does,
# until it gives that back.
sub await_giving_back
{
	my ($session, $table, $witness) = @_;
	await($session->node, $session->name . ' waits inside',
		q{SELECT EXISTS (SELECT FROM pg_locks WHERE pid = ? AND NOT granted)}, $session->pid);
	$witness->value("SELECT count(*) FROM $table");
	return;
}

# await_pressed(SESSION, WHAT, QUERY, VALUE...): as await(). If the statement waits for a lock that has
# turned up inside it, somebody comes to wait for what it has locked, until it gives that back.
my %pressing;

sub await_pressed
{
	my ($session, $what, @query) = @_;
	my $node = $session->node;
	my $observer = LockGuard::observer($node);
	my $pressing = $pressing{ $node->name } //= do {
		my $new = session($node, 'pressing');
		$new->do($_) for 'SET pg_lockguard.ddl_mode = off', q{SET lock_timeout = '1s'};
		$new;
	};
	for (my $i = 0; $i < 100 * $PostgreSQL::Test::Utils::timeout_default; $i++)
	{
		return if $observer->value(@query);
		my $locked = $observer->value(
			q{SELECT l.relation::regclass::text FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
			WHERE l.pid = ? AND c.relkind IN ('r', 'p', 'v') AND c.oid >= 16384 AND l.mode <> 'AccessShareLock'
				AND EXISTS (SELECT FROM pg_locks w WHERE w.pid = l.pid AND NOT w.granted AND w.locktype = 'relation')
			ORDER BY l.granted DESC, 1 LIMIT 1},
			$session->pid);
		if (defined $locked)
		{
			$pressing->do('BEGIN');
			eval { $pressing->do("LOCK TABLE $locked"); 1 } or note($@);
			$pressing->do('ROLLBACK');
		}
		usleep(10_000);
	}
	confess "$what: it did not come to that";
}

# is_clean(SESSION, NAME, [LOCK_TIMEOUT]): what must be left of a wait, however it ended, in a session that
# is idle now: nothing. Its lock_timeout is what it was (default: 0).
sub is_clean
{
	my ($session, $name, $lock_timeout) = @_;
	my $observer = LockGuard::observer($session->node);
	is($observer->value('SELECT count(*) FROM pg_lockguard_progress'), 0, "$name: nothing is published");
	is($observer->value("SELECT count(*) FROM pg_locks WHERE pid = ? AND locktype <> 'virtualxid'", $session->pid),
		0, "$name: no lock is left");
	is($session->value('SHOW lock_timeout'), $lock_timeout // '0', "$name: lock_timeout is as before");
	return;
}

# start_load(NODE, CLIENTS, SCRIPT): clients of pgbench that run the script without a pause, until
# stop_load() is called with what this returns.
sub start_load
{
	my ($node, $clients, $script) = @_;
	my $file = $node->basedir . '/load' . ++$loads . '.sql';
	append_to_file($file, $script);
	my $load = { out => '', err => '' };
	local $ENV{PGAPPNAME} = "load$loads";
	$load->{run} = IPC::Run::start(
		[ 'pgbench', '-n', '-c', $clients, '-j', '2', '-T', '600', '-f', $file, $node->connstr('postgres') ],
		'>', \$load->{out}, '2>', \$load->{err});
	await($node, 'the load', q{SELECT count(*) >= ? FROM pg_stat_activity WHERE application_name = ?}, $clients, "load$loads");
	return $load;
}

sub stop_load
{
	my $load = shift;
	$load->{run}->signal('TERM');
	$load->{run}->finish;
	unlike($load->{err}, qr/ERROR|FATAL|aborted/, 'no client of the load has seen an error');
	return;
}

1;
