# Objects that lie in wait, by their names, for the install script, for the functions and for guarded statements: in a
# schema that comes first in the search_path, before pg_catalog, and in the schema where the extension is to be.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LockGuard;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node(
	'path', q{shared_preload_libraries = 'pg_lockguard'}, q{pg_lockguard.ddl_commands = all}, q{pg_lockguard.ddl_heavy = warn},
	q{pg_lockguard.ddl_heavy_min_size = 0}, q{pg_lockguard.track_statements = 16});
$node->safe_psql('postgres', 'CREATE DATABASE attacked');

# The extension's functions and views, by name and arguments.
my @functions = split /\n/, $node->safe_psql('postgres', q{SELECT proname || '(' || pg_get_function_identity_arguments(p.oid) || ')'
	FROM pg_proc p JOIN pg_depend ON objid = p.oid AND classid = 'pg_proc'::regclass AND deptype = 'e'
	WHERE refobjid = (SELECT oid FROM pg_extension WHERE extname = 'pg_lockguard')});
my @views = split /\n/, $node->safe_psql('postgres', q{SELECT relname FROM pg_class c JOIN pg_depend ON objid = c.oid
		AND classid = 'pg_class'::regclass AND deptype = 'e' AND relkind = 'v'
	WHERE refobjid = (SELECT oid FROM pg_extension WHERE extname = 'pg_lockguard')});
cmp_ok(scalar @functions, '>', 10, 'functions');
cmp_ok(scalar @views, '>', 5, 'views');

# Whatever is called there raises an error.
my $traps = join '', map {
	# Parameters by type alone, of input.
	my ($name, $arguments) = /^(\w+)\((.*)\)$/;
	my @types = map { s/^\s*(?:IN )?(?:\w+ )?(\w+(?: \w+)*?)\s*$/$1/r } grep { !/^\s*OUT / } split /,/, $arguments;
	"CREATE FUNCTION evil.$name(" . join(', ', map { "pg_catalog.$_" =~ s/pg_catalog\.(integer|bigint|boolean)$/$1/r } @types)
	  . ") RETURNS pg_catalog.int4 LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''trapped''; END';\n"
} @functions;
$traps .= join '', map { "CREATE VIEW evil.$_ AS SELECT 1/(pg_catalog.random() * 0)::int4 AS trapped;\n" } @views;
for my $type (qw(int4 text name oid))
{
	$traps .= "CREATE FUNCTION evil.trap(pg_catalog.$type, pg_catalog.$type) RETURNS bool LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''trapped''; END';\n"
	  . join '', map { "CREATE OPERATOR evil.$_ (FUNCTION = evil.trap, LEFTARG = pg_catalog.$type, RIGHTARG = pg_catalog.$type);\n" } '=', '<', '>', '<>';
}
$traps .= join '', map { "CREATE DOMAIN evil.$_ AS pg_catalog.varchar CHECK (VALUE IS NULL);\n" } qw(int4 int8 text bool timestamptz "interval" name oid);
$traps .= join '', map { "CREATE VIEW evil.$_ AS SELECT 1/(pg_catalog.random() * 0)::pg_catalog.int4 AS trapped;\n" }
  qw(pg_class pg_database pg_authid pg_roles pg_locks pg_stat_activity pg_prepared_xacts pg_namespace);

$node->safe_psql('attacked', "CREATE SCHEMA evil; CREATE SCHEMA ops;\n$traps");

subtest 'the traps work' => sub {
	my ($status, $out, $error) = $node->psql('attacked', 'SET search_path = evil, pg_catalog; SELECT 1 = 1');
	like($error, qr/trapped/, 'an operator');
	($status, $out, $error) = $node->psql('attacked', 'SET search_path = evil, pg_catalog; SELECT lock_tree()');
	like($error, qr/trapped/, 'a function');
};

subtest 'the install script' => sub {
	my ($status, $out, $error) = $node->psql('attacked', 'SET search_path = evil, pg_catalog; CREATE EXTENSION pg_lockguard SCHEMA ops');
	is($error, '', 'it runs');
	is($node->safe_psql('attacked', q{SELECT count(*) FROM pg_depend JOIN pg_proc p ON refclassid = 'pg_proc'::regclass AND refobjid = p.oid
		WHERE pronamespace = 'evil'::regnamespace AND classid <> 'pg_operator'::regclass}), 0, 'nothing of it uses what lay in wait');
	is($node->safe_psql('attacked', q{SELECT count(*) FROM pg_depend JOIN pg_type t ON refclassid = 'pg_type'::regclass AND refobjid = t.oid
		WHERE typnamespace = 'evil'::regnamespace AND (classid = 'pg_proc'::regclass OR classid = 'pg_class'::regclass AND deptype = 'n')}), 0, 'nor its types');
	for my $view (@views)
	{
		like($node->safe_psql('attacked', "SELECT pg_get_viewdef('ops.$view'::regclass)"), qr/FROM ops\./, "$view reads its own function");
	}
};

subtest 'the functions, and guarded statements' => sub {
	$node->safe_psql('attacked', 'CREATE TABLE ops.users (id pg_catalog.int4 PRIMARY KEY); INSERT INTO ops.users VALUES (1)');
	my ($holder, $ddl, $reader) = map { session($node, $_, dbname => 'attacked') } qw(holder ddl reader);
	$_->do('SET search_path = evil, pg_catalog') for $ddl, $reader;
	$holder->do('BEGIN; SELECT FROM ops.users');
	$ddl->send('ALTER TABLE ops.users ADD extra pg_catalog.int4');
	await($node, 'it waits', q{SELECT EXISTS (SELECT FROM pg_lockguard_progress WHERE pid = ?)}, $ddl->pid);
	for my $read ((map { "SELECT * FROM ops.$_" } @views), 'SELECT * FROM ops.lock_tree()', q{SELECT ops.lock_graph('dot'::pg_catalog.text)},
		q{SELECT * FROM ops.ddl_preview('ALTER TABLE ops.users ADD more pg_catalog.int4 DEFAULT pg_catalog.random()'::pg_catalog.text)})
	{
		ok(eval { $reader->rows($read); 1 }, $read) or diag($@);
	}
	$holder->do('COMMIT');
	is($ddl->error, undef, 'it is done');
	$ddl->do('ALTER TABLE ops.users ALTER id TYPE pg_catalog.int8');
	$ddl->do('CREATE INDEX ON ops.users (extra)');
	$ddl->do('DROP TABLE ops.users');
	forget_sessions($holder, $ddl, $reader);
};

subtest 'in the schema itself' => sub {
	$node->safe_psql('attacked', 'DROP EXTENSION pg_lockguard');
	for my $trap ('CREATE FUNCTION trap.lock_tree() RETURNS int LANGUAGE sql RETURN 1', 'CREATE VIEW trap.pg_lockguard_now AS SELECT 1 AS n')
	{
		$node->safe_psql('attacked', "CREATE SCHEMA trap; $trap");
		my ($status, $out, $error) = $node->psql('attacked', 'CREATE EXTENSION pg_lockguard SCHEMA trap');
		like($error, qr/already exists|is not a member of extension/, 'what is there is not taken over: the extension is not created');
		$node->safe_psql('attacked', 'DROP SCHEMA trap CASCADE');
	}
};

ends_well($node);
done_testing();
