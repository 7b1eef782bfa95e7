package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/convert"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/model"
	"github.com/lsrsurgeon/lsrsurgeon/onnxmodel"
	"github.com/lsrsurgeon/lsrsurgeon/task"
	"github.com/lsrsurgeon/lsrsurgeon/text"
	"github.com/lsrsurgeon/lsrsurgeon/train"
)

// session is an open base model, the adapter that goes on it if there is one,
// and its tokenizer once it was asked for.
type session struct {
	a       *app
	ck      *formats.Checkpoint
	base    baseModel
	model   *model.Model     // base, nil for a graph
	adapter *adapter.Adapter // nil for a plain model
	tok     *text.Tokenizer
}

// baseModel is a model that programs are made of: a checkpoint of a known family
// or an ONNX graph.
type baseModel interface {
	train.Base
	Sites() []adapter.Site
}

// openBase opens the model of a checkpoint, or imports the graph of an ONNX file.
func openBase(ck *formats.Checkpoint) (baseModel, error) {
	if ck.Format() == formats.FormatONNX {
		m, err := onnxmodel.Open(ck)
		if err != nil {
			return nil, err // not m: a nil pointer in an interface is not nil
		}
		return m, nil
	}
	m, err := model.Open(ck)
	if err != nil {
		return nil, err
	}
	return m, nil
}

// isAdapterDir says whether path is an adapter's directory.
func isAdapterDir(path string) bool { return exists(filepath.Join(path, adapter.ConfigFile)) }

// unfinished is an error for the directory of a training that was interrupted before
// it had an adapter to show.
func unfinished(path string) error {
	if isAdapterDir(path) || !exists(filepath.Join(path, train.StateFile)) {
		return nil
	}
	return &usageError{msg: path + " is a run that was interrupted and has no adapter yet", hint: "finish it with train and --resume"}
}

// openSession opens a model, or an adapter with its base model: the one that
// --model names, else the one that the adapter's configuration names.
func openSession(a *app, path, base string) (_ *session, err error) {
	s := &session{a: a}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	modelPath := path
	if err := unfinished(path); err != nil {
		return nil, err
	}
	if isAdapterDir(path) {
		if modelPath, err = baseOf(path, base); err != nil {
			return nil, err
		}
	} else if base != "" && base != path {
		return nil, usagef("%s is not an adapter, so --model has no meaning", path)
	}
	if s.ck, err = a.open(modelPath); err != nil {
		if modelPath != path && errors.Is(err, formats.ErrNotFound) {
			return nil, withHint(err, "the adapter names this base model; give its place with --model")
		}
		return nil, err
	}
	if s.base, err = openBase(s.ck); err != nil {
		return nil, err
	}
	s.model, _ = s.base.(*model.Model)
	if modelPath != path || isAdapterDir(path) {
		if s.adapter, err = adapter.Load(path, s.base.Sites()); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// baseOf is the path of an adapter's base model.
func baseOf(path, given string) (string, error) {
	switch {
	case given != "":
		return given, nil
	case exists(filepath.Join(path, "config.json")): // base and adapter in one checkpoint
		return path, nil
	}
	ad, err := adapter.Load(path, nil)
	if err != nil {
		return "", err
	}
	if ad.BaseModel == "" {
		return "", withHint(&usageError{msg: path + " does not name its base model"}, "give it with --model")
	}
	return ad.BaseModel, nil
}

// checkBase refuses an adapter that was made for other weights than the base's, or
// with anyBase warns. Whether a graph holds the weights of the checkpoint that it was
// exported from its fingerprint does not tell, so graphs are taken as they come.
func (s *session) checkBase(path string, anyBase bool) error {
	if s.model == nil || s.adapter == nil {
		return nil
	}
	return s.a.checkBase(s.ck, s.adapter, path, anyBase)
}

// adopt makes the open base the one that the adapter is of from now on: a trained
// adapter belongs to the weights that it was trained on.
func (s *session) adopt(path, given string, anyBase bool) (err error) {
	if err := s.checkBase(path, anyBase); err != nil || s.model == nil {
		return err
	}
	if given != "" {
		s.adapter.BaseModel = baseName(given)
	}
	s.adapter.BaseHash, err = s.ck.Fingerprint()
	return err
}

func (s *session) close() {
	if s.tok != nil {
		s.tok.Close()
	}
	if s.ck != nil {
		s.ck.Close()
	}
}

// startHeap is what loading a tokenizer may add to the heap before garbage is
// collected, in bytes.
const startHeap = 256 << 20

// rareGC puts garbage collection off while a tokenizer is loaded, a quarter of
// whose time it takes since the heap is small then and grows fast. What is
// returned ends that.
func rareGC() func() {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	limit := debug.SetMemoryLimit(-1)
	debug.SetMemoryLimit(min(limit, int64(m.Sys)+startHeap))
	percent := debug.SetGCPercent(-1)
	return func() {
		debug.SetGCPercent(percent)
		debug.SetMemoryLimit(limit)
	}
}

// tokenizer loads the base model's tokenizer, or the adapter's own.
func (s *session) tokenizer() (*text.Tokenizer, error) {
	if s.tok != nil {
		return s.tok, nil
	}
	defer rareGC()()
	o := text.Options{CacheDir: s.a.cacheDir()}
	t, err := text.Load(s.ck.Dir(), o)
	if errors.Is(err, text.ErrNoTokenizer) && s.adapter != nil {
		if own, e := text.Load(s.adapter.Dir, o); e == nil {
			t, err = own, nil
		}
	}
	if err != nil {
		if errors.Is(err, text.ErrNoTokenizer) {
			return nil, withHint(err, "copy tokenizer.json (or vocab.txt) into the model's directory")
		}
		return nil, err
	}
	s.tok = t
	return t, nil
}

// dataFlags say what data a command reads and how.
type dataFlags struct {
	task, chat                 string
	textCol, pairCol, labelCol string
	labels                     string
	names                      []string // of classes, where labels is empty: from a run, a model or other data
	maxLength, limit           int
	lines, noPack              bool
}

// spec looks the task up; without --task it follows from the adapter.
func (f *dataFlags) spec(s *session) (task.Spec, error) {
	name := f.task
	if name == "" {
		name = "classification"
		if s.lm() {
			name = "lm"
		}
	}
	sp, err := task.Lookup(name)
	if err != nil {
		return sp, usagef("--task: %v", err)
	}
	return sp, nil
}

// lm says whether the session's model is meant for language modelling.
func (s *session) lm() bool {
	if s.adapter != nil && s.adapter.TaskType != "" {
		return s.adapter.TaskType == "CAUSAL_LM"
	}
	if g, ok := s.base.(*onnxmodel.Model); ok {
		return g.CausalLM()
	}
	for _, a := range s.model.Config().Architectures {
		if strings.HasSuffix(a, "ForCausalLM") || strings.HasSuffix(a, "LMHeadModel") {
			return true
		}
	}
	return false
}

func (f *dataFlags) read(s *session, sp task.Spec) (task.ReadOptions, error) {
	o := task.ReadOptions{TextColumn: f.textCol, PairColumn: f.pairCol, LabelColumn: f.labelCol, Lines: f.lines, Limit: f.limit}
	if o.Labels = f.names; f.labels != "" {
		o.Labels = splitList(f.labels)
	}
	var err error
	if o.Chat, err = f.chatTemplate(s, sp); err != nil {
		return o, err
	}
	return o, nil
}

// chatTemplate is the layout of conversations: the one asked for, else that of the
// model's tokenizer, else ChatML.
func (f *dataFlags) chatTemplate(s *session, sp task.Spec) (t task.ChatTemplate, err error) {
	if f.chat != "" {
		if t, err = task.LookupChatTemplate(f.chat); err != nil {
			return t, usagef("--chat-template: %v", err)
		}
		return t, nil
	}
	if sp.Kind != task.LM {
		return t, nil
	}
	jinja, err := convert.ChatTemplate(s.ck.Dir())
	if err != nil || jinja == "" {
		return t, err
	}
	t, known := task.DetectChatTemplate(jinja)
	if !known {
		s.a.detail("the tokenizer's chat template is none that is known; conversations are laid out as ChatML unless --chat-template names another")
		return t, nil
	}
	s.a.detail("conversations are laid out as %s, as the tokenizer's chat template does", t.Name)
	return t, nil
}

// dataset reads and tokenises one split.
func (s *session) dataset(ctx context.Context, f *dataFlags, sp task.Spec, path string, split task.Split, unlabelled bool) (*task.Data, *task.Dataset, error) {
	ro, err := f.read(s, sp)
	if err != nil {
		return nil, nil, err
	}
	ro.Unlabelled = unlabelled
	d, err := task.Read(sp, path, split, ro)
	if err != nil {
		return nil, nil, err
	}
	set, err := s.encode(ctx, f, d, unlabelled)
	return d, set, err
}

func (s *session) encode(ctx context.Context, f *dataFlags, d *task.Data, unlabelled bool) (*task.Dataset, error) {
	for _, w := range d.Warnings {
		s.a.warn("%s", w)
	}
	tok, err := s.tokenizer()
	if err != nil {
		return nil, err
	}
	// A prediction is one for each example, so no block may hold parts of several.
	o := task.DatasetOptions{MaxLength: f.maxLength, Pack: !f.noPack && !f.lines && !unlabelled, Cut: unlabelled, Unlabelled: unlabelled}
	limit := s.base.Config().MaxLength
	if o.MaxLength == 0 {
		o.MaxLength = d.Spec.MaxLength
	}
	if limit > 0 && o.MaxLength > limit {
		if f.maxLength > limit {
			return nil, usagef("--max-length %d: the model's positions end at %d", f.maxLength, limit)
		}
		o.MaxLength = limit
	}
	if eos := tok.Special().EOS; d.Spec.Kind == task.LM && eos.Known() {
		o.EOS = []int32{eos.ID}
	}
	set, err := task.NewDataset(ctx, tok, d, o)
	if err != nil {
		return nil, err
	}
	if n := set.Truncated(); n > 0 {
		s.a.note("%s: %s of %s texts are cut off at %d tokens (--max-length)", d.Path, commas(int64(n)), commas(int64(len(d.Examples))), o.MaxLength)
	}
	if n := set.Dropped(); n > 0 {
		s.a.note("%s: %s sequences without a token to predict are left out", d.Path, commas(int64(n)))
	}
	return set, nil
}

// modelTask is the program that a task needs.
func modelTask(k task.Kind) model.Task {
	switch k {
	case task.Regression:
		return model.TaskRegression
	case task.LM:
		return model.TaskLM
	}
	return model.TaskClassification
}

// net builds the program of a task without training, for evaluation.
func (s *session) net(sp task.Spec, o model.BuildOptions) (train.Net, *model.Built, error) {
	o.Task, o.Adapter = modelTask(sp.Kind), s.adapter
	if sp.Kind != task.LM {
		o.NumLabels = sp.Outputs()
	} else {
		o.Loss = true
	}
	b, err := s.base.Build(o)
	if err != nil {
		return train.Net{}, nil, err
	}
	return train.Net{Program: b.Program, Weights: b.Weights, Params: b.Params, Logits: b.Logits}, b, nil
}

// headKnown refuses to evaluate with a head that neither the adapter nor the
// base model holds: its output would be noise.
func (s *session) headKnown(b *model.Built) error {
	if len(b.Drawn) == 0 {
		return nil
	}
	return withHint(fmt.Errorf("%w: neither the adapter nor %s holds %s: its outputs would be random", adapter.ErrMismatch, s.ck.Path(), b.Drawn[0]), "train the adapter first; its head is saved with it")
}

// pools are the values of --pool.
var pools = map[string]model.Pool{"auto": model.PoolDefault, "cls": model.PoolCLS, "mean": model.PoolMean, "last": model.PoolLast}
