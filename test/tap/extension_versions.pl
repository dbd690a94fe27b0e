# Every version of the extension that can be installed updates to the newest, and then equals a fresh
# install. A library that is not of the SQL objects' version says so.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LockGuard;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node('upgrade', q{shared_preload_libraries = 'pg_lockguard'});
my $newest = $node->safe_psql('postgres',
	q{SELECT default_version FROM pg_available_extensions WHERE name = 'pg_lockguard'});
is($node->safe_psql('postgres', q{SELECT extversion FROM pg_extension WHERE extname = 'pg_lockguard'}),
	$newest, 'a fresh install is of the newest version');

# Everything that the extension owns, with everything that can differ but OIDs.
my $contents = q{
	SELECT kind || ' ' || name || ': ' || description FROM (
		SELECT 'function' AS kind, p.oid::regprocedure::text AS name,
			concat_ws(' | ', pg_get_function_arguments(p.oid), pg_get_function_result(p.oid), p.prosrc,
				p.probin, p.provolatile, p.proparallel, p.proisstrict, p.prosecdef, p.prorows, p.procost,
				p.proretset, p.proacl, obj_description(p.oid, 'pg_proc')) AS description
		FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid
			JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
		WHERE e.extname = 'pg_lockguard' AND d.deptype = 'e'
		UNION ALL
		SELECT 'relation', c.oid::regclass::text,
			concat_ws(' | ', c.relkind, pg_get_viewdef(c.oid), c.relacl, c.reloptions,
				obj_description(c.oid, 'pg_class'),
				(SELECT string_agg(concat_ws(' ', attname, format_type(atttypid, atttypmod), col_description(c.oid, attnum)), ', '
					ORDER BY attnum) FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0))
		FROM pg_class c JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid
			JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
		WHERE e.extname = 'pg_lockguard' AND d.deptype = 'e'
		UNION ALL
		SELECT 'members', e.extname, count(*)::text
		FROM pg_depend d JOIN pg_extension e
			ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
		WHERE e.extname = 'pg_lockguard' AND d.deptype = 'e' GROUP BY e.extname) x
	ORDER BY 1};
my $fresh = $node->safe_psql('postgres', $contents);
like($fresh, qr/^function $_\(\)/m, "$_() is part of it")
  for qw(lock_tree pg_lockguard_progress pg_lockguard_events pg_stat_lockguard pg_stat_lockguard_reset);

is($node->safe_psql('postgres', q{
	SELECT string_agg(pg_describe_object(classid, objid, objsubid), ', ' ORDER BY objid) FROM pg_depend d
	WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e' AND classid IN ('pg_proc'::regclass, 'pg_class'::regclass)
		AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'pg_lockguard')
		AND obj_description(objid, CASE classid WHEN 'pg_proc'::regclass THEN 'pg_proc' ELSE 'pg_class' END) IS NULL}),
	'', 'each function and view has a comment');
is($node->safe_psql('postgres', q{
	SELECT string_agg(attrelid::regclass || '.' || attname, ', ') FROM pg_attribute
		JOIN pg_depend d ON attrelid = d.objid AND d.classid = 'pg_class'::regclass AND deptype = 'e'
	WHERE refclassid = 'pg_extension'::regclass AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'pg_lockguard')
		AND attnum > 0 AND col_description(attrelid, attnum) IS NULL}),
	'', 'and so has each column of a view');

my @older = split /\n/, $node->safe_psql('postgres',
	"SELECT version FROM pg_available_extension_versions WHERE name = 'pg_lockguard' AND version <> '$newest' ORDER BY version");
cmp_ok(scalar @older, '>=', 1, 'there are older versions');
is($older[0], '0.1.0', '... from the first one on');

for my $version (@older)
{
	subtest "from $version" => sub {
		my $database = "from_$version" =~ tr/./_/r;
		$node->safe_psql('postgres', "CREATE DATABASE $database");
		$node->safe_psql($database, "CREATE EXTENSION pg_lockguard VERSION '$version'");
		isnt($node->safe_psql($database, $contents), '', "$version can be installed");
		is($node->safe_psql($database, 'SELECT count(*) FROM lock_tree()'), '0', "$version: lock_tree() works");
		$node->safe_psql($database, 'ALTER EXTENSION pg_lockguard UPDATE');
		is($node->safe_psql($database, q{SELECT extversion FROM pg_extension WHERE extname = 'pg_lockguard'}),
			$newest, "$version: updates to the newest");
		is($node->safe_psql($database, $contents), $fresh, "$version: equals a fresh install");
		is($node->safe_psql($database, 'SELECT count(*) FROM pg_stat_lockguard'), '1', "$version: and works");
		$node->safe_psql($database, 'DROP EXTENSION pg_lockguard');
		is( $node->safe_psql($database, q{SELECT count(*) FROM pg_proc WHERE probin LIKE '%pg_lockguard%'}),
			'0', "$version: and can be dropped");
	};
}

subtest 'another schema' => sub {
	# It can be moved, and works from another schema.
	$node->safe_psql('postgres', 'CREATE SCHEMA elsewhere; ALTER EXTENSION pg_lockguard SET SCHEMA elsewhere');
	is($node->safe_psql('postgres', 'SELECT count(*) FROM elsewhere.pg_stat_lockguard'), '1', 'relocatable');
};

sub refused
{
	my ($what, $declaration, $call, $error) = @_;
	my ($ret, $out, $err) = $node->psql('postgres', "\\set VERBOSITY verbose\n$declaration;\n$call");
	isnt($ret, 0, "$what: refused");
	like($err, $error, '... with a reason');
	return;
}

subtest 'objects of another version than the library' => sub {
	my $library = q{AS '$libdir/pg_lockguard'};
	for my $case ([ lock_tree => 'pg_lockguard_lock_tree' ], [ pg_lockguard_events => 'pg_lockguard_events' ],
		[ pg_lockguard_progress => 'pg_lockguard_progress' ],
		[ pg_stat_lockguard => 'pg_lockguard_statistics' ])
	{
		my ($name, $symbol) = @$case;
		my $hint = qr/HINT:  Run ALTER EXTENSION pg_lockguard UPDATE, or reconnect/;
		refused("$name() with fewer columns",
			"CREATE FUNCTION older_$name(OUT a int, OUT b text) RETURNS SETOF record LANGUAGE C $library, '$symbol'",
			"SELECT * FROM older_$name()",
			qr/ERROR:  55000: $name\(\) was declared by another version of pg_lockguard\nDETAIL:  The function has 2 columns, the library \d+\.\n$hint/);
		# As many columns, of other types: to take them for one's own would be a crash.
		my $columns = $node->safe_psql('postgres',
			"SELECT string_agg('OUT c' || i || ' text', ', ') FROM generate_series(1, (SELECT pronargs + cardinality(proallargtypes) FROM pg_proc WHERE proname = '$name')) i");
		refused("$name() with other types",
			"CREATE FUNCTION other_$name($columns) RETURNS SETOF record LANGUAGE C $library, '$symbol'",
			"SELECT * FROM other_$name()",
			qr/ERROR:  55000: $name\(\) was declared by another version of pg_lockguard\nDETAIL:  The function's columns have other types than the library's\.\n$hint/);
		refused("$name() that returns no rows of columns",
			"CREATE FUNCTION bare_$name() RETURNS SETOF text LANGUAGE C $library, '$symbol'",
			"SELECT * FROM bare_$name()", qr/ERROR:  .*return type must be a row type/);
	}
	refused('a function that only a newer library has',
		"SET check_function_bodies = off; CREATE FUNCTION newer() RETURNS void LANGUAGE C $library, 'pg_lockguard_newer'",
		'SELECT newer()', qr/ERROR:  42883: could not find function "pg_lockguard_newer" in file/);
};

ends_well($node);
done_testing();
