-- complain if this script is run by psql instead of ALTER EXTENSION
\echo Use "ALTER EXTENSION pg_lockguard UPDATE" to load this file. \quit

-- The objects of 1.0.0 are those of 0.4.0.
