# pg_lockguard_incidents: what stands in a row, for each way in which an incident can end; who sees
# what of it; its line in the server log.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";
use JSON::PP;
use LockGuard;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $node = start_node(
	'incidents',
	q{shared_preload_libraries = 'pg_lockguard'},
	q{pg_lockguard.ddl_mode = off},
	q{pg_lockguard.worker_interval = 100ms},
	q{pg_lockguard.incident_min_wait = 200ms},
	q{pg_lockguard.log_incidents = 0},
	q{pg_lockguard.incidents_max = 20},
	q{log_destination = 'stderr,csvlog,jsonlog'},
	q{logging_collector = on},
	q{log_statement = none});
$node->safe_psql('postgres', q{
	CREATE ROLE app LOGIN;
	CREATE ROLE plain LOGIN;
	CREATE ROLE reader LOGIN;
	GRANT pg_monitor TO reader;
	CREATE TABLE users (id int PRIMARY KEY, n int);
	INSERT INTO users VALUES (1, 0), (2, 0), (3, 0);
	GRANT ALL ON users TO PUBLIC;
	CREATE DATABASE other;
});
$node->safe_psql('other', 'CREATE EXTENSION pg_lockguard');
my $observer = LockGuard::observer($node);
my ($relation, $database) = map { $observer->value($_) }
  q{SELECT 'users'::regclass::oid}, q{SELECT oid FROM pg_database WHERE datname = 'postgres'};

# The incident of that root that is the latest, as soon as it is open, or has ended.
sub open_incident
{
	my ($root, $waiters) = @_;
	my $which = 'FROM pg_lockguard_incidents WHERE root_pid = ? AND ended IS NULL AND waiters >= ?';
	my @values = (ref $root ? $root->pid : $root, $waiters // 1);
	await($node, "an incident of $values[0]", "SELECT EXISTS (SELECT $which)", @values);
	return ($observer->rows("SELECT * $which ORDER BY id DESC LIMIT 1", @values))[0];
}

sub ended
{
	my ($incident) = @_;
	await($node, "the end of incident $incident->{id}",
		'SELECT ended IS NOT NULL FROM pg_lockguard_incidents WHERE id = ?', $incident->{id});
	return ($observer->rows(q{
		SELECT *, began <= last_seen AND last_seen <= ended AS in_order, ended <= clock_timestamp() AS past,
			extract(epoch FROM longest_wait) * 1000 AS longest_ms,
			extract(epoch FROM time_waited) * 1000 AS waited_ms,
			extract(epoch FROM ended - began) * 1000 AS lasted_ms
		FROM pg_lockguard_incidents WHERE id = ?}, $incident->{id}))[0];
}

sub some_columns
{
	my ($row, @columns) = @_;
	return { map { $_ => $row->{$_} } @columns };
}

is($observer->value('SELECT count(*) FROM pg_lockguard_incidents'), 0, 'at first there is none');

subtest 'a reader, ALTER TABLE and readers; released' => sub {
	my ($reader, $alter, $web) =
	  (session($node, 'sidekiq', user => 'app'), session($node, 'migrate'), session($node, 'web'));
	$reader->do('BEGIN');
	$reader->do(q{SELECT FROM users /* a secret */});
	settle($node, $alter->send('ALTER TABLE users ADD COLUMN m int'));
	settle($node, $web->send('SELECT FROM users'));
	my $open = open_incident($reader, 2);
	is_deeply(
		some_columns($open, qw(ended root_gid root_datname root_usename root_application_name
			root_backend_type root_state root_query lock_type lock_object mode_held mode_wanted waiters
			sessions how_ended part_of)),
		{
			ended => undef, root_gid => undef, root_datname => 'postgres', root_usename => 'app',
			root_application_name => 'sidekiq', root_backend_type => 'client backend',
			root_state => 'idle in transaction', root_query => 'SELECT FROM users /* a secret */',
			lock_type => 'relation', lock_object => 'public.users', mode_held => 'AccessShareLock',
			mode_wanted => 'AccessExclusiveLock', waiters => 2, sessions => 2, how_ended => undef,
			part_of => undef
		},
		'all that is known of it');
	my ($r, $a, $w) = map { $_->pid } $reader, $alter, $web;
	utf8::encode($open->{lock_tree}) if utf8::is_utf8($open->{lock_tree});
	like($open->{lock_tree}, qr/^$r "sidekiq"\n└─ $a "migrate" wants AccessExclusiveLock on public\.users for [\d.]+ m?s\n   └─ $w "web" wants AccessShareLock on public\.users for [\d.]+ m?s$/,
		'the tree');
	like($observer->value(q{SELECT lock_graph('mermaid', ?)}, $open->{id}),
		qr/s0\["PID $r sidekiq<br>idle in transaction"\]:::rootcause\n.*s1 -->\|"holds AccessShareLock"\| s0\n/s, 'the graph');
	like($observer->value(q{SELECT lock_graph('dot', ?)}, $open->{id}), qr/^digraph .*s1 -> s0 /s, '... in the other language');

	my $other = session($node, 'elsewhere', dbname => 'other');
	my ($seen) = $other->rows('SELECT * FROM pg_lockguard_incidents WHERE id = ?', $open->{id});
	is($seen->{lock_object}, "relation $relation of database $database", 'another database: no name');
	unlike($seen->{lock_tree}, qr/users/, '... nor in the tree');
	unlike($other->value(q{SELECT lock_graph('mermaid', ?)}, $open->{id}), qr/users/, '... nor in the graph');
	for my $who (qw(plain app reader))
	{
		my $viewer = session($node, $who, user => $who);
		my ($row) = $viewer->rows('SELECT * FROM pg_lockguard_incidents WHERE id = ?', $open->{id});
		my $sees = $who ne 'plain';
		is_deeply(some_columns($row, qw(root_pid root_usename root_application_name root_query root_state root_backend_type)),
			{ root_pid => $r, root_usename => 'app', root_application_name => 'sidekiq',
			  root_query => $sees ? 'SELECT FROM users /* a secret */' : '<insufficient privilege>',
			  root_state => $sees ? 'idle in transaction' : undef,
			  root_backend_type => $sees ? 'client backend' : undef }, "what $who sees");
		my $graph = $viewer->value(q{SELECT lock_graph('dot', ?)}, $open->{id});
		($sees ? \&like : \&unlike)->($graph, qr/idle in transaction/, "... and in the graph");
	}
	usleep(300_000);
	$reader->do('COMMIT');
	await_end($alter, $web);
	my $end = ended($open);
	is($end->{how_ended}, 'released', 'how it ended');
	ok($end->{in_order} && $end->{past}, 'its times are in order');
	cmp_ok($end->{longest_ms}, '>=', 300, 'the longest wait');
	cmp_ok($end->{waited_ms}, '>=', $end->{longest_ms}, 'all waits together are longer');
	cmp_ok($end->{waited_ms}, '<=', 2 * $end->{lasted_ms}, '... but no longer than two can be');
	forget_sessions();
};

subtest 'waiters that give up' => sub {
	my ($holder, $waiter) = map { session($node, $_) } qw(holder waiter);
	$holder->do('BEGIN; UPDATE users SET n = 1 WHERE id = 1');
	# When the incident has been seen, however late that is.
	my $give_up = sub { $observer->value('SELECT pg_cancel_backend(?)', $waiter->pid); return await_end($waiter) };
	$waiter->send('UPDATE users SET n = 2 WHERE id = 1');
	my $open = open_incident($holder);
	is_deeply(some_columns($open, qw(lock_type mode_held mode_wanted)),
		{ lock_type => 'transactionid', mode_held => 'ExclusiveLock', mode_wanted => 'ShareLock' }, 'a row lock');
	like($give_up->(), qr/user request/, 'it gives up');
	is(ended($open)->{how_ended}, 'waiters gave up', 'and the record says so');
	$waiter->send('UPDATE users SET n = 2 WHERE id = 1');
	my $next = open_incident($holder);
	isnt($next->{id}, $open->{id}, 'the next that waits is another incident');
	$give_up->();
	forget_sessions();
};

subtest 'released within the transaction' => sub {
	my ($holder, $waiter) = map { session($node, $_) } qw(holder waiter);
	$holder->do('BEGIN; SAVEPOINT s; LOCK TABLE users');
	$waiter->send('SELECT FROM users');
	my $open = open_incident($holder);
	$holder->do('ROLLBACK TO s');
	await_end($waiter);
	is(ended($open)->{how_ended}, 'released', 'by ROLLBACK TO SAVEPOINT');
	forget_sessions();
};

subtest 'terminated, cancelled, lost' => sub {
	for my $how ('terminated', 'cancelled', 'idle_in_transaction_session_timeout', 'lost', 'cancelled in a savepoint')
	{
		my ($holder, $waiter) = map { session($node, $_) } 'holder', 'waiter';
		my $timeout = $how =~ /timeout/;
		$holder->do('BEGIN');
		$holder->do('SAVEPOINT s') if $how =~ /savepoint/;
		$holder->do('LOCK TABLE users');
		$holder->send('SELECT pg_sleep(1000)') if $how =~ /cancelled/;
		$waiter->send('SELECT FROM users');
		my $open = open_incident($holder);
		$observer->value('SELECT pg_terminate_backend(?)', $holder->pid) if $how eq 'terminated';
		$observer->value('SELECT pg_cancel_backend(?)', $holder->pid) if $how =~ /cancelled/;
		$holder->do(q{SET idle_in_transaction_session_timeout = '100ms'}) if $timeout;
		$holder->{dbh}->disconnect if $how eq 'lost';
		await_end($waiter);
		my $expected = $timeout ? 'terminated' : $how eq 'lost' ? 'released' : (split ' ', $how)[0];
		is(ended($open)->{how_ended}, $expected, $how);
		forget_sessions($waiter);
		next if $how !~ /cancelled/;
		await_end($holder);
		$holder->do('ROLLBACK');
		forget_sessions($holder);
	}
};

subtest 'a cancelled statement long before the end does not count' => sub {
	my ($holder, $waiter) = map { session($node, $_) } 'holder', 'waiter';
	$holder->do('BEGIN; LOCK TABLE users; SAVEPOINT s');
	$holder->send('SELECT pg_sleep(1000)');
	$waiter->send('SELECT FROM users');
	my $open = open_incident($holder);
	$observer->value('SELECT pg_cancel_backend(?)', $holder->pid);
	await_end($holder);
	for my $look (1 .. 3)
	{
		my $seen = $observer->value('SELECT last_seen FROM pg_lockguard_incidents WHERE id = ?', $open->{id});
		await($node, "look $look", 'SELECT last_seen > ?::timestamptz FROM pg_lockguard_incidents WHERE id = ?', $seen, $open->{id});
	}
	$holder->do('ROLLBACK TO s');
	$holder->do('COMMIT');
	await_end($waiter);
	is(ended($open)->{how_ended}, 'released', 'released');
	forget_sessions();
};

subtest 'a root that begins to wait' => sub {
	my ($first, $second, $third) = map { session($node, $_) } qw(first second third);
	$first->do('BEGIN; UPDATE users SET n = 1 WHERE id = 1');
	$third->do('BEGIN; UPDATE users SET n = 1 WHERE id = 2');
	$second->send('UPDATE users SET n = 2 WHERE id = 1');
	my $open = open_incident($first);
	$first->send('UPDATE users SET n = 2 WHERE id = 2');
	my $other = open_incident($third, 2);
	my $end = ended($open);
	is_deeply(some_columns($end, qw(how_ended part_of)), { how_ended => 'became part of', part_of => $other->{id} },
		'is part of the incident of whom it waits for');
	is($observer->value('SELECT waiters FROM pg_lockguard_incidents WHERE id = ?', $other->{id}), 2, 'which has both');
	$third->do('ROLLBACK');
	await_end($first);
	is(ended($other)->{how_ended}, 'released', 'until that one lets go');
	$first->do('ROLLBACK');
	await_end($second);
	forget_sessions();
};

subtest 'a deadlock' => sub {
	my ($one, $two) = map { session($node, $_) } qw(one two);
	$_->do(q{SET deadlock_timeout = '1200ms'}) for $one, $two;
	$one->do('BEGIN; UPDATE users SET n = 1 WHERE id = 1');
	$two->do('BEGIN; UPDATE users SET n = 1 WHERE id = 2');
	$one->send('UPDATE users SET n = 2 WHERE id = 2');
	my $open = open_incident($two);
	$two->send('UPDATE users SET n = 2 WHERE id = 1');
	my @errors = await_end($one, $two);
	is(scalar(grep { defined && /deadlock detected/ } @errors), 1, 'the server ends it');
	is(ended($open)->{how_ended}, 'deadlock', 'and the record says so') if defined $errors[1] || 1;
	forget_sessions();
};

subtest 'prepared transactions' => sub {
	my ($holder, $waiter) = map { session($node, $_) } qw(holder waiter);
	$holder->do('BEGIN; LOCK TABLE users');
	$waiter->send('SELECT FROM users');
	my $open = open_incident($holder);
	$holder->do(q{PREPARE TRANSACTION 'order 7'});
	my $prepared = open_incident(0);
	is_deeply(some_columns(ended($open), qw(how_ended part_of)),
		{ how_ended => 'became part of', part_of => $prepared->{id} }, 'a root that is prepared goes on as that');
	is_deeply(some_columns($prepared, qw(root_gid root_usename root_datname root_state root_query root_application_name)),
		{ root_gid => 'order 7', root_usename => $observer->value('SELECT current_user'), root_datname => 'postgres', root_state => undef,
		  root_query => undef, root_application_name => undef }, 'with its identifier');
	like($prepared->{lock_tree}, qr/^0 prepared "order 7"\n/, '... also in the tree');
	like($observer->value(q{SELECT lock_graph('dot', ?)}, $prepared->{id}), qr/prepared transaction\\norder 7/, '... and in the graph');
	$observer->do(q{COMMIT PREPARED 'order 7'});
	await_end($waiter);
	is(ended($prepared)->{how_ended}, 'released', 'until it is committed');
	forget_sessions();
};

subtest 'what a session holds beyond its transactions' => sub {
	my ($holder, $waiter) = map { session($node, $_) } qw(holder waiter);
	$holder->do('SELECT pg_advisory_lock(5)');
	$waiter->send('SELECT pg_advisory_lock(5)');
	my $open = open_incident($holder);
	is($open->{lock_object}, 'advisory lock 5', 'an advisory lock');
	for (1 .. 5)
	{
		$holder->do('SELECT 1');
		usleep(100_000);
	}
	is($observer->value('SELECT count(*) FROM pg_lockguard_incidents WHERE root_pid = ?', $holder->pid), 1,
		'its next transactions are the same incident');
	$holder->do('SELECT pg_advisory_unlock(5)');
	await_end($waiter);
	is(ended($open)->{how_ended}, 'released', 'released');
	forget_sessions();
};

subtest "a pool's next transaction is another incident" => sub {
	my ($pool, @waiters) = map { session($node, $_) } qw(pool w1 w2);
	my @ids;
	for my $waiter (@waiters)
	{
		$pool->do('BEGIN; LOCK TABLE users');
		$waiter->send('SELECT FROM users');
		push @ids, open_incident($pool)->{id};
		$pool->do('COMMIT');
		await_end($waiter);
		ended({ id => $ids[-1] });
	}
	cmp_ok($ids[1], '>', $ids[0], 'two incidents');
	forget_sessions();
};

subtest 'the server log' => sub {
	my ($holder, $waiter) = (session($node, 'weird', user => 'app'), session($node, 'waiter'));
	$holder->do(q{SET application_name = 'we"ird\\ app'});
	$holder->do('BEGIN; SELECT FROM users');
	$waiter->send('BEGIN; LOCK TABLE users');
	my $open = open_incident($holder);
	$holder->do('ROLLBACK');
	await_end($waiter);
	my $end = ended($open);
	my $folder = $node->data_dir . '/log';
	my $wanted = qr/pg_lockguard incident: id=$open->{id} end="released" lasted_ms=\d+\.\d{3} root_pid=${\$holder->pid} root_database="postgres" root_user="app" root_application="we\\"ird\\\\ app" root_state="idle in transaction" lock="relation $relation of database $database" mode_held="AccessShareLock" mode_wanted="AccessExclusiveLock" waiters=1 sessions=1 waited_ms=\d+\.\d{3} longest_ms=\d+\.\d{3}/;
	my %file = map { /\.(\w+)$/ ? ($1 => $_) : () } glob("$folder/*");
	for my $try (1 .. 20 * $PostgreSQL::Test::Utils::timeout_default)
	{
		last if 3 == grep { slurp_file($file{$_}) =~ /incident: id=$open->{id} / } qw(json csv log);
		usleep(50_000);
	}
	my ($json) = grep { /incident: id=$open->{id} / } split /\n/, slurp_file($file{json});
	my $line = eval { decode_json($json) } // {};
	like($line->{message}, qr/^$wanted$/, 'jsonlog: one line');
	is($line->{error_severity}, 'LOG', '... of the level LOG');
	my @csv = grep { /incident: id=$open->{id} / } split /\n/, slurp_file($file{csv});
	is(scalar @csv, 1, 'csvlog: one line');
	my ($message) = $csv[0] =~ /,"(pg_lockguard incident: (?:[^"]|"")*)",/;
	like(($message // '') =~ s/""/"/gr, qr/^$wanted$/, '... that is the message');
	like(slurp_file($file{log}), qr/LOG:  $wanted\n/, 'stderr: one line');
	forget_sessions();
};

subtest 'short ones are none; off is off' => sub {
	my $before = $observer->value('SELECT coalesce(max(id), 0) FROM pg_lockguard_incidents');
	my ($holder, $waiter) = map { session($node, $_) } qw(holder waiter);
	$node->safe_psql('postgres', q{ALTER SYSTEM SET pg_lockguard.incident_min_wait = '1h'});
	$node->reload;
	my $looks = sub { $observer->value(q{SELECT sum(waits) FROM pg_stat_lockguard_waits WHERE blocker_application_name = 'holder'}) // 0 };
	my $waits = $looks->();
	$holder->do('BEGIN; LOCK TABLE users');
	$waiter->send('SELECT FROM users');
	await($node, 'it has been seen', q{SELECT sum(waits) > ? FROM pg_stat_lockguard_waits WHERE blocker_application_name = 'holder'}, $waits);
	is($observer->value('SELECT coalesce(max(id), 0) FROM pg_lockguard_incidents'), $before, 'too short');
	$node->safe_psql('postgres', q{ALTER SYSTEM SET pg_lockguard.incident_min_wait = '100ms'});
	$node->reload;
	my $open = open_incident($holder);
	$node->safe_psql('postgres', q{ALTER SYSTEM SET pg_lockguard.incident_min_wait = -1});
	$node->reload;
	is(ended($open)->{how_ended}, 'unknown', 'nobody looks any more');
	$holder->do('ROLLBACK');
	await_end($waiter);
	$node->safe_psql('postgres', q{ALTER SYSTEM SET pg_lockguard.incident_min_wait = '200ms'});
	$node->reload;
	forget_sessions();
};

subtest 'another worker goes on' => sub {
	my ($holder, $waiter) = map { session($node, $_) } qw(holder waiter);
	$holder->do('BEGIN; LOCK TABLE users');
	$waiter->send('SELECT FROM users');
	my $open = open_incident($holder);
	my $worker = $observer->value(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_lockguard worker'});
	$observer->value('SELECT pg_terminate_backend(?)', $worker);
	await($node, 'a new worker', q{SELECT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'pg_lockguard worker' AND pid <> ?)}, $worker);
	await($node, 'it is seen', 'SELECT last_seen > ?::timestamptz + interval $$1 s$$ FROM pg_lockguard_incidents WHERE id = ?', $open->{last_seen}, $open->{id});
	$holder->do('ROLLBACK');
	await_end($waiter);
	is(ended($open)->{how_ended}, 'released', 'the same incident');
	is($observer->value('SELECT count(*) FROM pg_lockguard_incidents WHERE root_pid = ?', $holder->pid), 1, '... and no other');
	forget_sessions();
};

subtest 'the ring' => sub {
	my @pairs = map { [ session($node, "h$_"), session($node, "w$_") ] } 1 .. 4;
	my ($kept, @others) = @pairs;
	my $n = 100;
	for my $pair ($kept)
	{
		$pair->[0]->do("SELECT pg_advisory_lock($n)");
		$pair->[1]->send("SELECT pg_advisory_lock($n)");
	}
	my $open = open_incident($kept->[0]);
	for my $round (1 .. 8)
	{
		$_->[0]->do('SELECT pg_advisory_lock(' . ++$n . ')'), $_->[1]->send("SELECT pg_advisory_lock($n)") for @others;
		my @open = map { open_incident($_->[0]) } @others;
		$_->[0]->do('SELECT pg_advisory_unlock_all()') for @others;
		await_end(map { $_->[1] } @others);
		$_->[1]->do('SELECT pg_advisory_unlock_all()') for @others;
		ended($_) for @open;
	}
	is($observer->value('SELECT count(*) FROM pg_lockguard_incidents'), 20, 'it is full');
	is($observer->value('SELECT ended IS NULL FROM pg_lockguard_incidents WHERE id = ?', $open->{id}), 1, 'an open one keeps its place');
	is($observer->value('SELECT min(id) FROM pg_lockguard_incidents'), $open->{id}, '... and is the oldest by now');
	is_deeply($observer->{dbh}->selectcol_arrayref('SELECT id FROM pg_lockguard_incidents'),
		$observer->{dbh}->selectcol_arrayref('SELECT id FROM pg_lockguard_incidents ORDER BY id'), 'they come in order');
	my ($code, $out, $err) = $node->psql('postgres', q{SELECT lock_graph('dot', 1)});
	like($err, qr/ERROR:  there is no incident 1 in the record\nDETAIL:  The record has 20 incidents, numbered from \d+ to \d+\.\nHINT:/, 'one that made room');
	forget_sessions();
};

is($observer->value('SELECT errors FROM pg_stat_lockguard'), 0, 'the worker had no error');
done_testing();
