package onnxmodel

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/formats/onnx"
	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/model"
)

// Model is an ONNX graph of which programs can be made, as of a checkpoint of a
// known family: packed sequences instead of a padded batch, adapters at its
// linear layers, the losses of the tasks. It is safe for concurrent use.
//
// The program computes what the graph computes for each sequence alone, without
// padding.
type Model struct {
	ckpt    *formats.Checkpoint
	config  model.Config
	sites   []adapter.Site
	terms   []*term
	extra   map[string][]float32
	sources *model.Sources

	hidden *term      // the last hidden states
	lm     *term      // the output layer on them, nil unless the graph has one
	pick   graph.Pick // the row of a sequence that the head reads; PickAll: their mean
	chain  []*term    // linear layers and activations from that row to the logits
	logits bool       // the chain ends with the graph's logits, not with a pooled state
	causal bool
	rms    bool
}

// probes are the lengths that the importer tries. Longer ones tell more digits of
// rotary frequencies and more windows apart; tables of short models end earlier.
var probes = []int{61, 37, 17, 11, 7}

// Open imports the graph of a checkpoint that is an ONNX model. It reads what
// shapes, masks and positions are made of, and no weights.
//
// A graph in which an operator or a structure has no operation here is an error
// that names the node and wraps [model.ErrUnsupported].
func Open(c *formats.Checkpoint) (*Model, error) {
	g, err := onnx.Open(c.Path())
	if err != nil {
		return nil, err
	}
	defer g.Close()
	sites, _ := model.ONNXSites(g)
	var failure error
	furthest := -1
	for _, tokens := range probes {
		batch := probeBatch(g)
		im := newImporter(g, sites, batch, fixedTokens(g, tokens))
		m := &Model{ckpt: c, sites: sites}
		err := im.run()
		if err == nil {
			err = m.finish(im)
		}
		if err == nil {
			return m, nil
		}
		// A probe beyond a table of positions fails early and says little.
		if len(im.terms) >= furthest {
			furthest, failure = len(im.terms), err
		}
	}
	return nil, importError(c.Path(), failure)
}

// probeBatch is the number of sequences of a probe: what the graph fixes, else
// a prime that is no size of a weight.
func probeBatch(g *onnx.Model) int {
	if n := fixedDim(g, 0); n > 0 {
		return n
	}
	for _, n := range []int{3, 5, 7, 11} {
		if !slices.ContainsFunc(g.Graph.Initializers, func(t onnx.Tensor) bool { return slices.Contains(t.Dims, n) }) {
			return n
		}
	}
	return 13
}

// fixedTokens is the number of tokens, unless the graph fixes it.
func fixedTokens(g *onnx.Model, tokens int) int {
	if n := fixedDim(g, 1); n > 0 {
		return n
	}
	return tokens
}

// fixedDim is a dimension that the inputs of token ids have fixed, or 0.
func fixedDim(g *onnx.Model, at int) int {
	for i := range g.Graph.Inputs {
		if v := &g.Graph.Inputs[i]; len(v.Shape) == 2 && kindOfType(v.Type) == kindInt && v.Shape[at].Value > 0 {
			return int(v.Shape[at].Value)
		}
	}
	return 0
}

// importError puts the path into an error about a node.
func importError(path string, err error) error {
	var x *onnx.Error
	if !errors.As(err, &x) {
		return fmt.Errorf("%s: %w", path, err)
	}
	e := &formats.Error{Path: path, Reason: x.Reason, Hint: x.Hint, Tensor: x.Tensor, Err: model.ErrUnsupported}
	if x.Node != "" {
		e.Reason = fmt.Sprintf("node %q: %s", x.Node, x.Reason)
	}
	if errors.Is(err, onnx.ErrMalformed) {
		e.Err = formats.ErrMalformed
	}
	return e
}

// Config describes the model: by config.json beside the graph where it is one of a known
// family, and by the graph.
func (m *Model) Config() model.Config { return m.config }

// Sites lists the linear layers of the graph.
func (m *Model) Sites() []adapter.Site { return slices.Clone(m.sites) }

// Checkpoint returns the tensors behind m.
func (m *Model) Checkpoint() *formats.Checkpoint { return m.ckpt }

// CausalLM says whether the graph ends with the logits of a causal language model.
func (m *Model) CausalLM() bool { return m.lm != nil }

// output is an output of the graph that a program can have.
type output struct {
	name string
	t    *term
}

// finish finds hidden states, head and configuration in a graph that has run.
func (m *Model) finish(im *importer) error {
	m.terms, m.extra = im.terms, im.extra
	var outs []output
	var first error
	for i := range im.m.Graph.Outputs {
		name := im.m.Graph.Outputs[i].Name
		v := im.main.values[name]
		if f, ok := v.(*failed); ok {
			if strings.Contains(strings.ToLower(name), "logit") {
				return f.err
			}
			if first == nil {
				first = f.err
			}
			continue
		}
		if t := im.outputTerm(v); t != nil {
			outs = append(outs, output{name, t})
		}
	}
	if len(outs) == 0 && first != nil { // else the others will do
		return first
	}
	m.terms = im.terms
	vocab := im.vocabulary()
	if err := m.roles(outs, vocab); err != nil {
		return err
	}
	if err := im.foldRows(); err != nil {
		return err
	}
	m.plainNorms()
	m.sources = model.NewSources(m.ckpt, m.extra)
	return m.configure(vocab, im.reach)
}

// plainNorms gives norms without scale one of ones.
func (m *Model) plainNorms() {
	for _, t := range m.terms {
		if t.op != opNorm || t.gamma != "" {
			continue
		}
		t.gamma = fmt.Sprintf("#ones%d", t.cols)
		if m.extra[t.gamma] == nil {
			m.extra[t.gamma] = slices.Repeat([]float32{1}, t.cols)
		}
	}
}

// outputTerm is the matrix of an output, or nil for values that are none.
func (im *importer) outputTerm(v value) *term {
	if known([]value{v}) || v == nil {
		return nil
	}
	c := &nodeCall{im: im, n: &onnx.Node{Op: "output"}}
	x, err := c.mat(v)
	if err != nil || x.t.op == opScores || x.t.op == opProbs {
		return nil
	}
	if _, ok := x.rowAxes(1); !ok {
		return nil
	}
	t, err := c.matrix(x)
	if err != nil {
		return nil
	}
	return t
}

// vocabulary is the number of rows of the table of token ids.
func (im *importer) vocabulary() int {
	for _, t := range im.terms {
		for _, l := range t.tables {
			if l.stream == graph.StreamIDs {
				return l.entries
			}
		}
	}
	return 0
}

// roles tells logits, hidden states and pooled states of the outputs apart.
func (m *Model) roles(outs []output, vocab int) error {
	var logits, hidden, pooled *term
	for _, o := range outs {
		name := strings.ToLower(o.name)
		isLogits := strings.Contains(name, "logit")
		switch {
		case !o.t.seq && (isLogits || o.t.cols == vocab && o.t.op == opLinear):
			if o.t.cols != vocab || o.t.op != opLinear {
				return &onnx.Error{Reason: fmt.Sprintf("output %q has %d numbers per token and the vocabulary %d: there is no task for that", o.name, o.t.cols, vocab), Err: onnx.ErrUnsupported}
			}
			m.lm, hidden = o.t, o.t.in[0]
		case !o.t.seq && hidden == nil:
			hidden = o.t
		case o.t.seq && (isLogits || o.t.op == opLinear) && logits == nil:
			logits = o.t
		case o.t.seq && pooled == nil:
			pooled = o.t
		}
	}
	if logits == nil {
		logits = pooled
	} else {
		m.logits = true
	}
	if logits != nil && m.lm == nil {
		from, err := m.follow(logits)
		if err != nil {
			return err
		}
		if hidden == nil {
			hidden = from
		} else if hidden != from {
			m.chain, m.logits = nil, false
		}
	}
	if hidden == nil {
		return &onnx.Error{Reason: "no output is a matrix of logits or hidden states", Err: onnx.ErrUnsupported}
	}
	m.hidden = hidden
	return nil
}

// follow goes from the logits back to the hidden states. A layer that runs on
// all tokens, of which one is taken afterwards, belongs to the head as well.
func (m *Model) follow(t *term) (hidden *term, err error) {
	found := false
	for {
		switch t.op {
		case opLinear, opAct:
			m.chain = append(m.chain, t)
		case opSelect, opMean:
			if found {
				return nil, &onnx.Error{Node: t.node, Reason: "rows of rows are taken", Err: onnx.ErrUnsupported}
			}
			if found = true; t.op == opSelect {
				m.pick = t.pick
			}
		default:
			if !found {
				return nil, &onnx.Error{Node: t.node, Reason: "the head is not made of linear layers and activations on a row of each sequence", Err: onnx.ErrUnsupported}
			}
			slices.Reverse(m.chain)
			return t, nil
		}
		t = t.in[0]
	}
}

// configure fills in the configuration. reach bounds the length of sequences.
func (m *Model) configure(vocab, reach int) error {
	c, err := model.ReadConfig(m.ckpt.Dir())
	if err != nil {
		if !errors.Is(err, formats.ErrNotFound) && !errors.Is(err, formats.ErrUnsupported) {
			return err
		}
		c = model.Config{InitializerRange: 0.02, NumLabels: 2, PadTokenID: -1, BOSTokenID: -1}
	}
	limit := reach
	if err == nil {
		limit = min(limit, c.MaxLength)
	}
	c.HiddenSize, c.VocabSize, c.Layers = m.hidden.cols, vocab, 0
	if n := len(m.chain); n > 0 && m.logits {
		c.NumLabels = m.chain[n-1].cols
	}
	used := m.reachable(m.hidden)
	for _, t := range m.terms {
		if !used[t.id] {
			continue
		}
		m.rms = m.rms || t.op == opNorm && t.rms
		if t.op == opAttention {
			c.Layers++
			c.Heads, c.KVHeads, c.HeadDim = t.heads.heads, t.heads.kv, t.heads.dim
			m.causal = m.causal || t.causal
		}
		for _, l := range t.tables {
			switch l.stream {
			case graph.StreamPositions:
				limit = min(limit, l.entries-l.offset)
				c.PositionOffset = l.offset
			case graph.StreamTypes:
				c.TypeVocabSize = l.entries
			}
		}
	}
	c.MaxLength = limit
	if len(c.LabelNames) != c.NumLabels {
		c.LabelNames = nil
	}
	m.config = c
	return nil
}

// reachable marks what t is made of.
func (m *Model) reachable(t *term) []bool {
	used := make([]bool, len(m.terms))
	used[t.id] = true
	for id := t.id; id >= 0; id-- {
		if used[id] {
			for _, x := range m.terms[id].in {
				used[x.id] = true
			}
		}
	}
	return used
}
