package recipe

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Journal is what is known of steps that ran before, so that they need not run again.
type Journal struct {
	Schema int `json:"schema"`
	// Tool is the version of the program that wrote it last.
	Tool string `json:"tool"`
	// Steps are the steps by their Key.
	Steps map[string]*Entry `json:"steps"`
}

// Entry is a step that was begun.
type Entry struct {
	Name    string `json:"name"`
	Command string `json:"command"` // as ShellLine writes it
	// Done says that it ended well. What it wrote is whole then.
	Done bool `json:"done"`
	// Inputs and Outputs are its files and directories. Outputs have no sums before it
	// is done.
	Inputs  map[string]Sum `json:"inputs"`
	Outputs map[string]Sum `json:"outputs"`
	Seconds float64        `json:"seconds"`
}

// Sum identifies the contents of a file or directory.
type Sum struct {
	Contents string `json:"contents"`
	// Stat are the sizes and times of modification: while they are the same, the
	// contents are not read again.
	Stat string `json:"stat"`
}

const journalSchema = 1

// NewJournal is an empty one.
func NewJournal() *Journal { return &Journal{Schema: journalSchema, Steps: map[string]*Entry{}} }

// ReadJournal decodes what Encode wrote.
func ReadJournal(text []byte) (*Journal, error) {
	j := NewJournal()
	j.Schema = 0
	if err := json.Unmarshal(text, j); err != nil {
		return nil, err
	}
	if j.Schema != journalSchema {
		return nil, fmt.Errorf("schema %d, but this program reads %d", j.Schema, journalSchema)
	}
	for k, e := range j.Steps {
		if e == nil {
			return nil, errors.New("step " + k + " is empty")
		}
	}
	return j, nil
}

// Encode is the journal as JSON.
func (j *Journal) Encode() ([]byte, error) {
	b, err := json.MarshalIndent(j, "", "  ")
	return append(b, '\n'), err
}

// Begin notes that a step starts, in the place of all that wrote to its outputs before.
func (j *Journal) Begin(key string, e *Entry) {
	maps.DeleteFunc(j.Steps, func(_ string, old *Entry) bool {
		for out := range old.Outputs {
			if _, ok := e.Outputs[out]; ok {
				return true
			}
		}
		return false
	})
	j.Steps[key] = e
}

// Wrote says whether a step that is known has this output.
func (j *Journal) Wrote(output string) bool {
	for _, e := range j.Steps {
		if _, ok := e.Outputs[output]; ok {
			return true
		}
	}
	return false
}

// Key is the hash of what a step does: its command line, without the flags that say
// nothing about its results, and where its output goes. Its name is no part of it.
func (s *Step) Key(isBool, resultFree func(flag string) bool) string {
	cut := *s
	cut.Flags = slices.DeleteFunc(slices.Clone(s.Flags), func(f Flag) bool { return resultFree(f.Name.Value) })
	slices.SortStableFunc(cut.Flags, func(x, y Flag) int { return strings.Compare(x.Name.Value, y.Name.Value) })
	sum := sha256.Sum256([]byte(ShellLine(append(cut.Words(isBool), ">", s.Stdout.Value))))
	return hex.EncodeToString(sum[:16])
}
