# What the tests of lock trees share: a server, sessions that can wait for a lock without holding
# up the test, and a look at the tree in which sessions have names instead of pids.
package LockGuard;

use strict;
use warnings;

use Carp;
use DBI;
use DBD::Pg qw(:async);
use Exporter 'import';
use File::Basename;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

our @EXPORT = qw(start_node session forget_sessions settle await await_end tree faults);

# Servers have one observer each: a session that looks at the others and never waits for a lock.
my (%observer, %name_of, @sessions);

# start_node(NAME, SETTING...): a running server with the extension and the checks in its database
# postgres. Nothing preloaded; deadlocks stand; a crash is not mended by a restart.
sub start_node
{
	my ($name, @settings) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);
	$node->init;
	$node->append_conf('postgresql.conf', <<~CONF);
		restart_after_crash = off
		autovacuum = off
		deadlock_timeout = 1h
		max_connections = 100
		max_prepared_transactions = 20
		max_worker_processes = 16
		jit = off
		max_parallel_workers = 16
		CONF
	$node->append_conf('postgresql.conf', "$_\n") for @settings;
	$node->start;
	$node->safe_psql('postgres', 'CREATE EXTENSION pg_lockguard');
	$node->safe_psql('postgres', slurp_file(dirname(__FILE__) . '/lock_tree_checks.sql'));
	return $node;
}

# session(NODE, NAME, OPTION => VALUE...): a new connection whose application_name is NAME.
# Options: dbname, user, host (default: the node's socket).
sub session
{
	my ($node, $name, %option) = @_;
	my $session = LockGuard::Session->new($node, $name, %option);
	$name_of{ $session->pid } = $name;
	push @sessions, $session;
	return $session;
}

# Ends these sessions, or all, the youngest first, whatever they wait for.
sub forget_sessions
{
	my @ending = reverse(@_ ? @_ : @sessions);
	for my $session (@ending)
	{
		my $node = $session->{node};
		# One that has ended by itself would make the server warn.
		observer($node)->value('SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = ?', $session->pid);
		await($node, $session->name . ' ends',
			'SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = ?)', $session->pid);
		$session->{dbh}->disconnect;
		delete $name_of{ $session->pid };
		@sessions = grep { $_ != $session } @sessions;
	}
	return;
}

sub observer
{
	my $node = shift;
	return $observer{ $node->name } //= LockGuard::Session->new($node, 'observer');
}

# await(NODE, WHAT, QUERY, VALUE...): until the query, run by the observer, returns true.
sub await
{
	my ($node, $what, $query, @values) = @_;
	my $observer = observer($node)->{dbh};
	for (my $i = 0; $i < 100 * $PostgreSQL::Test::Utils::timeout_default; $i++)
	{
		my ($seen) = $observer->selectrow_array($query, undef, @values);
		return if $seen;
		usleep(10_000);
	}
	confess "$what: it did not come to that";
}

# settle(NODE, WAITER...): until these sessions wait for a lock or a safe snapshot, and all
# sessions stand still.
sub settle
{
	my ($node, @waiters) = @_;
	await(
		$node, join(' ', 'waiting:', map { $_->name } @waiters),
		q{WITH l AS MATERIALIZED (SELECT * FROM pg_locks WHERE NOT granted),
			a AS MATERIALIZED (SELECT * FROM pg_stat_activity WHERE pid <> pg_backend_pid())
		SELECT ?::int[] <@ ARRAY(SELECT coalesce(a.leader_pid, a.pid) FROM l JOIN a USING (pid)
				UNION SELECT a.pid FROM a WHERE wait_event = 'SafeSnapshot')
			AND NOT EXISTS (SELECT FROM l WHERE waitstart IS NULL)
			AND NOT EXISTS (SELECT FROM a WHERE wait_event IS NULL
				AND backend_type IN ('client backend', 'parallel worker'))},
		[ map { $_->pid } @waiters ]);
	return;
}

# await_end(SESSION...): until what was sent to them has ended. Returns the errors, in order;
# undef where there was none.
sub await_end
{
	my @errors = map { $_->error } @_;
	return wantarray ? @errors : $errors[0];
}

# tree(NODE, COLUMN...): the tree as text, one line a row: the drawing with names instead of pids,
# and the columns, where pids are names too.
sub tree
{
	my ($node, @columns) = @_;
	my $rows = observer($node)->{dbh}->selectall_arrayref('SELECT * FROM lock_tree()', { Slice => {} });
	my $text = '';
	for my $row (@$rows)
	{
		my $name = $row->{gid} // name_of($row->{pid});
		my $line = $row->{tree};
		utf8::decode($line) unless utf8::is_utf8($line);
		$line =~ s/\b$row->{pid}$/$name/;
		utf8::encode($line);
		$text .= join(' | ', $line, map { value_text($_, $row->{$_}) } @columns) . "\n";
	}
	return $text;
}

sub name_of
{
	my $pid = shift;
	return $pid == 0 ? '0' : $name_of{$pid} // "pid $pid";
}

sub value_text
{
	my ($column, $value) = @_;
	return '-' unless defined $value;
	return '-' if ref $value && !@$value;
	return join(',', sort map { name_of($_) } @$value) if $column =~ /^(blocked_by|held_by)$/;
	return join('>', map { name_of($_) } @$value) if $column eq 'path';
	return name_of($value) if $column eq 'root_pid';
	# What differs from run to run; faults() checks the numbers.
	$value =~ s/transaction \K[\d\/]+/N/ if $column eq 'lock_object';
	return $value;
}

# faults(NODE): what the checks say against the present picture, '' if nothing.
sub faults
{
	my $node = shift;
	return join("\n", @{ observer($node)->{dbh}->selectcol_arrayref('SELECT falsehoods()') });
}

package LockGuard::Session;

use strict;
use warnings;

use Carp;
use DBD::Pg qw(:async);
use Time::HiRes qw(usleep);

sub new
{
	my ($class, $node, $name, %option) = @_;
	my $dsn = join(';',
		'dbi:Pg:host=' . ($option{host} // $node->host), 'port=' . $node->port,
		'dbname=' . ($option{dbname} // 'postgres'), "application_name=$name");
	my $dbh = DBI->connect($dsn, $option{user} // '', '',
		{ RaiseError => 1, PrintError => 0, PrintWarn => 0, AutoCommit => 1, pg_server_prepare => 0 });
	my ($pid) = $dbh->selectrow_array('SELECT pg_backend_pid()');
	return bless { node => $node, dbh => $dbh, name => $name, pid => $pid }, $class;
}

sub pid { return $_[0]{pid} }
sub name { return $_[0]{name} }

# Runs a statement to its end. Dies of an error.
sub do
{
	my ($self, $statement) = @_;
	$self->{dbh}->do($statement);
	return;
}

# The first column of the first row.
sub value
{
	my ($self, $query, @values) = @_;
	my ($value) = $self->{dbh}->selectrow_array($query, undef, @values);
	return $value;
}

# All rows, as hashes.
sub rows
{
	my ($self, $query, @values) = @_;
	return @{ $self->{dbh}->selectall_arrayref($query, { Slice => {} }, @values) };
}

# Sends a statement and does not wait for it.
sub send
{
	my ($self, $statement) = @_;
	$self->{dbh}->do($statement, { pg_async => PG_ASYNC });
	$self->{sent} = 1;
	return $self;
}

# Has what was sent ended?
sub ready
{
	my $self = shift;
	return !$self->{sent} || $self->{dbh}->pg_ready;
}

# Waits for the end of what was sent. Returns its error, undef if there was none.
sub error
{
	my $self = shift;
	return unless $self->{sent};
	for (my $i = 0; !$self->ready; $i++)
	{
		confess "$self->{name}: its statement does not end"
		  if $i == 100 * $PostgreSQL::Test::Utils::timeout_default;
		usleep(10_000);
	}
	$self->{sent} = 0;
	eval { $self->{dbh}->pg_result; 1 } or return $@;
	# Later releases of DBD::Pg (3.21) raise no error for a statement that was cancelled.
	return undef if $self->{dbh}->state ne '57014';
	return 'ERROR:  ' . $self->{dbh}->pg_error_field('message_primary');
}

1;
