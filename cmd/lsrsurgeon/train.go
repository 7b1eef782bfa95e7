package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/manifest"
	"github.com/lsrsurgeon/lsrsurgeon/model"
	"github.com/lsrsurgeon/lsrsurgeon/task"
	"github.com/lsrsurgeon/lsrsurgeon/train"
)

type trainOptions struct {
	dataFlags
	engineFlags
	out, base, data, evalData, schedule, metric, pool string
	epochs, steps                                     int
	batch, batchTokens, accumulate                    int
	lr, headLR, warmup, weightDecay, clip             float64
	hiddenDropout, attnDropout                        float64
	seed                                              uint64
	evalEvery, patience, saveEvery                    int
	saveInterval                                      time.Duration
	resume, dryRun, freezeHead, keepLast, noBucket    bool
	cachePrefix                                       bool
	checkpointLayers                                  int
	cacheDir, cacheLimit                              string
	set                                               map[string]bool
}

func newTrain(a *app) *cobra.Command {
	o := &trainOptions{}
	c := &cobra.Command{
		Use:   "train ADAPTER -o RUN",
		Short: "Train an adapter on a frozen base model",
		Long: `Trains the adapter (and the classification head) and leaves a run behind: a
directory with the trained adapter, its metrics and what --resume needs. Ctrl-C
finishes the step, saves and exits with 130; --resume then continues as if
nothing had happened, bit for bit.

With --cache-prefix the layers below the first adapted one run once for each
example; from the second epoch on only those from there up run, with the same
losses. There is no dropout in the layers below then, nor in the embeddings.`,
		Example: `  lsrsurgeon train adapter -o run --task mrpc --data glue/MRPC --epochs 3
  lsrsurgeon train adapter -o run --task lm --data corpus.txt --steps 500 --batch-tokens 4096
  lsrsurgeon train upper -o run --task mrpc --data glue/MRPC --cache-prefix --cache-limit 8GiB
  lsrsurgeon train adapter -o run --task mrpc --data glue/MRPC --dry-run`,
		Args: exactArgs("ADAPTER"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.set = changed(cmd)
			return runTrain(cmd.Context(), a, args[0], o)
		},
	}
	f := c.Flags()
	f.StringVarP(&o.out, "output", "o", "", "directory of the run")
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
	f.IntVar(&o.saveEvery, "save-every", 0, "steps between saves for --resume")
	f.DurationVar(&o.saveInterval, "save-interval", 2*time.Minute, "time between saves for --resume")
	f.BoolVar(&o.resume, "resume", false, "continue an interrupted run")
	f.BoolVar(&o.dryRun, "dry-run", false, "print parameters, memory and steps, and stop")
	f.BoolVar(&o.freezeHead, "freeze-head", false, "leave the classification head as it is")
	f.IntVar(&o.checkpointLayers, "checkpoint-layers", 0, "compute the activations of groups of so many layers again instead of keeping them (default: where --memory asks for it)")
	f.BoolVar(&o.cachePrefix, "cache-prefix", false, "compute what enters the first adapted layer once per example and keep it")
	f.StringVar(&o.cacheDir, "cache-prefix-dir", "", "keep it in a file in this directory (default: in memory)")
	f.StringVar(&o.cacheLimit, "cache-limit", "8GiB", "keep at most this much of it; the rest is computed in each epoch")
	enumFlag(c, &o.pool, "pool", "what the head reads of a sequence", "auto", "cls", "mean", "last")
	must(c.MarkFlagRequired("output"))
	must(c.MarkFlagRequired("data"))
	c.MarkFlagsMutuallyExclusive("epochs", "steps")
	c.MarkFlagsMutuallyExclusive("batch-size", "batch-tokens")
	return c
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
	fl.StringVar(&f.chat, "chat-template", "", "layout of {\"messages\"} data: "+strings.Join(task.ChatTemplateNames(), ", "))
}

// prepared is a job ready to run.
type prepared struct {
	trainer *train.Trainer
	engine  *profiled // with --profile
}

func runTrain(ctx context.Context, a *app, path string, o *trainOptions) error {
	s, err := openSession(a, path, o.base)
	if err != nil {
		return err
	}
	defer s.close()
	if s.adapter == nil {
		return withHint(usagef("%s is a model, not an adapter", path), "make an adapter first: lsrsurgeon inject %s -o adapter", path)
	}
	if !o.resume && !o.dryRun {
		if err := a.checkAllOutputs([]string{path, s.ck.Path(), o.data, o.evalData}, o.out); err != nil {
			return err
		}
		if exists(filepath.Join(o.out, "config.json")) { // an adapter beside it would be taken for one of this model
			return &usageError{msg: "output " + o.out + " holds a model, and a run replaces runs only", hint: "choose another directory"}
		}
	}
	bar := a.progress("train")
	p, err := prepare(ctx, a, s, o, func(e train.Event) { showEvent(a, bar, e) })
	if err != nil {
		return err
	}
	if o.dryRun {
		return printEstimate(a, p)
	}
	r, err := p.trainer.Run(ctx)
	bar.done()
	if err != nil {
		return err
	}
	if err := finishRun(a, s, path, o); err != nil {
		return err
	}
	if o.profile {
		a.note("time per operation:")
		printProfile(a, p.engine.times())
	}
	if a.json {
		return nil // the last event said it all
	}
	state := "done"
	if r.Complete {
		state = "was complete already"
	}
	fmt.Fprintf(a.out, "%s: %s after %d steps in %s\n", o.out, state, r.Steps, short(time.Duration(r.Seconds*float64(time.Second))))
	if len(r.Metrics) > 0 {
		fmt.Fprintf(a.out, "kept the parameters of step %d: %s\n", r.BestStep, metricsText(r.Metrics))
	}
	return nil
}

// finishRun adds tokenizer and manifest to a run, also to one that was complete
// but for them.
func finishRun(a *app, s *session, path string, o *trainOptions) error {
	base, err := baseSource(s.ck)
	if err != nil {
		return err
	}
	sources := []manifest.Source{base}
	for _, in := range [][2]string{{"adapter", path}, {"data", o.data}, {"evaluation data", o.evalData}} {
		if in[1] == "" {
			continue
		}
		src, err := sumSource(a.cmd.Context(), in[0], in[1])
		if err != nil {
			return err
		}
		sources = append(sources, src)
	}
	return a.finish(s.ck.Dir(), sources...)(o.out)
}

// prepare reads the data, builds the programs and plans the run.
func prepare(ctx context.Context, a *app, s *session, o *trainOptions, event func(train.Event)) (*prepared, error) {
	prefix, err := o.prefix()
	if err != nil {
		return nil, err
	}
	sp, err := o.spec(s)
	if err != nil {
		return nil, err
	}
	data, set, err := s.dataset(ctx, &o.dataFlags, sp, o.data, task.Train, false)
	if err != nil {
		return nil, err
	}
	sp = data.Spec
	if o.labels == "" {
		o.labels = strings.Join(sp.Labels, ",") // the evaluation data may lack a class
	}
	job, err := train.Prepare(s.base, s.adapter, sp, o.build())
	if err != nil {
		return nil, err
	}
	job.Data = set
	if err := o.evaluation(ctx, s, sp, &job); err != nil {
		return nil, err
	}
	if o.cachePrefix {
		if err := train.CachePrefix(&job, s.base, s.adapter, o.build(), prefix.Limit); errors.Is(err, train.ErrNoPrefix) {
			return nil, &usageError{msg: "--cache-prefix: " + err.Error(), hint: "lsrsurgeon inject MODEL -o ADAPTER --layers 8-11"}
		} else if err != nil {
			return nil, err
		}
	}
	if o.headLR > 0 {
		scaleHead(job.Train.Program, s.adapter, float32(o.headLR/o.rate(s)))
	}
	if job.Engine, err = o.engineFlags.open(a); err != nil {
		return nil, err
	}
	p := &prepared{}
	if o.profile {
		p.engine = &profiled{Engine: job.Engine}
		job.Engine = p.engine
	}
	opt := o.train(s)
	opt.Event = event
	opt.Prefix = prefix
	if p.trainer, err = train.New(job, opt); err != nil {
		return nil, err
	}
	if p.trainer.Estimate().Checkpoint > 0 && o.checkpointLayers == 0 {
		a.note("to stay within --memory, activations are computed again in the backward pass")
	}
	if size := p.trainer.Estimate().CacheBytes; opt.Prefix.Limit > 0 && size > opt.Prefix.Limit {
		a.warn("the frozen prefix of all examples takes %s, --cache-limit is %s: the rest is computed in each epoch", bytesText(size), bytesText(opt.Prefix.Limit))
	}
	return p, nil
}

// prefix says where the results of the frozen layers are kept.
func (o *trainOptions) prefix() (train.PrefixOptions, error) {
	limit, err := parseBytes(o.cacheLimit)
	if err != nil {
		return train.PrefixOptions{}, err
	}
	for _, n := range []string{"cache-prefix-dir", "cache-limit"} {
		if o.set[n] && !o.cachePrefix {
			return train.PrefixOptions{}, usagef("--%s goes with --cache-prefix", n)
		}
	}
	return train.PrefixOptions{Dir: o.cacheDir, Limit: limit}, nil
}

// build are the choices about dropout and head.
func (o *trainOptions) build() model.BuildOptions {
	b := model.BuildOptions{FreezeHead: o.freezeHead, Seed: o.seed, Pool: pools[o.pool]}
	if o.hiddenDropout >= 0 {
		b.HiddenDropout = &o.hiddenDropout
	}
	if o.attnDropout >= 0 {
		b.AttentionDropout = &o.attnDropout
	}
	return b
}

// evaluation adds the evaluation data: those that were named, else the dev file
// of a directory if it has one.
func (o *trainOptions) evaluation(ctx context.Context, s *session, sp task.Spec, job *train.Job) error {
	path := o.evalData
	if path == "" {
		if st, err := os.Stat(o.data); err != nil || !st.IsDir() {
			return nil
		}
		path = o.data
	}
	d, set, err := s.dataset(ctx, &o.dataFlags, sp, path, task.Dev, false)
	if o.evalData == "" && errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	job.EvalData, job.EvalExamples = set, d.Examples
	return nil
}

// scaleHead sets the head's learning rate relative to the adapter's.
func scaleHead(p *graph.Program, ad *adapter.Adapter, factor float32) {
	own := map[string]bool{}
	for _, m := range ad.Modules {
		for _, s := range m.Specs {
			own[s.Name] = true
		}
	}
	for i := range p.Params {
		if !own[p.Params[i].Name] {
			p.Params[i].LRScale = factor
		}
	}
}

// rate is the learning rate, by default the one that suits the method's start.
func (o *trainOptions) rate(s *session) float64 {
	if o.lr > 0 {
		return o.lr
	}
	if lsr := s.adapter.Method == adapter.MethodLSR || s.adapter.Method == adapter.MethodLSRDoRA; lsr && s.adapter.Init != adapter.InitPaper {
		return 2e-3
	}
	return 5e-4
}

func (o *trainOptions) train(s *session) train.Options {
	t := train.Options{
		Dir: o.out, Resume: o.resume, Replace: s.a.force, Epochs: o.epochs, Steps: o.steps,
		Batch: task.BatchOptions{Size: o.batch, Tokens: o.batchTokens, Accumulate: o.accumulate, Bucket: !o.noBucket},
		LR:    o.rate(s), Schedule: train.Schedule(o.schedule), Warmup: o.warmup, WeightDecay: o.weightDecay, Clip: o.clip, Seed: o.seed,
		EvalEvery: o.evalEvery, Metric: o.metric, Patience: o.patience, KeepLast: o.keepLast, SaveEvery: o.saveEvery, SaveInterval: o.saveInterval,
		CheckpointLayers: o.checkpointLayers,
		Identity:         map[string]string{"base model": s.adapter.BaseHash, "precision": o.precision, "base dtype": o.baseDType, "max length": strconv.Itoa(o.maxLength), "pool": o.pool},
	}
	if o.batchTokens > 0 {
		t.Batch.Size = 0
	}
	if t.Epochs == 0 && t.Steps == 0 {
		t.Epochs = 3
	}
	return t
}

// showEvent renders an event: a JSON line on stdout, or the progress bar.
func showEvent(a *app, bar *progress, e train.Event) {
	if a.json {
		if err := a.printJSON(e); err != nil {
			a.warn("%v", err)
		}
		return
	}
	switch e.Type {
	case train.EventStart:
		if e.Resumed {
			a.note("resuming at step %d of %d", e.Step, e.Steps)
		}
	case train.EventStep:
		bar.update(int64(e.Step), int64(e.Steps), fmt.Sprintf("step %d/%d loss %.4f %.0f tokens/s", e.Step, e.Steps, e.Loss, e.TokensPerSecond))
	case train.EventEval:
		best := ""
		if e.Best {
			best = " (best so far)"
		}
		bar.line("step %d: %s%s", e.Step, metricsText(e.Metrics), best)
	case train.EventEarlyStop:
		bar.line("step %d: no better result for a while, stopping", e.Step)
	}
}

func metricsText(m []task.Metric) string {
	p := make([]string, len(m))
	for i, v := range m {
		p[i] = fmt.Sprintf("%s %.4f", v.Name, v.Value)
	}
	return strings.Join(p, ", ")
}

func printEstimate(a *app, p *prepared) error {
	e := p.trainer.Estimate()
	if a.json {
		return a.printJSON(map[string]any{"schema": schemaVersion, "trainable": e.Parameters, "frozen": e.Frozen, "steps": e.Steps, "warmup_steps": e.WarmupSteps, "steps_per_epoch": e.StepsPerEpoch,
			"sequences": e.Sequences, "tokens": e.Tokens, "largest_batch_tokens": e.LargestBatch, "peak_bytes": e.PeakBytes(), "activation_bytes": e.PlanBytes, "frozen_bytes": e.FrozenBytes, "cache_bytes": e.CacheBytes, "checkpoint_layers": e.Checkpoint, "truncated": e.Truncated})
	}
	t := newTable("planned", ">value")
	t.add("trainable parameters", commas(int64(e.Parameters)))
	t.add("frozen parameters", commas(e.Frozen))
	t.add("sequences", commas(int64(e.Sequences)))
	t.add("tokens", commas(int64(e.Tokens)))
	t.add("truncated sequences", commas(int64(e.Truncated)))
	t.add("optimizer steps", commas(int64(e.Steps)))
	t.add("warm-up steps", commas(int64(e.WarmupSteps)))
	t.add("largest batch, tokens", commas(int64(e.LargestBatch)))
	t.add("memory: activations, gradients, optimizer", bytesText(e.PlanBytes))
	t.add("memory: frozen weights", bytesText(e.FrozenBytes))
	if e.Checkpoint > 0 {
		t.add("layers computed again together", commas(int64(e.Checkpoint)))
	}
	if e.CacheBytes > 0 {
		t.add("cache of the frozen prefix", bytesText(e.CacheBytes))
	}
	t.write(a.out, a.outTTY)
	return nil
}

// profiled times the operations of every executable of an engine.
type profiled struct {
	graph.Engine
	sum map[string]graph.OpTime
}

// Fits implements graph.Fitter as the engine does.
func (p *profiled) Fits(g *graph.Program, d graph.Dims) error {
	if f, ok := p.Engine.(graph.Fitter); ok {
		return f.Fits(g, d)
	}
	return nil
}

func (p *profiled) Compile(g *graph.Program, w graph.WeightSource, d graph.Dims) (graph.Executable, error) {
	x, err := p.Engine.Compile(g, w, d)
	if err != nil {
		return nil, err
	}
	if t, ok := x.(graph.Profiler); ok {
		t.StartProfile()
		return &profiledExe{x, p}, nil
	}
	return x, nil
}

type profiledExe struct {
	graph.Executable
	p *profiled
}

// Close collects the times before they are gone.
func (x *profiledExe) Close() error {
	if x.p.sum == nil {
		x.p.sum = map[string]graph.OpTime{}
	}
	if t, ok := x.Executable.(graph.Profiler); ok {
		for _, o := range t.Profile() {
			s := x.p.sum[o.Op]
			x.p.sum[o.Op] = graph.OpTime{Op: o.Op, Calls: s.Calls + o.Calls, Seconds: s.Seconds + o.Seconds, FLOP: s.FLOP + o.FLOP}
		}
	}
	return x.Executable.Close()
}

// times lists the operations, the longest first.
func (p *profiled) times() []graph.OpTime {
	var out []graph.OpTime
	for _, t := range p.sum {
		out = append(out, t)
	}
	sortTimes(out)
	return out
}
