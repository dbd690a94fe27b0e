# pg_lockguard_decide(): what somebody else decides for a statement that waits at low priority; who
# may, and that no other statement ever hears it.
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
	'decide',
	"shared_preload_libraries = 'pg_lockguard'",
	"deadlock_timeout = '200ms'",
	"pg_lockguard.ddl_notice_interval = 0",
	"pg_lockguard.ddl_commands = 'ALTER TABLE, LOCK TABLE'");
$node->safe_psql(
	'postgres', q{
	CREATE ROLE owner LOGIN;
	CREATE ROLE member LOGIN IN ROLE owner;
	CREATE ROLE warden LOGIN IN ROLE pg_signal_backend;
	CREATE ROLE stranger LOGIN;
	CREATE ROLE shielded LOGIN;
	ALTER ROLE shielded SET pg_lockguard.protected = on;
	CREATE TABLE users (id int PRIMARY KEY);
	ALTER TABLE users OWNER TO owner;
	GRANT ALL ON SCHEMA public TO owner;
	GRANT SET ON PARAMETER pg_lockguard.ddl_max_wait TO owner;
	GRANT ALL ON users TO PUBLIC;
	-- Works until an advisory lock is free.
	CREATE FUNCTION works() RETURNS boolean VOLATILE LANGUAGE plpgsql AS $$
	BEGIN
		WHILE NOT pg_try_advisory_xact_lock(1) LOOP PERFORM pg_sleep(0.01); END LOOP;
		RETURN true;
	END $$});

my %session = map { $_ => session($node, $_, user => $_) } qw(owner member warden stranger);
my $admin = session($node, 'admin');
my $holder = session($node, 'holder', user => 'stranger');
my $ddl = $session{owner};
my $witness = session($node, 'witness');

my $decide = 'SELECT pg_lockguard_decide(?, ?)';

# A statement of the owner's that waits behind the holder.
sub start_waiting
{
	my ($in_the_way, $waiter) = @_;
	$in_the_way //= $holder;
	$waiter //= $ddl;
	read_and_idle($in_the_way);
	$waiter->send(add_column());
	await_low_priority($waiter);
	return;
}

sub last_event
{
	my $kind = shift;
	my ($event) = $witness->rows('SELECT * FROM pg_lockguard_events WHERE kind = ? ORDER BY id DESC LIMIT 1', $kind);
	return $event;
}

my @warnings;
$SIG{__WARN__} = sub { push @warnings, shift };
$_->{dbh}{PrintWarn} = 1 for $admin, values %session;

subtest 'give up' => sub {
	start_waiting();
	my $began = time;
	is($admin->value($decide, $ddl->pid, 'give up'), 1, 'heard');
	cmp_ok(time - $began, '<', 30, 'long before ddl_max_wait');
	my $error = $ddl->error;
	is($ddl->sqlstate, '55P03', 'with 55P03');
	my $pid = $admin->pid;
	like($error, qr/canceling statement due to lock timeout\nDETAIL:  ALTER TABLE waited .*Blocked by PID .*\nPID $pid \(app "admin", user \w+\) decided: give up\./s, 'it says who has decided');
	is(last_event('ddl_decided')->{pid}, $ddl->pid, 'the record has it');
	like(last_event('ddl_decided')->{reason}, qr/^PID $pid \(app "admin", user \w+\) decided: give up$/, 'and who has decided');
	is(last_event('ddl_timeout')->{pid}, $ddl->pid, 'and how it ended');
	$holder->do('COMMIT');
	is_clean($ddl, 'give up');
};

subtest 'queue' => sub {
	start_waiting();
	is($admin->value($decide, $ddl->pid, 'queue'), 1, 'heard');
	await($node, 'it stands in the queue',
		q{SELECT EXISTS (SELECT FROM pg_locks WHERE pid = ? AND NOT granted AND relation = 'users'::regclass)}, $ddl->pid);
	is($witness->value('SELECT count(*) FROM pg_lockguard_progress'), 0, 'and no more at low priority');
	@warnings = ();
	is($admin->value($decide, $ddl->pid, 'give up'), 0, 'nothing more can be decided for it');
	my $pid = $ddl->pid;
	like("@warnings", qr/WARNING:  PID $pid does not wait at low priority/, 'which a warning says');
	$holder->do('COMMIT');
	is($ddl->error, undef, 'it is done');
	like(last_event('ddl_decided')->{reason}, qr/decided: queue$/, 'the record has it');
	is_clean($ddl, 'queue');
};

subtest 'terminate' => sub {
	start_waiting();
	is($admin->value($decide, $ddl->pid, 'terminate'), 1, 'heard');
	is($ddl->error, undef, 'the statement is done');
	is(last_event('ddl_blocker_terminated')->{blocker_pid}, $holder->pid, 'the holder was ended');
	like(last_event('ddl_decided')->{reason}, qr/decided: terminate$/, 'the record says who has decided');
	my $pid = $admin->pid;
	like($holder->send('SELECT 1')->error,
		qr/terminating connection .*\nDETAIL:  pg_lockguard: ended by PID \d+, whose .* \(pg_lockguard_decide\(\) by PID $pid\)\.\n/,
		'the holder reads it, and who has decided so');
	forget_sessions($holder);
	$holder = session($node, 'holder', user => 'stranger');
	is_clean($ddl, 'terminate');
};

subtest 'terminate takes rights over the victims' => sub {
	start_waiting();
	ok(!eval { $session{member}->value($decide, $ddl->pid, 'terminate'); 1 }, 'not by one who has none');
	is($session{member}->sqlstate, '42501', 'with 42501');
	my $pid = $holder->pid;
	like($@, qr/permission denied to end the sessions in the way.*Nobody was ended: PID $pid is spared: that takes membership in its role or in pg_signal_backend\./s, 'it says whose');
	# The answer comes first.
	await($node, 'the record says so as well', q{SELECT EXISTS (SELECT FROM pg_lockguard_events WHERE kind = 'ddl_decided' AND pid = ? AND reason ~ ?)},
		$ddl->pid, "decided: terminate; nobody was ended: PID $pid");
	await_low_priority($ddl);
	is($session{warden}->value($decide, $ddl->pid, 'terminate'), 1, 'members of pg_signal_backend have it');
	is($ddl->error, undef, 'done');
	forget_sessions($holder);

	my $root = session($node, 'root');
	start_waiting($root);
	ok(!eval { $session{warden}->value($decide, $ddl->pid, 'terminate'); 1 }, 'not over a superuser');
	like($@, qr/only a superuser may end a superuser's session/, 'which it says');
	is($admin->value($decide, $ddl->pid, 'terminate'), 1, 'a superuser has it');
	is($ddl->error, undef, 'done');
	forget_sessions($root);

	my $shielded = session($node, 'shielded', user => 'shielded');
	start_waiting($shielded);
	@warnings = ();
	is($admin->value($decide, $ddl->pid, 'terminate'), 1, 'heard, but');
	like("@warnings", qr/nobody was ended who is in the way.*is spared/s, 'whom the settings spare is spared');
	is($shielded->value('SELECT 1'), 1, 'and lives');
	$shielded->do('COMMIT');
	is($ddl->error, undef, 'done');
	forget_sessions($shielded);
	$holder = session($node, 'holder', user => 'stranger');
};

subtest 'who may decide' => sub {
	start_waiting();
	ok(!eval { $session{stranger}->value($decide, $ddl->pid, 'give up'); 1 }, 'not a stranger');
	is($session{stranger}->sqlstate, '42501', 'with 42501');
	ok(!$ddl->ready, 'it goes on waiting');
	is($session{warden}->value($decide, $ddl->pid, 'give up'), 1, 'a member of pg_signal_backend');
	like($ddl->error, qr/app "warden", user warden/, 'it has given up');
	$holder->do('COMMIT');
	start_waiting();
	is($session{member}->value($decide, $ddl->pid, 'give up'), 1, 'a member of its role');
	like($ddl->error, qr/app "member", user member/, 'it has given up');
	$holder->do('COMMIT');

	my $root = session($node, 'root');
	start_waiting($holder, $root);
	ok(!eval { $session{warden}->value($decide, $root->pid, 'give up'); 1 }, 'for a superuser\'s only superusers');
	is($session{warden}->sqlstate, '42501', 'with 42501');
	is($admin->value($decide, $root->pid, 'give up'), 1, 'such as this one');
	like($root->error, qr/decided: give up/, 'it has given up');
	$holder->do('COMMIT');
	forget_sessions($root);
};

subtest 'bad input' => sub {
	for my $what ('', 'Give Up', 'kill', "give up\n")
	{
		ok(!eval { $admin->value($decide, $ddl->pid, $what); 1 }, "\"$what\"");
		is($admin->sqlstate, '22023', 'with 22023');
	}
	like($@, qr/HINT:  Decide "give up" .* "queue" .* "terminate"/, 'the HINT lists them');
	is($admin->value('SELECT pg_lockguard_decide(NULL, $$give up$$) IS NULL AND pg_lockguard_decide(1, NULL) IS NULL'), 1, 'null');
	for my $pid (0, -1, 999999999, $holder->pid, $admin->pid)
	{
		@warnings = ();
		is($admin->value($decide, $pid, 'give up'), 0, "PID $pid: false");
		like("@warnings", qr/WARNING:  PID $pid /, 'and a warning');
	}
};

subtest 'while it runs, nothing can be decided' => sub {
	$admin->do('INSERT INTO users VALUES (1)');
	read_and_idle($holder);
	$witness->do('SELECT pg_advisory_lock(1)');
	$ddl->send('ALTER TABLE users ADD CHECK (public.works())');
	await_low_priority($ddl);
	$holder->do('COMMIT');
	await($node, 'it runs', q{SELECT EXISTS (SELECT FROM pg_lockguard_progress WHERE pid = ? AND phase = 'running')}, $ddl->pid);
	@warnings = ();
	is($admin->value($decide, $ddl->pid, 'give up'), 0, 'false');
	like("@warnings", qr/does not wait at low priority/, 'and a warning');
	$witness->do('SELECT pg_advisory_unlock(1)');
	is($ddl->error, undef, 'it is done');
};

subtest 'in a transaction, in a function' => sub {
	$ddl->do('BEGIN');
	$ddl->do('SELECT 1 FROM pg_class LIMIT 1');
	start_waiting();
	is($admin->value($decide, $ddl->pid, 'give up'), 1, 'heard in a transaction');
	like($ddl->error, qr/decided: give up/, 'it has given up');
	$ddl->do('ROLLBACK');
	$holder->do('COMMIT');
	read_and_idle($holder);
	my $statement = add_column();
	$ddl->send("DO \$\$ BEGIN $statement; EXCEPTION WHEN lock_not_available THEN RAISE EXCEPTION 'caught it'; END \$\$");
	await_low_priority($ddl);
	is($admin->value($decide, $ddl->pid, 'give up'), 1, 'heard in a function');
	like($ddl->error, qr/caught it/, 'which can catch it');
	$ddl->send("DO \$\$ BEGIN $statement; END \$\$");
	await_low_priority($ddl);
	is($admin->value($decide, $ddl->pid, 'terminate'), 1, 'terminate');
	is($ddl->error, undef, 'it is done');
	forget_sessions($holder);
	$holder = session($node, 'holder', user => 'stranger');
};

# Repeats are one entry.
sub decisions_recorded
{
	return $witness->value(q{SELECT coalesce(sum(1 + repeats), 0) FROM pg_lockguard_events WHERE kind = 'ddl_decided'});
}

subtest 'several at once, for one statement' => sub {
	my $before = decisions_recorded();
	start_waiting();
	$_->send("SELECT pg_lockguard_decide(" . $ddl->pid . ", 'give up')") for $admin, $session{member}, $session{warden};
	my $error = $ddl->error;
	like($error, qr/decided: give up/, 'it has given up');
	is(scalar(() = $error =~ /decided/g), 1, 'by one decision');
	$_->error for $admin, $session{member}, $session{warden};
	is(decisions_recorded() - $before, 1, 'the record has one');
	$holder->do('COMMIT');
};

# Each statement waits, and its decision is sent while the next one may already have begun: each that
# was heard is heard by the one that waited when it was called.
subtest 'never another statement' => sub {
	$ddl->do("SET pg_lockguard.ddl_max_wait = '30ms'");
	my ($heard, $decided) = (0, 0);
	for my $round (1 .. 40)
	{
		read_and_idle($holder);
		my $seen = $witness->value('SELECT coalesce(max(id), 0) FROM pg_lockguard_events');
		$ddl->send(add_column());
		usleep(1000 * ($round % 10) * 4);
		$admin->send("SELECT pg_lockguard_decide(" . $ddl->pid . ", 'give up')");
		my $first = $ddl->error;
		$ddl->send(add_column());
		my $second = $ddl->error;
		$admin->{sent} = 0;
		while (!$admin->{dbh}->pg_ready) { usleep(1000) }
		$admin->{dbh}->pg_result;
		my $events = $witness->value(q{SELECT count(*) FROM pg_lockguard_events WHERE kind = 'ddl_decided' AND id > ?}, $seen);
		my $told = ($first =~ /decided: give up/ ? 1 : 0) + ($second =~ /decided: give up/ ? 1 : 0);
		is($told, $events, "round $round: what the errors tell is what was decided") if $told != $events;
		$decided += $told;
		$holder->do('COMMIT');
	}
	cmp_ok($decided, '>', 0, "some were heard ($decided of 40)");
	$ddl->do('RESET pg_lockguard.ddl_max_wait');
};

subtest 'who decides can be cancelled' => sub {
	start_waiting();
	kill 'STOP', $ddl->pid;
	$admin->send("SELECT pg_lockguard_decide(" . $ddl->pid . ", 'give up')");
	await($node, 'it waits to be heard', q{SELECT wait_event_type = 'Extension' FROM pg_stat_activity WHERE pid = ?}, $admin->pid);
	$witness->value('SELECT pg_cancel_backend(?)', $admin->pid);
	like($admin->error, qr/canceling statement due to user request/, 'cancelled');
	kill 'CONT', $ddl->pid;
	await_low_priority($ddl);
	usleep(300_000);
	ok(!$ddl->ready, 'the statement does not hear it');
	kill 'STOP', $ddl->pid;
	@warnings = ();
	is($admin->value($decide, $ddl->pid, 'give up'), 0, 'nor does who hears nothing in time');
	like("@warnings", qr/has not heard the decision/, 'which a warning says');
	kill 'CONT', $ddl->pid;
	usleep(300_000);
	ok(!$ddl->ready, 'nor later');
	$holder->do('COMMIT');
	is($ddl->error, undef, 'it is done');
};

ends_well($node);

subtest 'not preloaded' => sub {
	my $bare = start_node('decide_bare', "session_preload_libraries = 'pg_lockguard'");
	my $session = session($bare, 'bare');
	ok(!eval { $session->value($decide, $session->pid, 'give up'); 1 }, 'an error');
	is($session->sqlstate, '55000', 'with 55000');
	ends_well($bare);
};
done_testing();
