# A storm: many clients do random DDL and DML on 20 tables, while others end, cancel, stop and vacuum them, change
# settings and read every view. Afterwards schema and data are what the clients' journals say, no process has grown,
# no log tells of a leak, a crash or an internal error, and every session has ended when it was told to.
# LOCKGUARD_STORM_SECONDS (60), LOCKGUARD_STORM_CLIENTS (64), LOCKGUARD_SEED (printed; the order in which processes
# come to their turn is not repeated by it). LOCKGUARD_STORM_PLAIN=1: nothing is guarded, to see what PostgreSQL does
# by itself.
use strict;
use warnings;

use File::Basename;
use lib dirname(__FILE__) . '/lib';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Storable qw(nstore retrieve);
use Storm::Check qw(differences log_faults);
use Storm::Client;
use Storm::Operations qw(data_operation ddl_operation alone_operation look_up);
use Storm::Schema;
use Storm::Trouble;
use Test::More;
use Time::HiRes qw(usleep time);

my $seconds = $ENV{LOCKGUARD_STORM_SECONDS} || 60;
my $clients = $ENV{LOCKGUARD_STORM_CLIENTS} || 64;
my $plain = $ENV{LOCKGUARD_STORM_PLAIN};
my $seed = $ENV{LOCKGUARD_SEED} || int rand 2**31;
diag("storm: $clients clients, $seconds s, seed $seed");

# What can happen to a client whatever guards its statements: locks not had, deadlocks, serialization, cancels; names
# of others' objects that have gone, objects in use, states that a command is not for.
my $expected_errors = qr/^(lost|none|55P03|40P01|40001|57014|57P01|42P01|42704|55006|55000|0A000)$/;

# With few buffers the checkpointer has no room for what it is to sync: then a message of level DEBUG1 comes while a
# relation's file is made, and who wants that and is ended at it leaves the file, also where nothing is guarded. So
# either there are few, or clients want such messages.
my $has_few_buffers = $seed % 2;

my $node = PostgreSQL::Test::Cluster->new('storm');
$node->init(allows_streaming => 1);
$node->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'pg_lockguard'
restart_after_crash = off
wal_level = logical
max_connections = 120
max_prepared_transactions = 80
max_locks_per_transaction = 256
deadlock_timeout = 100ms
client_connection_check_interval = 1s
autovacuum_naptime = 1s
log_error_verbosity = verbose
backtrace_functions = 'simple_heap_update,mdread,mdreadv'
log_line_prefix = '%m [%p] %e %q%a '
log_statement = none
log_disconnections = off
log_connections = off
log_min_messages = warning
log_min_error_statement = fatal
pg_lockguard.ddl_commands = 'all'
pg_lockguard.ddl_max_wait = 2s
pg_lockguard.blocker_action = terminate
pg_lockguard.blocker_min_idle = 200ms
pg_lockguard.blocker_min_wait = 100ms
pg_lockguard.blocker_active_action = cancel
pg_lockguard.blocker_min_active = 500ms
pg_lockguard.worker_interval = 50ms
pg_lockguard.max_terminations_per_minute = 1000
CONF
$node->append_conf('postgresql.conf', 'shared_buffers = ' . ($has_few_buffers ? '1MB' : '128MB') . "\n");
$node->append_conf('postgresql.conf', "pg_lockguard.ddl_mode = off\n") if $plain;
$node->start;
$node->safe_psql('postgres', <<'SQL');
CREATE ROLE storm LOGIN;
CREATE ROLE storm_too ROLE storm;
CREATE ROLE onlooker LOGIN;
CREATE DATABASE storm OWNER storm;
SQL
$node->safe_psql('storm', <<'SQL' . Storm::Schema::clients_event_trigger());
CREATE EXTENSION pg_lockguard;
ALTER SCHEMA public OWNER TO storm;
GRANT CREATE ON SCHEMA public TO storm_too;
DO $$
DECLARE name text;
BEGIN
	FOR name IN SELECT s.name FROM pg_settings s WHERE s.name LIKE 'pg_lockguard.ddl%' AND context = 'superuser' LOOP
		EXECUTE format('GRANT SET ON PARAMETER %s TO storm', name);
	END LOOP;
END $$;
SQL
$node->safe_psql('storm', Storm::Schema::script(), extra_params => [ '-U', 'storm' ]);
$node->safe_psql('storm', <<'SQL');
GRANT CREATE ON SCHEMA aside TO storm_too;
GRANT SELECT ON pg_backend_memory_contexts TO onlooker;
GRANT EXECUTE ON FUNCTION pg_get_backend_memory_contexts() TO onlooker;
CREATE PUBLICATION storm FOR ALL TABLES;
SELECT pg_create_logical_replication_slot('storm', 'pgoutput');
SQL
$node->backup('standby');
my $standby = PostgreSQL::Test::Cluster->new('storm_standby');
$standby->init_from_backup($node, 'standby', has_streaming => 1);
$standby->append_conf('postgresql.conf', "hot_standby_feedback = on\nmax_standby_streaming_delay = 1s\n");
$standby->start;

sub dsn { my $server = shift; return 'dbi:Pg:host=' . $server->host . ';port=' . $server->port . ';dbname=storm' }

my $dsn = dsn($node);
my @modes = $plain ? 'off' : qw(off lock_timeout low_priority);
Storm::Trouble::nothing_is_guarded() if $plain;
my $folder = PostgreSQL::Test::Utils::tempdir();
my $until = time + $seconds;
my %child;

# in_process(NAME, CODE): runs it in a process of its own, which leaves what it returns in a file.
sub in_process
{
	my ($name, $code) = @_;
	my $pid = fork // die "fork: $!";
	if (!$pid)
	{
		srand($seed + 1000 * (1 + keys %child));
		my $result = eval { $code->() } // { faults => ["$name: $@"] };
		nstore($result, "$folder/$name");
		POSIX::_exit(0);
	}
	$child{$name} = $pid;
	return;
}

sub any { return $_[ rand @_ ] }

sub one_transaction
{
	my $c = shift;
	$c->{snapshot} = any('', '', '', 'REPEATABLE READ', 'SERIALIZABLE');
	$c->begin($c->{snapshot});
	my $savepoint;
	for (1 .. 1 + rand 5)
	{
		if (rand() < 0.15)
		{
			$c->tell_less;
			$c->sql('SAVEPOINT s');
			$savepoint = @{ $c->{pending} };
		}
		rand() < 0.65 ? data_operation($c) : ddl_operation($c);
		if (defined $savepoint && rand() < 0.2)
		{
			$c->sql('ROLLBACK TO SAVEPOINT s');
			splice @{ $c->{pending} }, $savepoint;
		}
	}
	my $end = rand;
	if ($end < 0.8) { $c->commit }
	elsif ($end < 0.9) { $c->sql('ROLLBACK'); $c->forget }
	else { $c->prepare }
	return;
}

sub change_settings
{
	my $c = shift;
	$c->sql(any(
		'SET lock_timeout = ' . any(0, 1, 100, 1000), 'SET statement_timeout = ' . any(0, 5, 200, 2000),
		'SET pg_lockguard.ddl_mode = ' . any(@modes), 'RESET ALL',
		'SET pg_lockguard.ddl_session_lock_timeout = ' . any(qw(wait stall)),
		'SET pg_lockguard.ddl_on_timeout = ' . any(qw(error queue terminate)),
		'SET pg_lockguard.ddl_notice_interval = ' . any(0, 1),
		'SET idle_in_transaction_session_timeout = ' . any(0, 50), 'SET client_min_messages = ' . any($has_few_buffers ? () : 'debug5', qw(notice error))));
	return;
}

sub step
{
	my $c = shift;
	if (%{ $c->{prepared} })
	{
		usleep(rand 300_000) if time < $until;
		$c->finish_prepared;
		return;
	}
	if ($c->{unsure})
	{
		look_up($c, $c->{unsure});
		delete $c->{unsure};
		return;
	}
	my $what = rand;
	$c->{snapshot} = '';
	if ($what < 0.25) { ddl_operation($c) && $c->committed }
	elsif ($what < 0.3) { alone_operation($c) && $c->committed }
	elsif ($what < 0.35) { change_settings($c) }
	else { one_transaction($c) }
	return;
}

# What PostgreSQL itself says, with or without the guard: a key of a table that looks empty (see one_row()); a row of a
# materialized view that was refreshed after one's snapshot; and the
# name that it has chosen for a partition's index, taken by somebody who builds one there at the same time: it looks
# for a free name without a lock, and SHARE locks do not keep each other out.
sub is_expected
{
	my ($state, $error, $level) = @_;
	return $state =~ $expected_errors || ($level && $state eq '23503')
	  || ($level && $state eq '23505' && $error =~ /INSERT INTO public\.m_\w+ SELECT \(diff\./)
	  || ($state eq '23505' && $error =~ /"pg_class_relname_nsp_index"\nDETAIL:  Key \(relname, relnamespace\)=\(\w+_idx\d*, /)
	  || Storm::Check::is_reused_multixact($error)
	  || Storm::Check::is_of_uncommitted_index($error)
	  || ($state eq '42P07' && $error =~ /relation "\w+_idx\d*" already exists/);
}

# What explains an error that was not expected: what the session has done lately, and which relation has a file that
# the error names, for others and for the session itself.
sub circumstances
{
	my ($c, $error) = @_;
	my $text = join "\n  ", 'Lately:', @{ $c->{lately} // [] };
	return $text unless $error =~ m{in file "base/\d+/(\d+)};
	my $file = $1;
	my $relation = q{SELECT oid::regclass || ' of ' || coalesce((SELECT indrelid::regclass::text FROM pg_index WHERE indexrelid = c.oid), '-')
		FROM pg_class c WHERE relfilenode = ?};
	for my $session (Storm::Trouble::superuser($dsn, 'explains'), $c->{dbh})
	{
		my ($name) = eval { $session->do('ROLLBACK'); $session->selectrow_array($relation, undef, $file) };
		$text .= "\nFile $file is of " . ($name // $@ || 'no relation');
	}
	return $text;
}

sub live
{
	my $number = shift;
	my $c = Storm::Client->new($number, $dsn);
	while (time < $until || %{ $c->{prepared} } || $c->{unsure})
	{
		if (eval { step($c); 1 })
		{
			$c->forget unless $c->in_transaction;
			$c->{done}++;
			next;
		}
		my $error = $@;
		my ($statement, $level) = @$c{qw(last snapshot)};
		my $state = $c->recover($error);
		if ($state ne 'lost')
		{
			$c->{errors}{$state}++;
			push @{ $c->{faults} }, "$c->{name}: $statement: $state $error" . circumstances($c, $error)
			  if !is_expected($state, $error, $level);
			eval { $c->{dbh}->do('ROLLBACK'); 1 } or $c->connect;
		}
		$c->forget;
		return { faults => $c->{faults}, journal => $c->{journal} } if @{ $c->{faults} } > 50;
		die "$c->{name} does not come to an end: $statement: $error" if time > $until + 120;
	}
	return { faults => $c->{faults}, journal => $c->{journal}, errors => $c->{errors}, done => $c->{done} };
}

# ---------------------------------------------------------------------------------------------

sub worker_size
{
	my $pid = $node->safe_psql('postgres', q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_lockguard worker'});
	my $kilobytes = 0;
	open(my $file, '<', "/proc/$pid/smaps_rollup") or return ($pid, 0);
	# Not what is private: pages of shared memory become that when others who have looked at them end.
	while (<$file>) { $kilobytes = $1 if /^Anonymous:\s+(\d+)/ }
	return ($pid, $kilobytes || die "no size of process $pid");
}

# in_the_end(QUERY): what it says in the end: nothing, or after half a minute what is there still.
sub in_the_end
{
	my $query = shift;
	my $left;
	for (1 .. 300)
	{
		$left = $node->safe_psql('postgres', $query);
		last if $left eq '';
		usleep(100_000);
	}
	return $left;
}

in_process("c$_", do { my $number = $_; sub { live($number) } }) for 1 .. $clients;
my @troubles = qw(end_and_cancel stop_and_go set decide maintain);
# Rows of catalogs that a subtransaction made and rolled back, and the same transaction made anew at the same place,
# fail an assertion of PostgreSQL's decoding (ReorderBufferBuildTupleCidHash): our clients do that on their own.
push @troubles, 'decode' if $node->safe_psql('postgres', 'SHOW debug_assertions') eq 'off';
for my $name (@troubles)
{
	my $code = Storm::Trouble->can($name);
	in_process($name, sub { $code->($dsn, $until); { faults => [] } });
}
in_process('watch', sub { { faults => [ Storm::Trouble::watch($dsn, $until) ] } });
in_process('watch_as_onlooker', sub { { faults => [ Storm::Trouble::watch($dsn, $until, 'onlooker') ] } });
in_process('watch_standby', sub { { faults => [ Storm::Trouble::watch(dsn($standby), $until) ] } });

usleep(1_000_000 * $seconds / 3);
my ($worker, $size) = worker_size();
usleep(1_000_000) while time < $until;
my ($worker_at_end, $size_at_end) = worker_size();

my $told = $node->safe_psql('postgres',
	q{WITH s AS MATERIALIZED (SELECT pid FROM pg_stat_activity WHERE usename = 'storm')
		SELECT string_agg(pid::text, ',') FROM s WHERE pg_terminate_backend(pid)});
my $sessions = q{SELECT string_agg(concat_ws(' ', pid, state, wait_event_type, wait_event, query), E'\n') FROM pg_stat_activity};
is(in_the_end("$sessions WHERE pid = ANY ('{$told}')"), '', 'every session ended when told');

waitpid $_, 0 for values %child;
my (@faults, %errors);
my $done = 0;
my @results = map { -f "$folder/$_" ? retrieve("$folder/$_") : { faults => ["$_ has left nothing"] } } sort keys %child;
for my $result (@results)
{
	push @faults, @{ $result->{faults} };
	$done += $result->{done} // 0;
	$errors{$_} += $result->{errors}{$_} for keys %{ $result->{errors} // {} };
}
diag("steps: $done; errors: " . join(', ', map { "$_ $errors{$_}" } sort keys %errors));
diag(map { "$_\n" } @faults) if @faults;
is(scalar @faults, 0, 'no client and no reader saw what it should not');

is(in_the_end("$sessions WHERE usename = 'storm'"), '', 'every session whose client has gone ended');
my $dbh = Storm::Trouble::superuser($dsn, 'checks');
is($dbh->selectrow_array('SELECT count(*) FROM pg_prepared_xacts'), 0, 'no prepared transaction is left');
my @differences = differences($dbh, map { $_->{journal} // {} } @results);
diag(map { "$_\n" } @differences[ 0 .. ($#differences < 40 ? $#differences : 40) ]) if @differences;
is(scalar @differences, 0, 'schema and data are what the journals say');
is(in_the_end(q{SELECT string_agg(concat_ws(' ', l.*), E'\n') FROM pg_locks l WHERE pid <> pg_backend_pid() AND locktype = 'relation' AND mode <> 'SIReadLock'
	AND pid NOT IN (SELECT pid FROM pg_stat_activity WHERE backend_type LIKE 'autovacuum%')}), '', 'no lock is left');
is($dbh->selectrow_array('SELECT count(*) FROM pg_lockguard_progress'), 0, 'nobody waits at low priority');
cmp_ok($size_at_end, '<=', $size + 2048, "the worker has not grown ($size kB, then $size_at_end)") if $worker == $worker_at_end;
my $counters = $dbh->selectrow_hashref('SELECT * FROM pg_stat_lockguard');
is($counters->{errors}, 0, 'the worker had no error');

# A file that no relation has would have been left by somebody; those of dropped ones are there until a checkpoint.
$dbh->do('CHECKPOINT');
is($dbh->selectrow_array(q{SELECT string_agg(format('%s (%s bytes)', f, (pg_stat_file(path || f, true)).size), ' ')
	FROM concat('base/', (SELECT oid FROM pg_database WHERE datname = 'storm'), '/') AS path, pg_ls_dir(path) AS f
	WHERE f ~ '^t?[0-9]' AND substring(f FROM '^(?:t[0-9]+_)?([0-9]+)')::oid NOT IN (
		SELECT pg_relation_filenode(oid) FROM pg_class WHERE pg_relation_filenode(oid) IS NOT NULL)}), undef, 'no file is left');

my $everything = join ' UNION ALL ', map { "SELECT '$_', sum(hashtext(x::text)::bigint) FROM $_ x" } @Storm::Schema::tables;
$node->wait_for_catchup($standby, 'replay', $node->lsn('insert'));
is($standby->safe_psql('storm', $everything), $node->safe_psql('storm', $everything), 'the standby has the same rows');

$_->stop for $standby, $node;
for my $server ($node, $standby)
{
	my %times;
	# Numbers and times left out, so that what is the same is told once.
	$times{ s/^\S+ \S+ \S+ \[\d+\] //r =~ s/\d+/#/gr }++ for log_faults(slurp_file($server->logfile));
	diag(map { "$times{$_} x $_\n" } sort keys %times) if %times;
	is(scalar keys %times, 0, 'nothing in the log of ' . $server->name . ' that must not be there');
}
done_testing();
