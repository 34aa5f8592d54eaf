#!/usr/bin/perl
# SPDX-License-Identifier: GPL-2.0
# mutants.pl MODE TABLE... -- SOURCE...: break C sources on purpose, as tables of mutants say.
#
#   list         print the mutants: number, name, killing test, seconds
#   check        print what is wrong with the tables, or does not apply to the sources
#   instrument   build all mutants into the sources, each switched on by gmem_mutant=NUMBER on the
#                boot line; print what does not apply, which leaves out that mutant
#   only=NAME    put one mutant into the sources, and no other
#
# A table has a name at the start of a line for each mutant, and below that, indented:
#
#   about   what is broken, in words
#   in      the function; other names for it may follow, one of them must be there
#   from    code that is there exactly once in that function: an expression, or one or more
#           statements if it ends in ";". Any white space stands for any other
#   to      what is there instead; may be empty for statements
#   by      the test that fails then: of harness/tests or harness/mutants, or "unit", or "el2"
#   within  seconds that the test may take (120); if it takes longer, the mutant is killed, too
#
# "from" and "to" may be there several times: the first that is found counts.
use strict;
use warnings;

my $mode = shift // '';
my (@tables, @sources);
my $to = \@tables;
for my $arg (@ARGV) {
	if ($arg eq '--') { $to = \@sources; } else { push @$to, $arg; }
}

my @mutants = map { read_table($_) } @tables;
my $nr = 0;
$_->{nr} = ++$nr for @mutants;

my $bad = 0;
if ($mode eq 'list') {
	print join("\t", $_->{nr}, $_->{name}, $_->{by} // '', $_->{within} // 120), "\n" for @mutants;
	exit 0;
}

my %text = map { $_ => read_file($_) } @sources;
my @functions = map { functions_of($_) } @sources;
my ($only) = $mode =~ /^only=(.+)/;
my %edits;
check_tables();
for my $m (@mutants) {
	next if $only && $m->{name} ne $only;
	my $place = find_place($m) or next;
	push @{$edits{$place->{file}}}, $place;
}
check_overlap($_) for sort keys %edits;
write_sources() if $mode eq 'instrument' || $only;
exit($bad ? 1 : 0);

sub complain {
	my ($m, $text) = @_;
	print "$m->{name}: $text\n";
	$bad = 1;
	return;
}

sub read_file {
	my ($file) = @_;
	open(my $f, '<', $file) or die "$file: $!\n";
	local $/;
	return scalar <$f>;
}

sub read_table {
	my ($file) = @_;
	my @found;
	for my $line (split /\n/, read_file($file)) {
		next if $line =~ /^\s*(#|$)/;
		if ($line =~ /^(\w+)\s*$/) {
			push @found, { name => $1, pairs => [] };
		} elsif ($line =~ /^\s+(about|in|from|to|by|within)\b\s*(.*?)\s*$/ && @found) {
			my $m = $found[-1];
			if ($1 eq 'from') {
				push @{$m->{pairs}}, [$2];
			} elsif ($1 eq 'to') {
				push @{$m->{pairs}[-1]}, $2;
			} else {
				$m->{$1} = $2;
			}
		} else {
			die "$file: what is '$line'?\n";
		}
	}
	return @found;
}

sub check_tables {
	my %seen;
	for my $m (@mutants) {
		complain($m, 'twice') if $seen{$m->{name}}++;
		for my $key (qw(about in by)) {
			complain($m, "lacks '$key'") unless $m->{$key};
		}
		complain($m, "lacks 'from' or 'to'") if !@{$m->{pairs}} || grep { @$_ != 2 } @{$m->{pairs}};
	}
}

# Returns a text in which comments are blank, and all else is where it was.
sub without_comments {
	my ($text) = @_;
	$text =~ s{(/\*.*?\*/|//[^\n]*)}{(my $t = $1) =~ s/[^\n]/ /g; $t}gse;
	return $text;
}

# Returns the functions of a file: name, and where head and body begin and the body ends.
sub functions_of {
	my ($file) = @_;
	my $text = without_comments($text{$file});
	my @found;
	while ($text =~ /^\{\n(.*?)^\}/gms) {
		my ($open, $body, $end) = ($-[0], $-[1], $+[1]);
		my $before = substr($text, 0, $open);
		my ($head) = $before =~ /((?:^[A-Za-z_][^\n]*\n)(?:^[ \t][^\n]*\n)*)\z/m or next;
		my $start = $open - length $head;
		# A type may have a line of its own.
		if ($head =~ /^\w+\s*\(/ && substr($text, 0, $start) =~ /(^[a-z][\w \t*]*\n)\z/m) {
			$start -= length $1;
			$head = $1 . $head;
		}
		my $name;
		while ($head =~ /(\w+)\s*\(/g) {
			$name = $1;
			last unless $name =~ /^__(printf|attribute__|must_hold|acquires|releases)$/;
		}
		push @found, { file => $file, name => $name, start => $start, body => $body, end => $end,
			       text => substr($text, $body, $end - $body) } if $name;
	}
	return @found;
}

# Returns where a mutant goes, or complains.
sub find_place {
	my ($m) = @_;
	my %wanted = map { $_ => 1 } split ' ', $m->{in} // '';
	my @there = grep { $wanted{$_->{name}} } @functions;
	return complain($m, "no function $m->{in}") unless @there;
	for my $pair (@{$m->{pairs}}) {
		my ($from, $to) = @$pair;
		my $regex = join '\s+', map { quotemeta } split ' ', $from;
		my @found;
		for my $f (@there) {
			while ($f->{text} =~ /$regex/g) {
				push @found, { m => $m, file => $f->{file}, function => $f, from => $from,
					       to => $to, start => $f->{body} + $-[0], end => $f->{body} + $+[0] };
			}
		}
		return complain($m, @found . " times in $m->{in}: $from") if @found > 1;
		return $found[0] if @found;
	}
	return complain($m, "not in $m->{in}: $m->{pairs}[0][0]");
}

sub check_overlap {
	my ($file) = @_;
	my $last;
	my @left;
	for my $e (sort { $a->{start} <=> $b->{start} } @{$edits{$file}}) {
		# Mutants of user space and of the hypervisor are put in one at a time.
		if (($e->{m}{by} // '') =~ /^(unit|el2)$/) {
			push @left, $e if $only;
			next;
		}
		if ($last && $e->{start} < $last->{end}) {
			complain($e->{m}, "overlaps with $last->{m}{name}");
			next;
		}
		push @left, $e;
		$last = $e;
	}
	$edits{$file} = \@left;
}

sub replacement {
	my ($e, $was) = @_;
	my $statement = $e->{from} =~ /;$/;
	return $e->{to} if $only && $statement;
	return "($e->{to})" if $only;
	return "{ if (gmem_mutant == $e->{m}{nr}) { $e->{to} } else { $was } }" if $statement;
	return "(gmem_mutant == $e->{m}{nr} ? ($e->{to}) : ($was))";
}

# From the end to the start, so that positions stay right.
sub write_sources {
	for my $file (sort keys %edits) {
		my @all = @{$edits{$file}};
		my %heads = map { $_->{function}{start} => 1 } @all;
		my @steps = map { { at => $_->{start}, edit => $_ } } @all;
		push @steps, map { { at => $_ } } keys %heads unless $only;
		for my $s (sort { $b->{at} <=> $a->{at} } @steps) {
			if (my $e = $s->{edit}) {
				my $length = $e->{end} - $e->{start};
				my $was = substr($text{$file}, $e->{start}, $length);
				substr($text{$file}, $e->{start}, $length) = replacement($e, $was);
			} else {
				substr($text{$file}, $s->{at}, 0) = "extern unsigned int gmem_mutant;\n";
			}
		}
	}
	my ($home) = grep { m{mm/guestmem_hugetlb\.c$} } @sources;
	if (!$only) {
		$edits{$home} //= [];
		$text{$home} .= <<'C';

#include <linux/init.h>
#include <linux/kstrtox.h>
unsigned int gmem_mutant;

static int __init gmem_mutant_setup(char *arg)
{
	return kstrtouint(arg, 0, &gmem_mutant);
}
early_param("gmem_mutant", gmem_mutant_setup);
C
	}
	for my $file (sort keys %edits) {
		open(my $f, '>', $file) or die "$file: $!\n";
		print $f $text{$file};
		close($f) or die "$file: $!\n";
	}
}
