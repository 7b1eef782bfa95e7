package enginetest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/graph/reference"
)

// The suite run on a second reference engine checks the suite: every case
// builds, validates and runs. With values placed by the plan it also checks
// that: any two lifetimes that meet in memory would show as wrong numbers.
func TestSuiteOnPlannedReference(t *testing.T) {
	Run(t, func(testing.TB) graph.Engine { return reference.NewPlanned() }, Tolerance{Op: 1e-6, Program: 1e-6})
}

func TestInputOnPlannedReference(t *testing.T) {
	RunInput(t, func(testing.TB) graph.Engine { return reference.NewPlanned() }, Tolerance{Op: 1e-6, Program: 1e-6})
}

func TestIdenticalOnReferences(t *testing.T) {
	Identical(t, func(testing.TB) graph.Engine { return reference.New() }, func(testing.TB) graph.Engine { return reference.NewPlanned() })
}

// opTypes are the types of package graph that have a method Inputs.
func opTypes(t *testing.T) map[string]bool {
	files, err := filepath.Glob("../*.go")
	if err != nil {
		t.Fatal(err)
	}
	types := map[string]bool{}
	for _, name := range files {
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Recv == nil || fn.Name.Name != "Inputs" {
				continue
			}
			if star, ok := fn.Recv.List[0].Type.(*ast.StarExpr); ok {
				types[star.X.(*ast.Ident).Name] = true
			}
		}
	}
	return types
}

func TestEveryOperationHasACase(t *testing.T) {
	types := opTypes(t)
	if len(types) < 30 {
		t.Fatalf("found only %d operations", len(types))
	}
	seen := map[string]bool{}
	mark := func(s setup) {
		for _, op := range s.program.Ops {
			seen[reflect.TypeOf(op).Elem().Name()] = true
		}
	}
	// What a forward case is about is its result; the loss after it counts
	// only where it is what is tested.
	for _, c := range append(forwardCases(), inputCases()...) {
		mark(c.forward(variants[0]))
	}
	for _, c := range backwardCases() {
		mark(c.make(variants[0]).finish())
	}
	for name := range types {
		if !seen[name] {
			t.Errorf("operation %s has no case", name)
		}
	}
}
