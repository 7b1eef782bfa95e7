package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"regexp"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/lsrsurgeon/lsrsurgeon/decompose"
	"github.com/lsrsurgeon/lsrsurgeon/internal/atomicfile"
	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel"
)

type diffOptions struct {
	match, heatMap      string
	components, threads int
	all                 bool
}

func newDiff(a *app) *cobra.Command {
	o := &diffOptions{}
	c := &cobra.Command{
		Use:   "diff MODEL MODEL",
		Short: "Show what changed between two checkpoints",
		Long: `Compares two checkpoints tensor by tensor: size of the change, absolute and
relative to the first; for matrices the effective rank of the change
(|d|² over the square of the largest singular value), and how many singular
triplets (rank 90 %) and Kronecker products (terms 90 %) hold 90 % of |d|². That
tells what an adapter of each kind would need: see extract.`,
		Example: `  lsrsurgeon diff MODEL FINE_TUNED
  lsrsurgeon diff MODEL FINE_TUNED --match 'query|value' --heat-map change.svg
  lsrsurgeon diff MODEL MERGED --components 0 --json`,
		Args: exactArgs("MODEL", "MODEL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runDiff(cmd.Context(), a, args[0], args[1], o)
		},
	}
	f := c.Flags()
	f.StringVar(&o.match, "match", "", "only tensors whose name matches this regular expression")
	f.StringVar(&o.heatMap, "heat-map", "", "also draw the relative changes by layer and module to this SVG file")
	f.IntVar(&o.components, "components", 32, "singular triplets and Kronecker products to look for; 0 compares norms only, which is faster")
	f.BoolVar(&o.all, "all", false, "list unchanged tensors too")
	f.IntVar(&o.threads, "threads", 0, "threads (default: one per processor); the result does not depend on it")
	return c
}

// diffRow is a line of the table. Figures that do not exist are null.
type diffRow struct {
	Tensor        string   `json:"tensor"`
	State         string   `json:"state"`
	Shape         []int    `json:"shape"`
	From          string   `json:"from,omitempty"`
	To            string   `json:"to,omitempty"`
	Norm          float64  `json:"norm"`
	Relative      *float64 `json:"relative"` // null where the first tensor is 0
	MaxChange     float64  `json:"max_change"`
	NotFinite     int      `json:"not_finite,omitempty"`
	EffectiveRank *float64 `json:"effective_rank,omitempty"`
	Rank90        *int     `json:"rank_90,omitempty"`  // components + 1: more than were looked for
	Terms90       *int     `json:"terms_90,omitempty"` // likewise
}

func diffRowOf(d decompose.TensorDiff) diffRow {
	r := diffRow{Tensor: d.Name, State: string(d.State), Shape: d.Shape, Norm: d.Norm, MaxChange: d.MaxChange, NotFinite: d.NotFinite}
	if d.State != decompose.Added {
		r.From = d.From.String()
	}
	if d.State != decompose.Missing {
		r.To = d.To.String()
	}
	if !math.IsInf(d.Relative, 0) && !math.IsNaN(d.Relative) {
		r.Relative = &d.Relative
	}
	if d.Components > 0 {
		r.EffectiveRank, r.Rank90, r.Terms90 = &d.EffectiveRank, &d.Rank90, &d.SeparationRank90
	}
	return r
}

func runDiff(ctx context.Context, a *app, first, second string, o *diffOptions) error {
	x := decompose.DiffOptions{Components: o.components}
	if o.components < 0 {
		return usagef("--components %d: want 0 or more", o.components)
	}
	if o.match != "" {
		re, err := regexp.Compile(o.match)
		if err != nil {
			return usagef("--match: %v", err)
		}
		x.Match = re.MatchString
	}
	if err := a.checkAllOutputs([]string{first, second}, o.heatMap); err != nil {
		return err
	}
	one, err := a.open(first)
	if err != nil {
		return err
	}
	defer one.Close()
	two, err := a.open(second)
	if err != nil {
		return err
	}
	defer two.Close()
	pool := kernel.NewPool(threads(o.threads))
	defer pool.Close()
	bar := a.progress("diff")
	x.Pool, x.Progress = pool, func(done, total int64) { bar.update(done, total, commas(total)+" elements") }
	ds, err := decompose.Diff(ctx, one, two, x)
	bar.done()
	if err != nil {
		return err
	}
	if o.heatMap != "" {
		if err := atomicfile.WriteFile(o.heatMap, 0o666, func(w io.Writer) error { return decompose.HeatMap(w, ds) }); err != nil {
			return err
		}
	}
	return printDiff(a, o, ds)
}

func printDiff(a *app, o *diffOptions, ds []decompose.TensorDiff) error {
	count := map[decompose.State]int{}
	rows := []diffRow{}
	for _, d := range ds {
		count[d.State]++
		if o.all || d.State != decompose.Same {
			rows = append(rows, diffRowOf(d))
		}
	}
	if a.json {
		return a.printJSON(map[string]any{"schema": schemaVersion, "tensors": rows, "same": count[decompose.Same], "changed": count[decompose.Changed], "reshaped": count[decompose.Reshaped],
			"added": count[decompose.Added], "missing": count[decompose.Missing], "components": o.components})
	}
	t := newTable("tensor", "state", "dtype", ">|d|", ">|d|/|first|", ">max", ">effective rank", ">rank 90 %", ">terms 90 %")
	for _, r := range rows {
		dt := r.From
		if r.To != r.From {
			dt += " > " + r.To
		}
		cells := []string{r.Tensor, r.State, dt, "", "", "", "", "", ""}
		if r.State == string(decompose.Changed) {
			cells[3], cells[5] = float(r.Norm), float(r.MaxChange)
			if r.Relative != nil {
				cells[4] = float(*r.Relative)
			}
			if r.NotFinite > 0 {
				cells[3], cells[4], cells[5] = "not finite", "", ""
			}
		}
		if r.EffectiveRank != nil {
			cells[6], cells[7], cells[8] = float(*r.EffectiveRank), atMost(*r.Rank90, o.components), atMost(*r.Terms90, o.components)
		}
		t.add(cells...)
	}
	if len(rows) > 0 {
		t.write(a.out, a.outTTY)
	}
	fmt.Fprintf(a.out, "%d changed, %d same, %d reshaped, %d only in the second, %d only in the first\n", count[decompose.Changed], count[decompose.Same], count[decompose.Reshaped], count[decompose.Added], count[decompose.Missing])
	return nil
}

// atMost shows a number, or that it is above the largest looked for.
func atMost(n, most int) string {
	if n > most {
		return ">" + strconv.Itoa(most)
	}
	return strconv.Itoa(n)
}
