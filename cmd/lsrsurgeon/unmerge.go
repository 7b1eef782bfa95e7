package main

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/merge"
	"github.com/lsrsurgeon/lsrsurgeon/model"
)

type unmergeOptions struct {
	out, adapter, sidecar string
}

func newUnmerge(a *app) *cobra.Command {
	o := &unmergeOptions{}
	c := &cobra.Command{
		Use:   "unmerge MODEL -o MODEL_OUT",
		Short: "Restore the base of a merged model",
		Long: `Restores the base model bit for bit from what merge --reversible kept (found in
MODEL, or named by --sidecar). With --adapter it subtracts the adapter's update
instead, which is exact only up to the rounding of the merge.`,
		Example: `  lsrsurgeon unmerge merged -o base
  lsrsurgeon unmerge merged -o base --adapter run`,
		Args: exactArgs("MODEL"),
		RunE: func(cmd *cobra.Command, args []string) error { return runUnmerge(cmd.Context(), a, args[0], o) },
	}
	f := c.Flags()
	f.StringVarP(&o.out, "output", "o", "", "directory of the restored model")
	f.StringVar(&o.adapter, "adapter", "", "subtract this adapter's update")
	f.StringVar(&o.sidecar, "sidecar", "", "undo file of a reversible merge (default: the one in MODEL)")
	must(c.MarkFlagRequired("output"))
	c.MarkFlagsMutuallyExclusive("adapter", "sidecar")
	return c
}

func runUnmerge(ctx context.Context, a *app, path string, o *unmergeOptions) error {
	ck, err := a.open(path)
	if err != nil {
		return err
	}
	defer ck.Close()
	if err := a.checkAllOutputs([]string{path, o.adapter, o.sidecar}, o.out); err != nil {
		return err
	}
	bar := a.progress("unmerge")
	defer bar.done()
	show := func(done, total int64) { bar.update(done, total, bytesText(total)) }
	if o.adapter != "" {
		sites, _, err := model.SitesOf(ck)
		if err != nil {
			return err
		}
		ad, err := adapter.Load(o.adapter, sites)
		if err != nil {
			return err
		}
		ad.Head = nil // what the base had in its place is not known
		src, err := merge.FromAdapter(ad, -1)
		if err != nil {
			return err
		}
		plan, err := merge.NewPlan(ck, []merge.Source{src}, merge.Options{Workers: threads(0), Replace: a.force, AllowUnchanged: true})
		if err != nil {
			return err
		}
		rep, err := plan.Run(ctx, o.out, show)
		if err != nil {
			return err
		}
		bar.done()
		return printMerge(a, o.out, rep, nil)
	}
	undo := o.sidecar
	if undo == "" {
		undo = filepath.Join(ck.Dir(), merge.UndoFile)
		if !exists(undo) {
			return withHint(fmt.Errorf("%w: %s was not merged with --reversible", merge.ErrMismatch, path), "give the adapter with --adapter, or the undo file with --sidecar")
		}
	}
	if err := merge.Unmerge(ctx, ck, undo, o.out, merge.UnmergeOptions{Replace: a.force}, show); err != nil {
		return err
	}
	bar.done()
	if a.json {
		return a.printJSON(map[string]any{"schema": schemaVersion, "output": o.out})
	}
	fmt.Fprintf(a.out, "%s: the base, bit for bit\n", o.out)
	return nil
}
