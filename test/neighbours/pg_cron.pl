# pg_cron: DDL in a job, run by a background worker, waits at low priority.
# packages: postgresql-MAJOR-cron
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib", "$FindBin::RealBin/../tap/lib";

use LockGuard;
use Neighbours;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node('cron', q{shared_preload_libraries = 'pg_cron,pg_lockguard'}, q{cron.database_name = 'postgres'},
	q{cron.use_background_workers = on});
$node->safe_psql('postgres', 'CREATE EXTENSION pg_cron; CREATE TABLE users (id int)');
my $observer = LockGuard::observer($node);
my $reader = session($node, 'reader');
$reader->do('BEGIN; SELECT FROM users');
# Jobs begin with the minute.
my $job = $observer->value(q{SELECT cron.schedule('add', '* * * * *', 'ALTER TABLE users ADD IF NOT EXISTS extra int')});
await_waiting($node);
is($observer->value('SELECT count(*) FROM users'), 0, 'others read while it waits');
is($observer->value(q{SELECT backend_type FROM pg_lockguard_progress JOIN pg_stat_activity USING (pid)}), 'pg_cron', 'the background worker');
$observer->value('SELECT cron.unschedule(?::bigint)', $job);
$reader->do('COMMIT');
await($node, 'the job ends', q{SELECT status NOT IN ('starting', 'running', 'sending', 'connecting') FROM cron.job_run_details ORDER BY runid LIMIT 1});
is($observer->value('SELECT status FROM cron.job_run_details ORDER BY runid LIMIT 1'), 'succeeded', 'it is done after the COMMIT');
is($observer->value(q{SELECT count(*) FROM pg_attribute WHERE attrelid = 'users'::regclass AND attname = 'extra'}), 1, 'the column is there');
ends_well($node);
done_testing();
