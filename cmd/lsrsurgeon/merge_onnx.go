package main

import (
	"context"
	"errors"
	"path/filepath"

	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/internal/atomicfile"
	"github.com/lsrsurgeon/lsrsurgeon/merge"
	"github.com/lsrsurgeon/lsrsurgeon/onnxmodel"
)

// isGraphFile says whether an output is one .onnx file, not a directory.
func isGraphFile(out string) bool { return filepath.Ext(out) == ".onnx" }

// runPlan writes a merged model. A graph with external data that shall be a file is
// made in a directory of its own first, then the file appears with its data
// beside it.
func runPlan(ctx context.Context, a *app, ck *formats.Checkpoint, plan *merge.Plan, out string, show func(done, total int64)) (rep *merge.Report, err error) {
	files, _ := plan.Files()
	if !isGraphFile(out) || ck.Format() != formats.FormatONNX || len(files) == 1 {
		return plan.Run(ctx, out, show)
	}
	if within(out, ck.Dir()) {
		return nil, &usageError{msg: "output " + out + " lies in the base's directory " + ck.Dir() + ", and the model has external data", hint: "give a file or a directory outside it"}
	}
	lock, err := atomicfile.NewLock(out)
	if err != nil {
		return nil, err
	}
	defer lock.Unlock()
	stage := onnxmodel.StagingDir(out)
	if err := atomicfile.OS.RemoveAll(stage); err != nil { // of a process that was killed
		return nil, err
	}
	if rep, err = plan.Run(ctx, stage, show); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, atomicfile.OS.RemoveAll(stage)) }()
	_, err = onnxmodel.Place(filepath.Join(stage, files[0]), out, a.force, nil)
	return rep, err
}
