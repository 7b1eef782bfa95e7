package main

import (
	"path/filepath"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/formats/onnx"
	"github.com/lsrsurgeon/lsrsurgeon/manifest"
	"github.com/lsrsurgeon/lsrsurgeon/onnxmodel"
)

// graphPlan is a new adapter's way into an ONNX graph, for inject --into. Its
// zero value is that into a checkpoint.
type graphPlan struct {
	m  *onnx.Model
	in *onnxmodel.Injected
}

// planGraph finds before anything is written what cannot be injected.
func planGraph(ck *formats.Checkpoint, ad *adapter.Adapter, o *injectOptions) (g graphPlan, err error) {
	if o.into == "" || ck.Format() != formats.FormatONNX {
		return g, nil
	}
	if g.m, err = onnx.Open(ck.Path()); err != nil {
		return g, err
	}
	if g.in, err = onnxmodel.Inject(g.m, ad, o.options()); err != nil {
		g.m.Close()
	}
	return g, err
}

func (g *graphPlan) close() {
	if g.m != nil {
		g.m.Close()
	}
}

// write writes base and adapter as one.
func (g *graphPlan) write(a *app, ck *formats.Checkpoint, ad *adapter.Adapter, o *injectOptions) error {
	if g.m == nil {
		base := manifest.Source{Role: "base", Name: filepath.Base(ck.Path()), Hash: ad.BaseHash}
		return adapter.WriteIntoWith(ck, ad, o.into, adapter.SaveOptions{Replace: a.force, Finish: a.finish("", base)})
	}
	_, err := writeGraph(a, g.m, g.in.Edit, o.into, ck, o.out)
	return err
}
