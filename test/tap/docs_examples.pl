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
#   <!-- done: NAME [SQLSTATE] -->       what that session waits with ends, without an error or with this one
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";
use File::Basename;
use LockGuard;
use PostgreSQL::Test::Utils;
use Test::More;

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
	my (@parts, %next);
	while ($text =~ /<!--\h*(sql|example|done)(?:\h+(\w+))?:\s*(.*?)\s*-->|^\h*```sql\n(.*?)^\h*```/gms)
	{
		my ($comment, $name, $said, $block) = ($1, $2, $3, $4);
		my $line = 1 + (substr($text, 0, $-[0]) =~ tr/\n//);
		if (defined $block)
		{
			push @parts, { session => 'main', %next, kind => 'sql', line => $line, text => $block };
			%next = ();
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
	return @parts;
}

# Statements end with a semicolon at the end of a line.
sub statements_of
{
	my ($text) = @_;
	return grep { /\S/ } split /;\h*(?:--[^\n]*)?\n/, "$text\n";
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
		my %session;
		for my $part (@parts)
		{
			my $label = "line $part->{line}";
			my $session = $session{ $part->{session} } //= session($node, $part->{session},
				dbname => $database, $part->{role} ? (user => $part->{role}) : ());
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

is($node->safe_psql('postgres', 'SELECT count(*) FROM pg_prepared_xacts'), 0, 'nothing is left');
done_testing();
