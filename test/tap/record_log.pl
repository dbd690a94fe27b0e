# The record's durable copy: pg_lockguard.log_events, and what the server's log formats make of it.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use JSON::PP;
use LockGuard;
use LockGuard::Record;
use LockGuard::Worker;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $node = start_worker_node('log');
my $tables = 'CREATE TABLE users (id int); GRANT ALL ON users TO PUBLIC';
$node->safe_psql('postgres', $tables);
my $relation = $node->safe_psql('postgres', q{SELECT 'users'::regclass::oid});
my $database = $node->safe_psql('postgres', q{SELECT oid FROM pg_database WHERE datname = 'postgres'});

# The lines of events in the server log, without what all of them begin with.
sub logged_events
{
	my $log = slurp_file($node->logfile);
	return $log =~ /LOG:  pg_lockguard event: (.*)$/mg;
}

# A rehearsal about a session that calls itself so, and its end; the session, the event, and the statement.
sub provoke
{
	my ($on, $name) = @_;
	my $victim = session($on, 'victim', user => 'app');
	my $ddl = session($on, 'migrate');
	$victim->do("SET application_name = '$name'");
	$victim->do('BEGIN; SELECT id FROM users');
	$ddl->send('ALTER TABLE users ALTER COLUMN id DROP DEFAULT');
	my $event = event($victim, 'blocker_logged');
	$victim->do('COMMIT');
	await_end($ddl);
	event($victim, 'blocker_resolved');
	forget_sessions($ddl);
	return ($victim, $event, $ddl);
}

subtest 'log_events' => sub {
	is(scalar(my @none = logged_events()), 0, 'log_events = none: no line');
	configure($node, blocker_action => 'log', log_events => 'actions');
	my ($victim, $event, $ddl) = provoke($node, 'say "hi" \\ there');
	my @lines = logged_events();
	is(scalar @lines, 1, 'log_events = actions: a line for the rehearsal, none for its end');
	my $pid = $victim->pid;
	like(
		$lines[0],
		qr/^kind=blocker_logged id=$event->{id} pid=@{[$ddl->pid]} database="postgres" user="\w+" application="migrate" command="ALTER TABLE" relation="relation $relation of database $database" lock_mode="AccessExclusiveLock" waited_ms=\d+\.\d{3} blocker_pid=$pid blocker_user="app" blocker_application="say \\"hi\\" \\\\ there" blocker_state="idle in transaction" blocker_idle_ms=\d+\.\d{3}$/,
		'... with all that is known, but not the query');
	configure($node, log_events => 'all');
	provoke($node, 'everything');
	is_logged($node, qr/event: kind=blocker_resolved .* database="postgres" user="\w+" .* blocker_user="app"/, 'log_events = all: of what came of it, too');
	is_deeply([ map { /^kind=(\w+)/ } (logged_events())[ 1, 2 ] ],
		[ 'blocker_logged', 'blocker_resolved' ], 'log_events = all: a line each');
};

subtest 'events of the guard' => sub {
	my $holder = session($node, 'holder', user => 'app');
	my $ddl = session($node, 'migrate');
	$ddl->do('SET pg_lockguard.ddl_mode = low_priority');
	$holder->do('BEGIN; SELECT id FROM users');
	my $size = -s $node->logfile;
	$ddl->send('ALTER TABLE users ALTER COLUMN id DROP DEFAULT');
	$node->wait_for_log(qr/kind=ddl_waited/, $size);
	$holder->do('COMMIT');
	await_end($ddl);
	my $log = slurp_file($node->logfile, $size);
	my ($own, $pid) = ($ddl->pid, $holder->pid);
	my $whose = qr/pid=$own database="postgres" user="\w+" application="migrate" command="ALTER TABLE" relation="public.users" lock_mode="AccessExclusiveLock"/;
	like($log, qr/event: kind=ddl_waited id=\d+ $whose .*blocker_pid=$pid blocker_user="app" blocker_application="holder"/, 'ddl_waited');
	like($log, qr/event: kind=ddl_acquired id=\d+ $whose /, 'ddl_acquired');
};

# Another server: the collector needs a start.
my $collector = start_worker_node(
	'collector',
	q{pg_lockguard.blocker_action = log},
	q{pg_lockguard.log_events = all},
	q{logging_collector = on},
	q{log_destination = 'jsonlog,csvlog'},
	q{log_directory = log},
	q{log_filename = collected});
$collector->safe_psql('postgres', $tables);

subtest 'jsonlog and csvlog' => sub {
	provoke($collector, 'a, "quoted"');
	my $read = sub { slurp_file($collector->data_dir . "/log/collected.$_[0]") };
	my $found;
	for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		($found) = grep { $_->{message} =~ /event: kind=blocker_logged/ }
		  map { decode_json($_) } split /\n/, $read->('json');
		last if $found;
		usleep(100_000);
	}
	like($found->{message}, qr/blocker_application="a, \\"quoted\\""/,
		'jsonlog: one line, and the message comes back whole');
	is($found->{error_severity}, 'LOG', 'jsonlog: severity');
	like($read->('csv'), qr/"pg_lockguard event: kind=blocker_logged .*blocker_application=""a, \\""quoted\\"""" /,
		'csvlog: likewise');
};

ends_well($node, $collector);
done_testing();
