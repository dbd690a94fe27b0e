# ddl_preview() says what a statement then does. Each form is previewed, and run for real on tables
# with rows, in one session. The truth: which tables have a new file, which were read, which have a
# new index, and which locks are held at the end. A change of the server's messages is noticed here.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use LockGuard;
use LockGuard::Locks;
use PostgreSQL::Test::Utils;
use Test::More;

my ($node, $ddl) = start_scene('forms');
$node->safe_psql(
	'postgres', q{
	SET search_path = f;
	-- All tables have rows.
	INSERT INTO uncle SELECT generate_series(1, 20);
	INSERT INTO self SELECT i, 1 FROM generate_series(1, 20) i;
	INSERT INTO loose SELECT i, i FROM generate_series(1, 20) i;
	INSERT INTO clustered SELECT i, i FROM generate_series(1, 20) i;
	INSERT INTO unlogged SELECT generate_series(1, 20);
	INSERT INTO forebear (id, parent_id, k, u) SELECT i, i, i, i FROM generate_series(1, 5) i;
	INSERT INTO heir (id, parent_id, k, u) SELECT i, i, i, i FROM generate_series(6, 10) i;
	INSERT INTO grandheir (id, parent_id, k, u) SELECT i, i, i, i FROM generate_series(11, 15) i;
	INSERT INTO keyless SELECT i, i FROM generate_series(1, 5) i;
	INSERT INTO keyless_heir SELECT i, i FROM generate_series(6, 10) i;
	INSERT INTO diamond SELECT i, i FROM generate_series(1, 5) i;
	INSERT INTO left_facet SELECT i, i FROM generate_series(1, 5) i;
	INSERT INTO right_facet SELECT i, i FROM generate_series(1, 5) i;
	INSERT INTO lower_facet SELECT i, i FROM generate_series(1, 5) i;
	INSERT INTO heir_to_be (id, parent_id, k, u) SELECT i, i, i, i FROM generate_series(1, 5) i;
	INSERT INTO part_3 SELECT i, i FROM generate_series(21, 25) i;
	INSERT INTO keyed SELECT generate_series(1, 19);
	INSERT INTO keyed_user SELECT i, i FROM generate_series(1, 10) i;
	INSERT INTO keyed_3 SELECT generate_series(21, 25);
	INSERT INTO keyless_part SELECT i, i FROM generate_series(1, 14) i;
	INSERT INTO typed SELECT i, i FROM generate_series(1, 5) i;
	INSERT INTO shaped SELECT i, i FROM generate_series(1, 5) i;
	INSERT INTO near SELECT i, i FROM generate_series(1, 5) i;
	INSERT INTO moving SELECT i, i FROM generate_series(1, 5) i;
	REFRESH MATERIALIZED VIEW seen;
	-- And some more of them.
	CREATE TABLE filled (id int, proved int) PARTITION BY RANGE (id);
	CREATE TABLE filled_default PARTITION OF filled DEFAULT;
	INSERT INTO filled SELECT i, i FROM generate_series(1001, 1020) i;
	CREATE TABLE filled_1 (id int, proved int CONSTRAINT proof CHECK (proved IS NOT NULL));
	INSERT INTO filled_1 SELECT i, i FROM generate_series(1, 20) i;
	CREATE UNIQUE INDEX filled_1_id ON filled_1 (id);
	CREATE TABLE filled_2 (id int NOT NULL CHECK (id >= 200 AND id < 300), proved int);
	INSERT INTO filled_2 SELECT i, i FROM generate_series(201, 220) i;
	CREATE DOMAIN positive_int AS int CHECK (VALUE > 0);
	CREATE TABLE with_domain (id int, d positive_int);
	INSERT INTO with_domain SELECT i, i FROM generate_series(1, 20) i;
	CREATE TABLE fired (id int);
	INSERT INTO fired SELECT generate_series(1, 20);
	CREATE TRIGGER t BEFORE TRUNCATE ON fired FOR EACH STATEMENT EXECUTE FUNCTION nothing();
});
$ddl->do('SET search_path = f, public');
$ddl->do('PREPARE all_children AS SELECT * FROM child');
$ddl->do('SET pg_lockguard.ddl_mode = off');
$ddl->do(q{SET pg_lockguard.preview_max_hold = '60s'});    # a busy machine is not what is tried here

# The relations of the scene as they are now, by OID.
sub relations
{
	return map { $_->{oid} => $_ } $ddl->rows(q{
		SELECT c.oid, quote_ident(nspname) || '.' || quote_ident(relname) AS name, relkind,
				pg_relation_filenode(c.oid) AS file, pg_relation_size(c.oid) AS size,
				(SELECT indrelid FROM pg_index WHERE indexrelid = c.oid) AS "table",
				coalesce((SELECT seq_tup_read FROM pg_stat_xact_user_tables WHERE relid = c.oid), 0) AS rows_read
			FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
			WHERE nspname NOT IN ('pg_catalog', 'pg_toast', 'information_schema')});
}

# The modes of each relation that no other mode covers, from rows with relation and mode.
my @order = map { $_ . 'Lock' }
  qw(AccessShare RowShare RowExclusive ShareUpdateExclusive Share ShareRowExclusive Exclusive AccessExclusive);
my %strength = map { $order[$_] => $_ } 0 .. $#order;

# Does the one mode conflict with all that the other conflicts with?
sub covers
{
	my ($mode, $other) = @_;
	return 0 if $mode eq 'ShareLock' && $other eq 'ShareUpdateExclusiveLock';
	return $strength{$mode} >= $strength{$other};
}

sub strongest
{
	my %modes;
	push @{ $modes{ $_->{relation} } }, $_->{mode} for @_;
	for my $relation (keys %modes)
	{
		my @all = @{ $modes{$relation} };
		$modes{$relation} = [ sort grep { my $m = $_; !grep { $_ ne $m && covers($_, $m) } @all } @all ];
	}
	return \%modes;
}

sub lock_text
{
	my $modes = shift;
	return join '', map { my $relation = $_; map { "$relation $_\n" } @{ $modes->{$relation} } } sort keys %$modes;
}

# What makes a new file, and writes nothing to it.
my $empties = qr/^TRUNCATE|WITH NO DATA$/;

# Runs the statement. Returns its error, or what it has done.
sub truth
{
	my $statement = shift;
	$ddl->do('BEGIN');
	my %before = relations();
	my $failure = eval { $ddl->do($statement); undef } // $@;
	if ($failure)
	{
		$ddl->do('ROLLBACK');
		return { error => $failure };
	}
	my %after = relations();
	my @locks = $ddl->rows(q{
		SELECT relation AS oid, mode FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'relation' AND granted});
	$ddl->do('ROLLBACK');
	my %done = (rewritten => {}, built => {}, read => {});
	for my $oid (keys %after)
	{
		my ($old, $new) = ($before{$oid}, $after{$oid});
		if ($new->{relkind} =~ /[iI]/)
		{
			my $table = $before{ $new->{table} } or next;
			next unless $table->{size} > 0 && $new->{relkind} eq 'i' && (!$old || $old->{file} != $new->{file});
			if ($statement =~ /SET TABLESPACE/) { $done{rewritten}{ $old->{name} } = 1 }
			elsif ($statement !~ $empties) { $done{built}{ $table->{name} } = 1 }
		}
		elsif ($old)
		{
			$done{read}{ $old->{name} } = 1 if $new->{rows_read} > $old->{rows_read};
			$done{rewritten}{ $old->{name} } = 1
			  if $old->{size} > 0 && $old->{file} && $old->{file} != $new->{file} && $new->{relkind} =~ /[rm]/
			  && $statement !~ $empties;
		}
	}
	$done{locks} = strongest(map { { relation => $before{ $_->{oid} }{name}, mode => $_->{mode} } }
		grep { $before{ $_->{oid} } } @locks);
	return \%done;
}

sub preview
{
	my $statement = shift;
	my @rows = eval { $ddl->rows('SELECT * FROM ddl_preview(?)', $statement) };
	return { error => $@ } if $@;
	return { rows => \@rows };
}

sub first_line { return (split /\n/, shift)[0] =~ s/.*?ERROR:\s*//r =~ s/ at \S+ line \d+.*//r }

# What is wrong with the preview, '' if nothing.
sub faults_of
{
	my ($statement, $rows, $truth) = @_;
	my @faults;
	my ($work, @others) = grep { $_->{action} ne 'lock' } @$rows;
	my ($last) = $rows->[-1];
	my $by_rules = ($last->{advice} // '') =~ /^Not run/;
	push @faults, 'more than one thing to do' if @others;
	push @faults, 'steps are not numbered' if grep { $rows->[$_]{step} != $_ + 1 } 0 .. $#$rows;
	push @faults, 'somebody holds a lock' if grep { @{ $_->{held_by} // [] } } @$rows;
	return 'it has nothing to do' unless $work || $by_rules;

	my %counterpart = ('rewrite' => 'rewritten', 'build index' => 'built', 'scan' => 'read', 'validate foreign key' => 'read');
	my $action = $work ? $work->{action} : 'unknown';
	my $about = $work ? $work->{relation} : undef;
	if (my $in_truth = $counterpart{$action})
	{
		push @faults, "$about is not $in_truth" unless $truth->{$in_truth}{$about};
		push @faults, 'it claims to be complete' if $work->{complete};
		push @faults, "$action has no size" unless $work->{size};
	}
	elsif ($action eq 'catalog only')
	{
		my @heavy = map { my $what = $_; map { "$_ was $what" } sort keys %{ $truth->{$what} } }
		  qw(rewritten read built);
		# FULL, CONCURRENTLY and the like are judged by rules, which say so.
		push @faults, @heavy;
		push @faults, 'it has a size' if defined $work->{size};
		push @faults, 'it is not complete' if !$work->{complete} && !$by_rules;
	}
	elsif ($action eq 'run query')
	{
		push @faults, 'it is no query' unless $statement =~ /^(CREATE (TABLE|MATERIALIZED)|REFRESH|SELECT)/;
	}
	push @faults, 'a rewrite that it does not see: ' . join ', ', sort keys %{ $truth->{rewritten} }
	  if %{ $truth->{rewritten} } && $action !~ /^(rewrite|run query|unknown)$/;

	my $seen = strongest(map { { relation => $_->{relation}, mode => $_->{lock_mode} } } grep { $_->{action} eq 'lock' } @$rows);
	if ($last->{complete})
	{
		push @faults, 'locks: ' . lock_text($seen) . 'but there are: ' . lock_text($truth->{locks})
		  if lock_text($seen) ne lock_text($truth->{locks});
	}
	for my $relation (sort keys %$seen)
	{
		for my $mode (@{ $seen->{$relation} })
		{
			push @faults, "no $mode on $relation" unless grep { covers($_, $mode) } @{ $truth->{locks}{$relation} // [] };
		}
	}
	return join "\n", @faults;
}

my $list = slurp_file("$FindBin::RealBin/lib/preview_forms.txt");
my (%seen, $by_rules);
for my $statement (grep { !/^#|^$/ } split /\n/, $list)
{
	my $preview = preview($statement);
	$ddl->do('DISCARD PLANS');    # a plan that is there takes fewer locks
	my $truth = truth($statement);
	if ($truth->{error} || $preview->{error})
	{
		is(first_line($preview->{error} // ''), first_line($truth->{error} // ''), "$statement: the same error");
		next;
	}
	is(faults_of($statement, $preview->{rows}, $truth), '', $statement)
	  or diag(join "\n", map { join ' | ', map { $_ // '-' } @$_{qw(action relation lock_mode complete advice)} } @{ $preview->{rows} });
	$seen{ $_->{action} }++ for @{ $preview->{rows} };
	$by_rules++ if ($preview->{rows}[-1]{advice} // '') =~ /^Not run/;
}

# What ALL IN TABLESPACE moves: not the temporary tables that stand in the same tablespace, nor catalogs; but whatever else
# came with the database, as the tables of information_schema.
subtest 'all in a tablespace' => sub {
	$ddl->do('CREATE TEMPORARY TABLE passing (id int PRIMARY KEY)');
	$ddl->do('INSERT INTO passing SELECT generate_series(1, 20)');
	$node->safe_psql('postgres', 'CREATE ROLE mover; ALTER TABLE f.loose OWNER TO mover');
	my %kinds = (TABLE => '{r,p}', INDEX => '{i,I}', 'MATERIALIZED VIEW' => '{m}');
	for my $type (sort keys %kinds)
	{
		for my $which ('', 'OWNED BY mover', 'OWNED BY mover, postgres')
		{
			my $statement = "ALTER $type ALL IN TABLESPACE pg_default $which SET TABLESPACE away" =~ s/ {2}/ /r;
			my $preview = preview($statement);
			$ddl->do('BEGIN');
			$ddl->do($statement);
			my @locked = $ddl->rows(q{
				SELECT quote_ident(nspname) || '.' || quote_ident(relname) AS name
					FROM pg_locks JOIN pg_class c ON c.oid = relation JOIN pg_namespace n ON n.oid = relnamespace
					WHERE pid = pg_backend_pid() AND mode = 'AccessExclusiveLock' AND relkind = ANY (?::"char"[])
						AND nspname <> 'pg_toast'}, $kinds{$type});
			$ddl->do('ROLLBACK');
			ok(@locked > 0, "$statement moves some") if $type eq 'TABLE';
			is(join("\n", sort map { $_->{relation} } grep { $_->{action} eq 'lock' } @{ $preview->{rows} }),
				join("\n", sort map { $_->{name} } @locked), '... and these are shown') or diag($preview->{error});
		}
	}
	is_deeply([ map { $_->{action} } @{ preview('ALTER TABLE ALL IN TABLESPACE abroad SET TABLESPACE abroad')->{rows} } ],
		['catalog only'], 'from a tablespace to itself nothing is moved');
	for my $statement (
		'ALTER TABLE ALL IN TABLESPACE missing SET TABLESPACE away', 'ALTER TABLE ALL IN TABLESPACE abroad SET TABLESPACE missing',
		'ALTER TABLE ALL IN TABLESPACE pg_global SET TABLESPACE away', 'ALTER TABLE ALL IN TABLESPACE abroad SET TABLESPACE pg_global',
		'ALTER TABLE ALL IN TABLESPACE abroad OWNED BY missing SET TABLESPACE away')
	{
		like(first_line(preview($statement)->{error} // ''), qr/\w/, "$statement: an error");
		is(first_line(preview($statement)->{error} // ''), first_line(truth($statement)->{error}), '... and it is the same');
	}
	$ddl->do('DROP TABLE passing');
};

# The list is one that shows something.
ok(($seen{$_} // 0) > 0, "there are forms with: $_")
  for 'lock', 'rewrite', 'scan', 'build index', 'validate foreign key', 'run query', 'catalog only';
ok($by_rules, 'there are forms that are judged by rules');

is($ddl->value(q{SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND mode = 'AccessExclusiveLock'}), 0,
	'no lock is left');
unlike(slurp_file($node->logfile), qr/DEBUG:/, 'the server log has none of the messages');

done_testing();
