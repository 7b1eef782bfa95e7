package model

import (
	"fmt"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/graph"
)

// Task is what a program computes.
type Task uint8

// The tasks.
const (
	TaskFeatures       Task = iota // hidden states
	TaskClassification             // one of NumLabels classes per sequence
	TaskRegression                 // NumLabels numbers per sequence
	TaskLM                         // the next token
)

func (t Task) String() string {
	return [...]string{"features", "classification", "regression", "language modelling"}[t]
}

// Pool says what a classification head reads of a sequence.
type Pool uint8

// The ways of pooling. PoolDefault is the family's own: BERT's pooler (the
// first token through dense + tanh), RoBERTa's first token, a decoder's last
// token; a BERT checkpoint without pooler falls back to PoolMean.
const (
	PoolDefault Pool = iota
	PoolCLS          // the first token's hidden state, without a pooler
	PoolMean         // the mean of the tokens' hidden states
	PoolLast         // the last token's hidden state
)

// BuildOptions says which program [Model.Build] makes.
type BuildOptions struct {
	Task Task
	// NumLabels is the number of classes or targets; 0 means that of the
	// adapter's or checkpoint's head, else config.json's (regression: 1).
	NumLabels int
	// Adapter holds the modules to put on their sites; nil is the base model.
	Adapter *adapter.Adapter
	// Train adds dropout and the loss; Loss adds the loss alone.
	Train, Loss bool
	// HiddenDropout and AttentionDropout replace config.json's; HiddenDropout
	// also replaces the dropout of embeddings and classifier.
	HiddenDropout, AttentionDropout *float64
	// FreezeHead keeps the classification head as it is.
	FreezeHead bool
	// ResetHead draws the head anew where the checkpoint has one.
	ResetHead bool
	// Seed keys the drawing of a head. 0 means the adapter's seed.
	Seed uint64
	Pool Pool
	// LogitsRows says which tokens' logits a TaskLM program without loss
	// computes: all, the last of each sequence, or Batch.Rows.
	LogitsRows graph.Pick
	// From, if positive, makes a program that begins with the hidden states that
	// enter layer From, read from Batch.Inputs (T, HiddenSize), instead of the
	// embeddings. The adapter may have no module below.
	From int
	// Until, if positive, makes a TaskFeatures program that ends with the hidden
	// states that enter layer Until, in [Built.Hidden], without the final norm.
	// What it computes without dropout is what a program with From = Until takes.
	Until int
	// Projections makes a program with Until compute besides what the frozen
	// query, key and value weights of layer Until (or the one fused weight) make
	// of the hidden states, in [Built.Projections], and one with From expect them
	// after the hidden states in the columns of Batch.Inputs.
	Projections bool
}

// Built is a program and what belongs to it.
type Built struct {
	// Program is the forward pass; graph.Differentiate makes it trainable.
	Program *graph.Program
	// Hidden are the last hidden states after the final norm: a row per token
	// for TaskFeatures, else the rows that the head reads.
	Hidden graph.Value
	// Projections are the products that [BuildOptions.Projections] asks for, (T,
	// width) each.
	Projections []graph.Value
	// Pooled is the row per sequence that the head reads, or None.
	Pooled graph.Value
	// Logits are the head's outputs, None where only the loss exists (TaskLM).
	Logits graph.Value
	// Params are the initial values of the flat parameter buffer.
	Params []float32
	// Weights gives the frozen tensors.
	Weights graph.WeightSource
	// Head are the classification head's tensors as the program starts with
	// them, under their names in a checkpoint.
	Head []adapter.Tensor
	// Drawn names those of them that neither the adapter nor the base model has.
	Drawn []string
	// HeadTrained tells whether they are among the parameters.
	HeadTrained bool
	NumLabels   int
}

// builder carries the state of one Build.
type builder struct {
	*Assembly
	m     *Model
	spans []span

	hiddenDrop, attnDrop, embedDrop, headDrop float32
}

// Build writes the forward program of a task. Adapter modules stand at their
// sites; the layers above the last attention compute only the rows that the
// head reads.
//
// It fails when the family has no such task, when the adapter has a module that
// the program does not reach, or when a head's shape contradicts NumLabels.
func (m *Model) Build(o BuildOptions) (*Built, error) {
	w := &builder{Assembly: NewAssembly(o), m: m}
	if err := w.options(); err != nil {
		return nil, err
	}
	if err := w.forward(); err != nil {
		return nil, err
	}
	w.built.Weights = m.sources.With(w.extra)
	return w.Finish(m.sites)
}

// options checks the options and settles the dropout probabilities.
func (w *builder) options() error {
	m, o := w.m, &w.o
	if o.Task == TaskLM && m.layout.LMHead == "" {
		return fmt.Errorf("%s is not a causal language model: %w", m.config.ModelType, ErrUnsupported)
	}
	if o.Task == TaskFeatures && o.Loss {
		return fmt.Errorf("features have no loss to train on")
	}
	if o.From < 0 || o.From >= m.config.Layers || o.Until < 0 || o.Until >= m.config.Layers {
		return fmt.Errorf("a program from layer %d until layer %d of a model of %d layers: want layers from 1 to %d, or 0 for no cut", o.From, o.Until, m.config.Layers, m.config.Layers-1)
	}
	if o.Until > 0 && (o.Task != TaskFeatures || o.From >= o.Until || o.Pool != PoolDefault) {
		return fmt.Errorf("a program that ends before layer %d gives hidden states alone, and begins below", o.Until)
	}
	if !o.Train {
		return nil
	}
	c := &m.config
	hidden, attn, embed, head := c.HiddenDropout, c.AttentionDropout, c.EmbeddingDropout, c.ClassifierDropout
	if o.HiddenDropout != nil {
		hidden = *o.HiddenDropout
		embed, head = hidden, hidden
		if m.layout.RMS { // Llama and its relatives drop attention weights alone
			hidden, embed = 0, 0
		}
	}
	if o.AttentionDropout != nil {
		attn = *o.AttentionDropout
	}
	for _, p := range []float64{hidden, attn, embed, head} {
		if !(p >= 0 && p < 1) {
			return fmt.Errorf("dropout %v is not a probability in [0, 1)", p)
		}
	}
	w.hiddenDrop, w.attnDrop, w.embedDrop, w.headDrop = float32(hidden), float32(attn), float32(embed), float32(head)
	return nil
}

// forward writes the whole forward pass.
func (w *builder) forward() error {
	pool, rows := w.rows()
	end := w.m.config.Layers
	if w.o.Until > 0 {
		end = w.o.Until
	}
	var x graph.Value
	if w.o.From > 0 {
		x = w.input()
	} else {
		x = w.embed()
	}
	for i := w.o.From; i < end; i++ {
		pick := graph.PickAll
		if i == w.m.config.Layers-1 {
			pick = rows
		}
		var err error
		if err = w.open(i, x); err != nil {
			return err
		}
		if x, err = w.layer(i, x, pick); err != nil {
			return err
		}
		if x, err = w.close(i, x, pick); err != nil {
			return err
		}
	}
	if w.o.Until > 0 {
		w.built.Hidden = x
		w.b.Output(x)
		return w.projectUntil(x)
	}
	if w.m.layout.FinalNorm != "" {
		x = w.norm(w.m.layout.FinalNorm, x)
	}
	w.built.Hidden = x
	switch w.o.Task {
	case TaskLM:
		return w.language(x)
	case TaskFeatures:
		w.b.Output(x)
		if w.o.Pool != PoolDefault {
			w.built.Pooled = w.pool(x, pool, rows)
			w.b.Output(w.built.Pooled)
		}
		return nil
	}
	return w.classify(w.pool(x, pool, rows), pool)
}

// rows settles the pooling and the rows that the last layer computes.
func (w *builder) rows() (Pool, graph.Pick) {
	pool := w.o.Pool
	if pool == PoolDefault && w.m.layout.Pooler != "" {
		if _, ok := w.m.pooler(); !ok {
			pool = PoolMean
		}
	}
	switch w.o.Task {
	case TaskFeatures:
		return pool, graph.PickAll
	case TaskLM:
		if w.o.Loss {
			return pool, graph.PickRows
		}
		return pool, w.o.LogitsRows
	}
	p := pool
	if p == PoolDefault {
		p = w.m.layout.Pool
	}
	switch p {
	case PoolCLS:
		return pool, graph.PickFirst
	case PoolLast:
		return pool, graph.PickLast
	}
	return pool, graph.PickAll
}

// pool reduces hidden states to a row per sequence.
func (w *builder) pool(x graph.Value, pool Pool, rows graph.Pick) graph.Value {
	if pool == PoolDefault {
		pool = w.m.layout.Pool
	}
	if rows != graph.PickAll {
		return x // the last layer has picked already
	}
	switch pool {
	case PoolCLS:
		return w.Pick("first", x, graph.PickFirst)
	case PoolLast:
		return w.Pick("last", x, graph.PickLast)
	}
	return w.b.MeanPool("pooled", x)
}
