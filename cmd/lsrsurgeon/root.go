package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/lsrsurgeon/lsrsurgeon/internal/suggest"
)

const exitHelp = `
Exit status:
  0    done
  1    failed
  3    input refused: malformed, mismatched or not finite
  4    device, memory or disk missing
  64   wrong usage
  130  interrupted, state saved
Any other code is a failure.`

// run executes one command line and returns the exit code. The first
// interrupt cancels the context, which lets a command finish its step and
// save; the second ends the process at once.
func run(args []string, in io.Reader, out, errw io.Writer) int {
	a := newApp(in, out, errw)
	data := a.out.(*results)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	sig := make(chan os.Signal, 2)
	signal.Notify(sig, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(sig)
	go func() {
		if _, ok := <-sig; !ok {
			return
		}
		a.note("interrupted: finishing the step (once more to stop at once)")
		cancel()
		<-sig
		os.Exit(exitInterrupted)
	}()

	root := newRoot(a)
	root.SetArgs(joinInit(args))
	root.SetIn(in)
	root.SetOut(data)
	root.SetErr(errw)
	if err := root.ExecuteContext(ctx); err != nil {
		return a.report(flagRules(err))
	}
	if data.err != nil {
		return a.report(data.err)
	}
	return exitOK
}

func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "lsrsurgeon",
		Short: "Put adapters into pretrained models, train them, merge them back",
		Long: `lsrsurgeon opens a safetensors or ONNX checkpoint, puts low-separation-rank
(LSR), LoRA or further adapters on its linear layers, trains them, and merges
them back: one binary, no Python.` + "\n" + exitHelp,
		Example: `  lsrsurgeon demo
  lsrsurgeon inspect param-counts MODEL --method lsr --rank 2x2 --terms 16 --target query,value
  lsrsurgeon inject MODEL -o adapter --method lsr --rank 2x2 --terms 16 --target query,value
  lsrsurgeon train adapter -o run --task mrpc --data glue/MRPC
  lsrsurgeon merge run -o merged --check`,
		SilenceUsage:     true,
		SilenceErrors:    true,
		Args:             cobra.ArbitraryArgs,
		RunE:             parent,
		PersistentPreRun: func(cmd *cobra.Command, _ []string) { a.cmd = cmd },
	}
	f := root.PersistentFlags()
	f.BoolVar(&a.json, "json", false, "print one JSON document on stdout")
	f.BoolVarP(&a.quiet, "quiet", "q", false, "print only results, warnings and errors")
	f.BoolVarP(&a.verbose, "verbose", "v", false, "print details on stderr")
	f.BoolVar(&a.noProgress, "no-progress", false, "no progress bar or progress lines")
	f.BoolVar(&a.force, "force", false, "replace an existing output")
	root.SetFlagErrorFunc(flagError)
	root.CompletionOptions.DisableDefaultCmd = false
	root.AddCommand(
		newInspect(a), newInject(a), newEstimate(a), newTrain(a), newEval(a), newPredict(a), newMerge(a), newUnmerge(a), newVerify(a), newConvert(a), newExtract(a), newCombine(a), newDiff(a), newCompare(a), newRunRecipe(a), newStudy(a), newBench(a), newDoctor(a), newDemo(a), newVersion(a),
	)
	root.InitDefaultCompletionCmd()
	root.InitDefaultHelpCmd()
	for _, c := range root.Commands() {
		switch c.Name() { // an unknown shell or topic is a mistake
		case "completion":
			c.Args, c.RunE = cobra.ArbitraryArgs, parent
		case "help":
			c.Run, c.RunE = nil, helpOn
		}
	}
	return root
}

// helpOn shows the help of the command that args name.
func helpOn(cmd *cobra.Command, args []string) error {
	c, rest, err := cmd.Root().Find(args)
	switch {
	case err != nil:
		return err
	case len(rest) > 0:
		return parent(c, rest)
	}
	c.InitDefaultHelpFlag()
	return c.Help()
}

// flagRules turns cobra's own errors about required and exclusive flags, which
// have no type, into usage errors.
func flagRules(err error) error {
	for _, start := range []string{"required flag(s)", "if any flags in the group", "at least one of the flags in the group"} {
		if strings.HasPrefix(err.Error(), start) {
			return &usageError{msg: err.Error()}
		}
	}
	return err
}

// parent is the RunE of commands that only group others: without an argument
// it shows help, with one it fails and suggests. Cobra itself would print
// help and exit 0 for a mistyped subcommand.
func parent(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return cmd.Help()
	}
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	err := &usageError{msg: "unknown command \"" + args[0] + "\" for \"" + cmd.CommandPath() + "\""}
	if near := suggest.Nearest(args[0], names, 3); len(near) > 0 {
		err.hint = "did you mean " + strings.Join(near, ", ") + "?"
	} else {
		err.hint = "commands: " + strings.Join(names, ", ")
	}
	return err
}

// exactArgs demands the named positional arguments.
func exactArgs(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < len(names) {
			return &usageError{msg: cmd.CommandPath() + " needs " + strings.Join(names[len(args):], " and "), hint: "usage: " + cmd.UseLine()}
		}
		if len(args) > len(names) {
			return &usageError{msg: "unexpected argument \"" + args[len(names)] + "\"", hint: "usage: " + cmd.UseLine()}
		}
		return nil
	}
}

// minArgs demands at least n positional arguments.
func minArgs(n int, name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < n {
			return &usageError{msg: cmd.CommandPath() + " needs " + name, hint: "usage: " + cmd.UseLine()}
		}
		return nil
	}
}

// flagError turns pflag's messages into usage errors with near flag names.
func flagError(cmd *cobra.Command, err error) error {
	if args := cmd.Flags().Args(); cmd.HasSubCommands() && len(args) > 0 {
		return parent(cmd, args) // a mistyped command does not know its flags
	}
	u := &usageError{msg: wrongNumber.ReplaceAllStringFunc(err.Error(), plainNumber), hint: "see " + cmd.CommandPath() + " --help"}
	_, name, ok := strings.Cut(err.Error(), "unknown flag: --")
	if !ok {
		return u
	}
	if near := suggest.Nearest(name, flagNames(cmd), 3); len(near) > 0 {
		for i := range near {
			near[i] = "--" + near[i]
		}
		u.hint = "did you mean " + strings.Join(near, ", ") + "?"
	}
	return u
}

// wrongNumber is what strconv says about the value of a flag.
var wrongNumber = regexp.MustCompile(`strconv\.Parse(\w+): parsing .*$`)

// plainNumber says the same in the words of this program.
func plainNumber(s string) string {
	if strings.HasSuffix(s, "out of range") {
		return "the number is out of range"
	}
	switch wrongNumber.FindStringSubmatch(s)[1] {
	case "Int", "Uint":
		return "want a whole number"
	case "Bool":
		return "want true or false"
	}
	return "want a number"
}
