# What the record says of sessions: events, in the order in which they were written.
package LockGuard::Record;

use strict;
use warnings;

use Exporter 'import';
use LockGuard;

our @EXPORT = qw(event verdict events_about events_since skip_events newest_event newest_id);

# event(SESSION, [KIND]): waits for the next event in which this session is the blocker, after the one that
# was returned last for it, and returns its columns; "past" says whether its time is past.
sub event
{
	my ($blocker, $kind) = @_;
	my $later = 'FROM pg_lockguard_events WHERE blocker_pid = ? AND id > ?' . (defined $kind ? ' AND kind = ?' : '');
	my @values = ($blocker->pid, $blocker->{last_event} // 0, defined $kind ? $kind : ());
	await($blocker->node, ($kind // 'an event') . ' about ' . $blocker->name, "SELECT EXISTS (SELECT $later)", @values);
	my ($event) = LockGuard::observer($blocker->node)->rows(
		"SELECT *, at <= clock_timestamp() AS past $later ORDER BY id LIMIT 1", @values);
	$blocker->{last_event} = $event->{id};
	return $event;
}

# verdict(SESSION): [ kind, reason ] of the next event about it.
sub verdict
{
	my ($blocker) = @_;
	return [ @{ event($blocker) }{qw(kind reason)} ];
}

# events_about(SESSION): how many there are.
sub events_about
{
	my ($blocker) = @_;
	return LockGuard::observer($blocker->node)->value('SELECT count(*) FROM pg_lockguard_events WHERE blocker_pid = ?',
		$blocker->pid);
}

# events_since(SESSION): how many, after the one that was returned last for it.
sub events_since
{
	my ($blocker) = @_;
	return LockGuard::observer($blocker->node)->value(
		'SELECT count(*) FROM pg_lockguard_events WHERE blocker_pid = ? AND id > ?',
		$blocker->pid, $blocker->{last_event} // 0);
}

# skip_events(SESSION...): what was said of them so far is not waited for.
sub skip_events
{
	$_->{last_event} = newest_id($_->node) for @_;
	return;
}

# newest_event(NODE, KIND): the newest of this kind.
sub newest_event
{
	my ($node, $kind) = @_;
	my ($event) = LockGuard::observer($node)->rows(
		'SELECT * FROM pg_lockguard_events WHERE kind = ? ORDER BY id DESC LIMIT 1', $kind);
	return $event;
}

# newest_id(NODE): the newest event's, 0 where there is none.
sub newest_id
{
	my $node = shift;
	return LockGuard::observer($node)->value('SELECT coalesce(max(id), 0) FROM pg_lockguard_events');
}

1;
