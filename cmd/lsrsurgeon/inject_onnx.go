package main

import (
	"errors"
	"path/filepath"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/formats/onnx"
	"github.com/lsrsurgeon/lsrsurgeon/internal/atomicfile"
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

// save writes the adapter, and with --into base and adapter as one: both, or after
// an error none. What can fail is done under other names first; the adapter
// gets its name before the other one does, and gives it back if that fails.
func (g *graphPlan) save(a *app, ck *formats.Checkpoint, ad *adapter.Adapter, o *injectOptions, base manifest.Source) error {
	save := adapter.SaveOptions{Replace: a.force, Finish: a.finish("", base)}
	if o.into == "" {
		return ad.SaveWith(o.out, save)
	}
	d, err := ad.Stage(o.out, save)
	if err != nil {
		return err
	}
	defer d.Abort()
	if g.m == nil {
		save.Before = d.Publish
		err = adapter.WriteIntoWith(ck, ad, o.into, save)
	} else {
		_, err = writeGraph(a, g.m, g.in.Edit, o.into, ck, graphOptions{before: d.Publish, adapter: func() (manifest.Source, error) {
			s, err := sumSource(a.cmd.Context(), "adapter", d.Path())
			s.Name = filepath.Base(o.out)
			return s, err
		}})
	}
	if late := (*atomicfile.LateError)(nil); err != nil && !errors.As(err, &late) {
		return err
	}
	return errors.Join(err, d.Settle())
}
