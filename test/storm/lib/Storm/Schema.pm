# What the storm rages over: 20 tables with foreign keys, partitions, inheritance, views, triggers and
# event triggers, all of them of the role storm.
package Storm::Schema;

use strict;
use warnings;

use Exporter 'import';

our @EXPORT_OK = qw(@tables @referenced $hot_rows script clients_event_trigger);

our $hot_rows = 10;

# Tables that everybody writes. Rows 1 to $hot_rows are everybody's and stay; the others are one client's each.
our @tables = map { sprintf 't%02d', $_ } 1 .. 20;

# Tables that foreign keys can refer to: their key is id alone.
our @referenced = qw(t01 t02 t03 t04 t05 t06 t07 t08 t09 t10 t11 t12);

my %references = (
	t02 => 't01', t03 => 't01', t04 => 't02', t05 => 't02', t06 => 't03', t07 => 't07', t08 => 't11', t12 => 't11',
	t17 => 't12', t18 => 't01', t19 => 't08');

sub script
{
	my $sql = <<~'SQL';
		CREATE SCHEMA aside;
		CREATE TABLE ddl_log (marker text NOT NULL, tag text NOT NULL);
		CREATE TABLE audit (relation text NOT NULL, n int NOT NULL);
		CREATE FUNCTION count_rows() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			INSERT INTO audit VALUES (TG_TABLE_NAME, CASE TG_OP WHEN 'INSERT' THEN 1 ELSE -1 END);
			RETURN NULL;
		END $$;
		CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
		SQL
	for my $table (@tables)
	{
		if ($table =~ /t1[12]/)
		{
			$sql .= "CREATE TABLE $table (id bigint PRIMARY KEY, v bigint NOT NULL, h int) PARTITION BY HASH (id);\n";
			$sql .= "CREATE TABLE ${table}_$_ PARTITION OF $table FOR VALUES WITH (MODULUS 4, REMAINDER $_);\n" for 0 .. 3;
		}
		elsif ($table eq 't13')
		{
			$sql .= "CREATE TABLE t13 (id bigint, v bigint NOT NULL, h int, PRIMARY KEY (id)) PARTITION BY RANGE (id);\n"
			  . "CREATE TABLE t13_default PARTITION OF t13 DEFAULT;\n";
		}
		elsif ($table =~ /t1[56]/)
		{
			$sql .= "CREATE TABLE $table (PRIMARY KEY (id)) INHERITS (t14);\n";
		}
		else
		{
			$sql .= "CREATE TABLE $table (id bigint PRIMARY KEY, v bigint NOT NULL, h int);\n";
		}
	}
	$sql .= "INSERT INTO $_ SELECT n, 0, n FROM generate_series(1, $hot_rows) n;\n" for @tables;
	for my $table (@tables)
	{
		$sql .= "ALTER TABLE $table ADD FOREIGN KEY (h) REFERENCES $references{$table} (id);\n" if $references{$table};
		$sql .= "CREATE TRIGGER count_rows AFTER INSERT OR DELETE ON $table FOR EACH ROW EXECUTE FUNCTION count_rows();\n";
	}
	$sql .= "CREATE VIEW w_$_ AS SELECT id, v FROM $_;\n" for qw(t01 t11 t14 t18);
	$sql .= "CREATE VIEW ww AS SELECT a.id, a.v + b.v AS v FROM w_t01 a JOIN w_t11 b USING (id);\n";
	$sql .= "CREATE MATERIALIZED VIEW m_t19 AS SELECT h, count(*) FROM t19 GROUP BY h;\nCREATE UNIQUE INDEX ON m_t19 (h);\n";
	return $sql;
}

# By a superuser: whatever DDL commits leaves a row with the mark that its client gave it.
sub clients_event_trigger
{
	return <<~'SQL';
		CREATE FUNCTION note_ddl() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
		DECLARE marker text := substring(current_query() from '/\* (c\d+:\d+) \*/');
		BEGIN
			IF marker IS NOT NULL THEN
				INSERT INTO public.ddl_log VALUES (marker, tg_tag);
			END IF;
		END $$;
		CREATE FUNCTION look_on() RETURNS event_trigger LANGUAGE plpgsql AS $$
		BEGIN
			PERFORM count(*) FROM pg_event_trigger_dropped_objects();
		END $$;
		CREATE FUNCTION do_nothing() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
		CREATE EVENT TRIGGER note_ddl ON ddl_command_end EXECUTE FUNCTION note_ddl();
		CREATE EVENT TRIGGER look_on ON sql_drop EXECUTE FUNCTION look_on();
		CREATE EVENT TRIGGER rewritten ON table_rewrite EXECUTE FUNCTION do_nothing();
		CREATE EVENT TRIGGER begun ON ddl_command_start EXECUTE FUNCTION do_nothing();
		SQL
}

1;
