package cuda

import (
	"fmt"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/graph/enginetest"
)

// The orders in which the stand-in runs the threads of a block.
const orders = 3

// TestConformance runs the suite with the threads in every order: in the first
// one all of it, in the others with views and addends, whose kernels are the same.
func TestConformance(t *testing.T) {
	for order := range orders {
		t.Run(fmt.Sprintf("order=%d", order), func(t *testing.T) {
			if testing.Short() && order > 0 {
				t.Skip("with -short the threads run in one order only")
			}
			f := openFake(t)
			f.set(setOrder, int64(order))
			open := f.opener(Options{NoGraphs: order == 1})
			run := enginetest.RunViews
			if order == 0 {
				run = enginetest.Run
			}
			run(t, open, enginetest.Tolerance{})
			t.Run("input", func(t *testing.T) { enginetest.RunInput(t, open, enginetest.Tolerance{}) })
		})
	}
}
