package main

import (
	"context"
	"os"

	"github.com/spf13/cobra"

	"github.com/lsrsurgeon/lsrsurgeon/train"
)

func newEstimate(a *app) *cobra.Command {
	o := &trainOptions{}
	c := &cobra.Command{
		Use:   "estimate ADAPTER",
		Short: "Say what a training run would take: memory, steps, tokens",
		Long: `Reads adapter, model and data as train would with the same flags, plans the run and
says what it would take: parameters, optimizer steps, tokens, and the memory of
weights, activations and optimizer. Nothing is trained or written. A run that
--memory has no room for is an error with exit code 4 that says what would fit.`,
		Example: `  lsrsurgeon estimate adapter --task mrpc --data glue/MRPC --epochs 3
  lsrsurgeon estimate adapter --task lm --data corpus.txt --batch-tokens 4096 --base-dtype int8 --json`,
		Args: exactArgs("ADAPTER"),
		PreRunE: func(cmd *cobra.Command, _ []string) error {
			o.set = changed(cmd)
			return o.check()
		},
		RunE: func(cmd *cobra.Command, args []string) error { return runEstimate(cmd.Context(), a, args[0], o) },
	}
	o.add(c)
	return c
}

func runEstimate(ctx context.Context, a *app, path string, o *trainOptions) error {
	s, err := openTraining(a, path, o)
	if err != nil {
		return err
	}
	defer s.close()
	return estimate(ctx, a, s, o)
}

// estimate plans a run and prints what it would take.
func estimate(ctx context.Context, a *app, s *session, o *trainOptions) error {
	if o.out == "" {
		o.out = os.DevNull // nothing is written
	}
	p, err := prepare(ctx, a, s, o, nil)
	if err != nil {
		return err
	}
	if err := p.trainer.Fits(); err != nil {
		return err
	}
	return printEstimate(a, p.trainer.Estimate())
}

func printEstimate(a *app, e train.Estimate) error {
	if a.json {
		return a.printJSON(map[string]any{"schema": schemaVersion, "trainable": e.Parameters, "frozen": e.Frozen, "steps": e.Steps, "warmup_steps": e.WarmupSteps, "steps_per_epoch": e.StepsPerEpoch,
			"sequences": e.Sequences, "tokens": e.Tokens, "labels_per_step": e.LabelsPerStep, "largest_batch_tokens": e.LargestBatch, "truncated": e.Truncated, "dropped": e.Dropped, "checkpoint_layers": e.Checkpoint,
			"peak_bytes": e.PeakBytes(), "frozen_bytes": e.FrozenBytes, "optimizer_bytes": e.ParameterBytes, "activation_bytes": e.ActivationBytes(), "eval_bytes": e.EvalPlanBytes, "scratch_bytes": e.ScratchBytes, "cache_bytes": e.CacheBytes})
	}
	t := newTable("planned", ">value")
	t.add("trainable parameters", commas(int64(e.Parameters)))
	t.add("frozen parameters", commas(e.Frozen))
	t.add("sequences", commas(int64(e.Sequences)))
	t.add("tokens", commas(int64(e.Tokens)))
	t.add("truncated sequences", commas(int64(e.Truncated)))
	t.add("optimizer steps", commas(int64(e.Steps)))
	t.add("warm-up steps", commas(int64(e.WarmupSteps)))
	t.add("steps of an epoch", commas(int64(e.StepsPerEpoch)))
	t.add("largest batch, tokens", commas(int64(e.LargestBatch)))
	t.add("memory: frozen weights", bytesText(e.FrozenBytes))
	t.add("memory: parameters, gradients, optimizer", bytesText(e.ParameterBytes))
	t.add("memory: activations", bytesText(e.ActivationBytes()))
	if e.EvalPlanBytes > 0 {
		t.add("memory: evaluation", bytesText(e.EvalPlanBytes))
	}
	t.add("memory: scratch", bytesText(e.ScratchBytes))
	t.add("memory: together", bytesText(e.PeakBytes()))
	if e.Checkpoint > 0 {
		t.add("layers computed again together", commas(int64(e.Checkpoint)))
	}
	if e.CacheBytes > 0 {
		t.add("cache of the frozen prefix", bytesText(e.CacheBytes))
	}
	t.write(a.out, a.outTTY)
	return nil
}
