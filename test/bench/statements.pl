# What pg_lockguard.track_statements costs: the transaction of pgbench -N on two servers that differ in
# that setting alone, in turns. What is compared is the processor time of the backends: the rest of the
# machine has no part in that.
use strict;
use warnings;

use LockguardBench;

my ($rounds, $transactions) = $ENV{LOCKGUARD_QUICK} ? (100, 200) : (400, 400);
my $private = $ENV{LOCKGUARD_PRIVATE};
my %port = (0 => 5432, 16 => 5433);

sub run_command
{
	my ($command) = @_;
	system("$command >>'$private/statements.log' 2>&1") == 0 or die "failed: $command; see $private/statements.log";
	return;
}

run_command('pgbench -i -s 5 -q');
run_command('pg_ctl -w -m fast stop');
run_command("cp -a '$ENV{PGDATA}' '$private/data-tracked'");
run_command(qq(pg_ctl -w -l '$private/server.log' -o "-c pg_lockguard.track_statements=0 -p $port{0}" start));
run_command(qq(pg_ctl -w -D '$private/data-tracked' -l '$private/server-tracked.log' -o "-c pg_lockguard.track_statements=16 -p $port{16}" start));

my %dbh = map { local $ENV{PGPORT} = $port{$_}; $_ => connect_bench() } keys %port;
my %pid = map { $_ => $dbh{$_}{pg_pid} } keys %dbh;

# One chunk of transactions, the same on both: the processor time of each, in microseconds.
sub time_of
{
	my ($kept, $seed) = @_;
	srand($seed);
	my $dbh = $dbh{$kept};
	my $before = processor_nanoseconds($pid{$kept});
	for (1 .. $transactions)
	{
		my ($account, $teller, $branch, $delta) = (1 + int(rand(500_000)), 1 + int(rand(50)), 1 + int(rand(5)), int(rand(10_000)) - 5000);
		$dbh->do($_)
		  for 'BEGIN',
		  "UPDATE pgbench_accounts SET abalance = abalance + $delta WHERE aid = $account",
		  "SELECT abalance FROM pgbench_accounts WHERE aid = $account",
		  "INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES ($teller, $branch, $account, $delta, CURRENT_TIMESTAMP)",
		  'END';
	}
	return (processor_nanoseconds($pid{$kept}) - $before) / $transactions / 1000;
}

my (@off, @on, @ratios);
for my $round (1 .. $rounds)
{
	my %time;
	$time{$_} = time_of($_, $round) for $round % 2 ? (0, 16) : (16, 0);
	next if $round <= 5;
	push @off, $time{0};
	push @on, $time{16};
	push @ratios, $time{16} / $time{0};
}
figure('pgbench -N, processor time of a transaction, track_statements = 0', median(@off), 'us');
figure('pgbench -N, processor time of a transaction, track_statements = 16', median(@on), 'us');
figure('track_statements = 16 adds (median of the pairs)', 100 * (median(@ratios) - 1), '%', '<= 1', '%.2f');
figure('the same, quartiles of the pairs: from', 100 * (quantile(0.25, @ratios) - 1), '%', undef, '%.2f');
figure('the same, quartiles of the pairs: to', 100 * (quantile(0.75, @ratios) - 1), '%', undef, '%.2f');

$_->disconnect for values %dbh;
# run-inside stops the other.
run_command("pg_ctl -w -m fast -D '$private/data-tracked' stop");
