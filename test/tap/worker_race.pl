# Sessions that commit, go on, and leave while the worker judges them: only those are ended that
# are idle in transaction with a conflicting lock at that moment, and no acknowledged commit is lost.
#
# Those who want the lock give up as well, so that whoever is judged may block nobody any more.
#
# LOCKGUARD_STRESS is the number of sessions that must have been ended (default: as many as in 12 s).
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LockGuard;
use LockGuard::Race;
use LockGuard::Record;
use LockGuard::Worker;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep time);

my $node = start_worker_node('race', q{pg_lockguard.blocker_action = terminate}, q{pg_lockguard.worker_interval = 10ms});

subtest 'the race' => sub {
	my $start = time;
	configure($node, worker_interval => '10ms');
	$node->safe_psql(
		'postgres', q{
		CREATE TABLE ledger (id text);
		CREATE TABLE aside (id text);
		GRANT ALL ON ledger, aside TO app;
	});
	my $size = -s $node->logfile;

	# Transactions with gaps in which they are idle. "at" says how far each one got.
	my $writer = sub {
		my ($number, $out) = @_;
		my ($session, $n) = (undef, 0);
		while (going_on())
		{
			$session ||= LockGuard::Session->new($node, "writer${number}x$$", user => 'app');
			my $id = "$number.$$." . ++$n;
			my $at = 'begin';
			eval {
				my $dbh = $session->{dbh};
				$dbh->do('BEGIN');
				$at = 'insert';
				$dbh->do("INSERT INTO ledger VALUES ('$id')");
				$at = 'in transaction';
				for (1 .. rand 4)
				{
					usleep(rand 3000);
					$dbh->do('SELECT 1');
				}
				usleep(rand 20000) if rand() < 0.3;
				$at = 'commit';
				$dbh->do('COMMIT');
				$at = 'done';
				print $out "acknowledged $id\n";
			};
			next if $at eq 'done';
			my $told = $@ =~ /terminating connection/ ? 'ended' : 'lost';
			$told = 'told' if $@ =~ /DETAIL:  pg_lockguard: /;
			print $out "$told $session->{pid} $at\n";
			undef $session;
		}
	};
	# Takes the lock and leaves, in a hurry.
	my $leaver = sub {
		my ($number, $out) = @_;
		while (going_on())
		{
			my $session = LockGuard::Session->new($node, "leaver${number}x$$", user => 'app');
			eval {
				$session->do('BEGIN');
				$session->do("SELECT FROM ledger LIMIT 1");
				usleep(rand 15000);
			};
			$session->{dbh}->disconnect;
		}
	};
	# Holds the lock for a while, but is never idle in a transaction.
	my $active = sub {
		my ($number, $out) = @_;
		my $session = LockGuard::Session->new($node, "active${number}x$$", user => 'app');
		while (going_on())
		{
			$session->do("SELECT pg_sleep(0.01) FROM (SELECT count(*) FROM ledger) l");
			$session->do('BEGIN; SELECT FROM ledger LIMIT 1; SELECT pg_sleep(0.01); COMMIT');
		}
		print $out "alive $session->{name}\n";
	};
	# Idle in transaction with another lock.
	my $idler = sub {
		my ($number, $out) = @_;
		my $session = LockGuard::Session->new($node, "idler${number}x$$", user => 'app');
		while (going_on())
		{
			$session->do('BEGIN');
			$session->do('SELECT FROM aside LIMIT 1');
			usleep(30_000);
			$session->do('COMMIT');
		}
		print $out "alive $session->{name}\n";
	};
	my $locker = sub {
		my ($number, $out) = @_;
		my $session = LockGuard::Session->new($node, "locker${number}x$$");
		my $locks = 0;
		while (going_on())
		{
			$session->do('BEGIN; LOCK TABLE ledger; COMMIT');
			$locks++;
			usleep(rand 5000);
		}
		print $out "locks $locks\n";
	};

	# The same, with little patience.
	my $impatient = sub {
		my ($number, $out) = @_;
		my $session = LockGuard::Session->new($node, "impatient${number}x$$");
		my ($locks, $given_up) = (0, 0);
		while (going_on())
		{
			$session->do('SET lock_timeout = ' . (1 + int rand 15));
			$session->do('BEGIN');
			if (eval { $session->do('LOCK TABLE ledger'); 1 }) { $locks++ }
			elsif ($session->sqlstate eq '55P03') { $given_up++ }
			else { die $@ }
			# A timeout that comes due while the lock is granted may be told at the next statement: PostgreSQL's own way.
			if (!eval { $session->do('ROLLBACK'); 1 })
			{
				die $@ if $session->sqlstate ne '55P03';
				$session->do('ROLLBACK');
			}
			usleep(rand 5000);
		}
		print $out "impatient: $locks locks, given up $given_up times\n";
	};

	for my $kind ([ $writer, 4 ], [ $leaver, 2 ], [ $active, 2 ], [ $idler, 1 ], [ $locker, 1 ], [ $impatient, 2 ])
	{
		my ($body, $count) = @$kind;
		for my $number (1 .. $count)
		{
			start_client(sub { $body->($number, $_[0]) });
		}
	}
	if (my $wanted = $ENV{LOCKGUARD_STRESS})
	{
		await($node, "$wanted sessions are ended", 'SELECT terminations >= ? FROM pg_stat_lockguard', $wanted);
	}
	else
	{
		usleep(12_000_000);
	}
	my @said = end_clients();
	my $looks = statistics($node)->{looks};
	await($node, 'the worker has written of its last deed', 'SELECT looks > ? FROM pg_stat_lockguard', $looks);
	my $seconds = time - $start;
	is(join('', grep { /^died/ } @said), '', 'race: every client came to its end');
	is(scalar(grep { /^alive active/ } @said), 2, 'race: sessions that are always active go on');
	is(scalar(grep { /^alive idler/ } @said), 1, 'race: a session that holds another lock goes on');

	my %ledger = map { $_ => 1 } split /\n/, $node->safe_psql('postgres', 'SELECT id FROM ledger');
	my @acknowledged = map { /^acknowledged (.*)/ ? $1 : () } @said;
	is_deeply([ grep { !$ledger{$_} } @acknowledged ],
		[], 'race: no acknowledged commit is lost');
	cmp_ok(scalar @acknowledged, '>', 0, 'race: there were commits');

	my $log = substr(slurp_file($node->logfile), $size);
	my @ended = $log =~ /LOG:  pg_lockguard: terminated (PID .*)/g;
	cmp_ok(scalar @ended, '>', 0, 'race: sessions were ended');
	is_deeply([ grep { !/ app "(?:writer|leaver)\d+x\d+"/ } @ended ],
		[], 'race: only those that are sometimes idle in transaction');
	my %ended = map { /^PID (\d+)/ ? ($1 => 1) : () } @ended;
	# A client that writes to a connection just closed may read no FATAL any more ("lost").
	my @fatal = map { /^(told|ended|lost) (\d+) (.*)/ ? [ $1, $2, $3 ] : () } @said;
	is_deeply([ grep { !$ended{ $_->[1] } } @fatal ],
		[], 'race: each of them stands in the log');
	my @told = grep { $_->[0] eq 'told' } @fatal;
	cmp_ok(scalar @told, '>', 0, 'race: clients were told why');
	is_deeply([ grep { $_->[2] eq 'begin' } @told ],
		[], 'race: nobody is told of a transaction that is over');
	# A commit that SIGTERM comes too late to stop is acknowledged, and the FATAL that follows has no
	# word of ours. It must follow at once: not in the next transaction.
	is_deeply([ grep { $_->[0] eq 'ended' && $_->[2] =~ /^in/ } @fatal ],
		[], 'race: nobody is ended in a transaction that was not judged');
	unlike($log, qr/PANIC|TRAP|terminated by signal|server process \(PID/, 'race: no crash');

	my %late = map { ("$_->[0] $_->[2]" => 1) } grep { $_->[0] ne 'told' } @fatal;
	note sprintf
	  '%d s: %d sessions ended, of which %d had the pid of another that had been; %d clients told, %d not (%s), %d commits acknowledged, %d in the ledger, %s',
	  $seconds, scalar @ended, @ended - keys %ended, scalar @told, @fatal - @told, join(', ', sort keys %late),
	  scalar @acknowledged, scalar keys %ledger, join(', ', grep { /^(locks|impatient)/ } @said);
};

ends_well($node);
done_testing();
