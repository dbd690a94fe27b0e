# The DDL guard at low priority and relations that only one session, or one transaction, can see:
# nobody else can be in the way there. Whatever else the statement names is guarded all the same.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LockGuard;
use LockGuard::LowPriority qw(await_giving_back);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node(
	'private',
	"shared_preload_libraries = 'pg_lockguard'",
	"deadlock_timeout = '1s'",
	"pg_lockguard.ddl_commands = 'ALTER TABLE, DROP TABLE, TRUNCATE TABLE, LOCK TABLE, CREATE INDEX'");
$node->safe_psql(
	'postgres', q{
	CREATE TABLE users (id int PRIMARY KEY);
	INSERT INTO users VALUES (1);
	CREATE TABLE tree (id int)});

my $ddl = session($node, 'ddl');
my $holder = session($node, 'holder');
my $witness = session($node, 'witness');
$witness->do("SET statement_timeout = '20s'");

# Sends the statement while the session in the way does what it does: the statement waits for that
# relation at low priority, a reader is not held up, and then it does its work.
sub waits_politely
{
	my ($statement, $in_the_way, $relation, $by) = @_;
	$by //= $holder;
	$by->do('BEGIN');
	$by->do($in_the_way);
	$ddl->send($statement);
	# What it reads is known only once it has been met.
	await_giving_back($ddl, 'users', $witness) if $statement =~ /^LOCK TABLE (looking|fresh)$/;
	await($node, "$statement: it waits at low priority",
		q{SELECT EXISTS (SELECT FROM pg_lockguard_progress WHERE pid = ? AND phase = 'waiting' AND relation ~ ?)},
		$ddl->pid, "\\y$relation\$");
	is($witness->value('SELECT count(*) FROM users'), 1, "$statement: a reader does not wait behind it");
	$by->do('COMMIT');
	is($ddl->error, undef, "$statement: done");
	return;
}

# Did the statement that made this column run by itself, without a subtransaction around it?
sub ran_plainly
{
	my ($table, $column) = @_;
	return $ddl->value(
		'SELECT xmin = pg_current_xact_id()::xid FROM pg_attribute WHERE attrelid = ?::regclass AND attname = ?',
		$table, $column);
}

subtest 'a temporary table in the list leaves the other table guarded' => sub {
	$ddl->do('CREATE TEMPORARY TABLE scratch (id int)');
	my $read = 'SELECT FROM users';
	for my $list ('scratch, users', 'users, scratch')
	{
		$ddl->do('BEGIN');
		waits_politely("TRUNCATE $list", $read, 'users');
		$ddl->do('ROLLBACK');
		$ddl->do('BEGIN');
		waits_politely("DROP TABLE $list", $read, 'users');
		$ddl->do('ROLLBACK');
		$ddl->do('BEGIN');
		waits_politely("LOCK TABLE $list", $read, 'users');
		$ddl->do('ROLLBACK');
	}
	$ddl->do('BEGIN');
	waits_politely('DROP TABLE IF EXISTS missing, scratch, users', $read, 'users');
	$ddl->do('ROLLBACK');
	waits_politely('ALTER TABLE scratch INHERIT tree', 'LOCK TABLE tree IN SHARE UPDATE EXCLUSIVE MODE', 'tree');
	$ddl->do('BEGIN');
	waits_politely('ALTER TABLE tree ADD COLUMN a int', 'SELECT FROM tree', 'tree');
	$ddl->do('ROLLBACK');
	$ddl->do('DROP TABLE scratch');
};

subtest 'a view of this session alone, and what it reads' => sub {
	$ddl->do('CREATE TEMPORARY VIEW looking AS SELECT id FROM users');
	$ddl->do('BEGIN');
	waits_politely('LOCK TABLE looking', 'SELECT FROM users', 'users');
	$ddl->do('ROLLBACK');
	$ddl->do('DROP VIEW looking');
};

subtest "another session's temporary table is no private one" => sub {
	my $stranger = session($node, 'stranger');
	$stranger->do('CREATE TEMPORARY TABLE theirs (id int)');
	my $theirs = $stranger->value(
		q{SELECT relnamespace::regnamespace || '.theirs' FROM pg_class WHERE oid = 'theirs'::regclass});
	waits_politely("DROP TABLE $theirs", 'SELECT FROM pg_temp.theirs', 'theirs', $stranger);
	forget_sessions($stranger);
};

subtest 'what is private alone is run plainly' => sub {
	$ddl->do('BEGIN');
	$ddl->do('CREATE TEMPORARY TABLE scratch (id int)');
	$ddl->do('COMMIT');
	$ddl->do('BEGIN');
	$ddl->do('ALTER TABLE scratch ADD COLUMN a int');
	ok(ran_plainly('scratch', 'a'), 'a temporary table');
	$ddl->do('CREATE TABLE fresh (id int)');
	$ddl->do('ALTER TABLE fresh ADD COLUMN a int');
	ok(ran_plainly('fresh', 'a'), 'a table that this transaction has made');
	$ddl->do('SAVEPOINT s');
	$ddl->do('ALTER TABLE fresh ADD COLUMN b int');
	$ddl->do('CREATE TABLE fresher (id int)');
	$ddl->do('ALTER TABLE fresher ADD COLUMN a int');
	$ddl->do('RELEASE s');
	$ddl->do('ALTER TABLE fresher ADD COLUMN b int');
	ok(ran_plainly('fresher', 'b'), 'also in a subtransaction that has ended');
	$ddl->do('ALTER TABLE fresh ALTER COLUMN id TYPE bigint, ADD COLUMN c int');
	$ddl->do('ALTER TABLE fresh ADD COLUMN d int');
	ok(ran_plainly('fresh', 'd'), 'and after it was rewritten');
	$ddl->do('TRUNCATE fresh, fresher, scratch');
	$ddl->do('DROP TABLE fresh, scratch');
	$ddl->do('COMMIT');

	$ddl->do('BEGIN');
	$ddl->do('ALTER TABLE fresher ADD COLUMN c int');
	ok(!ran_plainly('fresher', 'c'), 'in the next transaction it is a table like any other');
	# Giving up what the transaction holds already would give nothing back to those who wait.
	$ddl->do('ALTER TABLE fresher ADD COLUMN d int');
	ok(ran_plainly('fresher', 'd'), 'until the transaction has it locked');
	$ddl->do('ROLLBACK');
	$ddl->do('DROP TABLE fresher');
};

subtest 'a new table and the old ones that it has to do with' => sub {
	my $write = 'LOCK TABLE users IN ROW EXCLUSIVE MODE';
	$ddl->do('BEGIN; CREATE TABLE fresh (id int)');
	waits_politely('TRUNCATE fresh, users', 'SELECT FROM users', 'users');
	$ddl->do('ROLLBACK');
	$ddl->do('BEGIN; CREATE TABLE fresh (id int)');
	waits_politely('ALTER TABLE fresh ADD FOREIGN KEY (id) REFERENCES users', $write, 'users');
	$ddl->do('ROLLBACK');
	$ddl->do('BEGIN; CREATE TABLE fresh (id int)');
	waits_politely('ALTER TABLE fresh ADD COLUMN user_id int REFERENCES users', $write, 'users');
	# Whoever reads the other table is in the way of who drops the key.
	waits_politely('ALTER TABLE fresh DROP CONSTRAINT fresh_user_id_fkey', 'SELECT FROM users', 'users');
	$ddl->do('ROLLBACK');
	$ddl->do('BEGIN; CREATE TABLE fresh (id int REFERENCES users)');
	waits_politely('DROP TABLE fresh', 'SELECT FROM users', 'users');
	$ddl->do('ROLLBACK');
	$ddl->do('BEGIN; CREATE VIEW fresh AS SELECT id FROM users');
	waits_politely('LOCK TABLE fresh', 'SELECT FROM users', 'users');
	$ddl->do('ROLLBACK');
	$ddl->do('BEGIN; CREATE TABLE fresh (id int)');
	waits_politely('ALTER TABLE fresh INHERIT tree', 'LOCK TABLE tree IN SHARE UPDATE EXCLUSIVE MODE', 'tree');
	$ddl->do('ROLLBACK');
};

ends_well($node);
done_testing();
