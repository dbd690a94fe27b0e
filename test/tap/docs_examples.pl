# Every SQL example in README.md and docs/ is run, in its order, each file in a database of its own. What a
# reader does not see says how, in comments of Markdown:
#
#   <!-- sql: STATEMENTS -->             run without being shown, in the session main
#   <!-- sql NAME: STATEMENTS -->        or in that session
#   <!-- example: DIRECTION, ... -->     about the next block of SQL:
#       session NAME       run in that session (main, where nothing is said; each file has its own)
#       role ROLE          the session, if it begins here, belongs to that role
#       waits              the last statement comes to wait, and goes on waiting
#       fails SQLSTATE     the last statement ends with that error
#       shows              the next block that is in no language says what psql shows of the last statement: its rows, or its
#                          error. They are compared, but for durations and pids (the same session has the same one throughout)
#   <!-- done: NAME [SQLSTATE] -->       what that session waits with ends, without an error or with this one
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";
use File::Basename;
use IPC::Run ();
use LockGuard;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $top = dirname(dirname($FindBin::RealBin));
my @files = ("$top/README.md", glob("$top/docs/*.md $top/docs/*/*.md"));

# Roles that the texts take for granted.
my @roles = qw(shop deploy backup migrator);

my $node = start_node('docs', "shared_preload_libraries = 'pg_lockguard, pg_stat_statements'",
	"deadlock_timeout = 1s");

$node->safe_psql('postgres', "CREATE ROLE $_ LOGIN") for @roles;

# The parts of a text that are of interest, in order: { kind, line, text, direction... }.
sub parts_of
{
	my ($text) = @_;
	my (@parts, %next, $shows);
	while ($text =~ /<!--\h*(sql|example|done)(?:\h+(\w+))?:\s*(.*?)\s*-->|^\h*```(\w*)\n(.*?)^\h*```/gms)
	{
		my ($comment, $name, $said, $language, $block) = ($1, $2, $3, $4, $5);
		my $line = 1 + (substr($text, 0, $-[0]) =~ tr/\n//);
		if (defined $block && $language eq 'sql')
		{
			push @parts, { session => 'main', %next, kind => 'sql', line => $line, text => $block };
			$shows = $parts[-1] if $next{shows};
			%next = ();
		}
		elsif (defined $block)
		{
			next if $language ne '' || !$shows;
			$shows->{shows} = $block;
			undef $shows;
		}
		elsif ($comment eq 'sql')
		{
			push @parts, { session => $name // 'main', kind => 'sql', line => $line, text => $said };
		}
		elsif ($comment eq 'done')
		{
			my ($session, $sqlstate) = split ' ', $said;
			push @parts, { kind => 'done', line => $line, session => $session, fails => $sqlstate };
		}
		else
		{
			%next = map { my ($name, $value) = split ' ', $_, 2; $name => $value // 1 } split /,\s*/, $said;
		}
	}
	die "line $shows->{line}: nothing is shown" if $shows;
	return @parts;
}

# Statements end with a semicolon at the end of a line, and are sent with it, as psql does.
sub statements_of
{
	my ($text) = @_;
	return grep { /\S/ } split /(?<=;)\h*(?:--[^\n]*)?\n/, "$text\n";
}

# ---- What is shown

# A table as psql prints it, one line a row, the first the columns' names; with \x the name and the value a line.
sub table_of
{
	my (@lines) = split /\n/, $_[0];
	if ($lines[0] =~ /^-\[ RECORD/)
	{
		my @table;
		for my $line (grep { !/^-\[ RECORD/ } @lines)
		{
			my ($name, $mark, $value) = $line =~ /^(\S*)\h*\|(.)?(.*)$/;
			# A point at the end and at the beginning of the next line: a word that is broken.
			$mark eq '.' ? $table[-1] =~ s/\.$/$value/ : push @table, "$name | $value";
		}
		return join("\n", map { s/\h+$//r } @table);
	}
	my (@from, @width, $at);
	for my $dashes (split /\+/, splice(@lines, 1, 1))
	{
		push @from, $at // 0;
		push @width, length $dashes;
		$at += 1 + length $dashes;
	}
	return join("\n", map { my $line = $_ . ' ' x $at;
		join(' | ', map { substr($line, $from[$_], $width[$_]) =~ s/^\h+|\h+$//gr } 0 .. $#from) } @lines);
}

# The rows of a query, in the same form.
sub rows_of
{
	my ($session, $query, $expanded) = @_;
	my $dbh = $session->{dbh};
	local @$dbh{qw(pg_bool_tf pg_expand_array)} = (1, 0);
	my $sth = $dbh->prepare($query);
	$sth->execute;
	my @names = @{ $sth->{NAME} };
	my @rows = map { [ map { ($_ // '') =~ s/^\h+|\h+$//gr } @$_ ] } @{ $sth->fetchall_arrayref };
	return join("\n", map { join(' | ', @$_) } \@names, @rows) if !$expanded;
	return join("\n", map { my $row = $_; map { "$names[$_] | $row->[$_]" =~ s/\h+$//r } 0 .. $#names } @rows);
}

sub error_of
{
	my ($session) = @_;
	return join "\n", map { my $text = $session->{dbh}->pg_error_field("$_");
		defined $text ? ($_ eq 'message_primary' ? 'ERROR' : uc) . ":  $text" : () } qw(message_primary detail hint);
}

# With durations masked.
sub timeless
{
	my ($text) = @_;
	return $text =~ s/\d\d:\d\d:\d\d(?:\.\d+)?/TIME/gr =~ s/\d+(?:\.\d+)? (?:ms|s|min)\b/TIME/gr;
}

# Is that what the text says? Learns which pid a session has in the text.
sub agrees
{
	my ($said, $seen, $name_of_pid, $pid_in_text) = @_;
	my ($pattern, @learned) = ('');
	for my $piece (split /(\d+)/, $seen)
	{
		my $name = $piece =~ /^\d+$/ ? $name_of_pid->{$piece} : undef;
		my ($known) = grep { defined $name && $learned[$_] eq $name } 0 .. $#learned;
		if (!defined $name) { $pattern .= quotemeta $piece }
		elsif (defined $pid_in_text->{$name}) { $pattern .= $pid_in_text->{$name} }
		elsif (defined $known) { $pattern .= '\g{' . ($known + 1) . '}' }
		else { $pattern .= '(\d+)'; push @learned, $name }
	}
	my @pids = $said =~ /^$pattern$/ or return 0;
	@$pid_in_text{@learned} = @pids if @learned;
	return 1;
}

# Runs the statement, and compares. What a query shows may take a moment to come about.
sub shows_as_said
{
	my ($session, $statement, $part, $name_of_pid, $pid_in_text) = @_;
	utf8::decode(my $text = $part->{shows});
	my $said = timeless($part->{fails} ? $text =~ s/\n$//r : table_of($text));
	my $seen;
	for my $try (1 .. 100)
	{
		if ($part->{fails})
		{
			my $sqlstate = failure($session, $statement);
			is($sqlstate, $part->{fails}, "line $part->{line}: it fails") or return;
			$seen = timeless(error_of($session));
		}
		else
		{
			$seen = timeless(rows_of($session, $statement, $text =~ /^-\[/));
		}
		return pass("line $part->{line}: what it shows") if agrees($said, $seen, $name_of_pid, $pid_in_text);
		last if $part->{fails};
		usleep(100_000);
	}
	return is($seen, $said, "line $part->{line}: what it shows");
}

# The SQLSTATE with which a statement ends; undef where it succeeds.
sub failure
{
	my ($session, $statement) = @_;
	return undef if eval { $session->do($statement); 1 };
	my ($error, $sqlstate) = ($@, $session->sqlstate);
	diag($error) if $sqlstate eq '';
	return $sqlstate;
}

# A session that calls itself what psql does.
sub psql_session
{
	my ($name, $database, $role) = @_;
	my $session = session($node, $name, dbname => $database, $role ? (user => $role) : ());
	$session->do(q{SET application_name = 'psql'});
	return $session;
}

# Sends the statement, and waits until it waits for a lock, in its queue or at low priority.
sub come_to_wait
{
	my ($session, $statement) = @_;
	$session->send($statement);
	await($node, 'an example waits', q{
		SELECT EXISTS (SELECT FROM lock_tree() WHERE pid = ? AND depth > 0)}, $session->pid);
	return;
}

for my $file (@files)
{
	my $name = $file =~ s{^\Q$top\E/}{}r;
	my @parts = parts_of(slurp_file($file));
	next if !@parts;
	subtest $name => sub {
		my $database = $name =~ s/\W/_/gr;
		$node->safe_psql('postgres', qq{CREATE DATABASE "$database"});
		my (%session, %name_of_pid, %pid_in_text);
		for my $part (@parts)
		{
			my $label = "line $part->{line}";
			my $session = $session{ $part->{session} } //= psql_session($part->{session}, $database, $part->{role});
			$name_of_pid{ $session->pid } = $part->{session};
			if ($part->{kind} eq 'done')
			{
				my $error = $session->error;
				is($error ? $session->sqlstate : undef, $part->{fails}, "$label: $part->{session} has waited") or diag($error);
				next;
			}
			my @statements = statements_of($part->{text});
			my $last = pop @statements;
			for my $statement (@statements)
			{
				is(failure($session, $statement), undef, "$label: " . substr($statement =~ s/\s+/ /gr, 0, 60)) or diag($@);
			}
			if ($part->{shows}) { shows_as_said($session, $last, $part, \%name_of_pid, \%pid_in_text); next }
			if ($part->{waits}) { come_to_wait($session, $last); pass("$label: it waits"); next }
			is(failure($session, $last), $part->{fails}, "$label: " . substr($last =~ s/\s+/ /gr, 0, 60)) or diag($@);
		}
		forget_sessions(values %session);
		$node->safe_psql('postgres', qq{
			ALTER SYSTEM RESET ALL;
			SELECT pg_reload_conf();
			DROP DATABASE "$database" WITH (FORCE)});
	};
}

# The script of how-to/is-this-migration-safe.md, as it stands there: it passes what it knows to be safe, and nothing else.
subtest 'the script for CI' => sub {
	my $page = slurp_file("$top/docs/how-to/is-this-migration-safe.md");
	my ($look, $loop) = $page =~ /`is-it-safe\.sql`:\n\n```\n(.*?)^```.*?^```sh\n(.*?)^```/ms or die 'the page has no script';
	$node->safe_psql('postgres', 'CREATE DATABASE ci');
	# Enough for a machine that has much else to do.
	$node->safe_psql('ci', q{
		ALTER DATABASE ci SET pg_lockguard.preview_max_hold = '1min';
		CREATE EXTENSION pg_lockguard;
		CREATE TABLE users (id bigint PRIMARY KEY);
		CREATE TABLE orders (id bigint PRIMARY KEY, user_id bigint, total int);
		INSERT INTO orders SELECT n, n, n FROM generate_series(1, 1000) n;
		ALTER TABLE orders ADD CONSTRAINT total_is_there CHECK (total IS NOT NULL) NOT VALID;
		CREATE TABLE days (day int) PARTITION BY LIST (day);
		SELECT format('CREATE TABLE days_%s PARTITION OF days FOR VALUES IN (%1$s)', n) FROM generate_series(1, 201) n \gexec
		INSERT INTO days SELECT generate_series(1, 201);
		CREATE FUNCTION nap() RETURNS int LANGUAGE sql STABLE AS 'SELECT 1 FROM pg_sleep(0.1)'});

	# Returns the exit status and what it said.
	my $check = sub {
		my (%migration) = @_;
		my $folder = PostgreSQL::Test::Utils::tempdir();
		mkdir "$folder/migrations";
		append_to_file("$folder/is-it-safe.sql", $look);
		append_to_file("$folder/migrations/$_.sql", $migration{$_}) for keys %migration;
		local @ENV{qw(PGHOST PGPORT PGDATABASE)} = ($node->host, $node->port, 'ci');
		my $output = '';
		IPC::Run::run([ 'sh', '-c', $loop ], '>&', \$output, init => sub { chdir $folder or die });
		return ($? >> 8, $output);
	};
	my $passes = sub {
		my ($what, $statement) = @_;
		my ($status, $output) = $check->(one => $statement);
		is($status, 0, "passes: $what") or diag($output);
		is($output, '', '... and says nothing');
	};
	my $fails = sub {
		my ($what, $statement, $reason) = @_;
		my ($status, $output) = $check->(one => $statement);
		is($status, 1, "fails: $what");
		like($output, $reason, '... and says why');
	};

	$passes->('a change of the catalogs alone', "ALTER TABLE orders ADD note text;\n");
	$passes->('a new table', "CREATE TABLE items (id bigint PRIMARY KEY,\n    name text DEFAULT 'it''s \\n');\n");
	$passes->('what stops other DDL alone', "ALTER TABLE orders VALIDATE CONSTRAINT total_is_there;\n");
	$passes->('an index that is built concurrently', "CREATE INDEX CONCURRENTLY ON orders (user_id);\n");
	$passes->('what somebody has said that it is meant', "-- reviewed: it is small\nALTER TABLE orders ALTER total TYPE bigint;\n");

	$fails->('a rewrite', "ALTER TABLE orders ALTER total TYPE bigint;\n", qr/rewrite, public\.orders, .*Add a new column/);
	$fails->('an index', "CREATE INDEX ON orders (user_id);\n", qr/build index, public\.orders/);
	$fails->('a fault in the words', "ALTER TABLE orders ADD note text,;\n", qr/syntax error/);
	$fails->('a fault in the sense', "ALTER TABLE orders DROP notes;\n", qr/does not exist/);
	$fails->('two statements', "ALTER TABLE orders ADD note text;\nALTER TABLE orders ADD more text;\n", qr/one statement at a time/);
	$fails->('no statement', "-- nothing\n", qr/no statement/);
	$fails->('what is not previewed', "UPDATE orders SET total = 1;\n", qr/does not preview UPDATE/);
	$fails->('what is judged by rules that do not say all', "ALTER TABLE days ALTER day TYPE bigint;\n", qr/more than 200 partitions/);
	{
		local $ENV{PGOPTIONS} = '-c pg_lockguard.preview_max_hold=20ms';
		$fails->('what takes longer than a preview is allowed to', "ALTER TABLE orders ADD n int DEFAULT nap();\n", qr/preview_max_hold/);
	}

	my $holder = session($node, 'holder', dbname => 'ci');
	$holder->do('BEGIN; SELECT FROM orders');
	$fails->('a preview that ends at a lock', "ALTER TABLE orders ALTER total TYPE bigint;\n", qr/held by \{@{[$holder->pid]}\}, A lock is not free/);
	forget_sessions($holder);

	my ($status, $output) = $check->(1 => "ALTER TABLE orders ADD note text;\n", 2 => "TRUNCATE nobody;\n", 3 => "CREATE TABLE x ();\n");
	is($status, 1, 'fails: one of several');
	like($output, qr{migrations/2\.sql}, '... and says which');
	is(($check->())[0], 1, 'fails: none at all');
	local $ENV{PGOPTIONS} = '-c default_transaction_read_only=on';
	$fails->('where it can not be previewed', "ALTER TABLE orders ADD note text;\n", qr/read-only transaction/);
};

is($node->safe_psql('postgres', 'SELECT count(*) FROM pg_prepared_xacts'), 0, 'nothing is left');
done_testing();
