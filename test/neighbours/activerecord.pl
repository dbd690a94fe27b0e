# ActiveRecord, the migrations of Rails: a second runner waits for the advisory lock of the first, by design.
# packages: ruby-activerecord ruby-pg
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib", "$FindBin::RealBin/../tap/lib";

use LockGuard;
use Neighbours;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node('activerecord', q{shared_preload_libraries = 'pg_lockguard'});
my $project = PostgreSQL::Test::Utils::tempdir;
my ($host, $port, $user) = ($node->host, $node->port, scalar getpwuid($<));
mkdir "$project/migrate" or die "$project/migrate: $!";
write_file("$project/migrate.rb", <<RUBY);
require 'active_record'
ActiveRecord::Base.establish_connection(adapter: 'postgresql', database: 'postgres', host: '$host', port: $port, username: '$user')
ActiveRecord::MigrationContext.new('$project/migrate', ActiveRecord::SchemaMigration).migrate(ARGV[0].to_i)
RUBY
for my $i (1 .. 5)
{
	my $change = $i == 1 ? 'create_table :users' : "add_column :users, :c$i, :integer";
	write_file("$project/migrate/${i}_change$i.rb", <<RUBY);
class Change$i < ActiveRecord::Migration[6.1]
  def change
    $change
  end
end
RUBY
}

migrates(
	$node, 'ActiveRecord',
	command => sub { return ('ruby', "$project/migrate.rb", $_[0]) },
	recorded => sub { return "SELECT EXISTS (SELECT FROM schema_migrations WHERE version = '$_[0]')" });

ends_well($node);
done_testing();
