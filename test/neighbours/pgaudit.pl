# pgaudit, in both orders of preloading: each statement is audited once. But it writes its line from an event trigger, and a line
# is not rolled back: an attempt that ends after that, because of another event trigger, leaves one.
# packages: postgresql-MAJOR-pgaudit
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib", "$FindBin::RealBin/../tap/lib";

use LockGuard;
use LockGuard::LowPriority;
use Neighbours;
use PostgreSQL::Test::Utils;
use Test::More;

for my $libraries (orders_of('pgaudit'))
{
	my $name = $libraries =~ s/,.*//r;
	my $node = start_node("audit_$name", "shared_preload_libraries = '$libraries'", q{pgaudit.log = 'ddl'},
		q{pg_lockguard.ddl_lock_timeout = '100ms'});
	$node->safe_psql(
		'postgres', q{
		CREATE EXTENSION pgaudit;
		CREATE TABLE users (id int);
		CREATE TABLE orders (id int);
		CREATE FUNCTION touch() RETURNS event_trigger LANGUAGE plpgsql AS $$
		BEGIN
			IF current_query() ~ 'event' THEN PERFORM FROM public.orders; END IF;
		END $$;
		CREATE EVENT TRIGGER touching ON ddl_command_end EXECUTE FUNCTION touch();
		CREATE FUNCTION reads(int) RETURNS int VOLATILE LANGUAGE plpgsql AS $$
		BEGIN
			RETURN (SELECT count(*) FROM public.orders);
		END $$;
		INSERT INTO users VALUES (1)});
	my ($reader, $ddl, $witness) = map { session($node, $_) } qw(reader ddl witness);
	my $log;
	my $audited = sub {
		my ($statement, $times) = @_;
		my @lines = slurp_file($node->logfile, $log) =~ /(AUDIT: SESSION,.*\Q$statement\E.*)/g;
		is(scalar @lines, $times, "audited: $statement") or diag("@lines");
		return;
	};

	subtest "$libraries: it waits" => sub {
		$log = -s $node->logfile;
		$reader->do('BEGIN; SELECT FROM users');
		$ddl->send('ALTER TABLE users ADD waited int');
		await_low_priority($ddl);
		$reader->do('COMMIT');
		is($ddl->error, undef, 'done');
		$audited->('ALTER TABLE users ADD waited int', 1);
	};

	for my $case ([ 'at work', 'ALTER TABLE users ALTER id TYPE int USING reads(id)', 1 ], [ 'in an event trigger', 'ALTER TABLE users ADD event int', 2 ])
	{
		my ($where, $statement, $times) = @$case;
		subtest "$libraries: it is rolled back $where, and tried again" => sub {
			$log = -s $node->logfile;
			$reader->do('BEGIN; LOCK TABLE orders');
			$ddl->send($statement);
			await_giving_back($ddl, 'users', $witness);
			$reader->do('COMMIT');
			is($ddl->error, undef, 'done');
			$audited->($statement, $times);
		};
	}

	subtest "$libraries: it fails" => sub {
		$log = -s $node->logfile;
		$ddl->do(q{SET pg_lockguard.ddl_max_wait = '300ms'});
		$reader->do('BEGIN; SELECT FROM users');
		$ddl->send('ALTER TABLE users ADD failed int');
		like($ddl->error, qr/lock timeout.*Blocked by PID/s, 'in vain');
		$reader->do('COMMIT');
		$audited->('ALTER TABLE users ADD failed int', 0);
	};
	ends_well($node);
	$node->stop;
}
done_testing();
