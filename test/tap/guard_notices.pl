# pg_lockguard.ddl_notice_interval: what the client of a waiting statement is told meanwhile, and that
# nobody waits for a client that does not read.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LockGuard;
use LockGuard::LowPriority;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $node = start_node(
	'notices',
	"shared_preload_libraries = 'pg_lockguard'",
	"deadlock_timeout = '200ms'",
	"log_min_messages = notice",
	"pg_lockguard.ddl_commands = 'ALTER TABLE, DROP TABLE'");
$node->safe_psql(
	'postgres', q{
	CREATE ROLE other LOGIN;
	CREATE TABLE users (id int PRIMARY KEY);
	GRANT ALL ON SCHEMA public TO other;
	CREATE TABLE others (id int);
	ALTER TABLE others OWNER TO other;
	GRANT ALL ON users, others TO PUBLIC});

my $holder = session($node, 'holder');
my $ddl = session($node, 'ddl');
my $witness = session($node, 'witness');

# Warnings are how DBD::Pg tells of notices.
$ddl->{dbh}{PrintWarn} = 1;
my @told;
$SIG{__WARN__} = sub {
	my $text = shift;
	push @told, $1 while $text =~ /NOTICE:  (.*?)(?= at \S+ line \d+|\z)/gs;
};

# Polls the session until it has been told so often.
sub await_notices
{
	my ($session, $count, $what) = @_;
	for (my $i = 0; $i < 100 * $PostgreSQL::Test::Utils::timeout_default && @told < $count; $i++)
	{
		fail("$what: the statement has ended"), last if $session->ready;
		usleep(10_000);
	}
	cmp_ok(scalar(@told), '>=', $count, $what);
	return;
}

subtest 'none without a wait' => sub {
	@told = ();
	$ddl->do('SET pg_lockguard.ddl_notice_interval = 1');
	$ddl->do(add_column());
	is_deeply(\@told, [], 'nothing');
};

subtest 'none before deadlock_timeout' => sub {
	@told = ();
	read_and_idle($holder);
	$ddl->send(add_column());
	await_low_priority($ddl);
	$holder->do('COMMIT');
	is($ddl->error, undef, 'done');
	is_deeply(\@told, [], 'nothing') if $witness->value(
		q{SELECT waited < '200ms' FROM pg_lockguard_events WHERE kind = 'ddl_acquired' ORDER BY id DESC LIMIT 1});
};

subtest 'none at the very end' => sub {
	@told = ();
	read_and_idle($holder);
	$ddl->do("SET lock_timeout = '250ms'");
	my $began = time;
	$ddl->send(add_column());
	like($ddl->error, qr/lock timeout\nDETAIL:  ALTER TABLE waited /, 'the error says it all');
	cmp_ok(time - $began, '>=', 0.2, 'a NOTICE was due before');
	is_deeply(\@told, [], 'nothing that would be old with the next line');
	$ddl->do('RESET lock_timeout');
	$holder->do('COMMIT');
};

subtest 'what it says' => sub {
	@told = ();
	$ddl->do("SET pg_lockguard.ddl_notice_interval = '1h'");
	read_and_idle($holder);
	my $began = time;
	$ddl->send(add_column());
	await_notices($ddl, 1, 'it is told');
	cmp_ok(time - $began, '>=', 0.2, 'after deadlock_timeout');
	like($told[0], qr/^ALTER TABLE has waited \S+ m?s for AccessExclusiveLock on public\.users\n/, 'what it waits for, and how long');
	my $pid = $holder->pid;
	like($told[0], qr/\nDETAIL:  Nobody waits behind it, and it waits for as long as it takes\. Blocked by PID $pid \(app "holder", user \w+, idle in transaction for \S+ m?s\): SELECT count\(\*\) FROM users\n/, 'who is in the way');
	my $own = $ddl->pid;
	like($told[0], qr/\nHINT:  Commit or roll back the transaction of PID $pid, or end its session with SELECT pg_terminate_backend\($pid\)\. Others can decide for it: SELECT pg_lockguard_decide\($own, 'give up'\)/, 'what can be done');
	is($witness->value('SELECT backend_xmin IS NULL FROM pg_stat_activity WHERE pid = ?', $ddl->pid), 1,
		'the words leave no snapshot behind');
	$holder->do('COMMIT');
	is($ddl->error, undef, 'done');
	is(scalar(@told), 1, 'once in the interval');
};

subtest 'again and again' => sub {
	@told = ();
	$ddl->do("SET pg_lockguard.ddl_notice_interval = '100ms'; SET pg_lockguard.ddl_max_wait = '1h'");
	read_and_idle($holder);
	$ddl->send(add_column());
	await_notices($ddl, 4, 'each interval');
	like($told[3], qr/and in 59 min it gives up/, 'when its patience ends');
	$holder->do('COMMIT');
	is($ddl->error, undef, 'done');
	$ddl->do('SET pg_lockguard.ddl_on_timeout = queue');
	@told = ();
	read_and_idle($holder);
	$ddl->do("SET pg_lockguard.ddl_max_wait = '3s'");
	$ddl->send(add_column());
	await_notices($ddl, 1, 'it is told');
	like($told[0], qr/and in \S+ m?s it stands in the lock queue, where others wait behind it/, 'what comes then');
	for (my $i = 0; $i < 100 * $PostgreSQL::Test::Utils::timeout_default && $told[-1] !~ /queue from now on/; $i++)
	{
		usleep(10_000);
		$ddl->ready;
	}
	# Not before.
	like($told[-1], qr/^ALTER TABLE stands in the queue from now on, after (?:[3-9]\.\d|\d\d+) s, for AccessExclusiveLock on public\.users; others wait behind it/, 'that it has come to that');
	$holder->do('COMMIT');
	is($ddl->error, undef, 'done');
	$ddl->do('RESET pg_lockguard.ddl_on_timeout; RESET pg_lockguard.ddl_max_wait');
};

subtest 'a timeout of the session that comes before its patience ends' => sub {
	my %told_of = (statement_timeout => 'statement_timeout cancels it');
	$told_of{transaction_timeout} = 'transaction_timeout ends its session'
	  if $witness->value(q{SELECT current_setting('transaction_timeout', true)});
	for my $max_wait ('0', '2h')
	{
		$ddl->do("SET pg_lockguard.ddl_max_wait = '$max_wait'");
		for my $timeout (sort keys %told_of)
		{
			@told = ();
			read_and_idle($holder);
			$ddl->do("SET $timeout = '1h'");
			$ddl->send(add_column());
			await_notices($ddl, 1, 'it is told');
			like($told[0], qr/ and in 59 min $told_of{$timeout}\. Blocked by/, "$timeout, ddl_max_wait $max_wait");
			$holder->do('COMMIT');
			is($ddl->error, undef, 'done');
			$ddl->do("RESET $timeout");
		}
	}
	$ddl->do("SET pg_lockguard.ddl_max_wait = '30min'; SET statement_timeout = '1h'");
	@told = ();
	read_and_idle($holder);
	$ddl->send(add_column());
	await_notices($ddl, 1, 'it is told');
	like($told[0], qr/ and in 29 min it gives up\. Blocked by/, 'one that comes later');
	$holder->do('COMMIT');
	is($ddl->error, undef, 'done');
	$ddl->do('RESET pg_lockguard.ddl_max_wait; RESET statement_timeout');
};

subtest 'who waits behind it' => sub {
	@told = ();
	my $waiter = session($node, 'waiter');
	$ddl->do("SET pg_lockguard.ddl_lock_timeout = '1min'");
	$ddl->do('BEGIN');
	$ddl->do('LOCK TABLE others');
	read_and_idle($holder);
	$waiter->send('SELECT FROM others');
	settle($node, $waiter);
	$ddl->send(add_column());
	await_notices($ddl, 1, 'it is told');
	like($told[0], qr/DETAIL:  1 session waits for locks of its transaction, for up to \S+ m?s so far, and it waits/, 'who, and since when');
	$holder->do('COMMIT');
	is($ddl->error, undef, 'done');
	$ddl->do('ROLLBACK');
	is($waiter->error, undef, 'who waited goes on');
	forget_sessions($waiter);
	$ddl->do('RESET pg_lockguard.ddl_lock_timeout');
};

# As plain PostgreSQL would, it goes on waiting, and fails with the error that it would have failed with.
subtest "a query that the client's encoding has no letters for" => sub {
	my $latin = session($node, 'latin');
	$latin->{dbh}{PrintWarn} = 1;
	my $waits = 'ALTER TABLE others ADD told int';
	$holder->do('BEGIN');
	$holder->do("SELECT FROM others /* \x{65e5}\x{672c}, 5 \x{20ac} */");
	$latin->do($_) for q{SET client_encoding = 'LATIN1'}, 'SET pg_lockguard.ddl_notice_interval = 1';
	@told = ();
	$latin->send($waits);
	await_notices($latin, 1, 'it is told');
	like($told[0], qr{/\* \?\?, 5 \? \*/}, '... as much as can be said');
	$witness->value('SELECT pg_cancel_backend(?)', $latin->pid);
	like($latin->error, qr{user request.*DETAIL:.*/\* \?\?, 5 \? \*/}s, 'a cancel request');
	$latin->do('SET pg_lockguard.ddl_notice_interval = 0');
	for my $mode (qw(low_priority lock_timeout))
	{
		$latin->do($_) for "SET pg_lockguard.ddl_mode = $mode", q{SET lock_timeout = '100ms'};
		$latin->send($waits);
		like($latin->error, qr{lock timeout.*DETAIL:.*/\* \?\?, 5 \? \*/}s, "a timeout in ddl_mode $mode");
		is($latin->sqlstate, '55P03', '... and its SQLSTATE');
	}
	$holder->do('COMMIT');
	forget_sessions($latin);
};

subtest 'in a function' => sub {
	@told = ();
	my $log = -s $node->logfile;
	read_and_idle($holder);
	$ddl->send('DO $$ BEGIN ' . add_column() . '; END $$');
	await_notices($ddl, 2, 'it is told');
	like(slurp_file($node->logfile, $log),
		qr/NOTICE:  ALTER TABLE has waited .*?CONTEXT:  SQL statement "ALTER TABLE users ADD COLUMN \w+ int"\n\s+PL\/pgSQL function inline_code_block line 1/s,
		'with its context');
	$holder->do('COMMIT');
	is($ddl->error, undef, 'done');
};

subtest 'settings that silence it' => sub {
	for my $setting ('pg_lockguard.ddl_notice_interval = 0', 'client_min_messages = warning')
	{
		@told = ();
		$ddl->do("SET pg_lockguard.ddl_notice_interval = '50ms'");
		$ddl->do("SET $setting");
		read_and_idle($holder);
		$ddl->send(add_column());
		await($node, 'it has waited', q{SELECT EXISTS (SELECT FROM pg_lockguard_progress WHERE pid = ? AND waited > '500ms')}, $ddl->pid);
		$holder->do('COMMIT');
		is($ddl->error, undef, 'done');
		is_deeply(\@told, [], $setting);
		$ddl->do('RESET client_min_messages');
	}
};

subtest 'as much as the reader may see' => sub {
	my $poor = session($node, 'poor', user => 'other');
	$poor->{dbh}{PrintWarn} = 1;
	@told = ();
	read_and_idle($holder, 'others');
	$poor->send('ALTER TABLE others ADD COLUMN a int');
	await_notices($poor, 1, 'it is told');
	my $pid = $holder->pid;
	like($told[0], qr/Blocked by PID $pid \(app "holder", user \w+\)\.\nHINT:  Members of pg_read_all_stats can see what PID $pid does\./, 'neither state nor query');
	$holder->do('COMMIT');
	is($poor->error, undef, 'done');
	forget_sessions($poor);
};

subtest 'other kinds of holders' => sub {
	@told = ();
	$ddl->do("SET pg_lockguard.ddl_notice_interval = '100ms'");
	read_and_idle($holder);
	$holder->do("PREPARE TRANSACTION 'it''s'");
	$ddl->send(add_column());
	await_notices($ddl, 1, 'it is told');
	like($told[0], qr/Blocked by prepared transaction "it's".*\nHINT:  Run COMMIT PREPARED 'it''s' or ROLLBACK PREPARED 'it''s'\. Others/s, 'a prepared transaction');
	$holder->do("COMMIT PREPARED 'it''s'");
	is($ddl->error, undef, 'done');
	@told = ();
	$holder->do('BEGIN');
	$holder->do('SELECT FROM users LIMIT 1');
	$holder->send('SELECT pg_sleep(600)');
	my $sleeper = $holder->pid;
	await($node, 'it sleeps', q{SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = ?}, $sleeper);
	$ddl->send(add_column());
	await_notices($ddl, 1, 'it is told');
	like($told[0], qr/HINT:  It goes on when PID $sleeper has finished; SELECT pg_cancel_backend\($sleeper\) cancels the statement in its way\./, 'one at work');
	$witness->value('SELECT pg_cancel_backend(?)', $sleeper);
	$holder->error;
	$holder->do('ROLLBACK');
	is($ddl->error, undef, 'done');
};

# The memory of a session that is for good, with the buffer of its connection: by its own log line.
sub memory_of
{
	my $session = shift;
	my $log = -s $node->logfile;
	my $size;
	for (my $i = 0; $i < 100 * $PostgreSQL::Test::Utils::timeout_default && !defined $size; $i++)
	{
		# PostgreSQL writes it in several messages, and any cancellation ends that: so does the timer by which
		# the session wakes up each millisecond.
		$witness->value('SELECT pg_log_backend_memory_contexts(?)', $session->pid) if $i % 100 == 0;
		usleep(10_000);
		($size) = slurp_file($node->logfile, $log) =~ /level: [01]; TopMemoryContext: (\d+) total/;
	}
	return $size;
}

sub notices_logged { return scalar(() = slurp_file($node->logfile, shift) =~ /NOTICE:  ALTER TABLE has waited/g) }

subtest 'a client that does not read' => sub {
	my $stalled = session($node, 'stalled');
	$stalled->do('SET pg_lockguard.ddl_notice_interval = 1');
	my $log = -s $node->logfile;
	read_and_idle($holder);
	# The server has a NOTICE of its own to send at the end, with the table locked: that some column exists.
	my $statement = add_column() . ', ADD COLUMN IF NOT EXISTS id int';
	$stalled->send($statement);    # and nobody asks for its end
	# A socket takes some hundred kB; a notice has half of one.
	for (my $i = 0; $i < 6000 && notices_logged($log) < 1500; $i++) { usleep(10_000) }
	cmp_ok(notices_logged($log), '>=', 1500, 'more notices than a socket takes');
	await($node, 'it waits', q{SELECT phase = 'waiting' FROM pg_lockguard_progress WHERE pid = ?}, $stalled->pid);
	pass('the statement waits for its lock, not for its client');
	isnt($witness->value(q{SELECT wait_event FROM pg_stat_activity WHERE pid = ?}, $stalled->pid), 'ClientWrite', 'by its wait event as well');
	my $memory = memory_of($stalled);
	my $before = notices_logged($log);
	for (my $i = 0; $i < 6000 && notices_logged($log) < $before + 500; $i++) { usleep(10_000) }
	cmp_ok(memory_of($stalled) - $memory, '<', 20_000, 'and 500 more take no room');
	$holder->do('COMMIT');
	my ($column) = $statement =~ /COLUMN (\w+)/;
	await($node, 'it is carried out and committed',
		q{SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'users'::regclass AND attname = ?)}, $column);
	pass('it is carried out while its client still does not read');
	@told = ();
	is($stalled->error, undef, 'and done, for a client that reads at last');
	is($stalled->value('SELECT 42'), 42, 'the protocol is in order');
	forget_sessions($stalled);
};

ends_well($node);
done_testing();
