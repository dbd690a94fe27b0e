# docs/all-settings-and-columns.md is what the server says of the extension (scripts/make-reference writes it);
# and what people have written themselves, docs/reference.md, leaves out no setting, function or column.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";
use File::Basename;
use IPC::Run ();
use LockGuard;
use PostgreSQL::Test::Utils;
use Test::More;

my $top = dirname(dirname($FindBin::RealBin));
my $node = start_node('reference', "shared_preload_libraries = 'pg_lockguard'");

sub page
{
	my $page = slurp_file("$top/docs/$_[0]");
	utf8::decode($page);
	return $page;
}

subtest 'the page that is written by the server' => sub {
	my ($stdout, $stderr);
	IPC::Run::run(
		[
			'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres'), '-f', "$top/scripts/reference.sql" ],
		'>', \$stdout, '2>', \$stderr);
	is($stderr, '', 'psql has nothing to complain of');
	is($stdout, page('all-settings-and-columns.md'), 'scripts/make-reference would change nothing');
	like($stdout, qr/^\| `pg_lockguard\.ddl_mode` \| `low_priority` \|/m, '... and it has what it is to have');
};

subtest 'the page that people have written' => sub {
	my $page = page('reference.md');
	my $observer = LockGuard::observer($node);
	my @missing = grep { $page !~ /\b\Q$_\E\b/ } map { $_->[0] } @{
		$observer->{dbh}->selectall_arrayref(q{
			SELECT name FROM pg_settings WHERE name LIKE 'pg\_lockguard.%'
			UNION ALL
			SELECT proname FROM pg_proc p JOIN pg_depend d ON d.objid = p.oid AND d.classid = 'pg_proc'::regclass
				AND deptype = 'e' JOIN pg_extension e ON d.refobjid = e.oid WHERE extname = 'pg_lockguard'
			UNION
			SELECT unnest(proargnames) FROM pg_proc p JOIN pg_depend d ON d.objid = p.oid AND d.classid = 'pg_proc'::regclass
				AND deptype = 'e' JOIN pg_extension e ON d.refobjid = e.oid WHERE extname = 'pg_lockguard'}) };
	is_deeply(\@missing, [], 'it names each setting, function and column');
};

$node->stop;
done_testing();
