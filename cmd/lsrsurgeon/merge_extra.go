package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/decompose"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/manifest"
	"github.com/lsrsurgeon/lsrsurgeon/merge"
)

// recoverMerge ends a merge in place that was interrupted in a model's
// directory, and returns what it merged, or "".
func (a *app) recoverMerge(path string) (sources string, err error) {
	st, err := os.Stat(path)
	if err != nil {
		return "", nil // a name of the hub's cache, or an error for whoever opens it
	}
	for _, dir := range modelDirs(path, st.IsDir()) {
		if sources, err = merge.Recover(nil, dir); err != nil {
			return "", err
		}
		if sources != "" {
			a.note("%s: an interrupted merge --in-place is complete now", dir)
			return sources, nil
		}
	}
	return "", nil
}

// modelDirs are the directories that may hold the configuration, and so the
// journal, of a model: an ONNX model may lie in a folder onnx below it.
func modelDirs(path string, isDir bool) []string {
	if isDir {
		return []string{path, filepath.Join(path, "onnx")}
	}
	dirs := []string{filepath.Dir(path)}
	if abs, err := filepath.Abs(dirs[0]); err == nil && filepath.Base(abs) == "onnx" {
		dirs = append(dirs, filepath.Dir(abs))
	}
	return dirs
}

func printEnded(a *app, base string) error {
	if a.json {
		return a.printJSON(map[string]any{"schema": schemaVersion, "output": base, "recovered": true})
	}
	fmt.Fprintf(a.out, "%s: this merge had been interrupted and is complete now\n", base)
	return nil
}

// keepResidual writes the adapter of what rounding lost, if it was asked for.
func keepResidual(ctx context.Context, a *app, base *formats.Checkpoint, loaded []*adapter.Adapter, weights []float64, sites []adapter.Site, o *mergeOptions) error {
	if o.residual == "" {
		return nil
	}
	merged, err := a.open(o.out)
	if err != nil {
		return err
	}
	defer merged.Close()
	x := decompose.ExtractOptions{Threads: threads(o.workers)}
	x.Config.Rank = adapter.Rank{R1: o.residualRank, R2: 1}
	x.Config.Seed = o.seed
	x.Config.BaseModel = baseName(o.out)
	if x.Config.BaseHash, err = merged.Fingerprint(); err != nil {
		return err
	}
	rest, rep, err := decompose.Residual(ctx, base, merged, loaded, weights, sites, x)
	if errors.Is(err, decompose.ErrMismatch) && rep == nil {
		a.note("nothing to keep in %s: %v", o.residual, err)
		return nil
	}
	if err != nil {
		return err
	}
	from := manifest.Source{Role: "merged", Name: filepath.Base(o.out), Hash: x.Config.BaseHash}
	if err := rest.SaveWith(o.residual, adapter.SaveOptions{Replace: a.force, Finish: a.finish(merged.Dir(), from)}); err != nil {
		return err
	}
	a.note("%s: LoRA of rank %d with what rounding lost, but for %s of it", o.residual, o.residualRank, float(rep.Error))
	return nil
}
