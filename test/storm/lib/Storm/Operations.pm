# What a client does: each operation is one statement or a few, on tables that all share and on objects of its
# own, and notes for the journal what its commit changes. An operation returns false where it has nothing to do.
package Storm::Operations;

use strict;
use warnings;

use Exporter 'import';
use Storm::Schema qw(@tables @referenced $hot_rows);
use Time::HiRes qw(usleep);

our @EXPORT_OK = qw(data_operation ddl_operation alone_operation look_up);

sub any { return $_[ rand @_ ] }
sub hot { return 1 + int rand $hot_rows }

# Some of the tables that have no partitions, and those that have.
my @plain = grep { !/t1[123]/ } @tables;

# ---------------------------------------------------------------------------------------------
# Rows

# One row was changed. Where the transaction keeps its snapshot, there may be none: to a snapshot that is older than
# a table's rewrite, the table is empty, as PostgreSQL's documentation says.
sub one_row
{
	my ($c, $key, $n) = @_;
	return if $n == 1;
	push @{ $c->{faults} }, "$c->{name}: row $key is missing" unless $c->{snapshot};
	die "nothing to change\n";
}

sub insert
{
	my $c = shift;
	my ($table, $id, $h) = (any(@tables), $c->new_id, hot());
	$c->touch(row => "$table $id");
	$c->later(sub { $c->journal->{row}{"$table $id"} = $id });
	$c->sql("INSERT INTO $table (id, v, h) VALUES ($id, $id, $h)");
	return 1;
}

sub update
{
	my $c = shift;
	my $key = $c->pick('row') or return;
	my ($table, $id) = split ' ', $key;
	my $v = int rand 1_000_000;
	$c->touch(row => $key);
	$c->later(sub { $c->journal->{row}{$key} = $v });
	my $n = $c->sql("UPDATE $table SET v = $v, h = " . hot() . " WHERE id = $id");
	one_row($c, $key, $n);
	return 1;
}

sub remove
{
	my $c = shift;
	my $key = $c->pick('row') or return;
	my ($table, $id) = split ' ', $key;
	$c->touch(row => $key);
	$c->later(sub { delete $c->journal->{row}{$key} });
	my $n = $c->sql("DELETE FROM $table WHERE id = $id");
	one_row($c, $key, $n);
	return 1;
}

# Rows that all fight for: what counts is the sum.
sub contend
{
	my $c = shift;
	my ($table, $id) = (any(@tables), hot());
	$c->later(sub { $c->journal->{sum}{"$table $id"}++ });
	my $only = $table =~ /t1[123]/ ? '' : 'ONLY';
	one_row($c, "$table $id", $c->sql("UPDATE $only $table SET v = v + 1 WHERE id = $id"));
	return 1;
}

sub read_rows
{
	my $c = shift;
	my $table = any(@tables, qw(w_t01 w_t11 w_t14 w_t18 ww m_t19));
	my $own = rand() < 0.2 && $c->value("SELECT quote_ident(relname) FROM pg_class WHERE relname ~ '^c[0-9]+_' AND relkind IN ('r', 'v', 'm') ORDER BY random() LIMIT 1");
	$table = $own if $own;
	$c->sql(any("SELECT count(*) FROM $table", "SELECT * FROM $table LIMIT 1", "SELECT count(*) FROM $table, pg_sleep(0.05)"));
	return 1;
}

sub lock_rows
{
	my $c = shift;
	$c->sql('SELECT FROM ' . any(@tables) . ' WHERE id = ' . hot() . any(' FOR UPDATE', ' FOR SHARE', ' FOR KEY SHARE SKIP LOCKED'));
	return 1;
}

sub lock_table
{
	my $c = shift;
	return unless $c->in_transaction;
	# With NOWAIT of one table: of its children, one of which is dropped just then, plain PostgreSQL fails with XX000
	# (LockTableRecurse() asks for all of them without a lock).
	my ($only, $nowait) = @{ any([ '', '' ], [ 'ONLY ', ' NOWAIT' ]) };
	$c->sql("LOCK TABLE $only" . any(@tables) . ' IN '
		  . any('ACCESS SHARE', 'ROW EXCLUSIVE', 'SHARE', 'SHARE ROW EXCLUSIVE', 'ACCESS EXCLUSIVE') . " MODE$nowait");
	return 1;
}

sub think { usleep(rand 150_000); return 1 }

sub use_temporary_table
{
	my $c = shift;
	return unless $c->in_transaction;
	my $name = $c->new_name;
	$c->sql("CREATE TEMPORARY TABLE $name (LIKE t01 INCLUDING ALL) ON COMMIT DROP");
	$c->sql("ALTER TABLE $name ADD extra int DEFAULT 1");
	return 1;
}

# Of this connection, whatever becomes of the transaction that prepares them; planned anew after each DDL.
sub use_prepared
{
	my $c = shift;
	my ($table, $id) = (any(@plain), hot());
	if (rand() < 0.5)
	{
		$c->prepared("read_$table", "SELECT v, h FROM $table WHERE id = \$1");
		$c->sql("EXECUTE read_$table ($id)");
	}
	else
	{
		$c->prepared("add_$table", "UPDATE ONLY $table SET v = v + 1 WHERE id = \$1");
		$c->later(sub { $c->journal->{sum}{"$table $id"}++ });
		one_row($c, "$table $id", $c->sql("EXECUTE add_$table ($id)"));
	}
	return 1;
}

my @data = (
	(\&use_prepared) x 3, (\&insert) x 5, (\&update) x 4, (\&remove) x 2, (\&contend) x 5, (\&read_rows) x 6, (\&lock_rows) x 2, \&lock_table,
	(\&think) x 3, \&use_temporary_table);

sub data_operation { my $c = shift; return any(@data)->($c) }

# ---------------------------------------------------------------------------------------------
# DDL. make(KIND, NAME, VALUE) and unmake(KIND, NAME) for the journal.

sub make
{
	my ($c, $kind, $name, $value) = @_;
	$c->touch($kind, $name);
	$c->later(sub { $c->journal->{$kind}{$name} = $value });
	return;
}

sub unmake
{
	my ($c, $kind, $name) = @_;
	$c->touch($kind, $name);
	$c->later(sub { delete $c->journal->{$kind}{$name} });
	return;
}

sub add_column
{
	my $c = shift;
	my ($table, $name) = (any(@plain, 't11', 't12'), $c->new_name);
	make($c, column => "$table $name", 'integer');
	$c->ddl("ALTER TABLE $table ADD COLUMN $name int" . any('', ' DEFAULT 7', ' DEFAULT (random() * 100)::int'));
	return 1;
}

sub drop_column
{
	my $c = shift;
	my $key = $c->pick('column') or return;
	my ($table, $name) = split ' ', $key;
	unmake($c, column => $key);
	$c->ddl("ALTER TABLE $table DROP COLUMN $name");
	return 1;
}

sub change_column
{
	my $c = shift;
	my $key = $c->pick('column') or return;
	my ($table, $name) = split ' ', $key;
	my $type = any('integer', 'bigint', 'text');
	make($c, column => $key, $type);
	$c->ddl("ALTER TABLE $table ALTER COLUMN $name DROP DEFAULT, ALTER COLUMN $name TYPE $type USING NULL");
	return 1;
}

sub rename_column
{
	my $c = shift;
	my $key = $c->pick('column') or return;
	my ($table, $name) = split ' ', $key;
	my $new = $c->new_name;
	$c->touch(column => $key);
	$c->touch(column => "$table $new");
	$c->later(sub { my $columns = $c->journal->{column}; $columns->{"$table $new"} = delete $columns->{$key} });
	$c->ddl("ALTER TABLE $table RENAME COLUMN $name TO $new");
	return 1;
}

sub create_index
{
	my $c = shift;
	my ($table, $name) = (any(@tables), $c->new_name);
	make($c, index => $name, 'valid');
	$c->ddl("CREATE INDEX $name ON $table (v, h)");
	return 1;
}

sub drop_index
{
	my $c = shift;
	my $name = $c->pick('index') or return;
	unmake($c, index => $name);
	$c->ddl("DROP INDEX $name");
	return 1;
}

sub reindex
{
	my $c = shift;
	my $name = $c->pick('index') or return;
	return if $c->in_transaction && rand() < 0.5;
	$c->touch(index => $name);
	# Of a partitioned table not in a transaction block; an index that PostgreSQL left invalid is so no more.
	return if $c->value("SELECT relkind = 'I' FROM pg_class WHERE relname = '$name'");
	if ($c->in_transaction)
	{
		$c->later(sub { $c->journal->{index}{$name} = 'valid' });
	}
	else
	{
		# A session that is lost meanwhile does not say whether it had done it.
		$c->{unsure} = $name;
		$c->{in_doubt} = 'SELECT true';
	}
	$c->sql("REINDEX INDEX $name");
	return 1;
}

sub add_constraint
{
	my $c = shift;
	my ($table, $name) = (any(@plain), $c->new_name);
	my $key = rand() < 0.5;
	my $what = $key ? 'FOREIGN KEY (h) REFERENCES ' . any(@referenced) . ' (id)' : 'CHECK (v > -1)';
	my $valid = rand() < 0.5;
	make($c, constraint => "$table $name", $valid ? 'valid' : 'not valid');
	$c->ddl("ALTER TABLE $table ADD CONSTRAINT $name $what" . ($valid ? '' : ' NOT VALID'));
	return 1;
}

sub validate
{
	my $c = shift;
	my $key = $c->pick('constraint') or return;
	my ($table, $name) = split ' ', $key;
	make($c, constraint => $key, 'valid');
	$c->ddl("ALTER TABLE $table VALIDATE CONSTRAINT $name");
	return 1;
}

sub drop_constraint
{
	my $c = shift;
	my $key = $c->pick('constraint') or return;
	my ($table, $name) = split ' ', $key;
	unmake($c, constraint => $key);
	$c->ddl("ALTER TABLE $table DROP CONSTRAINT $name");
	return 1;
}

sub create_trigger
{
	my $c = shift;
	my ($table, $name) = (any(@tables), $c->new_name);
	make($c, trigger => "$table $name", 'O');
	$c->ddl("CREATE TRIGGER $name AFTER UPDATE ON $table FOR EACH ROW EXECUTE FUNCTION nothing()");
	return 1;
}

sub switch_trigger
{
	my $c = shift;
	my $key = $c->pick('trigger') or return;
	my ($table, $name) = split ' ', $key;
	my $on = rand() < 0.5;
	make($c, trigger => $key, $on ? 'O' : 'D');
	$c->ddl("ALTER TABLE $table " . ($on ? 'ENABLE' : 'DISABLE') . " TRIGGER $name");
	return 1;
}

sub drop_trigger
{
	my $c = shift;
	my $key = $c->pick('trigger') or return;
	my ($table, $name) = split ' ', $key;
	unmake($c, trigger => $key);
	$c->ddl("DROP TRIGGER $name ON $table");
	return 1;
}

sub create_view
{
	my $c = shift;
	my $name = $c->new_name;
	make($c, view => $name, 'v');
	$c->ddl("CREATE VIEW $name AS SELECT id, v, h FROM " . any(@tables));
	return 1;
}

sub change_view
{
	my $c = shift;
	my $name = $c->pick('view') or return;
	$c->touch(view => $name);
	$c->ddl("ALTER VIEW $name SET (security_barrier = " . any('true', 'false') . ')');
	return 1;
}

sub drop_view
{
	my $c = shift;
	my $name = $c->pick('view') or return;
	unmake($c, view => $name);
	$c->ddl("DROP VIEW $name");
	return 1;
}

sub refresh
{
	my $c = shift;
	$c->ddl('REFRESH MATERIALIZED VIEW ' . any('', 'CONCURRENTLY ') . 'm_t19');
	return 1;
}

sub create_table
{
	my $c = shift;
	my $name = $c->new_name;
	make($c, table => $name, 'r');
	$c->ddl("CREATE TABLE $name "
		  . any('(id bigint PRIMARY KEY, v bigint, h int)', '(h int REFERENCES ' . any(@referenced) . ', v bigint)', '(LIKE t01 INCLUDING ALL)', '(extra int) INHERITS (t14)'));
	return 1;
}

sub rename_table
{
	my $c = shift;
	my $name = $c->pick('table') or return;
	my $new = $c->new_name;
	$c->touch(table => $name);
	$c->touch(table => $new);
	$c->later(sub { my $tables = $c->journal->{table}; $tables->{$new} = delete $tables->{$name} });
	$c->ddl("ALTER TABLE $name RENAME TO $new");
	return 1;
}

sub drop_table
{
	my $c = shift;
	my $name = $c->pick('table') or return;
	unmake($c, table => $name);
	$c->ddl("DROP TABLE $name CASCADE");
	return 1;
}

sub truncate_table
{
	my $c = shift;
	return unless $c->in_transaction;
	my $name = $c->pick('table') or return;
	$c->touch(table => $name);
	$c->sql("TRUNCATE $name");
	return 1;
}

sub create_partition
{
	my $c = shift;
	my $name = $c->new_name;
	my $from = -($c->{number} * 1_000_000 + $c->{names});
	make($c, partition => $name, $from);
	$c->ddl("CREATE TABLE $name PARTITION OF t13 FOR VALUES FROM ($from) TO (" . ($from + 1) . ')');
	return 1;
}

sub detach
{
	my $c = shift;
	my $name = $c->pick('partition') or return;
	unmake($c, partition => $name);
	make($c, detached => $name, $c->journal->{partition}{$name});
	$c->ddl("ALTER TABLE t13 DETACH PARTITION $name");
	return 1;
}

sub attach
{
	my $c = shift;
	my $name = $c->pick('detached') or return;
	my $from = $c->journal->{detached}{$name};
	unmake($c, detached => $name);
	make($c, partition => $name, $from);
	$c->ddl("ALTER TABLE t13 ATTACH PARTITION $name FOR VALUES FROM ($from) TO (" . ($from + 1) . ')');
	return 1;
}

sub drop_detached
{
	my $c = shift;
	my $kind = any('detached', 'partition');
	my $name = $c->pick($kind) or return;
	unmake($c, $kind => $name);
	$c->ddl("DROP TABLE $name");
	return 1;
}

# There and back, so that others find another relation under the name, none, or another owner's.
sub there_and_back
{
	my $c = shift;
	return unless $c->in_transaction;
	my $table = any(@plain);
	my $name = $c->new_name;
	my @ways = (
		[ "ALTER TABLE $table RENAME TO $name", "ALTER TABLE $name RENAME TO $table" ],
		[ "ALTER TABLE $table SET SCHEMA aside", "ALTER TABLE aside.$table SET SCHEMA public" ],
		[ "ALTER TABLE $table OWNER TO storm_too", "ALTER TABLE $table OWNER TO storm" ],
		[ "ALTER TABLE $table ADD $name text DEFAULT clock_timestamp()", "ALTER TABLE $table DROP $name" ],
		[ "CREATE RULE $name AS ON UPDATE TO $table DO ALSO NOTHING", "DROP RULE $name ON $table" ],
		[ "CREATE POLICY $name ON $table USING (true)", "DROP POLICY $name ON $table" ]);
	for my $statement (@{ any(@ways) })
	{
		$c->ddl($statement);
		usleep(rand 30_000) if rand() < 0.3;
	}
	return 1;
}

sub light
{
	my $c = shift;
	my $table = any(@plain);
	$c->ddl(any(
		"ALTER TABLE $table SET (fillfactor = " . (50 + int rand 50) . ')',
		"ALTER TABLE $table ALTER h SET STATISTICS " . int rand 1000,
		"COMMENT ON TABLE $table IS 'by $c->{name}'",
		"ALTER TABLE $table ALTER v SET NOT NULL"));
	return 1;
}

# DDL in a function, with errors that are caught, and locks in its subtransactions.
sub in_function
{
	my $c = shift;
	my ($table, $name) = (any(@plain), $c->new_name);
	make($c, column => "$table $name", 'integer');
	my $mark = $c->mark;
	my $other = any(@plain);
	$c->later(sub { $c->journal->{mark}{$mark}++ });
	$c->{in_doubt} = "SELECT EXISTS (SELECT FROM ddl_log WHERE marker = '$mark')" unless $c->in_transaction;
	$c->tell_less;
	$c->sql(<<~SQL);
		DO \$\$ /* $mark */ BEGIN
			BEGIN
				ALTER TABLE $other ADD v int;
			EXCEPTION WHEN duplicate_column OR lock_not_available THEN NULL;
			END;
			ALTER TABLE $table ADD $name int;
		END \$\$
		SQL
	return 1;
}

# Of no table that inherits its columns: they cannot be altered there.
sub preview
{
	my $c = shift;
	my $table = any(grep { !/t1[56]/ } @plain);
	my $statement = any(
		"ALTER TABLE $table ALTER h TYPE bigint", "ALTER TABLE $table ADD preview int", "DROP TABLE $table CASCADE",
		"CREATE INDEX ON $table (v)", "TRUNCATE $table CASCADE", "ALTER TABLE t08 ADD FOREIGN KEY (h) REFERENCES $table (id)",
		'ALTER TABLE t13 DETACH PARTITION t13_default', 'REFRESH MATERIALIZED VIEW m_t19', 'VACUUM FULL t01');
	$c->sql("SELECT * FROM ddl_preview('$statement', with_standbys => true)");
	return 1;
}

my @ddl = (
	(\&add_column) x 4, (\&drop_column) x 3, \&change_column, \&rename_column, (\&create_index) x 2, (\&drop_index) x 2, \&reindex,
	(\&add_constraint) x 3, (\&validate) x 2, (\&drop_constraint) x 3, (\&create_trigger) x 2, \&switch_trigger, (\&drop_trigger) x 2,
	(\&create_view) x 2, \&change_view, (\&drop_view) x 2, \&refresh, (\&create_table) x 2, \&rename_table, (\&drop_table) x 2,
	\&truncate_table, (\&create_partition) x 2, \&detach, \&attach, \&drop_detached, (\&there_and_back) x 3, (\&light) x 3,
	(\&in_function) x 2, \&preview);

sub ddl_operation { my $c = shift; return any(@ddl)->($c) }

# ---------------------------------------------------------------------------------------------
# What runs in no transaction block. Half done it leaves an invalid index, or a partition half detached: what has
# become of it is looked up.

sub index_state
{
	my $name = shift;
	return "coalesce((SELECT CASE WHEN indisvalid THEN 'valid' ELSE 'invalid' END FROM pg_index WHERE indexrelid = to_regclass('$name')), 'none')";
}

sub look_up
{
	my ($c, $name) = @_;
	my $state = $c->value('SELECT ' . index_state($name));
	if ($state eq 'none') { delete $c->journal->{index}{$name} }
	else { $c->journal->{index}{$name} = $state }
	return;
}

sub index_concurrently
{
	my $c = shift;
	my $name = rand() < 0.5 && $c->pick('index');
	my $new = !$name;
	$name ||= $c->new_name;
	return if !$new && $c->value("SELECT relkind = 'I' FROM pg_class WHERE relname = '$name'");
	$c->{unsure} = $name;
	$c->{in_doubt} = 'SELECT true';
	$c->sql($new ? "CREATE INDEX CONCURRENTLY $name ON " . any(@plain) . ' (h)'
		: any("DROP INDEX CONCURRENTLY $name", "REINDEX INDEX CONCURRENTLY $name"));
	return 1;
}

sub maintain
{
	my $c = shift;
	my $table = any(@plain, $c->pick('table') // 't01');
	$c->sql(any("VACUUM $table", "VACUUM FULL $table", "ANALYZE $table", "CLUSTER $table USING ${table}_pkey", "REINDEX TABLE $table", "VACUUM (PARALLEL 0) $table"));
	return 1;
}

my @alone = (\&index_concurrently, \&maintain);

sub alone_operation { my $c = shift; return any(@alone)->($c) }

1;
