# A statement at low priority whose attempt failed for a lock that could not be told: whoever looks
# at it meanwhile sees that no lock is known, and the server lives.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LockGuard;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node(
	'unknown',
	"shared_preload_libraries = 'pg_lockguard'",
	"pg_lockguard.worker_interval = '20ms'",
	"pg_lockguard.blocker_action = log",
	"pg_lockguard.blocker_min_idle = '100ms'",
	"pg_lockguard.blocker_min_wait = '100ms'");

# A lock_timeout that is over before anybody has looked which lock is waited for.
$node->safe_psql(
	'postgres', q{
	CREATE TABLE a (id int);
	INSERT INTO a VALUES (1);
	CREATE TABLE b (id int);
	CREATE FUNCTION f(int) RETURNS int VOLATILE LANGUAGE plpgsql SET lock_timeout = '1ms' AS
		$$BEGIN LOCK TABLE b; RETURN $1; END$$;
	CREATE ROLE app LOGIN;
	GRANT ALL ON b TO app;
});

my $witness = session($node, 'witness');

# It stands in the queue for a millisecond at a time; on a machine that is busy enough somebody has
# looked in time, and the lock is known after all. So it is done often.
my ($rounds, $unknown) = (20, 0);
my $holder = session($node, 'holder', user => 'app');
my $plain = session($node, 'plain');
my $ddl = session($node, 'ddl');
my $log = -s $node->logfile;

for my $round (1 .. $rounds)
{
	$holder->do('BEGIN');
	$holder->do('LOCK TABLE b');
	# The worker has something to look at as well.
	$plain->do('BEGIN');
	$plain->send('LOCK TABLE b');
	settle($node, $plain);
	$ddl->send('ALTER TABLE a ALTER id TYPE int USING f(id)');
	await($node, 'it waits', q{SELECT EXISTS (SELECT FROM pg_lockguard_progress WHERE phase IN ('waiting', 'backing off'))});
	my @wrong;
	for my $look (1 .. 20)
	{
		my ($row) = $witness->rows('SELECT *, holders::text AS holder_pids FROM pg_lockguard_progress');
		my $known = defined $row->{lock_mode};
		$unknown++ unless $known;
		push @wrong, $row
		  if $row->{pid} != $ddl->pid || $known != defined $row->{relation} || (!$known && $row->{holder_pids} ne '{}');
		like(tree($node), qr/^holder\n.* plain\n/s, 'lock_tree() shows the others') if $look == 1;
	}
	is_deeply(\@wrong, [], "the statement is shown, with a lock that is known, or with none ($round)");
	if ($round == 1)
	{
		my $blocks = '%would terminate PID ' . $holder->pid . ' %while blocking PID ' . $plain->pid . '%';
		await($node, 'the worker has looked', 'SELECT pg_read_file(?, ?, 10000000) LIKE ?', $node->logfile, $log, $blocks);
	}
	$holder->do('COMMIT');
	is($plain->error, undef, 'the plain statement has its lock');
	$plain->do('COMMIT');
	is($ddl->error, undef, 'and the guarded one succeeds');
}
note("$unknown looks saw a statement without a known lock");

# A lock that a statement's own function gave up to wait for, in a queue, is looked out for when it runs again, and then waited for outside.
$node->safe_psql(
	'postgres', q{
	CREATE FUNCTION g(int) RETURNS int VOLATILE LANGUAGE plpgsql SET lock_timeout = '20ms' AS
		$$BEGIN LOCK TABLE b; RETURN $1; END$$;
	CREATE FUNCTION h(int) RETURNS int VOLATILE LANGUAGE plpgsql AS
		$$BEGIN SET LOCAL lock_timeout = '50ms'; UPDATE b SET id = id; RETURN $1; END$$;
	-- With the block goes its setting.
	CREATE FUNCTION e(int) RETURNS int VOLATILE LANGUAGE plpgsql AS
		$$BEGIN
			BEGIN
				SET LOCAL lock_timeout = '50ms';
				LOCK TABLE b;
			EXCEPTION WHEN lock_not_available THEN
				RAISE;
			END;
			RETURN $1;
		END$$;
	INSERT INTO b VALUES (1);
});
for my $function (qw(g h e))
{
	$holder->do('BEGIN');
	$holder->do('UPDATE b SET id = id');
	$ddl->send("ALTER TABLE a ALTER id TYPE int USING $function(id)");
	await($node, 'the lock is known, and who holds it', 'SELECT EXISTS (SELECT FROM pg_lockguard_progress WHERE lock_mode IS NOT NULL AND ? = ANY (holders))', $holder->pid);
	await($node, 'it waits', 'SELECT EXISTS (SELECT FROM pg_lockguard_progress WHERE waited > ?)', '2 s');
	my $xids = $witness->value('SELECT pg_snapshot_xmax(pg_current_snapshot())');
	await($node, 'it goes on waiting', 'SELECT EXISTS (SELECT FROM pg_lockguard_progress WHERE waited > ?)', '5 s');
	is($witness->value('SELECT pg_snapshot_xmax(pg_current_snapshot())'), $xids, "$function: it does not run in vain meanwhile");
	$holder->do('COMMIT');
	is($ddl->error, undef, "$function: then it succeeds");
}

ends_well($node);
done_testing();
