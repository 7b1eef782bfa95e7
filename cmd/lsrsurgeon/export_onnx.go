package main

import (
	"fmt"
	"strings"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/formats/onnx"
	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/model"
	"github.com/lsrsurgeon/lsrsurgeon/onnxmodel"
)

// exportONNX writes a safetensors model of a known family as an ONNX model, with
// the adapter in its graph if there is one.
func exportONNX(a *app, b *onnxBase, o *convertOptions) error {
	m, err := model.Open(b.ck)
	if err != nil {
		return err
	}
	if err := m.CheckAccounting(); err != nil {
		return err
	}
	s := &session{a: a, ck: b.ck, model: m, adapter: b.ad}
	// A connection around blocks is no update of a layer to be put into the graph
	// afterwards: it is written with the program.
	whole := b.ad != nil && adapter.OnBlocks(b.ad.Method)
	if whole && (o.set["as"] || o.set["form"]) {
		return usagef("--as and --form are about updates of layers, and %s is %s", b.ad.Dir, b.ad.Method)
	}
	built, head, err := exportProgram(s, o.head)
	if err != nil {
		return err
	}
	x := onnxmodel.ExportOptions{Name: m.Config().ModelType, Version: version, Checkpoint: b.ck, Weights: built.Weights, Params: built.Params, HeadInput: built.Hidden, Logits: built.Logits}
	if x.Logits == graph.None {
		x.Hidden = built.Hidden
	}
	asNodes := onnxmodel.Placement(o.as) == onnxmodel.AsNodes
	if b.ad != nil && asNodes {
		x.Head = b.ad.Head
	}
	g, err := onnxmodel.Export(built.Program, x)
	if err != nil {
		return err
	}
	if b.ad != nil && !whole {
		with, ad := *b, *b.ad
		if asNodes {
			ad.Head = nil // it is in the graph
		}
		with.ad = &ad
		return injectInto(a, g, &with, o.out, o.graphFlags)
	}
	var opt graphOptions
	if whole {
		opt.adapter = adapterSource(a, b.ad.Dir)
	}
	w, err := writeGraph(a, g, onnx.NewEdit(g), o.out, b.ck, opt)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(map[string]any{"schema": schemaVersion, "output": o.out, "form": "onnx", "head": head, "files": w.Files, "bytes": w.Bytes, "nodes": len(g.Graph.Nodes), "exact": true})
	}
	fmt.Fprintf(a.out, "%s: %s with head %s, %d nodes, %s; weights as they are, bit for bit\n", o.out, m.Config().ModelType, head, len(g.Graph.Nodes), bytesText(w.Bytes))
	return nil
}

// exportProgram builds the forward program of the base model, with the
// adapter's head.
func exportProgram(s *session, head string) (*model.Built, string, error) {
	if head == "auto" {
		head = autoHead(s)
	}
	o := model.BuildOptions{Task: map[string]model.Task{"none": model.TaskFeatures, "classification": model.TaskClassification, "lm": model.TaskLM}[head], FreezeHead: true}
	if s.adapter != nil {
		if o.Task == model.TaskClassification {
			o.Pool = pools[trainedPool(s.adapter.Dir)]
		}
		o.Adapter = &adapter.Adapter{Config: s.adapter.Config, Head: s.adapter.Head}
		if adapter.OnBlocks(s.adapter.Method) {
			o.Adapter.Modules = s.adapter.Modules
		}
	}
	b, err := s.model.Build(o)
	if err != nil {
		return nil, head, err
	}
	return b, head, s.headKnown(b)
}

// autoHead is the head that a model or its adapter has.
func autoHead(s *session) string {
	if s.adapter != nil && len(s.adapter.Head) > 0 {
		return "classification"
	}
	for _, t := range s.model.Sites() {
		if t.Output && !strings.HasSuffix(t.Module, "lm_head") {
			return "classification"
		}
	}
	if s.lm() {
		return "lm"
	}
	return "none"
}
