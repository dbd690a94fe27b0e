-- Relations of all kinds, in the schema f, for the statements whose locks are compared (LockGuard::Locks).
CREATE TABLESPACE away LOCATION '';
CREATE TABLESPACE abroad LOCATION '';
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
