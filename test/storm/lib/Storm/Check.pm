# After the storm: what the catalogs and the tables say against what the clients' journals say.
package Storm::Check;

use strict;
use warnings;

use Exporter 'import';
use Storm::Schema qw(@tables $hot_rows);

our @EXPORT_OK = qw(differences log_faults);

# Each query yields pairs of key and value, for the kind of that name in the journals.
my %actual = (
	column => q{SELECT attrelid::regclass || ' ' || attname, format_type(atttypid, -1) FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
		WHERE attname ~ '^c[0-9]+_' AND NOT attisdropped AND attislocal AND relname ~ '^t[0-9]+$' AND relkind IN ('r', 'p')},
	index => q{SELECT relname, CASE WHEN indisvalid THEN 'valid' ELSE 'invalid' END FROM pg_index JOIN pg_class c ON c.oid = indexrelid
		WHERE relname ~ '^c[0-9]+_[0-9]+$'},
	constraint => q{SELECT conrelid::regclass || ' ' || conname, CASE WHEN convalidated THEN 'valid' ELSE 'not valid' END
		FROM pg_constraint JOIN pg_class c ON c.oid = conrelid
		WHERE conname ~ '^c[0-9]+_[0-9]+$' AND conislocal AND relname ~ '^t[0-9]+$'},
	trigger => q{SELECT tgrelid::regclass || ' ' || tgname, tgenabled FROM pg_trigger JOIN pg_class c ON c.oid = tgrelid
		WHERE tgname ~ '^c[0-9]+_[0-9]+$' AND relname ~ '^t[0-9]+$'},
	view => q{SELECT relname, relkind FROM pg_class WHERE relname ~ '^c[0-9]+_[0-9]+$' AND relkind = 'v'},
	table => q{SELECT relname, relkind FROM pg_class WHERE relname ~ '^c[0-9]+_[0-9]+$' AND relkind = 'r'
			AND pg_get_expr(relpartbound, oid) IS NULL AND NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = pg_class.oid AND attname = 'id' AND NOT attisdropped
				AND EXISTS (SELECT FROM detached WHERE name = relname))},
	partition => q{SELECT relname, (regexp_match(pg_get_expr(relpartbound, oid), '-?[0-9]+'))[1] FROM pg_class
		WHERE relname ~ '^c[0-9]+_[0-9]+$' AND relispartition AND relkind = 'r'},
	# REFRESH CONCURRENTLY makes, fills and drops a table on its way, which event triggers see.
	mark => q{SELECT marker, count(*) FROM (SELECT marker, tag, bool_or(tag LIKE 'REFRESH%') OVER (PARTITION BY marker) AS refresh
		FROM ddl_log) AS l WHERE NOT refresh OR tag LIKE 'REFRESH%' GROUP BY 1},
	row => join(' UNION ALL ', map { "SELECT '$_ ' || id, v FROM ONLY $_ WHERE id > $hot_rows" } grep { !/t1[123]/ } @tables)
	  . join('', map { " UNION ALL SELECT '$_ ' || id, v FROM $_ WHERE id > $hot_rows" } qw(t11 t12 t13)),
	sum => join(' UNION ALL ', map { "SELECT '$_ ' || id, v FROM ONLY $_ WHERE id <= $hot_rows AND v <> 0" } grep { !/t1[123]/ } @tables)
	  . join('', map { " UNION ALL SELECT '$_ ' || id, v FROM $_ WHERE id <= $hot_rows AND v <> 0" } qw(t11 t12 t13)),
);

# differences(DBH, JOURNAL...): what does not agree, in words.
sub differences
{
	my ($dbh, @journals) = @_;
	my (%expected, @faults);
	for my $journal (@journals)
	{
		for my $kind (keys %$journal)
		{
			while (my ($key, $value) = each %{ $journal->{$kind} })
			{
				if ($kind eq 'sum') { $expected{sum}{$key} += $value }
				else { $expected{$kind}{$key} = $value }
			}
		}
	}
	$dbh->do('CREATE TEMPORARY TABLE detached (name text)');
	$dbh->do('INSERT INTO detached VALUES (?)', undef, $_) for keys %{ $expected{detached} };
	for my $kind (sort keys %actual)
	{
		my %seen = map { @$_ } @{ $dbh->selectall_arrayref($actual{$kind}) };
		my $expected = $expected{$kind} // {};
		for my $key (sort keys %{ { %seen, %$expected } })
		{
			my ($is, $was) = ($seen{$key} // 'absent', $expected->{$key} // 'absent');
			# VACUUM FULL, CLUSTER and REINDEX TABLE mend an index that CONCURRENTLY left invalid.
			next if $kind eq 'index' && "$is $was" eq 'valid invalid';
			push @faults, "$kind $key: it is $is, and the journal has $was" if $is ne $was;
		}
	}
	my ($counted) = $dbh->selectrow_array('SELECT coalesce(sum(n), 0) FROM audit');
	my $rows = keys %{ $expected{row} // {} };
	push @faults, "the triggers have counted $counted rows, and there are $rows" if $counted != $rows;
	for my $detached (sort keys %{ $expected{detached} })
	{
		my ($is) = $dbh->selectrow_array(q{SELECT NOT relispartition FROM pg_class WHERE oid = to_regclass(?)}, undef, $detached);
		push @faults, "$detached should be a table that was detached" unless $is;
	}
	return @faults;
}

# is_reused_multixact(TEXT): a transaction uses a multixact of its own again for the same lockers, also in a table that
# was rewritten since, which says that it has none so old (ATRewriteTables() takes the next one, not the oldest that
# runs). VACUUM finds it. So on a plain server: two transactions lock a row FOR KEY SHARE, two others another, ALTER TABLE
# rewrites a second table, in which the first two lock a row.
sub is_reused_multixact { return $_[0] =~ /found multixact \d+ from before relminmxid/ }

# is_of_uncommitted_index(TEXT): CREATE INDEX CONCURRENTLY lets go of its lock on the table before it commits that the
# index is valid (DefineIndex()). Who rewrites the table in between finds it invalid, and would say itself that it is
# valid (reindex_index()). So on a plain server, where the commit waits for a standby. A client sees the message only;
# log_faults() sees that it was there, by the backtrace (backtrace_functions).
sub is_of_uncommitted_index { return $_[0] =~ /tuple concurrently updated/ }

# log_faults(TEXT): lines of a server log that must not be.
sub log_faults
{
	my $text = shift;
	my @faults;
	$text =~ s/^.*tuple\ concurrently\ updated\n
		(?:.*(?:CONTEXT|LOCATION):.*\n(?:\t.*\n)*)*
		.*BACKTRACE:.*\n(?:\t.*\n){0,3}?\t.*\(reindex_index\+.*\n//xmg;
	for my $line (split /\n/, $text)
	{
		next if $line =~ /there is no transaction in progress|could not send data to client|no_such_role|keeps others waiting|LOCATION: /;
		# Its error is told in a line of its own.
		next if is_reused_multixact($line) || $line =~ /CONTEXT:  while scanning block/;
		next unless $line =~ /PANIC|TRAP:|terminated by signal|server process .* exited|leak|still active|XX00[0-9]
			|WARNING: .*(?:lock|snapshot|buffer|relcache|catcache|subtransaction|resource|in\ progress)
			|FATAL:.*(?:stuck|recovery)/x;
		push @faults, $line;
	}
	return @faults;
}

1;
