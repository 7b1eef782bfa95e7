package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/formats/onnx"
	"github.com/lsrsurgeon/lsrsurgeon/internal/atomicfile"
	"github.com/lsrsurgeon/lsrsurgeon/manifest"
	"github.com/lsrsurgeon/lsrsurgeon/model"
	"github.com/lsrsurgeon/lsrsurgeon/onnxmodel"
)

// graphFlags say how an adapter goes into an ONNX graph.
type graphFlags struct {
	as, form, names, head string
	anyBase               bool
}

func (g *graphFlags) add(c *cobra.Command) {
	enumFlag(c, &g.as, "as", "ONNX: where the adapter's tensors are", "nodes", "inputs")
	enumFlag(c, &g.form, "form", "ONNX: operations of the update", "auto", "thin", "kronecker")
}

func (g *graphFlags) options() onnxmodel.InjectOptions {
	return onnxmodel.InjectOptions{As: onnxmodel.Placement(g.as), Form: onnxmodel.Form(g.form)}
}

// addConvertONNX adds the flags of --to onnx and --to onnx-adapter.
func addConvertONNX(c *cobra.Command, o *convertOptions) {
	o.add(c)
	enumFlag(c, &o.head, "head", "ONNX: what the graph of a safetensors model computes", "auto", "none", "classification", "lm")
	c.Flags().StringVar(&o.names, "names-from", "", namesFromHelp)
	c.Flags().BoolVar(&o.anyBase, "any-base", false, "ONNX: accept a base whose weights are not those that the adapter was made for")
}

// onnxBase is a base model and an adapter that goes on it.
type onnxBase struct {
	ck *formats.Checkpoint
	ad *adapter.Adapter // nil for a model alone
}

func (b *onnxBase) close() { b.ck.Close() }

// openONNXBase opens a model, or an adapter with its base, without asking for
// a family.
func openONNXBase(a *app, path string, o *convertOptions) (_ *onnxBase, err error) {
	base := path
	if isAdapterDir(path) {
		if base, err = baseOf(path, o.base); err != nil {
			return nil, err
		}
	} else if o.base != "" {
		return nil, usagef("%s is not an adapter, so --model has no meaning", path)
	}
	b := &onnxBase{}
	if b.ck, err = a.open(base); err != nil {
		if base != path && errors.Is(err, formats.ErrNotFound) {
			return nil, withHint(err, "the adapter names this base model; give its place with --model")
		}
		return nil, err
	}
	defer func() {
		if err != nil {
			b.close()
		}
	}()
	if !isAdapterDir(path) {
		return b, nil
	}
	sites, _, err := model.SitesOf(b.ck)
	if err != nil {
		return nil, err
	}
	if sites, err = namesFrom(a, b.ck, sites, o.names); err != nil {
		return nil, err
	}
	if b.ad, err = adapter.Load(path, sites); err != nil {
		return nil, err
	}
	made := b.ck // the weights that the adapter was made for
	if o.names != "" {
		if made, err = a.open(o.names); err != nil {
			return nil, err
		}
		defer made.Close()
	}
	return b, a.checkBase(made, b.ad, path, o.anyBase)
}

// runConvertONNX writes an adapter's base with the adapter in its graph.
func runConvertONNX(a *app, path string, o *convertOptions) error {
	if err := a.checkOutputs(path, o.out); err != nil {
		return err
	}
	b, err := openONNXBase(a, path, o)
	if err != nil {
		return err
	}
	defer b.close()
	if err := a.checkOutputs(b.ck.Path(), o.out); err != nil {
		return err
	}
	if b.ad == nil && (o.set["as"] || o.set["form"]) {
		return usagef("--as and --form are about an adapter, and %s is a model", path)
	}
	if b.ck.Format() != formats.FormatONNX {
		return exportONNX(a, b, o)
	}
	if b.ad == nil {
		return usagef("%s is an ONNX model already", path)
	}
	m, err := onnx.Open(b.ck.Path())
	if err != nil {
		return err
	}
	defer m.Close()
	a.warnPool(o.out, b.ad)
	return injectInto(a, m, b, o.out, o.graphFlags)
}

// injectInto writes a graph with an adapter in it, and reports.
func injectInto(a *app, m *onnx.Model, b *onnxBase, out string, g graphFlags) error {
	in, err := onnxmodel.Inject(m, b.ad, g.options())
	if err != nil {
		return err
	}
	w, err := writeGraph(a, m, in.Edit, out, b.ck, graphOptions{adapter: adapterSource(a, b.ad.Dir)})
	if err != nil {
		return err
	}
	rows := moduleRows(in.Modules)
	if a.json {
		return a.printJSON(map[string]any{"schema": schemaVersion, "output": out, "form": "onnx", "as": g.as, "files": w.Files, "bytes": w.Bytes, "nodes": in.Nodes, "inputs": in.Inputs, "modules": rows, "head": nonNil(in.Head), "exact": exact(rows)})
	}
	printModules(a, rows)
	fmt.Fprintf(a.out, "%s: %d modules as %s, %d nodes and %d inputs added, %s\n", out, len(in.Modules), g.as, in.Nodes, in.Inputs, bytesText(w.Bytes))
	return nil
}

// graphOptions are options of writeGraph, all of which may be nil.
type graphOptions struct {
	adapter func() (manifest.Source, error) // which one is in the graph
	before  func() error                    // what comes before the output has its name
}

// adapterSource names the adapter of a directory.
func adapterSource(a *app, dir string) func() (manifest.Source, error) {
	return func() (manifest.Source, error) { return sumSource(a.cmd.Context(), "adapter", dir) }
}

// writeGraph writes a changed graph, with the files that belong to the base model
// and a manifest where it becomes a directory.
func writeGraph(a *app, m *onnx.Model, e *onnx.Edit, out string, ck *formats.Checkpoint, o graphOptions) (*onnxmodel.Written, error) {
	finish := func(dir string) error {
		base, err := baseSource(ck)
		if err != nil {
			return err
		}
		sources := []manifest.Source{base}
		if o.adapter != nil {
			s, err := o.adapter()
			if err != nil {
				return err
			}
			sources = append(sources, s)
		}
		return a.finish("", sources...)(dir)
	}
	w, err := onnxmodel.Write(m, e, out, onnxmodel.WriteOptions{Replace: a.force, Carry: modelFiles(ck.Dir()), Finish: finish, Before: o.before})
	if err != nil {
		return nil, err
	}
	for _, n := range w.Notes {
		a.note("%s", n)
	}
	return w, nil
}

// modelFiles are the configuration and tokenizer in a model's directory.
func modelFiles(dir string) []string {
	var list []string
	for _, n := range append([]string{"config.json"}, tokenizerFiles...) {
		if p := filepath.Join(dir, n); exists(p) {
			list = append(list, p)
		}
	}
	return list
}

// moduleRow says how exactly a module was written.
type moduleRow struct {
	Module   string  `json:"module"`
	Form     string  `json:"form"`
	Type     string  `json:"type"`
	Uses     int     `json:"uses,omitempty"`
	Exact    bool    `json:"exact"`
	Rounding float64 `json:"largest_relative_error"`
}

func moduleRows(ms []onnxmodel.InjectedModule) []moduleRow {
	rows := []moduleRow{}
	for _, m := range ms {
		rows = append(rows, moduleRow{m.Module, string(m.Form), m.Type.String(), m.Uses, m.Rounding == 0, m.Rounding})
	}
	return rows
}

func exact(rows []moduleRow) bool {
	for _, r := range rows {
		if !r.Exact {
			return false
		}
	}
	return true
}

func printModules(a *app, rows []moduleRow) {
	t := newTable("module", "form", "type", "rounding")
	for _, r := range rows {
		rounding := "bit-exact"
		if !r.Exact {
			rounding = fmt.Sprintf("at most %.2g relative", r.Rounding)
		}
		t.add(r.Module, r.Form, r.Type, rounding)
	}
	t.write(a.out, a.outTTY)
}

// runConvertONNXAdapter writes an adapter for ONNX Runtime.
func runConvertONNXAdapter(a *app, path string, o *convertOptions) error {
	if o.set["as"] || o.set["form"] {
		return usagef("--to onnx-adapter holds values for --as inputs: leave out --as and --form")
	}
	if err := a.checkOutputs(path, o.out); err != nil {
		return err
	}
	b, err := openONNXBase(a, path, o)
	if err != nil {
		return err
	}
	defer b.close()
	if b.ad == nil {
		return usagef("%s is a model; --to onnx-adapter takes an adapter", path)
	}
	file, rows, err := loraAdapter(b)
	if err != nil {
		return err
	}
	data, err := file.Encode()
	if err != nil {
		return err
	}
	if err := atomicfile.WriteFile(o.out, 0o666, func(w io.Writer) error { _, err := w.Write(data); return err }); err != nil {
		return err
	}
	if a.json {
		return a.printJSON(map[string]any{"schema": schemaVersion, "output": o.out, "form": o.to, "parameters": len(file.Parameters), "bytes": len(data), "modules": rows, "exact": exact(rows)})
	}
	printModules(a, rows)
	fmt.Fprintf(a.out, "%s: %d parameters of %d modules, %s\n", o.out, len(file.Parameters), len(rows), bytesText(int64(len(data))))
	return nil
}

// loraAdapter makes the values for the inputs that --as inputs gives the base's
// graph, or the graph that a safetensors base is converted to.
func loraAdapter(b *onnxBase) (*onnxmodel.LoraAdapter, []moduleRow, error) {
	if b.ck.Format() == formats.FormatONNX {
		m, err := onnx.Open(b.ck.Path())
		if err != nil {
			return nil, nil, err
		}
		defer m.Close()
		in, err := onnxmodel.Inject(m, b.ad, onnxmodel.InjectOptions{As: onnxmodel.AsInputs})
		if err != nil {
			return nil, nil, err
		}
		return in.Adapter, moduleRows(in.Modules), nil
	}
	file := &onnxmodel.LoraAdapter{}
	rows := []moduleRow{}
	for i := range b.ad.Modules {
		m := &b.ad.Modules[i]
		ps, rounding, err := onnxmodel.ThinParameters(m, onnx.Float)
		if err != nil {
			return nil, nil, err
		}
		file.Parameters = append(file.Parameters, ps...)
		rows = append(rows, moduleRow{Module: m.Module, Form: string(onnxmodel.FormThin), Type: onnx.Float.String(), Exact: rounding == 0, Rounding: rounding})
	}
	for _, t := range b.ad.Head {
		d := onnx.Float
		if own, ok := b.ck.Lookup(t.Name); ok { // the graph keeps its type
			d = onnx.DataTypeOf(own.DType)
		}
		p, err := onnxmodel.HeadParameter(t, d)
		if err != nil {
			return nil, nil, err
		}
		file.Parameters = append(file.Parameters, p)
	}
	return file, rows, nil
}

// openLoraAdapter opens a file of ONNX Runtime as the LoRA that it holds, with
// the base model whose layers it names.
func openLoraAdapter(a *app, path string, o *convertOptions) (_ *session, err error) {
	if o.base == "" {
		return nil, withHint(&usageError{msg: path + " does not name its base model"}, "give it with --model")
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	file, err := onnxmodel.ParseLoraAdapter(path, data)
	if err != nil {
		return nil, err
	}
	s := &session{a: a}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if s.ck, err = a.open(o.base); err != nil {
		return nil, err
	}
	sites, _, err := model.SitesOf(s.ck)
	if err != nil {
		return nil, err
	}
	if sites, err = namesFrom(a, s.ck, sites, o.names); err != nil {
		return nil, err
	}
	if s.ck.Format() != formats.FormatONNX {
		if s.model, err = model.Open(s.ck); err != nil {
			return nil, err
		}
	}
	s.adapter, err = file.LoRA(path, sites, func(name string) ([]int, bool) {
		t, ok := s.ck.Lookup(name)
		return t.Shape, ok
	})
	if err != nil {
		return nil, err
	}
	s.adapter.BaseModel = baseName(o.base)
	s.adapter.BaseHash, err = s.ck.Fingerprint()
	return s, err
}
