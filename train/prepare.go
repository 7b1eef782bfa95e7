package train

import (
	"slices"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/model"
	"github.com/lsrsurgeon/lsrsurgeon/task"
)

// Base is a model that programs are made of: a checkpoint of a known family, or an
// imported graph.
type Base interface {
	Config() model.Config
	Build(model.BuildOptions) (*model.Built, error)
}

// Prepare builds the programs of a task and what saves the adapter. The caller
// adds the engine and the data.
//
// Of o, the choices about head, pooling, dropout and seed count; the rest
// follows from the task. a itself is not changed by training.
func Prepare(m Base, a *adapter.Adapter, spec task.Spec, o model.BuildOptions) (Job, error) {
	j := Job{Spec: spec}
	o = buildOptions(a, spec, o)
	o.Train = true
	built, err := m.Build(o)
	if err != nil {
		return j, err
	}
	j.Train = netOf(built)
	if j.Eval, err = EvalNet(m, a, spec, o); err != nil {
		return j, err
	}
	program := built.Program
	j.Save = func(dir string, params []float32) error {
		trained := copyAdapter(a)
		model.ReadParams(program, params, trained)
		if len(built.Head) > 0 && !built.HeadTrained { // a frozen head was drawn once: the adapter means nothing without it
			trained.Head = built.Head
		}
		if trained.TaskType == "" {
			trained.TaskType = taskType(spec.Kind)
		}
		return trained.Save(dir, false)
	}
	return j, nil
}

// EvalNet builds the program that evaluates a model, with an adapter or, where
// a is nil, as it is. Of o the same choices count as in Prepare.
func EvalNet(m Base, a *adapter.Adapter, spec task.Spec, o model.BuildOptions) (Net, error) {
	o = buildOptions(a, spec, o)
	o.Train, o.Loss = false, spec.Kind == task.LM
	built, err := m.Build(o)
	if err != nil {
		return Net{}, err
	}
	return netOf(built), nil
}

func buildOptions(a *adapter.Adapter, spec task.Spec, o model.BuildOptions) model.BuildOptions {
	o.Adapter, o.NumLabels = a, spec.Outputs()
	o.Task = [...]model.Task{task.Classification: model.TaskClassification, task.Regression: model.TaskRegression, task.LM: model.TaskLM}[spec.Kind]
	return o
}

func taskType(k task.Kind) string {
	if k == task.LM {
		return "CAUSAL_LM"
	}
	return "SEQ_CLS"
}

func netOf(b *model.Built) Net {
	return Net{Program: b.Program, Weights: b.Weights, Params: b.Params, Logits: b.Logits}
}

// copyAdapter copies what ReadParams changes.
func copyAdapter(a *adapter.Adapter) *adapter.Adapter {
	c := *a
	c.Modules = slices.Clone(a.Modules)
	for i := range c.Modules {
		c.Modules[i].Tensors = slices.Clone(c.Modules[i].Tensors)
	}
	c.Head = slices.Clone(a.Head)
	return &c
}
