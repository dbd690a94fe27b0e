# What the tests of lock_tree() share: a server that does not preload the library, and pictures that
# are compared with what they should be and with what PostgreSQL says.
#
# tree() gives a picture with names instead of pids, as in the text of each test; faults() checks the
# same picture, column by column, against pg_locks, pg_stat_activity and pg_blocking_pids().
package LockGuard::Tree;

use strict;
use warnings;

use Exporter 'import';
use LockGuard;
use Test::More;

our @EXPORT = qw(start_tree_node sessions shows @wait @edges);

# Columns: what is waited for; and who blocks whom.
our @wait = qw(lock_type lock_object lock_mode blocker_mode);
our @edges = qw(blocked_by held_by blocks);

# start_tree_node(NAME, SETTING...): as start_node(), with some tables and the database other.
sub start_tree_node
{
	my ($name, @settings) = @_;
	my $node = start_node($name, @settings);
	$node->safe_psql('postgres', q{
		CREATE TABLE users (id int PRIMARY KEY, n int DEFAULT 0);
		INSERT INTO users SELECT generate_series(1, 50);
		CREATE TABLE t1 (id int);
		CREATE TABLE t2 (id int);
		CREATE TABLE t3 (id int);
		CREATE DATABASE other;
	});
	return $node;
}

# sessions(NODE, NAME...): new sessions with these names.
sub sessions
{
	my ($node, @names) = @_;
	return map { session($node, $_) } @names;
}

# shows(NODE, WHAT, COLUMNS, EXPECTED): the picture, and nothing to object to.
sub shows
{
	my ($node, $what, $columns, $expected) = @_;
	is(tree($node, @$columns), $expected, $what);
	is(LockGuard::faults($node), '', "$what: true");
	return;
}

1;
