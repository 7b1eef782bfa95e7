package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/model"
)

type countsOptions struct {
	adapterFlags
	by string
}

func newInspectCounts(a *app) *cobra.Command {
	o := &countsOptions{}
	c := &cobra.Command{
		Use:   "param-counts MODEL|ADAPTER",
		Short: "Count parameters, and what an adapter would cost",
		Long: `Counts the parameters of a checkpoint per layer, per kind of module and in
total, from the headers alone. With --method, --rank or --target it also
says what that adapter would train, beside the other methods on the same
layers. Tied weights are counted once.`,
		Example: `  lsrsurgeon inspect param-counts MODEL
  lsrsurgeon inspect param-counts MODEL --method lsr --rank 2x2 --terms 16 --target query,value
  lsrsurgeon inspect param-counts ADAPTER --json`,
		Args: exactArgs("MODEL or ADAPTER"),
		PreRunE: func(cmd *cobra.Command, _ []string) error {
			o.set = changed(cmd)
			_, err := o.config(nil)
			return err
		},
		RunE: func(_ *cobra.Command, args []string) error { return runCounts(a, args[0], o) },
	}
	o.add(c)
	enumFlag(c, &o.by, "by", "grouping of the table", "layer", "module", "kind")
	return c
}

// group is a line of the count table.
type group struct {
	Name       string `json:"name"`
	Tensors    int    `json:"tensors"`
	Parameters int64  `json:"parameters"`
	Bytes      int64  `json:"bytes"`
	Trainable  int64  `json:"trainable"`
}

// cost is what one method would train on the targeted layers.
type cost struct {
	Method    string       `json:"method"`
	Settings  string       `json:"settings"`
	Modules   int          `json:"modules"`
	Trainable int64        `json:"trainable"`
	Percent   float64      `json:"percent"` // of base and adapter together, as PEFT prints it
	PerModule []moduleCost `json:"per_module,omitempty"`
	Problem   string       `json:"problem,omitempty"`
}

type moduleCost struct {
	Module     string `json:"module"`
	In         int    `json:"in"`
	Out        int    `json:"out"`
	Parameters int64  `json:"parameters"`
}

type countsReport struct {
	Schema     int        `json:"schema"`
	Path       string     `json:"path"`
	Family     string     `json:"family,omitempty"`
	Tensors    int        `json:"tensors"`
	Parameters int64      `json:"parameters"`
	Bytes      int64      `json:"bytes"`
	Trainable  int64      `json:"trainable"`
	Frozen     int64      `json:"frozen"`
	Tied       [][]string `json:"tied,omitempty"`
	ByLayer    []group    `json:"by_layer"`
	ByModule   []group    `json:"by_module"`
	ByKind     []group    `json:"by_kind"`
	Targets    []string   `json:"targets,omitempty"`
	Cost       *cost      `json:"adapter,omitempty"`
	Compare    []cost     `json:"compare,omitempty"`
}

func runCounts(a *app, path string, o *countsOptions) error {
	r, err := countsOf(a, path, o)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(r)
	}
	r.print(a, o.by)
	return nil
}

// countsOf counts a model or an adapter.
func countsOf(a *app, path string, o *countsOptions) (*countsReport, error) {
	ck, err := a.open(path)
	if err != nil {
		return nil, err
	}
	defer ck.Close()
	r := &countsReport{Schema: schemaVersion, Path: path}
	isAdapter := filepath.Base(ck.Files()[0].Path) == formats.AdapterFile
	if !isAdapter {
		if r.Tied, err = tiedNames(ck, r); err != nil {
			return nil, err
		}
	}
	countTensors(ck, r, isAdapter)
	if !o.wanted() {
		return r, nil
	}
	if isAdapter {
		return nil, usagef("%s is an adapter: --method, --rank and --target ask what an adapter on a model would cost", path)
	}
	return r, countCosts(ck, r, o)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// tiedNames returns the groups of names that are one tensor, for known
// families; others have none that could be known.
func tiedNames(ck *formats.Checkpoint, r *countsReport) ([][]string, error) {
	if !exists(filepath.Join(ck.Dir(), "config.json")) {
		return nil, nil
	}
	m, err := model.Open(ck)
	if err != nil {
		return nil, nil // an unknown family is counted all the same
	}
	r.Family = m.Family()
	return m.Tied()
}

var layerPart = regexp.MustCompile(`(?:^|\.)((?:[A-Za-z_]+\.)?\d+)(?:\.|$)`)

// countTensors fills the totals and groups.
func countTensors(ck *formats.Checkpoint, r *countsReport, trainable bool) {
	skip := map[string]bool{}
	for _, g := range r.Tied {
		for _, n := range g[1:] {
			skip[n] = true // counted under the first name
		}
	}
	var byLayer, byModule, byKind groups
	for _, t := range ck.Tensors() {
		if skip[t.Name] {
			continue
		}
		n := t.Elements()
		r.Tensors++
		r.Parameters += n
		r.Bytes += t.Bytes
		tr := int64(0)
		if trainable {
			tr = n
			r.Trainable += n
		}
		module, leaf := moduleOf(t.Name)
		layer := "other"
		if m := layerPart.FindStringSubmatch(t.Name); m != nil {
			layer = m[1]
		}
		last := module[strings.LastIndexByte(module, '.')+1:]
		if last == "" {
			last = leaf
		}
		byLayer.add(layer, n, t.Bytes, tr)
		byModule.add(last, n, t.Bytes, tr)
		byKind.add(kindOf(last, leaf, t.Shape), n, t.Bytes, tr)
	}
	r.Frozen = r.Parameters - r.Trainable
	r.ByLayer, r.ByModule, r.ByKind = byLayer.list, byModule.list, byKind.list
}

// groups collects groups in the order of first use.
type groups struct {
	list []group
	at   map[string]int
}

func (g *groups) add(name string, n, bytes, trainable int64) {
	if g.at == nil {
		g.at = map[string]int{}
	}
	i, ok := g.at[name]
	if !ok {
		i = len(g.list)
		g.at[name] = i
		g.list = append(g.list, group{Name: name})
	}
	x := &g.list[i]
	x.Tensors++
	x.Parameters += n
	x.Bytes += bytes
	x.Trainable += trainable
}

var (
	normName  = regexp.MustCompile(`(?i)norm|^ln_|_ln$|^ln$`)
	embedName = regexp.MustCompile(`(?i)embed|^wte$|^wpe$`)
)

// kindOf sorts a tensor into embedding, linear, norm, bias or other.
func kindOf(module, leaf string, shape []int) string {
	switch {
	case normName.MatchString(module):
		return "norm"
	case embedName.MatchString(module):
		return "embedding"
	case leaf == "bias":
		return "bias"
	case len(shape) == 2:
		return "linear"
	}
	return "other"
}

// countCosts plans the wanted adapter and the others on the same layers.
func countCosts(ck *formats.Checkpoint, r *countsReport, o *countsOptions) error {
	sites, _, err := model.SitesOf(ck)
	if err != nil {
		return err
	}
	cfg, err := o.config(sites)
	if err != nil {
		return err
	}
	mods, err := adapter.Plan(sites, cfg)
	if err != nil {
		return err
	}
	r.Targets = targetNames(cfg.Targets)
	c := costOf(cfg, mods, r.Parameters)
	for _, m := range mods {
		c.PerModule = append(c.PerModule, moduleCost{m.Module, m.In, m.Out, adapter.ParamCount([]adapter.Module{m})})
	}
	r.Cost = &c
	r.Compare = append(r.Compare, costOf(cfg, mods, r.Parameters))
	for _, method := range adapter.Methods() {
		if method == cfg.Method {
			continue
		}
		other := cfg
		if other.Settings, err = adapter.Defaults(method, adapter.InitZero); err != nil {
			return err
		}
		other.Overrides = nil
		if adapter.OnBlocks(method) != adapter.OnBlocks(cfg.Method) {
			other.Targets = methodTargets(method, sites)
			other.Targets.Layers = cfg.Targets.Layers
		}
		mods, err := adapter.Plan(sites, other)
		if err != nil { // this method does not fit these layers: say so in its line
			r.Compare = append(r.Compare, cost{Method: method, Settings: settingsText(other.Settings), Problem: err.Error()})
			continue
		}
		r.Compare = append(r.Compare, costOf(other, mods, r.Parameters))
	}
	sort.SliceStable(r.Compare, func(i, j int) bool { return r.Compare[i].Trainable < r.Compare[j].Trainable })
	return nil
}

func costOf(cfg adapter.Config, mods []adapter.Module, base int64) cost {
	n := adapter.ParamCount(mods)
	return cost{Method: cfg.Method, Settings: settingsText(cfg.Settings), Modules: len(mods), Trainable: n, Percent: 100 * float64(n) / float64(base+n)}
}

// settingsText is what distinguishes a method's size: "r=2x2 s=16".
func settingsText(s adapter.Settings) string {
	switch s.Method {
	case adapter.MethodLSR, adapter.MethodLSRDoRA:
		return fmt.Sprintf("r=%v s=%d", s.Rank, s.Terms)
	case adapter.MethodGraLoRA:
		if s.HybridRank > 0 {
			return fmt.Sprintf("r=%v+%d k=%d", s.Rank, s.HybridRank, s.Terms)
		}
		return fmt.Sprintf("r=%v k=%d", s.Rank, s.Terms)
	case adapter.MethodLoR2C, adapter.MethodShareLoR2C:
		if s.Terms > 1 {
			return fmt.Sprintf("r=%v blocks=%d", s.Rank, s.Terms)
		}
	case adapter.MethodKronA, adapter.MethodKAdaptation:
		return fmt.Sprintf("terms=%d", s.Terms)
	}
	return fmt.Sprintf("r=%v", s.Rank)
}

func targetNames(t adapter.Targets) []string {
	switch {
	case t.AllLinear:
		return []string{"all-linear"}
	case t.Regex != "":
		return []string{t.Regex}
	}
	return t.Modules
}

func (r *countsReport) print(a *app, by string) {
	rows := map[string][]group{"layer": r.ByLayer, "module": r.ByModule, "kind": r.ByKind}[by]
	t := newTable(by, ">tensors", ">parameters", ">bytes")
	for _, g := range rows {
		t.add(g.Name, strconv.Itoa(g.Tensors), commas(g.Parameters), bytesText(g.Bytes))
	}
	t.add("total", strconv.Itoa(r.Tensors), commas(r.Parameters), bytesText(r.Bytes))
	t.write(a.out, a.outTTY)
	if len(r.Tied) > 0 {
		for _, g := range r.Tied {
			fmt.Fprintf(a.out, "tied, counted once: %s\n", strings.Join(g, " = "))
		}
	}
	if r.Trainable > 0 {
		fmt.Fprintf(a.out, "trainable params: %s || all params: %s || trainable%%: %.4f\n", commas(r.Trainable), commas(r.Parameters), 100*float64(r.Trainable)/float64(max(r.Parameters, 1)))
	}
	if r.Cost == nil {
		return
	}
	fmt.Fprintf(a.out, "\nadapter on %s: %d modules\n", strings.Join(r.Targets, ","), r.Cost.Modules)
	if !a.brief {
		t = newTable("module", ">in", ">out", ">parameters")
		for _, m := range r.Cost.PerModule {
			t.add(m.Module, strconv.Itoa(m.In), strconv.Itoa(m.Out), commas(m.Parameters))
		}
		t.write(a.out, a.outTTY)
		fmt.Fprintln(a.out)
	}
	t = newTable("method", "settings", ">trainable", ">trainable%")
	for _, c := range r.Compare {
		if c.Problem != "" {
			t.add(c.Method, c.Settings, "-", c.Problem)
			continue
		}
		t.add(c.Method, c.Settings, commas(c.Trainable), fmt.Sprintf("%.4f", c.Percent))
	}
	t.write(a.out, a.outTTY)
}
