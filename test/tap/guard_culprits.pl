# The DETAIL of a guarded statement that ends by its lock_timeout: which lock it was, who was in
# the way, what the reader may see of that, and what to do.
#
# LOCKGUARD_BOUNDARY names the module built from test/boundary (scripts/test builds it).
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LockGuard;
use LockGuard::Guard;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $module = $ENV{LOCKGUARD_BOUNDARY}
  or die "set LOCKGUARD_BOUNDARY to test/boundary/lockguard_boundary.so\n";

my $node = start_guarded_node('culprits');
my ($out, $err);
$node->safe_psql(
	'postgres', q{
	CREATE TABLE part (id int) PARTITION BY RANGE (id);
	CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (10);
	CREATE INDEX part_id ON part (id);
});
my $reader = hold($node, 'reader', 'BEGIN; SELECT count(*) FROM users');
my $reader_pid = $reader->pid;

subtest 'a session that is idle in transaction' => sub {
	like(
		detail_of($node, $blocked),
		qr/^DETAIL:  ALTER TABLE $waited for AccessExclusiveLock on public\.users\. Blocked by PID $reader_pid \(app "\S+", user \S+, idle in transaction for .*\): SELECT count\(\*\) FROM users\nHINT:  .*pg_terminate_backend\($reader_pid\).*\n$/,
		'idle in transaction');
};

# A look at the wait is due in each third of lock_timeout; none may be missed.
subtest 'the lock is known, however short the wait' => sub {
	for my $lock_timeout (1, 2, 3, 400)
	{
		like(
			detail_of($node, "SET pg_lockguard.ddl_lock_timeout = '1s'; SET lock_timeout = $lock_timeout; $blocked"),
			qr/^DETAIL:  ALTER TABLE $waited for AccessExclusiveLock on public\.users\. Blocked by PID $reader_pid /,
			"the lock is known after a wait of $lock_timeout ms ($_)")
		  for 1 .. ($lock_timeout < 100 ? 5 : 2);
	}
	like(
		detail_of($node, alter_around('alter_inside', 'LOCK TABLE users')),
		qr/^DETAIL:  ALTER TABLE $waited for AccessExclusiveLock on public\.users\./,
		'a lock taken by a statement that is not guarded, inside a guarded one');
	seen($node);
};

# With assertions the server would stop: beside that lock PostgreSQL takes no other.
subtest "an error beside the lock on a relation's extension" => sub {
	$node->safe_psql(
		'postgres', qq{
		CREATE FUNCTION fail_while_extending(regclass, regclass) RETURNS void
			AS '$module', 'boundary_fail_while_extending' LANGUAGE c;
		CREATE TABLE extended (id int);
		CREATE TABLE rewritten (id int);
		INSERT INTO rewritten VALUES (1)});
	my $rewrite = q{ALTER TABLE rewritten ALTER id TYPE bigint
		USING CASE WHEN fail_while_extending('users', 'extended')::text = '' THEN 2 END};
	like(
		detail_of($node, $rewrite),
		qr/^DETAIL:  ALTER TABLE $waited for AccessExclusiveLock on relation \d+ of database \d+\. Blocked by PID $reader_pid /,
		'no name is looked up');
	(undef, $err) = run_script($node, "SET pg_lockguard.ddl_mode = low_priority; SET pg_lockguard.ddl_max_wait = '300ms'; $rewrite");
	like($err, qr/DETAIL:  ALTER TABLE $waited for AccessExclusiveLock on public\.users\. Blocked by PID $reader_pid /,
		'at low priority the attempt has been rolled back by then');
	seen($node);
};

subtest "locks other than the main table's" => sub {
	my $writer = hold($node, 'writer', 'BEGIN; INSERT INTO users VALUES (-1)');
	my $writer_pid = $writer->pid;
	like(
		detail_of($node, 'ALTER TABLE orders ADD FOREIGN KEY (user_id) REFERENCES users'),
		qr/^DETAIL:  ALTER TABLE $waited for ShareRowExclusiveLock on public\.users\. Blocked by PID $writer_pid (?!.*also by)/,
		"a foreign key's other table; readers do not block it");
	like(
		detail_of($node, alter_around('alter_inside', 'UPDATE users SET id = -1 WHERE id = 1')),
		qr/^DETAIL:  ALTER TABLE $waited for ShareLock on transaction \d+\. Blocked by PID $writer_pid /,
		'a unique key that somebody else is inserting');
	like(
		detail_of($node, $blocked),
		qr/Blocked by PID $reader_pid .*; also by PID $writer_pid /,
		'two holders, the oldest transaction first');
	$writer->do('ROLLBACK');
	$writer->do('SELECT pg_advisory_lock(42)');
	like(
		detail_of($node, alter_around('alter_inside', 'SELECT pg_advisory_xact_lock(42)')),
		qr/^DETAIL:  ALTER TABLE $waited for ExclusiveLock on advisory lock 42\. Blocked by PID $writer_pid \(.*idle for .*\nHINT:  .*session-level lock/,
		'an advisory lock of a session without a transaction');
	forget_sessions($writer);
};

subtest 'a partition' => sub {
	my $part_reader = hold($node, 'part_reader', 'BEGIN; SELECT count(*) FROM part_1');
	my $part_pid = $part_reader->pid;
	like(
		detail_of($node, 'ALTER TABLE part ADD COLUMN extra int'),
		qr/^DETAIL:  ALTER TABLE $waited for AccessExclusiveLock on public\.part_1\. Blocked by PID $part_pid /,
		'a partition');
	forget_sessions($part_reader);
};

subtest 'a session that is active' => sub {
	my $gate = hold($node, 'gate', 'SELECT pg_advisory_lock(8)');
	my $active = session($node, 'active');
	my $active_pid = $active->pid;
	settle($node, $active->send(q{BEGIN; LOCK TABLE other IN SHARE MODE; SELECT pg_advisory_lock(8), 'busy'}));
	like(
		detail_of($node, 'ALTER TABLE other ADD COLUMN extra int'),
		qr/Blocked by PID $active_pid \(.*, active for .*\): .*pg_advisory_lock\(8\), 'busy'.*\nHINT:  .*pg_cancel_backend\($active_pid\)/,
		'an active session');
	forget_sessions($active, $gate);
};

subtest 'more than three' => sub {
	my @crowd = map { hold($node, "crowd_$_", 'BEGIN; SELECT count(*) FROM users') } 1 .. 4;
	my @crowd_pids = map { $_->pid } @crowd;
	like(
		detail_of($node, $blocked),
		qr/Blocked by PID $reader_pid .*; also by PID $crowd_pids[0] .*; also by PID $crowd_pids[1] .*, and by 2 more\.\n/,
		'five holders: three by name, oldest first');
	forget_sessions(@crowd);
};

# It is let in when the guarded statement gives up, and holds the lock by the time that the error is
# explained.
subtest 'who queued behind the statement was not in the way' => sub {
	my $newcomer = session($node, 'newcomer');
	my $altering = hold($node, 'altering', q{SET pg_lockguard.ddl_lock_timeout = '3s'});
	settle($node, $altering->send($blocked));
	settle($node, $altering, $newcomer->send('BEGIN; SELECT count(*) FROM users'));
	my $error = $altering->error;
	like($error, qr/Blocked by PID $reader_pid [^\n]*\n/, 'who was in the way is named');
	my $newcomer_pid = $newcomer->pid;
	unlike($error, qr/PID $newcomer_pid\b/, 'who came later is not, though it holds the lock now');
	is($newcomer->error, undef, 'it goes on');
	is( $node->safe_psql('postgres',
			"SELECT count(*) FROM pg_locks WHERE granted AND pid = $newcomer_pid AND relation = 'users'::regclass"),
		'1',
		'it does hold the lock');
	forget_sessions($newcomer, $altering);
};

subtest 'prepared transactions' => sub {
	$node->safe_psql('postgres',
		q{BEGIN; LOCK TABLE other IN ROW EXCLUSIVE MODE; PREPARE TRANSACTION 'it''s 1'});
	my $prepared = qr/^DETAIL:  ALTER TABLE $waited for AccessExclusiveLock on public\.other\. Blocked by prepared transaction .*it.*s 1.*\nHINT:  .*ROLLBACK PREPARED 'it''s 1'/;
	like(detail_of($node, 'ALTER TABLE other ADD COLUMN extra int'), $prepared, 'a prepared transaction');
	like(
		detail_of(
			$node, 'ALTER TABLE other ADD COLUMN extra int',
			connstr => $node->connstr('postgres')),
		$prepared,
		'a prepared transaction whose session goes on or has ended');
	($out, $err) = run_script(
		$node, q{BEGIN; LOCK TABLE orders IN ROW EXCLUSIVE MODE; PREPARE TRANSACTION 'mine';
		  ALTER TABLE orders ADD COLUMN extra int; ROLLBACK PREPARED 'mine';
		  ALTER TABLE orders ADD COLUMN extra int});
	like($err, qr/${timed_out}DETAIL:  .*Blocked by prepared transaction .*mine/,
		'a prepared transaction of this very session');
	is(() = $err =~ /ERROR/g, 1, 'which goes on when it is gone');
	$node->safe_psql('postgres', q{ROLLBACK PREPARED 'it''s 1'});
};

subtest 'nobody but other requests' => sub {
	my $queued = session($node, 'queued');
	$queued->do('SET pg_lockguard.ddl_mode = off');
	settle($node, $queued->send($blocked));
	like(
		detail_of($node, 'ALTER TABLE users SET (fillfactor = 90)'),
		qr/^DETAIL:  ALTER TABLE $waited for ShareUpdateExclusiveLock on public\.users\. It was queued behind other requests; nobody holds a conflicting lock any more\.\nHINT:  .*lock_tree\(\)/,
		'no holder, only a queue');
	forget_sessions($queued);
};

subtest 'a parallel query is one session' => sub {
	my $parallel = session($node, 'parallel');
	my $parallel_pid = $parallel->pid;
	$parallel->do($_)
	  for ('SET min_parallel_table_scan_size = 0', 'SET parallel_setup_cost = 0',
		'SET parallel_tuple_cost = 0', 'SET parallel_leader_participation = off');
	$reader->do('ROLLBACK');
	$parallel->send('SELECT count(*) FROM users WHERE pg_sleep(60) IS NOT NULL');
	await($node, 'parallel workers',
		q{SELECT count(*) > 0 FROM pg_stat_activity WHERE leader_pid = ? AND wait_event = 'PgSleep'}, $parallel_pid);
	like(
		detail_of($node, $blocked),
		qr/Blocked by PID $parallel_pid (?!.*also by)/,
		'a parallel query under its leader alone');
	forget_sessions($parallel);
};

subtest 'the privileges of who reads it count' => sub {
	$node->safe_psql(
		'postgres', q{
		CREATE FUNCTION alter_users_as_owner() RETURNS void SECURITY DEFINER LANGUAGE plpgsql AS
			'BEGIN ALTER TABLE users ADD COLUMN extra int; END';
		CREATE FUNCTION alter_users_as_weak() RETURNS void SECURITY DEFINER LANGUAGE plpgsql AS
			'BEGIN ALTER TABLE users ADD COLUMN extra int; END';
		ALTER FUNCTION alter_users_as_weak() OWNER TO weak;
		ALTER TABLE users OWNER TO weak;
	});
	$reader->do('BEGIN');
	$reader->do('SELECT count(*) AS secret FROM users');
	my $hidden = qr/^DETAIL:  ALTER TABLE $waited for AccessExclusiveLock on public\.users\. Blocked by PID $reader_pid \(app "\S+", user \S+\)(?:(?!idle|secret).)*\nHINT:  .*pg_read_all_stats/;
	my $shown = qr/Blocked by PID $reader_pid \(.*idle in transaction for .*\): SELECT count\(\*\) AS secret/;
	my @as_weak = (extra_params => [ '-v', 'VERBOSITY=verbose', '-U', 'weak' ]);
	like(detail_of($node, $blocked, @as_weak), $hidden, 'an unprivileged reader does not see state and query');
	like(detail_of($node, "SET ROLE weak; $blocked"), $hidden, 'neither does a superuser as that role');
	like(detail_of($node, 'SELECT alter_users_as_owner()', @as_weak),
		$hidden, "nor the caller of a superuser's SECURITY DEFINER function");
	like(detail_of($node, 'SELECT alter_users_as_weak()'),
		$hidden, "nor a SECURITY DEFINER function of that role");
	like(detail_of($node, 'SELECT alter_users_as_owner()'), $shown, 'a superuser sees them');
	$node->safe_psql('postgres', 'GRANT pg_read_all_stats TO weak');
	like(detail_of($node, $blocked, @as_weak), $shown, 'and so does a member of pg_read_all_stats');
	$node->safe_psql('postgres', 'REVOKE pg_read_all_stats FROM weak');
};

# Nobody can connect at such a time.
subtest "a catalog that can't be read does not delay the error" => sub {
	my $connected = session($node, 'connected');
	my $catalogs = hold($node, 'catalogs', 'BEGIN; LOCK TABLE pg_authid');
	like($connected->send($blocked)->error, qr/Blocked by PID $reader_pid \(app "[^"]*", idle in transaction/,
		'the catalog of roles is locked: the role is left out');
	$catalogs->do('ROLLBACK');
	$catalogs->do('BEGIN; LOCK TABLE pg_class');
	like($connected->send($blocked)->error, qr/ERROR:  canceling statement due to lock timeout/,
		'the catalog of relations is locked: the error comes all the same');
	$catalogs->do('ROLLBACK');
	forget_sessions($connected, $catalogs);
};

subtest 'an autovacuum worker' => sub {
	$node->safe_psql(
		'postgres', q{
		CREATE TABLE dirty (id int, filler text) WITH (autovacuum_vacuum_threshold = 1, autovacuum_vacuum_scale_factor = 0,
			autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1, vacuum_truncate = off);
		INSERT INTO dirty SELECT i, repeat('x', 500) FROM generate_series(1, 2000) i;
		DELETE FROM dirty;
		ALTER SYSTEM SET autovacuum = on;
		ALTER SYSTEM SET autovacuum_naptime = 1;
		SELECT pg_reload_conf();
	});
	$node->poll_query_until(
		'postgres',
		q{SELECT count(*) = 1 FROM pg_locks JOIN pg_stat_activity USING (pid)
		  WHERE relation = 'dirty'::regclass AND backend_type = 'autovacuum worker'})
	  or die 'autovacuum does not come';
	my $autovacuum_pid = $node->safe_psql('postgres',
		q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'autovacuum worker' AND query ~ 'public.dirty'});
	like(
		detail_of($node, 'ALTER TABLE dirty ADD COLUMN extra int'),
		qr/Blocked by autovacuum worker PID $autovacuum_pid \(.*: autovacuum: VACUUM.*\nHINT:  .*deadlock_timeout/,
		'an autovacuum worker');
	$node->safe_psql('postgres',
		'ALTER SYSTEM SET autovacuum = off; SELECT pg_reload_conf()');
};

ends_well($node);
done_testing();
