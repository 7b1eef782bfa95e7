package main

import "github.com/lsrsurgeon/lsrsurgeon/graph"

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

// Size implements graph.Sizer for the engine.
func (p *profiled) Size(g *graph.Program, d graph.Dims) graph.Memory {
	return graph.SizeOf(p.Engine, g, d)
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
