package cuda

import (
	"fmt"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/graph/enginetest"
)

// The orders in which the stand-in runs the threads of a block.
const orders = 3

func TestConformance(t *testing.T) {
	for order := range orders {
		t.Run(fmt.Sprintf("order=%d", order), func(t *testing.T) {
			if testing.Short() && order > 0 {
				t.Skip("with -short the threads run in one order only")
			}
			f := openFake(t)
			f.set(setOrder, int64(order))
			open := f.opener(Options{NoGraphs: order == 1})
			enginetest.Run(t, open, enginetest.Tolerance{})
			t.Run("input", func(t *testing.T) { enginetest.RunInput(t, open, enginetest.Tolerance{}) })
		})
	}
}
