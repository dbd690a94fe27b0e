# pg_lockguard_incidents against a journal: 200 random incidents, many at one time, of readers,
# writers, advisory locks, prepared transactions, deadlocks, that end in every way. The journal is
# what the client did and when; the record must have the same incidents, with the same roots, lengths
# and ends. An incident that lasted about pg_lockguard.incident_min_wait may be there or not.
#
# LOCKGUARD_SEED repeats a run.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";
use LockGuard;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $seed = $ENV{LOCKGUARD_SEED} || int(time);
srand $seed;
note("LOCKGUARD_SEED=$seed");

my ($incidents, $at_once, $min_wait, $look) = (200, 16, 0.5, 0.1);
my $node = start_node(
	'truth',
	q{shared_preload_libraries = 'pg_lockguard'},
	q{pg_lockguard.ddl_mode = off},
	q{pg_lockguard.worker_interval = 100ms},
	q{pg_lockguard.incident_min_wait = 500ms},
	q{pg_lockguard.incidents_max = 1000},
	q{pg_lockguard.log_incidents = -1},
	q{max_connections = 200},
	q{max_prepared_transactions = 50});
$node->safe_psql('postgres', qq{
	CREATE TABLE row_locks (id int PRIMARY KEY, n int);
	INSERT INTO row_locks SELECT g, 0 FROM generate_series(1, 2000) g;
	SELECT format('CREATE TABLE t%s ()', g) FROM generate_series(1, $incidents) g \\gexec
});
my $observer = LockGuard::observer($node);

# Sessions that are not in use; one that was ended is not among them again.
my (@idle, $made);

# A session that has been idle for some looks, or a new one: of a session whose transactions fail twice between
# two looks the latest failure alone is known.
sub take
{
	for my $i (0 .. $#idle)
	{
		return splice(@idle, $i, 1) if time - $idle[$i]{idle_since} > 5 * $look;
	}
	return session($node, 's' . ++$made);
}

sub give_back
{
	my ($session) = @_;
	$session->{idle_since} = time;
	push @idle, $session;
	return;
}

# What a holder holds, and how others wait for it, by kind; \$n is a number that is only this incident's.
my %lock = (
	row => [ 'UPDATE row_locks SET n = n + 1 WHERE id = $n', 'UPDATE row_locks SET n = n + 1 WHERE id = $n' ],
	reader => [ 'SELECT FROM t$n', 'BEGIN; LOCK TABLE t$n; COMMIT' ],
	writer => [ 'LOCK TABLE t$n IN SHARE ROW EXCLUSIVE MODE', 'BEGIN; LOCK TABLE t$n IN ROW EXCLUSIVE MODE; COMMIT' ],
	exclusive => [ 'LOCK TABLE t$n', 'SELECT FROM t$n' ],
	advisory => [ 'SELECT pg_advisory_xact_lock($n)', 'SELECT pg_advisory_xact_lock($n)' ]);
my @locks = sort keys %lock;
my @ends = ('commit', 'rollback', 'terminated', 'cancelled', 'gave up', 'lost', 'prepared', 'deadlock');
my %recorded = (
	commit => 'released', rollback => 'released', terminated => 'terminated', cancelled => 'cancelled',
	'gave up' => 'waiters gave up', lost => 'released', prepared => 'released', deadlock => 'deadlock');

sub statement
{
	my ($template, $n) = @_;
	return $template =~ s/\$n/$n/gr;
}

# Begins an incident: an entry of the journal.
sub begin
{
	my ($n) = @_;
	my $end = $ends[ rand @ends ];
	my ($holds, $wants) = @{ $lock{ $end eq 'deadlock' ? 'advisory' : $locks[ rand @locks ] } };
	my $entry = {
		n => $n, end => $end, root => take(),
		length => rand() < 0.3 ? 0.05 + rand(0.6) : 0.8 + rand(1.7) };
	my $root = $entry->{root};
	$entry->{pid} = $root->pid;
	$root->do('BEGIN');
	$root->do(statement($holds, $n));
	if ($end eq 'prepared')
	{
		$root->do("PREPARE TRANSACTION 'gid $n'");
		give_back(delete $entry->{root});
		$entry->{pid} = 0;
	}
	elsif ($end eq 'cancelled')
	{
		$root->send('SELECT pg_sleep(1000)');
	}
	$entry->{waiters} = [ map { take() } 1 .. ($end eq 'deadlock' ? 1 : 1 + rand 3) ];
	my $first = $entry->{waiters}[0];
	if ($end eq 'gave up')
	{
		$_->do("SET lock_timeout = '" . int(1000 * $entry->{length}) . "ms'") for @{ $entry->{waiters} };
	}
	elsif ($end eq 'deadlock')
	{
		$first->do('BEGIN; SELECT pg_advisory_xact_lock(' . (10000 + $n) . q{); SET LOCAL deadlock_timeout = '1s'});
	}
	$entry->{begun} = time;
	$_->send(statement($wants, $n)) for @{ $entry->{waiters} };
	return $entry;
}

# Ends it.
sub end
{
	my ($entry) = @_;
	my $root = $entry->{root};
	$entry->{ending} = time;
	my $end = $entry->{end};
	$root->do($end) if $end eq 'commit' || $end eq 'rollback';
	$observer->value('SELECT pg_terminate_backend(?)', $root->pid) if $end eq 'terminated';
	$observer->value('SELECT pg_cancel_backend(?)', $root->pid) if $end eq 'cancelled';
	$root->{dbh}->disconnect if $end eq 'lost';
	$observer->do("COMMIT PREPARED 'gid $entry->{n}'") if $end eq 'prepared';
	# It closes the ring; the other one, which has waited for longer, is let go or chosen by the server.
	$root->do(q{SET LOCAL deadlock_timeout = '300ms'}), $root->send('SELECT pg_advisory_xact_lock(' . (10000 + $entry->{n}) . ')')
	  if $end eq 'deadlock';
}

# After all who waited have gone on.
sub clear
{
	my ($entry) = @_;
	$entry->{over} = time;
	for my $waiter (@{ $entry->{waiters} })
	{
		$waiter->error;
		$waiter->do('ROLLBACK');
		$waiter->do('RESET lock_timeout');
		give_back($waiter);
	}
	my $root = $entry->{root};
	return if !$root || $entry->{end} =~ /^(terminated|lost)$/;
	$root->error if $entry->{end} =~ /^(cancelled|deadlock)$/;
	$root->do('ROLLBACK') if $entry->{end} !~ /^(commit|rollback)$/;
	give_back($root);
}

# ---- The incidents

my ($begun, @running, @journal, @late) = (0);

# Times in which the worker did not look as it should, on a machine that stood still: what it can't know is not
# judged.
sub note_late_looks
{
	my $seen = $observer->value('SELECT extract(epoch FROM max(last_seen)) FROM pg_lockguard_incidents WHERE ended IS NULL');
	push @late, [ $seen, time ] if defined $seen && time - $seen > 2 * $look;
	return;
}

sub is_judged
{
	my ($from, $to) = @_;
	return !grep { $_->[0] < $to + 5 * $look && $_->[1] > $from } @late;
}

my $started = time;
while (@journal < $incidents)
{
	die 'it does not come to an end: ' . join(', ', map { "$_->{n} $_->{end}" } @running)
	  if time - $started > 2 * $PostgreSQL::Test::Utils::timeout_default;
	push @running, begin(++$begun) while @running < $at_once && $begun < $incidents;
	my %waits = map { $_ => 1 } @{ $observer->{dbh}->selectcol_arrayref('SELECT pid FROM pg_locks WHERE NOT granted AND waitstart IS NOT NULL') };
	note_late_looks();
	my $now = time;
	for my $entry (@running)
	{
		# From the first to be seen waiting on, somebody surely waits.
		$entry->{waiting} //= $now if grep { $waits{ $_->pid } } @{ $entry->{waiters} };
		$entry->{all_waiting} //= $now if !grep { !$waits{ $_->pid } } @{ $entry->{waiters} };
		my $due = $entry->{begun} + $entry->{length};
		# Given up is what gives up by itself. It began to end when the first timeout can have struck.
		$entry->{ending} //= $due if $entry->{end} eq 'gave up';
		end($entry) if !$entry->{ending} && $now >= $due && $entry->{waiting};
	}
	for my $entry (@running)
	{
		next if !$entry->{ending} || grep { !$_->ready } @{ $entry->{waiters} };
		next if $entry->{end} eq 'deadlock' && !$entry->{root}->ready;
		clear($entry);
		push @journal, $entry;
	}
	@running = grep { !$_->{over} } @running;
	usleep(5_000);
}

# ---- The record

await($node, 'the end of all incidents', q{
	SELECT count(*) = 0 AND NOT EXISTS (SELECT FROM pg_locks WHERE NOT granted) FROM pg_lockguard_incidents WHERE ended IS NULL});
my @record = $observer->rows(q{
	SELECT id, root_pid, root_gid, waiters, sessions, how_ended, lock_tree,
		extract(epoch FROM began) AS began, extract(epoch FROM last_seen) AS last_seen, extract(epoch FROM ended) AS ended
	FROM pg_lockguard_incidents ORDER BY id});

my ($slack, %used, @missing, @wrong, %count, @off) = (0.02);
for my $entry (@journal)
{
	my $what = "$entry->{n} ($entry->{end}, PID $entry->{pid}, " . sprintf('%.3f s', $entry->{over} - $entry->{begun}) . ')';
	my $deadlock = $entry->{end} eq 'deadlock';
	# The record's began is when the first began to wait: between two times that the journal knows.
	my @matching = grep {
		my $row = $_;
		!$used{ $row->{id} }
		  && ($entry->{pid} == 0 ? ($row->{root_gid} // '') eq "gid $entry->{n}"
			: $row->{root_pid} == $entry->{pid} || ($deadlock && $row->{root_pid} == $entry->{waiters}[0]->pid))
		  && $row->{began} >= $entry->{begun} && $row->{began} <= $entry->{over}
	} @record;
	# At least so long somebody waited, and no longer than that.
	my $least = $entry->{ending} - ($entry->{waiting} // $entry->{ending});
	my $most = $entry->{over} - $entry->{begun};
	if (!is_judged($entry->{begun}, $entry->{over}))
	{
		$used{ $_->{id} } = 1 for @matching;
		$count{'not judged'}++;
		next;
	}
	if (!@matching)
	{
		# A look sees it 0.1 s after min_wait at the latest; looks are late on a busy machine.
		push @missing, $what if $least > $min_wait + 3 * $look;
		$count{absent}++;
		next;
	}
	my ($row) = @matching;
	$used{ $row->{id} } = 1;
	$count{ $entry->{end} }++;
	push @wrong, "$what: there are " . @matching . ' of it' if @matching > 1;
	push @wrong, "$what: too short" if $most < $min_wait - $slack;
	push @wrong, "$what: began " . ($row->{began} - $entry->{begun}) . ' s late'
	  if $entry->{waiting} && $row->{began} > $entry->{waiting} + $slack;
	push @wrong, "$what: was still seen " . ($row->{last_seen} - $entry->{over}) . ' s after its end'
	  if $row->{last_seen} > $entry->{over} + $slack;
	push @wrong, "$what: was over " . ($entry->{ending} - $row->{ended}) . ' s before its end'
	  if $row->{ended} < $entry->{ending} - $slack;
	push @wrong, "$what: $row->{how_ended}" if $row->{how_ended} ne $recorded{ $entry->{end} };
	push @wrong, "$what: $row->{sessions} sessions, not " . @{ $entry->{waiters} }
	  if !$deadlock && $entry->{all_waiting} && $entry->{ending} - $entry->{all_waiting} > 3 * $look
	  && $row->{sessions} != @{ $entry->{waiters} };
	push @off, $row->{ended} - $row->{last_seen};
}
is(join("\n", @missing), '', 'every incident of the journal is in the record');
is(join("\n", @wrong), '', 'roots, lengths, sessions and ends are those of the journal');
is(join("\n", map { "$_->{id} of $_->{root_pid}: $_->{how_ended}\n$_->{lock_tree}" } grep { !$used{ $_->{id} } && is_judged($_->{began}, $_->{ended}) } @record),
	'', 'the record has no other');
@off = sort { $a <=> $b } @off;
note(join ', ', map { "$_: $count{$_}" } sort keys %count);
note(sprintf 'between the latest look that saw it and the one that did not: median %.3f s, at most %.3f s', $off[ @off / 2 ], $off[-1]) if @off;
cmp_ok($off[ @off / 2 ], '<', 5 * $look, 'mostly an end is known to a few looks') if @off;
for my $end (@ends)
{
	cmp_ok(scalar(grep { $_->{end} eq $end } @journal), '>=', 3, "some ended so: $end");
}
is($observer->value('SELECT errors FROM pg_stat_lockguard'), 0, 'the worker had no error');
done_testing();
