-- From 18 on NOT NULL is a constraint, which may be there without being valid.
SET search_path = f;
CREATE TABLE late (id int, k int);
CREATE TABLE late_heir () INHERITS (late);
CREATE TABLE late_grandheir () INHERITS (late_heir);
ALTER TABLE late ADD CONSTRAINT late_id NOT NULL id, ADD CONSTRAINT late_k NOT NULL k NOT VALID;
CREATE TABLE late_part (id int, k int) PARTITION BY RANGE (id);
CREATE TABLE late_part_1 PARTITION OF late_part FOR VALUES FROM (0) TO (10);
ALTER TABLE late_part ADD CONSTRAINT late_id NOT NULL id, ADD CONSTRAINT late_k NOT NULL k NOT VALID;
