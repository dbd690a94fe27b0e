# What a scrape costs that asks the queries of monitoring/, each by itself: with nothing waiting, and with a locked
# table and 500 waiters, behind which an incident stands. And a whole scrape, with a real postgres_exporter.
use strict;
use warnings;

use CPAN::Meta::YAML;
use HTTP::Tiny;
use IO::Socket::INET;
use LockguardBench;
use POSIX ();
use Time::HiRes qw(clock_gettime sleep CLOCK_MONOTONIC);

my $file = 'monitoring/postgres-exporter-queries.yaml';
my $queries = CPAN::Meta::YAML->read($file)->[0];
my $dbh = connect_bench();
$dbh->do('SET client_min_messages = warning');
$dbh->do('CREATE EXTENSION pg_lockguard');
$dbh->do('CREATE ROLE exporter LOGIN; GRANT pg_monitor TO exporter');
my $viewer = do { local $ENV{PGUSER} = 'exporter'; connect_bench('exporter') };
my $pid = $viewer->{pg_pid};

sub measure_queries
{
	my ($when) = @_;
	my $all = 0;
	for my $name (sort keys %$queries)
	{
		my @times = map { milliseconds_of($viewer, $queries->{$name}{query}) } 1 .. 50;
		my $before = processor_nanoseconds($pid);
		milliseconds_of($viewer, $queries->{$name}{query}) for 1 .. 50;
		my $processor = (processor_nanoseconds($pid) - $before) / 50 / 1e6;
		$all += $processor;
		figure("$when: $name, until it has answered (median)", median(@times), 'ms');
		figure("$when: $name, processor time of its backend", $processor, 'ms');
	}
	figure("$when: processor time of all queries of a scrape", $all, 'ms');
	return;
}

# A port that nobody listens on.
sub free_port
{
	my $socket = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => 0, Proto => 'tcp', Listen => 1) or die "no port: $!";
	return $socket->sockport;
}

sub start_exporter
{
	my ($port, @options) = @_;
	my $exporter = fork() // die "fork: $!";
	return $exporter if $exporter != 0;
	$ENV{DATA_SOURCE_NAME} = "host=$ENV{PGHOST} port=$ENV{PGPORT} user=exporter dbname=$ENV{PGDATABASE} sslmode=disable";
	open(STDERR, '>>', "$ENV{LOCKGUARD_PRIVATE}/exporter.log");
	exec('prometheus-postgres-exporter', "--web.listen-address=127.0.0.1:$port", @options) or POSIX::_exit(1);
}

sub measure_scrapes
{
	my ($when) = @_;
	for my $case ([ 'a scrape of these queries alone', "--extend.query-path=$file", '--disable-default-metrics', '--disable-settings-metrics' ],
		[ "a scrape of the exporter's own metrics alone" ])
	{
		my ($name, @options) = @$case;
		my $port = free_port();
		my $exporter = start_exporter($port, @options);
		my $http = HTTP::Tiny->new(timeout => 30);
		my $url = "http://127.0.0.1:$port/metrics";
		for (1 .. 300) { last if $http->get($url)->{success}; sleep(0.1); }
		my @times = map {
			my $start = clock_gettime(CLOCK_MONOTONIC);
			my $response = $http->get($url);
			die "the exporter does not answer: $response->{reason}" if !$response->{success};
			1000 * (clock_gettime(CLOCK_MONOTONIC) - $start);
		} 1 .. 20;
		kill 'TERM', $exporter;
		waitpid($exporter, 0);
		figure("$when: $name (median)", median(@times), 'ms');
	}
	return;
}

measure_queries('nothing waits');
measure_scrapes('nothing waits');
my $crowd = start_crowd($dbh, 'SELECTs behind ALTER TABLE', 500);
poll_until($dbh, 'SELECT count(*) FROM pg_lockguard_incidents WHERE ended IS NULL', 1);
measure_queries('500 wait');
measure_scrapes('500 wait');
end_crowd($dbh, $crowd);
