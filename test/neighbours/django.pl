# Django's migrations.
# packages: python3-django python3-psycopg2
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib", "$FindBin::RealBin/../tap/lib";

use LockGuard;
use Neighbours;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node('django', q{shared_preload_libraries = 'pg_lockguard'}, tool_settings());
my $project = PostgreSQL::Test::Utils::tempdir;
my ($host, $port, $user) = ($node->host, $node->port, scalar getpwuid($<));
mkdir $_ or die "$_: $!" for "$project/shop", "$project/shop/migrations";
write_file("$project/$_", '') for 'shop/__init__.py', 'shop/migrations/__init__.py';
# As docs/operations.md says how to see NOTICEs.
write_file("$project/shop/apps.py", recipe('python', qr/show_notices/) =~ s/name = "app"/name = "shop"/r);
write_file("$project/settings.py", <<PY);
SECRET_KEY = 'none'
INSTALLED_APPS = ['shop']
DEFAULT_AUTO_FIELD = 'django.db.models.AutoField'
DATABASES = {'default': {'ENGINE': 'django.db.backends.postgresql',
    'NAME': 'postgres', 'HOST': '$host', 'PORT': '$port', 'USER': '$user'}}
PY
write_file("$project/shop/migrations/0001_users.py", <<'PY');
from django.db import migrations, models

class Migration(migrations.Migration):
    initial = True
    dependencies = []
    operations = [migrations.CreateModel('User', [('id', models.AutoField(primary_key=True))], options={'db_table': 'users'})]
PY
for my $i (2 .. 5)
{
	my $before = $i == 2 ? '0001_users' : sprintf('%04d_c%d', $i - 1, $i - 1);
	write_file(sprintf('%s/shop/migrations/%04d_c%d.py', $project, $i, $i), <<PY);
from django.db import migrations, models

class Migration(migrations.Migration):
    dependencies = [('shop', '$before')]
    operations = [migrations.AddField('user', 'c$i', models.IntegerField(null=True))]
PY
}
write_file("$project/shop/migrations/0006_order.py", <<'PY');
from django.db import migrations, models

class Migration(migrations.Migration):
    dependencies = [('shop', '0005_c5')]
    operations = [migrations.CreateModel('Order', [('id', models.AutoField(primary_key=True)),
        ('user', models.ForeignKey('User', models.CASCADE))])]
PY
write_file("$project/shop/migrations/0007_by_c2.py", <<'PY');
from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models

class Migration(migrations.Migration):
    atomic = False
    dependencies = [('shop', '0006_order')]
    operations = [AddIndexConcurrently('user', models.Index(fields=['c2'], name='by_c2'))]
PY

my %django = (
	env => { PYTHONPATH => $project, DJANGO_SETTINGS_MODULE => 'settings', PYTHONDONTWRITEBYTECODE => 1 },
	two => qr/column "c[45]" of relation "users" already exists/,
	command => sub { return ('python3', '-m', 'django', 'migrate', 'shop', sprintf('%04d', $_[0])) },
	recorded => sub { return sprintf(q{SELECT EXISTS (SELECT FROM django_migrations WHERE app = 'shop' AND name LIKE '%04d%%')::int}, $_[0]) });
migrates($node, 'Django', %django);
migrates_beside_a_writer($node, 'Django', %django);

ends_well($node);
done_testing();
