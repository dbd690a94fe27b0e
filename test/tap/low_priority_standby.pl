# A statement at low priority that waits on the primary, and a hot standby: ACCESS EXCLUSIVE is
# logged when it is taken, and replayed there even if it is given back at once. So a statement that
# waits for one of its tables does not take the other one meanwhile.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LockGuard;
use LockGuard::LowPriority qw(await_nothing_locked);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $primary = start_node(
	'primary', { streaming => 1 },
	q{wal_keep_size = '512MB'},
	q{shared_preload_libraries = 'pg_lockguard'},
	q{pg_lockguard.ddl_commands = 'ALTER TABLE, DROP TABLE'},
	q{deadlock_timeout = '100ms'}); # several looks in a short time
my $standby = start_standby($primary, 'standby', 'max_standby_streaming_delay = -1');

$primary->safe_psql(
	'postgres', q{
	CREATE TABLE users (id int PRIMARY KEY);
	INSERT INTO users SELECT generate_series(1, 10);
	CREATE TABLE orders (id int PRIMARY KEY, user_id int CONSTRAINT orders_user REFERENCES users);
	INSERT INTO orders SELECT i, i FROM generate_series(1, 10) i;
	CREATE TABLE loose (user_id int);
	INSERT INTO loose SELECT user_id FROM orders});

my $holder = session($primary, 'holder');
my $ddl = session($primary, 'ddl');
my $witness = session($primary, 'witness');
$witness->do("SET statement_timeout = '20s'");

# Records of locks for standbys between two places in the log.
sub logged_locks
{
	my ($from, $to) = @_;
	my ($out, $err) = run_command([ 'pg_waldump', '--rmgr=Standby', '--path=' . $primary->data_dir . '/pg_wal', "--start=$from",
		"--end=$to" ]);
	# At the end of what is written it says so; anything else is an error of the test.
	die "pg_waldump: $err" if $err ne '' && $err !~ /could not find a valid record|invalid record length/;
	return scalar(() = $out =~ /desc: LOCK/g);
}

# Writes out what was logged so far, which nobody does who does not commit; returns where that ends.
sub log_position
{
	$primary->safe_psql('postgres', q{SELECT pg_logical_emit_message(true, 'test', '')});
	return $primary->safe_psql('postgres', 'SELECT pg_current_wal_flush_lsn()');
}

# The statement waits for that table, which a session reads or writes and then sits idle; meanwhile
# nothing reaches the standby.
sub waits_without_a_trace
{
	my ($statement, $in_the_way, $relation, $logs) = @_;
	# What the holder logs is none of ours: its locks are weaker.
	$holder->do('BEGIN');
	$holder->do($in_the_way);
	my $reader = session($standby, 'reader');
	$reader->do("SET statement_timeout = '20s'");
	my $from = log_position();
	$ddl->send($statement);
	await($primary, "$statement: it has looked several times",
		q{SELECT EXISTS (SELECT FROM pg_lockguard_progress
			WHERE pid = ? AND phase = 'waiting' AND relation = ? AND attempt >= 5)}, $ddl->pid, "public.$relation");
	await_nothing_locked($ddl);
	pass('it holds no lock on the primary');
	my $meanwhile = log_position();
	is(logged_locks($from, $meanwhile), 0, 'it has logged no lock');
	$primary->wait_for_catchup($standby, 'replay', $meanwhile);
	is( $reader->value(
			q{SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND database =
				(SELECT oid FROM pg_database WHERE datname = current_database())}),
		0, 'none is held on the standby');
	for my $table (qw(users orders loose))
	{
		is($reader->value("SELECT count(*) FROM $table"), 10, "$table can be read on the standby");
	}
	$holder->do('COMMIT');
	is($ddl->error, undef, "$statement: done");
	is(logged_locks($meanwhile, log_position()) > 0, $logs, $logs ? 'that was logged' : 'nor then');
	forget_sessions($reader);
	$primary->wait_for_catchup($standby);
	return;
}

my $read = 'SELECT FROM users LIMIT 1';
my $write = 'LOCK TABLE users IN ROW EXCLUSIVE MODE';

subtest 'a foreign key is added, the other table is busy' => sub {
	waits_without_a_trace('ALTER TABLE loose ADD CONSTRAINT loose_user FOREIGN KEY (user_id) REFERENCES users',
		$write, 'users', !!0);
};
subtest 'a foreign key is dropped, the other table is busy' => sub {
	waits_without_a_trace('ALTER TABLE loose DROP CONSTRAINT loose_user', $read, 'users', !!1);
};
subtest 'a column is added with a foreign key' => sub {
	waits_without_a_trace('ALTER TABLE loose ADD COLUMN u int REFERENCES users', $write, 'users', !!1);
};
subtest 'a column with a foreign key is dropped' => sub {
	waits_without_a_trace('ALTER TABLE loose DROP COLUMN u', $read, 'users', !!1);
};
subtest 'a table with a foreign key is dropped' => sub {
	$ddl->do('CREATE TABLE doomed (user_id int REFERENCES users)');
	waits_without_a_trace('DROP TABLE doomed', $read, 'users', !!1);
};
subtest 'the table itself is busy' => sub {
	waits_without_a_trace('ALTER TABLE orders DROP CONSTRAINT orders_user', 'SELECT FROM orders LIMIT 1', 'orders', !!1);
};

subtest 'the lock that is logged is taken last' => sub {
	# Nobody holds what the statement needs, but a request of ACCESS EXCLUSIVE stands in the queue of
	# one table: that shows only when the lock is to be taken. The other table is free.
	$ddl->do('CREATE TABLE late (user_id int)');
	my $queued = session($primary, 'queued');
	$holder->do('BEGIN');
	$holder->do($read);
	$queued->do('BEGIN');
	settle($primary, $queued->send('LOCK TABLE users'));
	my $from = log_position();
	$ddl->send('ALTER TABLE late ADD COLUMN u int, ADD FOREIGN KEY (user_id) REFERENCES users');
	await($primary, 'it tries',
		q{SELECT EXISTS (SELECT FROM pg_lockguard_progress WHERE pid = ? AND relation = 'public.users' AND attempt >= 5)},
		$ddl->pid);
	is(logged_locks($from, log_position()), 0, 'none is logged while the weaker one is not to be had');
	$holder->do('COMMIT');
	is($queued->error, undef, 'who stood in the queue has the lock');
	$queued->do('COMMIT');
	is($ddl->error, undef, 'done');
};

subtest 'a statement on the standby itself is left alone' => sub {
	my $weak = session($standby, 'weak');
	$weak->do(q{SET pg_lockguard.ddl_mode = lock_timeout; SET pg_lockguard.ddl_lock_timeout = '1ms';
		SET pg_lockguard.ddl_commands = 'LOCK TABLE'});
	$holder->do('BEGIN');
	$holder->do('LOCK TABLE users');
	$primary->wait_for_catchup($standby, 'replay', log_position());
	await($standby, 'the standby replays the lock',
		q{SELECT count(*) = 1 FROM pg_locks WHERE relation = 'users'::regclass AND mode = 'AccessExclusiveLock'});
	$weak->do('BEGIN');
	settle($standby, $weak->send('LOCK TABLE users IN ACCESS SHARE MODE'));
	$holder->do('COMMIT');
	is($weak->error, undef, 'on a standby the guard leaves LOCK TABLE alone');
	forget_sessions($weak);
};

ends_well($primary, $standby);
done_testing();
