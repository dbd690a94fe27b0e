# A statement at low priority, and what changes while it waits: the relation, who may have it, who
# holds it.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LockGuard;
use LockGuard::LowPriority;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node(
	'meanwhile',
	"shared_preload_libraries = 'pg_lockguard'",
	"deadlock_timeout = '200ms'");

$node->safe_psql(
	'postgres', q{
	CREATE ROLE owner LOGIN;
	CREATE ROLE other LOGIN;
	GRANT ALL ON SCHEMA public TO owner, other;
	CREATE TABLE users (id int PRIMARY KEY, name text);
	INSERT INTO users SELECT i, 'user ' || i FROM generate_series(1, 100) i;
	CREATE TABLE orders (id int PRIMARY KEY);
	CREATE TABLE owned (id int);
	ALTER TABLE owned OWNER TO owner;
	GRANT SELECT ON owned TO PUBLIC;
});

my $reader = session($node, 'reader');
my $ddl = session($node, 'ddl');
my $witness = session($node, 'witness');
$witness->do("SET statement_timeout = '20s'");

subtest 'who may not have the lock does not get to wait for it' => sub {
	my $other = session($node, 'other', user => 'other');
	read_and_idle($reader, 'owned');
	for my $statement (
		'ALTER TABLE owned ADD COLUMN x int',
		'ALTER TABLE users ADD COLUMN x int, DROP COLUMN name',
		'ALTER TABLE owned RENAME TO mine',
		'ALTER TABLE owned SET SCHEMA pg_catalog')
	{
		$other->send($statement);
		like($other->error, qr/must be owner of table/, "$statement: PostgreSQL's own error, at once");
		is($other->sqlstate, '42501', "$statement: its SQLSTATE");
		is_clean($other, $statement);
	}
	$reader->do('COMMIT');
	forget_sessions($other);
};

subtest 'the relation is altered, dropped, replaced' => sub {
	for my $case (
		[   'renamed',
			'ALTER TABLE thing RENAME TO thing_2', qr/relation "thing" does not exist/,
			'DROP TABLE thing_2' ],
		[ 'dropped', 'DROP TABLE thing', qr/relation "thing" does not exist/, '' ],
		[   're-owned',
			'ALTER TABLE thing OWNER TO other', qr/must be owner of table thing/,
			'DROP TABLE thing' ],
		[   'made a view of',
			'DROP TABLE thing; CREATE VIEW thing AS SELECT 1 AS id; ALTER VIEW thing OWNER TO owner',
			qr/ALTER action ADD COLUMN cannot be performed on relation "thing"/, 'DROP VIEW thing' ])
	{
		my ($name, $change, $expected, $drop) = @$case;
		my $owner = session($node, 'owner', user => 'owner');
		$owner->do('CREATE TABLE thing (id int)');
		$reader->do('SET pg_lockguard.ddl_mode = off');
		read_and_idle($reader, 'thing');
		$owner->send('ALTER TABLE thing ADD COLUMN added int');
		await_low_priority($owner);
		$reader->do($_) for split /; /, $change;
		$reader->do('COMMIT');
		like($owner->error, $expected, "$name while it waits");
		is_clean($owner, "$name while it waits");
		$witness->do($drop) if $drop;
		forget_sessions($owner);
	}
};

subtest 'the relation is made anew' => sub {
	$witness->do('CREATE TABLE thing (id int)');
	read_and_idle($reader, 'thing');
	$ddl->send('ALTER TABLE thing ADD COLUMN added int');
	await_low_priority($ddl);
	$reader->do('ALTER TABLE thing RENAME TO former');
	$reader->do('CREATE TABLE thing (id int)');
	$reader->do('COMMIT');
	is($ddl->error, undef, 'recreated while it waits');
	is($witness->value("SELECT attrelid::regclass FROM pg_attribute WHERE attname = 'added'"),
		'thing', 'the name counts, as in PostgreSQL');
	$witness->do('DROP TABLE thing, former');
	$reader->do('RESET ALL');
};

subtest 'a lock that is given back early, and prepared transactions' => sub {
	$reader->do('BEGIN');
	$reader->do('SAVEPOINT s');
	$reader->do('SELECT count(*) FROM users');
	$ddl->send(add_column());
	await_low_priority($ddl);
	$reader->do('ROLLBACK TO s');
	is($ddl->error, undef, 'ROLLBACK TO SAVEPOINT releases the lock');
	$reader->do('COMMIT');

	$reader->do('BEGIN');
	$reader->do('INSERT INTO users (id) VALUES (1000)');
	$reader->do("PREPARE TRANSACTION 'forgotten'");
	$ddl->send(add_column());
	await_low_priority($ddl);
	is_deeply([ map { $_->{holders} } $witness->rows('SELECT holders FROM pg_lockguard_progress') ],
		[ [0] ], 'a prepared transaction is a holder without a pid');
	is( tree($node, qw(blocked_by gid blocker_mode)),
		"forgotten | - | forgotten | -\n└─ ddl | 0 | - | RowExclusiveLock\n",
		'and the root of the tree');
	$witness->do("COMMIT PREPARED 'forgotten'");
	is($ddl->error, undef, 'it goes when the prepared transaction has ended');

	$reader->do('BEGIN');
	$reader->do('INSERT INTO users (id) VALUES (1001)');
	$reader->do("PREPARE TRANSACTION 'left'");
	$ddl->do("SET pg_lockguard.ddl_max_wait = '100ms'; SET pg_lockguard.ddl_on_timeout = terminate");
	$ddl->send(add_column());
	like($ddl->error, qr/Blocked by prepared transaction "left"/, 'a prepared transaction can not be terminated');
	$witness->do("ROLLBACK PREPARED 'left'");
	$ddl->do('RESET ALL');
};

ends_well($node);
done_testing();
