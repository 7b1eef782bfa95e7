package model

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// Model is a checkpoint of a known family. It is safe for concurrent use.
type Model struct {
	ckpt   *formats.Checkpoint
	family family
	config Config
	layout layout
	prefix string // before the base model's tensors
	sites  []adapter.Site
	// used holds the checkpoint's names of all tensors that a program may
	// read.
	used    map[string]bool
	sources *Sources
}

// Open reads config.json beside the checkpoint's tensors and checks that every
// tensor that the family needs is there with the right shape. It reads no
// tensor data.
//
// A model_type that is not known, or a setting that no block computes, is an
// error wrapping [ErrUnsupported]; [SitesOf] still lists the linear layers.
func Open(c *formats.Checkpoint) (*Model, error) {
	s, err := readSettings(c.Dir())
	if err != nil {
		return nil, err
	}
	return open(c, s)
}

func open(c *formats.Checkpoint, s *settings) (*Model, error) {
	kind := s.textOr("model_type", "")
	f, ok := familyOf(kind)
	if !ok {
		s.unsupported("model_type", "%q is not a known family; known are %s", kind, modelTypes())
	}
	if s.err != nil {
		return nil, s.err
	}
	m := &Model{ckpt: c, family: f, config: f.configure(s), used: map[string]bool{}}
	m.sources = NewSources(c, nil)
	if s.err != nil {
		return nil, s.err
	}
	m.layout = f.layout(&m.config)
	prefix, err := m.layout.findPrefix(func(n string) bool { _, ok := c.Lookup(n); return ok })
	if err != nil {
		return nil, m.at(err)
	}
	m.prefix = prefix
	for _, e := range m.required() {
		if err := m.check(e.name, e.shape); err != nil {
			return nil, err
		}
	}
	if err := m.findSites(); err != nil {
		return nil, err
	}
	return m, nil
}

// Family is the family's name: bert, roberta, llama or gpt2.
func (m *Model) Family() string { return m.family.name }

// Config returns the model's settings.
func (m *Model) Config() Config { return m.config }

// Checkpoint returns the tensors behind m.
func (m *Model) Checkpoint() *formats.Checkpoint { return m.ckpt }

// Sites lists the linear layers in order of computation: those of the layers,
// then the pooler and the heads that the checkpoint holds.
func (m *Model) Sites() []adapter.Site { return slices.Clone(m.sites) }

// at puts the checkpoint's path into an error that has none.
func (m *Model) at(err error) error {
	if e, ok := err.(*formats.Error); ok && e.Path == "" {
		e.Path = m.ckpt.Path()
	}
	return err
}

// find returns the tensor of a name, also under the name that early
// checkpoints use.
func (m *Model) find(name string) (formats.Tensor, bool) {
	if t, ok := m.ckpt.Lookup(name); ok {
		return t, true
	}
	if old := oldName(name); old != "" {
		return m.ckpt.Lookup(old)
	}
	return formats.Tensor{}, false
}

// tensorName is the checkpoint's name of a tensor.
func (m *Model) tensorName(name string) string {
	if t, ok := m.find(name); ok {
		return t.Name
	}
	return name
}

// has reports whether a tensor is in the checkpoint.
func (m *Model) has(name string) bool { _, ok := m.find(name); return ok }

// check fails unless the tensor is there, of a float dtype and of the shape.
func (m *Model) check(name string, shape []int) error {
	t, ok := m.find(name)
	if !ok {
		return &formats.Error{Path: m.ckpt.Path(), Tensor: name, Reason: "missing",
			Hint: fmt.Sprintf("config.json describes a %s of %d layers that has it", m.config.ModelType, m.config.Layers), Err: formats.ErrMalformed}
	}
	if !slices.Equal(t.Shape, shape) {
		return &formats.Error{Path: m.ckpt.Path(), Tensor: t.Name, Reason: fmt.Sprintf("has shape %v, config.json asks for %v", t.Shape, shape),
			Hint: "weights and config.json belong to different models", Err: formats.ErrMalformed}
	}
	if !t.DType.IsFloat() || !tensor.Convertible(t.DType) {
		return &formats.Error{Path: m.ckpt.Path(), Tensor: t.Name, Reason: fmt.Sprintf("has dtype %s", t.DType),
			Hint: "quantised weights are not read; use the checkpoint in f32, f16 or bf16", Err: ErrUnsupported}
	}
	m.used[t.Name] = true
	return nil
}

// expected is a tensor that must be there.
type expected struct {
	name  string
	shape []int
}

// required lists the tensors of the base model.
func (m *Model) required() []expected {
	c, l := &m.config, &m.layout
	var out []expected
	add := func(name string, shape ...int) { out = append(out, expected{m.prefix + name, shape}) }
	norm := func(name string) {
		if name == "" {
			return
		}
		add(name+".weight", c.HiddenSize)
		if !l.RMS {
			add(name+".bias", c.HiddenSize)
		}
	}
	add(l.Word, c.VocabSize, c.HiddenSize)
	if l.Position != "" {
		add(l.Position, c.MaxLength+c.PositionOffset, c.HiddenSize)
	}
	if l.Type != "" {
		add(l.Type, c.TypeVocabSize, c.HiddenSize)
	}
	norm(l.EmbedNorm)
	for i := range c.Layers {
		norm(l.layerName(i, l.AttnNorm))
		norm(l.layerName(i, l.FFNNorm))
		for _, n := range []string{l.QNorm, l.KNorm} {
			if n != "" {
				add(l.layerName(i, n)+".weight", c.HeadDim)
			}
		}
		for _, lin := range m.layerLinears(i) {
			out = append(out, lin.tensors()...)
		}
	}
	norm(l.FinalNorm)
	return out
}

// tensors are the weight and bias of l as stored.
func (l linear) tensors() []expected {
	shape := []int{l.in, l.out}
	if l.transposed {
		shape = []int{l.out, l.in}
	}
	out := []expected{{l.weight(), shape}}
	if l.bias {
		out = append(out, expected{l.biasName(), []int{l.out}})
	}
	return out
}

// findSites lists the linear layers and checks the optional ones.
func (m *Model) findSites() error {
	for i := range m.config.Layers {
		for _, l := range m.layerLinears(i) {
			m.addSite(l, l.weight())
		}
	}
	if p, ok := m.pooler(); ok {
		if err := m.checkAll(p.tensors()); err != nil {
			return err
		}
		m.addSite(p, p.weight())
	}
	for i := range m.layout.Head {
		l, ok := m.headLinear(i)
		if !ok {
			continue
		}
		if err := m.checkAll(l.tensors()); err != nil {
			return err
		}
		m.addSite(l, l.weight())
	}
	if m.layout.LMHead != "" {
		l := m.lmHead()
		if m.has(l.weight()) {
			if err := m.checkAll(l.tensors()); err != nil {
				return err
			}
			m.addSite(l, l.weight())
		} else if m.lmHeadFromWord() {
			m.addSite(l, m.prefix+m.layout.Word)
		}
	}
	return nil
}

func (m *Model) checkAll(es []expected) error {
	for _, e := range es {
		if err := m.check(e.name, e.shape); err != nil {
			return err
		}
	}
	return nil
}

func (m *Model) addSite(l linear, weight string) {
	t, _ := m.find(weight)
	m.sites = append(m.sites, adapter.Site{
		Module: l.module, In: l.in, Out: l.out, Weight: t.Name, Bias: l.biasName(),
		Transposed: l.transposed, Layer: l.layer, Kind: l.module[strings.LastIndexByte(l.module, '.')+1:],
		Output: l.output, DType: t.DType,
	})
}

// pooler is the base model's pooler when the checkpoint holds one.
func (m *Model) pooler() (linear, bool) {
	if m.layout.Pooler == "" || !m.has(m.prefix+m.layout.Pooler+".weight") {
		return linear{}, false
	}
	h := m.config.HiddenSize
	return linear{module: m.prefix + m.layout.Pooler, in: h, out: h, bias: true, transposed: true, layer: -1}, true
}

// headLinear is the i-th linear layer of the classification head when the
// checkpoint holds it; the last one may have any number of rows.
func (m *Model) headLinear(i int) (linear, bool) {
	h := m.config.HiddenSize
	l := linear{module: m.layout.Head[i], in: h, out: h, bias: true, transposed: true, layer: -1, output: true}
	t, ok := m.find(l.weight())
	if !ok || len(t.Shape) != 2 {
		return l, false
	}
	if i == len(m.layout.Head)-1 {
		l.out, l.bias = t.Shape[0], !m.layout.HeadNoBias
	}
	return l, true
}

// lmHead is the output layer of a language model.
func (m *Model) lmHead() linear {
	return linear{module: m.layout.LMHead, in: m.config.HiddenSize, out: m.config.VocabSize, transposed: true, layer: -1, output: true}
}

// lmHeadFromWord reports whether the word embeddings serve as the output layer
// because there is no tensor of its own: config.json says so, or says nothing.
func (m *Model) lmHeadFromWord() bool {
	return m.layout.LMHead != "" && !m.has(m.lmHead().weight()) && (m.config.TieWordEmbeddings || !m.config.tieStated)
}

// Tied lists the groups of tensor names that are one tensor. The first name of
// a group is in the checkpoint.
//
// The output layer is tied to the word embeddings when config.json says so (or
// says nothing) and it is absent, or present with identical bytes; with
// different bytes both stand, as in transformers. Comparing reads both tensors.
func (m *Model) Tied() ([][]string, error) {
	if m.layout.LMHead == "" {
		return nil, nil
	}
	word, head := m.prefix+m.layout.Word, m.lmHead().weight()
	if m.lmHeadFromWord() {
		return [][]string{{word, head}}, nil
	}
	if !m.has(head) || !m.config.TieWordEmbeddings {
		return nil, nil
	}
	same, err := m.sameBytes(word, head)
	if err != nil || !same {
		return nil, err
	}
	return [][]string{{word, head}}, nil
}

func (m *Model) sameBytes(a, b string) (bool, error) {
	ta, _ := m.find(a)
	tb, _ := m.find(b)
	if ta.DType != tb.DType || !slices.Equal(ta.Shape, tb.Shape) {
		return false, nil
	}
	x, err := m.ckpt.Bytes(ta)
	if err != nil {
		return false, err
	}
	y, err := m.ckpt.Bytes(tb)
	if err != nil {
		return false, err
	}
	same := false
	err = m.ckpt.Guard(ta, func() error { same = bytes.Equal(x, y); return nil })
	return same, err
}

// adapterTensor matches the tensors of an adapter that was written into the
// checkpoint.
var adapterTensor = regexp.MustCompile(`^base_model\.(model|shared)\.`)

// CheckAccounting returns an error that names the tensors which the family's
// program neither uses nor knows the reason of (heads of other tasks, buffers,
// an adapter's tensors).
func (m *Model) CheckAccounting() error {
	patterns := make([]*regexp.Regexp, len(m.layout.Ignored))
	for i, ig := range m.layout.Ignored {
		patterns[i] = regexp.MustCompile(ig.Pattern)
	}
	var unknown []string
	for _, t := range m.ckpt.Tensors() {
		if m.used[t.Name] || adapterTensor.MatchString(t.Name) ||
			slices.ContainsFunc(patterns, func(re *regexp.Regexp) bool { return re.MatchString(t.Name) }) {
			continue
		}
		unknown = append(unknown, t.Name)
	}
	if len(unknown) == 0 {
		return nil
	}
	shown := unknown[:min(len(unknown), 5)]
	more := ""
	if n := len(unknown) - len(shown); n > 0 {
		more = fmt.Sprintf(" and %d more", n)
	}
	return &formats.Error{Path: m.ckpt.Path(), Tensor: unknown[0],
		Reason: fmt.Sprintf("%d tensors have no place in a %s as config.json describes it: %s%s", len(unknown), m.config.ModelType, strings.Join(shown, ", "), more),
		Hint:   "the weights belong to another model, or config.json lacks a setting", Err: formats.ErrMalformed}
}

// Weights reads the program's frozen tensors from the checkpoint, converted to
// float32. Programs whose head is not in the checkpoint need [Built.Weights].
func (m *Model) Weights() graph.WeightSource { return m.sources.Plain() }
