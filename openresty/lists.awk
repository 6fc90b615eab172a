# What is wrong with a setting that is a list:  awk -v setting=NAME -f lists.awk
# It reads one entry a line and says one fault a line, by the entry's number: what a faulty entry
# holds may be a secret that went into the wrong place.

function fault(text) {
    print setting ": number " NR " " text
}

function is_number(text, most) {
    return text ~ /^(0|[1-9][0-9]*)$/ && length(text) < 6 && text + 0 <= most
}

function is_ipv4(text, octets, count, i) {
    count = split(text, octets, ".")
    for (i = 1; i <= count; i++) {
        if (!is_number(octets[i], 255)) return 0
    }
    return count == 4
}

# How many of the eight groups of an IPv6 address a part of it has; 99 when it is no such part.
# At the end of the whole an IPv4 address may stand for two of them.
function groups(text, is_end, words, count, i) {
    count = split(text, words, ":")
    for (i = 1; i <= count; i++) {
        if (is_end && i == count && is_ipv4(words[i])) return count + 1
        if (words[i] !~ /^[0-9a-fA-F]+$/ || length(words[i]) > 4) return 99
    }
    return count
}

function is_ipv6(text, gap) {
    gap = index(text, "::")
    if (!gap) return groups(text, 1) == 8
    return groups(substr(text, 1, gap - 1), 0) + groups(substr(text, gap + 2), 1) < 8
}

function judge_range(entry, parts, count, most) {
    count = split(entry, parts, "/")
    most = is_ipv4(parts[1]) ? 32 : is_ipv6(parts[1]) ? 128 : -1
    if (count > 2 || most < 0 || (count == 2 && !is_number(parts[2], most))) {
        fault("is no address and no range of addresses, such as 10.0.0.7, 10.0.0.0/8 or fd00::/8")
    }
}

# What people write in place of an origin, in the order it is looked for (issuer/origins.py).
function origin_fault(entry, port) {
    if (entry == "null") return "is null, which every page without an origin of its own says"
    if (entry ~ /[*]/) return "is a pattern; name each origin"
    if (entry ~ /[A-Z]/) return "has capitals; a browser sends it in lower case"
    if (entry ~ /^[a-z][a-z0-9+.-]*:\/\/[^\/ ]+\//) {
        return "has a path; leave out what is behind host and port, a slash too"
    }
    if (entry ~ /^http:\/\/.*:80$/ || entry ~ /^https:\/\/.*:443$/) {
        return "has its scheme's own port; a browser leaves that out"
    }
    port = match(entry, /:[1-9][0-9]*$/) ? substr(entry, RSTART + 1) : 1
    if (entry !~ ORIGIN || !is_number(port, 65535)) {
        return "is not SCHEME://HOST or SCHEME://HOST:PORT"
    }
    if (length(entry) > 300) return "is longer than 300 characters"
}

function judge_origin(entry, reason) {
    reason = origin_fault(entry)
    if (reason) {
        print setting ": each must be an origin as a browser sends it; number " NR " " reason
    }
}

BEGIN {
    ORIGIN = "^[a-z][a-z0-9+.-]*://([a-z0-9._-]+|[[][0-9a-f:.]+[]])(:[1-9][0-9]*)?$"
}
setting == "TRUSTED_PROXIES" { judge_range($0) }
setting == "CORS_ORIGINS" { judge_origin($0) }
