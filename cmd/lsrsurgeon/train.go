package main

import (
	"context"
	"encoding/json"
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
	cachePrefix, anyBase                              bool
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
		PreRunE: func(cmd *cobra.Command, _ []string) error {
			o.set = changed(cmd)
			return o.check()
		},
		RunE: func(cmd *cobra.Command, args []string) error { return runTrain(cmd.Context(), a, args[0], o) },
	}
	o.add(c)
	f := c.Flags()
	f.StringVarP(&o.out, "output", "o", "", "directory of the run")
	f.IntVar(&o.saveEvery, "save-every", 0, "steps between saves for --resume")
	f.DurationVar(&o.saveInterval, "save-interval", 2*time.Minute, "time between saves for --resume")
	f.BoolVar(&o.resume, "resume", false, "continue an interrupted run")
	f.BoolVar(&o.dryRun, "dry-run", false, "print parameters, memory and steps, and stop, as estimate does")
	must(c.MarkFlagRequired("output"))
	return c
}

// prepared is a job ready to run.
type prepared struct {
	trainer *train.Trainer
	engine  *profiled // with --profile
}

func runTrain(ctx context.Context, a *app, path string, o *trainOptions) error {
	s, err := openTraining(a, path, o)
	if err != nil {
		return err
	}
	defer s.close()
	if o.dryRun {
		return estimate(ctx, a, s, o)
	}
	if err := o.checkOutput(a, s, path); err != nil {
		return err
	}
	bar := a.progress("train")
	p, err := prepare(ctx, a, s, o, func(e train.Event) { showEvent(a, bar, e) })
	if err != nil {
		return err
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

// openTraining opens the adapter that is to be trained.
func openTraining(a *app, path string, o *trainOptions) (*session, error) {
	s, err := openSession(a, path, o.base)
	if err != nil {
		return nil, err
	}
	if s.adapter == nil {
		err = withHint(usagef("%s is a model, not an adapter", path), "make an adapter first: lsrsurgeon inject %s -o adapter", path)
	} else {
		err = s.adopt(path, o.base, o.anyBase)
	}
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// checkOutput refuses a place for the run that something else has.
func (o *trainOptions) checkOutput(a *app, s *session, path string) error {
	if o.resume {
		return nil
	}
	if err := a.checkAllOutputs([]string{path, s.ck.Path(), o.data, o.evalData}, o.out); err != nil {
		return err
	}
	if exists(filepath.Join(o.out, "config.json")) { // an adapter beside it would be taken for one of this model
		return &usageError{msg: "output " + o.out + " holds a model, and a run replaces runs only", hint: "choose another directory"}
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
	o.names = sp.Labels // the evaluation data may lack a class
	job, err := train.Prepare(s.base, s.adapter, sp, o.build())
	if err != nil {
		return nil, err
	}
	job.Data = set
	if err := o.evaluation(ctx, s, sp, &job); err != nil {
		return nil, err
	}
	if o.pool == "auto" && !o.resume && sp.Outputs() > 0 && meanPooled(s.ck.Dir()) {
		a.note("the model was trained on the mean of its tokens (1_Pooling/config.json), the head reads its pooler, as in transformers: --pool mean may train faster")
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

// meanPooled tells whether a model of sentence-transformers takes the mean of its
// tokens for what a sequence is.
func meanPooled(dir string) bool {
	b, err := os.ReadFile(filepath.Join(dir, "1_Pooling", "config.json"))
	var c struct {
		Mean bool `json:"pooling_mode_mean_tokens"`
	}
	return err == nil && json.Unmarshal(b, &c) == nil && c.Mean
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
