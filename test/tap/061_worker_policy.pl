# Whom the worker spares, and the fuses: each clause against the server. (Each boundary of time is
# tested in test/unit; the rest of the worker's life in 040_blocker_worker.pl.)
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use LockGuard;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $node = start_node(
	'policy',
	q{shared_preload_libraries = 'pg_lockguard'},
	q{pg_lockguard.ddl_mode = off},
	q{pg_lockguard.worker_interval = 20ms},
	q{pg_lockguard.blocker_min_idle = 0},
	q{pg_lockguard.blocker_min_wait = 0},
	q{pg_lockguard.blocker_action = terminate},
	q{pg_lockguard.max_terminations_per_minute = 1000});
$node->safe_psql(
	'postgres', q{
	CREATE ROLE app LOGIN;
	CREATE ROLE "Backup Role" NOLOGIN;
	CREATE ROLE between NOLOGIN;
	CREATE ROLE member LOGIN NOINHERIT;
	GRANT "Backup Role" TO between;
	GRANT between TO member;
	CREATE ROLE boss LOGIN SUPERUSER;
	CREATE ROLE guarded LOGIN;
	ALTER ROLE guarded SET pg_lockguard.protected = on;
	CREATE DATABASE other;
	CREATE TABLE marker (id int);
	GRANT ALL ON marker TO PUBLIC;
});
my $observer = LockGuard::observer($node);

sub configure
{
	my %setting = @_;
	$node->safe_psql('postgres', "ALTER SYSTEM SET pg_lockguard.$_ = '$setting{$_}'")
	  for sort keys %setting;
	$node->reload;
	return;
}

# A session of this role that holds ACCESS SHARE on a new table and is idle in transaction, and one
# that waits for ACCESS EXCLUSIVE.
my $tables = 0;

sub conflict
{
	my ($role, %option) = @_;
	my $table = 't' . ++$tables;
	my $dbname = $option{dbname} || 'postgres';
	$node->safe_psql($dbname, "CREATE TABLE $table (id int); GRANT ALL ON $table TO PUBLIC");
	my $holder = session($node, $option{name} || "holder$tables", user => $role, dbname => $dbname);
	$holder->do($_) for @{ $option{before} || [] };
	$holder->do("BEGIN; SELECT FROM $table");
	my $ddl = session($node, "ddl$tables", dbname => $dbname);
	$ddl->send("ALTER TABLE $table ADD COLUMN n int");
	return ($holder, $ddl);
}

my $latest = 0;

# Waits for the next event about this session: [ kind, reason ].
sub verdict
{
	my ($holder) = @_;
	await($node, 'an event about ' . $holder->name,
		'SELECT EXISTS (SELECT FROM pg_lockguard_events WHERE blocker_pid = ? AND id > ?)',
		$holder->pid, $latest);
	my ($event) = $observer->rows(
		'SELECT * FROM pg_lockguard_events WHERE blocker_pid = ? AND id > ? ORDER BY id LIMIT 1',
		$holder->pid, $latest);
	$latest = $event->{id};
	return [ @{$event}{qw(kind reason)} ];
}

sub counter
{
	my ($name) = @_;
	return $observer->value("SELECT $name FROM pg_stat_lockguard");
}

# A look has begun and ended after this was called.
sub wait_for_look
{
	my ($holder, $ddl) = conflict('app');
	is_deeply(verdict($holder), [ 'blocker_terminated', undef ], 'a session like any other is ended');
	await_end($ddl);
	forget_sessions($holder, $ddl);
	return;
}

sub spared
{
	my ($why, $counter, $reason, $holder, $ddl) = @_;
	is_deeply(verdict($holder), [ 'blocker_spared', $reason ], "$why: spared, and why");
	my $count = counter("spared_$counter");
	wait_for_look();
	is( $observer->value('SELECT count(*) FROM pg_lockguard_events WHERE blocker_pid = ? AND id > ?',
			$holder->pid, $latest), 0, "$why: said once");
	cmp_ok($count, '>', 0, "$why: counted");
	is(counter("spared_$counter"), $count, "$why: counted once");
	like(slurp_file($node->logfile), qr/LOG:  pg_lockguard: spared PID @{[$holder->pid]} .*: \Q$reason\E$/m,
		"$why: in the log");
	$holder->do('COMMIT');
	is(await_end($ddl), undef, "$why: its transaction was whole");
	forget_sessions($holder, $ddl);
	return;
}

# ---- Exemptions

my $by_role = 'pg_lockguard.exempt_roles names its role, or one that it is a member of';

spared('a superuser', 'superuser', 'it has logged in as a superuser', conflict('boss'));

configure(exempt_roles => 'nobody_like_that, "Backup Role"');
spared('a member of a member, without inheritance', 'role', $by_role, conflict('member'));
like(slurp_file($node->logfile),
	qr/WARNING:  role "nobody_like_that" of pg_lockguard.exempt_roles does not exist/,
	'a name that protects nobody is reported');
is(scalar(my @warnings = slurp_file($node->logfile) =~ /WARNING:  role "nobody_like_that"/g), 1,
	'... once');

# The worker hears of it at once, though it is in no database.
$node->safe_psql('postgres', 'REVOKE "Backup Role" FROM between');
{
	my ($holder, $ddl) = conflict('member');
	is_deeply(verdict($holder), [ 'blocker_terminated', undef ], 'no member any more: ended');
	await_end($ddl);
}
$node->safe_psql('postgres', 'GRANT "Backup Role" TO member');
spared('a member since a moment', 'role', $by_role, conflict('member'));
configure(exempt_roles => 'APP');
{
	# The marker is a session of app's as well.
	my ($holder, $ddl) = conflict('app');
	is_deeply(verdict($holder), [ 'blocker_spared', $by_role ], 'the role itself: spared');
	# What a reload takes away takes effect for a session that is in the way already.
	configure(exempt_roles => '');
	is_deeply(verdict($holder), [ 'blocker_terminated', undef ], '... until the list is emptied');
	is(await_end($ddl), undef, '... and the statement gets its lock');
}

configure(exempt_databases => 'template1, other');
spared('a database', 'database', 'pg_lockguard.exempt_databases names its database',
	conflict('app', dbname => 'other'));
configure(exempt_databases => '');

configure(exempt_applications => 'nothing, pg_dump*');
my $by_application = 'pg_lockguard.exempt_applications matches its application_name';
spared('an application', 'application', $by_application, conflict('app', name => 'pg_dumpall'));
configure(exempt_applications => '');

# ---- pg_lockguard.protected

my $protected = 'pg_lockguard.protected is on for it';
spared('ALTER ROLE ... SET', 'protected', $protected, conflict('guarded'));
spared('ALTER DATABASE ... SET', 'protected', $protected, do {
	$node->safe_psql('postgres', 'ALTER DATABASE other SET pg_lockguard.protected = on');
	conflict('app', dbname => 'other');
});
spared('set by a function of a superuser', 'protected', $protected, do {
	$node->safe_psql('postgres', q{
		CREATE FUNCTION protect() RETURNS void SECURITY DEFINER LANGUAGE plpgsql AS
		$$ BEGIN PERFORM set_config('pg_lockguard.protected', 'on', false); END $$});
	conflict('app', before => ['SELECT protect()']);
});
{
	# SET LOCAL ends with its transaction, and RESET goes back to what the role has.
	$node->safe_psql('postgres', q{
		CREATE FUNCTION protect_transaction() RETURNS void SECURITY DEFINER LANGUAGE plpgsql AS
		$$ BEGIN PERFORM set_config('pg_lockguard.protected', 'on', true); END $$;
		CREATE FUNCTION expose() RETURNS void SECURITY DEFINER LANGUAGE plpgsql AS
		$$ BEGIN PERFORM set_config('pg_lockguard.protected', 'off', false); END $$});
	my ($holder, $ddl) =
	  conflict('app', before => [ 'BEGIN', 'SELECT protect_transaction()', 'COMMIT' ]);
	is_deeply(verdict($holder), [ 'blocker_terminated', undef ], 'protected in its transaction only');
	await_end($ddl);
	($holder, $ddl) = conflict('guarded', before => ['SELECT expose()']);
	is_deeply(verdict($holder), [ 'blocker_terminated', undef ], 'protection can be switched off');
	await_end($ddl);

	# The next session in the same slot is not mistaken for the protected one.
	my ($first, $second);
	for my $try (1 .. 3)
	{
		$first = session($node, 'first', user => 'guarded');
		forget_sessions($first);
		($holder, $ddl) = conflict('app');
		is_deeply(verdict($holder), [ 'blocker_terminated', undef ], 'no protection is inherited');
		await_end($ddl);
		forget_sessions($holder, $ddl);
	}
}
{
	# For the whole server, also for sessions that have been idle since before.
	configure(blocker_action => 'off');
	my ($holder, $ddl) = conflict('app');
	my ($exposed, $exposed_ddl) = conflict('app', before => ['SELECT expose()']);
	settle($node, $ddl, $exposed_ddl);
	configure(blocker_action => 'terminate', protected => 'on');
	is_deeply(verdict($holder), [ 'blocker_spared', $protected ], 'postgresql.conf protects everybody');
	$latest = 0;
	is_deeply(verdict($exposed), [ 'blocker_terminated', undef ], '... but those who have said no');
	$latest = $observer->value('SELECT max(id) FROM pg_lockguard_events');
	await_end($exposed_ddl);
	configure(protected => 'off');
	is_deeply(verdict($holder), [ 'blocker_terminated', undef ], '... until it is switched off');
	await_end($ddl);
}
for my $role (qw(app guarded))
{
	my $session = session($node, "own $role" =~ tr/ /_/r, user => $role);
	ok(!eval { $session->do("SET pg_lockguard.protected = on"); 1 }, "$role can't protect itself");
	like($@, qr/permission denied to set parameter "pg_lockguard.protected"/, '... and is told so');
	forget_sessions($session);
}

# ---- Prepared transactions

{
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
	wait_for_look();
	is($observer->value('SELECT count(*) FROM pg_lockguard_events WHERE blocker_pid = 0'), 1, '... once');
	$node->safe_psql('postgres', q{COMMIT PREPARED 'stuck'});
	is(await_end($ddl), undef, 'the statement gets its lock then');
	$latest = $observer->value('SELECT max(id) FROM pg_lockguard_events');
}

# ---- Stalled clients

sub stalled
{
	my $table = 't' . ++$tables;
	$node->safe_psql('postgres', "CREATE TABLE $table (id int); GRANT ALL ON $table TO PUBLIC");
	my $holder = session($node, "copy$tables", user => 'app');
	$holder->do('BEGIN');
	$holder->do("COPY $table FROM STDIN");
	$holder->{dbh}->pg_putcopydata("1\n");
	await($node, 'the client stalls', q{SELECT wait_event = 'ClientRead' AND state = 'active'
		FROM pg_stat_activity WHERE pid = ?}, $holder->pid);
	my $ddl = session($node, "ddl$tables");
	$ddl->send("ALTER TABLE $table ADD COLUMN n int");
	return ($holder, $ddl);
}
{
	my ($holder, $ddl) = stalled();
	is_deeply(
		verdict($holder),
		[
			'blocker_spared',
			'it waits for its client in the middle of a statement, and pg_lockguard.blocker_stalled_clients is off'
		],
		'a stalled COPY is only logged');
	$holder->{dbh}->pg_putcopydata("2\n");
	$holder->{dbh}->pg_putcopyend;
	$holder->do('COMMIT');
	is(await_end($ddl), undef, 'it comes to its end');

	configure(blocker_stalled_clients => 'on');
	($holder, $ddl) = stalled();
	is_deeply(verdict($holder), [ 'blocker_terminated', undef ], 'where that is wanted, it is ended');
	is(await_end($ddl), undef, 'and the statement gets its lock');
	like(slurp_file($node->logfile),
		qr/LOG:  pg_lockguard: terminated PID @{[$holder->pid]} .*: waiting for its client in a statement for /,
		'... and the log says why');

	# Data that arrives starts the time anew: never stalled for so long.
	configure(blocker_min_idle => '1h');
	($holder, $ddl) = stalled();
	settle($node, $ddl);
	configure(blocker_min_idle => '2s');
	my $progress = sub {
		return $observer->value('SELECT bytes_processed FROM pg_stat_progress_copy WHERE pid = ?',
			$holder->pid);
	};
	for (1 .. 25)
	{
		my $before = $progress->();
		# Enough that libpq sends some of it at once.
		$holder->{dbh}->pg_putcopydata("1\n" x 8192);
		await($node, 'some of it arrives', 'SELECT bytes_processed > ? FROM pg_stat_progress_copy WHERE pid = ?',
			$before, $holder->pid);
		usleep(100_000);
	}
	cmp_ok($observer->value('SELECT extract(epoch FROM clock_timestamp() - state_change) FROM pg_stat_activity WHERE pid = ?', $holder->pid),
		'>', 2, 'a slow COPY takes longer than the limit');
	$holder->{dbh}->pg_putcopyend;
	$holder->do('COMMIT');
	is(await_end($ddl), undef, '... and is left alone');
	configure(blocker_stalled_clients => 'off', blocker_min_idle => 0);
	$latest = $observer->value('SELECT max(id) FROM pg_lockguard_events');
}

# ---- When it looks

{
	# The reload makes it look once; it knows then when the session will be due.
	configure(blocker_action => 'off', blocker_min_idle => '700ms', worker_interval => '1h');
	my ($holder, $ddl) = conflict('app');
	settle($node, $ddl);
	configure(blocker_action => 'terminate');
	is_deeply(verdict($holder), [ 'blocker_terminated', undef ],
		'it looks when somebody is due, not an hour later');
	is(await_end($ddl), undef, '... and the statement gets its lock');
	configure(blocker_min_idle => 0, worker_interval => '20ms');
}

# ---- Fuses

sub fuses
{
	return @{ $observer->{dbh}->selectcol_arrayref(
			"SELECT reason FROM pg_lockguard_events WHERE kind = 'fuse_blown' AND id > $latest ORDER BY id") };
}
{
	# Two holders of one relation: the second one is not ended for the same request within min_wait.
	configure(blocker_action => 'off', blocker_min_wait => '1s');
	my ($holder, $ddl) = conflict('app');
	my $second = session($node, 'second', user => 'app');
	# Ahead of the ALTER TABLE in no queue: it holds the lock before.
	$observer->value('SELECT pg_cancel_backend(?)', $ddl->pid);
	await_end($ddl);
	my $table = "t$tables";
	$second->do("BEGIN; SELECT FROM $table");
	$ddl->send("ALTER TABLE $table ADD COLUMN n int");
	configure(blocker_action => 'terminate');
	is(await_end($ddl), undef, 'two holders: the statement gets its lock');
	my @times = @{ $observer->{dbh}->selectcol_arrayref(
			"SELECT extract(epoch FROM at) FROM pg_lockguard_events WHERE kind = 'blocker_terminated' AND id > $latest ORDER BY id") };
	is(scalar @times, 2, '... when both are ended');
	cmp_ok($times[1] - $times[0], '>=', 1, '... not within blocker_min_wait');
	is_deeply(
		[ fuses() ],
		[ 'another session was ended for the same request less than pg_lockguard.blocker_min_wait (1000 ms) ago' ],
		'... which is said once');
	$latest = $observer->value('SELECT max(id) FROM pg_lockguard_events');

	# Two a minute. The limit counts those above as well: they are younger than a minute.
	my $blown = counter('fuses_blown');
	configure(blocker_min_wait => 0, max_terminations_per_minute => 2);
	my @pairs = map { [ conflict('app') ] } 1 .. 3;
	settle($node, map { $_->[1] } @pairs);
	await($node, 'the fuse is blown', "SELECT EXISTS (SELECT FROM pg_lockguard_events WHERE kind = 'fuse_blown' AND id > $latest)");
	is_deeply([ fuses() ], ['pg_lockguard.max_terminations_per_minute (2) has been reached'],
		'the fuse holds, and says so once for three');
	is(counter('fuses_blown'), $blown + 1, '... and is counted');
	# A rehearsal has fuses of its own.
	$latest = $observer->value('SELECT max(id) FROM pg_lockguard_events');
	configure(blocker_action => 'log');
	is_deeply(verdict($pairs[0][0]), [ 'blocker_logged', undef ], '... in a rehearsal it does not hold');
	configure(blocker_action => 'terminate', max_terminations_per_minute => 1000);
	is(await_end($_->[1]), undef, 'with a larger limit they are ended') for @pairs;
}

# ---- Settings

my ($ret, $out, $err);
for my $case (
	[ q{exempt_roles = 'a,,b'}, qr/DETAIL:  The list has a fault in its syntax\..*HINT:  Separate names by commas/s ],
	[ q{exempt_databases = '"a'}, qr/DETAIL:  The list has a fault in its syntax/ ],
	[ q{exempt_applications = 'a,'}, qr/DETAIL:  A pattern is empty\..*HINT:  Separate patterns by commas/s ],
	[ q{exempt_applications = '"a'}, qr/DETAIL:  A quoted pattern does not end/ ],
	[ q{max_terminations_per_minute = 1001}, qr/outside the valid range/ ],
	[ q{log_events = 'some'}, qr/HINT:  Available values: none, actions, all/ ],
	[ q{events_max = 1}, qr/outside the valid range/ ])
{
	my ($setting, $error) = @$case;
	isnt($node->psql('postgres', "ALTER SYSTEM SET pg_lockguard.$setting", stderr => \$err),
		0, "$setting is refused");
	like($err, $error, '... with a reason');
}
is_deeply(
	$observer->{dbh}->selectall_arrayref(q{SELECT name, context FROM pg_settings
		WHERE name ~ '^pg_lockguard\.(exempt|protected|max|log|events|blocker_stalled)' ORDER BY name}),
	[
		[ 'pg_lockguard.blocker_stalled_clients', 'sighup' ],
		[ 'pg_lockguard.events_max', 'postmaster' ],
		[ 'pg_lockguard.exempt_applications', 'sighup' ],
		[ 'pg_lockguard.exempt_databases', 'sighup' ],
		[ 'pg_lockguard.exempt_roles', 'sighup' ],
		[ 'pg_lockguard.log_events', 'sighup' ],
		[ 'pg_lockguard.max_terminations_per_minute', 'sighup' ],
		[ 'pg_lockguard.protected', 'superuser' ],
	],
	'who may set what');

forget_sessions();
unlike(slurp_file($node->logfile), qr/PANIC|TRAP:|terminated by signal|exited with exit code/,
	'no crash, and the worker has been the same all the time');
$node->stop;
done_testing();
