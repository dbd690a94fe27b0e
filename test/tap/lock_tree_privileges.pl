# Who may see what in lock_tree(): exactly what the same role sees in pg_stat_activity, column by
# column; the shape and the wait are visible to everybody, as in pg_locks.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use LockGuard;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node('privileges', q{listen_addresses = '127.0.0.1'});
my $observer = LockGuard::observer($node);
$observer->do(q{
	CREATE ROLE alice LOGIN;
	CREATE ROLE bob LOGIN;
	CREATE ROLE nobody_special LOGIN;
	CREATE ROLE member LOGIN IN ROLE alice;
	CREATE ROLE outsider LOGIN NOINHERIT IN ROLE alice;
	CREATE ROLE reader LOGIN IN ROLE pg_read_all_stats;
	CREATE ROLE monitor LOGIN IN ROLE pg_monitor;
	CREATE ROLE root LOGIN SUPERUSER;
	GRANT CREATE ON SCHEMA public TO alice, bob;
});

# A tree with sessions of several roles, one by TCP, one that has taken on another role, one whose
# name and query need care, and a prepared transaction.
my $alice = session($node, 'alice', user => 'alice', host => '127.0.0.1');
my $bob = session($node, 'bob', user => 'bob');
my $root = session($node, 'root', user => 'root', host => '127.0.0.1');
my $member = session($node, 'member', user => 'member');
my $nobody = session($node, 'nobody', user => 'nobody_special');
my $special = session($node, 'special', user => 'bob');
$special->do(q{SET application_name = 'naïve "app" \\ '});
$alice->do(q{CREATE TABLE a (id int); GRANT ALL ON a TO PUBLIC});
$alice->do(q{BEGIN; SELECT FROM a; SELECT 'the secret of alice'});
$member->do('SET ROLE alice; BEGIN; LOCK TABLE a IN ACCESS SHARE MODE');
$root->do('SET ROLE bob; BEGIN; SELECT FROM a; SAVEPOINT s');
eval { $root->do('SELECT 1 / 0') };
my $prepare = session($node, 'prepare', user => 'bob');
$prepare->do(q{BEGIN; SELECT FROM a; PREPARE TRANSACTION 'of bob'});
forget_sessions($prepare);
settle($node, $bob->send('BEGIN; LOCK TABLE a'));
settle($node, $bob, $special->send('SELECT FROM a /* ' . 'ü' x 600 . ' */'));
settle($node, $bob, $special, $nobody->send('SELECT FROM a'));
is(LockGuard::faults($node), '', 'true for the superuser');

my @shape = qw(tree pid depth root_pid path blocked_by held_by blocks lock_type lock_object lock_mode blocker_mode
	database relation datname usename gid deadlock);
my $shape = join ', ', @shape;
my $of_superuser = $observer->value("SELECT string_agg((t.*)::text, ' ') FROM (SELECT $shape FROM lock_tree()) t");
my @sessions = ($alice, $bob, $root, $member, $nobody, $special);

# The columns of lock_tree() and what they are to be.
my $compare = q{
	WITH t AS MATERIALIZED (SELECT * FROM lock_tree()), a AS MATERIALIZED (SELECT * FROM pg_stat_activity)
	SELECT a.application_name,
		(t.state, t.wait_event_type, t.wait_event, t.datname, t.usename, t.application_name, t.client_addr,
			t.backend_type, t.query)
		IS NOT DISTINCT FROM (a.state, a.wait_event_type, a.wait_event, a.datname, a.usename,
			a.application_name, a.client_addr, a.backend_type, a.query)
		AND (t.xact_age IS NULL) = (a.xact_start IS NULL) AND (t.state_age IS NULL) = (a.state_change IS NULL)
		AND (t.xact_age BETWEEN statement_timestamp() - a.xact_start - interval '1 ms'
			AND clock_timestamp() - a.xact_start) IS NOT FALSE
		AND (t.state_age BETWEEN statement_timestamp() - a.state_change - interval '1 ms'
			AND clock_timestamp() - a.state_change) IS NOT FALSE AS same,
		t.query <> '<insufficient privilege>' AS visible,
		num_nonnulls(t.state, t.xact_age, t.state_age, t.wait_event_type, t.wait_event, t.client_addr,
			t.backend_type) AS details,
		t.wait_age IS NOT NULL AS waits
	FROM t JOIN a USING (pid) ORDER BY pid = ANY (?::int[]) DESC, array_position(?::int[], pid)};
my @pids = map { $_->pid } @sessions;

for my $case (
	# role => whose details it sees
	[ root => [qw(alice bob root member nobody special)] ],
	[ reader => [qw(alice bob root member nobody special)] ],
	[ monitor => [qw(alice bob root member nobody special)] ],
	[ alice => ['alice'] ],
	[ bob => [qw(bob special)] ],
	[ member => [qw(alice member)] ],
	[ outsider => [] ],
	[ nobody_special => ['nobody'] ])
{
	my ($role, $visible) = @$case;
	subtest "the role $role" => sub {
		my $viewer = session($node, 'viewer', user => $role);
		my @rows = $viewer->rows($compare, \@pids, \@pids);
		is(scalar @rows, 6, "$role: all sessions");
		my @seen;
		for my $i (0 .. $#sessions)
		{
			my $name = $sessions[$i]->name;
			ok($rows[$i]{same}, "$role sees of $name what pg_stat_activity shows");
			push @seen, $name if $rows[$i]{visible};
			my $waits = $name =~ /bob|special|nobody/ ? 1 : 0;
			is($rows[$i]{waits}, $waits, "$role sees of $name since when it waits");
			my $details = $rows[$i]{visible} ? 6 + ($name =~ /alice|root/) : 0;
			is($rows[$i]{details}, $details, "$role sees of $name $details of the details");
		}
		is_deeply(\@seen, $visible, "$role: whose query it sees");
		is($viewer->value("SELECT string_agg((t.*)::text, ' ') FROM (SELECT $shape FROM lock_tree()) t"),
			$of_superuser, "$role: the shape, as everybody");
		# A prepared transaction shows no more than pg_prepared_xacts does.
		my ($row) = $viewer->rows(q{SELECT t.gid, t.usename, t.datname, t.xact_age IS NOT NULL AS age, t.state, t.query,
				p.gid IS NOT NULL AS known
			FROM lock_tree() t LEFT JOIN pg_prepared_xacts p USING (gid) WHERE pid = 0});
		is_deeply($row, { gid => 'of bob', usename => 'bob', datname => 'postgres', age => 1, state => undef,
				query => undef, known => 1 }, "$role: the prepared transaction");
		forget_sessions($viewer);
	};
}

# The current role counts, as for pg_stat_activity: with SET ROLE and in a SECURITY DEFINER function.
subtest 'with SET ROLE, and in a SECURITY DEFINER function' => sub {
	my $viewer = session($node, 'viewer', user => 'root');
	my $count = q{SELECT count(*) FROM lock_tree() WHERE query <> '<insufficient privilege>'};
	is($viewer->value($count), 6, 'before SET ROLE');
	$viewer->do('SET ROLE nobody_special');
	is($viewer->value($count), 1, 'after SET ROLE');
	$viewer->do(qq{RESET ROLE;
		CREATE FUNCTION count_visible() RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER AS \$\$ BEGIN RETURN ($count); END \$\$;
		SET ROLE nobody_special});
	is($viewer->value('SELECT count_visible()'), 6, 'in a SECURITY DEFINER function');
	forget_sessions($viewer);
};

# A role that gets or loses a privilege.
subtest 'a role that gets or loses a privilege' => sub {
	my $viewer = session($node, 'viewer', user => 'nobody_special');
	my $count = q{SELECT count(*) FROM lock_tree() WHERE query <> '<insufficient privilege>'};
	is($viewer->value($count), 1, 'before GRANT');
	$observer->do('GRANT pg_read_all_stats TO nobody_special');
	is($viewer->value($count), 6, 'after GRANT');
	$observer->do('REVOKE pg_read_all_stats FROM nobody_special');
	is($viewer->value($count), 1, 'after REVOKE');
	forget_sessions($viewer);
};

# track_activities = off is a state of its own, not idle.
subtest 'track_activities = off' => sub {
	my $viewer = session($node, 'viewer', user => 'root');
	$root->do('ROLLBACK TO s; RESET ROLE; SET track_activities = off');
	$root->do('SELECT 1');
	my ($row) = $viewer->rows('SELECT t.state, a.state AS should, t.query = a.query AS same
		FROM lock_tree() t JOIN pg_stat_activity a USING (pid) WHERE pid = ?', $root->pid);
	is_deeply($row, { state => 'disabled', should => 'disabled', same => 1 }, 'track_activities = off');
};

$observer->do(q{ROLLBACK PREPARED 'of bob'});
ends_well($node);
done_testing();
