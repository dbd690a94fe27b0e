-- Prints docs/all-settings-and-columns.md: what a server with the extension says of it. Run with psql -XAt by
-- scripts/make-reference, which writes the page, and by a test, which compares.

\echo '# All settings, functions, views and columns'
\echo
\echo 'As the server describes them. What they do in full is in the [reference](reference.md). This page is written by `scripts/make-reference`;'
\echo 'a test compares it with the server.'
\echo
\echo '## Settings'
\echo
\echo 'Who may set them, and when: *anybody*, in the session; a *superuser*, in the session (or who has been granted `SET` on it); *reload*: in'
\echo '`postgresql.conf` or by `ALTER SYSTEM`, and a reload; *server start*: there, and a restart.'
\echo
\echo '| setting | default | values | who, when | meaning |'
\echo '|---|---|---|---|---|'
SELECT format('| `%s` | %s | %s | %s | %s |',
	name,
	CASE WHEN current_setting(name) = '' THEN 'empty' ELSE '`' || current_setting(name) || '`' END,
	CASE vartype
		WHEN 'bool' THEN '`on`, `off`'
		WHEN 'enum' THEN (SELECT string_agg('`' || value || '`', ', ' ORDER BY position)
			FROM unnest(enumvals) WITH ORDINALITY AS v(value, position))
		WHEN 'integer' THEN CASE WHEN max_val::int8 = 2147483647 THEN 'from ' || min_val ELSE min_val || ' to ' || max_val END
			|| coalesce(' ' || unit, '')
		ELSE 'text' END,
	CASE context WHEN 'user' THEN 'anybody' WHEN 'superuser' THEN 'superuser' WHEN 'sighup' THEN 'reload' ELSE 'server start' END,
	-- A bar would end the cell.
	replace(short_desc || coalesce(' ' || extra_desc, ''), '|', '\|'))
FROM pg_settings
WHERE name LIKE 'pg\_lockguard.%'
ORDER BY name COLLATE "C";

\echo
\echo '## Functions'
\echo
\echo '| function | returns | what it does |'
\echo '|---|---|---|'
WITH members AS (
	SELECT objid FROM pg_depend
	WHERE deptype = 'e' AND classid = 'pg_proc'::regclass AND refclassid = 'pg_extension'::regclass
		AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'pg_lockguard'))
SELECT format('| `%s(%s)` | %s | %s |',
	proname,
	-- Without what it returns, which is the view's, or is below.
	(SELECT string_agg(concat_ws(' ', proargnames[i], format_type(type, NULL)), ', ' ORDER BY i)
		FROM unnest(proargtypes) WITH ORDINALITY AS a(type, i)),
	CASE WHEN proretset THEN 'rows' ELSE format_type(prorettype, NULL) END,
	replace(obj_description(p.oid, 'pg_proc'), '|', '\|'))
FROM pg_proc p JOIN members ON objid = p.oid
ORDER BY proname COLLATE "C", pronargs;

\echo
\echo '## Columns'
\echo
\echo 'Of a function without a view the [reference](reference.md) says what the columns mean.'
SELECT E'\n' || format('### %s', proname) || E'\n\n' || CASE
	WHEN c.oid IS NULL THEN '| column | type |' || E'\n' || '|---|---|' || E'\n' ||
		string_agg(format('| %s | %s |', name, format_type(type, NULL)), E'\n' ORDER BY i)
	ELSE '| column | type | meaning |' || E'\n' || '|---|---|---|' || E'\n' ||
		string_agg(format('| %s | %s | %s |', name, format_type(type, NULL), replace(col_description(c.oid, attnum), '|', '\|')), E'\n' ORDER BY i)
	END
FROM pg_proc p
	JOIN pg_depend d ON d.objid = p.oid AND d.classid = 'pg_proc'::regclass AND deptype = 'e'
	JOIN pg_extension e ON d.refobjid = e.oid AND extname = 'pg_lockguard'
	-- The view of the same name and columns.
	LEFT JOIN pg_class c ON c.relname = proname AND c.relnamespace = pronamespace AND c.relkind = 'v'
	CROSS JOIN LATERAL unnest(proallargtypes, proargnames, proargmodes) WITH ORDINALITY AS a(type, name, mode, i)
	LEFT JOIN pg_attribute ON attrelid = c.oid AND attname = name
WHERE mode IN ('o', 't')
GROUP BY p.oid, proname, c.oid
ORDER BY proname COLLATE "C";
