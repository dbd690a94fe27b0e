# What all tests share: servers, sessions that can wait for a lock without holding up the test, and
# a look at the tree in which sessions have names instead of pids. What the tests of one topic share
# is in LockGuard::Guard, LockGuard::LowPriority, LockGuard::Locks, LockGuard::Record and
# LockGuard::Worker.
package LockGuard;

use strict;
use warnings;

use Carp;
use Exporter 'import';
use File::Basename;
use LockGuard::Session;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

our @EXPORT = qw(start_node start_standby configure session forget_sessions freeze settle await await_end tree faults
	statistics
	is_logged ends_well);

# Servers have one observer each: a session that looks at the others and never waits for a lock.
my (%observer, %name_of, @sessions);

# start_node(NAME, [OPTIONS,] SETTING...): a running server with the extension and the checks in its
# database postgres. Nothing preloaded; deadlocks stand; a crash is not mended by a restart.
# Options, in a hash: streaming (it can have a standby).
sub start_node
{
	my ($name, @settings) = @_;
	my %option = ref $settings[0] ? %{ shift @settings } : ();
	my $node = PostgreSQL::Test::Cluster->new($name);
	$node->init(allows_streaming => $option{streaming});
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
	$node->safe_psql('postgres',
		"CREATE EXTENSION pg_lockguard;\n" . slurp_file(dirname(__FILE__) . '/lock_tree_checks.sql'));
	return $node;
}

# start_standby(NODE, NAME, SETTING...): a running standby of this server, with its settings and these.
sub start_standby
{
	my ($primary, $name, @settings) = @_;
	$primary->backup("for_$name");
	my $standby = PostgreSQL::Test::Cluster->new($name);
	$standby->init_from_backup($primary, "for_$name", has_streaming => 1);
	$standby->append_conf('postgresql.conf', "$_\n") for @settings;
	$standby->start;
	return $standby;
}

# configure(NODE, SETTING => VALUE...): settings of pg_lockguard, without the prefix of their names,
# for the whole server; all of them take effect with one reload. The postmaster has told the others of it when this
# returns.
sub configure
{
	my ($node, %setting) = @_;
	my $before = observer($node)->value('SELECT pg_conf_load_time()');
	$node->safe_psql('postgres',
		join("\n", (map { "ALTER SYSTEM SET pg_lockguard.$_ = '$setting{$_}';" } sort keys %setting),
			'SELECT pg_reload_conf();'));
	await($node, 'the reload', 'SELECT pg_conf_load_time() > ?::timestamptz', $before);
	return;
}

# session(NODE, NAME, OPTION => VALUE...): a new connection whose application_name is NAME.
# Options as in LockGuard::Session.
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

# The same where their server has ended them.
sub abandon_sessions
{
	@sessions = ();
	%name_of = ();
	return;
}

# The observer of a server; another one where that has been started again.
sub observer
{
	my $node = shift;
	my $name = $node->name;
	my $known = $observer{$name};
	# It says nothing of its own accord, unless its server has ended it.
	delete $observer{$name} if $known && $known->has_input && !$known->{dbh}->ping;
	# Else each look would take seconds, where caches are discarded, and miss what it waits for.
	return $observer{$name} //= LockGuard::Session->new($node, 'observer', options => '-cdebug_discard_caches=0');
}

# Ends it, where a server is to have no session at all.
sub dismiss_observer
{
	my $observer = delete $observer{ $_[0]->name } or return;
	$observer->{dbh}->disconnect;
	await_processes_end($observer->pid);
	return;
}

# await_processes_end(PID...): until there are no such processes. Returns those that are there still.
sub await_processes_end
{
	my @left = @_;
	for (1 .. 100 * $PostgreSQL::Test::Utils::timeout_default)
	{
		@left = grep { kill 0 => $_ } @left or last;
		usleep(10_000);
	}
	return @left;
}

# The processes of a server but its postmaster.
sub processes_of
{
	my $node = shift;
	my ($postmaster) = slurp_file($node->data_dir . '/postmaster.pid') =~ /^(\d+)/ or return;
	return map { m{(\d+)/stat$} } grep { (eval { slurp_file($_) } // '') =~ /\) \S \Q$postmaster\E / } glob '/proc/[0-9]*/stat';
}

# statistics(NODE): the counters, by their names.
sub statistics
{
	my $node = shift;
	my ($row) = observer($node)->rows('SELECT * FROM pg_stat_lockguard');
	return $row;
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

# freeze(NODE, SESSION): stops the process of a session that has nothing to do. Not before it waits for its client:
# one that is stopped on the way there shows no wait event, and may have begun to write its status, which whoever reads
# it would wait for.
sub freeze
{
	my ($node, $session) = @_;
	await($node, $session->name . ' waits for its client',
		q{SELECT wait_event = 'ClientRead' FROM pg_stat_activity WHERE pid = ?}, $session->pid);
	kill STOP => $session->pid;
	return;
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

# is_logged(NODE, PATTERN, WHAT, [OFFSET]): a test that the server log has it, from there on. Whoever writes a
# line may do so after others have seen what it is about: the worker signals first.
sub is_logged
{
	my ($node, $pattern, $what, $offset) = @_;
	my $log;
	for (1 .. 50 * $PostgreSQL::Test::Utils::timeout_default)
	{
		$log = slurp_file($node->logfile, $offset // 0);
		last if $log =~ $pattern;
		usleep(20_000);
	}
	return like($log, $pattern, $what);
}

# ends_well(NODE...; or [NODE...], NEVER): all sessions and these servers end, and nothing has crashed, as
# their logs say; in which there is no match of the pattern NEVER either, before the server ends.
sub ends_well
{
	my ($nodes, $never) = ref $_[0] eq 'ARRAY' ? @_ : ([@_]);
	forget_sessions();
	is(log_lines($_, $never), '', $_->name . ": nothing like $never") for $never ? @$nodes : ();
	# A standby before its primary.
	for my $node (reverse @$nodes)
	{
		dismiss_observer($node);
		$node->stop;
		is(log_lines($node, qr/PANIC|TRAP|terminated by signal/), '', $node->name . ': no crash');
	}
	return;
}

# The lines of the server log that match.
sub log_lines
{
	my ($node, $pattern) = @_;
	return join "\n", grep { /$pattern/ } split /\n/, slurp_file($node->logfile);
}

1;
