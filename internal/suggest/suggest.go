// Package suggest finds near names, for messages that say what the user may
// have meant.
package suggest

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Distance is the number of insertions, deletions, substitutions and swaps of
// neighbours that turn a into b, no substring edited twice (optimal string
// alignment), in characters.
func Distance(a, b string) int {
	s, t := []rune(a), []rune(b)
	prev2, prev, cur := make([]int, len(t)+1), make([]int, len(t)+1), make([]int, len(t)+1)
	for j := range cur {
		cur[j] = j
	}
	for i := 1; i <= len(s); i++ {
		prev2, prev, cur = prev, cur, prev2
		cur[0] = i
		for j := 1; j <= len(t); j++ {
			change := prev[j-1]
			if s[i-1] != t[j-1] {
				change++
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, change)
			if i > 1 && j > 1 && s[i-1] == t[j-2] && s[i-2] == t[j-1] {
				cur[j] = min(cur[j], prev2[j-2]+1)
			}
		}
	}
	return cur[len(t)]
}

// Nearest returns up to n of the names nearest to name, nearest first, and
// none that share too little with it: more than a third of the longer name
// would have to change and neither contains the other. Case is ignored.
func Nearest(name string, among []string, n int) []string {
	type candidate struct {
		name string
		d    int
	}
	var near []candidate
	low := strings.ToLower(name)
	for _, c := range among {
		if c == name || slices.ContainsFunc(near, func(x candidate) bool { return x.name == c }) {
			continue
		}
		lc := strings.ToLower(c)
		long := max(utf8.RuneCountInString(low), utf8.RuneCountInString(lc))
		d := Distance(low, lc)
		inside := len(low) >= 3 && strings.Contains(lc, low) || len(lc) >= 3 && strings.Contains(low, lc)
		if 3*d > long && d > 1 && !inside {
			continue
		}
		near = append(near, candidate{c, d})
	}
	slices.SortStableFunc(near, func(a, b candidate) int { return cmp.Compare(a.d, b.d) })
	var names []string
	for _, c := range near[:min(n, len(near))] {
		names = append(names, c.name)
	}
	return names
}

// DidYouMean returns ` (did you mean "a" or "b"?)`, or "" when no name of
// among is near.
func DidYouMean(name string, among []string) string {
	near := Nearest(name, among, 3)
	if len(near) == 0 {
		return ""
	}
	return " (did you mean " + Or(near) + "?)"
}

// Or quotes names and joins them: "a", "b" or "c".
func Or(names []string) string {
	var b strings.Builder
	for i, s := range names {
		switch {
		case i == 0:
		case i == len(names)-1:
			b.WriteString(" or ")
		default:
			b.WriteString(", ")
		}
		b.WriteString(strconv.Quote(s))
	}
	return b.String()
}
