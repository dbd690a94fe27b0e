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

my $node = start_node('sqitch', q{shared_preload_libraries = 'pg_lockguard'}, tool_settings());
my $project = PostgreSQL::Test::Utils::tempdir;
mkdir "$project/deploy" or die "$project/deploy: $!";
write_file("$project/sqitch.conf", "[core]\n\tengine = pg\n\ttop_dir = $project\n\tplan_file = $project/sqitch.plan\n");
write_file("$project/sqitch.plan", join("\n", '%syntax-version=1.0.0', '%project=shop', '',
	map { "change$_ 2026-01-0${_}T00:00:00Z Shop <shop\@example.com> # change $_" } 1 .. 7) . "\n");
write_file("$project/deploy/change1.sql", "BEGIN;\nCREATE TABLE users (id int PRIMARY KEY);\nCOMMIT;\n");
write_file("$project/deploy/change$_.sql", "BEGIN;\nALTER TABLE users ADD c$_ int;\nCOMMIT;\n") for 2 .. 5;
write_file("$project/deploy/change6.sql",
	"BEGIN;\nCREATE TABLE orders (user_id int);\nALTER TABLE orders ADD FOREIGN KEY (user_id) REFERENCES users;\nCOMMIT;\n");
write_file("$project/deploy/change7.sql", "CREATE INDEX CONCURRENTLY by_c2 ON users (c2);\n");

my $target = 'db:pg:postgres';
my %sqitch = (
	env => { PGHOST => $node->host, PGPORT => $node->port, SQITCH_FULLNAME => 'Shop', SQITCH_EMAIL => 'shop@example.com',
		SQITCH_CONFIG => "$project/sqitch.conf" },
	two => qr/Blocked by another instance of Sqitch/,
	command => sub { return ('sqitch', '--chdir', $project, 'deploy', '--to-change', "change$_[0]", $target) },
	recorded => sub { return "SELECT EXISTS (SELECT FROM sqitch.changes WHERE change = 'change$_[0]')::int" });
migrates($node, 'sqitch', %sqitch);
migrates_beside_a_writer($node, 'sqitch', %sqitch);

ends_well($node);
done_testing();
