# Those who make the storm a storm: superusers that end, cancel, stop, vacuum, decide and set; and those who watch
# it all the time. Each is a process of its own that runs until the time is over, and returns its faults.
package Storm::Trouble;

use strict;
use warnings;

use DBI;
use Exporter 'import';
use Storm::Check;
use Time::HiRes qw(usleep time);

our @EXPORT_OK = qw(end_and_cancel stop_and_go set decide maintain watch decode);

sub any { return $_[ rand @_ ] }

sub superuser
{
	my ($dsn, $name) = @_;
	return DBI->connect("$dsn;application_name=$name", '', '', {
		RaiseError => 1, PrintError => 0, PrintWarn => 0, AutoCommit => 1, AutoInactiveDestroy => 1, pg_server_prepare => 0 });
}

# Any session of the clients, those rather that wait.
my $somebody = q{SELECT pid FROM pg_stat_activity WHERE usename = 'storm'
	ORDER BY (wait_event_type = 'Lock') IS TRUE AND random() < 0.7 DESC, random() LIMIT 1};

sub end_and_cancel
{
	my ($dsn, $until) = @_;
	my $dbh = superuser($dsn, 'ends');
	while (time < $until)
	{
		my $how = rand() < 0.7 ? 'pg_cancel_backend' : 'pg_terminate_backend';
		$dbh->do("SELECT $how(pid) FROM ($somebody) AS s");
		usleep(rand 200_000);
	}
	return;
}

# Stops processes for a moment at whatever instant, as a machine without time for them does.
sub stop_and_go
{
	my ($dsn, $until) = @_;
	my $dbh = superuser($dsn, 'stops');
	while (time < $until)
	{
		my ($pid) = $dbh->selectrow_array(rand() < 0.1
			? q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_lockguard worker'} : $somebody);
		if ($pid && kill STOP => $pid)
		{
			usleep(rand 100_000);
			kill CONT => $pid;
		}
		usleep(rand 200_000);
	}
	return;
}

# Settings of the whole server, with values that are all allowed.
my %values = (
	ddl_mode => [qw(low_priority low_priority low_priority lock_timeout off)],
	ddl_lock_timeout => [qw(1 50 500)],
	ddl_max_wait => [qw(1 300 2000 0)],
	ddl_max_stall => [qw(100 300 1000 0)],
	ddl_on_timeout => [qw(error queue terminate)],
	ddl_commands => ['all', 'all', 'all', 'ALTER TABLE', ''],
	ddl_notice_interval => [qw(1 100 10000 0)],
	ddl_session_lock_timeout => [qw(wait stall)],
	ddl_heavy => [qw(allow warn)],
	ddl_heavy_min_size => [qw(0 8 1GB)],
	preview_max_hold => [qw(1 20)],
	blocker_action => [qw(off log terminate terminate)],
	blocker_min_idle => [qw(0 20 200)],
	blocker_min_wait => [qw(0 20 200)],
	blocker_stalled_clients => [qw(on off)],
	blocker_request_modes => ['AccessExclusiveLock', 'ShareLock, AccessExclusiveLock', ''],
	blocker_concurrently => [qw(on off)],
	blocker_active_action => [qw(off log cancel)],
	blocker_min_active => [qw(0 20 200)],
	worker_interval => [qw(10 50 500)],
	max_terminations_per_minute => [qw(0 10 1000)],
	exempt_roles => [ '', 'storm', 'no_such_role' ],
	exempt_databases => [ '', 'postgres' ],
	exempt_applications => [ '', 'pg_dump*', 'c1*, "c 2"' ],
	log_events => [qw(none actions all)],
	incident_min_wait => [qw(-1 0 100 1000)],
);

sub nothing_is_guarded { $values{ddl_mode} = ['off']; return }

sub set
{
	my ($dsn, $until) = @_;
	my $dbh = superuser($dsn, 'sets');
	my @known = grep { $values{$_} }
	  map { s/^pg_lockguard\.//r } @{ $dbh->selectcol_arrayref("SELECT name FROM pg_settings WHERE name LIKE 'pg_lockguard.%'") };
	while (time < $until)
	{
		my $name = any(@known);
		$dbh->do("ALTER SYSTEM SET pg_lockguard.$name = '" . any(@{ $values{$name} }) . q{'});
		$dbh->do('SELECT pg_reload_conf()');
		usleep(rand 600_000);
	}
	$dbh->do('ALTER SYSTEM RESET ALL');
	$dbh->do('SELECT pg_reload_conf()');
	return;
}

sub decide
{
	my ($dsn, $until) = @_;
	my $dbh = superuser($dsn, 'decides');
	while (time < $until)
	{
		$dbh->do(q{SELECT pg_lockguard_decide(pid, ?) FROM pg_lockguard_progress WHERE phase <> 'running' ORDER BY random() LIMIT 1},
			undef, any('give up', 'queue', 'terminate'));
		usleep(rand 400_000);
	}
	return;
}

# No VACUUM FULL of a catalog: of pg_attribute rows get lost beside such DDL, also where nothing is guarded.
sub maintain
{
	my ($dsn, $until) = @_;
	my $dbh = superuser($dsn, 'maintains');
	while (time < $until)
	{
		eval { $dbh->do(any('VACUUM', 'ANALYZE', 'CHECKPOINT', 'SELECT pg_stat_lockguard_reset()', 'SELECT pg_switch_wal()',
				'REINDEX TABLE t01', 'VACUUM pg_catalog.pg_class')); 1 }
		  or $dbh->state =~ /^(40P01|55P03|57014|57P01|08)/ or Storm::Check::is_reused_multixact($@) or !$dbh->ping or die;
		$dbh = superuser($dsn, 'maintains') unless $dbh->ping;
		usleep(rand 800_000);
	}
	return;
}

# Bytes of its memory contexts but those of the catalog cache.
sub own_memory
{
	my $dbh = shift;
	my ($bytes) = $dbh->selectrow_array(q{WITH RECURSIVE c AS (SELECT * FROM pg_backend_memory_contexts)
		SELECT sum(total_bytes) FROM c WHERE name NOT IN ('CacheMemoryContext', 'index info', 'relation rules', 'LOCALLOCK hash')
			AND parent IS DISTINCT FROM 'CacheMemoryContext'});
	return $bytes;
}

# Reads every view and function of the extension that reads without arguments, and the pictures. An error is a
# fault, and so is a process that grows.
sub watch
{
	my ($dsn, $until, $user) = @_;
	my @faults;
	my $dbh = DBI->connect("$dsn;application_name=watches", $user // '', '', {
		RaiseError => 1, PrintError => 0, PrintWarn => 0, AutoCommit => 1, AutoInactiveDestroy => 1, pg_server_prepare => 0 });
	my @views = @{ $dbh->selectcol_arrayref(q{SELECT c.oid::regclass FROM pg_depend d JOIN pg_class c ON c.oid = objid
		WHERE classid = 'pg_class'::regclass AND deptype = 'e' AND relkind = 'v'
			AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'pg_lockguard')}) };
	my @reads = ('SELECT * FROM lock_tree()', q{SELECT lock_graph('dot')}, q{SELECT lock_graph('mermaid')},
		map { "SELECT * FROM $_" } @views);
	my ($rounds, $first, $early) = (0, time);
	while (time < $until)
	{
		for my $read (@reads)
		{
			# A standby that lags behind has no patience left with who reads a catalog that is truncated.
			eval { $dbh->selectall_arrayref($read); 1 } or $@ =~ /ERROR:  canceling statement due to conflict with recovery/
			  or push @faults, "$read: $@";
			return @faults if @faults > 20;
		}
		$rounds++;
		usleep(20_000);
		$early //= own_memory($dbh) if time - $first > ($until - $first) / 3;
	}
	my $late = own_memory($dbh);
	push @faults, "a reader of the views has grown from $early to $late bytes in $rounds rounds"
	  if defined $early && $late > $early + 512 * 1024;
	push @faults, "only $rounds rounds of looking" if $rounds < 3;
	return @faults;
}

# Reads the changes of a logical slot.
sub decode
{
	my ($dsn, $until) = @_;
	my $dbh = superuser($dsn, 'decodes');
	while (time < $until)
	{
		$dbh->do(q{SELECT count(*) FROM pg_logical_slot_get_binary_changes('storm', NULL, NULL, 'proto_version', '2',
			'publication_names', 'storm', 'streaming', 'on')});
		usleep(500_000);
	}
	return;
}

1;
