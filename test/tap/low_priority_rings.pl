# Rings of waits through statements at low priority. deadlock_timeout is an hour: no deadlock check
# ever runs, but where a session says so.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LockGuard;
use LockGuard::LowPriority;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node('rings', "shared_preload_libraries = 'pg_lockguard'");
$node->safe_psql('postgres', 'CREATE TABLE a (id int); CREATE TABLE b (id int); CREATE TABLE c (id int)');
my $deadlocks = q{SELECT deadlocks FROM pg_stat_database WHERE datname = 'postgres'};

# A session in a transaction that has read the table.
sub reader_of
{
	my ($name, $table) = @_;
	my $session = session($node, $name);
	$session->do('BEGIN');
	$session->do("SELECT FROM $table");
	return $session;
}

# The DETAIL of a ring, from its first member on, which is the one that was told.
sub like_ring
{
	my ($error, $what, @members) = @_;
	my @lines;
	for my $i (0 .. $#members)
	{
		my ($pid, $next) = ($members[$i]{session}->pid, $members[ ($i + 1) % @members ]{session}->pid);
		push @lines, "Process $pid waits for $members[$i]{for}; blocked by process $next\\.";
	}
	my $ring = join('\n', @lines);
	like($error, qr/ERROR:  deadlock detected\nDETAIL:  $ring\nHINT:  See server log for query details\./, $what);
	return;
}

my $exclusive_on = sub {
	return 'AccessExclusiveLock on relation ' . $node->safe_psql('postgres', "SELECT '$_[0]'::regclass::oid")
	  . ' of database \d+';
};

for my $count (2, 4, 8)
{
	subtest "$count transactions that have read a table, and all alter it" => sub {
		my @sessions = map { reader_of("upgrade_$_", 'a') } 1 .. $count;
		$_->send(add_column('a')) for @sessions;
		my @errors = await_end(@sessions);
		is(scalar(grep { defined && /deadlock detected/ } @errors), $count - 1, 'all but one are told of a deadlock');
		is(scalar(grep { !defined } @errors), 1, 'and one has succeeded');
		forget_sessions(@sessions);
	};
}

subtest 'who comes second is told, and of whom' => sub {
	my $before = $node->safe_psql('postgres', $deadlocks);
	my ($first, $second) = (reader_of('first', 'a'), reader_of('second', 'a'));
	my $log = -s $node->logfile;
	$first->send(add_column('a'));
	await_low_priority($first);
	$second->send(my $statement = add_column('a'));
	my $for = $exclusive_on->('a');
	like_ring($second->error, 'the members, the modes, and the locks',
		{ session => $second, for => $for }, { session => $first, for => $for });
	is($first->error, undef, 'the first has got its lock by that');
	my $pid = $second->pid;
	like(slurp_file($node->logfile, $log), qr/Process $pid: \Q$statement\E$/m, 'the log has the statements');
	$second->do('ROLLBACK');
	# What an idle session has counted is seen after ten seconds, or when it has ended.
	forget_sessions($first, $second);
	await($node, 'counted in pg_stat_database', "$deadlocks AND deadlocks > ?", $before);
};

subtest 'a ring of three' => sub {
	my ($one, $two, $three) = (reader_of('one', 'a'), reader_of('two', 'b'), reader_of('three', 'c'));
	$one->send(add_column('b'));
	$two->send(add_column('c'));
	await_low_priority($one, $two);
	$three->send(add_column('a'));
	like_ring($three->error, 'who closes it is told',
		{ session => $three, for => $exclusive_on->('a') },
		{ session => $one, for => $exclusive_on->('b') },
		{ session => $two, for => $exclusive_on->('c') });
	is($two->error, undef, 'the next goes on');
	$two->do('COMMIT');
	is($one->error, undef, 'and then the one behind it');
	forget_sessions($one, $two, $three);
};

subtest 'a plain session that stands in a queue, and the ring closes behind it' => sub {
	my ($plain, $ddl) = (reader_of('plain', 'a'), reader_of('ddl', 'b'));
	$plain->do('SET LOCAL pg_lockguard.ddl_mode = off');
	$plain->send('LOCK TABLE b');
	settle($node, $plain);
	$ddl->send(add_column('a'));
	like_ring($ddl->error, 'the guarded statement is told',
		{ session => $ddl, for => $exclusive_on->('a') }, { session => $plain, for => $exclusive_on->('b') });
	is($plain->error, undef, 'the plain one has its lock');
	forget_sessions($plain, $ddl);
};

subtest 'a plain session that closes the ring itself' => sub {
	my ($plain, $ddl) = (reader_of('plain', 'a'), reader_of('ddl', 'b'));
	$plain->do("SET LOCAL pg_lockguard.ddl_mode = off; SET LOCAL deadlock_timeout = '100ms'");
	# Should the one check of the other come while this one is awake, it is up to this one.
	$ddl->do("SET LOCAL deadlock_timeout = '2s'");
	$ddl->send(add_column('a'));
	await_low_priority($ddl);
	$plain->send('LOCK TABLE b');
	await($node, 'the end of one of them', q{SELECT EXISTS (SELECT FROM pg_stat_activity
		WHERE pid IN (?, ?) AND state = 'idle in transaction (aborted)')}, $plain->pid, $ddl->pid);
	my ($told, $other) = $plain->ready ? ($plain, $ddl) : ($ddl, $plain);
	like($told->error, qr/ERROR:  deadlock detected/, 'a deadlock check finds it: ' . $told->name . "'s");
	$told->do('ROLLBACK');
	is($other->error, undef, 'the other goes on');
	forget_sessions($plain, $ddl);
};

subtest 'a ring by an advisory lock' => sub {
	my ($runner, $ddl) = (reader_of('runner', 'a'), session($node, 'ddl'));
	$ddl->do('SELECT pg_advisory_lock(1)');
	$runner->send('SELECT pg_advisory_lock(1)');
	settle($node, $runner);
	$ddl->send(add_column('a'));
	like_ring($ddl->error, 'who closes it is told',
		{ session => $ddl, for => $exclusive_on->('a') },
		{ session => $runner, for => 'ExclusiveLock on advisory lock \[\d+,0,1,1\]' });
	ok(!$runner->ready, 'the other waits on');
	$ddl->do('SELECT pg_advisory_unlock(1)');
	is($runner->error, undef, 'for what was never part of the transaction');
	forget_sessions($runner, $ddl);
};

subtest 'those that wait for one another in no ring are not told' => sub {
	my $holder = reader_of('holder', 'a');
	my $between = reader_of('between', 'b');
	my $ddl = reader_of('ddl', 'c');
	$ddl->send(add_column('b'));
	$between->send(add_column('a'));
	await_low_priority($ddl, $between);
	$holder->do('COMMIT');
	is($between->error, undef, 'the one in between is done');
	$between->do('COMMIT');
	is($ddl->error, undef, 'and then the one behind it');
	forget_sessions($holder, $between, $ddl);
};

ends_well($node);
done_testing();
