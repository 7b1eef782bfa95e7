package main

import (
	"math"
	"regexp"

	"github.com/spf13/cobra"

	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

type tensorsOptions struct {
	stats bool
	match string
}

func newInspectTensors(a *app) *cobra.Command {
	o := &tensorsOptions{}
	c := &cobra.Command{
		Use:   "tensors MODEL|ADAPTER",
		Short: "List tensors: name, dtype, shape, bytes, and statistics",
		Example: `  lsrsurgeon inspect tensors MODEL
  lsrsurgeon inspect tensors MODEL --stats --match 'layer\.0\.'`,
		Args: exactArgs("MODEL or ADAPTER"),
		RunE: func(_ *cobra.Command, args []string) error { return runTensors(a, args[0], o) },
	}
	c.Flags().BoolVar(&o.stats, "stats", false, "read the data: min, max, mean, standard deviation, NaN and Inf counts")
	c.Flags().StringVar(&o.match, "match", "", "only names that match this regular expression")
	return c
}

type tensorRow struct {
	Name   string       `json:"name"`
	DType  string       `json:"dtype"`
	Shape  []int        `json:"shape"`
	Bytes  int64        `json:"bytes"`
	File   string       `json:"file"`
	Offset int64        `json:"offset"`
	Stats  *tensorStats `json:"stats,omitempty"`
}

type tensorStats struct {
	Min  float64 `json:"min"`
	Max  float64 `json:"max"`
	Mean float64 `json:"mean"`
	Std  float64 `json:"std"`
	NaN  int64   `json:"nan"`
	Inf  int64   `json:"inf"`
}

func runTensors(a *app, path string, o *tensorsOptions) error {
	re, err := regexp.Compile(o.match)
	if err != nil {
		return usagef("--match: %v", err)
	}
	ck, err := a.open(path)
	if err != nil {
		return err
	}
	defer ck.Close()
	rows := []tensorRow{}
	for _, t := range ck.Tensors() {
		if !re.MatchString(t.Name) {
			continue
		}
		r := tensorRow{Name: t.Name, DType: t.TypeName(), Shape: append([]int{}, t.Shape...), Bytes: t.Bytes, File: ck.Files()[t.File].Path, Offset: t.Offset}
		if o.stats && tensor.Convertible(t.DType) {
			if r.Stats, err = statsOf(ck, t); err != nil {
				return err
			}
		}
		rows = append(rows, r)
	}
	if a.json {
		meta := map[string]string{}
		for k, v := range ck.Metadata() {
			meta[k] = v
		}
		return a.printJSON(map[string]any{"schema": schemaVersion, "path": path, "format": ck.Format(), "metadata": meta, "tensors": rows})
	}
	head := []string{"name", "dtype", "shape", ">bytes"}
	if o.stats {
		head = append(head, ">min", ">max", ">mean", ">std", ">nan", ">inf")
	}
	tb := newTable(head...)
	for _, r := range rows {
		cells := []string{r.Name, r.DType, shapeText(r.Shape), commas(r.Bytes)}
		if o.stats {
			if s := r.Stats; s != nil {
				cells = append(cells, float(s.Min), float(s.Max), float(s.Mean), float(s.Std), commas(s.NaN), commas(s.Inf))
			} else {
				cells = append(cells, "-", "-", "-", "-", "-", "-")
			}
		}
		tb.add(cells...)
	}
	tb.write(a.out, a.outTTY)
	return nil
}

// statsOf reads a tensor in blocks. Mean and standard deviation are over the
// finite elements; an empty or wholly non-finite tensor has zeros.
func statsOf(ck *formats.Checkpoint, t formats.Tensor) (*tensorStats, error) {
	const block = 1 << 16
	buf := make([]float32, block)
	all := kernel.NoStatistics()
	for from := int64(0); from < t.Elements(); from += block {
		b := buf[:min(block, t.Elements()-from)]
		if err := ck.ReadF32(t, from, from+int64(len(b)), b); err != nil {
			return nil, err
		}
		all.Add(kernel.Stats(b))
	}
	st := &tensorStats{NaN: int64(all.NaN), Inf: int64(all.Inf)}
	if n := float64(t.Elements() - st.NaN - st.Inf); n > 0 {
		st.Min, st.Max, st.Mean = float64(all.Min), float64(all.Max), all.Sum/n
		st.Std = math.Sqrt(math.Max(0, all.SumSquares/n-st.Mean*st.Mean))
	}
	return st, nil
}
