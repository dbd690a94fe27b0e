# All text that lock_tree() and the record give is valid in the encoding of the reader's database,
# whatever encoding it was written in, also where it never was text.
#
# LOCKGUARD_BOUNDARY names the module built from test/boundary (scripts/test builds it): it has a
# background worker whose type is any bytes.
use strict;
use warnings;

use File::Basename;
use FindBin;
use lib "$FindBin::Bin/lib";
use LockGuard;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $module = $ENV{LOCKGUARD_BOUNDARY}
  or die "set LOCKGUARD_BOUNDARY to test/boundary/lockguard_boundary.so\n";

my $node = start_node(
	'text',
	q{shared_preload_libraries = 'pg_lockguard'},
	q{dynamic_library_path = '$libdir:} . dirname($module) . q{'},
	q{pg_lockguard.ddl_mode = lock_timeout},
	q{pg_lockguard.ddl_lock_timeout = '50ms'},
	q{pg_lockguard.worker_interval = 20ms},
	q{pg_lockguard.blocker_min_idle = 0},
	q{pg_lockguard.blocker_min_wait = 0},
	q{pg_lockguard.exempt_applications = ''});
$node->safe_psql('postgres', q{
	CREATE DATABASE utf8 ENCODING 'UTF8' LOCALE 'C.UTF-8' TEMPLATE template0;
	CREATE DATABASE latin1 ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0;
	CREATE DATABASE eucjp ENCODING 'EUC_JP' LOCALE 'C' TEMPLATE template0;
	CREATE DATABASE ascii ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0;
});
for my $database (qw(utf8 latin1 eucjp ascii))
{
	$node->safe_psql($database, 'CREATE EXTENSION pg_lockguard; CREATE TABLE t (id int)');
}

# Without a conversion for the client: what is not valid would not come through one.
my %viewer = map {
	my $viewer = session($node, "from_$_", dbname => $_);
	$viewer->do('SET client_encoding = SQL_ASCII');
	$_ => $viewer
} qw(utf8 latin1 eucjp ascii);
my $utf8 = $viewer{utf8};

# The bytes of a value that a reader in the database utf8 gets.
sub in_utf8
{
	my $value = $utf8->value(@_);
	utf8::encode($value) if utf8::is_utf8($value);
	return $value;
}

# All rows, with all columns, are valid text for whoever reads them in one of these databases.
sub valid_everywhere
{
	my ($view) = @_;
	for my $database (qw(utf8 latin1 eucjp))
	{
		my $rows = eval {
			$viewer{$database}->value("SELECT count(convert_to((v.*)::text, getdatabaseencoding())) FROM $view v") };
		is($@, '', "$view is valid text in $database");
		ok($rows, "... all of its $rows rows") if defined $rows;
	}
	return;
}

# A session of the database latin1, whose statements are UTF-8 here.
sub latin1_session
{
	my ($name, %option) = @_;
	my $session = session($node, $name, dbname => 'latin1', %option);
	$session->do('SET client_encoding = UTF8');
	return $session;
}

subtest "queries of another encoding's database" => sub {
	my ($holder, $waiter) = map { latin1_session($_) } qw(holder waiter);
	$holder->do('BEGIN; LOCK TABLE t /* café */');
	settle($node, $waiter->send('SELECT FROM t /* déjà vu */'));
	valid_everywhere('lock_tree()');
	is_deeply(
		[ $utf8->rows('SELECT upper(query) AS query, upper(application_name) AS name,
			upper(tree) ~ $$\d+$$ AS tree FROM lock_tree()') ],
		[
			{ query => 'BEGIN; LOCK TABLE T /* CAF? */', name => 'HOLDER', tree => 1 },
			{ query => 'SELECT FROM T /* D?J? VU */', name => 'WAITER', tree => 1 }
		],
		'what is no character is replaced, the rest stays');
	is($viewer{latin1}->value(q{SELECT encode(convert_to(query, 'LATIN1'), 'escape') FROM lock_tree()}),
		'BEGIN; LOCK TABLE t /* caf\351 */', 'its own database sees it as it was sent');
	is($viewer{ascii}->value(q{SELECT encode(convert_to(query, 'SQL_ASCII'), 'escape') FROM lock_tree()}),
		'BEGIN; LOCK TABLE t /* caf\351 */', 'a database without an encoding takes all bytes');
	forget_sessions($waiter, $holder);
};

subtest "names of another encoding's database" => sub {
	my $creator = latin1_session('creator');
	$creator->do($_) for 'CREATE ROLE "réda" LOGIN SUPERUSER', 'CREATE DATABASE "naïve"';
	# The name is bytes to whoever logs in.
	my $reda = latin1_session('reda', user => "r\xe9da");
	my $waiter = latin1_session('waiter');
	$creator->do('BEGIN; LOCK TABLE t');
	$creator->do(q{PREPARE TRANSACTION 'l''été'});
	settle($node, $waiter->send('SELECT FROM t'));
	valid_everywhere('lock_tree()');
	is($utf8->value('SELECT gid FROM lock_tree() WHERE pid = 0'), q{l'?t?}, 'a prepared transaction');
	$reda->do(q{BEGIN; COMMENT ON DATABASE "naïve" IS 'x'});
	my $rename = latin1_session('rename');
	settle($node, $rename->send('ALTER DATABASE "naïve" RENAME TO other'));
	valid_everywhere('lock_tree()');
	is($utf8->value(q{SELECT lock_object FROM lock_tree() WHERE application_name = 'rename'}),
		'database "na?ve"', 'a database');
	is($utf8->value(q{SELECT upper(usename::text) FROM lock_tree() WHERE application_name = 'reda'}),
		'R?DA', 'a role');
	$reda->do('ROLLBACK');
	is(await_end($rename), undef, 'and on it goes');
	$creator->do(q{ROLLBACK PREPARED 'l''été'});
	forget_sessions($rename, $waiter, $reda, $creator);
};

subtest 'the type of a background worker' => sub {
	$utf8->do(q{CREATE FUNCTION boundary_start_worker(type bytea, lock int8) RETURNS int
		AS 'lockguard_boundary' LANGUAGE c STRICT});
	my $holder = session($node, 'holder', dbname => 'utf8');
	$holder->do('SELECT pg_advisory_lock(4711)');
	# Some that are no text, and "ä".
	my $type = 'ff6d61c3696e74656ec3a4f09f';
	my $pid = $utf8->value("SELECT boundary_start_worker('\\x$type', 4711)");
	await($node, 'the worker waits', 'SELECT EXISTS (SELECT FROM pg_locks WHERE pid = ? AND NOT granted)', $pid);
	valid_everywhere('lock_tree()');
	is(in_utf8('SELECT backend_type FROM lock_tree() WHERE pid = ?', $pid), "?ma?intenä??",
		'bytes are replaced, characters stay');
	$utf8->value('SELECT pg_terminate_backend(?)', $pid);
	await($node, 'the worker ends', 'SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = ?)', $pid);
	forget_sessions($holder);
};

subtest "the record, where another encoding's database wrote it" => sub {
	my $holder = latin1_session('holder');
	my $ddl = latin1_session('ddl');
	$holder->do('BEGIN; SELECT FROM t /* café */');
	like($ddl->send('ALTER TABLE t ADD COLUMN n int')->error, qr/canceling statement due to lock timeout/,
		'a guarded statement times out');
	valid_everywhere('pg_lockguard_events');
	is($utf8->value('SELECT upper(blocker_query) FROM pg_lockguard_events'),
		'BEGIN; SELECT FROM T /* CAF? */', 'a guarded statement: the query');
	$holder->do('ROLLBACK; BEGIN; LOCK TABLE t IN ACCESS SHARE MODE');
	$holder->do(q{PREPARE TRANSACTION 'l''été'});
	like($ddl->send('ALTER TABLE t ADD COLUMN n int')->error, qr/canceling statement due to lock timeout/,
		'another times out');
	valid_everywhere('pg_lockguard_events');
	like($utf8->value('SELECT lock_tree FROM pg_lockguard_events ORDER BY id DESC LIMIT 1'),
		qr/^0 prepared "l'\?t\?"\n/, 'a guarded statement: the tree');
	$holder->do(q{ROLLBACK PREPARED 'l''été'});

	$ddl->do('SET pg_lockguard.ddl_mode = off');
	configure($node, blocker_action => 'terminate');
	my $app = latin1_session('app');
	$app->do('CREATE ROLE app LOGIN; GRANT SELECT ON t TO app');
	forget_sessions($app);
	$app = latin1_session('app', user => 'app');
	$app->do('BEGIN; SELECT FROM t /* déjà vu */');
	is($ddl->send('ALTER TABLE t ADD COLUMN n int')->error, undef, 'the worker ends who is in the way');
	await($node, 'the event', q{SELECT EXISTS (SELECT FROM pg_lockguard_events WHERE kind = 'blocker_terminated')});
	valid_everywhere('pg_lockguard_events');
	is($utf8->value(q{SELECT upper(blocker_query) FROM pg_lockguard_events WHERE kind = 'blocker_terminated'}),
		'BEGIN; SELECT FROM T /* D?J? VU */', "the worker's event");
	forget_sessions($app, $ddl, $holder);
	configure($node, blocker_action => 'off');
};

subtest 'a query that the record cuts' => sub {
	my ($holder, $ddl) = map { session($node, $_, dbname => 'utf8') } qw(holder ddl);
	for my $begin ('BEGIN; SELECT FROM t -- ', 'BEGIN; SELECT FROM t --  ')
	{
		$holder->do($begin . "\xfc" x 400);
		like($ddl->send('ALTER TABLE t ADD COLUMN n int')->error, qr/canceling statement due to lock timeout/,
			'a guarded statement times out');
		$holder->do('ROLLBACK');
		my $query = in_utf8('SELECT blocker_query FROM pg_lockguard_events ORDER BY id DESC LIMIT 1');
		is($query, $begin . 'ü' x int((511 - length($begin)) / 2), 'cut between two characters');
	}
	valid_everywhere('pg_lockguard_events');
	forget_sessions($ddl, $holder);
};

ends_well($node);
done_testing();
