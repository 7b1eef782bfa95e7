// Package layers holds the rule of the architecture as a test: who may import whom.
package layers

import (
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/internal/testkit"
)

const module = "github.com/lsrsurgeon/lsrsurgeon/"

// allowed lists, per package, the packages of this module that it may import.
// docs/ARCHITECTURE.md says what each owns. A new import that is not here
// either belongs elsewhere or is a decision to write down.
var allowed = map[string]string{
	"tensor":                     "",
	"internal/atomicfile":        "",
	"internal/suggest":           "",
	"internal/testkit":           "",
	"internal/layers":            "internal/testkit",
	"internal/kernel":            "tensor",
	"internal/kernel/kerneltest": "internal/kernel internal/testkit",
	"formats":                    "tensor formats/safetensors internal/atomicfile formats/onnx formats/gguf",
	"formats/safetensors":        "tensor",
	"text":                       "",
	"manifest":                   "formats tensor internal/atomicfile",
	"kron":                       "tensor internal/kernel",
	"graph":                      "tensor",
	"graph/philox":               "",
	"recipe":                     "internal/suggest",
	"graph/reference":            "graph graph/philox tensor",
	"graph/enginetest":           "graph graph/reference",
	"task":                       "text tensor internal/suggest",
	"adapter":                    "kron graph formats formats/safetensors tensor internal/atomicfile internal/suggest internal/kernel graph/philox manifest",
	"engine/cpu":                 "graph kron internal/kernel tensor",
	"engine/cuda":                "graph graph/philox",
	"engine/cuda/standin":        "",
	"bench/cuda/standin":         "engine/cuda/standin",
	"bench/cuda/report":          "",
	"bench/emulated/init":        "",
	"model":                      "adapter graph formats tensor internal/suggest formats/onnx",
	"onnxmodel":                  "adapter graph kron model formats formats/onnx tensor internal/atomicfile",
	"merge":                      "adapter manifest formats formats/safetensors internal/atomicfile internal/kernel tensor formats/onnx",
	"decompose":                  "adapter kron formats internal/kernel tensor internal/atomicfile",
	"train":                      "model adapter task graph formats tensor internal/atomicfile text",
	"internal/synthetic":         "formats formats/safetensors graph tensor",
	"bench/peers":                "",
	"formats/onnx":               "tensor",
	"formats/gguf":               "tensor",
	"convert":                    "adapter formats formats/gguf formats/safetensors graph internal/atomicfile internal/suggest model tensor text",
	"cmd/lsrsurgeon":             "*",
}

// noEngine are the packages that must work where no engine is present, even
// through what they import.
var noEngine = []string{"merge", "adapter", "model", "decompose", "formats"}

type pkg struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

func list(t *testing.T) map[string]pkg {
	t.Helper()
	c := exec.Command("go", "list", "-json=ImportPath,Imports,Deps", "./...")
	c.Dir = testkit.RepoRoot(t)
	out, err := c.Output()
	if err != nil {
		t.Fatal(err)
	}
	pkgs := map[string]pkg{}
	for d := json.NewDecoder(strings.NewReader(string(out))); d.More(); {
		var p pkg
		if err := d.Decode(&p); err != nil {
			t.Fatal(err)
		}
		pkgs[strings.TrimPrefix(p.ImportPath, module)] = p
	}
	return pkgs
}

func TestImportsGoDown(t *testing.T) {
	for name, p := range list(t) {
		if strings.HasPrefix(name, "testdata/") {
			continue
		}
		rule, ok := allowed[name]
		if !ok {
			t.Errorf("package %s has no rule: add it to the table and to docs/ARCHITECTURE.md", name)
			continue
		}
		if rule == "*" {
			continue
		}
		may := strings.Fields(rule)
		for _, i := range p.Imports {
			dep, ours := strings.CutPrefix(i, module)
			if ours && !slices.Contains(may, dep) {
				t.Errorf("%s imports %s, which its layer does not allow (%s)", name, dep, rule)
			}
		}
	}
}

func TestNoEngineBelow(t *testing.T) {
	pkgs := list(t)
	for _, name := range noEngine {
		p, ok := pkgs[name]
		if !ok {
			t.Errorf("package %s is missing", name)
		}
		for _, d := range p.Deps {
			if strings.HasPrefix(d, module+"engine/") {
				t.Errorf("%s depends on %s: surgery must work where no engine does", name, d)
			}
		}
	}
}
