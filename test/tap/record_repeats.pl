# Whoever may run guarded statements can't fill the record, or the log, with them: repeats are folded into one
# entry, and what the worker did has places of its own.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use LockGuard;
use LockGuard::Record;
use LockGuard::Worker;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $max = 40;
my $node = start_worker_node(
	'repeats', "pg_lockguard.events_max = $max", q{pg_lockguard.log_events = all});

my $observer = LockGuard::observer($node);

# Its own table, which a session of its own keeps it from.
my $owner = session($node, 'owner', user => 'app');
$owner->do("CREATE TABLE own_$_ (id int)") for 1 .. 3;
my $keeper = session($node, 'keeper', user => 'app');
$keeper->do('BEGIN; SELECT FROM own_1, own_2, own_3');

# Tries this statement so often, in vain.
sub try_in_vain
{
	my ($session, $count, $statement) = @_;
	for (1 .. $count)
	{
		eval { $session->do($statement); 1 } and die 'it has not failed';
		die $@ if $session->sqlstate ne '55P03';
	}
	return;
}

$node->safe_psql('postgres', q{ALTER ROLE app SET pg_lockguard.ddl_mode = low_priority; ALTER ROLE app SET lock_timeout = '1ms'});

sub events_of
{
	my ($session, $kind) = @_;
	return $observer->rows('SELECT * FROM pg_lockguard_events WHERE pid = ? AND kind = ? ORDER BY id', $session->pid, $kind);
}

# What the worker did, before all that.
my ($marker, $marker_ddl) = do {
	configure($node, blocker_action => 'terminate', exempt_applications => 'keeper');
	my $table = new_table($node);
	my $holder = idle_holder($node, 'app', $table, name => 'marker');
	($holder, blocked_ddl($node, $table));
};
my $ended = event($marker);
is($ended->{kind}, 'blocker_terminated', 'the worker ends somebody');
is(await_end($marker_ddl), undef, '... for another');
configure($node, blocker_action => 'off');

subtest 'a statement that is tried again and again' => sub {
	my $session = session($node, 'hasty', user => 'app');
	my $size = -s $node->logfile;
	try_in_vain($session, 200, 'ALTER TABLE own_1 ADD n int');
	for my $kind (qw(ddl_waited ddl_timeout))
	{
		my @events = events_of($session, $kind);
		my $times = 0;
		$times += 1 + $_->{repeats} for @events;
		is($times, 200, "$kind: each time is counted");
		# Where the machine stands still for a second, another entry begins.
		cmp_ok(scalar @events, '<=', 5, '... in few entries') or diag scalar @events;
		is(scalar(grep { ($_->{last_at} cmp $_->{at}) < ($_->{repeats} > 0 ? 1 : 0) } @events), 0,
			'... with the first time and the last');
		my $log = substr(slurp_file($node->logfile), $size);
		my @lines = $log =~ /pg_lockguard event: kind=$kind .*/g;
		cmp_ok(scalar @lines, '<=', 5 * @events, '... and lines in the log');
		like(join("\n", @lines), qr/ repeats=10$/m, '... each of which says how many times it stands for');
		unlike(join("\n", @lines), qr/ repeats=(?!1(0*)\b)/, '... in powers of ten');
	}
	ok((grep { $_->{id} == $ended->{id} } $observer->rows('SELECT id FROM pg_lockguard_events')),
		'what the worker did is still there');
	forget_sessions($session);
};

# Without shared memory there is no record, only the log.
my $alone = start_node(
	'repeats_alone', q{session_preload_libraries = 'pg_lockguard'}, q{pg_lockguard.log_events = all}, q{pg_lockguard.ddl_mode = low_priority});

subtest 'a statement that is tried again and again, in a server that has not preloaded the library' => sub {
	my ($holder, $hasty) = map { session($alone, $_) } qw(holder hasty);
	$holder->do('CREATE TABLE own_1 (id int); CREATE TABLE own_2 (id int)');
	$holder->do('BEGIN; SELECT FROM own_1, own_2');
	$hasty->do(q{SET lock_timeout = '1ms'});
	try_in_vain($hasty, 200, 'ALTER TABLE own_1 ADD n int');
	try_in_vain($hasty, 1, 'ALTER TABLE own_2 ADD n int');
	my $log = slurp_file($alone->logfile);
	for my $kind (qw(ddl_waited ddl_timeout))
	{
		my @lines = $log =~ /pg_lockguard event: kind=$kind .*relation="public\.own_1".*/g;
		my @first = grep { !/ repeats=/ } @lines;
		# Where the machine stands still for a second, another one begins.
		ok(@first > 0 && @first <= 5, "$kind: few of them are first ones") or diag scalar @first;
		cmp_ok(scalar @lines, '<=', 5 * @first, '... and few lines are in the log') or diag scalar @lines;
		my @repeats = map { / repeats=(\d+)$/ ? $1 : () } @lines;
		is(scalar(grep { $_ == 10 } @repeats) > 0, 1, '... each of which says how many times it stands for');
		is_deeply([ grep { !/^10*$/ } @repeats ], [], '... in powers of ten');
		my @other = $log =~ /pg_lockguard event: kind=$kind .*relation="public\.own_2".*/g;
		is(scalar(grep { !/ repeats=/ } @other), 1, '... another relation has its own');
	}
	forget_sessions($holder, $hasty);
};

subtest 'what is not the same' => sub {
	my ($one, $two) = map { session($node, $_, user => 'app') } qw(one two);
	try_in_vain($_, 1, 'ALTER TABLE own_1 ADD n int') for $one, $two;
	try_in_vain($one, 1, "ALTER TABLE own_$_ ADD n int") for 2, 3;
	is_deeply([ map { $_->{repeats} } events_of($one, 'ddl_timeout') ], [ 0, 0, 0 ], 'other relations');
	is_deeply([ map { $_->{repeats} } events_of($two, 'ddl_timeout') ], [ 0 ], 'another session');

	# In between there is another relation.
	try_in_vain($one, 1, "ALTER TABLE own_$_ ADD n int") for 1, 2, 1, 2;
	my (%times, @events);
	for my $event (@events = events_of($one, 'ddl_timeout'))
	{
		$times{ $event->{relation} } += 1 + $event->{repeats};
	}
	is_deeply(\%times, { 'public.own_1' => 3, 'public.own_2' => 3, 'public.own_3' => 1 }, 'in turns: each time is counted')
	  or diag explain \@events;
	# Where the machine stands still for a second, other entries begin.
	cmp_ok(scalar @events, '<=', 5, '... each goes into its own') or diag explain \@events;
	forget_sessions($one, $two);
};

subtest 'a second later it is another one' => sub {
	my $session = session($node, 'slow', user => 'app');
	try_in_vain($session, 1, 'ALTER TABLE own_1 ADD n int');
	await($node, 'more than a second has passed', q{SELECT bool_and(clock_timestamp() - last_at > '1.01 s')
		FROM pg_lockguard_events WHERE pid = ?}, $session->pid);
	try_in_vain($session, 1, 'ALTER TABLE own_1 ADD n int');
	is_deeply([ map { $_->{repeats} } events_of($session, 'ddl_timeout') ], [ 0, 0 ], 'two entries');
	forget_sessions($session);
};

subtest 'many sessions, one after the other' => sub {
	for my $n (1 .. $max)
	{
		my $session = session($node, "flood_$n", user => 'app');
		try_in_vain($session, 1, 'ALTER TABLE own_1 ADD n int');
		forget_sessions($session);
	}
	my ($counts) = $observer->rows(q{SELECT count(*) FILTER (WHERE kind LIKE 'ddl%') AS guard,
		count(*) FILTER (WHERE id = ?) AS ended, count(*) FILTER (WHERE kind NOT LIKE 'ddl%') AS worker
		FROM pg_lockguard_events}, $ended->{id});
	is($counts->{guard}, 30, 'the guard has three quarters of the record');
	is($counts->{ended}, 1, 'what the worker did is still there');

	# And the other way round.
	configure($node, blocker_action => 'log');
	my ($newest) = $observer->rows(q{SELECT id FROM pg_lockguard_events WHERE kind = 'ddl_timeout' ORDER BY id DESC LIMIT 1});
	my ($holder, $ddl) = conflict($node, 'app', name => 'flapping');
	for (1 .. 20)
	{
		event($holder, 'blocker_logged');
		$holder->do('SELECT 1');
	}
	is($observer->value(q{SELECT count(*) FROM pg_lockguard_events WHERE kind NOT LIKE 'ddl%'}), 10, 'the worker has a quarter');
	is($observer->value('SELECT count(*) FROM pg_lockguard_events WHERE id = ?', $newest->{id}), 1,
		'what the guard did is still there');
	is($observer->value('SELECT bool_and(repeats = 0) FROM pg_lockguard_events WHERE kind = ?', 'blocker_logged') ? 1 : 0, 1,
		'what the worker did is not folded');
	forget_sessions($holder, $ddl);
	configure($node, blocker_action => 'off');
};

# What is renewed is read whole: the name of the one in the way changes each time, and is in the event twice.
subtest 'readers while an entry is renewed' => sub {
	my $writer = session($node, 'writer', user => 'app');
	my $pid = $writer->pid;
	my ($reads, $torn) = (0, 0);
	my $end = time + 5;
	my $n = 0;
	while (time < $end)
	{
		$n++;
		$keeper->do(sprintf "SET application_name = 'keeper%s_%06d'", 'r' x 40, $n);
		$writer->send('ALTER TABLE own_1 ADD n int');
		until ($writer->ready)
		{
			for my $row ($observer->rows(q{SELECT blocker_application_name AS name, lock_tree
				FROM pg_lockguard_events WHERE pid = ?}, $pid))
			{
				$reads++;
				next unless defined $row->{lock_tree};
				next if index($row->{lock_tree}, $row->{name}) >= 0;
				diag "$row->{name}: $row->{lock_tree}" if $torn++ < 3;
			}
		}
		$writer->error;
	}
	cmp_ok($reads, '>', 100, "$reads reads of $n states");
	is($torn, 0, 'each is whole');
	forget_sessions($writer);
};

ends_well($node, $alone);
done_testing();
