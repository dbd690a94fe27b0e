# Names that somebody has chosen to do harm: relations, roles, applications and prepared transactions with quotes,
# newlines, control characters, and 63 bytes that end in the middle of a character. They come out as names, on one
# line, in the tree, in the picture, in errors, in notices, in the record, and in the server log.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LockGuard;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node(
	'names',
	q{shared_preload_libraries = 'pg_lockguard'},
	q{pg_lockguard.ddl_commands = all},
	q{deadlock_timeout = 10ms},
	q{pg_lockguard.ddl_max_wait = '2s'},
	q{pg_lockguard.ddl_notice_interval = '100ms'},
	q{pg_lockguard.log_events = all});

# What would begin a line of its own in the log, end a label, or cut a character.
my %name = (
	quotes => q{a"b'c\\d],[e"]},
	lines => "x\nLOG:  forged\r\n\tfake",
	controls => "bell\a escape\e[31mred\x7f",
	markup => q{<script>"] --> s0;%%{init}%% subgraph},
	'63 bytes, cut' => ("\xc3\xa9" x 31) . 'xy',
	format => '%s%n$1 \\gexec',
);

for my $kind (sort keys %name)
{
	subtest $kind => sub {
		my $admin = session($node, 'admin');
		# 19 refuses line breaks in names of roles.
		my $name = $admin->value('SHOW server_version_num') >= 190000 ? $name{$kind} =~ s/[\r\n]/ /gr : $name{$kind};
		my ($relation, $role, $literal) =
		  $admin->{dbh}->selectrow_array(q{SELECT quote_ident($1), quote_ident('r' || $2), quote_literal($1)}, undef, $name{$kind}, $name);
		$admin->do('SET client_min_messages = error');
		$admin->do("CREATE ROLE $role LOGIN");
		$admin->do("CREATE TABLE $relation (id int)");
		$admin->do("ALTER TABLE $relation OWNER TO $role");
		my $holder = session($node, 'holder');
		$holder->do("SET application_name = $literal");
		$holder->do("SET SESSION AUTHORIZATION $role");
		$holder->do("BEGIN; SELECT FROM $relation");
		my $log = -s $node->logfile;
		my $ddl = session($node, 'ddl');
		$ddl->do("SET application_name = $literal");
		$ddl->send("ALTER TABLE $relation ADD extra int");
		await($node, 'it waits', 'SELECT EXISTS (SELECT FROM pg_lockguard_progress WHERE pid = ?)', $ddl->pid);
		for my $format (qw(mermaid dot))
		{
			my $graph = $admin->value("SELECT lock_graph('$format')");
			my @foreign = grep { !/^(flowchart BT|digraph lock_graph \{|\}|    (s\d+ ?(\[|-)|rankdir|node |edge |classDef ))/ } split /\n/, $graph;
			is("@foreign", '', "$format: every line is the diagram's own");
			unlike($graph, qr/[\x00-\x09\x0b-\x1f\x7f]/, "$format: no control character");
		}
		is($admin->value(q{SELECT count(*) FROM lock_tree() WHERE tree ~ E'[\\\\x01-\\\\x1f]'}), 0, 'the tree is drawn in lines');
		my $error = $ddl->error;
		like($error, qr/DETAIL:  ALTER TABLE waited /, 'it fails, and says why');
		# DETAIL, HINT and what the client adds: no other line is in the message, but what stands in the quoted name.
		unlike($error, qr/[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]/, 'no control character in the error') unless $kind eq 'lines';
		my @lines = split /\n/, slurp_file($node->logfile, $log);
		is(scalar(grep { /pg_lockguard event: / && !/^\d{4}-\d\d-\d\d .*LOG:  pg_lockguard event: kind=\w+ id=\d+ pid=/ } @lines), 0, 'events are lines of the log');
		is(scalar(grep { /^(LOG|PANIC):  forged/ } @lines), 0, 'nobody forges one');
		ok($admin->value(q{SELECT bool_and(convert_from(convert_to(concat(e), 'UTF8'), 'UTF8') IS NOT NULL) FROM pg_lockguard_events e}), 'the record is valid text');
		$holder->do('ROLLBACK');
		forget_sessions($ddl, $holder);
		$admin->do("DROP TABLE $relation");
		$admin->do("DROP ROLE $role");
		forget_sessions($admin);
	};
}

subtest 'a prepared transaction' => sub {
	my $admin = session($node, 'admin');
	$admin->do('CREATE TABLE users (id int)');
	my $gid = qq{g"]; x --> y\nLOG:  forged 'q' \\};
	my $literal = $admin->value('SELECT quote_literal($1)', $gid);
	$admin->do("BEGIN; INSERT INTO users VALUES (1)");
	$admin->do("PREPARE TRANSACTION $literal");
	my $ddl = session($node, 'ddl');
	my $log = -s $node->logfile;
	$ddl->send('ALTER TABLE users ADD extra int');
	await($node, 'it waits', 'SELECT EXISTS (SELECT FROM pg_lockguard_progress WHERE pid = ?)', $ddl->pid);
	is($admin->value('SELECT gid FROM lock_tree() WHERE pid = 0'), $gid, 'the tree has its name');
	my $graph = $admin->value(q{SELECT lock_graph('mermaid')});
	unlike($graph, qr/^LOG|x --> y/m, 'the picture has it as text');
	like($ddl->error, qr/prepared transaction/, 'the error names it');
	unlike(slurp_file($node->logfile, $log), qr/^LOG:  forged/m, 'nobody forges a line of the log');
	$admin->do("ROLLBACK PREPARED $literal");
};

ends_well($node);
done_testing();
