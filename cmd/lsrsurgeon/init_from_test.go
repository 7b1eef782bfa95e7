package main

import (
	"slices"
	"testing"
)

func TestJoinInit(t *testing.T) {
	for _, c := range []struct{ in, want []string }{
		{[]string{"inject", "m", "--init", "from-lora", "x", "-o", "a"}, []string{"inject", "m", "--init", "from-lora=x", "-o", "a"}},
		{[]string{"inject", "--init=from-delta", "x", "m"}, []string{"inject", "--init=from-delta=x", "m"}},
		{[]string{"inject", "--init", "from-lora=x", "m"}, []string{"inject", "--init", "from-lora=x", "m"}},
		{[]string{"inject", "m", "--init", "from-lora"}, []string{"inject", "m", "--init", "from-lora"}},
		{[]string{"inject", "m", "--init", "from-lora", "-o", "a"}, []string{"inject", "m", "--init", "from-lora", "-o", "a"}},
		{[]string{"inject", "from-lora", "x", "--init", "zero", "m"}, []string{"inject", "from-lora", "x", "--init", "zero", "m"}},
		{nil, nil},
	} {
		if got := joinInit(c.in); !slices.Equal(got, c.want) {
			t.Errorf("%q became %q, want %q", c.in, got, c.want)
		}
	}
}
