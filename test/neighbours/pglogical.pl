# pglogical: DDL that it replicates waits at low priority on the subscriber.
# packages: postgresql-MAJOR-pglogical
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib", "$FindBin::RealBin/../tap/lib";

use LockGuard;
use Neighbours;
use PostgreSQL::Test::Utils;
use Test::More;

for my $libraries (orders_of('pglogical'))
{
	my $name = $libraries =~ s/,.*//r;
	subtest $libraries => sub {
		my ($provider, $subscriber) = map {
			start_node("${_}_$name", { streaming => 1 }, "shared_preload_libraries = '$libraries'", q{wal_level = logical},
				q{max_replication_slots = 10}, q{max_wal_senders = 10})
		} qw(provider subscriber);
		# Newer minor releases let only such libraries be output plugins that are named there.
		if ($provider->safe_psql('postgres', q{SELECT count(*) FROM pg_settings WHERE name = 'output_plugin_libraries'}))
		{
			$provider->append_conf('postgresql.conf', q{output_plugin_libraries = 'pgoutput, pglogical_output'});
			$provider->reload;
		}
		for ($provider, $subscriber)
		{
			$_->safe_psql('postgres', 'CREATE EXTENSION pglogical; CREATE TABLE users (id int PRIMARY KEY)');
			$_->safe_psql('postgres', sprintf(q{SELECT pglogical.create_node('%s', '%s')}, $_->name, $_->connstr('postgres') =~ s/'/''/gr));
		}
		$provider->safe_psql('postgres', q{SELECT pglogical.replication_set_add_all_tables('default', '{public}')});
		$subscriber->safe_psql('postgres', sprintf(q{SELECT pglogical.create_subscription('s', '%s', synchronize_data := false);
			SELECT pglogical.wait_for_subscription_sync_complete('s')}, $provider->connstr('postgres') =~ s/'/''/gr));
		my $there = LockGuard::observer($subscriber);
		$provider->safe_psql('postgres', 'INSERT INTO users VALUES (1)');
		await($subscriber, 'a row comes', 'SELECT count(*) = 1 FROM users');

		my $reader = session($subscriber, 'reader');
		$reader->do('BEGIN; SELECT FROM users');
		$provider->safe_psql('postgres', q{SELECT pglogical.replicate_ddl_command('ALTER TABLE public.users ADD extra int')});
		await_waiting($subscriber);
		is($there->value('SELECT count(*) FROM users'), 1, 'others read on the subscriber');
		$reader->do('COMMIT');
		$provider->safe_psql('postgres', 'INSERT INTO users VALUES (2, 2)');
		await($subscriber, 'the column and the next row come', q{SELECT (to_jsonb(u) ->> 'extra') = '2' FROM users u WHERE id = 2});
		forget_sessions($reader);
		for ($subscriber, $provider)
		{
			ends_well($_);
			$_->stop;
		}
	};
}
done_testing();
