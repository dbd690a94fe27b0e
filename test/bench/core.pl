# The figures of core_bench: processor time from the lock table to the rows of the tree, without
# PostgreSQL.
use strict;
use warnings;

use LockguardBench;

my ($csv) = @ARGV;
open(my $file, '<', $csv) or die "$csv: $!";
my @columns;
while (my $line = <$file>)
{
	chomp $line;
	my @cells = map { s/^"|"$//gr } split /,/, $line;
	@columns = @cells if $cells[0] eq 'name';
	my ($name) = $cells[0] =~ /^(graph_and_forest\/.*)_median$/ or next;
	my %of;
	@of{@columns} = @cells;
	die "time_unit is $of{time_unit}, not us" if $of{time_unit} ne 'us';
	my (undef, $shape, $sessions) = split m{/}, $name;
	# The knot and the graph without cycles have ten edges for each session.
	figure("$shape, $sessions sessions, $of{edges} edges", $of{cpu_time} / 1000, 'ms',
		$sessions == 10000 && $of{edges} > 90000 ? '<= 50' : undef);
}
die "no figures in $csv" if !@columns;
