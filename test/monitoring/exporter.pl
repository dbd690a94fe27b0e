# monitoring/: a real Prometheus scrapes a real postgres_exporter, which asks a real server with a real
# incident. Every query of the dashboard has data, the alerts are raised and go, and nothing that the exporter
# asks waits for a lock.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../tap/lib";

use CPAN::Meta::YAML;
use HTTP::Tiny;
use IPC::Run;
use JSON::PP;
use LockGuard;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

for my $program (qw(prometheus prometheus-postgres-exporter promtool))
{
	plan skip_all => "needs $program, of the Debian packages prometheus and prometheus-postgres-exporter"
	  if !grep { -x "$_/$program" } split /:/, $ENV{PATH};
}

my $folder = "$FindBin::RealBin/../../monitoring";
my $queries = CPAN::Meta::YAML->read("$folder/postgres-exporter-queries.yaml")->[0];
my $dashboard = decode_json(slurp_file("$folder/grafana-dashboard.json"));

command_ok([ 'promtool', 'check', 'rules', "$folder/prometheus-alerts.yml" ], 'the alert rules are valid');
command_ok([ 'promtool', 'test', 'rules', "$folder/prometheus-alerts-test.yml" ], 'the alert rules say what their tests say');

my $node = start_node('monitored', q{shared_preload_libraries = 'pg_lockguard'},
	q{pg_lockguard.worker_interval = 100ms}, q{pg_lockguard.incident_min_wait = 500ms},
	q{pg_lockguard.blocker_action = log}, q{pg_lockguard.blocker_min_idle = 1s}, q{pg_lockguard.blocker_min_wait = 1s});
$node->safe_psql('postgres', q{
	CREATE ROLE prometheus LOGIN;
	GRANT pg_monitor TO prometheus;
	CREATE ROLE app LOGIN;
	CREATE TABLE users (id int PRIMARY KEY, name text);
	INSERT INTO users VALUES (1, 'a'), (2, 'b');
	GRANT ALL ON users TO app;
});
my $observer = LockGuard::observer($node);

subtest 'the queries wait for no lock on a table, a view or a sequence' => sub {
	my $locker = session($node, 'locker');
	$locker->do('BEGIN');
	$locker->do("LOCK TABLE $_->{name} IN ACCESS EXCLUSIVE MODE")
	  for $observer->rows(q{SELECT oid::regclass::text AS name FROM pg_class
		WHERE relkind IN ('r', 'v') AND relnamespace = 'public'::regnamespace});
	my $viewer = session($node, 'viewer', user => 'prometheus');
	$viewer->do(q{SET lock_timeout = '10ms'});
	for my $name (sort keys %$queries)
	{
		my @rows = eval { $viewer->rows($queries->{$name}{query}) };
		is($@, '', "$name: runs");
		my @columns = sort map { keys %$_ } @{ $queries->{$name}{metrics} };
		is_deeply([ sort keys %{ $rows[0] } ], \@columns, "$name: its columns are those of the metrics") if @rows;
	}
	forget_sessions($viewer, $locker);
};

# ---- Processes

# So that END stops them.
$SIG{$_} = sub { die "ended by a signal\n" } for qw(INT TERM);

my @processes;

# start_process(LOG, COMMAND...)
sub start_process
{
	my ($log, @command) = @_;
	push @processes, IPC::Run::start(\@command, '<', \undef, '>', $log, '2>&1');
	return;
}

END
{
	my $status = $?;
	$_->kill_kill(grace => 5) for reverse @processes;
	$? = $status;
}

my $http = HTTP::Tiny->new(timeout => 10);

sub get
{
	my ($url) = @_;
	my $response = $http->get($url);
	return $response->{success} ? $response->{content} : undef;
}

# Waits until the code returns something true; returns that.
sub until_true
{
	my ($what, $code) = @_;
	for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		my $result = $code->();
		return $result if $result;
		usleep(100_000);
	}
	BAIL_OUT("timed out: $what");
}

my ($exporter_port, $prometheus_port) = map { PostgreSQL::Test::Cluster::get_free_port() } 1, 2;
my $logs = $PostgreSQL::Test::Utils::log_path;
{
	# As docs/how-to/monitoring.md has it.
	local $ENV{DATA_SOURCE_NAME} = 'user=prometheus host=' . $node->host . ' port=' . $node->port . ' dbname=postgres';
	start_process("$logs/exporter.log", 'prometheus-postgres-exporter',
		"--extend.query-path=$folder/postgres-exporter-queries.yaml", "--web.listen-address=127.0.0.1:$exporter_port");
}
my $exporter = "http://127.0.0.1:$exporter_port/metrics";
my $metrics = until_true('the exporter answers', sub { get($exporter) });
my ($load_error) = $metrics =~ /^pg_exporter_user_queries_load_error\{.*\} (\S+)$/m;
is($load_error, 0, 'the exporter has read the queries');

# What an exporter says without these queries: that it asks the server well is its own affair.
my $config = $PostgreSQL::Test::Utils::tmp_check . '/prometheus.yml';
append_to_file($config, <<~YAML);
	global: {scrape_interval: 1s, evaluation_interval: 1s}
	rule_files: [$folder/prometheus-alerts.yml]
	scrape_configs:
	  - job_name: postgres
	    static_configs: [{targets: ["127.0.0.1:$exporter_port"]}]
	YAML
start_process("$logs/prometheus.log", 'prometheus', "--config.file=$config",
	"--storage.tsdb.path=$PostgreSQL::Test::Utils::tmp_check/prometheus", "--web.listen-address=127.0.0.1:$prometheus_port");
my $prometheus = "http://127.0.0.1:$prometheus_port/api/v1";

sub escaped { return join('', map { /[\w.~-]/ ? $_ : sprintf('%%%02X', ord) } split //, $_[0]); }

# query(EXPRESSION): what Prometheus makes of it now: a list of series, each {metric => LABELS, value => [TIME, VALUE]}.
sub query
{
	my ($expression) = @_;
	my $response = $http->get("$prometheus/query?query=" . escaped($expression));
	my $answer = eval { decode_json($response->{content}) } // { error => $response->{content} };
	return if $response->{status} == 599 || $response->{status} == 503; # it does not listen yet, or is not ready
	BAIL_OUT("$expression: $answer->{error}") if ($answer->{status} // '') ne 'success';
	return @{ $answer->{data}{result} };
}

sub value_of
{
	my @series = query($_[0]);
	return @series == 1 ? $series[0]{value}[1] : undef;
}

# becomes(EXPRESSION, TEST, NAME): TEST is true of its value before long.
sub becomes
{
	my ($expression, $test, $name) = @_;
	until_true($name, sub { my $value = value_of($expression); local $_ = $value; defined $value && $test->() });
	pass($name);
	return;
}

sub alerts
{
	my $state = shift;
	my $answer = decode_json(get("$prometheus/alerts") // '{"data": {"alerts": []}}');
	return sort map { $_->{labels}{alertname} } grep { $_->{state} eq $state } @{ $answer->{data}{alerts} };
}

becomes('up', sub { $_ == 1 }, 'Prometheus scrapes the exporter');

# ---- The incident

my $holder = session($node, 'sidekiq', user => 'app');
my $waiter = session($node, 'web', user => 'app');
my $migration = session($node, 'migration');
$holder->do($_) for 'BEGIN', q{UPDATE users SET name = 'x' WHERE id = 1};
$waiter->send(q{UPDATE users SET name = 'y' WHERE id = 1});
$migration->send('ALTER TABLE users ADD COLUMN note text');
await($node, 'the migration waits', q{SELECT count(*) = 1 FROM pg_lockguard_progress WHERE phase = 'waiting'});

subtest 'what Prometheus sees of it' => sub {
	becomes('pg_lockguard_sessions_waiting', sub { $_ == 2 }, 'two wait');
	becomes('pg_lockguard_roots', sub { $_ == 1 }, 'for one');
	becomes('pg_lockguard_roots_idle_in_transaction', sub { $_ == 1 }, 'who is idle in transaction');
	becomes('pg_lockguard_worst_root_sessions_behind', sub { $_ == 2 }, 'with two behind it');
	becomes('pg_lockguard_longest_wait_seconds', sub { $_ > 1 }, 'for more than a second');
	becomes('pg_lockguard_guarded_waiting', sub { $_ == 1 }, 'one of them at low priority');
	becomes('pg_lockguard_incidents_open', sub { $_ >= 1 }, 'that is an incident');
	becomes('pg_lockguard_incidents_total', sub { $_ >= 1 }, 'which is counted');
	becomes('pg_lockguard_incidents_longest_open_seconds', sub { $_ > 1 }, 'and lasts');
	becomes('sum(rate(pg_lockguard_waits_seconds_total{blocker_application_name="sidekiq"}[10s]))', sub { $_ > 0.5 },
		'the time waited for that application');
	becomes('pg_stat_lockguard_statements_total', sub { $_ >= 1 }, 'a guarded statement');
	becomes('pg_stat_lockguard_rehearsals_total', sub { $_ >= 1 }, 'a rehearsal');
};

subtest 'every metric is there' => sub {
	$metrics = until_true('the exporter answers', sub { get($exporter) });
	for my $namespace (sort keys %$queries)
	{
		for my $metric (@{ $queries->{$namespace}{metrics} })
		{
			my ($column) = keys %$metric;
			next if $metric->{$column}{usage} eq 'LABEL';
			like($metrics, qr/^${namespace}_$column\{.*\} -?[\d.e+]+$/m, "${namespace}_$column");
			like($metrics, qr/^# TYPE ${namespace}_$column \L$metric->{$column}{usage}$/m, "${namespace}_$column: its type");
		}
	}
	my ($error) = $metrics =~ /^pg_exporter_last_scrape_error (\S+)$/m;
	is($error, 0, 'no query has failed');
};

subtest 'every query of the dashboard has data' => sub {
	my $known = join('|', map {
			my $namespace = $_;
			map { "${namespace}_" . (keys %$_)[0] } @{ $queries->{$namespace}{metrics} }
		} keys %$queries);
	# increase() and rate() need two samples.
	becomes('min(count_over_time(pg_lockguard_waits_total{blocker_application_name="sidekiq"}[1m]))', sub { $_ > 3 }, 'there are samples');
	my $count = 0;
	for my $panel (grep { $_->{type} ne 'row' } @{ $dashboard->{panels} })
	{
		for my $target (@{ $panel->{targets} })
		{
			my $expression = $target->{expr} =~ s/\$instance/.*/gr =~ s/\$__rate_interval/10s/gr;
			unlike($expression, qr/\$/, "$panel->{title}: no other variable");
			like($expression, qr/\b(?:$known)\b/, "$panel->{title}: of a metric of the queries");
			my @series = query($expression);
			cmp_ok(scalar @series, '>=', 1, "$panel->{title}: $target->{expr}");
			is_deeply([ grep { $_->{value}[1] !~ /\A\d+(?:\.\d+)?(?:e[+-]\d+)?\z/ } @series ], [], "$panel->{title}: numbers, not negative");
			for my $label ($target->{legendFormat} =~ /\{\{(\w+)\}\}/g)
			{
				ok((grep { exists $_->{metric}{$label} } @series), "$panel->{title}: the label $label");
			}
			$count++;
		}
	}
	cmp_ok($count, '>', 20, 'all of them');
};

subtest 'the alerts' => sub {
	until_true('the incident is an alert', sub { grep { $_ eq 'PostgresLockIncident' } alerts('firing') });
	my $age = $observer->value(q{SELECT extract(epoch FROM clock_timestamp() - min(began)) FROM pg_lockguard_incidents WHERE ended IS NULL});
	cmp_ok($age, '>', 30, 'after 30 s, and not before');
	ok((grep { $_ eq 'PostgresBlockerIdleInTransaction' } alerts('pending'), alerts('firing')), 'its root is idle in transaction');
	is_deeply([ grep { /Ddl|Fuse|Errors/ } alerts('firing') ], [], 'nothing else');
	$holder->do('ROLLBACK');
	is(await_end($waiter), undef, 'the waiter goes on');
	is(await_end($migration), undef, 'and so does the migration');
	becomes('pg_lockguard_incidents_open', sub { $_ == 0 }, 'the incident is over');
	becomes('pg_lockguard_sessions_waiting', sub { $_ == 0 }, 'nobody waits');
	until_true('the alerts go', sub { !grep { /Incident|Idle/ } alerts('firing'), alerts('pending') });
	pass('the alerts go');
};

subtest 'a transaction that nothing bounds' => sub {
	is_deeply([ grep { /Stall/ } alerts('firing') ], [], 'no alert so far');
	$migration->do($_) for q{SET pg_lockguard.ddl_max_stall = '500ms'}, 'BEGIN', 'ALTER TABLE users ADD COLUMN kept text';
	$waiter->send('SELECT FROM users');
	until_true('a superuser\'s transaction that keeps others waiting is an alert',
		sub { grep { $_ eq 'PostgresLockguardStallSpared' } alerts('firing') });
	pass('a superuser\'s transaction that keeps others waiting is an alert');
	$migration->do('ROLLBACK');
	is(await_end($waiter), undef, 'who was kept waiting goes on');
};

is(value_of('min_over_time(up[10m])'), 1, 'no scrape has failed');
is($observer->value(q{SELECT count(*) FROM pg_stat_database WHERE datname = 'postgres' AND deadlocks > 0}), 0, 'no deadlock');
forget_sessions();
LockGuard::dismiss_observer($node);
unlike(slurp_file($node->logfile), qr/ (?:ERROR|PANIC): .*\n/, 'the server has seen no error');
unlike(slurp_file("$logs/exporter.log"), qr/level=(?:error|warn)/, 'nor has the exporter');
done_testing();
