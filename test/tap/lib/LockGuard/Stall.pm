# What the tests of pg_lockguard.ddl_max_stall share: a server with a gate that statements run up
# against, and what is asked of those that keep others waiting.
package LockGuard::Stall;

use strict;
use warnings;

use Exporter 'import';
use LockGuard;
use Test::More;

our @EXPORT = qw(start_stall_node open_gate shut_gate await_lock await_wait await_age fails_by_stall await_events events
	$limit $rewrite $message);

# ddl_max_stall, in ms.
our $limit = 300;

# It has its lock, and works until the gate is opened.
our $rewrite = 'ALTER TABLE busy ALTER id TYPE bigint USING gate(id)';

our $message = 'canceling statement because it kept others waiting for too long';

# start_stall_node(NAME, [OPTIONS,] SETTING...): as start_node().
sub start_stall_node
{
	my ($name, @settings) = @_;
	my @options = ref $settings[0] ? shift @settings : ();
	my $node = start_node(
		$name, @options,
		q{shared_preload_libraries = 'pg_lockguard'},
		"pg_lockguard.ddl_max_stall = $limit", @settings);
	$node->safe_psql(
		'postgres', q{
		CREATE TABLE gate (open bool);
		INSERT INTO gate VALUES (false);
		CREATE TABLE busy (id int);
		INSERT INTO busy VALUES (1);
		CREATE TABLE other (id int PRIMARY KEY, n int);
		INSERT INTO other VALUES (1, 0), (2, 0);
		-- Works, and waits for no lock, until the gate is open.
		CREATE FUNCTION gate(anyelement) RETURNS anyelement VOLATILE LANGUAGE plpgsql AS $$
		BEGIN
			WHILE NOT (SELECT open FROM public.gate) LOOP
				PERFORM pg_sleep(0.01);
			END LOOP;
			RETURN $1;
		END $$;
		CREATE FUNCTION fixed_gate(anyelement) RETURNS anyelement IMMUTABLE LANGUAGE plpgsql AS $$
		BEGIN
			RETURN public.gate($1);
		END $$;
		CREATE ROLE app LOGIN;
		GRANT ALL ON ALL TABLES IN SCHEMA public TO app});
	return $node;
}

sub open_gate { return shift->safe_psql('postgres', 'UPDATE gate SET open = true') }
sub shut_gate { return shift->safe_psql('postgres', 'UPDATE gate SET open = false') }

# Until the session has the lock on the relation.
sub await_lock
{
	my ($session, $relation, $mode) = @_;
	await($session->node, $session->name . ' has its lock',
		q{SELECT EXISTS (SELECT FROM pg_locks WHERE pid = ? AND relation = ?::regclass AND mode = ? AND granted)},
		$session->pid, $relation, $mode // 'AccessExclusiveLock');
	return;
}

# Until each of the sessions waits in a queue.
sub await_wait
{
	for my $session (@_)
	{
		await($session->node, $session->name . ' waits',
			q{SELECT EXISTS (SELECT FROM pg_locks WHERE pid = ? AND NOT granted AND waitstart IS NOT NULL)}, $session->pid);
	}
	return;
}

# Until what the session does has lasted for so many times as long as the limit.
sub await_age
{
	my ($session, $times) = @_;
	await($session->node, $session->name . ' has been at it for long',
		q{SELECT clock_timestamp() - state_change > ?::interval FROM pg_stat_activity WHERE pid = ?},
		$times * $limit . 'ms', $session->pid);
	return;
}

# The statement fails by the limit, and its DETAIL is as this pattern.
sub fails_by_stall
{
	my ($session, $detail, $name) = @_;
	my $error = $session->error;
	like($error, qr/$message/, "$name: it fails by its words");
	is($session->sqlstate, '57014', "$name: by its SQLSTATE");
	like($error, $detail, "$name: and says whom it has kept waiting") if $error && $error =~ /DETAIL/;
	return $error;
}

# Events of that kind since the latest call for them, as rows.
my %seen;

sub events
{
	my ($node, $kind) = @_;
	my @rows = LockGuard::observer($node)->rows(
		'SELECT *, extract(epoch FROM stall) * 1000 AS stall_ms FROM pg_lockguard_events WHERE kind = ? AND id > ? ORDER BY id', $kind, $seen{ $node->name, $kind } // 0);
	$seen{ $node->name, $kind } = $rows[-1]{id} if @rows;
	return @rows;
}

# await_events(KIND, SESSION...): as events(), when there is one about each of the sessions: the worker acts
# before it records.
sub await_events
{
	my ($kind, @sessions) = @_;
	for my $session (@sessions)
	{
		await($session->node, "$kind of " . $session->name . ' is recorded',
			'SELECT EXISTS (SELECT FROM pg_lockguard_events WHERE kind = ? AND blocker_pid = ? AND id > ?)',
			$kind, $session->pid, $seen{ $session->node->name, $kind } // 0);
	}
	return events($sessions[0]->node, $kind);
}

1;
