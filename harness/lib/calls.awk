# SPDX-License-Identifier: GPL-2.0
# awk -f calls.awk -v what=drawing|circles FILE...: find out from C sources which file calls which.
# "drawing" prints a line per file, each file below those that it calls. "circles" prints the calls
# of files that call each other, and nothing if there are none.
#
# A file calls another one if it mentions a function that the other one defines and that isn't
# static, be it in a call or as a pointer. A static inline function or a macro of a header is what
# it mentions itself. Types, macros and variables that files share are no calls.

FNR == 1 {
	file = FILENAME
	sub(/.*\//, "", file)
	header = file ~ /\.h$/
	if (!header) {
		files[++nr_files] = file
		dir[file] = FILENAME ~ /(^|\/)mm\// ? "mm" : "kvm"
	}
	in_comment = depth = 0
	head = ""
	in_macro = ""
}

{
	line = strip($0)
	if (line ~ /^[ \t]*#[ \t]*include/)
		next
	if (line ~ /^[ \t]*#/ || in_macro != "") {
		macro(line)
		next
	}
	scan(line)
}

# Returns a line without comments, strings and members of structs.
function strip(text,    start, out)
{
	gsub(/\\\\/, "", text)
	gsub(/\\["']/, "", text)
	if (!in_comment) {
		gsub(/"[^"]*"/, "\"\"", text)
		gsub(/'[^']*'/, "0", text)
	}
	out = ""
	while (text != "") {
		if (in_comment) {
			start = index(text, "*/")
			if (!start)
				return out
			text = substr(text, start + 2)
			in_comment = 0
			continue
		}
		sub(/\/\/.*/, "", text)
		start = index(text, "/*")
		if (!start) {
			out = out text
			break
		}
		out = out substr(text, 1, start - 1) " "
		text = substr(text, start + 2)
		in_comment = 1
	}
	gsub(/(->|\.)[ \t]*[A-Za-z_][A-Za-z_0-9]*/, " ", out)
	return out
}

# A macro of a header is like a function of it.  Other preprocessor lines have nothing.
function macro(text,    name)
{
	if (match(text, /^[ \t]*#[ \t]*define[ \t]+[A-Za-z_0-9]+/)) {
		name = substr(text, RSTART, RLENGTH)
		sub(/.*[ \t]/, "", name)
		in_macro = header ? name : "-"
		text = substr(text, RSTART + RLENGTH)
	}
	if (in_macro != "")
		mention(text, header ? in_macro : "")
	if (text !~ /\\[ \t]*$/)
		in_macro = ""
}

# Looks for functions: what stands before a brace at the outermost level is a head.
function scan(text,    c, start)
{
	while (match(text, /[{};]/)) {
		start = RSTART
		c = substr(text, start, 1)
		if (depth == 0)
			head = head " " substr(text, 1, start - 1)
		else
			mention(substr(text, 1, start - 1), inline)
		text = substr(text, start + 1)

		if (c == "{") {
			if (depth++ == 0)
				open_body()
		} else if (c == "}" && depth > 0) {
			if (--depth == 0)
				head = ""
		} else if (c == ";" && depth == 0) {
			if (!header)
				mention(head, "")
			head = ""
		}
	}
	if (depth == 0)
		head = head " " text
	else
		mention(text, inline)
}

# Sets what is known of the function whose body begins, or of the initializer.
function open_body(    name)
{
	name = name_of(head)
	inline = ""
	if (header)
		inline = name == "" ? "-" : name
	else if (name == "")
		mention(head, "")
	else if (head ~ /(^|[ \t])static[ \t]/)
		own[file, name]
	else
		defined[name] = file
	head = ""
}

# Returns the name in the head of a function: the first one with parameters.
function name_of(text,    name)
{
	if (text ~ /=/ || text !~ /\(/)
		return ""
	while (match(text, /[A-Za-z_][A-Za-z_0-9]*[ \t]*\(/)) {
		name = substr(text, RSTART, RLENGTH)
		sub(/[ \t]*\($/, "", name)
		if (name !~ /^__(printf|attribute__|must_hold|acquires|releases|aligned)$/)
			return name
		text = substr(text, RSTART + RLENGTH)
	}
	return ""
}

# Notes all words of a text for the file, or for the function of a header.
function mention(text, by,    word, n, words)
{
	gsub(/[^A-Za-z_0-9]+/, " ", text)
	n = split(text, words, " ")
	for (; n; n--) {
		word = words[n]
		if (word !~ /^[A-Za-z_]/)
			continue
		if (!header)
			mentions[file] = mentions[file] add(file, word)
		else if (by != "" && by != "-")
			inlines[by] = inlines[by] add("inline " by, word)
	}
}

function add(to, word)
{
	if ((to, word) in noted)
		return ""
	noted[to, word]
	return word " "
}

# Notes the calls that a list of words is.
function resolve(caller, list,    words, n, i, word, callee)
{
	n = split(list, words, " ")
	for (i = 1; i <= n; i++) {
		word = words[i]
		if ((caller, word) in own || (caller, word) in resolved)
			continue
		resolved[caller, word]
		if (word in defined) {
			callee = defined[word]
			if (callee != caller)
				via[caller, callee] = via[caller, callee] " " word "()"
		} else if (word in inlines) {
			resolve(caller, inlines[word])
		}
	}
}

# Orders the files: each below all that it calls, as far as there is such an order.
function sort_files(    i, k, f, ready, progress)
{
	while (nr_sorted < nr_files) {
		progress = 0
		for (i = 1; i <= nr_files && !progress; i++) {
			f = files[i]
			ready = !(f in place)
			for (k = 1; ready && k <= nr_files; k++)
				ready = files[k] in place || !((f, files[k]) in via)
			progress = ready
		}
		# All files that are left are in a circle, or call one that is.
		for (i = 1; i <= nr_files && !progress; i++) {
			f = files[i]
			progress = !(f in place)
		}
		sorted[++nr_sorted] = f
		place[f] = nr_sorted
	}
}

# Returns a file's name as it is in the line of another one.
function short_name(callee, caller)
{
	sub(/\.c$/, "", callee)
	if (dir[callee ".c"] == dir[caller])
		sub(dir[caller] == "mm" ? "^guestmem_" : "^guest_memfd_", "", callee)
	return callee
}

function draw(    i, k, text)
{
	for (i = 1; i <= nr_sorted; i++) {
		text = sorted[i] ":"
		for (k = nr_sorted; k; k--) {
			if ((sorted[i], sorted[k]) in via)
				text = text " " short_name(sorted[k], sorted[i])
		}
		print text
	}
}

function find_circles(    i, j, k, f, g)
{
	for (i = 1; i <= nr_files; i++)
		for (j = 1; j <= nr_files; j++)
			if ((files[i], files[j]) in via)
				reach[i, j]
	for (k = 1; k <= nr_files; k++)
		for (i = 1; i <= nr_files; i++)
			for (j = 1; (i, k) in reach && j <= nr_files; j++)
				if ((k, j) in reach)
					reach[i, j]
	for (i = 1; i <= nr_files; i++) {
		for (j = 1; j <= nr_files; j++) {
			f = files[i]; g = files[j]
			if ((f, g) in via && (j, i) in reach)
				print "circle: " f " calls " g ":" via[f, g]
		}
	}
}

END {
	for (nr = 1; nr <= nr_files; nr++)
		resolve(files[nr], mentions[files[nr]])
	sort_files()
	if (what == "circles")
		find_circles()
	else
		draw()
}
