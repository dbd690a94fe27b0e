# The DDL guard at low priority takes a lock beforehand for whom PostgreSQL would let have it, and for
# nobody else: what a role may not do fails at once and does not touch the relation; what it may do
# waits at low priority, and has not been tried while it waits.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LockGuard;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node(
	'rights',
	"shared_preload_libraries = 'pg_lockguard'",
	"deadlock_timeout = '1s'",
	"pg_lockguard.ddl_commands = 'ALTER TABLE, CLUSTER, LOCK TABLE, REFRESH MATERIALIZED VIEW, REINDEX'");
$node->safe_psql(
	'postgres', q{
	CREATE ROLE stranger LOGIN;
	GRANT CREATE ON SCHEMA public TO stranger;
	CREATE TABLE users (id int PRIMARY KEY, code int UNIQUE);
	CREATE MATERIALIZED VIEW seen AS SELECT id FROM users;
	CREATE TABLE own (id int PRIMARY KEY, user_id int);
	ALTER TABLE own OWNER TO stranger});
my $version = $node->safe_psql('postgres', 'SHOW server_version_num');

my $holder = session($node, 'holder');
my $stranger = session($node, 'stranger', user => 'stranger');

# The statement of a role that may do that: it waits for who is in the way, and has not been tried
# meanwhile. LOCK TABLE runs in a transaction.
sub may
{
	my ($statement, $in_the_way) = @_;
	$holder->do('BEGIN');
	$holder->do($in_the_way);
	$stranger->do('BEGIN');
	$stranger->send($statement);
	await($node, "$statement: it waits at low priority",
		q{SELECT EXISTS (SELECT FROM pg_lockguard_progress WHERE pid = ? AND phase = 'waiting')}, $stranger->pid);
	is(LockGuard::observer($node)->value('SELECT longest_stall FROM pg_lockguard_progress WHERE pid = ?', $stranger->pid),
		'00:00:00', "$statement: it has not been tried while it waits");
	$holder->do('COMMIT');
	is($stranger->error, undef, "$statement: done");
	$stranger->do('ROLLBACK');
	return;
}

# The statement of a role that may not: it fails, whoever is in the way.
sub may_not
{
	my ($statement, $in_the_way) = @_;
	$holder->do('BEGIN');
	$holder->do($in_the_way);
	$stranger->do('BEGIN');
	like($stranger->send($statement)->error, qr/permission denied|must be owner/, "$statement: refused at once");
	$stranger->do('ROLLBACK');
	$holder->do('COMMIT');
	return;
}

my $read = 'SELECT FROM users';
my $write = 'LOCK TABLE users IN ROW EXCLUSIVE MODE';

subtest 'without any right' => sub {
	may_not($_, $read) for 'REINDEX INDEX users_pkey', 'CLUSTER users USING users_pkey', 'LOCK TABLE users';
	may_not('REINDEX TABLE users', $write);
	may_not('REFRESH MATERIALIZED VIEW seen', 'SELECT FROM seen');
	may_not('LOCK TABLE users IN ACCESS SHARE MODE', 'LOCK TABLE users');
};

subtest 'MAINTAIN' => sub {
	plan skip_all => 'from 17 on' if $version < 170000;
	$node->safe_psql('postgres', 'GRANT MAINTAIN ON users, seen TO stranger');
	may($_, $read) for 'REINDEX INDEX users_pkey', 'CLUSTER users USING users_pkey', 'LOCK TABLE users';
	may('REINDEX TABLE users', $write);
	may('REFRESH MATERIALIZED VIEW seen', 'SELECT FROM seen');
	may_not('ALTER TABLE users ADD COLUMN a int', $read);
	$node->safe_psql('postgres', 'REVOKE MAINTAIN ON users, seen FROM stranger');
};

subtest 'LOCK TABLE' => sub {
	$node->safe_psql('postgres', 'GRANT INSERT ON users TO stranger');
	may('LOCK TABLE users IN ROW EXCLUSIVE MODE', 'LOCK TABLE users IN SHARE MODE');
	may_not('LOCK TABLE users IN SHARE MODE', $write);
	my $test = $version < 160000 ? \&may_not : \&may;
	$test->('LOCK TABLE users IN ROW SHARE MODE', 'LOCK TABLE users IN EXCLUSIVE MODE');
	$node->safe_psql('postgres', 'REVOKE INSERT ON users FROM stranger; GRANT UPDATE ON users TO stranger');
	may('LOCK TABLE users', $read);
	$node->safe_psql('postgres', 'REVOKE UPDATE ON users FROM stranger');
};

subtest 'a foreign key needs REFERENCES, on the columns at least' => sub {
	my @keys = (
		'ALTER TABLE own ADD FOREIGN KEY (user_id) REFERENCES users',
		'ALTER TABLE own ADD COLUMN code int REFERENCES users (code)');
	# PostgreSQL looks at that with the lock held; who has no right queues for it, and no more.
	may_not($_, $read) for @keys;
	$node->safe_psql('postgres', 'GRANT REFERENCES (id) ON users TO stranger');
	may($keys[0], $write);
	may_not($keys[1], $read);
	$node->safe_psql('postgres', 'GRANT REFERENCES (code) ON users TO stranger');
	may($keys[1], $write);
	$node->safe_psql('postgres', 'REVOKE REFERENCES (id, code) ON users FROM stranger; GRANT REFERENCES ON users TO stranger');
	may($_, $write) for @keys;
};

ends_well($node);
done_testing();
