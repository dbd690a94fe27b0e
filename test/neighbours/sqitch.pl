# sqitch: it runs its scripts by psql, and holds an advisory lock meanwhile.
# packages: sqitch libdbd-pg-perl
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib", "$FindBin::RealBin/../tap/lib";

use LockGuard;
use Neighbours;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node('sqitch', q{shared_preload_libraries = 'pg_lockguard'});
my $project = PostgreSQL::Test::Utils::tempdir;
mkdir "$project/deploy" or die "$project/deploy: $!";
write_file("$project/sqitch.conf", "[core]\n\tengine = pg\n\ttop_dir = $project\n\tplan_file = $project/sqitch.plan\n");
write_file("$project/sqitch.plan", join("\n", '%syntax-version=1.0.0', '%project=shop', '',
	map { "change$_ 2026-01-0${_}T00:00:00Z Shop <shop\@example.com> # change $_" } 1 .. 5) . "\n");
write_file("$project/deploy/change1.sql", "BEGIN;\nCREATE TABLE users (id int PRIMARY KEY);\nCOMMIT;\n");
write_file("$project/deploy/change$_.sql", "BEGIN;\nALTER TABLE users ADD c$_ int;\nCOMMIT;\n") for 2 .. 5;

my $target = 'db:pg:postgres';
migrates(
	$node, 'sqitch',
	env => { PGHOST => $node->host, PGPORT => $node->port, SQITCH_FULLNAME => 'Shop', SQITCH_EMAIL => 'shop@example.com',
		SQITCH_CONFIG => "$project/sqitch.conf" },
	command => sub { return ('sqitch', '--chdir', $project, 'deploy', '--to-change', "change$_[0]", $target) },
	recorded => sub { return "SELECT EXISTS (SELECT FROM sqitch.changes WHERE change = 'change$_[0]')" });

ends_well($node);
done_testing();
