# One client of the storm: its connection, the transaction that it is in, and the journal of what was
# committed, acknowledged or found out afterwards.
package Storm::Client;

use strict;
use warnings;

use DBI;
use DBD::Pg qw(:async);
use IO::Select;
use POSIX ();
use Time::HiRes qw(usleep time);

# new(NUMBER, DSN)
sub new
{
	my ($class, $number, $dsn) = @_;
	my $self = bless {
		number => $number, name => "c$number", dsn => $dsn, marks => 0, ids => 0, names => 0,
		journal => {}, pending => [], touched => {}, errors => {}, faults => [], done => 0, prepared => {} }, $class;
	$self->connect;
	return $self;
}

# What can be asked of it, and what ends a try.
sub journal { return $_[0]{journal} }
sub in_transaction { return $_[0]{block} }

sub connect
{
	my $self = shift;
	my $began = time;
	until ($self->{dbh} = eval {
			DBI->connect("$self->{dsn};application_name=$self->{name}", 'storm', '', {
				RaiseError => 1, PrintError => 0, PrintWarn => 0, AutoCommit => 1, AutoInactiveDestroy => 1,
				pg_server_prepare => 0 }) })
	{
		die "$self->{name} cannot connect: $DBI::errstr" if time - $began > 60;
		usleep(100_000);
	}
	$self->{pid} = $self->{dbh}{pg_pid};
	$self->{block} = 0;
	$self->{pending} = [];
	$self->{touched} = {};
	$self->{in_doubt} = undef;
	$self->{statements} = {};
	return;
}

# prepared(NAME, STATEMENT): there is such a prepared statement, of one bigint.
sub prepared
{
	my ($self, $name, $statement) = @_;
	return if $self->{statements}{$name};
	$self->sql("PREPARE $name (bigint) AS $statement");
	$self->{statements}{$name} = 1;
	return;
}

# An object of its own that nothing in this transaction has touched, or nothing.
sub pick
{
	my ($self, $kind) = @_;
	my @free = grep { !$self->{touched}{"$kind $_"} } sort keys %{ $self->{journal}{$kind} };
	return @free ? $free[ rand @free ] : undef;
}

sub touch
{
	my ($self, $kind, $name) = @_;
	$self->{touched}{"$kind $name"} = 1;
	return;
}

sub new_name { my $self = shift; return sprintf '%s_%d', $self->{name}, ++$self->{names} }
sub new_id { my $self = shift; return $self->{number} * 1_000_000 + ++$self->{ids} }

# The change of the journal that comes with the commit.
sub later
{
	my ($self, $change) = @_;
	push @{ $self->{pending} }, $change;
	return;
}

# sql(STATEMENT): runs it. Dies of its error, which is counted by SQLSTATE.
sub sql
{
	my ($self, $statement) = @_;
	$self->{last} = $statement;
	push @{ $self->{lately} }, $statement;
	shift @{ $self->{lately} } if @{ $self->{lately} } > 30;
	if (rand() < 0.004)
	{
		return $self->vanish($statement);
	}
	return $self->{dbh}->do($statement);
}

# For what opens a subtransaction of PostgreSQL's own: of the end of those it tells with debug5 in a place where it then
# looks for interrupts, and trips over what it finds.
sub tell_less { return $_[0]->sql('SET client_min_messages = notice') }

sub value
{
	my ($self, $query) = @_;
	$self->{last} = $query;
	my ($value) = $self->{dbh}->selectrow_array($query);
	return $value;
}

# Sends a statement, and is gone before it has ended.
sub vanish
{
	my ($self, $statement) = @_;
	$self->{dbh}->do($statement, { pg_async => PG_ASYNC });
	usleep(rand 50_000);
	my $socket = $self->{dbh}{pg_socket};
	$self->{dbh}{AutoInactiveDestroy} = 0;
	$self->{dbh}{InactiveDestroy} = 1;
	open(my $null, '<', '/dev/null') or die;
	POSIX::dup2(fileno $null, $socket);
	$self->{lost} = 1;
	die "vanished\n";
}

# ddl(STATEMENT): with a mark that the event trigger notes; where it runs on its own, and the connection is
# lost, that says what has become of it.
sub ddl
{
	my ($self, $statement) = @_;
	my $mark = $self->mark;
	$self->later(sub { $self->{journal}{mark}{$mark}++ });
	$self->{in_doubt} = "SELECT EXISTS (SELECT FROM ddl_log WHERE marker = '$mark')" unless $self->{block};
	$self->sql("$statement /* $mark */");
	return;
}

sub mark { my $self = shift; return "$self->{name}:" . ++$self->{marks} }

sub begin
{
	my ($self, $level) = @_;
	$self->sql('BEGIN' . ($level ? " ISOLATION LEVEL $level" : ''));
	$self->{block} = 1;
	return;
}

sub commit
{
	my $self = shift;
	my $xid = $self->value('SELECT pg_current_xact_id_if_assigned()');
	$self->{in_doubt} = defined $xid ? "SELECT pg_xact_status('$xid') = 'committed'" : 'SELECT true';
	my $rows = $self->sql('COMMIT');
	$self->committed;
	return;
}

sub committed
{
	my $self = shift;
	$_->() for @{ $self->{pending} };
	$self->forget;
	return;
}

sub forget
{
	my $self = shift;
	$self->{pending} = [];
	$self->{touched} = {};
	$self->{block} = 0;
	$self->{in_doubt} = undef;
	return;
}

# prepare(): ends the transaction as a prepared one, whose changes wait for finish_prepared().
sub prepare
{
	my $self = shift;
	my $gid = $self->new_name;
	my ($pending, $touched) = ($self->{pending}, $self->{touched});
	my $outcome = sub { $self->{prepared}{$gid} = $pending };
	$self->{in_doubt} = "SELECT EXISTS (SELECT FROM pg_prepared_xacts WHERE gid = '$gid')";
	$self->{pending} = [$outcome];
	$self->sql("PREPARE TRANSACTION '$gid'");
	$self->committed;
	return;
}

sub finish_prepared
{
	my $self = shift;
	my ($gid) = sort keys %{ $self->{prepared} };
	my $commit = rand() < 0.7;
	my $pending = $self->{prepared}{$gid};
	$self->later(sub { delete $self->{prepared}{$gid}; if ($commit) { $_->() for @$pending } });
	$self->{in_doubt} = "SELECT NOT EXISTS (SELECT FROM pg_prepared_xacts WHERE gid = '$gid')";
	$self->sql(($commit ? 'COMMIT' : 'ROLLBACK') . " PREPARED '$gid'");
	$self->committed;
	return;
}

# After an error: the transaction is rolled back, or the connection made anew and what was in doubt found out.
# Whoever has prepared something must finish it before it uses what it has touched.
sub recover
{
	my ($self, $error) = @_;
	my $lost = delete $self->{lost} || !$self->{dbh}->ping;
	return 'none' if !$lost && $error eq "nothing to change\n";
	my $state = $lost ? 'lost' : ($self->{dbh}->state // '');
	if ($lost)
	{
		$self->{errors}{lost}++;
		my ($doubt, $pending, $pid) = @$self{qw(in_doubt pending pid)};
		eval { $self->{dbh}->disconnect };
		$self->connect;
		$self->resolve($doubt, $pending, $pid) if $doubt;
		return 'lost';
	}
	return $state;
}

sub resolve
{
	my ($self, $doubt, $pending, $pid) = @_;
	for (my $i = 0; $i < 600; $i++)
	{
		my ($happened) = eval { $self->value("SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $pid)") };
		$self->connect unless $self->{dbh}->ping;
		if ($happened)
		{
			my $done;
			for (my $try = 0; $try < 100; $try++)
			{
				last if eval { $done = $self->value($doubt); 1 };
				$self->connect unless $self->{dbh}->ping;
			}
			if ($done) { $_->() for @$pending }
			return;
		}
		usleep(100_000);
	}
	push @{ $self->{faults} }, "session $pid, whose connection was closed or ended, is still there after 60 s";
	return;
}

1;
