package main

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/internal/atomicfile"
	"github.com/lsrsurgeon/lsrsurgeon/manifest"
)

// resultFree are flags that say nothing about what an output holds.
var resultFree = []string{"output", "into", "json", "quiet", "verbose", "no-progress", "force", "workers", "threads", "resume", "check", "tolerance", "in-place", "manifest", "profile", "save-every", "save-interval", "cache-prefix-dir", "cache-limit", "any-base"}

// provenance says for a manifest what the running command is and does.
func (a *app) provenance(sources ...manifest.Source) *manifest.Provenance {
	p := &manifest.Provenance{Tool: "lsrsurgeon " + version, Command: a.cmd.Name(), Settings: map[string]string{}, Sources: sources}
	a.cmd.Flags().Visit(func(f *pflag.Flag) {
		if slices.Contains(resultFree, f.Name) {
			return
		}
		v := f.Value.String()
		if strings.ContainsRune(v, filepath.Separator) && exists(v) {
			v = filepath.Base(v) // a path is the machine's business
		}
		p.Settings[f.Name] = v
	})
	return p
}

// baseSource names a model as an input, by its fingerprint.
func baseSource(ck *formats.Checkpoint) (manifest.Source, error) {
	print, err := ck.Fingerprint()
	return manifest.Source{Role: "base", Name: filepath.Base(ck.Path()), Hash: print}, err
}

// sumSource names a file or directory as an input, by what it holds.
func sumSource(ctx context.Context, role, path string) (manifest.Source, error) {
	sum, err := manifest.SumPath(ctx, path)
	return manifest.Source{Role: role, Name: filepath.Base(path), Hash: sum}, err
}

// finish makes what ends the writing of a directory: the tokenizer of another
// one, if that has one and tokenizerOf is not empty, and the manifest.
func (a *app) finish(tokenizerOf string, sources ...manifest.Source) func(dir string) error {
	return func(dir string) error {
		if tokenizerOf != "" {
			if err := copyTokenizerFiles(tokenizerOf, dir); err != nil {
				return err
			}
		}
		return manifest.WriteIn(a.cmd.Context(), dir, *a.provenance(sources...), manifest.Options{Workers: threads(0)})
	}
}

// copyTokenizerFiles puts a tokenizer beside an adapter, where there is one, so
// that it can be used where the base is found elsewhere.
func copyTokenizerFiles(from, to string) error {
	for _, n := range tokenizerFiles {
		b, err := os.ReadFile(filepath.Join(from, n))
		if err != nil {
			continue // most models have only some of them
		}
		if err := atomicfile.WriteFile(filepath.Join(to, n), 0o666, func(w io.Writer) error { _, err := w.Write(b); return err }); err != nil {
			return err
		}
	}
	return nil
}
