# Children that are dropped while a guarded statement looks which relations it needs: it holds no lock on them
# then. Whatever comes of it, it is what comes of it in plain PostgreSQL, too: done, or an error with a cause.
#
# LOCKGUARD_STRESS is the number of rounds (default 300).
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use DBI;
use LockGuard;
use LockGuard::Race;
use PostgreSQL::Test::Utils;
use Test::More;

my $rounds = $ENV{LOCKGUARD_STRESS} || 300;
my $node = start_node(
	'children',
	"shared_preload_libraries = 'pg_lockguard'",
	"pg_lockguard.ddl_commands = 'all'",
	"deadlock_timeout = '50ms'");
$node->safe_psql(
	'postgres', q{
	CREATE TABLE parts (id int, value int) PARTITION BY LIST (id);
	CREATE TABLE parts_0 PARTITION OF parts FOR VALUES IN (0);
	CREATE TABLE parent (id int, value int);
	CREATE TABLE child (CHECK (id > 0)) INHERITS (parent);
});

# Makes children that have children, and drops them.
sub make_and_drop
{
	my ($dbh, $number) = @_;
	$dbh->do("SET pg_lockguard.ddl_mode = off; SET lock_timeout = '1s'");
	while (going_on())
	{
		for my $statement (
			"CREATE TABLE parts_$number PARTITION OF parts FOR VALUES IN ($number) PARTITION BY LIST (value)",
			"CREATE TABLE parts_${number}_1 PARTITION OF parts_$number FOR VALUES IN (1)",
			"DROP TABLE parts_$number",
			"CREATE TABLE child_$number () INHERITS (parent)",
			"CREATE TABLE grandchild_$number () INHERITS (child_$number)",
			"DROP TABLE child_$number CASCADE")
		{
			# Deadlocks and timeouts; and what then is not there.
			eval { $dbh->do($statement) };
		}
	}
	return;
}

sub connect_anew
{
	my $dbh = DBI->connect('dbi:Pg:' . $node->connstr('postgres'), undef, undef, { RaiseError => 1, PrintError => 0 });
	$dbh->do("SET client_min_messages = error");
	return $dbh;
}

for my $number (1 .. 3)
{
	start_client(sub { make_and_drop(connect_anew(), $number) });
}

my $dbh = connect_anew();
my (%states, @wrong);
for (1 .. $rounds)
{
	for my $statement (
		'ALTER TABLE parts ALTER value SET DEFAULT 1',
		'ALTER TABLE parent ALTER value SET DEFAULT 1',
		'ALTER TABLE parent ADD added int',
		'ALTER TABLE parent DROP added',
		# Not NOWAIT, which is not guarded: there PostgreSQL itself fails with XX000 (LockTableRecurse()).
		'BEGIN; LOCK TABLE parts IN ROW EXCLUSIVE MODE; COMMIT',
		'TRUNCATE parts',
		"SELECT * FROM ddl_preview('ALTER TABLE parent ADD previewed int')")
	{
		my $state = eval { $dbh->do($statement); 1 } ? 'done' : $dbh->state;
		$states{$state}++;
		push @wrong, "$statement: $state " . $dbh->errstr if $state eq 'XX000';
		$dbh->do('ROLLBACK') if $statement =~ /^BEGIN/;
	}
}
$dbh->disconnect;
is_deeply([ grep { /^died/ } end_clients() ], [], 'every client came to its end');
note(join ', ', map { "$_ $states{$_}" } sort keys %states);
cmp_ok($states{done}, '>', 0, 'statements were done');
is_deeply(\@wrong, [], 'and no relation was looked for that was not there any more');

$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP:|cache lookup failed/, 'nor does the log say so');
done_testing();
