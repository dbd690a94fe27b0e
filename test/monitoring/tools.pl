# Tools that people look at a server with, beside a guarded statement that waits and one that works: nothing
# stalls, nothing errs, nobody waits behind anybody.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../tap/lib";

use IPC::Run;
use LockGuard;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my %has = map {
	my $program = $_;
	$program => scalar grep { -x "$_/$program" } split /:/, $ENV{PATH}
} qw(pg_activity pgcli);

my $node = start_node('tools', q{shared_preload_libraries = 'pg_lockguard'}, q{pg_lockguard.worker_interval = 100ms},
	q{log_line_prefix = '%a '});
$node->safe_psql('postgres', q{
	CREATE TABLE users (id int PRIMARY KEY, name text);
	CREATE TABLE orders (id int PRIMARY KEY, user_id int REFERENCES users);
	INSERT INTO users VALUES (1, 'a');
	-- A statement that works for as long as somebody holds the advisory lock 7.
	CREATE FUNCTION works(int) RETURNS int LANGUAGE plpgsql VOLATILE AS $$
	BEGIN PERFORM pg_advisory_xact_lock_shared(7); RETURN $1; END $$;
});
my $observer = LockGuard::observer($node);

# on_terminal(NAME, COMMAND, [KEYS, UNTIL]...): runs the command on a terminal, and each time that the screen shows
# what UNTIL matches since the last keys, presses the next ones. Returns what it has shown, without the
# sequences that move the cursor.
sub on_terminal
{
	my ($name, $command, @steps) = @_;
	local $ENV{TERM} = 'xterm';
	local $ENV{PGAPPNAME} = $name;
	local $ENV{PAGER} = 'cat';
	my ($in, $out) = ('', '');
	my $terminal = IPC::Run::start([ 'script', '-qefc', "stty rows 50 cols 160; exec $command", '/dev/null' ], '<', \$in, '>', \$out, '2>&1',
		IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
	my $shown = '';
	my $plain = sub { return $_[0] =~ s/\e\[[\d;?]*[A-Za-z]|\e[()][A-Z0-9]|\e[=>]|\r//gr; };
	while (my ($pattern, $keys) = splice(@steps, 0, 2))
	{
		my $ok = eval { $terminal->pump until $plain->($out) =~ $pattern || !$terminal->pumpable; 1 };
		my $screen = $plain->($out);
		if (!$ok || $screen !~ $pattern)
		{
			fail("$name shows $pattern");
			diag($screen);
			$terminal->kill_kill;
			return $shown . $screen;
		}
		pass("$name shows $pattern");
		$shown .= $screen;
		$out = '';
		$in .= $keys;
	}
	ok(eval { $terminal->finish }, "$name ends well") or diag($plain->($out));
	return $shown . $plain->($out);
}

my $connection = '-h ' . $node->host . ' -p ' . $node->port;

# Looks with every tool.
sub look_with_all
{
	my ($when) = @_;
	subtest "psql, $when" => sub {
		my $shown = on_terminal('psql', "psql -X $connection -d postgres",
			qr/postgres=#/ => "\\d users\n",
			qr/Indexes:.*users_pkey.*Referenced by:/s => "\\d\n",
			qr/public \| users/ => "\\d orders\n",
			qr/Foreign-key constraints:/ => "SELECT count(*) AS in_the_tree FROM lock_tree() \\watch 1\n",
			qr/in_the_tree\s*\n-+.*in_the_tree\s*\n-+/s => "\cC",
			qr/postgres=#/ => "SELECT phase, command FROM pg_lockguard_progress;\n",
			qr/ALTER TABLE/ => "\\q\n");
		unlike($shown, qr/ERROR|FATAL/, 'no error');
	};
  SKIP:
	{
		skip 'needs pgcli, of the Debian package of that name', 1 if !$has{pgcli};
		subtest "pgcli, $when" => sub {
			my $shown = on_terminal('pgcli', "pgcli --less-chatty $connection -d postgres",
				qr/postgres>/ => "\\d users\n",
				qr/users_pkey/ => "SELECT command, phase FROM pg_lockguard_progress;\n",
				qr/ALTER TABLE/ => "\\q\n");
			unlike($shown, qr/ERROR|Traceback/, 'no error');
		};
	}
  SKIP:
	{
		skip 'needs pg_activity, of the Debian package pg-activity', 1 if !$has{pg_activity};
		subtest "pg_activity, $when" => sub {
			my $shown = on_terminal('pg_activity', "pg_activity $connection -U " . $observer->value('SELECT current_user') . ' -d postgres --refresh 0.5',
				qr/RUNNING QUERIES.*ALTER/s => '2',
				qr/WAITING QUERIES/ => '3',
				qr/BLOCKING QUERIES/ => '1',
				qr/RUNNING QUERIES/ => 'q');
			unlike($shown, qr/ERROR|Traceback/, 'no error');
		};
	}
	return;
}

my $stalled = q{SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name NOT IN ('migration')};

subtest 'beside a statement that waits' => sub {
	my $holder = session($node, 'holder');
	my $migration = session($node, 'migration');
	$holder->do($_) for 'BEGIN', 'SELECT count(*) FROM users';
	$migration->send('ALTER TABLE users ADD COLUMN note text');
	await($node, 'it waits', q{SELECT count(*) = 1 FROM pg_lockguard_progress WHERE phase = 'waiting'});
	look_with_all('while it waits');
	is($observer->value($stalled), 0, 'nobody waits');
	is($observer->value('SELECT max(longest_stall) < interval $$500 ms$$ FROM pg_lockguard_progress'), 1, 'nor has anybody been kept waiting');
	$holder->do('COMMIT');
	is(await_end($migration), undef, 'it has got its lock');
	forget_sessions($holder, $migration);
};

subtest 'beside a statement that works' => sub {
	my $holder = session($node, 'holder');
	my $migration = session($node, 'migration');
	$holder->do('SELECT pg_advisory_lock(7)');
	$migration->send('ALTER TABLE users ALTER id TYPE bigint USING works(id)');
	await($node, 'it works', q{SELECT count(*) = 1 FROM pg_locks WHERE pid = ? AND locktype = 'relation'
		AND relation = 'users'::regclass AND mode = 'AccessExclusiveLock' AND granted}, $migration->pid);
	look_with_all('while it works');
	is($observer->value($stalled), 0, 'nobody waits');
	$holder->do('SELECT pg_advisory_unlock(7)');
	is(await_end($migration), undef, 'it is done');
	forget_sessions($holder, $migration);
};

forget_sessions();
LockGuard::dismiss_observer($node);
unlike(slurp_file($node->logfile), qr/^(?:psql|pgcli|pg_activity) (?:ERROR|FATAL): .*$/m, 'the server has seen no error of theirs');
done_testing();
