# pg_stat_statements and auto_explain, in both orders of preloading, beside statements that need several attempts. (One
# attempt, and three libraries: test/tap/guard_neighbours.pl.)
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib", "$FindBin::RealBin/../tap/lib";

use LockGuard;
use LockGuard::LowPriority;
use Neighbours;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

for my $libraries (orders_of('pg_stat_statements,auto_explain'))
{
	my $outside = $libraries =~ /^pg_lockguard/;
	my $node = start_node($outside ? 'outside' : 'inside', "shared_preload_libraries = '$libraries'", q{pg_stat_statements.track = all},
		q{auto_explain.log_min_duration = 0}, q{auto_explain.log_nested_statements = on}, q{pg_lockguard.ddl_lock_timeout = '100ms'});
	$node->safe_psql(
		'postgres', q{
		CREATE EXTENSION pg_stat_statements;
		CREATE TABLE users (id int);
		CREATE TABLE orders (id int);
		CREATE TABLE notes (id int);
		INSERT INTO users VALUES (1);
		CREATE FUNCTION reads(int) RETURNS int VOLATILE LANGUAGE plpgsql AS $$
		BEGIN
			PERFORM count(*) AS before_the_wait FROM public.notes;
			PERFORM count(*) AS after_the_wait FROM public.orders;
			RETURN $1;
		END $$});
	my ($reader, $ddl, $witness) = map { session($node, $_) } qw(reader ddl witness);
	my $observer = LockGuard::observer($node);
	my $counted = sub {
		my ($statement) = @_;
		my ($row) = $observer->rows('SELECT calls, queryid, total_exec_time AS time FROM pg_stat_statements WHERE query = ?', $statement);
		return $row // { calls => 0 };
	};

	subtest "$libraries: it waits" => sub {
		my $statement = 'ALTER TABLE users ADD waited int';
		$reader->do('BEGIN; SELECT FROM users');
		$ddl->send($statement);
		await($node, 'it has waited for longer than its work takes',
			q{SELECT EXISTS (SELECT FROM pg_lockguard_progress WHERE pid = ? AND waited > interval '1 s')}, $ddl->pid);
		my ($id, $waited) = @{ ($observer->rows(q{SELECT query_id, extract(epoch FROM waited) * 1000 AS waited
			FROM pg_lockguard_progress JOIN pg_stat_activity USING (pid) WHERE pid = ?}, $ddl->pid))[0] }{qw(query_id waited)};
		my $began = time;
		$reader->do('COMMIT');
		is($ddl->error, undef, 'done');
		my $rest = (time - $began) * 1000;
		my $row = $counted->($statement);
		is($row->{calls}, 1, 'counted once');
		is($row->{queryid}, $id, 'under the identifier that its session showed while it waited');
		if ($outside) { cmp_ok($row->{time}, '>=', $waited, 'its time is that of the statement: with the wait') }
		else { cmp_ok($row->{time}, '<=', $rest, 'its time is that of the attempt that succeeded: none of the wait') }
	};

	subtest "$libraries: it is rolled back at work, and tried again" => sub {
		my $statement = 'ALTER TABLE users ALTER id TYPE int USING reads(id)';
		my $log = -s $node->logfile;
		$reader->do('BEGIN; LOCK TABLE orders');
		$ddl->send($statement);
		await_giving_back($ddl, 'users', $witness);
		my $id = $observer->value('SELECT query_id FROM pg_stat_activity WHERE pid = ?', $ddl->pid);
		$reader->do('COMMIT');
		is($ddl->error, undef, 'done');
		my $row = $counted->($statement);
		is($row->{calls}, 1, 'counted once');
		is($row->{queryid}, $id, 'under the identifier that its session showed while it waited');
		# Neither is rolled back with the attempt.
		my $before = $observer->value(q{SELECT sum(calls) FROM pg_stat_statements WHERE query ~ 'before_the_wait' AND NOT toplevel});
		my $after = $observer->value(q{SELECT sum(calls) FROM pg_stat_statements WHERE query ~ 'after_the_wait' AND NOT toplevel});
		cmp_ok($before, '>=', 2, 'what its function has done is counted with each attempt');
		is($after, 1, 'what it has not come to before is counted once');
		my $text = slurp_file($node->logfile, $log);
		is(scalar(() = $text =~ /Query Text: SELECT count\(\*\) AS before_the_wait/g), $before, 'and explained as often');
		is(scalar(() = $text =~ /Query Text: SELECT count\(\*\) AS after_the_wait/g), $after, 'or once');
	};

	subtest "$libraries: it fails" => sub {
		my $statement = 'ALTER TABLE users ADD failed int';
		$ddl->do(q{SET pg_lockguard.ddl_max_wait = '300ms'});
		$reader->do('BEGIN; SELECT FROM users');
		$ddl->send($statement);
		like($ddl->error, qr/lock timeout.*Blocked by PID/s, 'in vain');
		$reader->do('COMMIT');
		is($counted->($statement)->{calls}, 0, 'not counted, as in plain PostgreSQL');
	};
	ends_well($node);
}
done_testing();
