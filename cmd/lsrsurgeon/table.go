package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

// table renders rows in aligned columns on a terminal and tab-separated
// otherwise, so that cut and awk see the same columns.
type table struct {
	head  []string
	right []bool // right-aligned columns (numbers)
	rows  [][]string
}

// newTable takes column titles; a leading '>' makes a column right-aligned.
func newTable(head ...string) *table {
	t := &table{}
	for _, h := range head {
		r := strings.HasPrefix(h, ">")
		t.head = append(t.head, strings.TrimPrefix(h, ">"))
		t.right = append(t.right, r)
	}
	return t
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

// write renders to w. pretty aligns; otherwise cells are separated by tabs.
func (t *table) write(w io.Writer, pretty bool) {
	all := append([][]string{t.head}, t.rows...)
	if !pretty {
		for _, r := range all {
			fmt.Fprintln(w, strings.Join(r, "\t"))
		}
		return
	}
	width := make([]int, len(t.head))
	for _, r := range all {
		for i, c := range r {
			width[i] = max(width[i], utf8.RuneCountInString(c))
		}
	}
	for _, r := range all {
		var b strings.Builder
		for i, c := range r {
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(c))
			if i > 0 {
				b.WriteString("  ")
			}
			if t.right[i] {
				b.WriteString(pad + c)
			} else {
				b.WriteString(c + pad)
			}
		}
		fmt.Fprintln(w, strings.TrimRight(b.String(), " "))
	}
}

// commas formats n with thousands separators: 12,288.
func commas(n int64) string {
	s := strconv.FormatInt(n, 10)
	neg := strings.HasPrefix(s, "-")
	s = strings.TrimPrefix(s, "-")
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	if neg {
		return "-" + s
	}
	return s
}

// bytesText formats a size: 1.5 GB.
func bytesText(n int64) string {
	const unit = 1000
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	f, i := float64(n), -1
	for f >= unit && i < 4 {
		f /= unit
		i++
	}
	return fmt.Sprintf("%.1f %cB", f, "kMGTP"[i])
}

// shapeText formats a shape as [768, 768].
func shapeText(s []int) string {
	p := make([]string, len(s))
	for i, d := range s {
		p[i] = strconv.Itoa(d)
	}
	return "[" + strings.Join(p, ", ") + "]"
}

// float formats a figure with four significant digits.
func float(f float64) string { return strconv.FormatFloat(f, 'g', 4, 64) }
