package adapter

import (
	"fmt"
	"slices"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/internal/suggest"
)

// ParamSpec describes one trainable tensor of a module.
type ParamSpec struct {
	Name  string // in the adapter file, and of the graph parameter
	Shape []int
	// Shared says that modules with the same Name hold one tensor.
	Shared bool
	// Frozen says that training leaves the tensor as it is. It is no parameter:
	// Lower gets [graph.None] for it and reads it as a weight of that name.
	Frozen bool
}

// Size is the number of elements.
func (p ParamSpec) Size() int {
	n := 1
	for _, d := range p.Shape {
		n *= d
	}
	return n
}

// Kind is a parametrisation of an update. Implementations have no state.
type Kind interface {
	// Method is the name on the command line.
	Method() string
	// PEFTType is the value of peft_type in the configuration.
	PEFTType() string
	// Defaults returns rank, terms and alpha unless told otherwise.
	Defaults() Settings
	// Params returns the tensors of a module, which is also what an adapter
	// costs before it is made. The order is that of all tensors slices.
	Params(Site, Settings) ([]ParamSpec, error)
	// Init returns starting values in the order of Params. w is used by InitSVD,
	// InitPiSSA, InitOLoRA and by dora, and may be nil otherwise.
	Init(Site, Settings, Source, WeightReader) ([][]float32, error)
	// Lower adds y + scale·x ΔW to the program and returns it. params are the
	// values of Params in order, each a matrix of its first dimension by the
	// others. x (n, in) has had dropout, if any; y (n, out).
	Lower(b *graph.Builder, x, y graph.Value, site Site, s Settings, params []graph.Value) graph.Value
	// Delta returns ΔW with its scale, or an error that wraps ErrNoDelta where the
	// update is not W + ΔW.
	Delta(Site, Settings, [][]float32) (*Delta, error)
}

// The methods.
const (
	MethodLSR         = "lsr"
	MethodLoRA        = "lora"
	MethodKronA       = "krona"
	MethodKAdaptation = "kadaptation"
	MethodDoRA        = "dora"
	MethodLSRDoRA     = "lsr-dora"
	MethodGraLoRA     = "gralora"
	MethodDiffoRA     = "diffora"
	MethodLoR2C       = "lor2c"
	MethodShareLoR2C  = "sharelor2c"
)

// kinds in the order that listings show.
var kinds = []Kind{
	lsr{}, lora{}, krona{}, kadaptation{},
	dora{inner: lora{}, method: MethodDoRA, peftType: "LORA", suffix: "lora_magnitude_vector"},
	dora{inner: lsr{}, method: MethodLSRDoRA, peftType: "LSR_DORA", suffix: "lsr_magnitude"},
	gralora{}, diffora{}, lor2c{}, lor2c{share: true},
}

// Methods returns the names of all kinds.
func Methods() []string {
	names := make([]string, len(kinds))
	for i, k := range kinds {
		names[i] = k.Method()
	}
	return names
}

// Lookup returns the kind of a method. An unknown one is an error with near
// names.
func Lookup(method string) (Kind, error) {
	i := slices.IndexFunc(kinds, func(k Kind) bool { return k.Method() == method })
	if i < 0 {
		return nil, fmt.Errorf("unknown adapter method %q: there are %s%s", method, suggest.Or(Methods()), suggest.DidYouMean(method, Methods()))
	}
	return kinds[i], nil
}

// filePrefix stands before module paths in adapter files, as in PEFT.
const filePrefix = "base_model.model."

// tensorName is the name of a module's tensor in the adapter file.
func (s Site) tensorName(suffix string) string { return filePrefix + s.Module + "." + suffix }

// typicalTokens is the number of tokens of a step for which Lower chooses
// between forms: 16 sequences of 128.
const typicalTokens = 2048

// zeros returns one zeroed slice for each spec.
func zeros(specs []ParamSpec) [][]float32 {
	t := make([][]float32, len(specs))
	for i, s := range specs {
		t[i] = make([]float32, s.Size())
	}
	return t
}
