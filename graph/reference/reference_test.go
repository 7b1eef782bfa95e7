package reference_test

import (
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/graph/enginetest"
)

func TestGradientsAreFiniteDifferences(t *testing.T) { enginetest.FiniteDifferences(t) }
