# lock_graph(): the diagrams show what lock_tree() shows, whatever those who wait call themselves;
# Graphviz draws them (where dot is installed), and every line is one that Mermaid's grammar of
# flowcharts has a rule for.
#
# Of that grammar the diagrams use this much, and the test allows no more:
#   flowchart BT                     the kind of diagram, and its direction
#   ID["TEXT"]  ID["TEXT"]:::CLASS   a node
#   ID --> ID   ID -.-> ID           an edge; with |"TEXT"| behind the arrow, a label
#   classDef CLASS KEY:VALUE,...     a style
# where ID is s and a number (never the keyword "end"), and TEXT has no quote and no backquote: ASCII
# letters, digits, " _.,()/+-?", <br>, entities by number (#34;), and characters beyond ASCII.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use IPC::Run ();
use LockGuard;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node('graph');
$node->safe_psql('postgres', q{
	CREATE ROLE app LOGIN;
	CREATE ROLE plain LOGIN;
	CREATE TABLE users (id int);
	CREATE TABLE "od""d \ <b> #quot; `name`" (id int);
	INSERT INTO users VALUES (1), (2);
	GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC;
});
my $observer = LockGuard::observer($node);
my $dot = (grep { -x "$_/dot" } split /:/, $ENV{PATH})[0] && 'dot';
diag('dot (Debian package graphviz) is not installed: no diagram is drawn') if !$dot;

my $text = qr/(?:[A-Za-z0-9 _.,()\/+?-]|[^\x00-\x7f]|#\d+;|<br>)*/;
my @mermaid_lines = (
	qr/^    s\d+\["$text"\](?::::[a-z]+)?$/,
	qr/^    s\d+ -\.?->(?:\|"$text"\|)? s\d+$/,
	qr/^    classDef [a-z]+ [a-z-]+:[a-z0-9]+(?:,[a-z-]+:[a-z0-9]+)*$/);

# A diagram, after its form has been checked.
sub graph
{
	my ($format, $viewer) = @_;
	my $graph = ($viewer // $observer)->value('SELECT lock_graph(?)', $format);
	return checked_mermaid($graph) if $format eq 'mermaid';
	return checked_dot($graph);
}

sub checked_mermaid
{
	my ($graph) = @_;
	my ($first, @lines) = split /\n/, $graph;
	is($first, 'flowchart BT', 'mermaid: the first line');
	my @strange = grep { my $line = $_; !grep { $line =~ $_ } @mermaid_lines } @lines;
	is_deeply(\@strange, [], 'mermaid: all lines are of its grammar');
	my %node = map { /^    (s\d+)\[/ ? ($1 => 1) : () } @lines;
	my @unknown = grep { !$node{$_} } map { /^    (s\d+) .*> ?.* (s\d+)$/ ? ($1, $2) : () }
	  map { s/\|".*"\|//r } @lines;
	is_deeply(\@unknown, [], 'mermaid: edges join nodes');
	return $graph;
}

# Where Graphviz is there, what it makes of it: the number of nodes and of edges.
sub checked_dot
{
	my ($graph) = @_;
	return $graph if !$dot;
	my ($out, $err) = ('', '');
	my $fine = IPC::Run::run([ $dot, '-Tplain' ], '<', \$graph, '>', \$out, '2>', \$err);
	ok($fine, 'dot draws it') or diag($graph);
	is($err, '', '... without a warning');
	is(scalar(() = $out =~ /^node /mg), scalar(() = $graph =~ /^    s\d+ \[/mg), '... all nodes');
	is(scalar(() = $out =~ /^edge /mg), scalar(() = $graph =~ /^    s\d+ -> /mg), '... all edges');
	($out, $err) = ('', '');
	ok(IPC::Run::run([ $dot, '-Tsvg' ], '<', \$graph, '>', \$out, '2>', \$err), 'dot makes an SVG');
	my @elements = sort map { lc } $out =~ /<([a-z]+)/gi;
	my %known = map { $_ => 1 } qw(svg g title polygon path text ellipse a xml doctype);
	is_deeply([ grep { !$known{$_} } @elements ], [], '... with nothing of anybody else in it');
	return $graph;
}

subtest 'nobody waits' => sub {
	is(graph('mermaid'), qq{flowchart BT\n    s0["nobody waits"]\n}, 'mermaid');
	like(graph('dot'), qr/s0 \[label="nobody waits"\];/, 'dot');
};

subtest 'formats' => sub {
	for my $wrong ('svg', 'MERMAID', '')
	{
		my ($code, $out, $err) = $node->psql('postgres', "SELECT lock_graph('$wrong')");
		like($err, qr/ERROR:  unknown format "$wrong" of a lock graph\nHINT:  The formats are "mermaid" and "dot"\./,
			"\"$wrong\" is none");
	}
	is($observer->value('SELECT lock_graph(NULL)'), undef, 'null gives null');
};

subtest 'a reader, ALTER TABLE, readers' => sub {
	my ($reader, $alter) = (session($node, 'sidekiq', user => 'app'), session($node, 'migrate'));
	my @web = map { session($node, "web$_") } 1 .. 3;
	$reader->do('BEGIN; SELECT FROM users');
	$alter->do(q{LOAD 'pg_lockguard'; SET pg_lockguard.ddl_mode = off});
	settle($node, $alter->send('ALTER TABLE users ADD COLUMN n int'));
	$_->send('SELECT FROM users') for @web;
	settle($node, $alter, @web);
	my $mermaid = graph('mermaid');
	like($mermaid, qr/^    s0\["PID ${\$reader->pid} sidekiq<br>idle in transaction"\]:::rootcause$/m, 'the root');
	like($mermaid, qr/^    s1\["PID ${\$alter->pid} migrate<br>wants AccessExclusiveLock<br>on public\.users<br>for [0-9.]+ m?s"\]$/m, 'who waits for it');
	like($mermaid, qr/^    s1 -->\|"holds AccessShareLock"\| s0$/m, 'the root holds the lock');
	is(scalar(() = $mermaid =~ /-\.->\|"ahead, wants AccessExclusiveLock"\| s1$/mg), 3, 'ALTER TABLE stands ahead of three');
	my $plots = graph('dot');
	like($plots, qr/s1 -> s0 \[label="holds AccessShareLock"\];/, 'dot: the root holds the lock');
	unlike(graph('mermaid', session($node, 'viewer', user => 'plain')), qr/idle in transaction/,
		'the state is not for others');
	like(graph('mermaid', session($node, 'viewer', user => 'app')), qr/idle in transaction/,
		'... but for the role itself');
	$reader->do('ROLLBACK');
	await_end($alter, @web);
	forget_sessions();
};

subtest 'hostile names' => sub {
	my @names = (
		q{"] --> x["}, q{`*md*`}, q{%%{init: {}}%%}, q{<script>alert(1)</script>},
		q{#quot;}, q{a\\}, q{\\" ]; evil [label="x}, q{\\N\\G\\l}, q{&lt;b&gt; &}, 'end',
		q{style x:y#;}, q{"|x|"}, '```', q{click s0 call x()}, 'subgraph', q{ü ß €});
	my $holder = session($node, 'holder');
	$holder->do('BEGIN; LOCK TABLE "od""d \ <b> #quot; `name`"');
	my @waiters = map { session($node, "waiter$_") } 0 .. $#names;
	for my $i (0 .. $#names)
	{
		$waiters[$i]->do('SET application_name = ' . $observer->{dbh}->quote($names[$i]));
		$waiters[$i]->send('SELECT FROM "od""d \ <b> #quot; `name`"');
	}
	settle($node, @waiters);
	my $mermaid = graph('mermaid');
	is(scalar(() = $mermaid =~ /^    s\d+\["PID/mg), @names + 1, 'mermaid: as many nodes as sessions');
	is(scalar(() = $mermaid =~ /-->/mg), scalar @names, '... and edges');
	my $plots = graph('dot');
	is(scalar(() = $plots =~ /^    s\d+ \[label="PID/mg), @names + 1, 'dot: as many nodes as sessions');
	$holder->do('ROLLBACK');
	await_end(@waiters);
	forget_sessions();
};

subtest 'a prepared transaction, and a cycle' => sub {
	my ($one, $two, $three) = map { session($node, $_) } qw(one two three);
	$one->do(q{BEGIN; LOCK TABLE users; PREPARE TRANSACTION 'order "7"'});
	settle($node, $two->send('SELECT FROM users'));
	like(graph('mermaid'), qr/s0\["prepared transaction<br>order #34;7#34;"\]:::rootcause/, 'mermaid: its identifier');
	like(graph('dot'), qr/s0 \[label="prepared transaction\\norder \\"7\\""/, 'dot: its identifier');
	$observer->do(q{ROLLBACK PREPARED 'order "7"'});
	await_end($two);

	$two->do('BEGIN; SELECT pg_advisory_xact_lock(1)');
	$three->do('BEGIN; SELECT pg_advisory_xact_lock(2)');
	settle($node, $two->send('SELECT pg_advisory_xact_lock(2)'));
	settle($node, $three->send('SELECT pg_advisory_xact_lock(1)'));
	my $mermaid = graph('mermaid');
	is(scalar(() = $mermaid =~ /:::deadlock$/mg), 2, 'both are marked');
	like($mermaid, qr/s0 -->\|"holds ExclusiveLock"\| s1$/m, 'one way');
	like($mermaid, qr/s1 -->\|"holds ExclusiveLock"\| s0$/m, '... and the other');
	like(graph('dot'), qr/color=red/, 'dot: both are marked');
	forget_sessions();
};

subtest 'waits for no lock' => sub {
	my ($holder, $waiter, $viewer) = map { session($node, $_) } qw(holder waiter viewer);
	$viewer->do(q{SET lock_timeout = '5s'; PREPARE look AS SELECT lock_graph('mermaid')});
	$viewer->value('EXECUTE look');
	$holder->do('BEGIN; LOCK TABLE users');
	settle($node, $waiter->send('SELECT FROM users'));
	my $catalogs = session($node, 'catalogs');
	$viewer->value('EXECUTE look');
	$catalogs->do('BEGIN; LOCK TABLE pg_class, pg_authid, pg_type');
	like($viewer->value('EXECUTE look'), qr/on relation \d+ of database \d+/, 'OIDs where names are not to be had');
	$catalogs->do('ROLLBACK');
	forget_sessions();
};

done_testing();
