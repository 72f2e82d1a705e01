# Line servers as Perl programs write them. server.pl MODE PORT; SIGTERM ends it.
#
# buffered  fork for each connection, lines by <>
# bytes     fork for each connection, sysread of one byte
# first     as bytes, but the parent reads and answers the first line before it forks
# pool      eight children that accept for themselves
use strict;
use warnings;
use IO::Socket::INET;
use POSIX ':sys_wait_h';

my ($mode, $port) = @ARGV;
my $listener = IO::Socket::INET->new(
    LocalAddr => '127.0.0.1', LocalPort => $port, Listen => 128, ReuseAddr => 1, Proto => 'tcp'
) or die "listen: $@";
my $stop = 0;
my %child;

sub swapped {
    my ($line) = @_;
    $line =~ tr/a-zA-Z/A-Za-z/;
    return $line;
}

sub answer_line {
    my ($socket) = @_;
    my ($line, $c) = ('');
    while (sysread $socket, $c, 1) {
        $line .= $c;
        next if $c ne "\n";
        print {$socket} swapped($line);
        return 1;
    }
    return 0;
}

sub serve {
    my ($socket) = @_;
    $socket->autoflush(1);
    if ($mode eq 'buffered' || $mode eq 'pool') {
        while (my $line = <$socket>) {
            print {$socket} swapped($line);
        }
    } else {
        1 while answer_line($socket);
    }
    close $socket;
}

sub child {
    my ($work) = @_;
    my $pid = fork // die "fork: $!";
    if ($pid == 0) {
        $work->();
        exit 0;
    }
    $child{$pid} = 1;
}

$SIG{TERM} = sub { $stop = 1; die "stop\n" };
if ($mode eq 'pool') {
    for (1 .. 8) {
        child(sub {
            eval {
                while (my $socket = $listener->accept) { serve($socket) }
            };
        });
    }
    eval { sleep 1 while 1 };
    kill TERM => keys %child;
} else {
    eval {
        until ($stop) {
            my $socket = $listener->accept or next;
            answer_line($socket) if $mode eq 'first';
            child(sub { $SIG{TERM} = 'DEFAULT'; close $listener; serve($socket) });
            close $socket;
            while ((my $pid = waitpid -1, WNOHANG) > 0) { delete $child{$pid} }
        }
    };
}
waitpid $_, 0 for keys %child;
