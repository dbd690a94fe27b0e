# A statement at low priority has in the end the locks that PostgreSQL itself takes: on the same
# relations, in the same modes. Each form is run in a transaction, without the guard and with it, in
# one session, and its locks are compared.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LockGuard;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my @commands = (
	'ALTER TABLE', 'ALTER INDEX', 'ALTER VIEW', 'ALTER MATERIALIZED VIEW', 'ALTER SEQUENCE',
	'ALTER FOREIGN TABLE', 'DROP TABLE', 'DROP INDEX', 'DROP VIEW', 'DROP MATERIALIZED VIEW',
	'DROP SEQUENCE', 'DROP FOREIGN TABLE', 'DROP TRIGGER', 'DROP RULE', 'TRUNCATE TABLE',
	'CREATE INDEX', 'CREATE TRIGGER', 'CREATE RULE', 'REINDEX', 'CLUSTER',
	'REFRESH MATERIALIZED VIEW', 'COMMENT', 'LOCK TABLE');

my $node = start_node(
	'exact',
	"shared_preload_libraries = 'pg_lockguard'",
	"deadlock_timeout = '1s'",
	'max_locks_per_transaction = 256',
	'wal_level = replica',    # then an attempt at ACCESS EXCLUSIVE needs a transaction id
	'allow_in_place_tablespaces = on',
	"pg_lockguard.ddl_commands = '" . join(', ', @commands) . "'");
$node->safe_psql('postgres', q{CREATE TABLESPACE away LOCATION ''});
$node->safe_psql('postgres', q{CREATE TABLESPACE abroad LOCATION ''});
$node->safe_psql(
	'postgres', q{
	CREATE ROLE other;
	CREATE SCHEMA f;
	CREATE SCHEMA f2;
	GRANT CREATE ON SCHEMA f, f2 TO other;
	SET search_path = f;
	CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
	CREATE TABLE parent (id int PRIMARY KEY, code text UNIQUE, note text);
	INSERT INTO parent SELECT i, i, i FROM generate_series(1, 20) i;
	CREATE TABLE uncle (id int PRIMARY KEY);
	CREATE TABLE child (id int PRIMARY KEY, parent_id int, amount numeric CHECK (amount >= 0),
		label text DEFAULT 'x', twice int GENERATED ALWAYS AS (parent_id * 2) STORED, serial serial,
		ident int GENERATED ALWAYS AS IDENTITY,
		CONSTRAINT child_parent FOREIGN KEY (parent_id) REFERENCES parent);
	INSERT INTO child SELECT i, i, i, i FROM generate_series(1, 20) i;
	ALTER TABLE child ADD CONSTRAINT later CHECK (id > 0) NOT VALID;
	ALTER TABLE child ADD CONSTRAINT later_key FOREIGN KEY (parent_id) REFERENCES parent NOT VALID;
	CREATE INDEX child_amount ON child (amount);
	CREATE INDEX child_upper ON child (upper(label));
	CREATE UNIQUE INDEX child_label ON child (label);
	CREATE STATISTICS child_statistics ON id, amount FROM child;
	CREATE TRIGGER t BEFORE INSERT ON child FOR EACH ROW EXECUTE FUNCTION nothing();
	CREATE RULE r AS ON UPDATE TO child WHERE false DO INSTEAD NOTHING;
	CREATE POLICY p ON child USING (true);
	CREATE TABLE self (id int PRIMARY KEY, up int REFERENCES self);
	CREATE TABLE loose (id int NOT NULL, parent_id int);
	CREATE TABLE clustered (id int PRIMARY KEY, note text);
	CLUSTER clustered USING clustered_pkey;
	CREATE UNLOGGED TABLE unlogged (id int PRIMARY KEY);

	CREATE TABLE forebear (id int NOT NULL PRIMARY KEY, parent_id int REFERENCES parent, k int DEFAULT 1,
		twice int GENERATED ALWAYS AS (k * 2) STORED, u int UNIQUE,
		CONSTRAINT positive CHECK (k > 0), CONSTRAINT own CHECK (k < 1000) NO INHERIT);
	ALTER TABLE forebear ADD CONSTRAINT later CHECK (id > 0) NOT VALID;
	ALTER TABLE forebear ADD CONSTRAINT later_own CHECK (id > 0) NO INHERIT NOT VALID;
	ALTER TABLE forebear ADD CONSTRAINT later_key FOREIGN KEY (parent_id) REFERENCES parent NOT VALID;
	CREATE INDEX forebear_k ON forebear (k);
	CREATE TRIGGER t BEFORE INSERT ON forebear FOR EACH ROW EXECUTE FUNCTION nothing();
	CREATE TABLE heir (own_column int) INHERITS (forebear);
	CREATE TABLE grandheir (PRIMARY KEY (id)) INHERITS (heir);
	ALTER TABLE heir ADD CONSTRAINT own_check CHECK (k < 1000);
	CREATE TABLE keyless (id int, k int);
	CREATE TABLE keyless_heir () INHERITS (keyless);
	CREATE TABLE diamond (id int, k int, CONSTRAINT bounded CHECK (k < 10));
	CREATE TABLE left_facet (CONSTRAINT facet CHECK (k < 20)) INHERITS (diamond);
	CREATE TABLE right_facet (k int) INHERITS (diamond);
	CREATE TABLE lower_facet () INHERITS (left_facet, right_facet);
	CREATE TABLE lowest_facet () INHERITS (lower_facet);
	CREATE TABLE mixed (id int);
	CREATE TABLE mixed_heir () INHERITS (mixed);
	CREATE TABLE heir_to_be (id int NOT NULL, parent_id int, k int, twice int GENERATED ALWAYS AS (k * 2) STORED, u int,
		CONSTRAINT positive CHECK (k > 0), CONSTRAINT later CHECK (id > 0));

	CREATE TABLE part (id int, k int, note text, parent_id int REFERENCES parent,
		CONSTRAINT positive CHECK (k >= 0)) PARTITION BY RANGE (id);
	CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (10);
	CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM (10) TO (20) PARTITION BY RANGE (id);
	CREATE TABLE part_2_1 PARTITION OF part_2 FOR VALUES FROM (10) TO (15);
	CREATE TABLE part_default PARTITION OF part DEFAULT;
	INSERT INTO part SELECT i, i FROM generate_series(1, 14) i;
	CREATE TABLE part_3 (id int, k int, note text, parent_id int, CONSTRAINT positive CHECK (k >= 0),
		CONSTRAINT part_later CHECK (id >= 0));
	CREATE INDEX part_k ON part (k);
	CREATE INDEX part_only ON ONLY part (note);
	CREATE INDEX part_1_note ON part_1 (note);
	ALTER TABLE part ADD CONSTRAINT part_later CHECK (id >= 0) NOT VALID;
	CREATE TRIGGER t BEFORE INSERT ON part FOR EACH ROW EXECUTE FUNCTION nothing();
	CREATE TRIGGER ts AFTER INSERT ON part FOR EACH STATEMENT EXECUTE FUNCTION nothing();
	CREATE TABLE keyed (id int PRIMARY KEY) PARTITION BY RANGE (id);
	CREATE TABLE keyed_1 PARTITION OF keyed FOR VALUES FROM (0) TO (10);
	CREATE TABLE keyed_2 PARTITION OF keyed FOR VALUES FROM (10) TO (20);
	CREATE TABLE keyed_user (id int, keyed_id int CONSTRAINT user_key REFERENCES keyed);
	CREATE TABLE keyed_3 (id int NOT NULL);

	CREATE TABLE keyless_part (id int NOT NULL, k int, CONSTRAINT partial CHECK (k > 0)) PARTITION BY RANGE (id);
	CREATE TABLE keyless_1 PARTITION OF keyless_part FOR VALUES FROM (0) TO (10);
	CREATE TABLE keyless_2 PARTITION OF keyless_part FOR VALUES FROM (10) TO (20) PARTITION BY RANGE (id);
	CREATE TABLE keyless_2_1 PARTITION OF keyless_2 FOR VALUES FROM (10) TO (15);

	CREATE TYPE shape AS (id int, parent_id int);
	CREATE TABLE typed OF shape;
	CREATE TABLE shaped (id int, parent_id int);
	CREATE VIEW looking AS SELECT id FROM child;
	CREATE VIEW over AS SELECT id FROM looking;
	CREATE VIEW both_sides AS SELECT child.id FROM child JOIN parent ON parent.note::int = child.ident;
	CREATE MATERIALIZED VIEW seen AS SELECT id FROM child;
	CREATE UNIQUE INDEX seen_id ON seen (id);
	CREATE SEQUENCE counter;
	CREATE FOREIGN DATA WRAPPER nowhere;
	CREATE SERVER far FOREIGN DATA WRAPPER nowhere;
	CREATE FOREIGN TABLE remote (id int, k int) SERVER far;
	CREATE TABLE near (id int, k int);
	CREATE FOREIGN TABLE remote_heir () INHERITS (near) SERVER far;
	CREATE TABLE moving (id int PRIMARY KEY, note text) TABLESPACE abroad;
});

# From 18 on NOT NULL is a constraint, which may be there without being valid.
my $version = $node->safe_psql('postgres', 'SHOW server_version_num');
$node->safe_psql(
	'postgres', q{
	SET search_path = f;
	CREATE TABLE late (id int, k int);
	CREATE TABLE late_heir () INHERITS (late);
	CREATE TABLE late_grandheir () INHERITS (late_heir);
	ALTER TABLE late ADD CONSTRAINT late_id NOT NULL id, ADD CONSTRAINT late_k NOT NULL k NOT VALID;
	CREATE TABLE late_part (id int, k int) PARTITION BY RANGE (id);
	CREATE TABLE late_part_1 PARTITION OF late_part FOR VALUES FROM (0) TO (10);
	ALTER TABLE late_part ADD CONSTRAINT late_id NOT NULL id, ADD CONSTRAINT late_k NOT NULL k NOT VALID;
}) if $version >= 180000;

# A child that belongs to another session.
my $stranger = session($node, 'stranger');
$stranger->do('SET search_path = f; CREATE TEMPORARY TABLE not_ours () INHERITS (mixed)');

my @statements = (
	# Columns
	'ALTER TABLE child ADD COLUMN a int',
	'ALTER TABLE child ADD COLUMN a int NOT NULL DEFAULT random() * 10',
	'ALTER TABLE child ADD COLUMN a serial',
	'ALTER TABLE child ADD COLUMN a int GENERATED ALWAYS AS IDENTITY',
	'ALTER TABLE child ADD COLUMN a int PRIMARY KEY' => 'fails',
	'ALTER TABLE loose ADD COLUMN a int PRIMARY KEY GENERATED ALWAYS AS IDENTITY',
	'ALTER TABLE child ADD COLUMN a int UNIQUE',
	'ALTER TABLE child ADD COLUMN a int CHECK (a > 0)',
	'ALTER TABLE child ADD COLUMN a int REFERENCES parent',
	'ALTER TABLE child ADD COLUMN a int REFERENCES parent REFERENCES uncle',
	'ALTER TABLE child ADD COLUMN a int REFERENCES keyed',
	'ALTER TABLE self ADD COLUMN a int REFERENCES self',
	'ALTER TABLE child ADD COLUMN IF NOT EXISTS label text',
	'ALTER TABLE child ADD COLUMN IF NOT EXISTS label text REFERENCES uncle',
	'ALTER TABLE child ADD COLUMN IF NOT EXISTS a int REFERENCES uncle',
	'ALTER TABLE child DROP COLUMN amount',
	'ALTER TABLE child DROP COLUMN serial',
	'ALTER TABLE child DROP COLUMN parent_id CASCADE',
	'ALTER TABLE child DROP COLUMN IF EXISTS missing',
	'ALTER TABLE child DROP COLUMN id CASCADE',
	'ALTER TABLE parent DROP COLUMN id CASCADE',
	'ALTER TABLE parent DROP COLUMN code',
	'ALTER TABLE child ALTER COLUMN label SET DEFAULT 1',
	'ALTER TABLE child ALTER COLUMN label DROP DEFAULT',
	'ALTER TABLE child ALTER COLUMN label SET NOT NULL',
	'ALTER TABLE loose ALTER COLUMN id DROP NOT NULL',
	'ALTER TABLE child ALTER COLUMN label SET STATISTICS 10',
	'ALTER TABLE child ALTER COLUMN label SET (n_distinct = 5)',
	'ALTER TABLE child ALTER COLUMN label RESET (n_distinct)',
	'ALTER TABLE child ALTER COLUMN label SET STORAGE external',
	'ALTER TABLE child ALTER COLUMN label SET COMPRESSION pglz',
	'ALTER TABLE child ALTER COLUMN twice DROP EXPRESSION',
	'ALTER TABLE child ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY',
	'ALTER TABLE child ALTER COLUMN ident SET GENERATED BY DEFAULT',
	'ALTER TABLE child ALTER COLUMN ident RESTART WITH 100',
	'ALTER TABLE child ALTER COLUMN ident DROP IDENTITY',
	'ALTER TABLE child RENAME COLUMN label TO sticker',
	'ALTER TABLE child ALTER COLUMN amount TYPE bigint',
	'ALTER TABLE child ALTER COLUMN label TYPE varchar(1000)',
	'ALTER TABLE parent ALTER COLUMN id TYPE bigint',
	'ALTER TABLE loose ALTER COLUMN parent_id TYPE bigint',
	'ALTER TABLE child ADD COLUMN a int, ALTER COLUMN label SET STATISTICS 10, DROP COLUMN amount',
	# Constraints
	'ALTER TABLE child ADD CHECK (amount < 1000)',
	'ALTER TABLE child ADD CHECK (amount < 1000) NO INHERIT',
	'ALTER TABLE child ADD CHECK (amount < 1000) NOT VALID',
	'ALTER TABLE child ADD UNIQUE (amount)',
	'ALTER TABLE child ADD EXCLUDE (amount WITH =)',
	'ALTER TABLE child ADD CONSTRAINT u UNIQUE USING INDEX child_label',
	'ALTER TABLE loose ADD PRIMARY KEY (id)',
	'ALTER TABLE child VALIDATE CONSTRAINT later',
	'ALTER TABLE child VALIDATE CONSTRAINT later_key',
	'ALTER TABLE child DROP CONSTRAINT later',
	'ALTER TABLE child DROP CONSTRAINT IF EXISTS missing',
	'ALTER TABLE child DROP CONSTRAINT child_pkey CASCADE',
	'ALTER TABLE child RENAME CONSTRAINT later TO sooner',
	'ALTER TABLE child RENAME CONSTRAINT child_pkey TO child_key',
	'ALTER TABLE child ALTER CONSTRAINT child_parent DEFERRABLE',
	'ALTER TABLE loose ADD FOREIGN KEY (parent_id) REFERENCES parent',
	'ALTER TABLE loose ADD FOREIGN KEY (parent_id) REFERENCES parent NOT VALID',
	'ALTER TABLE loose ADD FOREIGN KEY (parent_id) REFERENCES parent, ADD FOREIGN KEY (id) REFERENCES uncle',
	'ALTER TABLE loose ADD FOREIGN KEY (parent_id) REFERENCES keyed NOT VALID',
	'ALTER TABLE self ADD FOREIGN KEY (up) REFERENCES self',
	'ALTER TABLE child DROP CONSTRAINT child_parent',
	'ALTER TABLE child DROP CONSTRAINT IF EXISTS child_parent',
	'ALTER TABLE child DROP CONSTRAINT child_parent, DROP CONSTRAINT later_key',
	'ALTER TABLE self DROP CONSTRAINT self_up_fkey',
	'ALTER TABLE keyed_user DROP CONSTRAINT user_key',
	'ALTER TABLE keyed_user ALTER CONSTRAINT user_key DEFERRABLE',
	'ALTER TABLE parent DROP CONSTRAINT parent_pkey CASCADE',
	'ALTER TABLE parent DROP CONSTRAINT parent_code_key',
	# Triggers, rules, row security
	'ALTER TABLE child DISABLE TRIGGER t',
	'ALTER TABLE child ENABLE TRIGGER ALL',
	'ALTER TABLE child DISABLE TRIGGER USER',
	'ALTER TABLE child ENABLE REPLICA TRIGGER t',
	'ALTER TABLE child ENABLE ALWAYS TRIGGER t',
	'ALTER TABLE child DISABLE RULE r',
	'ALTER TABLE child ENABLE ALWAYS RULE r',
	'ALTER TABLE child ENABLE ROW LEVEL SECURITY',
	'ALTER TABLE child NO FORCE ROW LEVEL SECURITY',
	# Storage, ownership, names
	'ALTER TABLE child SET (fillfactor = 50)',
	'ALTER TABLE child SET (autovacuum_enabled = off, toast.autovacuum_enabled = off)',
	'ALTER TABLE child SET (user_catalog_table = on)',
	'ALTER TABLE child RESET (fillfactor)',
	'ALTER TABLE child SET TABLESPACE away',
	'ALTER TABLE parent SET TABLESPACE away',
	'ALTER TABLE uncle SET UNLOGGED',
	'ALTER TABLE unlogged SET LOGGED',
	'ALTER TABLE child SET ACCESS METHOD heap',
	'ALTER TABLE child CLUSTER ON child_amount',
	'ALTER TABLE clustered SET WITHOUT CLUSTER',
	'ALTER TABLE child REPLICA IDENTITY FULL',
	'ALTER TABLE child REPLICA IDENTITY USING INDEX child_pkey',
	'ALTER TABLE child OWNER TO other',
	'ALTER TABLE child RENAME TO kid',
	'ALTER TABLE IF EXISTS child RENAME TO kid',
	'ALTER TABLE child SET SCHEMA f2',
	'ALTER TABLE IF EXISTS missing ADD COLUMN a int',
	'ALTER TABLE ALL IN TABLESPACE abroad SET TABLESPACE away',
	'ALTER INDEX ALL IN TABLESPACE abroad SET TABLESPACE away',
	# Inheritance
	'ALTER TABLE forebear ADD COLUMN a int',
	'ALTER TABLE ONLY forebear ADD COLUMN a int' => 'fails',
	'ALTER TABLE forebear ADD COLUMN a int REFERENCES uncle',
	'ALTER TABLE forebear ADD COLUMN IF NOT EXISTS k int',
	'ALTER TABLE forebear ADD COLUMN own_column int',
	'ALTER TABLE forebear DROP COLUMN IF EXISTS missing',
	'ALTER TABLE forebear DROP COLUMN parent_id',
	'ALTER TABLE forebear DROP COLUMN k CASCADE',
	'ALTER TABLE ONLY forebear DROP COLUMN k CASCADE',
	'ALTER TABLE heir DROP COLUMN own_column',
	'ALTER TABLE forebear ALTER COLUMN k SET DEFAULT 1',
	'ALTER TABLE ONLY forebear ALTER COLUMN k SET DEFAULT 1',
	'ALTER TABLE forebear ALTER COLUMN k SET NOT NULL',
	'ALTER TABLE ONLY forebear ALTER COLUMN k SET NOT NULL',
	'ALTER TABLE forebear ALTER COLUMN u DROP NOT NULL',
	'ALTER TABLE forebear ALTER COLUMN k SET STATISTICS 10',
	'ALTER TABLE forebear ALTER COLUMN k SET (n_distinct = 5)',
	'ALTER TABLE forebear ALTER COLUMN k SET STORAGE plain',
	'ALTER TABLE forebear ALTER COLUMN twice DROP EXPRESSION' => 'may fail',
	'ALTER TABLE forebear ALTER COLUMN k ADD GENERATED ALWAYS AS IDENTITY' => 'may fail',
	'ALTER TABLE forebear ALTER COLUMN u TYPE bigint',
	'ALTER TABLE forebear RENAME COLUMN u TO v',
	'ALTER TABLE heir RENAME COLUMN own_column TO v',
	'ALTER TABLE ONLY heir RENAME COLUMN own_column TO v' => 'may fail',
	'ALTER TABLE forebear ADD CHECK (k < 500)',
	'ALTER TABLE forebear ADD CHECK (k < 500) NO INHERIT',
	'ALTER TABLE forebear ADD CONSTRAINT c CHECK (k < 500) NOT VALID',
	'ALTER TABLE ONLY forebear ADD CHECK (k < 500) NO INHERIT',
	'ALTER TABLE forebear ADD CONSTRAINT own_check CHECK (k < 1000)',
	'ALTER TABLE forebear ADD UNIQUE (k)',
	'ALTER TABLE mixed ADD PRIMARY KEY (id)' => 'may fail',
	'ALTER TABLE keyless ADD PRIMARY KEY (id)',
	'ALTER TABLE keyless_part ADD PRIMARY KEY (id)',
	'ALTER TABLE keyless_part ADD UNIQUE (id)',
	'ALTER TABLE keyless_part ALTER COLUMN id SET NOT NULL',
	'ALTER TABLE keyless_part ALTER COLUMN k SET NOT NULL',
	'ALTER TABLE ONLY keyless_part ALTER COLUMN k SET NOT NULL' => 'fails',
	'CREATE INDEX ON keyless_part (id)',
	'ALTER TABLE keyless_part ADD FOREIGN KEY (id) REFERENCES keyed' => 'may fail',
	'ALTER TABLE keyless_part DROP CONSTRAINT partial',
	'ALTER TABLE diamond ADD COLUMN a int',
	'ALTER TABLE diamond DROP COLUMN k',
	'ALTER TABLE diamond DROP CONSTRAINT bounded',
	'ALTER TABLE left_facet DROP CONSTRAINT facet',
	'ALTER TABLE diamond RENAME COLUMN k TO key',
	'ALTER TABLE forebear ADD FOREIGN KEY (k) REFERENCES uncle',
	'ALTER TABLE ONLY forebear ADD FOREIGN KEY (k) REFERENCES uncle',
	'ALTER TABLE forebear DROP CONSTRAINT positive',
	'ALTER TABLE ONLY forebear DROP CONSTRAINT positive',
	'ALTER TABLE forebear DROP CONSTRAINT own',
	'ALTER TABLE forebear DROP CONSTRAINT forebear_u_key',
	'ALTER TABLE forebear DROP CONSTRAINT forebear_pkey',
	'ALTER TABLE forebear DROP CONSTRAINT forebear_parent_id_fkey',
	'ALTER TABLE forebear DROP CONSTRAINT IF EXISTS missing',
	'ALTER TABLE forebear DROP CONSTRAINT positive, DROP CONSTRAINT forebear_u_key',
	'ALTER TABLE forebear VALIDATE CONSTRAINT later',
	'ALTER TABLE forebear VALIDATE CONSTRAINT later_own',
	'ALTER TABLE forebear VALIDATE CONSTRAINT later_key',
	'ALTER TABLE forebear VALIDATE CONSTRAINT positive',
	'ALTER TABLE forebear RENAME CONSTRAINT positive TO more',
	'ALTER TABLE forebear RENAME CONSTRAINT own TO mine',
	'ALTER TABLE forebear RENAME CONSTRAINT forebear_u_key TO key_u',
	'ALTER TABLE forebear RENAME CONSTRAINT later_key TO key_later',
	'ALTER TABLE forebear ALTER CONSTRAINT forebear_parent_id_fkey DEFERRABLE',
	'ALTER TABLE forebear DISABLE TRIGGER t',
	'ALTER TABLE forebear DISABLE TRIGGER ALL',
	'ALTER TABLE forebear SET (fillfactor = 50)',
	'ALTER TABLE forebear ENABLE ROW LEVEL SECURITY',
	'ALTER TABLE forebear OWNER TO other',
	'ALTER TABLE forebear RENAME TO ancestor',
	'ALTER TABLE forebear SET SCHEMA f2',
	'ALTER TABLE forebear SET TABLESPACE away',
	'ALTER TABLE heir_to_be INHERIT forebear',
	'ALTER TABLE heir NO INHERIT forebear',
	'ALTER TABLE shaped OF shape',
	'ALTER TABLE typed NOT OF',
	'TRUNCATE forebear',
	'TRUNCATE ONLY forebear',
	'TRUNCATE heir',
	'TRUNCATE mixed',
	'LOCK TABLE mixed IN SHARE MODE',
	'LOCK TABLE mixed',
	'ALTER TABLE mixed ADD COLUMN a int' => 'fails',
	'ALTER TABLE mixed ALTER COLUMN id SET (n_distinct = 5)',
	'ALTER TABLE near ADD COLUMN a int',
	'ALTER TABLE near ADD CHECK (k > 0)',
	'DROP TABLE grandheir',
	'DROP TABLE forebear CASCADE',
	'LOCK TABLE forebear',
	'LOCK TABLE ONLY forebear',
	'LOCK TABLE heir IN SHARE MODE',
	'CREATE INDEX ON forebear (k)',
	'CREATE TRIGGER t2 BEFORE INSERT ON forebear FOR EACH ROW EXECUTE FUNCTION nothing()',
	'DROP TRIGGER t ON forebear',
	'REINDEX TABLE forebear',
	'CLUSTER forebear USING forebear_k',
	"COMMENT ON TABLE forebear IS 'old'",
	# Partitions
	'ALTER TABLE part ATTACH PARTITION part_3 FOR VALUES FROM (20) TO (30)',
	'ALTER TABLE keyed ATTACH PARTITION keyed_3 FOR VALUES FROM (20) TO (30)',
	'ALTER TABLE part DETACH PARTITION part_1',
	'ALTER TABLE part DETACH PARTITION part_2',
	'ALTER TABLE part DETACH PARTITION part_default',
	'ALTER TABLE keyed DETACH PARTITION keyed_2',
	'ALTER TABLE part ADD COLUMN a int',
	'ALTER TABLE part ADD COLUMN a int REFERENCES uncle',
	'ALTER TABLE part DROP COLUMN k',
	'ALTER TABLE part ALTER COLUMN k SET DEFAULT 1',
	'ALTER TABLE ONLY part ALTER COLUMN k SET DEFAULT 1',
	'ALTER TABLE part ALTER COLUMN k SET NOT NULL',
	'ALTER TABLE ONLY part ALTER COLUMN k SET NOT NULL' => 'may fail',
	'ALTER TABLE part ALTER COLUMN k DROP NOT NULL',
	'ALTER TABLE part ALTER COLUMN k SET STATISTICS 10',
	'ALTER TABLE part ALTER COLUMN k SET (n_distinct = 5)',
	'ALTER TABLE part ALTER COLUMN note SET STORAGE external',
	'ALTER TABLE part ALTER COLUMN k TYPE bigint',
	'ALTER TABLE part RENAME COLUMN k TO key',
	'ALTER TABLE part ADD CHECK (k < 1000)',
	'ALTER TABLE part ADD CONSTRAINT c CHECK (k < 1000) NOT VALID',
	'ALTER TABLE part ADD PRIMARY KEY (id)',
	'ALTER TABLE part ADD UNIQUE (id)',
	'ALTER TABLE part ADD FOREIGN KEY (k) REFERENCES uncle NOT VALID' => 'may fail',
	'ALTER TABLE part ADD FOREIGN KEY (parent_id) REFERENCES uncle',
	'ALTER TABLE part_2 ADD FOREIGN KEY (parent_id) REFERENCES uncle',
	'ALTER TABLE part_1 ADD FOREIGN KEY (parent_id) REFERENCES keyed',
	'ALTER TABLE part DROP CONSTRAINT positive',
	'ALTER TABLE part DROP CONSTRAINT part_parent_id_fkey',
	'ALTER TABLE part DROP CONSTRAINT part_later',
	'ALTER TABLE keyed DROP CONSTRAINT keyed_pkey CASCADE',
	'ALTER TABLE part ALTER CONSTRAINT part_parent_id_fkey DEFERRABLE',
	'ALTER TABLE part VALIDATE CONSTRAINT part_later',
	'ALTER TABLE part VALIDATE CONSTRAINT part_parent_id_fkey',
	'ALTER TABLE part RENAME CONSTRAINT positive TO more',
	'ALTER TABLE part RENAME CONSTRAINT part_parent_id_fkey TO key',
	'ALTER TABLE part_1 RENAME CONSTRAINT part_later TO c' => 'fails',
	'ALTER TABLE part DISABLE TRIGGER t',
	'ALTER TABLE ONLY part DISABLE TRIGGER t',
	'ALTER TABLE part DISABLE TRIGGER ts',
	'ALTER TABLE part DISABLE TRIGGER ALL',
	'ALTER TABLE part DISABLE TRIGGER USER',
	'ALTER TABLE part ENABLE REPLICA TRIGGER t',
	'ALTER TABLE ONLY part ENABLE ALWAYS TRIGGER t',
	'ALTER TABLE part_1 DISABLE TRIGGER t',
	'ALTER TABLE part_2 ENABLE TRIGGER ALL',
	'ALTER TABLE part OWNER TO other',
	'ALTER TABLE part ENABLE ROW LEVEL SECURITY',
	'ALTER TABLE part SET TABLESPACE away',
	'ALTER TABLE part REPLICA IDENTITY FULL',
	'ALTER TABLE part RENAME TO whole',
	'ALTER TABLE part SET SCHEMA f2',
	'ALTER TABLE part_1 ADD CHECK (k < 1000)',
	'ALTER TABLE part_2 ADD CHECK (k < 1000)',
	'ALTER TABLE part_1 RENAME TO part_one',
	'TRUNCATE part',
	'TRUNCATE part_2',
	'TRUNCATE keyed CASCADE',
	'DROP TABLE part',
	'DROP TABLE part_1',
	'DROP TABLE part_2',
	'DROP TABLE part_2_1',
	'DROP TABLE part_1, part_default',
	'DROP TABLE part_1, part',
	'DROP TABLE keyed CASCADE',
	'DROP INDEX part_k',
	'DROP INDEX part_1_k_idx' => 'fails',
	'DROP INDEX part_1_note',
	'DROP INDEX part_only',
	'LOCK TABLE part',
	'LOCK TABLE ONLY part IN SHARE MODE',
	'LOCK TABLE part_2 IN EXCLUSIVE MODE',
	'CREATE INDEX ON part (id)',
	'CREATE INDEX ON ONLY part (id)',
	'CREATE UNIQUE INDEX ON part (id)',
	'CREATE INDEX ON part_2 (id)',
	'CREATE TRIGGER t2 BEFORE INSERT ON part FOR EACH ROW EXECUTE FUNCTION nothing()',
	'CREATE TRIGGER t2 AFTER INSERT ON part FOR EACH STATEMENT EXECUTE FUNCTION nothing()',
	'CREATE CONSTRAINT TRIGGER t2 AFTER INSERT ON part FOR EACH ROW EXECUTE FUNCTION nothing()',
	'CREATE OR REPLACE TRIGGER t BEFORE INSERT ON part FOR EACH ROW EXECUTE FUNCTION nothing()',
	'CREATE CONSTRAINT TRIGGER t2 AFTER INSERT ON child FROM parent FOR EACH ROW EXECUTE FUNCTION nothing()',
	'DROP TRIGGER t ON part',
	'ALTER TRIGGER t ON part RENAME TO t3',
	"COMMENT ON TABLE part IS 'whole'",
	"COMMENT ON INDEX part_k IS 'whole'",
	# Other relations
	'ALTER INDEX child_amount RENAME TO child_sum',
	'ALTER TABLE child_amount RENAME TO child_sum',
	'ALTER INDEX child RENAME TO kid',
	'ALTER INDEX part_k RENAME TO part_key',
	'ALTER TABLE part_k RENAME TO part_key',
	'ALTER INDEX child_amount SET (fillfactor = 50)',
	'ALTER INDEX child_amount RESET (fillfactor)',
	'ALTER TABLE child_amount SET (fillfactor = 50)',
	'ALTER INDEX child_amount SET TABLESPACE away',
	'ALTER INDEX part_k SET TABLESPACE away',
	'ALTER INDEX child_upper ALTER COLUMN 1 SET STATISTICS 10',
	'ALTER INDEX part_only ATTACH PARTITION part_1_note',
	'ALTER VIEW looking RENAME TO glancing',
	'ALTER VIEW looking RENAME COLUMN id TO number',
	'ALTER VIEW looking SET SCHEMA f2',
	'ALTER VIEW looking ALTER COLUMN id SET DEFAULT 1',
	'ALTER VIEW looking SET (security_barrier = on)',
	'ALTER VIEW looking OWNER TO other',
	'ALTER TABLE looking RENAME TO glancing',
	'ALTER TABLE looking ALTER COLUMN id SET DEFAULT 1',
	'ALTER MATERIALIZED VIEW seen RENAME TO viewed',
	'ALTER MATERIALIZED VIEW seen RENAME COLUMN id TO number',
	'ALTER MATERIALIZED VIEW seen SET SCHEMA f2',
	'ALTER MATERIALIZED VIEW seen SET (fillfactor = 50)',
	'ALTER MATERIALIZED VIEW seen CLUSTER ON seen_id',
	'ALTER MATERIALIZED VIEW seen ALTER COLUMN id SET STATISTICS 10',
	'ALTER MATERIALIZED VIEW seen OWNER TO other',
	'ALTER MATERIALIZED VIEW seen SET TABLESPACE away',
	'ALTER SEQUENCE counter RENAME TO meter',
	'ALTER SEQUENCE counter SET SCHEMA f2',
	'ALTER SEQUENCE counter INCREMENT 2',
	'ALTER SEQUENCE counter RESTART',
	'ALTER SEQUENCE counter OWNED BY loose.id',
	'ALTER SEQUENCE counter OWNED BY NONE',
	'ALTER SEQUENCE counter OWNER TO other',
	'ALTER SEQUENCE child_serial_seq MAXVALUE 1000',
	'ALTER TABLE counter RENAME TO meter',
	'ALTER TABLE counter OWNER TO other',
	'ALTER FOREIGN TABLE remote ADD COLUMN a int',
	'ALTER FOREIGN TABLE remote ADD CHECK (k > 0)',
	"ALTER FOREIGN TABLE remote OPTIONS (ADD a 'b')" => 'may fail',
	'ALTER FOREIGN TABLE remote RENAME TO farther',
	'ALTER FOREIGN TABLE remote RENAME COLUMN k TO l',
	'ALTER FOREIGN TABLE remote ALTER COLUMN k SET STATISTICS 10',
	'ALTER FOREIGN TABLE remote SET SCHEMA f2',
	'ALTER FOREIGN TABLE remote OWNER TO other',
	# DROP
	'DROP TABLE loose',
	'DROP TABLE loose, shaped',
	'DROP TABLE child CASCADE',
	'DROP TABLE child, looking' => 'fails',
	'DROP TABLE parent CASCADE',
	'DROP TABLE self',
	'DROP TABLE keyed_user',
	'DROP TABLE uncle, keyed_user',
	'DROP TABLE IF EXISTS missing, loose',
	'DROP TABLE typed',
	'DROP INDEX child_amount',
	'DROP INDEX child_amount, child_upper',
	'DROP INDEX seen_id',
	'DROP VIEW over',
	'DROP VIEW looking CASCADE',
	'DROP MATERIALIZED VIEW seen',
	'DROP SEQUENCE counter',
	'DROP SEQUENCE child_serial_seq CASCADE',
	'DROP FOREIGN TABLE remote',
	'DROP FOREIGN TABLE remote_heir',
	'DROP TRIGGER t ON child',
	'DROP TRIGGER IF EXISTS missing ON child',
	'DROP RULE r ON child',
	'DROP RULE IF EXISTS missing ON child',
	# TRUNCATE, LOCK
	'TRUNCATE loose',
	'TRUNCATE loose, shaped',
	'TRUNCATE parent CASCADE',
	'TRUNCATE parent, child, forebear, part',
	'TRUNCATE child RESTART IDENTITY',
	'LOCK TABLE child, parent',
	'LOCK TABLE child IN ACCESS SHARE MODE',
	'LOCK TABLE child IN ROW EXCLUSIVE MODE',
	'LOCK TABLE looking',
	'LOCK TABLE over IN SHARE MODE',
	'LOCK TABLE both_sides IN SHARE UPDATE EXCLUSIVE MODE',
	# CREATE on a relation, REINDEX, CLUSTER, REFRESH
	'CREATE INDEX ON child (parent_id)',
	'CREATE UNIQUE INDEX ON child (parent_id)',
	'CREATE INDEX ON child (upper(label)) WHERE id > 5',
	'CREATE INDEX IF NOT EXISTS child_amount ON child (amount)',
	'CREATE INDEX ON seen (id)',
	'CREATE TRIGGER t2 BEFORE INSERT ON child FOR EACH ROW EXECUTE FUNCTION nothing()',
	'CREATE OR REPLACE TRIGGER t BEFORE INSERT ON child FOR EACH ROW EXECUTE FUNCTION nothing()',
	'CREATE TRIGGER t2 INSTEAD OF INSERT ON looking FOR EACH ROW EXECUTE FUNCTION nothing()',
	'CREATE RULE r2 AS ON DELETE TO child WHERE false DO INSTEAD NOTHING',
	'CREATE RULE r2 AS ON DELETE TO child DO ALSO DELETE FROM loose',
	'CREATE RULE r2 AS ON DELETE TO looking DO INSTEAD NOTHING',
	'REINDEX TABLE child',
	'REINDEX TABLE loose',
	'REINDEX TABLE seen',
	'REINDEX INDEX child_amount',
	'REINDEX INDEX child_pkey',
	'REINDEX (TABLESPACE away) TABLE parent',
	'CLUSTER child USING child_amount',
	'CLUSTER clustered',
	'CLUSTER loose' => 'fails',
	'REFRESH MATERIALIZED VIEW seen',
	'REFRESH MATERIALIZED VIEW seen WITH NO DATA',
	'REFRESH MATERIALIZED VIEW CONCURRENTLY seen',
	# COMMENT
	q{COMMENT ON TABLE child IS 'young'},
	q{COMMENT ON COLUMN child.label IS 'young'},
	q{COMMENT ON COLUMN looking.id IS 'young'},
	q{COMMENT ON COLUMN shape.id IS 'young'},
	q{COMMENT ON INDEX child_amount IS 'young'},
	q{COMMENT ON VIEW looking IS 'young'},
	q{COMMENT ON MATERIALIZED VIEW seen IS 'young'},
	q{COMMENT ON SEQUENCE counter IS 'young'},
	q{COMMENT ON FOREIGN TABLE remote IS 'young'},
	q{COMMENT ON CONSTRAINT child_parent ON child IS 'young'},
	q{COMMENT ON TRIGGER t ON child IS 'young'},
	q{COMMENT ON RULE r ON child IS 'young'},
	q{COMMENT ON POLICY p ON child IS 'young'},
	q{COMMENT ON STATISTICS child_statistics IS 'young'},
	q{COMMENT ON TYPE shape IS 'young'},
);

# What later releases brought.
push @statements, (
	'ALTER TABLE child ALTER COLUMN twice SET EXPRESSION AS (parent_id * 3)',
	'ALTER TABLE forebear ALTER COLUMN twice SET EXPRESSION AS (k * 3)',
	'ALTER TABLE keyless_part ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY',
	'ALTER TABLE part SET ACCESS METHOD heap',
	'ALTER TABLE child SET ACCESS METHOD DEFAULT') if $version >= 170000;
push @statements, (
	'ALTER TABLE forebear ADD CONSTRAINT n NOT NULL k',
	'ALTER TABLE forebear ADD CONSTRAINT n NOT NULL k NOT VALID',
	'ALTER TABLE forebear ADD CONSTRAINT n NOT NULL k NO INHERIT',
	'ALTER TABLE part ADD CONSTRAINT n NOT NULL k',
	'ALTER TABLE late ADD CONSTRAINT n NOT NULL id' => 'fails',
	'ALTER TABLE late ADD PRIMARY KEY (id)',
	'ALTER TABLE late ADD PRIMARY KEY (k)' => 'fails',
	'ALTER TABLE late ALTER COLUMN id SET NOT NULL',
	'ALTER TABLE late ALTER COLUMN k SET NOT NULL',
	'ALTER TABLE ONLY late ALTER COLUMN k SET NOT NULL' => 'fails',
	'ALTER TABLE late VALIDATE CONSTRAINT late_k',
	'ALTER TABLE late_heir VALIDATE CONSTRAINT late_k',
	'ALTER TABLE late_part VALIDATE CONSTRAINT late_k',
	'ALTER TABLE late_part ALTER COLUMN k SET NOT NULL',
	'ALTER TABLE late ALTER COLUMN id DROP NOT NULL',
	'ALTER TABLE ONLY late ALTER COLUMN id DROP NOT NULL',
	'ALTER TABLE late_part ALTER COLUMN id DROP NOT NULL',
	'ALTER TABLE late_heir ALTER COLUMN id DROP NOT NULL' => 'fails',
	'ALTER TABLE late DROP CONSTRAINT late_id',
	'ALTER TABLE ONLY late DROP CONSTRAINT late_id',
	'ALTER TABLE late_part DROP CONSTRAINT late_id',
	'ALTER TABLE late RENAME CONSTRAINT late_id TO n',
	'ALTER TABLE late ALTER CONSTRAINT late_id NO INHERIT',
	'ALTER TABLE parent ADD CHECK (note IS NOT NULL) NOT ENFORCED',
	'ALTER TABLE loose ADD FOREIGN KEY (parent_id) REFERENCES parent NOT ENFORCED',
	'ALTER TABLE child ALTER CONSTRAINT child_parent NOT ENFORCED',
	'ALTER TABLE part ALTER CONSTRAINT part_parent_id_fkey NOT ENFORCED',
	'ALTER TABLE child ADD COLUMN a int GENERATED ALWAYS AS (id * 2) VIRTUAL') if $version >= 180000;

my $ddl = session($node, 'ddl');
my $holder = session($node, 'holder');
$ddl->do('SET search_path = f');
$ddl->do('SET client_min_messages = error');
$holder->do('SET search_path = f');

# The locks of the transaction that the session is in, one a line. What was made in it has another
# OID each time, and the number of the relation in its name. Relations of the system catalogs are
# left out: whether one is locked when the statement has ended depends on what is in the caches.
sub locks
{
	my $session = shift;
	return join '', map { "$_->{what} $_->{mode}\n" } $session->rows(q{
		SELECT coalesce(regexp_replace(c.oid::regclass::text, '\d{4,}', 'N', 'g'),
				regexp_replace((pg_identify_object(l.classid, l.objid, 0)).identity, '\d{4,}', 'N', 'g'),
				'gone') AS what, mode
			FROM (SELECT DISTINCT database, relation, classid, objid, mode FROM pg_locks
				WHERE pid = pg_backend_pid() AND locktype IN ('relation', 'object')) l
			LEFT JOIN pg_class c ON c.oid = l.relation
			WHERE l.classid IS NOT NULL OR c.oid IS NULL OR c.relnamespace <> 'pg_catalog'::regnamespace
			ORDER BY 1, 2});
}

# run(STATEMENT, MODE, MEANWHILE): its locks, or its error.
sub run
{
	my ($statement, $mode, $meanwhile) = @_;
	$ddl->do("SET pg_lockguard.ddl_mode = $mode");
	$ddl->do('BEGIN');
	$ddl->send($statement);
	$meanwhile->() if $meanwhile;
	my $error = $ddl->error;
	my $result = $error // locks($ddl);
	$ddl->do('ROLLBACK');
	return $result;
}

for (my $i = 0; $i < @statements; $i++)
{
	# A form that one release refuses and another takes may fail, with the same error both ways.
	my $statement = $statements[$i];
	my $outcome = $i + 1 < @statements && $statements[ $i + 1 ] =~ /^(may )?fails?$/ ? $statements[ ++$i ] : 'succeeds';
	my $plain = run($statement, 'off');
	is(run($statement, 'low_priority'), $plain, $statement);
	if ($outcome eq 'fails') { like($plain, qr/ERROR/, "$statement: fails") }
	elsif ($outcome eq 'succeeds') { unlike($plain, qr/ERROR/, "$statement: succeeds") }
}

# What the session in the way does; whether the statement knows beforehand that it needs that lock:
# then it has not been tried while it waits.
my $read = sub { "SELECT FROM $_[0] LIMIT 1" };
my $write = sub { "LOCK TABLE $_[0] IN ROW EXCLUSIVE MODE" };
my $vacuum = sub { "LOCK TABLE $_[0] IN SHARE UPDATE EXCLUSIVE MODE" };
my @contended = (
	# Columns
	[ 'ALTER TABLE child ADD COLUMN a int', $read->('child'), 'known' ],
	[ 'ALTER TABLE child ADD COLUMN a int REFERENCES parent', $write->('parent'), 'known' ],
	[ 'ALTER TABLE child DROP COLUMN parent_id CASCADE', $read->('parent'), 'known' ],
	[ 'ALTER TABLE forebear ADD COLUMN a int', $read->('grandheir'), 'known' ],
	[ 'ALTER TABLE ONLY forebear DROP COLUMN k CASCADE', $read->('heir'), 'known' ],
	[ 'ALTER TABLE parent ALTER COLUMN id TYPE bigint', $read->('child'), 'learned' ],
	[ 'ALTER TABLE forebear ALTER COLUMN u TYPE bigint', $read->('grandheir'), 'known' ],
	[ 'ALTER TABLE part ALTER COLUMN k SET NOT NULL', $read->('part_2_1'), 'known' ],
	[ 'ALTER TABLE forebear RENAME COLUMN u TO v', $read->('grandheir'), 'known' ],
	# Constraints
	[ 'ALTER TABLE forebear ADD CHECK (k < 500)', $read->('grandheir'), 'known' ],
	[ 'ALTER TABLE forebear DROP CONSTRAINT positive', $read->('grandheir'), 'known' ],
	[ 'ALTER TABLE forebear RENAME CONSTRAINT positive TO more', $read->('grandheir'), 'known' ],
	[ 'ALTER TABLE forebear VALIDATE CONSTRAINT later', $vacuum->('grandheir'), 'known' ],
	[ 'ALTER TABLE keyless_part ADD UNIQUE (id)', $write->('keyless_2_1'), 'known' ],
	[ 'ALTER TABLE loose ADD FOREIGN KEY (parent_id) REFERENCES parent', $write->('parent'), 'known' ],
	[ 'ALTER TABLE loose ADD FOREIGN KEY (parent_id) REFERENCES keyed NOT VALID', $write->('keyed_2'), 'known' ],
	[ 'ALTER TABLE part ADD FOREIGN KEY (parent_id) REFERENCES uncle', $write->('part_2_1'), 'known' ],
	[ 'ALTER TABLE child DROP CONSTRAINT child_parent', $read->('parent'), 'known' ],
	[ 'ALTER TABLE keyed_user DROP CONSTRAINT user_key', $read->('keyed_1'), 'known' ],
	[ 'ALTER TABLE part DROP CONSTRAINT part_parent_id_fkey', $read->('parent'), 'known' ],
	[ 'ALTER TABLE parent DROP CONSTRAINT parent_pkey CASCADE', $read->('child'), 'learned' ],
	# Other forms of ALTER
	[ 'ALTER TABLE part DISABLE TRIGGER t', $write->('part_2_1'), 'known' ],
	[ 'ALTER TABLE child OWNER TO other', q{SELECT nextval('child_serial_seq')}, 'known' ],
	[ 'ALTER TABLE child SET SCHEMA f2', q{SELECT nextval('child_serial_seq')}, 'known' ],
	[ 'ALTER TABLE heir_to_be INHERIT forebear', $vacuum->('forebear'), 'known' ],
	[ 'ALTER TABLE part ATTACH PARTITION part_3 FOR VALUES FROM (20) TO (30)', $read->('part_default'), 'known' ],
	[ 'ALTER TABLE part DETACH PARTITION part_2', $read->('part_2_1'), 'known' ],
	[ 'ALTER TABLE part DETACH PARTITION part_1', $read->('part_default'), 'known' ],
	[ 'ALTER TABLE ALL IN TABLESPACE abroad SET TABLESPACE away', $read->('moving'), 'learned' ],
	[ 'ALTER INDEX child_amount SET TABLESPACE away', $read->('child'), 'known' ],
	[ 'ALTER VIEW looking SET SCHEMA f2', $read->('looking'), 'known' ],
	[ 'ALTER MATERIALIZED VIEW seen RENAME TO viewed', $read->('seen'), 'known' ],
	[ 'ALTER SEQUENCE counter INCREMENT 2', q{SELECT nextval('counter')}, 'known' ],
	[ 'ALTER FOREIGN TABLE remote ADD COLUMN a int', 'LOCK TABLE near IN ACCESS SHARE MODE', 'free' ],
	# DROP
	[ 'DROP TABLE loose, shaped', $read->('shaped'), 'known' ],
	[ 'DROP TABLE keyed_user', $read->('keyed_1'), 'known' ],
	[ 'DROP TABLE part', $read->('parent'), 'known' ],
	[ 'DROP TABLE part_1', $read->('part_default'), 'known' ],
	[ 'DROP TABLE IF EXISTS missing, loose', $read->('loose'), 'known' ],
	[ 'DROP TABLE parent CASCADE', $read->('child'), 'learned' ],
	[ 'DROP INDEX part_k', $read->('part_2_1'), 'known' ],
	[ 'DROP VIEW over', $read->('over'), 'known' ],
	[ 'DROP MATERIALIZED VIEW seen', $read->('seen'), 'known' ],
	[ 'DROP SEQUENCE counter', q{SELECT nextval('counter')}, 'known' ],
	[ 'DROP TRIGGER t ON child', $read->('child'), 'known' ],
	[ 'DROP RULE r ON child', $read->('child'), 'known' ],
	# The rest
	[ 'TRUNCATE forebear', $read->('grandheir'), 'known' ],
	[ 'TRUNCATE parent CASCADE', $read->('child'), 'learned' ],
	[ 'LOCK TABLE part IN EXCLUSIVE MODE', $write->('part_2_1'), 'known' ],
	[ 'LOCK TABLE looking', $read->('child'), 'learned' ],
	[ 'CREATE INDEX ON part (id)', $write->('part_2_1'), 'known' ],
	[   'CREATE TRIGGER t2 BEFORE INSERT ON part FOR EACH ROW EXECUTE FUNCTION nothing()',
		$write->('part_2_1'), 'known' ],
	[ 'CREATE RULE r2 AS ON DELETE TO child WHERE false DO INSTEAD NOTHING', $read->('child'), 'known' ],
	[ 'REINDEX INDEX child_amount', $read->('child'), 'known' ],
	[ 'REINDEX TABLE child', $write->('child'), 'known' ],
	[ 'REINDEX TABLE child', $read->('child'), 'learned' ],
	[ 'CLUSTER child USING child_amount', $read->('child'), 'known' ],
	[ 'REFRESH MATERIALIZED VIEW seen', $read->('seen'), 'known' ],
	[ q{COMMENT ON TABLE child IS 'young'}, $vacuum->('child'), 'known' ],
	[ q{COMMENT ON COLUMN child.label IS 'young'}, $vacuum->('child'), 'known' ],
);

push @contended, (
	[ 'ALTER TABLE forebear ADD CONSTRAINT n NOT NULL k', $read->('grandheir'), 'known' ],
	[ 'ALTER TABLE late VALIDATE CONSTRAINT late_k', $vacuum->('late_grandheir'), 'known' ],
	[ 'ALTER TABLE late ALTER COLUMN k SET NOT NULL', $read->('late_grandheir'), 'known' ],
	[ 'ALTER TABLE late ALTER COLUMN id DROP NOT NULL', $read->('late_grandheir'), 'known' ],
	[ 'ALTER TABLE ONLY late ALTER COLUMN id DROP NOT NULL', $read->('late_grandheir'), 'free' ],
	[ 'ALTER TABLE ONLY late ALTER COLUMN id DROP NOT NULL', $read->('late_heir'), 'known' ],
	[ 'ALTER TABLE late DROP CONSTRAINT late_id', $read->('late_grandheir'), 'known' ]) if $version >= 180000;

for my $case (@contended)
{
	my ($statement, $in_the_way, $outcome) = @$case;
	my $test = "$statement [$in_the_way]";
	my $plain = run($statement, 'off');
	unlike($plain, qr/ERROR/, "$test: succeeds");
	$holder->do('BEGIN');
	$holder->do($in_the_way);
	my $guarded = run(
		$statement,
		'low_priority',
		sub {
			return if $outcome eq 'free';
			await($node, "$test: it waits",
				q{SELECT EXISTS (SELECT FROM pg_lockguard_progress WHERE pid = ? AND phase = 'waiting')}, $ddl->pid);
			my ($wait) = LockGuard::observer($node)->rows(
				'SELECT longest_stall <> $$0$$ OR backend_xid IS NOT NULL AS tried
					FROM pg_lockguard_progress JOIN pg_stat_activity USING (pid) WHERE pid = ?', $ddl->pid);
			is($wait->{tried} ? 'learned' : 'known', $outcome, "$test: it is $outcome");
			$holder->do('COMMIT');
		});
	is($guarded, $plain, "$test: the same locks");
	$holder->do('COMMIT') if $outcome eq 'free';
}

subtest 'a lock in two modes of which neither covers the other is needed in both' => sub {
	$ddl->do(q{
		CREATE SEQUENCE runs;
		CREATE TABLE single (id int);
		INSERT INTO single VALUES (1);
		CREATE FUNCTION run_and_lock() RETURNS int VOLATILE LANGUAGE plpgsql AS $$ BEGIN
			PERFORM nextval('f.runs');
			LOCK TABLE f.single IN SHARE UPDATE EXCLUSIVE MODE;
			RETURN 1;
		END $$;
		CREATE FUNCTION locked(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN
			RETURN f.run_and_lock();
		END $$});
	my $statement = 'CREATE INDEX ON single (locked(id))';
	my $plain = run($statement, 'off');
	like($plain, qr/^single ShareLock\nsingle ShareUpdateExclusiveLock$/m, 'it takes both');
	# Shares a ShareLock, and keeps out the other one, which turns up inside.
	$holder->do('BEGIN; LOCK TABLE single IN SHARE MODE');
	my $before = $holder->value('SELECT last_value FROM runs');
	my $guarded = run(
		$statement,
		'low_priority',
		sub {
			await($node, 'it waits for the weaker one',
				q{SELECT EXISTS (SELECT FROM pg_lockguard_progress
					WHERE pid = ? AND phase = 'waiting' AND lock_mode = 'ShareUpdateExclusiveLock' AND attempt > 3)},
				$ddl->pid);
			is($holder->value('SELECT last_value FROM runs') - $before, 1, 'it has run once in vain, and no more');
			$holder->do('COMMIT');
		});
	is($guarded, $plain, 'the same locks in the end');
};

forget_sessions();
$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP:|terminated by signal/, 'no crash');

done_testing();
