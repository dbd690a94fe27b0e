# What the tests of races share: clients that are processes of their own, and run until they are told to stop.
# What they say goes into a file each: a pipe that nobody reads meanwhile would be full at some time, and stop them.
#
# scripts/test-races runs these tests with LOCKGUARD_STRESS, as often as it takes to trust them.
package LockGuard::Race;

use strict;
use warnings;

use Exporter 'import';
use POSIX ();
use PostgreSQL::Test::Utils;

our @EXPORT = qw(start_client clients_stop going_on end_clients);

my ($folder, @clients);

# start_client(BODY): runs BODY->(HANDLE) in a process of its own. It has to ask going_on().
sub start_client
{
	my ($body) = @_;
	$folder //= PostgreSQL::Test::Utils::tempdir();
	my $file = "$folder/client" . @clients;
	my $pid = fork() // die "fork: $!";
	if ($pid == 0)
	{
		open(my $out, '>', $file) or POSIX::_exit(1);
		$out->autoflush(1);
		my $done = eval { $body->($out); 1 };
		print $out "died $@" unless $done;
		close $out;
		# Neither END blocks nor destructors of the parent's.
		POSIX::_exit($done ? 0 : 1);
	}
	push @clients, { pid => $pid, file => $file };
	return;
}

sub going_on { return !-e "$folder/stop" }
sub clients_stop { append_to_file("$folder/stop", ''); return }

# end_clients(): tells them to stop. Returns the lines that they have said, all together.
sub end_clients
{
	clients_stop();
	my @lines;
	for my $client (@clients)
	{
		waitpid $client->{pid}, 0;
		push @lines, split /\n/, slurp_file($client->{file});
	}
	return @lines;
}

1;
