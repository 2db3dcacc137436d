# compute.pl SIZE: patterns, hashes, formats, arithmetic and bits; prints digests only.
use strict;
use warnings;
use Digest::SHA qw(sha256_hex);
use List::Util qw(sum reduce shuffle);
use POSIX qw(floor fmod strtol);
use Math::BigInt;
use Storable qw(freeze thaw);
use Encode;

my $size = shift;
my $seed = 42;

sub draw {
    $seed = ($seed * 1103515245 + 12345) & 0x7fffffff;
    return ($seed >> 8) % $_[0];
}

sub show {
    my ($name, @what) = @_;
    print "$name ", sha256_hex(encode_utf8(join("\n", @what))), "\n";
}

my $text = join '', map { draw(6) ? chr(97 + draw(26)) : draw(30) ? ' ' : "\x{3b1}\x{df}\n" } 1 .. $size * 30000;
my %count;
$count{lc $1}++ while $text =~ /\b(\w{2})\w*/g;
show('words', map { "$_ $count{$_}" } sort keys %count);
(my $turned = $text) =~ s/([aeiou])([^aeiou\s]+)/\U$2\E$1/g;
$turned =~ tr/A-M/n-z/;
show('patterns', $turned, scalar(() = $text =~ /(?<a>\w)(?=\k<a>)|(\w+)\s+(??{ substr($2, 0, 1) })/g));

my @numbers = map { draw(1 << 20) / (1 + draw(1000)) - 300 } 1 .. $size * 4000;
show('sorted', map { sprintf '%.12g|%e|%08.3f|%x', $_, $_ * 1e-30, $_, abs int $_ } sort { $a <=> $b } @numbers);
show('arithmetic', map { join ',', int($_) % 7, -int($_) % 7, fmod($_, 1.1), floor($_), $_**1.5 < 1e300 ? sqrt abs $_ : 0, atan2($_, 3), exp($_ / 1e4),
    int($_ * 1e6) & 0xffff0f, int(abs $_) << 3, strtol(sprintf('%x', abs $_), 16) } @numbers);
show('packed', map { unpack 'H*', pack 'w N v Q> d f n/a*', abs int $_, $_ & 0xffff, 7, abs int($_ * 1e6), $_, $_, "x$_" } @numbers);
show('large', Math::BigInt->new(3)->bpow($size * 150)->bmul(Math::BigInt->new(7)->bpow(99))->bdiv('123456789012345678901')->bstr);
my $tree = { map { my $n = $_; ("k$n" => [map { { n => $n * $_, s => "v$_" } } 1 .. 5]) } 1 .. $size * 500 };
my $copy = thaw(freeze($tree));
show('structures', map { my $k = $_; map { "$k $_->{n} $_->{s}" } @{ $copy->{$k} } } sort keys %$copy);
my @calls = map { my $n = $_; sub { ($_[0] * $n + 1) % 10007 } } 2 .. 40;
my $result = 1;
for my $round (1 .. $size * 500) {
    $result = eval { die "odd\n" if $result % 5 == 3; reduce { $b->($a) } $result + $round, @calls } // length $@;
}
show('calls', $result);
my $bits = '';
vec($bits, draw($size * 10000), 1) ^= 1 for 1 .. $size * 30000;
show('bits', unpack('%32b*', $bits), unpack('H*', $bits));
