package main

import (
	"cmp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lsrsurgeon/lsrsurgeon/task"
)

// add adds the flags that decide what is computed.
func (o *trainOptions) add(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&o.base, "model", "", "base model (default: the one that the adapter names)")
	f.StringVar(&o.data, "data", "", "training data: a file, or a directory with train and dev files")
	f.StringVar(&o.evalData, "eval-data", "", "evaluation data (default: the dev file beside the training data)")
	o.dataFlags.add(c)
	o.engineFlags.add(c)
	f.IntVar(&o.epochs, "epochs", 0, "passes over the data (default 3, unless --steps is given)")
	f.IntVar(&o.steps, "steps", 0, "optimizer steps, instead of --epochs")
	f.IntVar(&o.batch, "batch-size", 32, "sequences of a batch")
	f.IntVar(&o.batchTokens, "batch-tokens", 0, "tokens of a batch, instead of --batch-size")
	f.IntVar(&o.accumulate, "accumulate", 1, "batches of one optimizer step")
	f.BoolVar(&o.noBucket, "no-bucket", false, "do not put sequences of like length into one batch")
	f.Float64Var(&o.lr, "lr", 0, "learning rate (default 2e-3 for lsr from a zero start, else 5e-4)")
	f.Float64Var(&o.headLR, "head-lr", 0, "learning rate of the classification head (default: --lr)")
	enumFlag(c, &o.schedule, "schedule", "learning rate after the warm-up", "linear", "cosine", "constant")
	f.Float64Var(&o.warmup, "warmup", 0.06, "warm-up: a share of the steps, or a number of steps from 1 up")
	f.Float64Var(&o.weightDecay, "weight-decay", 0.01, "AdamW's decoupled weight decay")
	f.Float64Var(&o.clip, "clip", 1, "largest norm of the gradient, 0 for no limit")
	f.Float64Var(&o.hiddenDropout, "hidden-dropout", -1, "dropout of the base model's hidden states (default: as config.json says)")
	f.Float64Var(&o.attnDropout, "attention-dropout", -1, "dropout of attention probabilities (default: as config.json says)")
	f.Uint64Var(&o.seed, "seed", 0, "seed of data order, dropout and a new head")
	f.IntVar(&o.evalEvery, "eval-every", 0, "steps between evaluations (default: once an epoch)")
	f.StringVar(&o.metric, "metric", "", "metric that decides which parameters are kept (default: the task's first)")
	f.IntVar(&o.patience, "patience", 0, "stop after so many evaluations without a better one")
	f.BoolVar(&o.keepLast, "keep-last", false, "keep the parameters of the last step instead of the best")
	f.BoolVar(&o.freezeHead, "freeze-head", false, "leave the classification head as it is")
	f.IntVar(&o.checkpointLayers, "checkpoint-layers", 0, "compute the activations of groups of so many layers again instead of keeping them (default: where --memory asks for it)")
	f.BoolVar(&o.cachePrefix, "cache-prefix", false, "compute what enters the first adapted layer once per example and keep it")
	f.StringVar(&o.cacheDir, "cache-prefix-dir", "", "keep it in a file in this directory (default: in memory)")
	f.StringVar(&o.cacheLimit, "cache-limit", "8GiB", "keep at most this much of it; the rest is computed in each epoch")
	f.BoolVar(&o.anyBase, "any-base", false, "accept a base whose weights are not those that the adapter was made for")
	enumFlag(c, &o.pool, "pool", "what the head reads of a sequence", "auto", "cls", "mean", "last")
	must(c.MarkFlagRequired("data"))
	c.MarkFlagsMutuallyExclusive("epochs", "steps")
	c.MarkFlagsMutuallyExclusive("batch-size", "batch-tokens")
}

// check refuses values that mean nothing, which would otherwise be taken for flags
// that were not given.
func (o *trainOptions) check() error {
	share := func(v float64) bool { return v >= 0 && v < 1 }
	for _, f := range []struct {
		name string
		ok   bool
		want string
	}{
		{"epochs", o.epochs > 0, "at least 1"},
		{"steps", o.steps > 0, "at least 1"},
		{"batch-size", o.batch > 0, "at least 1"},
		{"batch-tokens", o.batchTokens > 0, "at least 1"},
		{"accumulate", o.accumulate > 0, "at least 1"},
		{"lr", o.lr > 0, "more than 0"},
		{"head-lr", o.headLR > 0, "more than 0"},
		{"hidden-dropout", share(o.hiddenDropout), "at least 0 and less than 1"},
		{"attention-dropout", share(o.attnDropout), "at least 0 and less than 1"},
	} {
		if o.set[f.name] && !f.ok {
			return usagef("--%s: want %s", f.name, f.want)
		}
	}
	if _, err := o.prefix(); err != nil {
		return err
	}
	return cmp.Or(o.dataFlags.check(), o.engineFlags.check())
}

func (f *dataFlags) check() error {
	if f.limit < 0 {
		return usagef("--limit %d: want at least 1, or 0 for all", f.limit)
	}
	if f.maxLength < 0 || f.maxLength == 1 {
		return usagef("--max-length %d: want at least 2", f.maxLength)
	}
	if f.task != "" {
		if _, err := task.Lookup(f.task); err != nil {
			return usagef("--task: %v", err)
		}
	}
	if f.chat != "" {
		if _, err := task.LookupChatTemplate(f.chat); err != nil {
			return usagef("--chat-template: %v", err)
		}
	}
	return nil
}

func (f *dataFlags) add(c *cobra.Command) {
	fl := c.Flags()
	fl.StringVar(&f.task, "task", "", "task: "+strings.Join(task.Names(), ", "))
	must(c.RegisterFlagCompletionFunc("task", cobra.FixedCompletions(task.Names(), cobra.ShellCompDirectiveNoFileComp)))
	fl.IntVar(&f.maxLength, "max-length", 0, "longest sequence in tokens (default: the task's)")
	fl.IntVar(&f.limit, "limit", 0, "read only so many examples")
	fl.StringVar(&f.labels, "labels", "", "class names in the order of their indices")
	fl.StringVar(&f.textCol, "text-column", "", "column or key of the text")
	fl.StringVar(&f.pairCol, "pair-column", "", "column or key of the second text")
	fl.StringVar(&f.labelCol, "label-column", "", "column or key of the label")
	fl.BoolVar(&f.lines, "lines", false, "each line of a plain text file is one example")
	fl.BoolVar(&f.noPack, "no-pack", false, "language models: one text a sequence, instead of blocks of --max-length")
	fl.StringVar(&f.chat, "chat-template", "", "layout of {\"messages\"} data: "+strings.Join(task.ChatTemplateNames(), ", ")+" (default: as the model's tokenizer lays them out, else chatml)")
}
