# The race between a cancel and the end of the statement that it is for: sessions whose statements last about as
# long as blocker_min_active, each followed at once by short ones, in the same transaction and in the next one.
# Each keeps a journal by its own clock. A statement that is cancelled must have run for blocker_min_active.
#
# The transaction is certain, as the worker holds the session in it. Nothing holds a session in a statement: what
# is left is the time from the worker's look at its status to the signal, below a microsecond unless the worker
# is put to sleep in between. So of the statements that are cancelled in another's place there may be few.
#
# LOCKGUARD_STRESS is the number of cancels that are waited for (default 150).
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use DBI;
use LockGuard;
use LockGuard::Race;
use LockGuard::Worker;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $wanted = $ENV{LOCKGUARD_STRESS} || 150;
my $min_active = 0.025;
my $clients = 4;
my $node = start_worker_node(
	'cancel_race', q{pg_lockguard.blocker_active_action = cancel}, q{pg_lockguard.blocker_min_active = 25ms},
	q{pg_lockguard.worker_interval = 10ms}, q{log_statement = none});
my $observer = LockGuard::observer($node);
my @tables = map { new_table($node) } 1 .. $clients;

sub connection
{
	my ($user, $name) = @_;
	return DBI->connect(
		'dbi:Pg:host=' . $node->host . ';port=' . $node->port . ";dbname=postgres;application_name=$name", $user, '',
		{ RaiseError => 1, PrintError => 0, AutoCommit => 1, pg_server_prepare => 0 });
}

# Wants the table for itself, again and again.
sub requester
{
	my ($table) = @_;
	my $dbh = connection('', 'requester');
	$dbh->do("BEGIN; LOCK TABLE $table; COMMIT") while going_on();
	return;
}

# Lines: what, cancelled or not, how long it took, how old the transaction was then, told or not.
sub holder
{
	my ($table, $out) = @_;
	my $dbh = connection('app', 'holder');
	my $begun;
	my $run = sub {
		my ($what, $statement) = @_;
		my $start = time;
		return 1 if eval { $dbh->do($statement); 1 };
		my $error = $@;
		my $end = time;
		die $error if $dbh->state ne '57014';
		printf $out "cancelled %s %.6f %.6f %s\n", $what, $end - $start, $end - $begun,
		  $error =~ /^DETAIL:  pg_lockguard: at work on one statement for /m ? 'told' : 'untold';
		return 0;
	};
	while (going_on())
	{
		$begun = time;
		my $going = $run->(begin => 'BEGIN') && $run->(lock => "SELECT FROM $table");
		for (1 .. 3)
		{
			$going &&= $run->(long => sprintf 'SELECT pg_sleep(%.4f)', 0.015 + rand 0.03);
			$going &&= $run->(short => 'SELECT 1') for 1 .. 1 + rand 5;
		}
		# The next transaction at once.
		eval { $dbh->do($going ? 'COMMIT' : 'ROLLBACK'); 1 } or die $@;
		printf $out "transaction %s\n", $going ? 'whole' : 'broken';
	}
	return;
}

for my $table (@tables)
{
	start_client(sub { holder($table, @_) });
	start_client(sub { requester($table) });
}
await($node, "$wanted cancels", 'SELECT cancellations >= ? FROM pg_stat_lockguard', $wanted);
my @lines = end_clients();

my @died = grep { /^died/ } @lines;
is(scalar @died, 0, 'every client came to its end') or diag join "\n", @died;
my @cancelled = map { [ (split)[ 1 .. 4 ] ] } grep { /^cancelled/ } @lines;
cmp_ok(scalar @cancelled, '>', 0, 'statements were cancelled');
# The worker counts when it has sent the signal.
await($node, '... no more than cancels were sent', 'SELECT cancellations >= ? FROM pg_stat_lockguard', scalar @cancelled);
my $sent = statistics($node)->{cancellations};
is(scalar(grep { /^transaction broken/ } @lines), scalar @cancelled, '... and nothing else broke a transaction');

# In a transaction that is younger than the limit no statement is old enough.
is(scalar(grep { $_->[2] < $min_active } @cancelled), 0, 'each was in the transaction that was judged');
my @wrong = grep { $_->[1] < $min_active } @cancelled;
cmp_ok(scalar @wrong, '<=', 1 + $sent / 100, 'each was the statement that was judged, but for the odd one')
  or diag join "\n", map { join ' ', @$_ } @wrong;
is(scalar(grep { $_->[1] >= $min_active && $_->[3] ne 'told' } @cancelled), 0, 'each was told why');
is(scalar(grep { $_->[3] eq 'told' } @wrong), 0, 'nobody was told who was not meant');
note sprintf '%d cancels sent, %d statements cancelled, %d came too late, %d hit another statement',
  $sent, scalar @cancelled, $sent - @cancelled, scalar @wrong;

ends_well($node);
done_testing();
