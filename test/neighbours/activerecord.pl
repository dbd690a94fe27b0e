# ActiveRecord, the migrations of Rails: a second runner that does not get the advisory lock of the first fails, by design.
# packages: ruby-activerecord ruby-pg
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib", "$FindBin::RealBin/../tap/lib";

use LockGuard;
use Neighbours;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node('activerecord', q{shared_preload_libraries = 'pg_lockguard'}, tool_settings());
my $project = PostgreSQL::Test::Utils::tempdir;
my ($host, $port, $user) = ($node->host, $node->port, scalar getpwuid($<));
mkdir "$project/migrate" or die "$project/migrate: $!";
write_file("$project/migrate.rb", <<RUBY);
require 'active_record'
ActiveRecord::Base.establish_connection(adapter: 'postgresql', database: 'postgres', host: '$host', port: $port, username: '$user', min_messages: 'notice')
ActiveRecord::MigrationContext.new('$project/migrate', ActiveRecord::SchemaMigration).migrate(ARGV[0].to_i)
RUBY
my $fk = "create_table(:orders) { |t| t.bigint :user_id }; add_foreign_key :orders, :users";
my $index = "add_index :users, :c2, name: 'by_c2', algorithm: :concurrently";
for my $i (1 .. 7)
{
	my $outside = $i == 7 ? 'disable_ddl_transaction!' : '';
	my $change = $i == 1 ? 'create_table :users' : $i == 6 ? $fk : $i == 7 ? $index : "add_column :users, :c$i, :integer";
	write_file("$project/migrate/${i}_change$i.rb", <<RUBY);
class Change$i < ActiveRecord::Migration[6.1]
  $outside
  def change
    $change
  end
end
RUBY
}

my %activerecord = (
	two => qr/ConcurrentMigrationError/,
	command => sub { return ('ruby', "$project/migrate.rb", $_[0]) },
	recorded => sub { return "SELECT EXISTS (SELECT FROM schema_migrations WHERE version = '$_[0]')::int" });
migrates($node, 'ActiveRecord', %activerecord);
migrates_beside_a_writer($node, 'ActiveRecord', %activerecord);

ends_well($node);
done_testing();
