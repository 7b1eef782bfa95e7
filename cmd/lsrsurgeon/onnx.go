package main

import (
	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/model"
)

const namesFromHelp = "name the layers of an ONNX model after the checkpoint that it was exported from, by the contents of the weights"

// namesFrom names the sites of an ONNX model after another checkpoint's tensors.
func namesFrom(a *app, ck *formats.Checkpoint, sites []adapter.Site, path string) ([]adapter.Site, error) {
	if path == "" {
		return sites, nil
	}
	if ck.Format() != formats.FormatONNX {
		return nil, usagef("--names-from is for ONNX models: the layers of %s have their names", ck.Path())
	}
	ref, err := a.open(path)
	if err != nil {
		return nil, err
	}
	defer ref.Close()
	sites, n, err := model.RecoverNames(ck, sites, ref)
	if err != nil {
		return nil, err
	}
	a.note("%d of %d layers have a weight of %s", n, len(sites), path)
	return sites, nil
}
