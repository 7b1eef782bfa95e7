package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/lsrsurgeon/lsrsurgeon/internal/suggest"
)

// enumFlag declares an enum flag on cmd with its first value as default.
func enumFlag(cmd *cobra.Command, dst *string, name, usage string, valid ...string) {
	*dst = valid[0]
	cmd.Flags().Var(&enumValue{dst: dst, valid: valid}, name, usage+" ("+strings.Join(valid, "|")+")")
	must(cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(valid, cobra.ShellCompDirectiveNoFileComp)))
}

type enumValue struct {
	dst   *string
	valid []string
}

func (e *enumValue) String() string {
	if e.dst == nil {
		return ""
	}
	return *e.dst
}

func (e *enumValue) Type() string { return "string" }

func (e *enumValue) Set(s string) error {
	for _, v := range e.valid {
		if s == v {
			*e.dst = s
			return nil
		}
	}
	near := ""
	if n := suggest.Nearest(s, e.valid, 1); len(n) > 0 {
		near = "; did you mean " + n[0] + "?"
	}
	return usagef("valid values are %s%s", strings.Join(e.valid, ", "), near)
}

// must turns an error that only a mistake in this package can cause into a
// panic at start-up, where every test sees it.
func must(err error) {
	if err != nil {
		panic(err)
	}
}
