# Which locks a statement takes, with the guard and without, on a scene with relations of all kinds.
package LockGuard::Locks;

use strict;
use warnings;

use Exporter 'import';
use File::Basename;
use LockGuard;
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(guardable_commands reads writes vacuums start_scene locks_of same_locks);

# All that pg_lockguard.ddl_commands takes, as the value of that setting.
sub guardable_commands
{
	return join ', ',
	  'ALTER TABLE', 'ALTER INDEX', 'ALTER VIEW', 'ALTER MATERIALIZED VIEW', 'ALTER SEQUENCE',
	  'ALTER FOREIGN TABLE', 'DROP TABLE', 'DROP INDEX', 'DROP VIEW', 'DROP MATERIALIZED VIEW',
	  'DROP SEQUENCE', 'DROP FOREIGN TABLE', 'DROP TRIGGER', 'DROP RULE', 'TRUNCATE TABLE',
	  'CREATE INDEX', 'CREATE TRIGGER', 'CREATE RULE', 'REINDEX', 'CLUSTER',
	  'REFRESH MATERIALIZED VIEW', 'COMMENT', 'LOCK TABLE', 'CREATE TABLE', 'CREATE POLICY',
	  'ALTER POLICY', 'DROP POLICY', 'DROP SCHEMA';
}

# What a session in the way does with a relation of the schema f.
sub reads { return "SELECT FROM f.$_[0] LIMIT 1" }
sub writes { return "LOCK TABLE f.$_[0] IN ROW EXCLUSIVE MODE" }
sub vacuums { return "LOCK TABLE f.$_[0] IN SHARE UPDATE EXCLUSIVE MODE" }

# start_scene(NAME): a server that guards all commands, with the scene in its schema f; and two sessions
# whose search path leads there: one for the statements, one to be in their way.
sub start_scene
{
	my $name = shift;
	my $node = start_node(
		$name,
		q{shared_preload_libraries = 'pg_lockguard'},
		q{deadlock_timeout = '1s'},
		q{max_locks_per_transaction = 256},
		q{wal_level = replica},    # then an attempt at ACCESS EXCLUSIVE needs a transaction id
		q{allow_in_place_tablespaces = on},
		q{pg_lockguard.ddl_commands = '} . guardable_commands() . q{'});
	my $scene = dirname(__FILE__) . '/../exact_locks_scene';
	$node->safe_psql('postgres', slurp_file("$scene.sql"));
	$node->safe_psql('postgres', slurp_file("${scene}_18.sql")) if $node->pg_version >= 18;
	# A child that belongs to another session.
	session($node, 'stranger')->do('SET search_path = f; CREATE TEMPORARY TABLE not_ours () INHERITS (mixed)');
	my ($ddl, $holder) = map { session($node, $_) } qw(ddl holder);
	$_->do('SET search_path = f') for $ddl, $holder;
	$ddl->do('SET client_min_messages = error');
	return ($node, $ddl, $holder);
}

# The locks of the transaction that the session is in, one a line. What was made in it has another
# OID each time, and the number of the relation in its name. Relations of the system catalogs are
# left out: whether one is locked when the statement has ended depends on what is in the caches.
sub locks
{
	my $session = shift;
	return join '', map { "$_->{what} $_->{mode}\n" } $session->rows(q{
		SELECT coalesce(regexp_replace(c.oid::regclass::text, '\d{4,}', 'N', 'g'),
				regexp_replace((pg_identify_object(l.classid, l.objid, 0)).identity, '\d{4,}', 'N', 'g'),
				'gone') AS what, mode
			FROM (SELECT DISTINCT database, relation, classid, objid, mode FROM pg_locks
				WHERE pid = pg_backend_pid() AND locktype IN ('relation', 'object')) l
			LEFT JOIN pg_class c ON c.oid = l.relation
			WHERE l.classid IS NOT NULL OR c.oid IS NULL OR c.relnamespace <> 'pg_catalog'::regnamespace
			ORDER BY 1, 2});
}

# locks_of(SESSION, STATEMENT, MODE, [MEANWHILE]): runs the statement in a transaction, in that mode of the
# guard, calls MEANWHILE when it is sent, and returns its locks, or its error; and rolls back.
sub locks_of
{
	my ($ddl, $statement, $mode, $meanwhile) = @_;
	$ddl->do("SET pg_lockguard.ddl_mode = $mode");
	$ddl->do('BEGIN');
	$ddl->send($statement);
	$meanwhile->() if $meanwhile;
	my $error = $ddl->error;
	my $result = $error // locks($ddl);
	$ddl->do('ROLLBACK');
	return $result;
}

# same_locks(SESSION, STATEMENT, [OUTCOME], STATEMENT...): each of the statements takes the same locks at low
# priority as without the guard. A statement succeeds unless the next word is "fails". A form that
# one release refuses and another takes "may fail", with the same error both ways.
sub same_locks
{
	my ($ddl, @statements) = @_;
	while (@statements)
	{
		my $statement = shift @statements;
		my $outcome = @statements && $statements[0] =~ /^(may )?fails?$/ ? shift @statements : 'succeeds';
		my $plain = locks_of($ddl, $statement, 'off');
		is(locks_of($ddl, $statement, 'low_priority'), $plain, $statement);
		if ($outcome eq 'fails') { like($plain, qr/ERROR/, "$statement: fails") }
		elsif ($outcome eq 'succeeds') { unlike($plain, qr/ERROR/, "$statement: succeeds") }
	}
	return;
}

1;
