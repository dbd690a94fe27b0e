# Whoever looks at locks waits for none: neither lock_tree() nor the worker, while somebody holds the
# catalogs that they look up roles, prepared transactions and names in.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use LockGuard;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node(
	'patient',
	q{shared_preload_libraries = 'pg_lockguard'},
	q{pg_lockguard.ddl_mode = off},
	q{pg_lockguard.worker_interval = 20ms},
	q{pg_lockguard.blocker_min_idle = 0},
	q{pg_lockguard.blocker_min_wait = 0},
	q{pg_lockguard.exempt_applications = ''});
$node->safe_psql('postgres', q{
	CREATE ROLE app LOGIN;
	CREATE ROLE deploy LOGIN SUPERUSER;
	CREATE ROLE team;
	CREATE TABLE users (id int);
	GRANT ALL ON users TO PUBLIC;
});
my $observer = LockGuard::observer($node);

# A session that gives up after 5 s in a lock's queue, and has once looked at a tree: the server has
# parsed its statement.
sub viewer
{
	my ($name, %option) = @_;
	my $viewer = session($node, $name, %option);
	$viewer->do(q{SET lock_timeout = '5s';
		PREPARE look AS SELECT gid, usename, query, lock_object FROM lock_tree() ORDER BY depth});
	return $viewer;
}

sub look
{
	my ($viewer) = @_;
	my @rows = eval { $viewer->rows('EXECUTE look') };
	is($@, '', $viewer->name . ' looks without waiting');
	return @rows;
}

subtest 'names and roles, while the catalogs that they come from are locked' => sub {
	$observer->do('CREATE ROLE viewer LOGIN IN ROLE pg_monitor; CREATE ROLE plain LOGIN; CREATE TABLE t1 (id int)');
	my ($holder, $waiter, $catalogs) = map { session($node, $_) } qw(holder waiter catalogs);
	my @viewers = map { session($node, $_->[0], user => $_->[1]) }
	  [ 'superuser', $observer->value('SELECT current_user') ], [ 'pg_monitor', 'viewer' ], [ 'unprivileged', 'plain' ];
	for my $viewer (@viewers)
	{
		$viewer->do(q{SET lock_timeout = '5s';
			PREPARE look AS SELECT lock_object, datname, usename FROM lock_tree() WHERE depth = 1});
		$viewer->rows('EXECUTE look');
	}
	$holder->do('BEGIN; LOCK TABLE t1');
	settle($node, $waiter->send('SELECT FROM t1'));
	my ($oid, $database) = map { $observer->value("SELECT $_ FROM lock_tree() WHERE depth = 1") } qw(relation database);
	my $user = $observer->value('SELECT current_user');
	my $named = { lock_object => 'public.t1', datname => 'postgres', usename => $user };
	my $numbered = { %$named, lock_object => "relation $oid of database $database" };
	my $nameless = { lock_object => 'public.t1', datname => undef, usename => undef };
	for my $case (
		[ 'pg_class', $numbered ], [ 'pg_namespace', $numbered ], [ 'pg_authid', $nameless ],
		[ 'pg_database', $nameless ], [ 'pg_auth_members', $named ])
	{
		my ($catalog, $expected) = @$case;
		# Nobody knows any more what he knew about roles.
		$observer->do('GRANT pg_signal_backend TO viewer, plain') if $catalog eq 'pg_auth_members';
		$catalogs->do("BEGIN; LOCK TABLE $catalog");
		for my $viewer (@viewers)
		{
			my @rows = eval { $viewer->rows('EXECUTE look') };
			is($@, '', $viewer->name . " looks while $catalog is locked");
			is_deeply(\@rows, [$expected], $viewer->name . ": what is known while $catalog is locked");
		}
		$catalogs->do('ROLLBACK');
	}
	is_deeply([ $viewers[0]->rows('EXECUTE look') ], [$named], 'and again with names');
	forget_sessions();
};

subtest 'a prepared transaction, while pg_type is locked' => sub {
	my ($holder, $waiter, $catalogs) = map { session($node, $_) } qw(holder waiter catalogs);
	my $viewer = viewer('viewer');
	$holder->do('BEGIN; LOCK TABLE users');
	settle($node, $waiter->send('SELECT FROM users'));
	$viewer->rows('EXECUTE look');
	$holder->do(q{PREPARE TRANSACTION 'a'});
	$catalogs->do('BEGIN; LOCK TABLE pg_type');
	my @rows = look($viewer);
	is(scalar @rows, 2, 'the tree is there');
	is($rows[0]{gid}, undef, '... without the identifier');
	is($rows[1]{lock_object}, 'public.users', '... with the names of tables');
	$catalogs->do('ROLLBACK');
	is((look($viewer))[0]{gid}, 'a', 'and with it later');
	$observer->do(q{ROLLBACK PREPARED 'a'});
	is(await_end($waiter), undef, 'the waiter goes');
	forget_sessions();
};

subtest "roles, while pg_authid is locked and one of them has just been changed" => sub {
	my $holder = session($node, 'holder', user => 'app');
	my ($waiter, $catalogs) = map { session($node, $_) } qw(waiter catalogs);
	my @viewers = map { viewer("viewer_$_", user => $_) } qw(deploy app);
	$holder->do('BEGIN; SELECT FROM users');
	settle($node, $waiter->send('BEGIN; LOCK TABLE users'));
	$_->rows('EXECUTE look') for @viewers;
	$observer->do('ALTER ROLE app CONNECTION LIMIT 50; GRANT team TO app');
	for my $viewer (@viewers)
	{
		# The server itself reads a role that was changed, to see who may run the statement.
		$viewer->value('SELECT 1 FROM pg_class LIMIT 1');
	}
	$catalogs->do('BEGIN; LOCK TABLE pg_authid');
	for my $viewer (@viewers)
	{
		my @rows = look($viewer);
		is($rows[0]{usename}, undef, '... without the name of the role');
		is($rows[0]{query}, 'BEGIN; SELECT FROM users', '... with the query, to a superuser and its role');
		my $sees = $viewer->name =~ /deploy/ ? 'BEGIN; LOCK TABLE users' : '<insufficient privilege>';
		is($rows[1]{query}, $sees, "... and $sees for another's");
	}
	$catalogs->do('ROLLBACK');
	is((look($viewers[0]))[0]{usename}, 'app', 'and with the name later');
	forget_sessions();
};

# One that starts with the server finds no description of the indexes of shared catalogs, and reads
# those without. One that starts later reads them through their indexes, and would wait for these.
my $is_worker = q{FROM pg_stat_activity WHERE backend_type = 'pg_lockguard worker'};
my $worker = $observer->value("SELECT pid $is_worker");
$observer->value('SELECT pg_terminate_backend(?)', $worker);
await($node, 'the worker starts again', "SELECT EXISTS (SELECT $is_worker AND pid <> ?)", $worker);
$worker = $observer->value("SELECT pid $is_worker");

# The worker goes on looking, and waits for no lock. (The observer must not read roles itself.)
sub worker_goes_on
{
	my ($what) = @_;
	my $looks = $observer->value('SELECT looks FROM pg_stat_lockguard');
	await($node, "the worker looks $what", 'SELECT looks > ? + 10 FROM pg_stat_lockguard', $looks);
	is($observer->value('SELECT count(*) FROM pg_locks WHERE NOT granted AND pid = ?', $worker),
		0, "the worker waits for no lock $what");
	return;
}

subtest 'the worker, which looks up the roles of exempt_roles' => sub {
	$node->safe_psql('postgres', q{
		ALTER SYSTEM SET pg_lockguard.blocker_action = 'log';
		ALTER SYSTEM SET pg_lockguard.exempt_roles = 'team';
	});
	my $holder = session($node, 'holder', user => 'app');
	my ($waiter, $catalogs) = map { session($node, $_) } qw(waiter catalogs);
	$observer->value('SELECT looks FROM pg_stat_lockguard');
	for my $lock ('LOCK TABLE pg_authid', 'REINDEX INDEX pg_authid_rolname_index',
		'REINDEX INDEX pg_auth_members_member_role_index')
	{
		# The worker has not seen the role since it was changed.
		$observer->do('ALTER ROLE team CONNECTION LIMIT 50');
		$catalogs->do("BEGIN; $lock");
		$node->reload;
		$holder->do('BEGIN; SELECT FROM users');
		$waiter->send('ALTER TABLE users ADD COLUMN n int');
		await($node, 'the statement waits', q{SELECT EXISTS (SELECT FROM pg_locks
			WHERE pid = ? AND NOT granted AND relation = 'users'::regclass)}, $waiter->pid);
		worker_goes_on("after $lock");
		$catalogs->do('ROLLBACK');
		await($node, 'the worker judges', q{SELECT EXISTS (SELECT FROM pg_lockguard_events
			WHERE kind = 'blocker_spared' AND blocker_pid = ?
			AND id > (SELECT coalesce(max(id), 0) FROM pg_lockguard_events WHERE kind = 'blocker_resolved'))},
			$holder->pid);
		$holder->do('ROLLBACK');
		is(await_end($waiter), undef, 'and on it goes');
		$observer->do('ALTER TABLE users DROP COLUMN n');
	}
	forget_sessions();
};

ends_well($node);
done_testing();
