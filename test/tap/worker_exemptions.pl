# Whom the worker spares: each clause against the server, and what is said of it. (Each boundary of
# time is tested in test/unit.)
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LockGuard;
use LockGuard::Record;
use LockGuard::Worker;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $node = start_worker_node('exemptions', q{pg_lockguard.blocker_action = terminate});
$node->safe_psql(
	'postgres', q{
	CREATE ROLE "Backup Role" NOLOGIN;
	CREATE ROLE between NOLOGIN;
	CREATE ROLE member LOGIN NOINHERIT;
	GRANT "Backup Role" TO between;
	GRANT between TO member;
	CREATE ROLE boss LOGIN SUPERUSER;
	CREATE ROLE guarded LOGIN;
	ALTER ROLE guarded SET pg_lockguard.protected = on;
	CREATE DATABASE other;
});
my $observer = LockGuard::observer($node);

my $by_role = 'pg_lockguard.exempt_roles names its role, or one that it is a member of';

subtest 'superusers' => sub {
	spared('a superuser', 'superuser', 'it has logged in as a superuser', conflict($node, 'boss'));
};

subtest 'names that protect nobody, while the worker ends nobody' => sub {
	# ddl_on_timeout = terminate goes by them, too.
	configure($node, blocker_action => 'off');
	my $offset = -s $node->logfile;
	configure($node, exempt_roles => 'nobody_yet');
	$node->wait_for_log(qr/WARNING:  role "nobody_yet" of pg_lockguard.exempt_roles does not exist/, $offset);
	pass('a role');
	configure($node, exempt_roles => '', blocker_action => 'terminate');
};

subtest 'names that protect nobody' => sub {
	# They are reported before anybody is in the way: afterwards it may be too late.
	my $offset = -s $node->logfile;
	configure($node, exempt_roles => 'nobody_at_all, "Backup Role"', exempt_databases => 'nowhere_at_all, other');
	my ($roles, $databases) = map { qr/WARNING:  $_ does not exist/ }
	  ('role "nobody_at_all" of pg_lockguard.exempt_roles', 'database "nowhere_at_all" of pg_lockguard.exempt_databases');
	$node->wait_for_log($roles, $offset);
	my $log = substr(slurp_file($node->logfile), $offset);
	like($log, $roles, 'a role');
	like($log, $databases, 'a database');
	is(scalar(my @warnings = $log =~ /WARNING:  .* does not exist/g), 2, 'no others');
	configure($node, exempt_databases => '');
};

subtest 'names that are too long, and cut before a character' => sub {
	plan skip_all => 'a database in UTF-8 is needed' if $observer->value('SHOW server_encoding') ne 'UTF8';
	my $long = "\xc3\xa9" x 40;
	$node->safe_psql('postgres', qq{SET client_encoding = 'UTF8'; CREATE ROLE "$long" LOGIN});
	$node->safe_psql('postgres', qq{CREATE DATABASE "$long"});
	my $role = "\xc3\xa9" x 31;
	my $offset = -s $node->logfile;
	configure($node, exempt_roles => qq{"$long", nobody_so_far}, exempt_databases => qq{"$long"});
	$node->wait_for_log(qr/WARNING:  role "nobody_so_far" of pg_lockguard.exempt_roles does not exist/, $offset);
	my $log = substr(slurp_file($node->logfile), $offset);
	is(scalar(my @warnings = $log =~ /WARNING:  .* does not exist/g), 1, 'no other name is missing');
	spared('the role of such a name', 'role', $by_role, conflict($node, $role));
	configure($node, exempt_roles => '', exempt_databases => '');
	$node->safe_psql('postgres', qq{DROP DATABASE "$long"});
};

subtest 'exempt_roles: members of a role' => sub {
	configure($node, exempt_roles => 'nobody_like_that, "Backup Role"');
	spared('a member of a member, without inheritance', 'role', $by_role, conflict($node, 'member'));
	is_logged($node, qr/WARNING:  role "nobody_like_that" of pg_lockguard.exempt_roles does not exist/,
		'a name that protects nobody is reported');
	is(scalar(my @warnings = slurp_file($node->logfile) =~ /WARNING:  role "nobody_like_that"/g), 1,
		'... once');

	# The worker hears of it at once, though it is in no database.
	$node->safe_psql('postgres', 'REVOKE "Backup Role" FROM between');
	my ($holder, $ddl) = conflict($node, 'member');
	is_deeply(verdict($holder), [ 'blocker_terminated', undef ], 'no member any more: ended');
	await_end($ddl);
	$node->safe_psql('postgres', 'GRANT "Backup Role" TO member');
	spared('a member since a moment', 'role', $by_role, conflict($node, 'member'));
};

subtest 'exempt_roles: the role itself' => sub {
	configure($node, exempt_roles => 'APP');
	# The marker is a session of app's as well.
	my ($holder, $ddl) = conflict($node, 'app');
	is_deeply(verdict($holder), [ 'blocker_spared', $by_role ], 'the role itself: spared');
	# What a reload takes away takes effect for a session that is in the way already.
	configure($node, exempt_roles => '');
	is_deeply(verdict($holder), [ 'blocker_terminated', undef ], '... until the list is emptied');
	is(await_end($ddl), undef, '... and the statement gets its lock');
};

subtest 'exempt_databases, exempt_applications' => sub {
	configure($node, exempt_databases => 'template1, other');
	spared('a database', 'database', 'pg_lockguard.exempt_databases names its database',
		conflict($node, 'app', dbname => 'other'));
	configure($node, exempt_databases => '');

	configure($node, exempt_applications => 'nothing, pg_dump*');
	my $by_application = 'pg_lockguard.exempt_applications matches its application_name';
	spared('an application', 'application', $by_application, conflict($node, 'app', name => 'pg_dumpall'));
	configure($node, exempt_applications => '');
};

my $protected = 'pg_lockguard.protected is on for it';

subtest 'protected: by ALTER ROLE, ALTER DATABASE, or a function of a superuser' => sub {
	spared('ALTER ROLE ... SET', 'protected', $protected, conflict($node, 'guarded'));
	spared('ALTER DATABASE ... SET', 'protected', $protected, do {
		$node->safe_psql('postgres', 'ALTER DATABASE other SET pg_lockguard.protected = on');
		conflict($node, 'app', dbname => 'other');
	});
	spared('set by a function of a superuser', 'protected', $protected, do {
		$node->safe_psql('postgres', q{
			CREATE FUNCTION protect() RETURNS void SECURITY DEFINER LANGUAGE plpgsql AS
			$$ BEGIN PERFORM set_config('pg_lockguard.protected', 'on', false); END $$});
		conflict($node, 'app', before => ['SELECT protect()']);
	});
};

subtest 'protected: for a time' => sub {
	# SET LOCAL ends with its transaction, and RESET goes back to what the role has.
	$node->safe_psql('postgres', q{
		CREATE FUNCTION protect_transaction() RETURNS void SECURITY DEFINER LANGUAGE plpgsql AS
		$$ BEGIN PERFORM set_config('pg_lockguard.protected', 'on', true); END $$;
		CREATE FUNCTION expose() RETURNS void SECURITY DEFINER LANGUAGE plpgsql AS
		$$ BEGIN PERFORM set_config('pg_lockguard.protected', 'off', false); END $$});
	my ($holder, $ddl) =
	  conflict($node, 'app', before => [ 'BEGIN', 'SELECT protect_transaction()', 'COMMIT' ]);
	is_deeply(verdict($holder), [ 'blocker_terminated', undef ], 'protected in its transaction only');
	await_end($ddl);
	($holder, $ddl) = conflict($node, 'guarded', before => ['SELECT expose()']);
	is_deeply(verdict($holder), [ 'blocker_terminated', undef ], 'protection can be switched off');
	await_end($ddl);

	# The next session in the same slot is not mistaken for the protected one.
	my ($first, $second);
	for my $try (1 .. 3)
	{
		$first = session($node, 'first', user => 'guarded');
		forget_sessions($first);
		($holder, $ddl) = conflict($node, 'app');
		is_deeply(verdict($holder), [ 'blocker_terminated', undef ], 'no protection is inherited');
		await_end($ddl);
		forget_sessions($holder, $ddl);
	}
};

subtest 'protected: in postgresql.conf' => sub {
	# For the whole server, also for sessions that have been idle since before.
	configure($node, blocker_action => 'off');
	my ($holder, $ddl) = conflict($node, 'app');
	my ($exposed, $exposed_ddl) = conflict($node, 'app', before => ['SELECT expose()']);
	settle($node, $ddl, $exposed_ddl);
	configure($node, blocker_action => 'terminate', protected => 'on');
	is_deeply(verdict($holder), [ 'blocker_spared', $protected ], 'postgresql.conf protects everybody');
	is_deeply(verdict($exposed), [ 'blocker_terminated', undef ], '... but those who have said no');
	await_end($exposed_ddl);
	configure($node, protected => 'off');
	is_deeply(verdict($holder), [ 'blocker_terminated', undef ], '... until it is switched off');
	await_end($ddl);
};

subtest 'protected: nobody can say so of himself' => sub {
	for my $role (qw(app guarded))
	{
		my $session = session($node, "own $role" =~ tr/ /_/r, user => $role);
		ok(!eval { $session->do("SET pg_lockguard.protected = on"); 1 }, "$role can't protect itself");
		like($@, qr/permission denied to set parameter "pg_lockguard.protected"/, '... and is told so');
		forget_sessions($session);
	}
};

subtest 'a prepared transaction' => sub {
	my $table = 'prepared';
	$node->safe_psql('postgres', "CREATE TABLE $table (id int); GRANT ALL ON $table TO PUBLIC");
	my $preparer = session($node, 'preparer', user => 'app');
	$preparer->do("BEGIN; INSERT INTO $table VALUES (1); PREPARE TRANSACTION 'stuck'");
	my $xid = $observer->value('SELECT transaction FROM pg_prepared_xacts');
	my $ddl = session($node, 'ddl');
	$ddl->send("ALTER TABLE $table ADD COLUMN n int");
	await($node, 'the prepared transaction is reported',
		'SELECT EXISTS (SELECT FROM pg_lockguard_events WHERE blocker_pid = 0)');
	my ($event) = $observer->rows('SELECT * FROM pg_lockguard_events WHERE blocker_pid = 0');
	is($event->{kind}, 'blocker_spared', 'a prepared transaction is reported');
	is( $event->{reason},
		"transaction $xid of pg_prepared_xacts: a prepared transaction has no session; "
		  . 'somebody must commit it or roll it back', '... with what to do');
	is($event->{blocker_usename}, 'app', '... and whose it is');
	like($event->{lock_tree}, qr/\A0 prepared "transaction $xid"\n/, '... and its tree');
	wait_for_look($node);
	is($observer->value('SELECT count(*) FROM pg_lockguard_events WHERE blocker_pid = 0'), 1, '... once');
	$node->safe_psql('postgres', q{COMMIT PREPARED 'stuck'});
	is(await_end($ddl), undef, 'the statement gets its lock then');
	forget_sessions($preparer, $ddl);
};

sub stalled
{
	my $table = new_table($node);
	my $holder = session($node, "copy_$table", user => 'app');
	$holder->do('BEGIN');
	$holder->do("COPY $table FROM STDIN");
	$holder->{dbh}->pg_putcopydata("1\n");
	await($node, 'the client stalls', q{SELECT wait_event = 'ClientRead' AND state = 'active'
		FROM pg_stat_activity WHERE pid = ?}, $holder->pid);
	return ($holder, blocked_ddl($node, $table));
}

subtest 'a client that stalls in a COPY' => sub {
	my ($holder, $ddl) = stalled();
	is_deeply(
		verdict($holder),
		[
			'blocker_spared',
			'it waits for its client in the middle of a statement, and pg_lockguard.blocker_stalled_clients is off'
		],
		'a stalled COPY is only logged');
	# Between the end of the COPY and COMMIT it is idle in transaction, and would be ended for that.
	configure($node, blocker_min_idle => '1h');
	$holder->{dbh}->pg_putcopydata("2\n");
	$holder->{dbh}->pg_putcopyend;
	$holder->do('COMMIT');
	is(await_end($ddl), undef, 'it comes to its end');
	configure($node, blocker_min_idle => 0);
	forget_sessions($holder, $ddl);
};

subtest 'blocker_stalled_clients' => sub {
	configure($node, blocker_stalled_clients => 'on');
	my ($holder, $ddl) = stalled();
	is_deeply(verdict($holder), [ 'blocker_terminated', undef ], 'where that is wanted, it is ended');
	is(await_end($ddl), undef, 'and the statement gets its lock');
	is_logged($node, qr/LOG:  pg_lockguard: terminated PID @{[$holder->pid]} .*: waiting for its client in a statement for /,
		'... and the log says why');
	forget_sessions($holder, $ddl);
};

# Data that arrives starts the time anew: never stalled for so long.
subtest 'a client that is slow in a COPY' => sub {
	configure($node, blocker_min_idle => '1h');
	my ($holder, $ddl) = stalled();
	settle($node, $ddl);
	my $go_on = sub {
		my $before = $observer->value('SELECT bytes_processed FROM pg_stat_progress_copy WHERE pid = ?', $holder->pid);
		# Enough that libpq sends some of it at once.
		$holder->{dbh}->pg_putcopydata("1\n" x 8192);
		await($node, 'some of it arrives', 'SELECT bytes_processed > ? FROM pg_stat_progress_copy WHERE pid = ?',
			$before, $holder->pid);
	};
	$go_on->();
	configure($node, blocker_min_idle => '2s');
	for (1 .. 25)
	{
		$go_on->();
		usleep(100_000);
	}
	cmp_ok($observer->value('SELECT extract(epoch FROM clock_timestamp() - state_change) FROM pg_stat_activity WHERE pid = ?', $holder->pid),
		'>', 2, 'a slow COPY takes longer than the limit');
	$holder->{dbh}->pg_putcopyend;
	$holder->do('COMMIT');
	is(await_end($ddl), undef, '... and is left alone');
	configure($node, blocker_stalled_clients => 'off', blocker_min_idle => 0);
	forget_sessions($holder, $ddl);
};

ends_well([$node], qr/exited with exit code/);
done_testing();
