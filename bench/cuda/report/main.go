// Command report puts the steps of this engine beside those of PyTorch:
//
//	go run ./bench/cuda/report STEPS PEERS
//
// STEPS is what BenchmarkStep writes with -steps, PEERS what torch_step.py
// prints; a line of JSON each. It prints a table and the aims with what was
// measured; an aim whose figures are missing is "not measured".
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
)

// step is a measured step of this engine.
type step struct {
	Device, Model, Method, Precision, Products string
	TokensPerSecond                            float64 `json:"tokens_per_second"`
	TFLOPs                                     float64 `json:"tflop_per_second"`
	Utilisation                                float64
	PeakMiB                                    float64 `json:"peak_mib"`
	KronShare                                  float64 `json:"kronecker_share"`
}

// peer is a measured step of PyTorch with PEFT.
type peer struct {
	Model, Mode     string
	TokensPerSecond float64 `json:"tokens_per_second"`
	PeakMiB         float64 `json:"peak_mib"`
	Device          string
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "report: give the file of steps and that of peers")
		os.Exit(64)
	}
	steps, err := read[step](os.Args[1])
	if err == nil {
		var peers []peer
		if peers, err = read[peer](os.Args[2]); err == nil {
			err = report(os.Stdout, steps, peers)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(1)
	}
}

// read reads a file of JSON lines; one that is not there is empty.
func read[T any](path string) ([]T, error) {
	f, err := os.Open(path)
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []T
	for in := bufio.NewScanner(f); in.Scan(); {
		var v T
		if err := json.Unmarshal(in.Bytes(), &v); err != nil {
			return nil, fmt.Errorf("%s: %q: %w", path, in.Text(), err)
		}
		out = append(out, v)
	}
	return out, nil
}

// rate is the tokens per second of a peer, and its memory; 0 where it is missing.
func rate(peers []peer, model, mode string) (tokens, mib float64) {
	for _, p := range peers {
		if p.Model == model && p.Mode == mode {
			return p.TokensPerSecond, p.PeakMiB
		}
	}
	return 0, 0
}

// ratio formats a/b.
func ratio(a, b float64) string {
	if a == 0 || b == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", a/b)
}

func report(out io.Writer, steps []step, peers []peer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "model/sequences\tmethod\tprecision\tproducts\ttokens/s\tof eager\tof compiled\tTFLOP/s\tof peak\tKronecker\tMiB\tof eager's")
	for _, s := range steps {
		eager, mib := rate(peers, s.Model, "eager")
		compiled, _ := rate(peers, s.Model, "compile")
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%.0f\t%s\t%s\t%.1f\t%.1f %%\t%.2f %%\t%.0f\t%s\n", s.Model, s.Method, s.Precision, s.Products, s.TokensPerSecond,
			ratio(s.TokensPerSecond, eager), ratio(s.TokensPerSecond, compiled), s.TFLOPs, 100*s.Utilisation, 100*s.KronShare, s.PeakMiB, ratio(s.PeakMiB, mib))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(out)
	for _, a := range aims(steps, peers) {
		if _, err := fmt.Fprintln(out, a); err != nil {
			return err
		}
	}
	return nil
}

// standIn is the device of a dry run, whose speeds mean nothing.
const standIn = "fibre shim"

// aims says which are met: for RoBERTa-base with LSR in bf16 by the faster
// products, and for the others the largest share.
func aims(steps []step, peers []peer) []string {
	const model = "roberta-base/256"
	var best step
	kron, measured := 0.0, false
	for _, s := range steps {
		if s.Device == standIn {
			continue
		}
		measured = true
		if s.Method == "lsr" {
			kron = max(kron, s.KronShare)
		}
		if s.Model == model && s.Method == "lsr" && s.Precision == "bf16" && s.TokensPerSecond > best.TokensPerSecond {
			best = s
		}
	}
	eager, mib := rate(peers, model, "eager")
	compiled, _ := rate(peers, model, "compile")
	verdict := func(what string, measured bool, value float64, met bool) string {
		switch {
		case !measured:
			return "not measured  " + what
		case met:
			return fmt.Sprintf("met           %s: %.3f", what, value)
		}
		return fmt.Sprintf("MISSED        %s: %.3f", what, value)
	}
	over := func(a, b float64) float64 {
		if b == 0 {
			return 0
		}
		return a / b
	}
	a, b, c := over(best.TokensPerSecond, eager), over(best.TokensPerSecond, compiled), over(best.PeakMiB, mib)
	return []string{
		verdict("at least 1.5 times PyTorch eager", a > 0, a, a >= 1.5),
		verdict("at least 1.0 of torch.compile", b > 0, b, b >= 1),
		verdict("at most 0.6 of the memory of PyTorch eager", c > 0, c, c <= 0.6),
		verdict("Kronecker operations below 0.01 of a step", measured, kron, kron < 0.01),
	}
}
