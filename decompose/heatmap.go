package decompose

import (
	"bufio"
	"encoding/xml"
	"fmt"
	"io"
	"math"
	"regexp"
	"strings"
)

// layerInName finds the number of a layer in a tensor's name.
var layerInName = regexp.MustCompile(`\.(\d+)\.`)

// HeatMap draws the relative changes of ds as an SVG image: one column for each
// layer, one row for each kind of tensor, colour by the logarithm of the
// relative change. Tensors without a layer make a column of their own at the
// end of the rows that they share a name with. Unchanged tensors are white.
func HeatMap(w io.Writer, ds []TensorDiff) error {
	rows, columns := axes{}, axes{}
	type cell struct {
		row, column int
		d           TensorDiff
	}
	var cells []cell
	lo, hi := math.Inf(1), math.Inf(-1)
	for _, d := range ds {
		if d.State != Same && d.State != Changed {
			continue
		}
		row, column := d.Name, "-"
		if m := layerInName.FindStringSubmatchIndex(d.Name); m != nil {
			row, column = d.Name[m[1]:], d.Name[m[2]:m[3]]
		}
		cells = append(cells, cell{rows.at(row), columns.at(column), d})
		if d.Relative > 0 && !math.IsInf(d.Relative, 0) {
			lo, hi = min(lo, math.Log10(d.Relative)), max(hi, math.Log10(d.Relative))
		}
	}
	const size, left, top = 16, 260, 40
	b := bufio.NewWriter(w)
	fmt.Fprintf(b, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" font-family=\"sans-serif\" font-size=\"10\">\n<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n", left+size*len(columns.names)+20, top+size*len(rows.names)+20)
	title := "nothing changed"
	if hi >= lo {
		title = fmt.Sprintf("relative change, from %.2g (light) to %.2g (dark), logarithmic", math.Pow(10, lo), math.Pow(10, hi))
	}
	fmt.Fprintf(b, "<text x=\"8\" y=\"14\">%s</text>\n", title)
	for i, n := range columns.names {
		fmt.Fprintf(b, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">%s</text>\n", left+size*i+size/2, top-4, escape(n))
	}
	for i, n := range rows.names {
		fmt.Fprintf(b, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%s</text>\n", left-6, top+size*i+12, escape(n))
	}
	for _, c := range cells {
		fmt.Fprintf(b, "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" stroke=\"#ddd\" fill=\"%s\"><title>%s: %.4g</title></rect>\n",
			left+size*c.column, top+size*c.row, size, size, colour(c.d, lo, hi), escape(c.d.Name), c.d.Relative)
	}
	fmt.Fprintln(b, "</svg>")
	return b.Flush()
}

// axes numbers names in the order of first use.
type axes struct {
	names []string
	index map[string]int
}

func (a *axes) at(name string) int {
	if a.index == nil {
		a.index = map[string]int{}
	}
	i, ok := a.index[name]
	if !ok {
		i = len(a.names)
		a.index[name] = i
		a.names = append(a.names, name)
	}
	return i
}

func escape(s string) string {
	var b strings.Builder
	if err := xml.EscapeText(&b, []byte(s)); err != nil {
		return "" // not reached: a strings.Builder takes everything
	}
	return b.String()
}

// colour goes from light to dark blue over [lo, hi].
func colour(d TensorDiff, lo, hi float64) string {
	switch {
	case d.NotFinite > 0 || math.IsInf(d.Relative, 0):
		return "#d33"
	case d.Relative == 0:
		return "#fff"
	}
	x := 1.0
	if hi > lo {
		x = (math.Log10(d.Relative) - lo) / (hi - lo)
	}
	mix := func(a, b float64) int { return int(math.Round(a + x*(b-a))) }
	return fmt.Sprintf("#%02x%02x%02x", mix(222, 8), mix(235, 48), mix(247, 107))
}
