# Makes a table of the figures: median (least to greatest) of each leg, and the median of the ratios
# of the runs that were made one after the other. For rates more is better, for the rest less: the
# ratio says in either case how many times better than the base.
#
# legs: the legs to show, separated by blanks; the first is the base.
BEGIN {
    FS = ","
    n_legs = split(legs, show_leg, " ")
    base = show_leg[1]
}
NR > 1 {
    n = split($0, f, ",")
    # A figure's name may contain commas: the last four fields are fixed.
    name = f[1]
    for (i = 2; i <= n - 4; i++)
        name = name "," f[i]
    if (!(name in unit)) {
        unit[name] = f[n - 3]
        order[++figures] = name
    }
    leg = f[n - 2]
    seen[name, leg] = 1
    v[name, leg, ++count[name, leg]] = f[n]
}
function sorted(name, leg, to,   i, j, x) {
    for (i = 1; i <= count[name, leg]; i++) {
        x = v[name, leg, i] + 0
        for (j = i - 1; j >= 1 && to[j] > x; j--)
            to[j + 1] = to[j]
        to[j + 1] = x
    }
    return count[name, leg]
}
function mid(a, n) {
    return n % 2 ? a[(n + 1) / 2] : (a[n / 2] + a[n / 2 + 1]) / 2
}
function show(x) {
    return x >= 1000 || x <= -1000 ? sprintf("%.0f", x) : x >= 100 ? sprintf("%.1f", x) : sprintf("%.2f", x)
}
function cell(name, leg,   a, n) {
    if (!((name, leg) in seen))
        return ""
    n = sorted(name, leg, a)
    return n == 1 ? show(a[1]) : show(mid(a, n)) " (" show(a[1]) " to " show(a[n]) ")"
}
function ratio(name, leg,   i, n, key) {
    n = count[name, leg]
    if (!n || n != count[name, base] || unit[name] !~ /^(ns|ms|.*\/s)$/)
        return ""
    key = name " ratio"
    delete count[key, leg]
    for (i = 1; i <= n; i++)
        v[key, leg, i] = unit[name] ~ /\/s$/ ? v[name, leg, i] / v[name, base, i] \
                                             : v[name, base, i] / v[name, leg, i]
    count[key, leg] = n
    seen[key, leg] = 1
    return cell(key, leg)
}
END {
    head = "| figure | unit | " base " |"
    rule = "|---|---|---|"
    for (k = 2; k <= n_legs; k++) {
        head = head " " show_leg[k] " | times " base " |"
        rule = rule "---|---|"
    }
    print head
    print rule
    for (i = 1; i <= figures; i++) {
        name = order[i]
        row = "| " name " | " unit[name] " | " cell(name, (name, base) in seen ? base : "never") " |"
        for (k = 2; k <= n_legs; k++)
            row = row " " cell(name, show_leg[k]) " | " ratio(name, show_leg[k]) " |"
        print row
    }
}
