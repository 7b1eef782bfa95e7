package main

import (
	"regexp"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/kron"
	"github.com/lsrsurgeon/lsrsurgeon/model"
)

func newInspect(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "inspect",
		Short: "Show what is in a checkpoint or an adapter",
		Args:  cobra.ArbitraryArgs,
		RunE:  parent,
	}
	c.AddCommand(newInspectCounts(a), newInspectTensors(a), newInspectLayers(a), newInspectAdapter(a))
	return c
}

func newInspectLayers(a *app) *cobra.Command {
	match, names := "", ""
	c := &cobra.Command{
		Use:     "layers MODEL",
		Short:   "List the linear layers that an adapter can go on",
		Example: "  lsrsurgeon inspect layers MODEL --match 'layers\\.0\\.'\n  lsrsurgeon inspect layers model.onnx --names-from MODEL",
		Args:    exactArgs("MODEL"),
		RunE:    func(_ *cobra.Command, args []string) error { return runInspectLayers(a, args[0], match, names) },
	}
	c.Flags().StringVar(&names, "names-from", "", namesFromHelp)
	c.Flags().StringVar(&match, "match", "", "only modules that match this regular expression")
	return c
}

// layerRow is one linear layer in JSON.
type layerRow struct {
	Module   string `json:"module"`
	In       int    `json:"in"`
	Out      int    `json:"out"`
	Layer    int    `json:"layer"`
	DType    string `json:"dtype"`
	Weight   string `json:"weight"`
	Layout   string `json:"layout"` // "out,in" as nn.Linear, "in,out" as Conv1D
	Bias     bool   `json:"bias"`
	Output   bool   `json:"output"`
	SplitIn  [2]int `json:"split_in"`
	SplitOut [2]int `json:"split_out"`
}

func runInspectLayers(a *app, path, match, names string) error {
	re, err := regexp.Compile(match)
	if err != nil {
		return usagef("--match: %v", err)
	}
	ck, err := a.open(path)
	if err != nil {
		return err
	}
	defer ck.Close()
	sites, known, err := model.SitesOf(ck)
	if err != nil {
		return err
	}
	if sites, err = namesFrom(a, ck, sites, names); err != nil {
		return err
	}
	if !known {
		a.note("%s has no configuration of a known family: layers are those that look linear by name and shape", path)
	}
	rows := []layerRow{}
	for _, s := range sites {
		if re.MatchString(s.Module) {
			rows = append(rows, layerRowOf(s))
		}
	}
	if a.json {
		return a.printJSON(map[string]any{"schema": schemaVersion, "model": path, "known_family": known, "layers": rows})
	}
	t := newTable("module", ">in", ">out", "dtype", "stored", "split in", "split out", "note")
	for _, r := range rows {
		note := ""
		if r.Output {
			note = "output layer"
		}
		t.add(r.Module, strconv.Itoa(r.In), strconv.Itoa(r.Out), r.DType, r.Layout, splitText(r.SplitIn), splitText(r.SplitOut), note)
	}
	t.write(a.out, a.outTTY)
	return nil
}

func layerRowOf(s adapter.Site) layerRow {
	r := layerRow{Module: s.Module, In: s.In, Out: s.Out, Layer: s.Layer, DType: s.DType.String(), Weight: s.Weight, Layout: "in,out", Bias: s.Bias != "", Output: s.Output}
	if s.Transposed {
		r.Layout = "out,in"
	}
	r.SplitIn[0], r.SplitIn[1] = kron.Split(s.In)
	r.SplitOut[0], r.SplitOut[1] = kron.Split(s.Out)
	return r
}

func splitText(s [2]int) string { return strconv.Itoa(s[0]) + "x" + strconv.Itoa(s[1]) }

// moduleOf returns the module path of a tensor name and the tensor's own name
// in it: "a.b", "weight".
func moduleOf(name string) (module, leaf string) {
	i := strings.LastIndexByte(name, '.')
	if i < 0 {
		return "", name
	}
	return name[:i], name[i+1:]
}
