# What the library costs statements that it has nothing to do with, and what the guard costs those
# that it guards.
#
# The first is too small for a clock. It is counted: callgrind counts the instructions of a
# single-user server that executes a few hundred statements and of one that executes more of them;
# the difference is that of the statements alone, and it repeats to a fraction of a percent.
use strict;
use warnings;

use LockguardBench;

my $dbh = connect_bench();
$dbh->do("SET client_min_messages = warning");
my $data = $ENV{PGDATA};
my $private = $ENV{LOCKGUARD_PRIVATE};

# The microseconds of ALTER TABLE, guarded and not.
sub measure_guard
{
	$dbh->do("CREATE TABLE altered (id int PRIMARY KEY)");
	my %times;
	for my $round (1 .. 3000)
	{
		my $statement = "ALTER TABLE altered SET (fillfactor = " . (50 + $round % 50) . ")";
		my %time = microseconds_by_mode($dbh, $round, sub { return $statement }, 'off', 'lock_timeout');
		next if $round <= 100;
		push @{ $times{$_} }, $time{$_} for keys %time;
	}
	my ($off, $guarded) = map { median(@{ $times{$_} }) } 'off', 'lock_timeout';
	figure("ALTER TABLE, nobody in its way, ddl_mode = off", $off, 'us');
	figure("ALTER TABLE, nobody in its way, ddl_mode = lock_timeout", $guarded, 'us');
	figure("the guard adds (medians)", $guarded - $off, 'us');
	$dbh->do("RESET pg_lockguard.ddl_mode");
	return;
}

# The instructions of a single-user server, from its start to its end.
sub instructions
{
	my ($libraries, @statements) = @_;
	my $input = "$private/statements.sql";
	open(my $file, '>', $input) or die "$input: $!";
	print $file "$_\n" for @statements;
	close($file);
	my $log = "$private/callgrind.log";
	my $command = join(' ',
		'valgrind --tool=callgrind --callgrind-out-file=/dev/null --trace-children=no',
		qq(postgres --single -D "$data" -c shared_preload_libraries="$libraries" postgres),
		qq(<"$input" >"$private/single.log" 2>"$log"));
	my $status = system($command);
	open(my $text, '<', $log) or die "$log: $!";
	my @lines = <$text>;
	my ($count) = map { /Collected : (\d+)/ } @lines;
	die "callgrind failed ($status): @lines[-20 .. -1]"
	  if $status != 0 || !defined $count || grep { /ERROR|FATAL/ } @lines;
	return $count;
}

sub instructions_each
{
	my ($libraries, @statements) = @_;
	my ($few, $many) = (100, 600);
	return (instructions($libraries, (@statements) x $many) -
		  instructions($libraries, (@statements) x $few)) / ($many - $few);
}

measure_guard();
$dbh->do("CREATE TABLE item (id int PRIMARY KEY, value int)");
$dbh->do("INSERT INTO item SELECT g, g FROM generate_series(1, 1000) g");
$dbh->do("VACUUM ANALYZE item");
$dbh->disconnect;
system("pg_ctl -w -m fast stop >>'$private/pg_ctl.log' 2>&1") == 0 or die "the server does not stop";

my @workloads = (
	[ 'BEGIN; COMMIT', 'BEGIN', 'COMMIT' ],
	[ 'SELECT 1', 'SELECT 1' ],
	[ 'SELECT of one row by primary key', 'SELECT value FROM item WHERE id = 7' ]);
for my $workload (@workloads)
{
	my ($name, @statements) = @$workload;
	my $without = instructions_each('', @statements);
	my $with = instructions_each('pg_lockguard', @statements);
	figure("$name: instructions, without the library", $without, '', undef, '%.0f');
	figure("$name: instructions, with it", $with, '', undef, '%.0f');
	figure("$name: the library adds", 100 * ($with / $without - 1), '%', '<= 0.5', '%.2f');
}

# run-inside stops it.
system("pg_ctl -w -l '$private/server.log' start >>'$private/pg_ctl.log' 2>&1") == 0
  or die "the server does not start again";
