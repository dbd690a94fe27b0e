# What the tests of guarded statements share where ddl_mode is lock_timeout: a server, scripts for
# psql that go on after an error, what lock_timeout was inside a statement, and the DETAIL of its end.
package LockGuard::Guard;

use strict;
use warnings;

use Exporter 'import';
use LockGuard;
use PostgreSQL::Test::Utils;

our @EXPORT = qw(start_guarded_node run_script hold seen alter_around detail_of $probe $blocked $timed_out $waited);

# It calls probe(), which notes the lock_timeout that it sees.
our $probe = 'ALTER TABLE probed ALTER id TYPE int USING probe(id)';

# It can't have its lock while somebody reads the table.
our $blocked = 'ALTER TABLE users ADD COLUMN extra int';

# What psql prints of a lock timeout, and how a DETAIL begins.
our $timed_out = qr/ERROR:  55P03: canceling statement due to lock timeout\n/;
our $waited = qr/waited \S+ m?s/;

# start_guarded_node(NAME, [OPTIONS,] SETTING...): as start_node(), with a ddl_lock_timeout of 20 ms,
# and with tables and functions for these tests.
sub start_guarded_node
{
	my ($name, @settings) = @_;
	my @options = ref $settings[0] ? shift @settings : ();
	my $node = start_node(
		$name, @options,
		q{shared_preload_libraries = 'pg_lockguard'},
		q{pg_lockguard.ddl_mode = lock_timeout},
		q{pg_lockguard.ddl_lock_timeout = '20ms'}, @settings);
	$node->safe_psql(
		'postgres', q{
		CREATE ROLE weak LOGIN;
		GRANT CREATE ON SCHEMA public TO weak;
		CREATE TABLE users (id int PRIMARY KEY, name text);
		INSERT INTO users SELECT i, 'user ' || i FROM generate_series(1, 1000) i;
		CREATE TABLE orders (id int PRIMARY KEY, user_id int);
		CREATE TABLE other (id int);
		INSERT INTO other VALUES (1);
		CREATE TABLE probed (id int);
		INSERT INTO probed VALUES (1);
		CREATE TABLE seen (setting text);
		-- What lock_timeout is while ALTER TABLE runs.
		CREATE FUNCTION probe(int) RETURNS int VOLATILE LANGUAGE plpgsql AS $$
		BEGIN
			INSERT INTO seen VALUES (current_setting('lock_timeout'));
			RETURN $1;
		END $$;
		CREATE FUNCTION alter_inside(int, command text) RETURNS int VOLATILE LANGUAGE plpgsql AS $$
		BEGIN
			INSERT INTO seen VALUES (current_setting('lock_timeout'));
			EXECUTE command;
			INSERT INTO seen VALUES (current_setting('lock_timeout'));
			RETURN $1;
		END $$;
		CREATE FUNCTION caught_inside(int, command text) RETURNS int VOLATILE LANGUAGE plpgsql AS $$
		BEGIN
			EXECUTE command;
			RETURN $1;
		EXCEPTION WHEN lock_not_available THEN
			INSERT INTO seen VALUES ('caught ' || current_setting('lock_timeout'));
			RETURN $1;
		END $$});
	return $node;
}

# run_script(NODE, SCRIPT, OPTION...): runs a script in one session of psql, errors included. Returns
# what it prints and what it complains of. Options as of the node's psql().
sub run_script
{
	my ($node, $script, %options) = @_;
	my ($out, $err) = ('', '');
	$node->psql(
		'postgres', $script,
		stdout => \$out,
		stderr => \$err,
		on_error_stop => 0,
		extra_params => [ '-v', 'VERBOSITY=verbose' ],
		%options);
	return ($out, $err);
}

# hold(NODE, NAME, STATEMENTS): a session that has run the statements, one after the other, and stays
# where they leave it.
sub hold
{
	my ($node, $name, $statements) = @_;
	my $session = session($node, $name);
	$session->do($_) for split /;\s*/, $statements;
	return $session;
}

# seen(NODE): the settings that probe() and others have noted since the last call.
sub seen
{
	my $node = shift;
	return LockGuard::observer($node)->value(
		q{WITH gone AS (DELETE FROM seen RETURNING setting) SELECT string_agg(setting, ' ') FROM gone}) // '';
}

# alter_around(FUNCTION, COMMAND): an ALTER TABLE that calls a function that executes the command.
# Quotes in the command are doubled by the caller.
sub alter_around
{
	my ($function, $command) = @_;
	return "ALTER TABLE probed ALTER id TYPE int USING $function(id, '$command')";
}

# detail_of(NODE, SCRIPT, OPTION...): runs a script whose statement is to end by a lock timeout; returns
# what psql prints of its DETAIL and HINT.
sub detail_of
{
	my ($node, $script, %options) = @_;
	my ($out, $err) = run_script($node, $script, %options);
	return $err =~ /${timed_out}(DETAIL:  .*\nHINT:  .*\n)(?:CONTEXT:  (?:.*\n)+)?LOCATION:  ProcessInterrupts/
	  ? $1
	  : "unexpected: $err";
}

1;
