# A connection that can send a statement and go on without waiting for its end.
package LockGuard::Session;

use strict;
use warnings;

use Carp;
use DBI;
use DBD::Pg qw(:async);
use IO::Select;
use PostgreSQL::Test::Utils;
use Time::HiRes qw(usleep);

# new(NODE, NAME, OPTION => VALUE...): NAME is its application_name. Options: dbname, user, host
# (default: the node's socket), replication, options (as in a connection string).
sub new
{
	my ($class, $node, $name, %option) = @_;
	my $dsn = join(';',
		'dbi:Pg:host=' . ($option{host} // $node->host), 'port=' . $node->port,
		'dbname=' . ($option{dbname} // 'postgres'), "application_name=$name",
		map { $option{$_} ? "$_=$option{$_}" : () } qw(replication options));
	my $dbh = DBI->connect($dsn, $option{user} // '', '', {
		RaiseError => 1, PrintError => 0, PrintWarn => 0, AutoCommit => 1, AutoInactiveDestroy => 1,
		pg_server_prepare => 0 });
	return bless { node => $node, dbh => $dbh, name => $name, pid => $dbh->{pg_pid} }, $class;
}

sub node { return $_[0]{node} }
sub pid { return $_[0]{pid} }
sub name { return $_[0]{name} }

# Has the server sent something that nobody has read? (Where nothing was sent to it, that is the end.)
sub has_input
{
	my $self = shift;
	return IO::Select->new($self->{dbh}{pg_socket})->can_read(0);
}

# Of the last statement.
sub sqlstate { return $_[0]{dbh}->state }

# Runs a statement to its end. Dies of an error.
sub do
{
	my ($self, $statement) = @_;
	$self->{dbh}->do($statement);
	return;
}

# Sets statement_timeout, in ms. What it was so far may strike meanwhile: the statement that changes it is under it.
sub set_statement_timeout
{
	my ($self, $timeout) = @_;
	until (eval { $self->do("SET statement_timeout = $timeout"); 1 })
	{
		die $@ if $@ !~ /canceling statement due to statement timeout/;
	}
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
	my $error = 'ERROR:  ' . $self->{dbh}->pg_error_field('message_primary');
	for my $field (qw(detail hint context))
	{
		my $text = $self->{dbh}->pg_error_field($field);
		$error .= "\n" . uc($field) . ":  $text" if defined $text;
	}
	return $error;
}

1;
