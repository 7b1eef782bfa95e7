package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestReport(t *testing.T) {
	dir := t.TempDir()
	steps, peers := filepath.Join(dir, "steps.jsonl"), filepath.Join(dir, "peers.jsonl")
	write := func(path, text string) {
		if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	run := func() string {
		s, err := read[step](steps)
		if err != nil {
			t.Fatal(err)
		}
		p, err := read[peer](peers)
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		if err := report(&b, s, p); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	if got := run(); strings.Count(got, "not measured") != 4 {
		t.Errorf("without figures:\n%s", got)
	}
	write(steps, `{"model":"roberta-base/256","method":"lsr","precision":"bf16","products":"cuBLASLt","tokens_per_second":300,"peak_mib":90,"kronecker_share":0.02,"utilisation":0.4}
{"model":"roberta-base/256","method":"lsr","precision":"bf16","products":"own kernels","tokens_per_second":200,"peak_mib":80}
`)
	write(peers, `{"model":"roberta-base/256","mode":"eager","tokens_per_second":150,"peak_mib":100,"device":"cuda"}
{"model":"roberta-base/256","mode":"compile","tokens_per_second":320}
`)
	got := run()
	for _, want := range []string{"met           at least 1.5 times PyTorch eager: 2.000", "MISSED        at least 1.0 of torch.compile: 0.938",
		"MISSED        at most 0.6 of the memory of PyTorch eager: 0.900", "MISSED        Kronecker operations below 0.01 of a step: 0.020", "40.0 %"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing in\n%s", want, got)
		}
	}
	text, err := os.ReadFile(steps)
	if err != nil {
		t.Fatal(err)
	}
	write(steps, strings.ReplaceAll(string(text), `{"model"`, `{"device":"fibre shim","model"`))
	if got := run(); strings.Count(got, "not measured") != 4 {
		t.Errorf("on the stand-in:\n%s", got)
	}
	write(peers, "Traceback\n")
	if _, err := read[peer](peers); err == nil || !strings.Contains(err.Error(), "Traceback") {
		t.Errorf("a line that is no JSON: %v", err)
	}
}
