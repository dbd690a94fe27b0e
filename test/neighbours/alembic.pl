# Alembic, the migrations of SQLAlchemy.
# packages: alembic python3-sqlalchemy python3-psycopg2
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib", "$FindBin::RealBin/../tap/lib";

use LockGuard;
use Neighbours;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node('alembic', q{shared_preload_libraries = 'pg_lockguard'});
my $project = PostgreSQL::Test::Utils::tempdir;
my ($host, $port, $user) = ($node->host, $node->port, scalar getpwuid($<));
mkdir $_ or die "$_: $!" for "$project/migrations", "$project/migrations/versions";
write_file("$project/alembic.ini", "[alembic]\nscript_location = $project/migrations\n");
write_file("$project/migrations/env.py", <<PY);
from alembic import context
from sqlalchemy import create_engine

with create_engine('postgresql+psycopg2://$user\@/postgres?host=$host&port=$port').connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
PY
for my $i (1 .. 5)
{
	my $before = $i == 1 ? 'None' : "'r" . ($i - 1) . "'";
	my $change = $i == 1 ? q{op.create_table('users', sa.Column('id', sa.Integer, primary_key=True))}
	  : qq{op.add_column('users', sa.Column('c$i', sa.Integer))};
	write_file("$project/migrations/versions/r$i.py", <<PY);
from alembic import op
import sqlalchemy as sa

revision = 'r$i'
down_revision = $before

def upgrade():
    $change
PY
}

migrates(
	$node, 'Alembic',
	env => { PYTHONDONTWRITEBYTECODE => 1 },
	command => sub { return ('alembic', '-c', "$project/alembic.ini", 'upgrade', "r$_[0]") },
	recorded => sub { return "SELECT version_num >= 'r$_[0]' FROM alembic_version" });

ends_well($node);
done_testing();
