package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/spf13/cobra"

	"github.com/lsrsurgeon/lsrsurgeon/manifest"
)

type verifyOptions struct {
	engineFlags
	against, adapter string
	nonFinite        bool
	workers          int
	tolerance        float64
}

func newVerify(a *app) *cobra.Command {
	o := &verifyOptions{}
	c := &cobra.Command{
		Use:   "verify MODEL|ADAPTER",
		Short: "Check that a model or adapter is whole and what was written",
		Long: `Reads everything and compares it with the manifest (` + manifest.File + `) that
every command writes beside its output: the SHA-256 of each tensor and file.
Also without a manifest it checks headers, sizes, index against shards, and
that every number is finite; safetensors headers are read a second time by an
independent reader. What is wrong is named, with exit code 3.

With --against and --adapter it is the proof of a merge: MODEL is compared with
base and adapter on the same tokens.`,
		Example: `  lsrsurgeon verify merged
  lsrsurgeon verify merged --against MODEL --adapter run`,
		Args: exactArgs("MODEL or ADAPTER"),
		RunE: func(cmd *cobra.Command, args []string) error { return runVerify(cmd.Context(), a, args[0], o) },
	}
	f := c.Flags()
	f.StringVar(&o.against, "against", "", "base model, to compare outputs with those of base and adapter")
	f.StringVar(&o.adapter, "adapter", "", "the adapter that was merged")
	f.Float64Var(&o.tolerance, "tolerance", 0, "largest difference of outputs that is accepted (default 1e-4 in f32, 5e-2 of the largest output otherwise)")
	f.BoolVar(&o.nonFinite, "allow-nonfinite", false, "accept NaN and infinite numbers")
	f.IntVar(&o.workers, "workers", 0, "parallel workers (default: one per processor)")
	c.MarkFlagsRequiredTogether("against", "adapter")
	o.memory, o.device, o.precision, o.baseDType = "", "cpu", "f32", "f32"
	return c
}

func runVerify(ctx context.Context, a *app, path string, o *verifyOptions) error {
	if o.tolerance != 0 && o.against == "" {
		return usagef("--tolerance is of the comparison that --against and --adapter ask for")
	}
	ck, err := a.open(path)
	if err != nil {
		return err
	}
	defer ck.Close()
	m, err := manifest.Read(ck.Dir())
	if errors.Is(err, fs.ErrNotExist) {
		m, err = nil, nil
	}
	if err != nil {
		return err
	}
	bar := a.progress("verify")
	r, err := manifest.Check(ctx, ck, m, manifest.CheckOptions{Workers: threads(o.workers), AllowNonFinite: o.nonFinite, Progress: func(done, total int64) { bar.update(done, total, bytesText(total)) }})
	bar.done()
	if err != nil {
		return err
	}
	var proof *comparison
	if o.against != "" && !r.Damaged() {
		if proof, err = o.compare(ctx, a, path); err != nil {
			return err
		}
	}
	if err := printVerify(a, path, m, r, proof); err != nil {
		return err
	}
	if err := r.Err(); err != nil {
		return withHint(fmt.Errorf("%s: %w", path, err), "restore the file from where it came from, or write it again")
	}
	if proof != nil && !proof.OK {
		return fmt.Errorf("%w: outputs differ by %.3g, more than %.3g", errCheck, proof.MaxDifference, proof.Tolerance)
	}
	return nil
}

// compare runs base and adapter, and the merged model.
func (o *verifyOptions) compare(ctx context.Context, a *app, path string) (*comparison, error) {
	s, err := openSession(a, o.adapter, o.against)
	if err != nil {
		return nil, err
	}
	defer s.close()
	if s.adapter == nil {
		return nil, usagef("--adapter %s is not an adapter", o.adapter)
	}
	return compareMerged(ctx, a, s.ck, s.adapter, &mergeOptions{engineFlags: o.engineFlags, out: path, dtype: "keep", tolerance: o.tolerance})
}

func printVerify(a *app, path string, m *manifest.Manifest, r *manifest.Report, proof *comparison) error {
	if a.json {
		return a.printJSON(map[string]any{"schema": schemaVersion, "path": path, "ok": !r.Damaged(), "manifest": m != nil, "tensors": r.Tensors, "bytes": r.Bytes, "checksums": r.Hashed, "non_finite": r.NonFinite, "second_reader_files": r.Second, "findings": r.Findings, "provenance": provenanceOf(m), "check": proof})
	}
	for _, f := range r.Findings {
		kind := "damage"
		if f.Remark {
			kind = "remark"
		}
		fmt.Fprintf(a.out, "%s: %v\n", kind, f)
	}
	state := "no damage found"
	if r.Damaged() {
		state = "DAMAGED"
	}
	fmt.Fprintf(a.out, "%s: %s: %d tensors, %s read, %d checksums compared\n", path, state, r.Tensors, bytesText(r.Bytes), r.Hashed)
	if m == nil {
		fmt.Fprintf(a.out, "no manifest: only headers, sizes and numbers were checked\n")
	} else {
		fmt.Fprintf(a.out, "written by %s %s\n", m.Tool, m.Command)
		for _, s := range m.Sources {
			fmt.Fprintf(a.out, "  %s %s %s\n", s.Role, s.Name, s.Hash)
		}
	}
	if proof != nil {
		printProof(a, proof)
	}
	return nil
}

func provenanceOf(m *manifest.Manifest) *manifest.Provenance {
	if m == nil {
		return nil
	}
	return &m.Provenance
}

// printProof prints how far outputs of base and adapter and of a merged model agree.
func printProof(a *app, p *comparison) {
	fmt.Fprintf(a.out, "check: largest difference of %s %.3g (accepted: %.3g), same choice for %.1f %% of %d rows", p.What, p.MaxDifference, p.Tolerance, 100*p.Agreement, p.Rows)
	if p.What == "logits" {
		fmt.Fprintf(a.out, ", KL divergence %.3g on average, %.3g at most", p.MeanKL, p.MaxKL)
	}
	fmt.Fprintln(a.out)
}
