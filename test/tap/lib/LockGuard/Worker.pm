# What the tests of the worker share: a server whose worker looks often, sessions that are idle in
# transaction, statements that they block, and what the worker says of them.
#
# "Not ended" is proved by a marker: a session that must be ended is put in place after the one that
# must not, and the event about it is waited for (wait_for_look). One look judges all sessions, so the
# look that ended the marker has spared the other.
package LockGuard::Worker;

use strict;
use warnings;

use Exporter 'import';
use LockGuard;
use LockGuard::Record;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

our @EXPORT = qw(start_worker_node worker_pid new_table idle_holder blocked_ddl conflict wait_for_look is_alive wait_gone
	lines_about wait_for_line spared rows_in_dump);

my $serial = 0;

# start_worker_node(NAME, [OPTIONS,] SETTING...): as start_node(), with a worker that looks each 20 ms
# and finds everybody due at once, and does what blocker_action says: nothing, where no setting says
# otherwise. The guard is off. There is a role app, and every role may create tables.
sub start_worker_node
{
	my ($name, @settings) = @_;
	my @options = ref $settings[0] ? shift @settings : ();
	my $node = start_node(
		$name, @options,
		q{shared_preload_libraries = 'pg_lockguard'},
		q{log_line_prefix = '%n [%p] %q%a '},
		q{pg_lockguard.ddl_mode = off},
		q{pg_lockguard.worker_interval = 20ms},
		q{pg_lockguard.blocker_min_idle = 0},
		q{pg_lockguard.blocker_min_wait = 0},
		q{pg_lockguard.max_terminations_per_minute = 1000}, @settings);
	$node->safe_psql('postgres', 'CREATE ROLE app LOGIN; GRANT CREATE ON SCHEMA public TO PUBLIC');
	return $node;
}

# worker_pid(NODE, [NOT]): waits for a worker that is another process than NOT.
sub worker_pid
{
	my ($node, $not) = @_;
	my $worker = q{FROM pg_stat_activity WHERE backend_type = 'pg_lockguard worker' AND pid <> ?};
	await($node, 'a worker is there', "SELECT count(*) = 1 $worker", $not // 0);
	return LockGuard::observer($node)->value("SELECT pid $worker", $not // 0);
}

# new_table(NODE, [DATABASE]): the name of a table that everybody may use.
sub new_table
{
	my ($node, $database) = @_;
	my $table = 't_' . ++$serial;
	$node->safe_psql($database // 'postgres', "CREATE TABLE $table (id int); GRANT ALL ON $table TO PUBLIC");
	return $table;
}

# idle_holder(NODE, ROLE, TABLE, OPTION => VALUE...): a session that holds ACCESS SHARE on the table and is
# idle in transaction. Options: name (of the application; default: one that no other session has),
# before (statements to begin with), and those of session().
sub idle_holder
{
	my ($node, $role, $table, %option) = @_;
	my $name = delete $option{name} // 'holder_' . ++$serial;
	my $before = delete $option{before} // [];
	my $holder = session($node, $name, user => $role, %option);
	$holder->do($_) for @$before, 'BEGIN', "SELECT id FROM $table";
	return $holder;
}

# blocked_ddl(NODE, TABLE, OPTION => VALUE...): a session that waits for ACCESS EXCLUSIVE on the table, or has
# waited: the worker may have been quick. Options: before (what its text begins with), and those of
# session().
sub blocked_ddl
{
	my ($node, $table, %option) = @_;
	my $before = delete $option{before} // '';
	my $ddl = session($node, 'ddl_' . ++$serial, %option);
	$ddl->send("${before}ALTER TABLE $table ADD COLUMN IF NOT EXISTS more int");
	await($node, $ddl->name . ' waits', q{
		SELECT EXISTS (SELECT FROM pg_locks WHERE pid = ? AND NOT granted)
			OR EXISTS (SELECT FROM pg_stat_activity
				WHERE pid = ? AND state LIKE 'idle%' AND query LIKE '%ALTER TABLE %')}, $ddl->pid, $ddl->pid);
	return $ddl;
}

# conflict(NODE, ROLE, OPTION => VALUE...): both, about a new table. Options as of idle_holder(); the statement
# is run in the same database.
sub conflict
{
	my ($node, $role, %option) = @_;
	my $table = new_table($node, $option{dbname});
	my $holder = idle_holder($node, $role, $table, %option);
	return ($holder, blocked_ddl($node, $table, $option{dbname} ? (dbname => $option{dbname}) : ()));
}

# wait_for_look(NODE, [KIND]): a look has begun and ended after this was called. KIND is what the worker does
# with a session like any other (default: blocker_terminated).
sub wait_for_look
{
	my ($node, $kind) = @_;
	$kind //= 'blocker_terminated';
	my ($marker, $ddl) = conflict($node, 'app', name => 'marker_' . ++$serial);
	is_deeply(verdict($marker), [ $kind, undef ], "a session like any other: $kind");
	$marker->do('COMMIT') if $kind eq 'blocker_logged';
	await_end($ddl);
	forget_sessions($marker, $ddl);
	return;
}

# is_alive(SESSION): is it connected?
sub is_alive
{
	my ($session) = @_;
	return LockGuard::observer($session->node)->value(
		'SELECT count(*) FROM pg_stat_activity WHERE pid = ? AND application_name = ?', $session->pid, $session->name) == 1;
}

sub wait_gone
{
	my ($session) = @_;
	await($session->node, $session->name . ' is gone',
		'SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = ? AND application_name = ?)',
		$session->pid, $session->name);
	return;
}

# lines_about(SESSION): the worker's lines about it in the server log: [ what, rest of the line, time ].
# Its name must be no other session's.
sub lines_about
{
	my ($session) = @_;
	my ($pid, $name) = ($session->pid, $session->name);
	my $log = slurp_file($session->node->logfile);
	my @lines;
	while ($log =~ /^([\d.]+) \[\d+\] (?:\S+ )?LOG:  pg_lockguard: (terminated|would terminate) (PID $pid \(.*)$/mg)
	{
		my ($time, $what, $rest) = ($1, $2, $3);
		push @lines, [ $what, $rest, $time ] if $rest =~ /\b$name\b/;
	}
	return @lines;
}

# wait_for_line(SESSION, [COUNT]): these lines, when there are so many.
sub wait_for_line
{
	my ($session, $count) = @_;
	$count ||= 1;
	for (1 .. 50 * $PostgreSQL::Test::Utils::timeout_default)
	{
		my @lines = lines_about($session);
		return @lines if @lines >= $count;
		usleep(20_000);
	}
	die 'the worker has not said so often what it does about ' . $session->name;
}

# spared(WHY, COUNTER, REASON, HOLDER, DDL): the worker spares the holder for that reason, which is recorded,
# logged and counted (in spared_COUNTER) once; at the end of its transaction the statement goes on.
sub spared
{
	my ($why, $counter, $reason, $holder, $ddl) = @_;
	my $node = $holder->node;
	is_deeply(verdict($holder), [ 'blocker_spared', $reason ], "$why: spared, and why");
	my $count = statistics($node)->{"spared_$counter"};
	wait_for_look($node);
	is(events_since($holder), 0, "$why: said once");
	cmp_ok($count, '>', 0, "$why: counted");
	is(statistics($node)->{"spared_$counter"}, $count, "$why: counted once");
	my $pid = $holder->pid;
	is_logged($node, qr/LOG:  pg_lockguard: spared PID $pid .*: \Q$reason\E$/m, "$why: in the log");
	$holder->do('COMMIT');
	is(await_end($ddl), undef, "$why: its transaction was whole");
	forget_sessions($holder, $ddl);
	return;
}

# rows_in_dump(DIRECTORY, TABLE): the rows of a table of the schema store in a dump; -1 where it is not there.
sub rows_in_dump
{
	my ($directory, $table) = @_;
	my ($text, $error) = run_command([ 'pg_restore', '--data-only', "--table=$table", '-f', '-', $directory ]);
	is($error, '', "pg_restore reads $table");
	my ($rows) = $text =~ /^COPY store\.$table \(.*?\) FROM stdin;\n(.*?)^\\\.$/ms;
	return defined $rows ? scalar(my @lines = split /\n/, $rows) : -1;
}

1;
