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

my $node = start_node('alembic', q{shared_preload_libraries = 'pg_lockguard'}, tool_settings());
my $project = PostgreSQL::Test::Utils::tempdir;
my ($host, $port, $user) = ($node->host, $node->port, scalar getpwuid($<));
mkdir $_ or die "$_: $!" for "$project/migrations", "$project/migrations/versions";
# What `alembic init` makes, with what docs/operations.md adds for NOTICEs.
my $loggers = recipe('ini', qr/logger_notices/);
write_file("$project/alembic.ini", <<INI);
[alembic]
script_location = $project/migrations

$loggers
[handlers]
keys = console

[formatters]
keys = generic

[logger_root]
level = WARN
handlers = console
qualname =

[logger_sqlalchemy]
level = WARN
handlers =
qualname = sqlalchemy.engine

[logger_alembic]
level = INFO
handlers =
qualname = alembic

[handler_console]
class = StreamHandler
args = (sys.stderr,)
level = NOTSET
formatter = generic

[formatter_generic]
format = %(levelname)-5.5s [%(name)s] %(message)s
INI
write_file("$project/migrations/env.py", <<PY);
from logging.config import fileConfig
from alembic import context
from sqlalchemy import create_engine

fileConfig(context.config.config_file_name)

with create_engine('postgresql+psycopg2://$user\@/postgres?host=$host&port=$port').connect() as connection:
    context.configure(connection=connection, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()
PY
my $fk = q{op.create_table('orders', sa.Column('user_id', sa.Integer)); op.create_foreign_key('fk', 'orders', 'users', ['user_id'], ['id'])};
my $index = q{with op.get_context().autocommit_block(): op.create_index('by_c2', 'users', ['c2'], postgresql_concurrently=True)};
for my $i (1 .. 7)
{
	my $before = $i == 1 ? 'None' : "'r" . ($i - 1) . "'";
	my $change = $i == 1 ? q{op.create_table('users', sa.Column('id', sa.Integer, primary_key=True))}
	  : $i == 6 ? $fk
	  : $i == 7 ? $index
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

my %alembic = (
	env => { PYTHONDONTWRITEBYTECODE => 1 },
	two => qr/column "c[45]" of relation "users" already exists/,
	command => sub { return ('alembic', '-c', "$project/alembic.ini", 'upgrade', "r$_[0]") },
	recorded => sub { return "SELECT (version_num >= 'r$_[0]')::int FROM alembic_version" });
migrates($node, 'Alembic', %alembic);
migrates_beside_a_writer($node, 'Alembic', %alembic);

ends_well($node);
done_testing();
